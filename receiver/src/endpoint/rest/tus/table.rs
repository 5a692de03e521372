//! What the endpoint remembers of uploads, and whose turn it is with each.
//!
//! The bytes of an unfinished upload are in the intake's keeping, like those of every transport;
//! here is only what tus wants to know besides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use parking_lot::Mutex;
use shared::image::ImageId;
use shared::receipt::Receipt;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

/// Uploads that are remembered at most, and bytes of their metadata in all. Beyond, the oldest are
/// forgotten.
const MAX_RECORDS: usize = 4_096;
const MAX_METADATA: usize = 16 << 20;

/// What became of an upload.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// It is on its way, or has expired.
    Unfinished,
    /// The image is stored.
    Complete {
        /// The proof.
        receipt: Arc<Receipt>,
        /// Whether it was there already when the upload was created.
        at_once: bool,
    },
    /// There will never be more of it; why.
    Gone(Arc<str>),
}

#[derive(Debug, Clone)]
pub(super) struct Record {
    /// The header `Upload-Metadata` of its creation.
    pub(super) metadata: Option<HeaderValue>,
    pub(super) fate: Fate,
    since: Instant,
    /// Grows with every change, of whatever record.
    change: u64,
}

impl Record {
    fn weight(&self) -> usize {
        self.metadata.as_ref().map_or(0, HeaderValue::len)
    }
}

pub(super) struct Table {
    records: Mutex<Records>,
    turns: Mutex<HashMap<ImageId, Line>>,
    /// How long a record is kept after its last change: longer than unfinished uploads are, so
    /// that an expired one can be told from one that never was.
    ttl: Duration,
}

#[derive(Default)]
struct Records {
    by_id: HashMap<ImageId, Record>,
    metadata_bytes: usize,
    changes: u64,
}

impl Records {
    fn next_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    fn remove(&mut self, id: ImageId) -> Option<Record> {
        let record = self.by_id.remove(&id)?;
        self.metadata_bytes -= record.weight();
        Some(record)
    }

    fn insert(&mut self, id: ImageId, record: Record) {
        self.remove(id);
        self.metadata_bytes += record.weight();
        self.by_id.insert(id, record);
    }

    fn oldest(&self) -> Option<ImageId> {
        let records = self.by_id.iter();
        records
            .min_by_key(|(_, record)| record.change)
            .map(|(id, _)| *id)
    }
}

impl Table {
    /// For uploads that are kept for `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            records: Mutex::default(),
            turns: Mutex::default(),
            ttl: ttl.saturating_mul(2),
        }
    }

    /// Remembers a new upload.
    pub(super) fn create(&self, id: ImageId, metadata: Option<HeaderValue>, fate: Fate) {
        let mut records = self.records.lock();
        let record = Record {
            metadata,
            fate,
            since: Instant::now(),
            change: records.next_change(),
        };
        records.insert(id, record);
        while records.by_id.len() > MAX_RECORDS || records.metadata_bytes > MAX_METADATA {
            let Some(oldest) = records.oldest() else {
                break;
            };
            records.remove(oldest);
        }
    }

    /// Remembers what became of an upload.
    pub(super) fn settle(&self, id: ImageId, fate: Fate) {
        let metadata = match fate {
            Fate::Gone(_) => None,
            _ => self.record(id).and_then(|record| record.metadata),
        };
        self.create(id, metadata, fate);
    }

    /// The upload goes on: keeps its record from growing old.
    pub(super) fn touch(&self, id: ImageId) {
        let mut records = self.records.lock();
        let change = records.next_change();
        if let Some(record) = records.by_id.get_mut(&id) {
            record.since = Instant::now();
            record.change = change;
        }
    }

    /// What is remembered.
    pub(super) fn record(&self, id: ImageId) -> Option<Record> {
        let mut records = self.records.lock();
        if records.by_id.get(&id)?.since.elapsed() > self.ttl {
            records.remove(id);
        }
        records.by_id.get(&id).cloned()
    }

    /// Forgets an upload that nobody can know of.
    pub(super) fn forget(&self, id: ImageId) {
        self.records.lock().remove(id);
    }

    /// Waits for the turn with an upload, and asks whoever has it to let go: a request of an upload
    /// whose earlier request is still open comes from a client that gave that one up, mostly
    /// because its connection is dead without this side's knowing.
    pub(super) async fn turn(self: &Arc<Self>, id: ImageId) -> Turn {
        let (seat, mutex, interrupt) = {
            let mut turns = self.turns.lock();
            let line = turns.entry(id).or_default();
            line.interrupt.cancel();
            line.interrupt = CancellationToken::new();
            line.users += 1;
            let table = Arc::clone(self);
            let seat = Seat { table, id };
            (seat, Arc::clone(&line.mutex), line.interrupt.clone())
        };
        Turn {
            _guard: mutex.lock_owned().await,
            _seat: seat,
            interrupt,
        }
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> usize {
        self.turns.lock().len()
    }
}

