//! What has happened so far, in numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shared::image::Transport;

use super::{Settled, Settlement};
use crate::progress::{Snapshot, Source, State};

/// Counts of one series.
#[derive(Debug)]
pub struct Tally {
    transport: Transport,
    total: Option<u64>,
    captured: AtomicU64,
    delivered: AtomicU64,
    duplicates: AtomicU64,
    quarantined: AtomicU64,
    lost: AtomicU64,
    retries: AtomicU64,
    bytes_delivered: AtomicU64,
    in_flight: AtomicU64,
    state: parking_lot::Mutex<State>,
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
    /// Attempts beyond the first.
    pub retries: u64,
}

impl Totals {
    /// Images that were not answered yet.
    pub fn owed(&self) -> u64 {
        let answered = self.delivered + self.duplicates + self.quarantined + self.lost;
        self.captured.saturating_sub(answered)
    }
}

impl Tally {
    /// Nothing has happened yet; `total` images will come, if that is known.
    pub fn new(transport: Transport, total: Option<u64>) -> Self {
        Self {
            transport,
            total,
            captured: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            bytes_delivered: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            state: parking_lot::Mutex::new(State::Connecting),
        }
    }

    /// An image was taken from the source.
    pub fn capture(&self) {
        self.captured.fetch_add(1, Relaxed);
    }

    /// The run was stopped before the image could be kept: it was not taken after all.
    pub fn uncapture(&self) {
        self.captured.fetch_sub(1, Relaxed);
    }

    /// An image was taken from the source and cannot be kept.
    pub fn lose(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    /// The counts now.
    pub fn totals(&self) -> Totals {
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
    pub(super) fn flight(&self, size: u64, attempt: u32) -> Flight<'_> {
        self.in_flight.fetch_add(size, Relaxed);
        if attempt > 1 {
            self.retries.fetch_add(1, Relaxed);
        }
        Flight { tally: self, size }
    }

    pub(super) fn settle(&self, settled: &Settled) {
        let counter = match &settled.settlement {
            Settlement::Receipt(_) if settled.is_duplicate() => &self.duplicates,
            Settlement::Receipt(receipt) => {
                self.bytes_delivered.fetch_add(receipt.size, Relaxed);
                &self.delivered
            }
            Settlement::Quarantined(_) => &self.quarantined,
            Settlement::Lost(_) => &self.lost,
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
        Snapshot {
            captured: totals.captured,
            delivered: totals.delivered,
            duplicates: totals.duplicates,
            quarantined: totals.quarantined,
            lost: totals.lost,
            owed: totals.owed(),
            retries: totals.retries,
            bytes_delivered: self.bytes_delivered.load(Relaxed),
            in_flight_bytes: self.in_flight.load(Relaxed),
            total: self.total,
            transport: self.transport,
            state: *self.state.lock(),
        }
    }
}
