//! The transmitter's outbox as a model: what is on its disk survives the death of the process, and
//! what was settled a moment ago may come back with a power loss.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pantelegraph_transmitter::outbox::{
    Backlog, Counts, FileMark, Lost, Outbox, OutboxError, Outcome, Owed, Pushed, SeriesKey,
};
use pantelegraph_transmitter::payload::Payload;
use shared::clock::UnixNanos;
use shared::image::{ImageId, ImageMeta, OutboxId};
use shared::report::RunAccount;
use shared::wire::{Loss, Standing};
use tokio::sync::Notify;

use crate::random::Random;

/// What survives.
#[derive(Clone)]
pub(crate) struct Kept {
    id: OutboxId,
    random: Random,
    next: u64,
    images: BTreeMap<u64, (ImageMeta, Bytes)>,
    /// Settled, and not yet synced.
    settled: BTreeMap<u64, (ImageMeta, Bytes)>,
    /// Every image that was lost and why, told to the receiver or not.
    lost: BTreeMap<u64, Loss>,
    untold: BTreeSet<u64>,
}

impl Kept {
    pub(crate) fn new(id: OutboxId, random: Random) -> Self {
        Self {
            id,
            random,
            next: 1,
            images: BTreeMap::new(),
            settled: BTreeMap::new(),
            lost: BTreeMap::new(),
            untold: BTreeSet::new(),
        }
    }

    /// What is left when the process dies, or with `power_loss` the machine.
    pub(crate) fn crash(mut self, power_loss: bool) -> Self {
        if power_loss {
            for (sequence, image) in std::mem::take(&mut self.settled) {
                if self.random.chance(5_000) {
                    self.images.insert(sequence, image);
                }
            }
        }
        self
    }

    /// Images that are on the ledger, told or not.
    pub(crate) fn lost(&self) -> BTreeSet<ImageId> {
        self.lost.values().map(|loss| loss.image_id).collect()
    }

    /// What its sequence numbers count in.
    pub(crate) fn id(&self) -> OutboxId {
        self.id
    }

    /// Losses that the receiver is not known to have.
    fn untold(&self) -> usize {
        self.untold.len()
    }

    fn standing(&self) -> Standing {
        let first = |numbers: Option<u64>| numbers.unwrap_or(self.next);
        Standing {
            outbox: self.id,
            first_owed: first(self.images.keys().next().copied()),
            next_sequence: self.next,
        }
    }

    fn lose(&mut self, meta: &ImageMeta, reason: &str) {
        let loss = Loss {
            sequence: meta.sequence,
            image_id: meta.id,
            digest: meta.digest,
            reason: reason.to_owned(),
            at: UnixNanos(1),
            run: meta.run.clone(),
        };
        self.lost.insert(meta.sequence, loss);
        self.untold.insert(meta.sequence);
    }
}

/// The outbox of one process.
pub(crate) struct ModelOutbox {
    kept: Arc<Mutex<Kept>>,
    state: Mutex<State>,
    work: Notify,
    loss: Notify,
}

#[derive(Default)]
struct State {
    waiting: BTreeSet<u64>,
    carried: BTreeSet<u64>,
    closed: bool,
}

impl ModelOutbox {
    /// Opens what an earlier process left.
    pub(crate) fn open(kept: Arc<Mutex<Kept>>) -> Self {
        let owed: BTreeSet<u64> = kept.lock().unwrap().images.keys().copied().collect();
        Self {
            kept,
            state: Mutex::new(State {
                waiting: owed.clone(),
                carried: owed,
                closed: false,
            }),
            work: Notify::new(),
            loss: Notify::new(),
        }
    }

    async fn pause(&self, most: u64) {
        let millis = self.kept.lock().unwrap().random.below(most + 1);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    fn sequence(&self, id: ImageId) -> Option<u64> {
        let kept = self.kept.lock().unwrap();
        let found = kept.images.iter().find(|(_, (meta, _))| meta.id == id);
        found.map(|(sequence, _)| *sequence)
    }

    /// Tells all who wait that something has changed.
    fn wake(&self) {
        self.work.notify_waiters();
    }
}

#[async_trait]
impl Outbox for ModelOutbox {
    async fn begin_series(&self, _series: SeriesKey) -> Result<(), OutboxError> {
        Ok(())
    }

    async fn push(&self, image: Owed) -> Result<Pushed, OutboxError> {
        self.pause(4).await;
        let Payload::Memory(bytes) = image.payload else {
            let problem = std::io::Error::other("images of simulations are in memory");
            return Err(OutboxError::Unreadable(problem));
        };
        let sequence = {
            let mut kept = self.kept.lock().unwrap();
            let sequence = kept.next;
            kept.next += 1;
            let meta = ImageMeta {
                sequence,
                ..image.meta
            };
            kept.images.insert(sequence, (meta, bytes));
            sequence
        };
        // It is kept, so it is delivered, even if the caller does not wait for the answer.
        self.state.lock().unwrap().waiting.insert(sequence);
        self.wake();
        self.pause(2).await;
        let lost = Vec::new();
        Ok(Pushed { sequence, lost })
    }

