//! Requests that would cost too much are refused before they do.

use std::fmt::Write as _;

use axum::body::Body;
use http::{Request, StatusCode, header};
use serde_json::{Value, json};

use super::super::document::{self, MAX_BYTES, MAX_DEPTH, MAX_FIELDS};
use super::super::http::MAX_BATCH;
use super::{ask, call, error, post, router, send, service_with};
use crate::chat::RoomOptions;
use crate::graphql::routes;
use crate::service::Limits;

fn refused(query: &str, words: &str) {
    let error = document::read(query).expect_err(words);
    assert!(
        error.message.contains(words),
        "{} is not {words}",
        error.message
    );
}

#[test]
fn deep_documents_are_refused_before_they_are_parsed() {
    let deep = |open: &str, count: usize| open.repeat(count);
    refused(&deep("{a", 65), "brackets too deep");
    refused(&deep("{a", MAX_BYTES / 2), "brackets too deep");
    refused(&format!("{{a(b:{}", deep("[", 60_000)), "brackets too deep");
    refused(
        &format!("query($a:{}", deep("[", 60_000)),
        "brackets too deep",
    );
    refused(&deep("{a", 1 << 20), "put data into variables");
    let nested = |count| format!("{}{}", deep("{a", count), deep("}", count));
    assert!(document::read(&nested(MAX_DEPTH)).is_ok());
    refused(&nested(MAX_DEPTH + 1), "is too deep");
}

#[test]
fn strings_and_comments_are_not_counted() {
    let open = "{[(".repeat(100);
    let text = format!(
        "{{ # {open}\n a(b: \"{open}\\\"{open}\", c: \"\"\"{open}\\\"\"\"\"{open}\"\"\") }}"
    );
    assert!(document::read(&text).is_ok());
}

#[test]
fn wide_documents_are_refused() {
    let mut aliases = String::from("{");
    for i in 0..2_000 {
        write!(aliases, "a{i}:b ").unwrap();
    }
    refused(&format!("{aliases}}}"), "too many fields");
    refused(&format!("{{{}}}", "a ".repeat(51)), "too many things");
    refused(
        &format!("{{a{{{}}}}}", "a:b ".repeat(101)),
        "too many aliases",
    );
    refused(&format!("{{{}}}", "a ".repeat(20_000)), "words and signs");
    refused(
        &format!("{{a {}}}", "@skip(if:true)".repeat(60)),
        "too many directives",
    );
    refused(
        "{ a: __schema { a } b: __schema { a } c: __schema { a } }",
        "introspections",
    );
    let nested = "{ __schema { types { fields { type { fields { args { name } } } } } } }";
    refused(nested, "lists of introspection");
    refused("subscription { a b }", "exactly one field");
    refused(
        "subscription { ...F } fragment F on S { a b }",
        "exactly one field",
    );
}

#[test]
fn fragments_are_counted_as_often_as_they_are_there() {
    // 10 to the power of 20 fields.
    let mut bomb = String::from("{ a { ...F0 } }");
    for i in 0..20 {
        let spreads = format!("...F{} ", i + 1).repeat(10);
        write!(bomb, "fragment F{i} on T {{ {spreads} }}").unwrap();
    }
    bomb.push_str("fragment F20 on T { a }");
    refused(&bomb, "too many fields");
    refused(
        "{ ...A } fragment A on T { ...B } fragment B on T { ...A }",
        "contains itself",
    );
    refused("{ a } fragment A on T { a { ...A } }", "contains itself");
    let mut chain = String::from("{ ...F0 }");
    for i in 0..1_000 {
        write!(chain, "fragment F{i} on T{{...F{}}}", i + 1).unwrap();
    }
    refused(&chain, "is too deep");
    // Empty ones, many times: they count by what is in them only when they are followed.
    let empty = format!(
        "{{ a {{ {} }} }} fragment F on T {{ a }}",
        "...F ".repeat(MAX_FIELDS + 1)
    );
    refused(&empty, "too many fields");
}

