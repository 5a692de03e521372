//! Figures, and whether the receiver lives and can take work.

use std::fmt::Display;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use shared::settings::units::ByteSize;

use super::ReadState;
use super::readiness::{PATIENCE, Trouble};
use crate::catalog::{Catalog, CatalogError, Filter};
use crate::problem::Problem;
use crate::store::{ImageStore, Room, StoreError};

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

/// `GET /readyz`: whether an image that comes now would be taken. The document has the same members
/// whether it is or not.
pub(super) async fn readyz(State(state): State<ReadState>) -> Result<Response, Problem> {
    let readiness = &state.readiness;
    let (catalogue, store, disk) = tokio::join!(
        readiness
            .catalogue
            .ask(|| catalogued(Arc::clone(&state.catalog))),
        readiness.store.ask(|| stored(Arc::clone(&state.store))),
        readiness.disk.ask(|| looked(Arc::clone(&state.store))),
    );
    let draining = state.draining.is_cancelled();
    let has_room = matches!(&disk, Ok(room) if room.is_none_or(|room| !room.full));
    let ready = catalogue.is_ok() && store.is_ok() && has_room && !draining;
    let drain = match draining {
        true => json!({ "state": "draining", "problem": "the receiver is stopping" }),
        false => json!({ "state": "ok" }),
    };
    let settling = match readiness.is_settling() {
        // Images are taken meanwhile.
        true => "going-on",
        false => "ok",
    };
    let checks = json!({
        "catalogue": part(&catalogue),
        "store": part(&store),
        "disk": disk_part(&disk),
        "drain": drain,
        "settling": { "state": settling },
    });
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

/// What is told of a part: a word, and the problem if there is one.
fn part<T>(found: &Result<T, Trouble>) -> Value {
    match found {
        Ok(_) => json!({ "state": "ok" }),
        Err((word, problem)) => json!({ "state": word, "problem": problem }),
    }
}

fn disk_part(found: &Result<Option<Room>, Trouble>) -> Value {
    let room = match found {
        Ok(Some(room)) => room,
        Ok(None) => return json!({ "state": "unused" }),
        Err(_) => return part(found),
    };
    let Room { free, floor, full } = *room;
    let mut said = match full {
        false => part(&Ok(())),
        true if free < floor => part::<()>(&Err(("low", too_little(free, floor)))),
        true => part::<()>(&Err(("full", DISK_FULL.to_owned()))),
    };
    said["free_bytes"] = json!(free);
    said["floor_bytes"] = json!(floor);
    said
}

const DISK_FULL: &str = "the disk is full";

/// The system's error is for the log: it names paths of this machine.
pub(super) const SEE_LOG: &str = "fails; see the receiver's log";

fn too_little(free: u64, floor: u64) -> String {
    let (free, floor) = (ByteSize(free), ByteSize(floor));
    format!("{free} are free, less than the {floor} of RECEIVER_MIN_FREE")
}

/// Whether the catalogue can be read and, where it could not be written, whether it can be again.
async fn catalogued(catalog: Arc<dyn Catalog>) -> Result<(), Trouble> {
    let fails = |error: CatalogError| fails("catalogue", &error);
    let listed = catalog.list(Filter::default(), i64::MAX, 1).await;
    listed.map_err(fails)?;
    match catalog.failure() {
        Some(_) => catalog.try_to_write().await.map_err(fails),
        None => Ok(()),
    }
}

/// Whether the store takes images. That it is full is told to everybody, and logged where it began.
async fn stored(store: Arc<dyn ImageStore>) -> Result<(), Trouble> {
    store.check().await.map_err(|error| match error {
        StoreError::Full { .. } => ("full", DISK_FULL.to_owned()),
        StoreError::Low { free, least, .. } => ("full", too_little(free, least)),
        error => fails("store", &error),
    })
}

async fn looked(store: Arc<dyn ImageStore>) -> Result<Option<Room>, Trouble> {
    Ok(store.look_for_room().await)
}

fn fails(part: &'static str, error: &dyn Display) -> Trouble {
    tracing::warn!(part, %error, "not ready");
    ("fails", SEE_LOG.to_owned())
}