    async fn knows(&self, _mark: &FileMark) -> Result<bool, OutboxError> {
        Ok(false)
    }

    async fn lose(&self, meta: ImageMeta, reason: &str) -> Result<Lost, OutboxError> {
        self.pause(2).await;
        let meta = {
            let mut kept = self.kept.lock().unwrap();
            let sequence = kept.next;
            kept.next += 1;
            let meta = ImageMeta { sequence, ..meta };
            kept.lose(&meta, reason);
            meta
        };
        self.loss.notify_waiters();
        self.pause(2).await;
        let reason = reason.to_owned();
        Ok(Lost { meta, reason })
    }

    async fn take(&self) -> Option<Arc<Owed>> {
        loop {
            let work = self.work.notified();
            tokio::pin!(work);
            work.as_mut().enable();
            {
                let mut state = self.state.lock().unwrap();
                let kept = self.kept.lock().unwrap();
                if let Some(sequence) = state.waiting.pop_first() {
                    if let Some((meta, bytes)) = kept.images.get(&sequence) {
                        return Some(Arc::new(Owed {
                            meta: meta.clone(),
                            payload: Payload::Memory(bytes.clone()),
                            source_file: None,
                            source_mark: None,
                            carried: state.carried.contains(&sequence),
                        }));
                    }
                    continue;
                }
                if state.closed && kept.images.is_empty() {
                    return None;
                }
            }
            work.await;
        }
    }

    async fn settle(&self, id: ImageId, outcome: Outcome) -> Result<(), OutboxError> {
        self.pause(3).await;
        if let Some(sequence) = self.sequence(id) {
            self.state.lock().unwrap().waiting.remove(&sequence);
            let mut kept = self.kept.lock().unwrap();
            if let Some(image) = kept.images.remove(&sequence) {
                match outcome {
                    Outcome::Lost(reason) => kept.lose(&image.0, &reason),
                    _ => {
                        kept.settled.insert(sequence, image);
                    }
                }
            }
        }
        self.wake();
        self.loss.notify_waiters();
        self.pause(2).await;
        // Now and then all of it reaches the medium.
        let mut kept = self.kept.lock().unwrap();
        if kept.random.chance(3_000) {
            kept.settled.clear();
        }
        Ok(())
    }

    async fn give_back(&self, id: ImageId) {
        self.pause(2).await;
        if let Some(sequence) = self.sequence(id) {
            self.state.lock().unwrap().waiting.insert(sequence);
            self.wake();
        }
    }

    fn close(&self) {
        self.state.lock().unwrap().closed = true;
        self.wake();
    }

    fn backlog(&self) -> Backlog {
        let kept = self.kept.lock().unwrap();
        let sizes = kept.images.values().map(|(meta, _)| meta.size);
        Backlog {
            images: kept.images.len() as u64,
            bytes: sizes.sum(),
        }
    }

    fn standing(&self) -> Standing {
        let kept = self.kept.lock().unwrap();
        let mut standing = kept.standing();
        if let Some(untold) = kept.untold.first() {
            standing.first_owed = standing.first_owed.min(*untold);
        }
        standing
    }

    async fn losses(&self, limit: usize) -> (Vec<Loss>, Standing) {
        let kept = self.kept.lock().unwrap();
        let mut standing = kept.standing();
        let losses = kept.untold.iter().take(limit);
        let losses = losses.filter_map(|sequence| kept.lost.get(sequence).cloned());
        let losses = losses.collect();
        if let Some(untold) = kept.untold.iter().nth(limit) {
            standing.first_owed = standing.first_owed.min(*untold);
        }
        (losses, standing)
    }

    async fn losses_kept(&self, sequences: &[u64]) -> Result<(), OutboxError> {
        self.pause(2).await;
        let mut kept = self.kept.lock().unwrap();
        for sequence in sequences {
            kept.untold.remove(sequence);
        }
        Ok(())
    }

    async fn loss_waits(&self) {
        loop {
            let loss = self.loss.notified();
            tokio::pin!(loss);
            loss.as_mut().enable();
            if self.kept.lock().unwrap().untold() > 0 {
                return;
            }
            loss.await;
        }
    }

    async fn series(&self) -> Vec<(SeriesKey, Counts, Option<RunAccount>)> {
        Vec::new()
    }

    async fn save_account(&self, _series: &SeriesKey, _account: RunAccount, _told_end: bool) {}

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    async fn shut(&self) {}
}
