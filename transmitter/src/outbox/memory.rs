//! An outbox in memory: for benchmarks and tests, and for devices that may lose what they owe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::clock::UnixNanos;
use shared::image::{ImageId, ImageMeta, OutboxId};
use shared::report::RunAccount;
use shared::wire::{Loss, Standing};
use tokio::sync::Notify;

use super::{
    Backlog, Counts, Extent, FileMark, Lost, Outbox, OutboxError, Outcome, Owed, Pushed, SeriesKey,
};
use crate::config::Order;

/// Bytes that an image of a file source counts for: its metadata.
const ENTRY_BYTES: u64 = 1_024;

/// Images in memory. A source waits while there is no room.
pub struct MemoryOutbox {
    id: OutboxId,
    limit: u64,
    order: Order,
    state: Mutex<State>,
    /// Room may have been made.
    room: Notify,
    /// Something may be waiting, or the end has come.
    work: Notify,
    /// An entry has come into the ledger.
    loss: Notify,
}

#[derive(Default)]
struct State {
    last_sequence: u64,
    images: BTreeMap<u64, (Arc<Owed>, Option<SeriesKey>)>,
    waiting: BTreeSet<u64>,
    sequences: HashMap<ImageId, u64>,
    backlog: Backlog,
    memory: u64,
    closed: bool,
    present: Option<SeriesKey>,
    series: BTreeMap<SeriesKey, Series>,
    ledger: BTreeMap<u64, Loss>,
}

#[derive(Default)]
struct Series {
    counts: Counts,
    account: Option<RunAccount>,
    told_end: bool,
}

impl State {
    fn count(&mut self, series: Option<&SeriesKey>, count: impl FnOnce(&mut Counts)) {
        let Some(key) = series.or(self.present.as_ref()).cloned() else {
            return;
        };
        count(&mut self.series.entry(key).or_default().counts);
    }

    fn standing(&self, outbox: OutboxId) -> Standing {
        let next_sequence = self.last_sequence + 1;
        let owed = self.images.keys().next().copied();
        let first_owed = owed.unwrap_or(next_sequence);
        Standing {
            outbox,
            first_owed,
            next_sequence,
        }
    }

    fn enter(&mut self, meta: &ImageMeta, reason: &str) {
        let loss = Loss {
            sequence: meta.sequence,
            image_id: meta.id,
            digest: meta.digest,
            reason: reason.to_owned(),
            at: UnixNanos::now(),
            run: meta.run.clone(),
        };
        self.ledger.insert(meta.sequence, loss);
    }
}

impl MemoryOutbox {
    /// An empty outbox for `limit` bytes.
    pub fn new(limit: u64, order: Order) -> Self {
        Self {
            id: OutboxId::new(),
            limit,
            order,
            state: Mutex::default(),
            room: Notify::new(),
            work: Notify::new(),
            loss: Notify::new(),
        }
    }

    /// What its sequence numbers count in.
    pub fn id(&self) -> OutboxId {
        self.id
    }

    fn cost(image: &Owed) -> u64 {
        image.payload.memory() + ENTRY_BYTES
    }

