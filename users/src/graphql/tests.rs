//! Operations over HTTP; bounds and WebSockets have files of their own.

mod bounds;
mod socket;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::access::{Access, Anonymous};
use crate::chat::{Room, RoomOptions};
use crate::directory::Directory;
use crate::service::{Limits, Service};
use shared::security::Secret;
use shared::security::settings::ServerSettings;
use shared::security::tokens::{TokenKey, Tokens};

use super::routes;

const FAR: u64 = 4_000_000_000;

fn access(anonymous: Anonymous) -> Access {
    let settings = ServerSettings {
        tokens: Some(Tokens::new(vec![key()], None)),
        ..ServerSettings::default()
    };
    Access::new(&settings, anonymous)
}

fn key() -> TokenKey {
    TokenKey::from_secret(Secret::new(vec![7; 32])).unwrap()
}

fn service_with(limits: Limits, room: RoomOptions, max_users: usize) -> Arc<Service> {
    service_of(limits, room, max_users, Anonymous::Admitted)
}

fn service_of(
    limits: Limits,
    room: RoomOptions,
    max_users: usize,
    anonymous: Anonymous,
) -> Arc<Service> {
    Arc::new(Service {
        directory: Arc::new(Directory::in_memory(max_users)),
        room: Arc::new(Room::new(room)),
        access: access(anonymous),
        limits,
        observer: Default::default(),
        open_metrics: false,
        draining: CancellationToken::new(),
        stop: CancellationToken::new(),
    })
}

fn service() -> Arc<Service> {
    service_with(Limits::default(), RoomOptions::default(), 10_000)
}

fn router() -> Router {
    routes(service())
}

async fn send(router: &Router, request: Request<Body>) -> (Response<()>, Bytes) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(parts, ()), body)
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/graphql")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.into())
        .unwrap()
}

/// The answer to a request that is sent with POST.
async fn call(router: &Router, body: Value) -> Value {
    let (response, body) = send(router, post(body.to_string())).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    serde_json::from_slice(&body).unwrap()
}

async fn ask(router: &Router, query: &str) -> Value {
    call(router, json!({ "query": query })).await
}

/// Code and message of the first error.
fn error(answer: &Value) -> (&str, &str) {
    let error = &answer["errors"][0];
    let code = error["extensions"]["code"].as_str();
    (
        code.unwrap_or("none"),
        error["message"].as_str().unwrap_or("none"),
    )
}

#[tokio::test]
async fn a_user_has_all_fields() {
    let query = "query ($id: Int!) { user(id: $id) { userId name email age createdAt roles } }";
    let answer = call(
        &router(),
        json!({ "query": query, "variables": { "id": 1 } }),
    )
    .await;
    let alice = json!({
        "userId": 1, "name": "Alice Johnson", "email": "alice@example.com", "age": 28,
        "createdAt": "2026-01-01T09:00:00Z", "roles": ["admin", "user"],
    });
    assert_eq!(answer, json!({ "data": { "user": alice } }));
}

