//! What can be asked of a transmitter that runs: `/healthz`, `/readyz` and `/metrics`
//! (`--status-listen`).

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use shared::clock::UnixNanos;
use shared::telemetry::WireCount;
use shared::telemetry::otlp::Figures;

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
    /// The status of a run that has not begun.
    pub fn new(
        outbox: Arc<dyn Outbox>,
        receipts: Option<Arc<ReceiptLog>>,
        limiter: Limiter,
    ) -> Arc<Self> {
        Arc::new(Self {
            outbox,
            receipts,
            limiter,
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
