//! What is known of one image.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::clock::ClockEstimate;
use shared::digest::Digest;
use shared::image::{ImageId, Transport};
use shared::receipt::{Receipt, ReceiptStatus, Reject, RejectReason};

use super::query::Query;
use super::{Id, Moment, ReadState, entry, images};
use crate::catalog::{self, Verdict};
use crate::problem::Problem;

#[derive(Serialize)]
struct Facts {
    image_id: ImageId,
    run: String,
    transport: Transport,
    transmitter: String,
    sequence: u64,
    name: Option<String>,
    size: u64,
    digest: Digest,
    status: &'static str,
    reason: Option<RejectReason>,
    attempts: u32,
    timeline: Timeline,
    /// The receiver's clock as the transmitter knew it when it sent the image.
    clock: Option<ClockEstimate>,
    /// One way, corrected by the clocks' offset.
    transmission: Option<Span>,
    /// Send start to receipt, on one clock, hence without an error.
    delivery: Option<Span>,
}

/// In order; the first three by the transmitter's clock, the others by the receiver's.
#[derive(Serialize)]
struct Timeline {
    captured: Option<Moment>,
    queued: Option<Moment>,
    send_started: Option<Moment>,
    first_byte: Option<Moment>,
    last_byte: Option<Moment>,
    verified: Option<Moment>,
    durable: Option<Moment>,
}

#[derive(Serialize)]
struct Span {
    ns: u64,
    /// The true time lies within plus or minus this much; `null` when that is not known.
    error_ns: Option<u64>,
}

/// `GET /v1/images/{id}/timeline`
pub(super) async fn timeline(
    State(state): State<ReadState>,
    Id(id): Id,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&[])?;
    let numbered = entry(&state, id).await?;
    let row = catalog::report_row(&numbered);
    let entry = numbered.entry;
    let facts = Facts {
        image_id: id,
        run: entry.meta.run,
        transport: entry.transport,
        transmitter: entry.transmitter,
        sequence: row.sequence,
        name: row.name,
        size: row.size,
        digest: entry.digest,
        status: images::status(&entry.verdict),
        reason: match entry.verdict {
            Verdict::Stored => None,
            Verdict::Quarantined { reason, .. } => Some(reason),
        },
        attempts: row.attempts,
        timeline: Timeline {
            captured: row.captured.map(Moment::from),
            queued: row.queued.map(Moment::from),
            send_started: row.send_started.map(Moment::from),
            first_byte: row.first_byte.map(Moment::from),
            last_byte: row.last_byte.map(Moment::from),
            verified: row.verified.map(Moment::from),
            durable: row.durable.map(Moment::from),
        },
        clock: entry.meta.clock,
        transmission: row.transmission_ns.map(|ns| Span {
            ns,
            error_ns: row.transmission_error_ns,
        }),
        delivery: row.delivery_ns.map(|ns| Span {
            ns,
            error_ns: Some(0),
        }),
    };
    Ok(Json(facts).into_response())
}

/// `GET /v1/images/{id}/receipt`: what the sender was told when the image came.
pub(super) async fn receipt(
    State(state): State<ReadState>,
    Id(id): Id,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&[])?;
    let entry = entry(&state, id).await?.entry;
    Ok(match entry.verdict {
        Verdict::Quarantined { reason, message } => {
            let reject = Reject {
                quarantined: true,
                ..Reject::new(id, reason, message)
            };
            Json(reject).into_response()
        }
        Verdict::Stored => Json(Receipt {
            image_id: id,
            status: ReceiptStatus::Stored,
            size: entry.meta.size,
            digest: entry.digest,
            durability: entry.durability,
            format: entry.format,
            width: entry.width,
            height: entry.height,
            timeline: entry.timeline,
            receiver: state.name.to_string(),
        })
        .into_response(),
    })
}