/// Requests of one upload, one of which has its turn.
#[derive(Default)]
struct Line {
    mutex: Arc<tokio::sync::Mutex<()>>,
    /// Of the newest.
    interrupt: CancellationToken,
    users: usize,
}

/// A place in a line, which is gone with the last one.
struct Seat {
    table: Arc<Table>,
    id: ImageId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut turns = self.table.turns.lock();
        if let Some(line) = turns.get_mut(&self.id) {
            line.users -= 1;
            if line.users == 0 {
                turns.remove(&self.id);
            }
        }
    }
}

/// The turn with an upload, until it is dropped. The guard goes before the seat.
pub(super) struct Turn {
    _guard: OwnedMutexGuard<()>,
    _seat: Seat,
    interrupt: CancellationToken,
}

impl Turn {
    /// Returns when a newer request waits.
    pub(super) async fn interrupted(&self) {
        self.interrupt.cancelled().await;
    }

    /// Whether one does.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupt.is_cancelled()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn table(ttl: Duration) -> Arc<Table> {
        Arc::new(Table::new(ttl))
    }

    #[tokio::test]
    async fn a_newer_request_interrupts_the_older_ones_and_comes_last() {
        let table = table(Duration::MAX);
        let id = ImageId::new();
        let first = table.turn(id).await;
        assert!(!first.is_interrupted());
        let mut second = Box::pin(table.turn(id));
        assert!(futures_util::poll!(&mut second).is_pending());
        first.interrupted().await;
        let mut third = Box::pin(table.turn(id));
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut third).is_pending());
        let second = second.await;
        assert!(second.is_interrupted());
        drop(second);
        assert!(!third.await.is_interrupted());
        assert_eq!(table.lines(), 0);
    }

    #[tokio::test]
    async fn giving_up_while_waiting_leaves_nothing_behind() {
        let table = table(Duration::MAX);
        let id = ImageId::new();
        let first = table.turn(id).await;
        let mut second = Box::pin(table.turn(id));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(second);
        drop(first);
        assert_eq!(table.lines(), 0);
        drop(table.turn(id).await);
    }

    #[test]
    fn records_are_limited_in_number_and_metadata() {
        let table = table(Duration::MAX);
        let first = ImageId::new();
        let large = HeaderValue::from_bytes(&[b'a'; 16 << 10]).unwrap();
        table.create(first, Some(large.clone()), Fate::Unfinished);
        for _ in 1..MAX_METADATA / large.len() {
            table.create(ImageId::new(), Some(large.clone()), Fate::Unfinished);
        }
        assert!(table.record(first).is_some());
        table.create(ImageId::new(), Some(large), Fate::Unfinished);
        assert!(table.record(first).is_none());
        for _ in 0..MAX_RECORDS + 1 {
            table.create(ImageId::new(), None, Fate::Gone("test".into()));
        }
        let records = table.records.lock();
        assert_eq!(records.by_id.len(), MAX_RECORDS);
        assert_eq!(records.metadata_bytes, 0);
    }

    #[test]
    fn old_records_are_forgotten() {
        let table = table(Duration::ZERO);
        let id = ImageId::new();
        table.create(id, None, Fate::Unfinished);
        while table.records.lock().by_id[&id].since.elapsed().is_zero() {
            std::hint::spin_loop();
        }
        assert!(table.record(id).is_none());
        assert!(table.records.lock().by_id.is_empty());
    }
}
