//! Becoming the owner of an image.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::image::ImageId;
use shared::security::access::{Caller, Denied};
use tokio::sync::OwnedMutexGuard;

use super::{Cell, Content, Owner, Parked, Phase, Slot};
use crate::intake::Intake;

/// Time for an owner to end the write that is under way when its image is claimed. After it, its
/// bytes are given up: the image begins anew, and the write may end when it will.
const PATIENCE: Duration = Duration::from_secs(5);

/// A fresh ownership, with what came of the image; there is one at a time. Dropped, it is given
/// back, and what came is parked.
pub(in crate::intake) struct Claim {
    intake: Arc<Intake>,
    id: ImageId,
    owner: Option<u64>,
    cell: Arc<Cell>,
    /// `None` once it is given up.
    content: Option<OwnedMutexGuard<Option<Content>>>,
    /// As it was parked.
    parked: Option<Parked>,
}

/// What is claimed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which<'a> {
    /// Whatever there is, unless it is another's.
    Any(&'a Caller),
    /// Only an image of which something came.
    Begun,
    /// Only one that is parked, which nobody has.
    Parked,
}

impl Claim {
    /// Makes the caller the owner of `id`, once nobody is storing it. Whoever owned it before no
    /// longer does.
    ///
    /// # Errors
    /// When it is another's.
    pub(in crate::intake) async fn of(
        intake: &Arc<Intake>,
        id: ImageId,
        caller: &Caller,
    ) -> Result<Self, Denied> {
        loop {
            // Without a condition there is always one.
            if let Some(claim) = Self::attempt(intake, id, Which::Any(caller)).await? {
                return Ok(claim);
            }
        }
    }

    /// The same if something came of the image.
    pub(in crate::intake) async fn of_begun(intake: &Arc<Intake>, id: ImageId) -> Option<Self> {
        Self::attempt(intake, id, Which::Begun).await.ok()?
    }

    /// The same if the image is parked: it is taken from nobody.
    pub(in crate::intake) async fn of_parked(intake: &Arc<Intake>, id: ImageId) -> Option<Self> {
        Self::attempt(intake, id, Which::Parked).await.ok()?
    }

    /// The same if nothing came of the image, at once.
    pub(in crate::intake) fn of_absent(intake: &Arc<Intake>, id: ImageId) -> Option<Self> {
        let this = &intake.unfinished;
        let cell: Arc<Cell> = Arc::default();
        let content = Arc::clone(&cell).try_lock_owned().ok()?;
        let mut state = this.state.lock();
        if state.slots.contains_key(&id) {
            return None;
        }
        let number = this.next_owner();
        let phase = Phase::Taking;
        let slot = Slot {
            cell: Arc::clone(&cell),
            owner: Some(Owner { number, phase }),
            parked: None,
            whose: None,
        };
        state.slots.insert(id, slot);
        drop(state);
        Some(Self {
            intake: Arc::clone(intake),
            id,
            owner: Some(number),
            cell,
            content: Some(content),
            parked: None,
        })
    }

    async fn attempt(
        intake: &Arc<Intake>,
        id: ImageId,
        which: Which<'_>,
    ) -> Result<Option<Self>, Denied> {
        let this = &intake.unfinished;
        let (owner, cell, parked) = loop {
            this.not_exclusive(id).await;
            let mut state = this.state.lock();
            let owner = state.owner(id);
            if owner.is_some_and(|owner| owner.phase.is_exclusive()) {
                continue;
            }
            let slot = state.slots.get(&id);
            let is_meant = match which {
                Which::Any(caller) => {
                    if let Some(whose) = slot.and_then(|slot| slot.whose.as_ref()) {
                        caller.may_upload_as(whose)?;
                    }
                    true
                }
                Which::Begun => slot.is_some(),
                Which::Parked => slot.is_some_and(|slot| slot.parked.is_some()),
            };
            if !is_meant {
                return Ok(None);
            }
            let number = this.next_owner();
            let parked = state.unpark(id);
            let slot = state.slots.entry(id).or_default();
            let phase = Phase::Taking;
            slot.owner = Some(Owner { number, phase });
            break (number, Arc::clone(&slot.cell), parked);
        };
        let mut claim = Self {
            intake: Arc::clone(intake),
            id,
            owner: Some(owner),
            cell: Arc::clone(&cell),
            content: None,
            parked,
        };
        match tokio::time::timeout(PATIENCE, Arc::clone(&cell).lock_owned()).await {
            Ok(content) => claim.content = Some(content),
            Err(_) => claim.begin_anew(owner),
        }
        if parked.is_some_and(|parked| !this.is_fresh(&parked)) {
            drop(claim.take());
        }
        Ok(Some(claim))
    }

    /// The former owner does not let go.
    fn begin_anew(&mut self, owner: u64) {
        tracing::warn!(image = %self.id, "a write does not end: the image is begun anew");
        self.cell = Arc::default();
        self.content = Arc::clone(&self.cell).try_lock_owned().ok();
        let mut state = self.intake.unfinished.state.lock();
        if state.owns(self.id, owner)
            && let Some(slot) = state.slots.get_mut(&self.id)
        {
            // The former owner has another reference, so nothing is dropped here.
            slot.cell = Arc::clone(&self.cell);
        }
    }

    pub(in crate::intake) fn id(&self) -> ImageId {
        self.id
    }

    /// What came.
    pub(in crate::intake) fn content(&mut self) -> Option<&mut Option<Content>> {
        self.content.as_deref_mut()
    }

    /// What came, for good.
    pub(in crate::intake) fn take(&mut self) -> Option<Content> {
        self.content.as_mut().and_then(|content| content.take())
    }

    /// Puts `content` in the cell and keeps the ownership.
    pub(in crate::intake) fn keep(mut self, content: Content) -> Option<(u64, Arc<Cell>)> {
        let whose = content.transmitter();
        **self.content.as_mut()? = Some(content);
        self.content = None;
        let owner = self.owner.take()?;
        self.intake.unfinished.begin_sending(self.id, owner, whose);
        Some((owner, Arc::clone(&self.cell)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(owner) = self.owner.take() else {
            return;
        };
        let unfinished = &self.intake.unfinished;
        let bytes = match self.content.take() {
            Some(content) => content.as_ref().map(|content| content.sizes().0),
            // Given up before it was known what is there: whoever claims it next will find out.
            None => Some(self.parked.map_or(0, |parked| parked.bytes)),
        };
        match bytes {
            Some(bytes) => {
                let since = self.parked.map_or_else(Instant::now, |parked| parked.since);
                unfinished.park(self.id, owner, bytes, since);
            }
            None => unfinished.release(self.id, owner),
        }
    }
}