#[tokio::test]
async fn refusals_have_their_code_and_words() {
    let router = router();
    let answer = ask(&router, "{ user(id: 99) { name } }").await;
    assert_eq!(error(&answer), ("NOT_FOUND", "User 99 not found"));
    assert_eq!(answer["data"], json!({ "user": null }));
    let answer = ask(&router, "{ user(id: 0) { name } }").await;
    assert_eq!(error(&answer), ("INVALID_ARGUMENT", "ID must be positive"));
    let violations = &answer["errors"][0]["extensions"]["violations"];
    let expected = json!([{ "field": "user_id", "description": "ID must be positive" }]);
    assert_eq!(*violations, expected);
    for (name, number) in [
        ("DEADLINE_EXCEEDED", 4),
        ("INTERNAL", 13),
        ("UNAVAILABLE", 14),
    ] {
        let query = format!("{{ echo(payload: [], code: {number}) }}");
        assert_eq!(error(&ask(&router, &query).await).0, name);
    }
    let answer = ask(&router, "{ echo(payload: [], code: 17) }").await;
    assert_eq!(error(&answer).0, "INVALID_ARGUMENT");
    let answer = ask(&router, "{ echo(payload: [], delayMs: -1) }").await;
    assert_eq!(error(&answer).0, "INVALID_ARGUMENT");
    for wrong in [
        "{ nothing }",
        "{ user(id: \"x\") { name } }",
        "{ user(id: 1) }",
        "{",
        "",
    ] {
        assert_eq!(
            error(&ask(&router, wrong).await).0,
            "INVALID_ARGUMENT",
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn pages_lead_through_all_users() {
    let router = router();
    let answer = ask(
        &router,
        "{ userCount users(limit: 3) { users { userId } next } }",
    )
    .await;
    let first = json!({ "users": [{ "userId": 1 }, { "userId": 2 }, { "userId": 3 }], "next": 3 });
    assert_eq!(answer["data"], json!({ "userCount": 5, "users": first }));
    let answer = ask(
        &router,
        "{ users(limit: 2, after: 3) { users { userId } next } }",
    )
    .await;
    let last = json!({ "users": [{ "userId": 4 }, { "userId": 5 }], "next": null });
    assert_eq!(answer["data"]["users"], last);
    let answer = ask(&router, "{ users { users { userId } next } }").await;
    assert_eq!(
        answer["data"]["users"]["users"].as_array().unwrap().len(),
        5
    );
    for limit in [0, -1, 1_001] {
        let query = format!("{{ users(limit: {limit}) {{ next }} }}");
        let answer = ask(&router, &query).await;
        assert_eq!(error(&answer).0, "INVALID_ARGUMENT");
        assert_eq!(
            answer["errors"][0]["extensions"]["violations"][0]["field"],
            "limit"
        );
    }
}

#[tokio::test]
async fn echo_answers_what_it_was_sent() {
    let query = "{ echo(payload: [\"a\", \"b\"], delayMs: 1) }";
    let answer = ask(&router(), query).await;
    assert_eq!(answer, json!({ "data": { "echo": ["a", "b"] } }));
}

fn input(name: &str, roles: &[&str]) -> Value {
    json!({ "name": name, "email": "x@example.com", "age": 30, "roles": roles })
}

const CREATE: &str =
    "mutation ($input: CreateUserInput!) { createUser(input: $input) { userId name } }";
const CREATE_ALL: &str = "mutation ($inputs: [CreateUserInput!]!) { createUsers(inputs: $inputs) \
                          { usersCreated userIds } }";

#[tokio::test]
async fn a_user_is_created_or_all_its_wrong_fields_are_named() {
    let router = router();
    let body = json!({ "query": CREATE, "variables": { "input": input("Ada", &[]) } });
    let answer = call(&router, body).await;
    assert_eq!(
        answer["data"]["createUser"],
        json!({ "userId": 6, "name": "Ada" })
    );
    let wrong = json!({ "name": "", "email": "no", "age": -1 });
    let answer = call(
        &router,
        json!({ "query": CREATE, "variables": { "input": wrong } }),
    )
    .await;
    assert_eq!(error(&answer).0, "INVALID_ARGUMENT");
    let violations = answer["errors"][0]["extensions"]["violations"]
        .as_array()
        .unwrap();
    let fields: Vec<_> = violations
        .iter()
        .map(|it| it["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["name", "email", "age"]);
}

#[tokio::test]
async fn several_users_are_created_all_or_none() {
    let router = routes(service_with(Limits::default(), RoomOptions::default(), 8));
    let create = async |inputs: Vec<Value>| {
        let body = json!({ "query": CREATE_ALL, "variables": { "inputs": inputs } });
        call(&router, body).await
    };
    let answer = create(vec![input("A", &[]), input("B", &[])]).await;
    let created = json!({ "usersCreated": 2, "userIds": [6, 7] });
    assert_eq!(answer["data"]["createUsers"], created);
    let answer = create(vec![input("C", &[]), input("", &[])]).await;
    assert_eq!(error(&answer).0, "INVALID_ARGUMENT");
    let violation = &answer["errors"][0]["extensions"]["violations"][0];
    assert_eq!(violation["field"], "users[1].name");
    let answer = create(vec![input("C", &[]), input("D", &[])]).await;
    assert_eq!(error(&answer).0, "RESOURCE_EXHAUSTED");
    assert_eq!(ask(&router, "{ userCount }").await["data"]["userCount"], 7);
}

#[tokio::test]
async fn admin_needs_a_token_in_the_header() {
    let router = router();
    let token = |scope: &str| key().token("ada", scope, FAR).unwrap();
    let admin = json!({ "query": CREATE, "variables": { "input": input("Ada", &["admin"]) } });
    let answer = call(&router, admin.clone()).await;
    assert_eq!(error(&answer), ("UNAUTHENTICATED", "Missing token"));
    for (scope, code) in [("read", "PERMISSION_DENIED"), ("admin", "none")] {
        let mut request = post(admin.to_string());
        let value = format!("Bearer {}", token(scope)).parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, value);
        let (_, body) = send(&router, request).await;
        assert_eq!(error(&serde_json::from_slice(&body).unwrap()).0, code);
    }
}

#[tokio::test]
async fn what_is_said_is_numbered() {
    let router = router();
    for number in 1..3 {
        let answer = ask(&router, "mutation { say(user: \"Ada\", text: \"Hello\") }").await;
        assert_eq!(answer["data"]["say"], number);
    }
    let answer = ask(&router, "mutation { say(user: \"Ada\", text: \"\") }").await;
    assert_eq!(error(&answer).0, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn get_is_for_queries_only() {
    let router = router();
    let get = |query: &str| Request::get(format!("/graphql?query={query}")).body(Body::empty());
    let (response, body) = send(&router, get("%7BuserCount%7D").unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(&body[..], b"{\"data\":{\"userCount\":5}}");
    let variables = "query(%24id:Int!)%7Buser(id:%24id)%7Bname%7D%7D&variables=%7B%22id%22:2%7D";
    let (_, body) = send(&router, get(variables).unwrap()).await;
    assert_eq!(&body[..], b"{\"data\":{\"user\":{\"name\":\"Bob Smith\"}}}");
    let say = "mutation%7Bsay(user:%22a%22,text:%22b%22)%7D";
    for refused in [say, "subscription%7Bchat%7Btext%7D%7D"] {
        let (response, body) = send(&router, get(refused).unwrap()).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[header::ALLOW], "POST");
        assert_eq!(
            error(&serde_json::from_slice(&body).unwrap()).0,
            "INVALID_ARGUMENT"
        );
    }
    let answer = ask(&router, "mutation { say(user: \"a\", text: \"b\") }").await;
    assert_eq!(answer["data"]["say"], 1, "the one with GET was not said");
    let (response, _) = send(&router, get("%7BuserCount%7D&variables=x").unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let nothing = Request::get("/graphql").body(Body::empty()).unwrap();
    assert_eq!(
        send(&router, nothing).await.0.status(),
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn other_methods_are_refused_with_an_error_of_this_face() {
    let router = router();
    for path in ["/graphql", "/graphql/schema"] {
        let request = Request::delete(path).body(Body::empty()).unwrap();
        let (response, body) = send(&router, request).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(response.headers().contains_key(header::ALLOW));
        let answer = serde_json::from_slice(&body).unwrap();
        let (code, words) = error(&answer);
        assert_eq!(code, "INVALID_ARGUMENT");
        assert!(words.contains("DELETE"), "{words}");
    }
}

#[tokio::test]
async fn answers_are_of_the_kind_that_is_asked_for() {
    let router = router();
    let accept = "text/html;q=0.5, application/graphql-response+json";
    for (query, status, has_data) in [
        ("{ userCount }", 200, true),
        ("{ user(id: 99) { name } }", 200, true),
        ("{ nothing }", 400, false),
        ("{", 400, false),
    ] {
        let mut request = post(json!({ "query": query }).to_string());
        request
            .headers_mut()
            .insert(header::ACCEPT, accept.parse().unwrap());
        let (response, body) = send(&router, request).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(response.status(), status, "{query}");
        let kind = &response.headers()[header::CONTENT_TYPE];
        assert_eq!(kind, "application/graphql-response+json");
        assert_eq!(answer.get("data").is_some(), has_data, "{query}");
    }
}

#[tokio::test]
async fn subscriptions_are_refused_without_a_websocket() {
    let answer = ask(&router(), "subscription { users { name } }").await;
    let (code, words) = error(&answer);
    assert_eq!(code, "INVALID_ARGUMENT");
    assert!(words.contains("graphql-transport-ws"), "{words}");
}

#[tokio::test]
async fn a_batch_is_run_in_order() {
    let router = router();
    let create = json!({ "query": CREATE, "variables": { "input": input("Ada", &[]) } });
    let count = json!({ "query": "{ userCount }" });
    let answer = call(&router, json!([count, create, count])).await;
    assert_eq!(answer[0]["data"]["userCount"], 5);
    assert_eq!(answer[2]["data"]["userCount"], 6);
}

/// As graphql-js 16 writes it, with all options.
const INTROSPECTION: &str = include_str!("tests/introspection.graphql");

#[tokio::test]
async fn the_introspection_of_tools_is_answered() {
    let body = json!({ "query": INTROSPECTION, "operationName": "IntrospectionQuery" });
    let answer = call(&router(), body).await;
    assert_eq!(answer.get("errors"), None, "{answer}");
    let schema = &answer["data"]["__schema"];
    let types = schema["types"].as_array().unwrap();
    let user = types.iter().find(|it| it["name"] == "User").unwrap();
    let fields = user["fields"].as_array().unwrap().iter();
    let fields: Vec<_> = fields.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(
        fields,
        ["userId", "name", "email", "age", "createdAt", "roles"]
    );
    let id = &user["fields"][0]["type"];
    assert_eq!(
        (&id["kind"], &id["ofType"]["name"]),
        (&json!("NON_NULL"), &json!("Int"))
    );
}

#[tokio::test]
async fn the_schema_is_there_as_text() {
    let request = Request::get("/graphql/schema").body(Body::empty()).unwrap();
    let (response, body) = send(&router(), request).await;
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/plain; charset=utf-8"
    );
    let text = std::str::from_utf8(&body).unwrap();
    for line in [
        "user(id: Int!): User",
        "users(limit: Int = 100, after: Int): UserPage!",
        "createUser(input: CreateUserInput!): User!",
        "createUsers(inputs: [CreateUserInput!]!): CreatedUsers!",
        "say(user: String!, text: String!): Int!",
        "echo(payload: [String!]!, delayMs: Int, code: Int): [String!]!",
        "users(after: Int, limit: Int): User!",
        "chat: ChatMessage!",
        "roles: [String!]!",
        "createdAt: String!",
    ] {
        assert!(
            text.lines().any(|it| it.trim() == line),
            "{line} is not in {text}"
        );
    }
}

#[tokio::test]
async fn the_page_asks_no_other_server_for_anything() {
    let request = Request::get("/graphql")
        .header(header::ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8")
        .body(Body::empty())
        .unwrap();
    let (response, body) = send(&router(), request).await;
    assert!(
        response.headers()[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(
        policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
        "{policy}"
    );
    let page = std::str::from_utf8(&body).unwrap();
    assert!(page.contains("graphql-transport-ws") && page.contains("color-scheme"));
    for outside in ["http:", "https://", "src=", "url(", "@import", "import("] {
        assert!(!page.contains(outside), "{outside} is in the page");
    }
    assert!(!page.contains("/*style*/") && !page.contains("/*script*/"));
}
