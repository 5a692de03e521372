//! Uploads that are not finished: who owns each, and those that nobody does.
//!
//! Each image that is on its way in has a slot with a cell, which holds what came of it. The newest
//! claim to an image owns it; it waits until whoever had it has ended the write that is under way,
//! and finds all verified bytes in the cell. An image that is being stored cannot be claimed until
//! that is done, so that of several uploads of one image only one at a time touches its place in
//! the store, and the next one finds it in the catalogue.

mod claim;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::image::ImageId;
use tokio::sync::Notify;

use super::upload::Body;
use crate::store::Partial;
pub(super) use claim::Claim;

/// Parked uploads at most; beyond, the oldest gives way.
const MAX_PARKED: usize = 1_024;

/// An unfinished upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Verified bytes.
    pub received: u64,
    /// Bytes of the whole image.
    pub size: u64,
    /// How long it is kept yet.
    pub left: Duration,
}

/// What came of an image so far. Dropped, it is gone.
pub(super) enum Content {
    /// With everything that is needed to go on.
    Warm(Box<Body>),
    /// As an earlier process left it; not verified yet.
    Cold(Box<dyn Partial>),
}

impl Content {
    /// Bytes of it at most, and of the whole image.
    fn sizes(&self) -> (u64, u64) {
        match self {
            Self::Warm(body) => (body.received(), body.size()),
            Self::Cold(partial) => (partial.length(), partial.about().meta.size),
        }
    }

    /// Whose it is.
    fn transmitter(&self) -> Arc<str> {
        match self {
            Self::Warm(body) => Arc::clone(&body.origin().transmitter),
            Self::Cold(partial) => Arc::clone(&partial.about().transmitter),
        }
    }

    /// It stays for the next process.
    pub(super) fn leave(mut self) {
        match &mut self {
            Self::Warm(body) => body.leave(),
            Self::Cold(partial) => partial.leave(),
        }
    }
}

/// Whoever has the lock may go on with what is inside, if it owns the image.
pub(super) type Cell = tokio::sync::Mutex<Option<Content>>;

pub(super) struct Unfinished {
    /// No cell is dropped under this lock: that may take it too, and removes a file.
    state: Mutex<State>,
    next_owner: AtomicU64,
    /// Told whenever an image can be claimed again.
    free: Notify,
    ttl: Duration,
    /// Bytes of parked uploads at most.
    limit: u64,
}

#[derive(Default)]
struct State {
    slots: HashMap<ImageId, Slot>,
    parked: usize,
    parked_bytes: u64,
    closed: bool,
}

/// Is there as long as somebody owns the image or something of it is parked.
#[derive(Default)]
struct Slot {
    cell: Arc<Cell>,
    owner: Option<Owner>,
    parked: Option<Parked>,
    /// The transmitter, when something came.
    whose: Option<Arc<str>>,
}

#[derive(Clone, Copy)]
struct Owner {
    number: u64,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It is being found out what there is, and what a process before left is verified, which may
    /// take minutes. Nobody else may claim the image meanwhile: of many who want it at a time, each
    /// would take it from the one before, and none would ever have it.
    Taking,
    /// Bytes come. Whoever wants the image has it.
    Sending,
    /// All bytes are there. Nobody else may claim the image.
    Storing,
}

impl Phase {
    fn is_exclusive(self) -> bool {
        self != Self::Sending
    }
}

#[derive(Clone, Copy)]
struct Parked {
    since: Instant,
    bytes: u64,
}

impl State {
    fn owner(&self, id: ImageId) -> Option<Owner> {
        self.slots.get(&id).and_then(|slot| slot.owner)
    }

    fn owns(&self, id: ImageId, owner: u64) -> bool {
        self.owner(id).is_some_and(|known| known.number == owner)
    }

    fn unstored(&self, id: ImageId) -> Option<&Slot> {
        let slot = self.slots.get(&id)?;
        let is_stored = |owner: Owner| owner.phase == Phase::Storing;
        (!slot.owner.is_some_and(is_stored)).then_some(slot)
    }

    /// What was parked of the image no longer counts as that.
    fn unpark(&mut self, id: ImageId) -> Option<Parked> {
        let parked = self.slots.get_mut(&id)?.parked.take()?;
        self.parked -= 1;
        self.parked_bytes -= parked.bytes;
        Some(parked)
    }

