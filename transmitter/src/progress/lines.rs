//! Progress for pipes and files: one log line now and then.

use std::time::Duration;

use shared::report::format;

use super::speed::Rates;
use super::{Display, Snapshot};

/// Logs progress.
#[derive(Debug)]
pub(super) struct Lines;

impl Display for Lines {
    const INTERVAL: Duration = Duration::from_secs(5);

    fn show(&mut self, snapshot: &Snapshot, rates: Rates) {
        log(snapshot, rates, "progress");
    }

    fn end(&mut self, snapshot: &Snapshot, rates: Rates) {
        log(snapshot, rates, "progress at the end");
    }
}

fn log(snapshot: &Snapshot, rates: Rates, message: &str) {
    tracing::info!(
        transport = snapshot.transport.key(),
        state = %snapshot.state.describe().replace(' ', "-"),
        captured = snapshot.captured,
        total = snapshot.total,
        delivered = snapshot.delivered,
        duplicates = snapshot.duplicates,
        quarantined = snapshot.quarantined,
        lost = snapshot.lost,
        owed = snapshot.owed,
        carried = (snapshot.carried > 0).then_some(snapshot.carried),
        retries = snapshot.retries,
        bytes = snapshot.bytes_delivered,
        in_flight_bytes = snapshot.in_flight_bytes,
        rate = %format::rate(rates.bytes_per_second).replace(' ', ""),
        eta_seconds = rates.left(snapshot).map(|left| left.as_secs()),
        "{message}"
    );
}
