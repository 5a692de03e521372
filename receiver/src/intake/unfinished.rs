//! Uploads that are not finished: who owns each, and those that nobody does.
//!
//! The newest claim to an image owns it. An image that is being stored cannot be claimed until
//! that is done, so that of several uploads of one image only one at a time touches its place in
//! the store, and the next one finds it in the catalogue.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::image::{ImageId, Transport};
use tokio::sync::Notify;

use super::{Intake, Upload};

/// Parked uploads at most; beyond, the oldest gives way.
const MAX_PARKED: usize = 1_024;

/// An unfinished upload that no connection owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Verified bytes.
    pub received: u64,
    /// Bytes of the whole image.
    pub size: u64,
    /// How long it is kept yet.
    pub left: Duration,
}

/// Answer to the wish to go on with an upload.
pub enum Resumed {
    /// Here it is.
    Upload(Box<Upload>),
    /// A connection has it.
    Busy,
    /// There is none.
    Absent,
}

pub(super) struct Unfinished {
    /// No upload is dropped under this lock: that takes it too, and removes a file.
    state: Mutex<State>,
    next_owner: AtomicU64,
    /// Told whenever an image is no longer being stored.
    settled: Notify,
    ttl: Duration,
}

#[derive(Default)]
struct State {
    owners: HashMap<ImageId, Owner>,
    parked: HashMap<ImageId, Parked>,
    closed: bool,
}

struct Owner {
    number: u64,
    storing: bool,
}

struct Parked {
    upload: Upload,
    since: Instant,
}

impl State {
    fn owns(&self, id: ImageId, owner: u64) -> bool {
        self.owners
            .get(&id)
            .is_some_and(|known| known.number == owner)
    }

    /// Ends the ownership, if it still is one.
    fn disown(&mut self, id: ImageId, owner: u64) -> Option<Owner> {
        if self.owns(id, owner) {
            return self.owners.remove(&id);
        }
        None
    }

    /// Parks an upload; what has to go for it.
    fn park(&mut self, id: ImageId, parked: Parked) -> Option<Parked> {
        if self.closed {
            return Some(parked);
        }
        let oldest = (self.parked.len() >= MAX_PARKED)
            .then(|| self.parked.iter().min_by_key(|(_, parked)| parked.since))
            .flatten()
            .map(|(id, _)| *id);
        let evicted = oldest.and_then(|id| self.parked.remove(&id));
        self.parked.insert(id, parked).or(evicted)
    }
}

