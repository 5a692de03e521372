//! GraphQL over HTTP (<https://graphql.github.io/graphql-over-http/draft/>).

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;

use async_graphql::parser::types::OperationType;
use axum::body::{Body, Bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Extension, FromRequestParts, Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::LengthLimitError;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use shared::security::access::{Denied, Unknown};
use shared::security::rate::Pace;

use crate::access::Requester;
use crate::admission::RATE;
use crate::connection::Connection;
use crate::observe::{Below, Operation, Outcome, kind};
use crate::refusal::{Code, Refusal};

use super::error::{refused, whole};
use super::gate::{Answer, Call};
use super::guest::Guest;
use super::{Face, json, playground, socket};

/// Most requests of one batch.
pub(super) const MAX_BATCH: usize = 10;

const JSON: &str = "application/json";
const GRAPHQL_JSON: &str = "application/graphql-response+json";

/// Runs the request in the body, or a batch of them.
pub(super) async fn post(
    State(face): State<Arc<Face>>,
    Extension(requester): Extension<Requester>,
    Extension(pace): Extension<Pace>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let operation = operation(&parts);
    let reply = Reply::new(&parts.headers);
    let body = match read(&face, &parts, body).await {
        Ok(body) => body,
        Err((status, answer)) => return reply.with(status, &answer),
    };
    let calls: Calls = match serde_json::from_slice(&body) {
        Ok(calls) => calls,
        Err(error) => {
            let words = format!("the body is not a request: {error}");
            let answer = Answer::refused(refused(Code::InvalidArgument, words));
            return reply.with(StatusCode::BAD_REQUEST, &answer);
        }
    };
    drop(body);
    match calls {
        Calls::One(call) => reply.answer(&run(&face, call, requester, &operation).await),
        Calls::Batch(calls) => {
            operation.is("batch");
            let mut answers = Vec::with_capacity(calls.len());
            // One after the other, so that a later one sees what an earlier one has made.
            for (at, call) in calls.into_iter().enumerate() {
                // The first came with the request.
                let early = if at == 0 { None } else { pace.take().err() };
                answers.push(match early {
                    Some(time) => {
                        face.service.observer.metrics.refused(RATE);
                        Answer::denied(Refusal::TooOften(time))
                    }
                    None => run(&face, call, requester.clone(), &operation).await,
                });
            }
            reply.with(StatusCode::OK, &answers)
        }
    }
}

/// Where to say what a request is.
fn operation(parts: &Parts) -> Operation {
    parts.extensions.get().cloned().unwrap_or_default()
}

async fn run(face: &Face, call: Call, requester: Requester, operation: &Operation) -> Answer {
    let prepared = match face.gate.prepare(call, requester.clone()) {
        Ok(prepared) => prepared,
        Err(error) => return Answer::refused(error),
    };
    operation.is(kind(prepared.kind()));
    if let Err(refusal) = requester.may(prepared.needs()) {
        return Answer::denied(refusal);
    }
    if prepared.kind() == Some(OperationType::Subscription) {
        return Answer::refused(refused(
            Code::InvalidArgument,
            format!(
                "subscriptions need a WebSocket at this address, with the subprotocol {}",
                socket::PROTOCOL
            ),
        ));
    }
    face.gate.execute(prepared).await
}

/// A query in the address, the page, or a WebSocket.
pub(super) async fn get(State(face): State<Arc<Face>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let operation = operation(&parts);
    if parts.headers.contains_key(header::UPGRADE) {
        operation.is("socket");
        return upgrade(face, &mut parts).await;
    }
    let reply = Reply::new(&parts.headers);
    if asks_for_page(&parts.uri, &parts.headers) {
        operation.is("page");
        return playground::page();
    }
    let Some(requester) = parts.extensions.remove::<Requester>() else {
        // Nothing else comes here that was not let in.
        return refuse(&Refusal::Internal, &parts.headers);
    };
    let call = match call_of_address(&parts) {
        Ok(call) => call,
        Err(words) => {
            let answer = Answer::refused(refused(Code::InvalidArgument, words));
            return reply.with(StatusCode::BAD_REQUEST, &answer);
        }
    };
    let prepared = match face.gate.prepare(call, requester.clone()) {
        Ok(prepared) => prepared,
        Err(error) => return reply.answer(&Answer::refused(error)),
    };
    operation.is(kind(prepared.kind()));
    if let Err(refusal) = requester.may(prepared.needs()) {
        return reply.answer(&Answer::denied(refusal));
    }
    if matches!(
        prepared.kind(),
        Some(OperationType::Mutation | OperationType::Subscription)
    ) {
        let words = "GET is for queries; send mutations with POST, subscriptions over WebSocket";
        let answer = Answer::refused(refused(Code::InvalidArgument, words));
        let mut response = reply.with(StatusCode::METHOD_NOT_ALLOWED, &answer);
        let post = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, post);
        return response;
    }
    reply.answer(&face.gate.execute(prepared).await)
}

