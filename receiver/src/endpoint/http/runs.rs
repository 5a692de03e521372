//! Runs, as the catalogue counts them.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::clock::UnixNanos;
use shared::image::Transport;
use shared::report::RunAccount;

use super::query::Query;
use super::{Moment, ReadState};
use crate::catalog::Series;
use crate::catalog::sqlite::MAX_SERIES;
use crate::problem::Problem;

#[derive(Serialize)]
struct Runs {
    runs: Vec<Run>,
    /// There are more, which began earlier; ask with a filter.
    truncated: bool,
}

#[derive(Serialize)]
struct Run {
    run: String,
    transport: Transport,
    transmitter: String,
    stored: u64,
    quarantined: u64,
    duplicates: u64,
    rejected: u64,
    bytes: u64,
    first: Moment,
    last: Moment,
    account: Option<RunAccount>,
}

impl From<Series> for Run {
    fn from(series: Series) -> Self {
        Self {
            run: series.run,
            transport: series.transport,
            transmitter: series.transmitter,
            stored: series.stored,
            quarantined: series.quarantined,
            duplicates: series.duplicates,
            rejected: series.rejected,
            bytes: series.bytes,
            first: UnixNanos(series.first_ns).into(),
            last: UnixNanos(series.last_ns).into(),
            account: series.account,
        }
    }
}

/// `GET /v1/runs`
pub(super) async fn runs(
    State(state): State<ReadState>,
    query: Query,
) -> Result<Response, Problem> {
    let filter = query.only(&["run", "transport", "transmitter"])?.filter()?;
    let series = state.catalog.series(filter).await?;
    let truncated = series.len() >= MAX_SERIES;
    let runs = series.into_iter().map(Run::from).collect();
    Ok(Json(Runs { runs, truncated }).into_response())
}
