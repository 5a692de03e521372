//! REST: one image by `PUT /v1/images/{id}`, resumable uploads by tus, the clock, run accounts.

pub(super) mod body;
mod digests;
mod put;
mod sum;
mod tus;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put as put_method};
use shared::chunk::Segments;
use shared::clock::UnixNanos;
use shared::receipt::{Reject, RejectReason};
use shared::security::access::Caller;
use tokio_util::task::TaskTracker;

use super::metered;
use crate::budget::Holder;
use crate::intake::Intake;
use crate::problem::Problem;

/// Routes that bring something in. `tasks` owns what outlives its request.
pub fn writing_routes(intake: Arc<Intake>, tasks: TaskTracker) -> Router {
    let account_limit = axum::extract::DefaultBodyLimit::max(MAX_ACCOUNT);
    let metered = axum::middleware::from_fn_with_state(Arc::clone(&intake), metered::whole_body);
    let losses_limit = axum::extract::DefaultBodyLimit::max(MAX_LOSS_REPORT);
    Router::new()
        .route("/v1/images/{id}", put_method(put::put))
        .route("/v1/clock", get(clock))
        .route(
            ACCOUNTS,
            post(account).layer(account_limit).layer(metered.clone()),
        )
        .route(LOSSES, post(losses).layer(losses_limit).layer(metered))
        .with_state(Arc::clone(&intake))
        .merge(tus::routes(intake, tasks))
        .route_layer(axum::middleware::from_fn(sum::summed))
}

const ACCOUNTS: &str = "/v1/runs/account";
const LOSSES: &str = "/v1/losses";

/// Largest run account: its images are told in portions.
const MAX_ACCOUNT: usize = metered::WHOLE_BODY;

/// Largest report of losses.
const MAX_LOSS_REPORT: usize = metered::WHOLE_BODY;

/// This clock, for a transmitter that measures the offset (design, *Time*): `t2_unix_ns` and
/// `t3_unix_ns` are the arrival and the answer of the request.
async fn clock() -> Response {
    let t2 = UnixNanos::now();
    let body = format!(
        "{{\"t2_unix_ns\":{},\"t3_unix_ns\":{}}}\n",
        t2.0,
        UnixNanos::now().0
    );
    (
        [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
        ],
        body,
    )
        .into_response()
}

/// A run's account as protobuf (`pantelegraph.transfer.v1.RunAccount`).
async fn account(
    State(intake): State<Arc<Intake>>,
    Extension(memory): Extension<Holder>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let body = whole(body, "an account", MAX_ACCOUNT)?;
    sum::check_message(ACCOUNTS, &headers, &body)?;
    room_for(&memory, shared::wire::unpacked_account(&body)).await?;
    let account = shared::wire::decode_account(Segments::from(body))?;
    intake.check_account(&account, &caller)?;
    intake
        .catalog()
        .account(account)
        .await
        .map_err(|error| Problem::internal(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Losses, and where the outbox stands, as protobuf (`pantelegraph.transfer.v1.LossReport`). They
/// are kept when the answer, which has no content, comes.
async fn losses(
    State(intake): State<Arc<Intake>>,
    Extension(memory): Extension<Holder>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let body = whole(body, "a report of losses", MAX_LOSS_REPORT)?;
    sum::check_message(LOSSES, &headers, &body)?;
    room_for(&memory, shared::wire::unpacked_losses(&body)).await?;
    let report = shared::wire::decode_losses(Segments::from(body))?;
    intake.keep_losses(report, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Waits for the memory that a body takes when it is unpacked.
async fn room_for(memory: &Holder, unpacked: u64) -> Result<(), Problem> {
    let leased = memory.lease(unpacked).await;
    leased.map_err(|revoked| {
        let reject = Reject::new(None, RejectReason::Unavailable, revoked.to_string());
        Problem::from(reject)
    })
}

/// The body of a request that is taken as a whole.
fn whole(body: Result<Bytes, BytesRejection>, what: &str, limit: usize) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let text = format!("{what} has at most {limit} bytes; tell it in portions");
            Problem::from(Reject::new(None, RejectReason::Limit, text))
        }
        _ => Problem::from(Reject::new(
            None,
            RejectReason::Truncated,
            rejection.body_text(),
        )),
    })
}

/// The WebSocket endpoint as a route.
pub fn websocket_route(endpoint: super::websocket::Endpoint) -> Router {
    Router::new().route(
        shared::wire::WEBSOCKET_PATH,
        get(move |request: axum::extract::Request| {
            super::websocket::upgrade(endpoint.clone(), request)
        }),
    )
}