#[tokio::test]
async fn what_costs_too_much_is_refused_with_a_code() {
    let router = router();
    let all = "users { userId name email age createdAt roles } next";
    let answer = ask(&router, &format!("{{ users(limit: 1000) {{ {all} }} }}")).await;
    assert_eq!(answer.get("errors"), None);
    let twice =
        format!("{{ a: users(limit: 1000) {{ {all} }} b: users(limit: 1000) {{ {all} }} }}");
    let answer = ask(&router, &twice).await;
    let (code, words) = error(&answer);
    assert_eq!(code, "RESOURCE_EXHAUSTED");
    assert!(words.contains("costs more than 10000"), "{words}");
    // A variable that is used many times costs as many times.
    let query = (0..20).fold(String::new(), |all, i| {
        format!("{all} e{i}: echo(payload: $p)")
    });
    let query = format!("query ($p: [String!]!) {{ {query} }}");
    let body = json!({ "query": query, "variables": { "p": ["x".repeat(1 << 20)] } });
    assert_eq!(error(&call(&router, body).await).0, "RESOURCE_EXHAUSTED");
}

#[tokio::test]
async fn only_the_first_of_many_errors_are_told() {
    let fields: String = (0..40).fold(String::new(), |all, i| format!("{all} wrong{i}"));
    let answer = ask(&router(), &format!("{{ {fields} }}")).await;
    assert_eq!(answer["errors"].as_array().unwrap().len(), 10);
    assert_eq!(error(&answer).0, "INVALID_ARGUMENT");
}

async fn bad_request(body: String) -> String {
    let (response, body) = send(&router(), post(body)).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let answer: Value = serde_json::from_slice(&body).unwrap();
    let (code, words) = error(&answer);
    assert_eq!(code, "INVALID_ARGUMENT");
    words.to_owned()
}

#[tokio::test]
async fn bodies_that_are_no_requests_are_refused() {
    let one = json!({ "query": "{ userCount }" });
    let batch = |count| Value::from(vec![one.clone(); count]).to_string();
    assert_eq!(
        send(&router(), post(batch(MAX_BATCH))).await.0.status(),
        StatusCode::OK
    );
    assert!(
        bad_request(batch(MAX_BATCH + 1))
            .await
            .contains("at most 10 requests")
    );
    assert!(
        bad_request(format!("[{}", "{},".repeat(1 << 17)))
            .await
            .contains("at most 10")
    );
    assert!(bad_request("[]".to_owned()).await.contains("at least one"));
    assert!(
        bad_request("5".to_owned())
            .await
            .contains("a request or a list")
    );
    assert!(
        bad_request("{\"query\":".to_owned())
            .await
            .contains("not a request")
    );
    // Deeper than the reader of JSON goes.
    let deep = format!("{{\"variables\":{{\"a\":{}", "[".repeat(100_000));
    assert!(bad_request(deep).await.contains("recursion limit"));
    let text = Request::post("/graphql").header(header::CONTENT_TYPE, "text/plain");
    let (response, _) = send(&router(), text.body(one.to_string().into()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_read() {
    let body = Body::from_stream(futures_util::stream::poll_fn(
        |_| -> std::task::Poll<Option<Result<Vec<u8>, std::io::Error>>> {
            panic!("it was read");
        },
    ));
    let mut request = post(body);
    let length = header::HeaderValue::from_static("100000000");
    request.headers_mut().insert(header::CONTENT_LENGTH, length);
    let (response, body) = send(&router(), request).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer: Value = serde_json::from_slice(&body).unwrap();
    let (code, words) = error(&answer);
    assert_eq!(code, "RESOURCE_EXHAUSTED");
    assert!(words.contains("--max-message-size"), "{words}");
    // One that does not say how large it is is read to the limit.
    let limits = Limits {
        max_message_size: 1_000,
        ..Limits::default()
    };
    let router = routes(service_with(limits, RoomOptions::default(), 10));
    let (response, _) = send(&router, post(" ".repeat(1_001))).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    // What is read takes memory: not many values in few bytes.
    let zeros = format!("{{\"variables\":{{\"a\":[{}0]}}}}", "0,".repeat(200));
    let (response, body) = send(&router, post(zeros)).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(error(&answer).0, "RESOURCE_EXHAUSTED");
}