impl Unfinished {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            state: Mutex::default(),
            next_owner: AtomicU64::new(1),
            settled: Notify::new(),
            ttl,
        }
    }

    fn is_fresh(&self, parked: &Parked) -> bool {
        parked.since.elapsed() < self.ttl
    }

    fn next_owner(&self) -> u64 {
        self.next_owner.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn owns(&self, id: ImageId, owner: u64) -> bool {
        self.state.lock().owns(id, owner)
    }

    /// The owner has all bytes and is about to store the image; `false` when it lost it.
    pub(super) fn begin_storing(&self, id: ImageId, owner: u64) -> bool {
        match self.state.lock().owners.get_mut(&id) {
            Some(known) if known.number == owner => {
                known.storing = true;
                true
            }
            _ => false,
        }
    }

    /// The owner, if it still is, no longer is.
    pub(super) fn release(&self, id: ImageId, owner: u64) {
        let gone = self.state.lock().disown(id, owner);
        if gone.is_some_and(|owner| owner.storing) {
            self.settled.notify_waiters();
        }
    }

    /// Makes the caller the owner of `id`, once nobody is storing it.
    pub(super) async fn claim(intake: &Arc<Intake>, id: ImageId) -> Claim {
        let this = &intake.unfinished;
        loop {
            if let Some(claim) = this.try_claim(intake, id) {
                return claim;
            }
            let settled = this.settled.notified();
            tokio::pin!(settled);
            // Listens from here on, so that what happens before the second try is not missed.
            settled.as_mut().enable();
            if let Some(claim) = this.try_claim(intake, id) {
                return claim;
            }
            settled.await;
        }
    }

    fn try_claim(&self, intake: &Arc<Intake>, id: ImageId) -> Option<Claim> {
        let number = self.next_owner();
        let parked = {
            let mut state = self.state.lock();
            if state.owners.get(&id).is_some_and(|owner| owner.storing) {
                return None;
            }
            let storing = false;
            state.owners.insert(id, Owner { number, storing });
            state.parked.remove(&id)
        };
        Some(Claim {
            intake: Arc::clone(intake),
            id,
            owner: Some(number),
            parked: parked.filter(|parked| self.is_fresh(parked)),
        })
    }

    /// Parks `upload`, unless another owner took over.
    pub(super) fn park(&self, mut upload: Upload) {
        let (id, since) = (upload.meta().id, Instant::now());
        let owner = upload.disowned();
        let parked = Parked { upload, since };
        let gone = {
            let mut state = self.state.lock();
            match owner.and_then(|owner| state.disown(id, owner)) {
                Some(_) => state.park(id, parked),
                None => Some(parked),
            }
        };
        drop(gone);
    }

    /// Whether a connection has the image.
    pub(super) fn is_owned(&self, id: ImageId) -> bool {
        self.state.lock().owners.contains_key(&id)
    }

    /// Whether a connection has the image and is not storing it yet.
    pub(super) fn is_receiving(&self, id: ImageId) -> bool {
        let state = self.state.lock();
        state.owners.get(&id).is_some_and(|owner| !owner.storing)
    }

    pub(super) fn held(&self, id: ImageId) -> Option<Held> {
        let state = self.state.lock();
        let parked = state.parked.get(&id)?;
        let left = self.ttl.checked_sub(parked.since.elapsed())?;
        (!left.is_zero()).then(|| Held {
            received: parked.upload.received(),
            size: parked.upload.meta().size,
            left,
        })
    }

    pub(super) fn resume(&self, id: ImageId, transport: Transport) -> Resumed {
        let parked = {
            let mut state = self.state.lock();
            let Some(parked) = state.parked.remove(&id) else {
                return match state.owners.contains_key(&id) {
                    true => Resumed::Busy,
                    false => Resumed::Absent,
                };
            };
            if self.is_fresh(&parked) {
                let number = self.next_owner();
                let storing = false;
                state.owners.insert(id, Owner { number, storing });
                let mut upload = parked.upload;
                upload.owned_by(number, transport);
                return Resumed::Upload(Box::new(upload));
            }
            parked
        };
        drop(parked);
        Resumed::Absent
    }

    /// Drops a parked upload; whether there was one.
    pub(super) fn forget(&self, id: ImageId) -> bool {
        let parked = self.state.lock().parked.remove(&id);
        parked.is_some_and(|parked| self.is_fresh(&parked))
    }

    /// Drops parked uploads that are too old; how many.
    pub(super) fn expire(&self) -> usize {
        let gone: Vec<Parked> = {
            let mut state = self.state.lock();
            let old: Vec<ImageId> = state
                .parked
                .iter()
                .filter(|(_, parked)| !self.is_fresh(parked))
                .map(|(id, _)| *id)
                .collect();
            old.iter()
                .filter_map(|id| state.parked.remove(id))
                .collect()
        };
        gone.len()
    }

    /// Drops all parked uploads, and those that are to be parked later.
    pub(super) fn close(&self) {
        let gone = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.parked)
        };
        drop(gone);
    }
}

/// A fresh ownership, with what was parked of the image. Dropped, it gives both back.
pub(super) struct Claim {
    intake: Arc<Intake>,
    id: ImageId,
    owner: Option<u64>,
    parked: Option<Parked>,
}

impl Claim {
    /// Bytes that were parked.
    pub(super) fn received(&self) -> u64 {
        let parked = self.parked.as_ref();
        parked.map_or(0, |parked| parked.upload.received())
    }

    /// What was parked, for good.
    pub(super) fn take(&mut self) -> Option<Upload> {
        self.parked.take().map(|parked| parked.upload)
    }

    /// Keeps the ownership.
    pub(super) fn into_owner(mut self) -> Option<u64> {
        self.owner.take()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(owner) = self.owner.take() else {
            return;
        };
        let gone = {
            let mut state = self.intake.unfinished.state.lock();
            match (state.disown(self.id, owner), self.parked.take()) {
                (Some(_), Some(parked)) => state.park(self.id, parked),
                (_, parked) => parked,
            }
        };
        drop(gone);
    }
}
