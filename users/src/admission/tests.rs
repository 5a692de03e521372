//! How answers end when the time of their caller is over. Time is that of the test.

use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use http::header;
use http_body_util::BodyExt as _;
use shared::security::Secret;
use shared::security::settings::ServerSettings;
use shared::security::tokens::{TokenKey, Tokens};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::access::{Access, Anonymous};
use crate::chat::{Room, RoomOptions};
use crate::directory::Directory;
use crate::service::Limits;

const HOUR: Duration = Duration::from_secs(3_600);

fn key() -> TokenKey {
    TokenKey::from_secret(Secret::new(vec![7; 32])).unwrap()
}

fn service() -> Arc<Service> {
    let settings = ServerSettings {
        tokens: Some(Tokens::new(vec![key()], None)),
        ..ServerSettings::default()
    };
    Arc::new(Service {
        directory: Arc::new(Directory::in_memory(10)),
        room: Arc::new(Room::new(RoomOptions::default())),
        access: Access::new(&settings, Anonymous::Refused),
        limits: Limits::default(),
        observer: Default::default(),
        open_metrics: false,
        draining: CancellationToken::new(),
        stop: CancellationToken::new(),
    })
}

/// The value of `authorization` for an hour.
fn token() -> String {
    let until = SystemTime::now() + HOUR;
    let until = until.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = key().token("ada", "read upload", until).unwrap();
    format!("Bearer {token}")
}

/// All that comes in an answer, its trailers, and whether it came to its end.
async fn answer(router: Router, request: Request<Body>) -> (Vec<u8>, HeaderMap, bool) {
    let begun = Instant::now();
    let mut body = router.oneshot(request).await.unwrap().into_body();
    let (mut bytes, mut trailers, mut is_whole) = (Vec::new(), HeaderMap::new(), true);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes.extend(data),
            Ok(Err(frame)) => trailers = frame.into_trailers().unwrap(),
            Err(_) => is_whole = false,
        }
    }
    // A second is lost because tokens count whole ones.
    assert!((HOUR - Duration::from_secs(2)..=HOUR).contains(&begun.elapsed()));
    (bytes, trailers, is_whole)
}

fn get(path: &str) -> Request<Body> {
    let request = Request::get(path).header(header::AUTHORIZATION, token());
    request
        .header(header::ACCEPT, "application/x-ndjson, text/event-stream")
        .body(Body::empty())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn events_end_with_the_reason() {
    let (bytes, _, is_whole) = answer(crate::rest::routes(service()), get("/chat/events")).await;
    let text = String::from_utf8(bytes).unwrap();
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    assert!(is_whole && last.starts_with("event: error\n"), "{last}");
    assert!(last.contains("Token expired"), "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_list_without_an_end_is_broken_off() {
    let request = get("/users?follow=true");
    let (bytes, _, is_whole) = answer(crate::rest::routes(service()), request).await;
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(!is_whole);
    assert_eq!(lines, 6, "five users and the rest");
}

#[tokio::test(start_paused = true)]
async fn calls_of_grpc_end_with_the_status() {
    let (_, health) = tonic_health::server::health_reporter();
    let call = |path: &str, message: &[u8]| {
        Request::post(path)
            .header(header::AUTHORIZATION, token())
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(Body::from(message.to_vec()))
            .unwrap()
    };
    // `follow` is the second field.
    let router = crate::grpc::routes(service(), health);
    let follow = call("/user.v1.UserService/ListUsers", &[0, 0, 0, 0, 2, 16, 1]);
    let (bytes, trailers, is_whole) = answer(router, follow).await;
    assert!(is_whole && !bytes.is_empty());
    assert_eq!(trailers["grpc-status"], "16");
    assert_eq!(trailers["grpc-message"], "Token%20expired");
}

#[tokio::test]
async fn a_caller_is_named_to_whoever_tells_of_calls() {
    let caller = Caller::default();
    let mut request = get("/users/1");
    request.extensions_mut().insert(caller.clone());
    let answer = crate::rest::routes(service()).oneshot(request).await;
    assert_eq!(answer.unwrap().status(), http::StatusCode::OK);
    assert_eq!(caller.name(), Some("ada"));
}
