//! What will never arrive, and what is missing without a word.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::clock::UnixNanos;
use shared::digest::Digest;
use shared::image::{ImageId, OutboxId, Transport};

use super::query::Query;
use super::{Moment, ReadState};
use crate::catalog::{Gap, KeptLoss, LossFilter};
use crate::problem::Problem;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Gaps of one answer.
const MAX_GAPS: usize = 1_000;

#[derive(Serialize)]
struct Page {
    losses: Vec<Item>,
    /// Only on the first page.
    gaps: Vec<Missing>,
    /// There are more gaps; ask by transmitter, outbox or run.
    gaps_truncated: bool,
    /// Where the next page begins: the parameter `cursor`.
    next: Option<i64>,
}

#[derive(Serialize)]
struct Item {
    number: i64,
    transmitter: String,
    outbox: Option<OutboxId>,
    sequence: u64,
    image_id: ImageId,
    digest: Option<Digest>,
    reason: String,
    run: String,
    /// Transmitter's clock.
    at: Moment,
    /// Receiver's clock.
    received: Moment,
}

impl From<KeptLoss> for Item {
    fn from(kept: KeptLoss) -> Self {
        Self {
            number: kept.number,
            transmitter: kept.transmitter,
            outbox: kept.outbox,
            sequence: kept.loss.sequence,
            image_id: kept.loss.image_id,
            digest: kept.loss.digest,
            reason: kept.loss.reason,
            run: kept.loss.run,
            at: kept.loss.at.into(),
            received: kept.received.into(),
        }
    }
}

#[derive(Serialize)]
struct Missing {
    transmitter: String,
    outbox: OutboxId,
    first: u64,
    last: u64,
    missing: u64,
    run: String,
    transport: Option<Transport>,
    found: Moment,
}

impl From<Gap> for Missing {
    fn from(gap: Gap) -> Self {
        Self {
            transmitter: gap.transmitter,
            outbox: gap.outbox,
            first: gap.first,
            last: gap.last,
            missing: gap.missing,
            run: gap.run,
            transport: gap.transport,
            found: gap.found.into(),
        }
    }
}

/// A time as RFC 3339 or as nanoseconds since 1970.
struct Since(UnixNanos);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(nanos) = text.parse() {
            return Ok(Self(UnixNanos(nanos)));
        }
        let time: Option<jiff::Timestamp> = text.parse().ok();
        let nanos = time.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
        nanos.map(|nanos| Self(UnixNanos(nanos))).ok_or_else(|| {
            "give a time such as 2026-01-02T03:04:05Z, or nanoseconds since 1970".to_owned()
        })
    }
}

/// `GET /v1/losses`
pub(super) async fn losses(
    State(state): State<ReadState>,
    query: Query,
) -> Result<Response, Problem> {
    let query = query.only(&["transmitter", "outbox", "run", "since", "limit", "cursor"])?;
    let filter = LossFilter {
        transmitter: query.text("transmitter").map(str::to_owned),
        outbox: query.read("outbox")?,
        run: query.text("run").map(str::to_owned),
        since: query.read::<Since>("since")?.map(|since| since.0),
    };
    let cursor: Option<i64> = query.read("cursor")?;
    let limit = query.read("limit")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let detail = format!("parameter limit={limit}: use 1 to {MAX_LIMIT}");
        return Err(Problem::parameter("limit", detail));
    }
    let mut gaps = Vec::new();
    if cursor.is_none() {
        gaps = state.catalog.gaps(filter.clone(), MAX_GAPS + 1).await?;
    }
    let gaps_truncated = gaps.len() > MAX_GAPS;
    gaps.truncate(MAX_GAPS);
    // One more tells whether there is a next page.
    let mut losses = state
        .catalog
        .losses(filter, cursor.unwrap_or(0), limit + 1)
        .await?;
    let more = losses.len() > limit;
    losses.truncate(limit);
    let next = losses.last().filter(|_| more).map(|loss| loss.number);
    Ok(Json(Page {
        losses: losses.into_iter().map(Item::from).collect(),
        gaps: gaps.into_iter().map(Missing::from).collect(),
        gaps_truncated,
        next,
    })
    .into_response())
}