/// Whether a request is for the page, which is the same for all.
fn asks_for_page(uri: &Uri, headers: &HeaderMap) -> bool {
    let has_query = uri.query().is_some_and(|query| !query.is_empty());
    !has_query && accepts(headers, "text/html")
}

/// Whether a request needs no caller: the page, the schema, and a WebSocket that has shown nothing yet,
/// for pages in browsers can show a token only in its first message.
pub(super) fn is_open(request: &Request, denied: &Denied) -> bool {
    let is_missing = matches!(
        denied,
        Denied::Unknown(Unknown::MissingToken | Unknown::MissingCertificate)
    );
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let asks_for_socket = request.headers().contains_key(header::UPGRADE);
    request.uri().path() == "/graphql/schema"
        || (reads && asks_for_socket && is_missing)
        || (reads && !asks_for_socket && asks_for_page(request.uri(), request.headers()))
}

/// The answer to a request that is not let in.
pub(super) fn refuse(refusal: &Refusal, headers: &HeaderMap) -> Response {
    let answer = Answer::refused(whole(refusal));
    let response = Reply::new(headers).with(refusal.code().http(), &answer);
    challenged(response, refusal)
}

/// With what the client should show.
fn challenged(mut response: Response, refusal: &Refusal) -> Response {
    let challenge = refusal.challenge().map(HeaderValue::try_from);
    if let Some(Ok(challenge)) = challenge {
        let headers = response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = refusal.retry_after() {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The answer to a method that an address does not know, as clients of this face expect errors. The
/// router adds which it knows.
pub(super) async fn method(method: Method, headers: HeaderMap) -> Response {
    let words = format!("{method} means nothing here; the header allow says what does");
    let answer = Answer::refused(refused(Code::InvalidArgument, words));
    Reply::new(&headers).with(StatusCode::METHOD_NOT_ALLOWED, &answer)
}

/// The schema as text.
pub(super) async fn schema(State(face): State<Arc<Face>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (kind, face.gate.sdl()).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    query: Option<String>,
    operation_name: Option<String>,
    variables: Option<String>,
}

fn call_of_address(parts: &Parts) -> Result<Call, String> {
    let Query(address) = Query::<Address>::try_from_uri(&parts.uri)
        .map_err(|error| format!("the address cannot be read: {error}"))?;
    if address.query.is_none() {
        return Err(
            "send a request with POST, or ?query=; with a browser, open this address as it is"
                .to_owned(),
        );
    }
    let variables = match address.variables.filter(|variables| !variables.is_empty()) {
        None => None,
        Some(variables) => serde_json::from_str(&variables)
            .map_err(|error| format!("variables are not JSON: {error}"))?,
    };
    Ok(Call {
        query: address.query,
        operation_name: address.operation_name,
        variables,
    })
}

/// The body, if it is JSON and not too large. One that says that it is too large is not read.
async fn read(face: &Face, parts: &Parts, body: Body) -> Result<Bytes, (StatusCode, Answer)> {
    if !is_json(&parts.headers) {
        let words = format!("the body must be {JSON}, and content-type must say so");
        let answer = Answer::refused(refused(Code::InvalidArgument, words));
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, answer));
    }
    let limit = face.service.limits.max_message_size;
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length
        && length > limit as u64
    {
        return Err(too_large(&format!("of {length} bytes"), limit));
    }
    let body = axum::body::to_bytes(body, limit).await.map_err(|error| {
        if matches!(error.source(), Some(source) if source.is::<LengthLimitError>()) {
            return too_large("without a length", limit);
        }
        tracing::debug!(%error, "a body broke off");
        let words = "the body broke off";
        let answer = Answer::refused(refused(Code::InvalidArgument, words));
        (StatusCode::BAD_REQUEST, answer)
    })?;
    json::check(&body, limit).map_err(|refusal| {
        let answer = Answer::refused(whole(&refusal));
        (StatusCode::PAYLOAD_TOO_LARGE, answer)
    })?;
    Ok(body)
}

fn too_large(what: &str, limit: usize) -> (StatusCode, Answer) {
    let refusal = Refusal::Limit {
        what: format!("a body {what} is larger than {limit} bytes, the most"),
        setting: "max-message-size",
        instead: "send less at a time",
    };
    (
        StatusCode::PAYLOAD_TOO_LARGE,
        Answer::refused(whole(&refusal)),
    )
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let kind = value.and_then(|value| value.to_str().ok()?.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON))
}

