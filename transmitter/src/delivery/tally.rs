//! What has happened so far, in numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shared::image::Transport;

use super::{LossKind, Settled, Settlement};
use crate::outbox::Outbox;
use crate::progress::{Snapshot, Source, State};

/// Counts of one series: of its own images, and apart from them of those that were captured
/// earlier and are delivered with it.
pub struct Tally {
    transport: Transport,
    total: Option<u64>,
    outbox: Option<Arc<dyn Outbox>>,
    own: Counters,
    earlier: Counters,
    lost_by_kind: [AtomicU64; LossKind::ALL.len()],
    bytes_delivered: AtomicU64,
    in_flight: AtomicU64,
    state: parking_lot::Mutex<State>,
}

#[derive(Debug, Default)]
struct Counters {
    captured: AtomicU64,
    delivered: AtomicU64,
    duplicates: AtomicU64,
    quarantined: AtomicU64,
    lost: AtomicU64,
    retries: AtomicU64,
}

impl Counters {
    fn totals(&self) -> Totals {
        // Captured last: an image is never settled before it is captured.
        let (delivered, duplicates) = (self.delivered.load(Relaxed), self.duplicates.load(Relaxed));
        let (quarantined, lost) = (self.quarantined.load(Relaxed), self.lost.load(Relaxed));
        let retries = self.retries.load(Relaxed);
        let captured = self.captured.load(Relaxed);
        Totals {
            captured,
            delivered,
            duplicates,
            quarantined,
            lost,
            retries,
        }
    }
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Images taken from the source.
    pub captured: u64,
    /// Stored.
    pub delivered: u64,
    /// Had been there before.
    pub duplicates: u64,
    /// Kept apart by the receiver.
    pub quarantined: u64,
    /// Will never arrive.
    pub lost: u64,
    /// Times that images were sent again, attempts that do not count included.
    pub retries: u64,
}

impl Totals {
    /// Images that were not answered yet.
    pub fn owed(&self) -> u64 {
        self.captured.saturating_sub(self.settled())
    }

    /// Images that need nothing more.
    pub fn settled(&self) -> u64 {
        self.delivered + self.duplicates + self.quarantined + self.lost
    }
}

impl Tally {
    /// Nothing has happened yet; `total` images will come, if that is known. The backlog shown is
    /// that of `outbox`, if there is one.
    pub fn new(transport: Transport, total: Option<u64>, outbox: Option<Arc<dyn Outbox>>) -> Self {
        Self {
            transport,
            total,
            outbox,
            own: Counters::default(),
            earlier: Counters::default(),
            lost_by_kind: Default::default(),
            bytes_delivered: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            state: parking_lot::Mutex::new(State::Connecting),
        }
    }

    /// The transport of the series.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// An image was taken from the source.
    pub fn capture(&self) {
        self.own.captured.fetch_add(1, Relaxed);
    }

    /// The run was stopped before the image could be kept: it was not taken after all.
    pub fn uncapture(&self) {
        self.own.captured.fetch_sub(1, Relaxed);
    }

    /// An image is lost that was not on its way.
    pub fn lose(&self, own: bool, kind: LossKind) {
        let counters = if own { &self.own } else { &self.earlier };
        counters.lost.fetch_add(1, Relaxed);
        self.lost_by_kind[kind as usize].fetch_add(1, Relaxed);
    }

    /// The counts of the series now.
    pub fn totals(&self) -> Totals {
        self.own.totals()
    }

    /// The counts of images that were captured earlier; none of them as captured.
    pub fn earlier(&self) -> Totals {
        self.earlier.totals()
    }

    /// Lost images by kind, of both.
    pub fn lost_by_kind(&self) -> impl Iterator<Item = (LossKind, u64)> {
        let kinds = LossKind::ALL.into_iter();
        kinds.map(|kind| (kind, self.lost_by_kind[kind as usize].load(Relaxed)))
    }

    /// Bytes of delivered images, of both.
    pub fn bytes_delivered(&self) -> u64 {
        self.bytes_delivered.load(Relaxed)
    }

    pub(super) fn connecting(&self) {
        *self.state.lock() = State::Connecting;
    }

    pub(super) fn sending(&self) {
        *self.state.lock() = State::Sending;
    }

    pub(super) fn waiting(&self, pause: Duration) {
        *self.state.lock() = State::Waiting(pause);
    }

    /// No more images will be captured.
    pub fn draining(&self) {
        *self.state.lock() = State::Draining;
    }

    /// An attempt begins; it ends when the guard is dropped.
    pub(super) fn flight(&self, size: u64, is_again: bool, own: bool) -> Flight<'_> {
        self.in_flight.fetch_add(size, Relaxed);
        if is_again {
            let counters = if own { &self.own } else { &self.earlier };
            counters.retries.fetch_add(1, Relaxed);
        }
        Flight { tally: self, size }
    }

    pub(super) fn settle(&self, settled: &Settled) {
        let counters = if settled.own {
            &self.own
        } else {
            &self.earlier
        };
        let counter = match &settled.settlement {
            Settlement::Receipt(_) if settled.is_duplicate() => &counters.duplicates,
            Settlement::Receipt(receipt) => {
                self.bytes_delivered.fetch_add(receipt.size, Relaxed);
                &counters.delivered
            }
            Settlement::Quarantined(_) => &counters.quarantined,
            Settlement::Lost(kind, _) => return self.lose(settled.own, *kind),
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// Bytes in flight.
pub(super) struct Flight<'a> {
    tally: &'a Tally,
    size: u64,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.tally.in_flight.fetch_sub(self.size, Relaxed);
    }
}

impl Source for Tally {
    fn snapshot(&self) -> Snapshot {
        let totals = self.totals();
        let backlog = self.outbox.as_ref().map(|outbox| outbox.backlog().images);
        Snapshot {
            captured: totals.captured,
            delivered: totals.delivered,
            duplicates: totals.duplicates,
            quarantined: totals.quarantined,
            lost: totals.lost,
            owed: totals.owed(),
            carried: backlog.unwrap_or(0).saturating_sub(totals.owed()),
            retries: totals.retries,
            bytes_delivered: self.bytes_delivered(),
            in_flight_bytes: self.in_flight.load(Relaxed),
            total: self.total,
            transport: self.transport,
            state: *self.state.lock(),
        }
    }
}
