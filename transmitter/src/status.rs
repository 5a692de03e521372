//! What can be asked of a transmitter that runs: `/healthz`, `/readyz` and `/metrics`
//! (`--status-listen`).

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use shared::clock::UnixNanos;
use shared::telemetry::WireCount;
use shared::telemetry::otlp::Figures;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Delivery, Tally};
use crate::limiter::Limiter;
use crate::outbox::Outbox;
use crate::receipts::ReceiptLog;

mod metrics;
mod serve;
#[cfg(test)]
mod tests;

pub use serve::serve;

/// Gives the figures of now.
pub fn figures(status: &Arc<Status>) -> Figures {
    let status = Arc::clone(status);
    Arc::new(move || {
        let status = Arc::clone(&status);
        Box::pin(async move { metrics::text(&status, UnixNanos::now()).await })
    })
}

/// Everything that is told, read when somebody asks.
pub struct Status {
    outbox: Arc<dyn Outbox>,
    receipts: Option<Arc<ReceiptLog>>,
    limiter: Limiter,
    /// Cancelled when no more images are taken.
    draining: CancellationToken,
    /// One for each transport so far, the present one last.
    series: Mutex<Vec<Seen>>,
}

/// A series as it is seen from here.
#[derive(Clone)]
struct Seen {
    tally: Arc<Tally>,
    wire: WireCount,
    /// Gone when the series is over.
    delivery: Weak<Delivery>,
}

/// One of the things that must be well for images to flow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    name: &'static str,
    /// What is wrong with it.
    state: Result<(), String>,
}

impl Status {
    /// The status of a run that has not begun, and takes no more images once `draining` is cancelled.
    pub fn new(
        outbox: Arc<dyn Outbox>,
        receipts: Option<Arc<ReceiptLog>>,
        limiter: Limiter,
        draining: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            outbox,
            receipts,
            limiter,
            draining,
            series: Mutex::default(),
        })
    }

    /// A series begins.
    pub fn begin(&self, tally: &Arc<Tally>, wire: &WireCount, delivery: &Arc<Delivery>) {
        self.series.lock().push(Seen {
            tally: Arc::clone(tally),
            wire: wire.clone(),
            delivery: Arc::downgrade(delivery),
        });
    }

    /// The delivery of the present series.
    fn delivery(&self) -> Option<Arc<Delivery>> {
        self.series.lock().last()?.delivery.upgrade()
    }

    /// How it goes, in a few words. To say so it goes through the state that every image goes through.
    pub fn words(&self) -> String {
        let owed = self.outbox.backlog().images;
        let reach = match self.delivery().map(|delivery| delivery.reach()) {
            Some(Ok(())) => "the receiver is reached",
            Some(Err(_)) | None => "no receiver is reached",
        };
        format!("{owed} images owed; {reach}")
    }

    fn parts(&self) -> Vec<Part> {
        let reach = self.delivery().map_or_else(
            || Err("no receiver was reached yet".to_owned()),
            |delivery| delivery.reach(),
        );
        let mut parts = vec![
            Part {
                name: "outbox",
                state: self.outbox.health(),
            },
            Part {
                name: "receiver",
                state: reach,
            },
        ];
        if let Some(receipts) = &self.receipts {
            parts.push(Part {
                name: "receipts",
                state: receipts.health(),
            });
        }
        parts
    }
}