    /// Takes the image in if there is room for it.
    fn try_push(&self, image: &mut Option<Owed>, cost: u64) -> Result<Option<u64>, OutboxError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(OutboxError::Closed);
        }
        if state.memory + cost > self.limit && !state.images.is_empty() {
            return Ok(None);
        }
        let Some(mut image) = image.take() else {
            return Ok(None);
        };
        state.last_sequence += 1;
        let sequence = state.last_sequence;
        image.meta.sequence = sequence;
        image.meta.queued = Some(UnixNanos::now());
        state.backlog.images += 1;
        state.backlog.bytes += image.meta.size;
        state.memory += cost;
        state.count(None, |counts| counts.captured += 1);
        state.sequences.insert(image.meta.id, sequence);
        state.waiting.insert(sequence);
        let series = state.present.clone();
        state.images.insert(sequence, (Arc::new(image), series));
        Ok(Some(sequence))
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    async fn begin_series(&self, series: SeriesKey) -> Result<(), OutboxError> {
        let mut state = self.state.lock();
        state.series.entry(series.clone()).or_default().told_end = false;
        state.present = Some(series);
        state.closed = false;
        Ok(())
    }

    async fn push(&self, image: Owed) -> Result<Pushed, OutboxError> {
        let cost = Self::cost(&image);
        if cost > self.limit {
            return Err(OutboxError::TooLarge {
                size: image.meta.size,
                limit: self.limit,
                setting: "TRANSMITTER_OUTBOX_MEMORY",
            });
        }
        let mut image = Some(image);
        loop {
            // Registered before the look, so that room made in between is not missed.
            let room = self.room.notified();
            if let Some(sequence) = self.try_push(&mut image, cost)? {
                self.work.notify_one();
                return Ok(Pushed {
                    sequence,
                    lost: Vec::new(),
                });
            }
            room.await;
        }
    }

    async fn knows(&self, _mark: &FileMark) -> Result<bool, OutboxError> {
        Ok(false)
    }

    async fn lose(&self, mut meta: ImageMeta, reason: &str) -> Result<Lost, OutboxError> {
        let mut state = self.state.lock();
        state.last_sequence += 1;
        meta.sequence = state.last_sequence;
        state.enter(&meta, reason);
        state.count(None, |counts| {
            counts.captured += 1;
            counts.lost += 1;
        });
        drop(state);
        self.loss.notify_one();
        Ok(Lost {
            meta,
            reason: reason.to_owned(),
        })
    }

    async fn take(&self) -> Option<Arc<Owed>> {
        loop {
            let work = self.work.notified();
            {
                let mut state = self.state.lock();
                let next = match self.order {
                    Order::OldestFirst => state.waiting.pop_first(),
                    Order::NewestFirst => state.waiting.pop_last(),
                };
                if let Some(sequence) = next {
                    let more = !state.waiting.is_empty();
                    let image = state.images.get(&sequence).map(|(image, _)| image.clone());
                    drop(state);
                    if more {
                        self.work.notify_one();
                    }
                    if image.is_some() {
                        return image;
                    }
                    continue;
                }
                if state.closed && state.images.is_empty() {
                    drop(state);
                    self.work.notify_waiters();
                    return None;
                }
            }
            work.await;
        }
    }

    async fn settle(&self, id: ImageId, outcome: Outcome) -> Result<(), OutboxError> {
        let mut state = self.state.lock();
        let Some(sequence) = state.sequences.remove(&id) else {
            return Ok(());
        };
        state.waiting.remove(&sequence);
        let mut entered = false;
        if let Some((image, series)) = state.images.remove(&sequence) {
            state.backlog.images -= 1;
            state.backlog.bytes -= image.meta.size;
            state.memory -= Self::cost(&image);
            if let Outcome::Lost(reason) = &outcome {
                state.enter(&image.meta, reason);
                entered = true;
            }
            state.count(series.as_ref(), |counts| match outcome {
                Outcome::Delivered => counts.delivered += 1,
                Outcome::Duplicate => counts.duplicates += 1,
                Outcome::Quarantined => counts.quarantined += 1,
                Outcome::Lost(_) => counts.lost += 1,
            });
        }
        let ended = state.closed && state.images.is_empty();
        drop(state);
        self.room.notify_one();
        if entered {
            self.loss.notify_one();
        }
        if ended {
            self.work.notify_waiters();
            self.work.notify_one();
        }
        Ok(())
    }

    async fn give_back(&self, id: ImageId) {
        let mut state = self.state.lock();
        let Some(sequence) = state.sequences.get(&id).copied() else {
            return;
        };
        state.waiting.insert(sequence);
        drop(state);
        self.work.notify_one();
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.room.notify_waiters();
        self.work.notify_waiters();
        self.work.notify_one();
    }

    fn backlog(&self) -> Backlog {
        self.state.lock().backlog
    }

    fn standing(&self) -> Standing {
        let state = self.state.lock();
        let mut standing = state.standing(self.id);
        if let Some(untold) = state.ledger.keys().next() {
            standing.first_owed = standing.first_owed.min(*untold);
        }
        standing
    }

    async fn losses(&self, limit: usize) -> (Vec<Loss>, Standing) {
        let state = self.state.lock();
        let mut standing = state.standing(self.id);
        let losses = state.ledger.values().take(limit).cloned().collect();
        if let Some(untold) = state.ledger.keys().nth(limit) {
            standing.first_owed = standing.first_owed.min(*untold);
        }
        (losses, standing)
    }

    async fn losses_kept(&self, sequences: &[u64]) -> Result<(), OutboxError> {
        let mut state = self.state.lock();
        for sequence in sequences {
            state.ledger.remove(sequence);
        }
        Ok(())
    }

    async fn loss_waits(&self) {
        loop {
            let loss = self.loss.notified();
            if !self.state.lock().ledger.is_empty() {
                return;
            }
            loss.await;
        }
    }

    async fn series(&self) -> Vec<(SeriesKey, Counts, Option<RunAccount>)> {
        let mut state = self.state.lock();
        let present = state.present.clone();
        state.series.retain(|key, series| {
            present.as_ref() == Some(key) || !series.told_end || series.counts.owed() > 0
        });
        let series = state.series.iter();
        series
            .map(|(key, series)| (key.clone(), series.counts, series.account.clone()))
            .collect()
    }

    async fn save_account(&self, series: &SeriesKey, account: RunAccount, told_end: bool) {
        let mut state = self.state.lock();
        if let Some(series) = state.series.get_mut(series) {
            series.account = Some(account);
            series.told_end = told_end;
        }
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    async fn extent(&self) -> Extent {
        let state = self.state.lock();
        let oldest = state.images.values().next();
        Extent {
            limit: Some(self.limit),
            free: Some(self.limit.saturating_sub(state.memory)),
            oldest: oldest.and_then(|(image, _)| image.meta.queued),
        }
    }

    async fn shut(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::conformance::{self, Maker};

    struct InMemory;

    impl Maker for InMemory {
        fn make(&self, order: Order, images: u64) -> Arc<dyn Outbox> {
            let limit = images * (1_000 + ENTRY_BYTES);
            Arc::new(MemoryOutbox::new(limit, order))
        }
    }

    #[tokio::test]
    async fn does_what_every_outbox_does() {
        conformance::all(&InMemory).await;
    }
}
