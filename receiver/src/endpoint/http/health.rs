//! Figures, and whether the receiver lives and can take work.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use shared::settings::units::ByteSize;

use super::ReadState;
use crate::catalog::{CatalogError, Filter};
use crate::problem::Problem;
use crate::store::StoreError;

/// Time within which a part must answer to count as ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// `GET /metrics`
pub(super) async fn metrics(State(state): State<ReadState>) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (headers, figures(&state).await).into_response()
}

/// The figures of now.
pub(super) async fn figures(state: &ReadState) -> String {
    // A catalogue that fails shows in the log and at /readyz; the other figures are told all the
    // same.
    match tokio::time::timeout(PATIENCE, state.catalog.integrity()).await {
        Ok(Ok(integrity)) => state.metrics.integrity(&integrity),
        Ok(Err(error)) => tracing::warn!(%error, "figures of sequence numbers are not new"),
        Err(_) => tracing::warn!("figures of sequence numbers are not new: no answer in time"),
    }
    state.metrics.memory(&state.budget.usage());
    state.metrics.catalogue(state.catalog.failure().is_some());
    state.metrics.handle().render() + &(state.load)()
}

/// `GET /healthz`: the process answers, no more.
pub(super) async fn healthz() -> Response {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], "ok\n").into_response()
}

/// `GET /readyz`: whether an image that comes now would be taken.
pub(super) async fn readyz(State(state): State<ReadState>) -> Result<Response, Problem> {
    let (catalogue, store) = tokio::join!(
        answers("catalogue", catalogued(&state)),
        answers("store", stored(&state)),
    );
    let store = store.and_then(|stored| stored);
    let draining = state.draining.is_cancelled();
    let ready = catalogue.is_ok() && store.is_ok() && !draining;
    let word = |found: &Result<(), String>| match found {
        Ok(()) => json!("ok"),
        Err(problem) => json!(problem),
    };
    let checks: Value =
        json!({ "catalogue": word(&catalogue), "store": word(&store), "draining": draining });
    if ready {
        return Ok(Json(json!({ "ready": true, "checks": checks })).into_response());
    }
    let detail = if draining {
        "the receiver is stopping"
    } else {
        "a part of the receiver fails; see checks, and the receiver's log"
    };
    let title = "the receiver is not ready";
    Err(
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", title, detail)
            .with("ready", false)
            .with("checks", checks),
    )
}

/// Whether the catalogue can be read and, where it could not be written, whether it can be again.
async fn catalogued(state: &ReadState) -> Result<(), CatalogError> {
    state.catalog.list(Filter::default(), i64::MAX, 1).await?;
    match state.catalog.failure() {
        Some(_) => state.catalog.try_to_write().await,
        None => Ok(()),
    }
}

/// Whether the store takes images. That it is full is told to everybody, and logged where it began.
async fn stored(state: &ReadState) -> Result<Result<(), String>, StoreError> {
    match state.store.check().await {
        Err(StoreError::Full { .. }) => Ok(Err("the disk is full".to_owned())),
        Err(StoreError::Low { free, least, .. }) => Ok(Err(format!(
            "{} are free, less than the {} of RECEIVER_MIN_FREE",
            ByteSize(free),
            ByteSize(least)
        ))),
        checked => checked.map(Ok),
    }
}

/// The system's error is for the log: it names paths of this machine.
async fn answers<T, E: Display>(
    part: &'static str,
    check: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, check).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            tracing::warn!(part, %error, "not ready");
            Err("fails; see the receiver's log".to_owned())
        }
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
