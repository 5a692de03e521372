//! What takes a small body and answers at once: the chat's microphone, and the echo.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode};

use super::body;
use super::document::{
    Always, AskedFor, BadBody, BadFields, EchoRequest, Guarded, NewMessage, OtherMediaType,
    TooLarge,
};
use super::problem::Problem;
use super::value::{self, Types, Value};
use super::view::{Echoed, Said};
use crate::access::Requester;
use crate::chat::Saying;
use crate::refusal::{Refusal, Violations};
use crate::service::{MAX_DELAY, Service};

/// Members of something to be said.
const SAYING: [&str; 2] = ["user", "text"];
/// Members of what is to be echoed.
const ECHO: [&str; 3] = ["payload", "delay_ms", "code"];

/// Says something in the chat
#[utoipa::path(
    post,
    path = "/chat",
    operation_id = "say",
    tag = "chat",
    request_body(content = NewMessage, content_type = "application/json"),
    responses(
        (status = 202, description = "All who listen will hear it.", body = Said),
        BadBody,
        Guarded,
        TooLarge,
        OtherMediaType,
        BadFields,
        Always
    )
)]
pub(super) async fn chat(
    State(service): State<Arc<Service>>,
    Extension(requester): Extension<Requester>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = body::json(&headers, body, service.limits.max_message_size).await?;
    let [user, text] = value::object(&body, SAYING)?;
    let mut types = Types::default();
    let user = types.text("user", user);
    let text = types.text("text", text);
    let saying = Saying::check(user, text);
    types.and(saying.as_ref().map(drop).map_err(Clone::clone), &SAYING)?;
    let saying = saying?;
    let sequence = tokio::select! {
        biased;
        sequence = service.say(&requester, saying) => sequence?,
        // The room is full, and nobody waits for it to empty any more.
        () = service.stop.cancelled() => return Err(Refusal::stopping().into()),
    };
    Ok((StatusCode::ACCEPTED, Json(Said { sequence })).into_response())
}

/// Answers with what it was sent
///
/// For measuring, and to see how a client behaves. Two more members are for people and not in the
/// schema, so that programs that try out everything do not wait for minutes and report failures
/// that they have asked for: `delay_ms` (0 to 60000) answers later, and `code` (a number of
/// `google.rpc.Code`, 0 to 16) answers with the status for it.
#[utoipa::path(
    post,
    path = "/echo",
    operation_id = "echo",
    tag = "echo",
    request_body(content = EchoRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "What was sent.", body = Echoed),
        BadBody,
        Guarded,
        TooLarge,
        OtherMediaType,
        BadFields,
        AskedFor,
        Always
    )
)]
pub(super) async fn echo(
    State(service): State<Arc<Service>>,
    Extension(requester): Extension<Requester>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = body::json(&headers, body, service.limits.max_message_size).await?;
    let [payload, delay, code] = value::object(&body, ECHO)?;
    let mut types = Types::default();
    let payload = types.texts("payload", payload);
    let delay = optional(&mut types, "delay_ms", &delay);
    let code = optional(&mut types, "code", &code);
    types.and(Ok(()), &ECHO)?;
    let delay = u64::try_from(delay)
        .ok()
        .map(Duration::from_millis)
        .filter(|delay| *delay <= MAX_DELAY)
        .ok_or_else(|| {
            let most = MAX_DELAY.as_millis();
            let words = format!("delay_ms must be 0 to {most}, not {delay}");
            Violations::one("delay_ms", words)
        })?;
    let code = i32::try_from(code).unwrap_or(i32::MAX);
    let payload = tokio::select! {
        biased;
        payload = service.echo(&requester, payload, Some(delay), code) => payload?,
        () = service.stop.cancelled() => return Err(Refusal::stopping().into()),
    };
    Ok(Json(Echoed { payload }).into_response())
}

fn optional(types: &mut Types, field: &str, value: &Value) -> i64 {
    match value {
        Value::Absent => 0,
        value => types.integer(field, value),
    }
}
