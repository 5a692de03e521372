//! What nobody waits for, on its way to the writer, and how much of it there may be.
//!
//! Events of one series are added up while they wait, so that a client whose every message is turned
//! down costs two numbers. Series have the names that clients give them, and entries of
//! [`Durability::Memory`](shared::receipt::Durability::Memory) cannot be added up: both are weighed,
//! and whoever brings more waits when there is too much.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::write::Key;
use crate::catalog::{Entry, Tally, TallyKind};

/// Bytes that may wait, but for those of callers that are past their own wait.
const MOST: u64 = 4 << 20;

/// Series that may wait: those of one transaction, for which everybody waits.
const SERIES: usize = 500;

/// What one takes beside its names: maps and queues have room to spare.
const EACH: usize = 256;

/// Events of one series.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Events {
    pub(super) duplicates: u32,
    pub(super) rejected: u32,
}

impl Events {
    /// How many they are.
    pub(super) fn count(self) -> u64 {
        u64::from(self.duplicates) + u64::from(self.rejected)
    }
}

/// Events of several series, in order, as everything that is written.
pub(super) type Tallies = BTreeMap<Key, Events>;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Unwaited {
    tallies: Mutex<Tallies>,
    weight: AtomicU64,
    series: AtomicUsize,
    freed: Notify,
}

impl Unwaited {
    /// Adds an event. If it is the first one since [`Self::take`], `tell` tells the writer, before
    /// anybody can add another.
    pub(super) fn add(&self, tally: Tally, tell: impl FnOnce()) {
        let key = Key {
            run: tally.run,
            transport: tally.transport,
            transmitter: tally.transmitter,
        };
        let mut tallies = self.tallies.lock();
        let is_first = tallies.is_empty();
        let weight = weight_of_key(&key);
        let events = tallies.entry(key).or_insert_with(|| {
            self.weight.fetch_add(weight, Ordering::AcqRel);
            self.series.fetch_add(1, Ordering::AcqRel);
            Events::default()
        });
        match tally.kind {
            TallyKind::Duplicate => events.duplicates = events.duplicates.saturating_add(1),
            TallyKind::Rejected(_) => events.rejected = events.rejected.saturating_add(1),
        }
        if is_first {
            tell();
        }
    }

    /// Takes the events that were added.
    pub(super) fn take(&self) -> Tallies {
        let tallies = std::mem::take(&mut *self.tallies.lock());
        self.series.fetch_sub(tallies.len(), Ordering::AcqRel);
        self.give_back(tallies.keys().map(weight_of_key).sum());
        tallies
    }

    /// An entry begins to wait.
    pub(super) fn enter(&self, entry: &Entry) {
        self.weight
            .fetch_add(weight_of_entry(entry), Ordering::AcqRel);
    }

    /// It does not wait any more.
    pub(super) fn leave(&self, entry: &Entry) {
        self.give_back(weight_of_entry(entry));
    }

    fn give_back(&self, weight: u64) {
        self.weight.fetch_sub(weight, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Whether there is too much of it.
    pub(super) fn is_full(&self) -> bool {
        self.weight.load(Ordering::Acquire) >= MOST || self.series.load(Ordering::Acquire) >= SERIES
    }

    /// Waits until there is not.
    pub(super) async fn room(&self) {
        while self.is_full() {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.is_full() {
                freed.await;
            }
        }
    }
}

fn weight_of_key(key: &Key) -> u64 {
    (EACH + key.run.len() + key.transmitter.len()) as u64
}

fn weight_of_entry(entry: &Entry) -> u64 {
    let texts = [
        &entry.meta.run,
        &entry.transmitter,
        &entry.format,
        &entry.media_type,
        &entry.location,
    ];
    let texts: usize = texts.iter().map(|text| text.len()).sum();
    let said = [&entry.meta.name, &entry.meta.content_type];
    let said: usize = said.into_iter().flatten().map(String::len).sum();
    (2 * EACH + size_of::<Entry>() + texts + said) as u64
}

#[cfg(test)]
mod tests {
    use shared::image::Transport;
    use shared::receipt::RejectReason;

    use super::*;

    fn rejection(transmitter: &str) -> Tally {
        Tally {
            run: String::new(),
            transport: Transport::Grpc,
            transmitter: transmitter.to_owned(),
            kind: TallyKind::Rejected(RejectReason::UnknownImage),
        }
    }

    #[test]
    fn events_of_a_series_take_no_more_however_many_they_are() {
        let unwaited = Unwaited::default();
        let mut told = 0;
        let long = "x".repeat(16_000);
        for _ in 0..100_000 {
            unwaited.add(rejection(&long), || told += 1);
        }
        assert_eq!(told, 1);
        assert!(unwaited.weight.load(Ordering::Relaxed) < 20_000);
        let taken = unwaited.take();
        assert_eq!(taken.len(), 1);
        assert_eq!(
            taken.values().map(|events| events.count()).sum::<u64>(),
            100_000
        );
        assert_eq!(unwaited.weight.load(Ordering::Relaxed), 0);
        unwaited.add(rejection(&long), || told += 1);
        assert_eq!(told, 2);
    }

    #[tokio::test]
    async fn who_makes_up_names_waits_until_those_before_are_written() {
        let unwaited = Unwaited::default();
        let mut names = 0..;
        while !unwaited.is_full() {
            let name = names.next().map(|name: u32| name.to_string());
            unwaited.add(rejection(&name.expect("there are more")), || {});
        }
        let names = unwaited.tallies.lock().len();
        assert!((100..1_000).contains(&names), "{names}");
        let waiting = unwaited.room();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(unwaited.take());
        waiting.await;
    }
}