/// Whether `accept` names this kind.
fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let values = headers.get_all(header::ACCEPT).into_iter();
    let mut ranges = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    ranges.any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_kind = parts.next().is_some_and(|it| it.eq_ignore_ascii_case(kind));
        is_kind && !parts.any(|part| matches!(part, "q=0" | "q=0.0"))
    })
}

/// How answers are written.
#[derive(Clone, Copy)]
struct Reply {
    kind: &'static str,
}

impl Reply {
    fn new(headers: &HeaderMap) -> Self {
        let is_graphql = accepts(headers, GRAPHQL_JSON);
        Self {
            kind: if is_graphql { GRAPHQL_JSON } else { JSON },
        }
    }

    /// With the status that the kind of the answer has: `application/json` says 200 to all that
    /// could be read, since nobody knows whether a proxy wrote another status.
    fn answer(self, answer: &Answer) -> Response {
        if let Some(refusal) = &answer.denied {
            return challenged(self.with(refusal.code().http(), answer), refusal);
        }
        let status = if answer.is_refused() && self.kind == GRAPHQL_JSON {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::OK
        };
        self.with(status, answer)
    }

    fn with(self, status: StatusCode, answer: &(impl Serialize + Ends)) -> Response {
        let body = match serde_json::to_vec(answer) {
            Ok(body) => body,
            Err(error) => {
                let refusal = Refusal::internal(&error);
                return (StatusCode::INTERNAL_SERVER_ERROR, refusal.to_string()).into_response();
            }
        };
        let headers = [
            (header::CONTENT_TYPE, self.kind),
            (header::CACHE_CONTROL, "no-store"),
            (header::VARY, "accept"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        let outcome = Extension(answer.outcome());
        (status, headers, outcome, body).into_response()
    }
}

/// What says how it went.
trait Ends {
    fn outcome(&self) -> Outcome;
}

impl Ends for Answer {
    fn outcome(&self) -> Outcome {
        self.outcome()
    }
}

impl Ends for Vec<Answer> {
    /// As its first answer that is none.
    fn outcome(&self) -> Outcome {
        let mut outcomes = self.iter().map(Answer::outcome);
        outcomes
            .find(|outcome| *outcome != Outcome("OK"))
            .unwrap_or(Outcome("OK"))
    }
}

/// Makes a connection a WebSocket.
async fn upgrade(face: Arc<Face>, parts: &mut Parts) -> Response {
    let reply = Reply::new(&parts.headers);
    let offered = parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let has_protocol = offered
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim() == socket::PROTOCOL);
    if !has_protocol {
        let words = format!(
            "a WebSocket at this address needs the subprotocol {}",
            socket::PROTOCOL
        );
        let answer = Answer::refused(refused(Code::InvalidArgument, words));
        return reply.with(StatusCode::BAD_REQUEST, &answer);
    }
    let upgrade = match WebSocketUpgrade::from_request_parts(parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let limit = face.service.limits.max_message_size;
    let connection = parts.extensions.get::<Connection>().cloned();
    let other = connection.as_ref().map(Connection::become_other);
    let below = parts.extensions.get().copied();
    let Below(context) = below.unwrap_or(Below(None));
    let guest = Guest::new(
        parts.extensions.get().cloned(),
        parts.extensions.get().cloned(),
        connection,
    );
    upgrade
        .protocols([socket::PROTOCOL])
        .max_message_size(limit)
        .max_frame_size(limit)
        // Most connections wait for news: large buffers would only be memory.
        .read_buffer_size(16 << 10)
        .write_buffer_size(16 << 10)
        .on_upgrade(move |stream| async move {
            let serving = socket::serve(stream, face, guest, context);
            match other {
                Some(other) => other.run(serving).await,
                None => serving.await,
            }
        })
}

/// What a body has: one request, or a list of them.
enum Calls {
    One(Call),
    Batch(Vec<Call>),
}

impl<'de> Deserialize<'de> for Calls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CallsVisitor)
    }
}

/// Reads either without keeping what is not needed, and no more of a list than is run.
struct CallsVisitor;

impl<'de> Visitor<'de> for CallsVisitor {
    type Value = Calls;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request or a list of requests")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Calls, A::Error> {
        Call::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Calls::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Calls, A::Error> {
        let mut calls = Vec::new();
        while let Some(call) = list.next_element()? {
            if calls.len() == MAX_BATCH {
                return Err(serde::de::Error::custom(format_args!(
                    "a batch has at most {MAX_BATCH} requests"
                )));
            }
            calls.push(call);
        }
        if calls.is_empty() {
            return Err(serde::de::Error::custom("a batch has at least one request"));
        }
        Ok(Calls::Batch(calls))
    }
}