    /// Nobody owns the image any more, but it is kept. What has to go for it.
    fn park(&mut self, id: ImageId, parked: Parked, limit: u64) -> Vec<Slot> {
        self.unpark(id);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.owner = None;
            slot.parked = Some(parked);
            self.parked += 1;
            self.parked_bytes += parked.bytes;
        }
        let mut gone = Vec::new();
        while self.parked > MAX_PARKED || self.parked_bytes > limit {
            let parked = self.slots.iter();
            let oldest = parked
                .filter_map(|(id, slot)| slot.parked.map(|parked| (*id, parked.since)))
                .min_by_key(|(_, since)| *since);
            let Some((oldest, _)) = oldest else { break };
            gone.extend(self.remove(oldest));
        }
        gone
    }

    fn remove(&mut self, id: ImageId) -> Option<Slot> {
        self.unpark(id);
        self.slots.remove(&id)
    }
}

impl Unfinished {
    pub(super) fn new(ttl: Duration, limit: u64) -> Self {
        Self {
            state: Mutex::default(),
            next_owner: AtomicU64::new(1),
            free: Notify::new(),
            ttl,
            limit,
        }
    }

    /// Takes what an earlier process left. Its time counts from now on: by the clock on the wall it
    /// may be decades old, where there is no battery for that clock. The clock tells only which of
    /// them is the oldest, and gives way first.
    pub(super) fn load(&self, mut partials: Vec<Box<dyn Partial>>) {
        if self.ttl.is_zero() {
            return;
        }
        partials.sort_by_key(|partial| std::cmp::Reverse(partial.age()));
        let now = Instant::now();
        for (place, partial) in (0..).zip(partials) {
            let (id, bytes) = (partial.about().meta.id, partial.length());
            let whose = Some(Arc::clone(&partial.about().transmitter));
            let since = now + Duration::from_nanos(place);
            let gone = {
                let mut state = self.state.lock();
                let cell = Arc::new(Cell::new(Some(Content::Cold(partial))));
                let slot = Slot {
                    cell,
                    whose,
                    ..Slot::default()
                };
                let before = state.slots.insert(id, slot);
                let mut gone = state.park(id, Parked { since, bytes }, self.limit);
                gone.extend(before);
                gone
            };
            drop(gone);
        }
    }

    fn is_fresh(&self, parked: &Parked) -> bool {
        parked.since.elapsed() < self.ttl
    }

    pub(super) fn owns(&self, id: ImageId, owner: u64) -> bool {
        self.state.lock().owns(id, owner)
    }

