//! Tests of the REST face: requests to the router itself, without sockets.

mod creating;
mod document;
mod reading;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures_util::StreamExt as _;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::access::{Access, Anonymous};
use crate::chat::{Room, RoomOptions};
use crate::directory::Directory;
use crate::service::{Limits, Service};
use shared::security::Secret;
use shared::security::settings::ServerSettings;
use shared::security::tokens::{TokenKey, Tokens};

/// What tests wait for at most; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(30);
const KEY: [u8; 32] = [7; 32];

fn limits() -> Limits {
    Limits {
        max_message_size: 1_000,
        max_batch: 3,
    }
}

/// A service with room for 8 users, 5 of which are there.
fn service() -> Arc<Service> {
    let room = RoomOptions {
        max_readers: 2,
        ..RoomOptions::default()
    };
    Arc::new(Service {
        directory: Arc::new(Directory::in_memory(8)),
        room: Arc::new(Room::new(room)),
        access: access(Anonymous::Admitted),
        limits: limits(),
        observer: Default::default(),
        open_metrics: false,
        draining: Default::default(),
        stop: Default::default(),
    })
}

fn access(anonymous: Anonymous) -> Access {
    let settings = ServerSettings {
        tokens: Some(Tokens::new(vec![key()], None)),
        ..ServerSettings::default()
    };
    Access::new(&settings, anonymous)
}

fn key() -> TokenKey {
    TokenKey::from_secret(Secret::new(KEY.to_vec())).unwrap()
}

fn token(scope: &str) -> String {
    let token = key().token("ada", scope, 4_000_000_000).unwrap();
    format!("Bearer {token}")
}

/// A server to ask.
struct Server {
    service: Arc<Service>,
    router: Router,
}

impl Server {
    fn new() -> Self {
        let service = service();
        let router = super::routes(Arc::clone(&service));
        Self { service, router }
    }

    async fn ask(&self, request: Request<Body>) -> Response {
        let answer = self.router.clone().oneshot(request);
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap()
            .unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(request("GET", path, &[], Body::empty())).await
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        self.post_text(path, "application/json", body.to_string())
            .await
    }

    async fn post_text(&self, path: &str, kind: &str, body: impl Into<Body>) -> Response {
        let headers = [("content-type", kind)];
        self.ask(request("POST", path, &headers, body.into())).await
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

async fn text(response: Response) -> String {
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect());
    let bytes = body.await.unwrap().unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn json_of(response: Response, status: u16) -> Value {
    let is = response.status().as_u16();
    let kind = header(&response, "content-type").to_owned();
    let text = text(response).await;
    assert_eq!(is, status, "{text}");
    let expected = if status >= 400 {
        "application/problem+json"
    } else {
        "application/json"
    };
    assert_eq!(kind, expected);
    serde_json::from_str(&text).unwrap()
}

/// The problem; its status is that of the answer.
async fn problem(response: Response, status: u16) -> Value {
    let problem = json_of(response, status).await;
    assert_eq!(problem["status"], status);
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.starts_with("urn:pantelegraph:problem:"), "{kind}");
    problem
}

async fn detail(response: Response, status: u16) -> String {
    let problem = problem(response, status).await;
    problem["detail"].as_str().unwrap().to_owned()
}

/// The fields that a problem names.
fn fields(problem: &Value) -> Vec<&str> {
    let errors = problem["errors"].as_array().unwrap();
    errors
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect()
}

fn ada() -> Value {
    json!({"name": "Ada", "email": "ada@example.com", "age": 36, "roles": ["user"]})
}

/// The text of a body that comes piece by piece.
struct Pieces(axum::body::BodyDataStream);

impl Pieces {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        Self(response.into_body().into_data_stream())
    }

    async fn next(&mut self) -> Option<String> {
        let piece = tokio::time::timeout(PATIENCE, self.0.next())
            .await
            .unwrap()?;
        Some(String::from_utf8(piece.unwrap().to_vec()).unwrap())
    }

    /// Waits for the body to break off.
    async fn breaks(&mut self) {
        let piece = tokio::time::timeout(PATIENCE, self.0.next()).await;
        piece.unwrap().unwrap().unwrap_err();
    }
}

/// A body that must not be read.
fn untouchable() -> Body {
    let never = || -> Result<Vec<u8>, std::io::Error> { panic!("the body is read") };
    Body::from_stream(futures_util::stream::once(async move { never() }))
}

#[tokio::test]
async fn what_is_not_here_is_a_problem_too() {
    let server = Server::new();
    for path in ["/nope", "/users/", "/users/1/x", "/docs/nope.js"] {
        let answer = server.get(path).await;
        assert!(detail(answer, 404).await.contains(path));
    }
    for (path, allow) in [
        ("/users", "GET,HEAD,POST"),
        ("/users/1", "GET,HEAD"),
        ("/users:batch", "POST"),
        ("/healthz", "GET,HEAD"),
        ("/", "GET,HEAD"),
    ] {
        let answer = server
            .ask(request("DELETE", path, &[], Body::empty()))
            .await;
        assert_eq!(header(&answer, "allow"), allow);
        problem(answer, 405).await;
    }
}

#[tokio::test]
async fn head_answers_as_get_without_a_body() {
    let server = Server::new();
    for path in [
        "/users",
        "/users/1",
        "/healthz",
        "/openapi.json",
        "/docs/",
        "/",
    ] {
        let answer = server
            .ask(request(Method::HEAD.as_str(), path, &[], Body::empty()))
            .await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert!(text(answer).await.is_empty());
    }
}

#[tokio::test]
async fn health_ends_with_the_server() {
    let server = Server::new();
    let health = json_of(server.get("/healthz").await, 200).await;
    assert_eq!(health, json!({"status": "serving"}));
    let ready = json_of(server.get("/readyz").await, 200).await;
    let checks = json!({"journal": {"state": "ok"}, "drain": {"state": "ok"}});
    assert_eq!(ready, json!({"ready": true, "checks": checks}));
    server.service.draining.cancel();
    let answer = server.get("/healthz").await;
    assert_eq!(header(&answer, "retry-after"), "1");
    problem(answer, 503).await;
    let ready = json_of(server.get("/readyz").await, 503).await;
    assert_eq!(ready["checks"]["drain"]["state"], "draining");
}

#[tokio::test]
async fn a_handler_that_failed_is_answered_for() {
    let problem = problem(super::failure(), 500).await;
    assert_eq!(problem["code"], "INTERNAL");
}