    /// Images that are being sent, those that nobody sends, and the bytes of these.
    pub(super) fn counts(&self) -> (usize, usize, u64) {
        let state = self.state.lock();
        let sent = state.slots.len().saturating_sub(state.parked);
        (sent, state.parked, state.parked_bytes)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// The owner has all bytes and is about to store the image; `false` when it lost it.
    pub(super) fn begin_storing(&self, id: ImageId, owner: u64) -> bool {
        let mut state = self.state.lock();
        let known = state
            .slots
            .get_mut(&id)
            .and_then(|slot| slot.owner.as_mut());
        match known {
            Some(known) if known.number == owner => {
                known.phase = Phase::Storing;
                true
            }
            _ => false,
        }
    }

    /// The owner, if it still is, no longer is, and nothing is kept.
    pub(super) fn release(&self, id: ImageId, owner: u64) {
        let gone = {
            let mut state = self.state.lock();
            state.owns(id, owner).then(|| state.remove(id)).flatten()
        };
        let owner = gone.as_ref().and_then(|slot| slot.owner);
        if owner.is_some_and(|owner| owner.phase.is_exclusive()) {
            self.free.notify_waiters();
        }
    }

    /// The owner knows what there is, and goes on for this transmitter.
    fn begin_sending(&self, id: ImageId, owner: u64, whose: Arc<str>) {
        let mut state = self.state.lock();
        if let Some(slot) = state.slots.get_mut(&id)
            && let Some(known) = slot.owner.as_mut()
            && known.number == owner
        {
            known.phase = Phase::Sending;
            slot.whose = Some(whose);
        }
        drop(state);
        self.free.notify_waiters();
    }

    /// The owner, if it still is, leaves `bytes` for somebody else to go on with.
    pub(super) fn park(&self, id: ImageId, owner: u64, bytes: u64, since: Instant) {
        let gone = {
            let mut state = self.state.lock();
            if !state.owns(id, owner) {
                return;
            }
            if state.closed {
                state.remove(id).into_iter().collect()
            } else {
                state.park(id, Parked { since, bytes }, self.limit)
            }
        };
        self.free.notify_waiters();
        for slot in gone {
            self.part_with(slot);
        }
    }

    /// A slot whose content is not needed here any more.
    fn part_with(&self, slot: Slot) {
        // Whoever has the lock is about to learn that it is no longer the owner.
        if self.is_closed()
            && let Ok(mut content) = slot.cell.try_lock()
            && let Some(content) = content.take()
        {
            content.leave();
        }
    }

    /// The transmitter of an image that is not finished.
    pub(super) fn whose(&self, id: ImageId) -> Option<Arc<str>> {
        let state = self.state.lock();
        state.slots.get(&id).and_then(|slot| slot.whose.clone())
    }

    /// Whether a connection has the image.
    pub(super) fn is_owned(&self, id: ImageId) -> bool {
        self.state.lock().owner(id).is_some()
    }

    /// Whether a connection sends it.
    pub(super) fn is_sending(&self, id: ImageId) -> bool {
        let owner = self.state.lock().owner(id);
        owner.is_some_and(|owner| owner.phase == Phase::Sending)
    }

    /// Resolves when the image is not being stored, nor taken by somebody.
    pub(super) async fn not_exclusive(&self, id: ImageId) {
        self.out_of(id, Phase::is_exclusive).await;
    }

    /// Resolves when the image is not being taken by somebody.
    pub(super) async fn not_taken(&self, id: ImageId) {
        self.out_of(id, |phase| phase == Phase::Taking).await;
    }

    async fn out_of(&self, id: ImageId, is_awaited: fn(Phase) -> bool) {
        let awaited = || {
            let owner = self.state.lock().owner(id);
            owner.is_some_and(|owner| is_awaited(owner.phase))
        };
        while awaited() {
            let free = self.free.notified();
            tokio::pin!(free);
            // Listens from here on, so that what happens before the second look is not missed.
            free.as_mut().enable();
            if awaited() {
                free.await;
            }
        }
    }

    /// Whether somebody is taking the image.
    pub(super) fn is_taken(&self, id: ImageId) -> bool {
        let owner = self.state.lock().owner(id);
        owner.is_some_and(|owner| owner.phase == Phase::Taking)
    }

    /// The cell of an image that is not being stored, however old it is.
    pub(super) fn unstored(&self, id: ImageId) -> Option<Arc<Cell>> {
        let state = self.state.lock();
        state.unstored(id).map(|slot| Arc::clone(&slot.cell))
    }

    /// The cell of an image that is not being stored, and how long it is kept yet.
    pub(super) fn cell(&self, id: ImageId) -> Option<(Arc<Cell>, Duration)> {
        let state = self.state.lock();
        let slot = state.unstored(id)?;
        let left = match &slot.parked {
            Some(parked) => self.ttl.checked_sub(parked.since.elapsed())?,
            None => self.ttl,
        };
        (!left.is_zero()).then(|| (Arc::clone(&slot.cell), left))
    }

    /// Drops parked uploads that are too old; how many.
    pub(super) fn expire(&self) -> usize {
        let gone: Vec<Slot> = {
            let mut state = self.state.lock();
            let slots = state.slots.iter();
            let old: Vec<ImageId> = slots
                .filter(|(_, slot)| slot.parked.is_some_and(|parked| !self.is_fresh(&parked)))
                .map(|(id, _)| *id)
                .collect();
            old.into_iter().filter_map(|id| state.remove(id)).collect()
        };
        gone.len()
    }

    /// Leaves all parked uploads, and those that are to be parked later, to the next process.
    pub(super) async fn close(&self) {
        let gone: Vec<Slot> = {
            let mut state = self.state.lock();
            state.closed = true;
            let slots = state.slots.iter();
            let parked: Vec<ImageId> = slots
                .filter(|(_, slot)| slot.parked.is_some())
                .map(|(id, _)| *id)
                .collect();
            parked
                .into_iter()
                .filter_map(|id| state.remove(id))
                .collect()
        };
        for slot in gone {
            if let Some(content) = slot.cell.lock().await.take() {
                content.leave();
            }
        }
    }

    fn next_owner(&self) -> u64 {
        self.next_owner.fetch_add(1, Ordering::Relaxed)
    }
}
