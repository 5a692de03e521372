//! An upload's part of what its transmitter may bring in.

use std::sync::Arc;

use shared::clock::UnixNanos;
use shared::image::ImageId;
use shared::receipt::{Reject, RejectReason};

use super::Body;
use crate::intake::quota::{Exceeded, Reservation};
use crate::intake::{Intake, Origin};

impl Intake {
    /// Sets an image of `bytes` aside; `None` where nothing is limited.
    pub(in crate::intake) fn reserve(
        &self,
        id: ImageId,
        bytes: u64,
        origin: &Origin,
    ) -> Result<Option<Reservation>, Reject> {
        let Some(quotas) = &self.quotas else {
            return Ok(None);
        };
        let reserved = quotas.reserve(&origin.transmitter, bytes, UnixNanos::now());
        reserved
            .map(Some)
            .map_err(|exceeded| rejected(id, exceeded))
    }
}

fn rejected(id: ImageId, Exceeded { message, after }: Exceeded) -> Reject {
    let reject = Reject::new(id, RejectReason::Quota, message);
    match after {
        Some(time) => reject.after(time),
        None => reject,
    }
}

impl Body {
    /// Sees to it that bytes up to `end` may be kept. What was announced with its size was set aside
    /// then, unless it has been left meanwhile.
    pub(super) fn secure(&mut self, end: u64) -> Result<(), Reject> {
        // Of an image that is there already, nothing is stored.
        if self.intake.quotas.is_none() || self.known.is_some() {
            return Ok(());
        }
        let bytes = if self.open_ended { end } else { self.size() };
        let id = self.meta.id;
        match &mut self.reserved {
            Some(reserved) if reserved.bytes() >= bytes => Ok(()),
            Some(reserved) => {
                let resized = reserved.resize(bytes, UnixNanos::now());
                resized.map_err(|exceeded| rejected(id, exceeded))
            }
            None => {
                self.reserved = self.intake.reserve(id, bytes, &self.origin)?;
                Ok(())
            }
        }
    }

    /// Somebody goes on with it, as `origin`.
    pub(in crate::intake) fn secure_as(&mut self, origin: &Origin) -> Result<(), Reject> {
        // Of an image that is there already, nothing is stored.
        if self.intake.quotas.is_none() || self.known.is_some() {
            return Ok(());
        }
        let is_own = |reserved: &Reservation| reserved.is_of(&origin.transmitter);
        if self.reserved.as_ref().is_some_and(is_own) {
            return self.secure(self.received());
        }
        self.reserved = None;
        self.reserved = self.intake.reserve(self.meta.id, self.size(), origin)?;
        Ok(())
    }

    /// Nobody has it: what has not come of it is for others.
    pub(super) fn release(&mut self) {
        let received = self.received();
        if let Some(reserved) = &mut self.reserved
            && reserved.bytes() > received
        {
            // Less is always possible.
            let _ = reserved.resize(received, UnixNanos::now());
        }
    }

    /// It is stored, and counts from now on.
    pub(super) fn count(&mut self) {
        let (size, now) = (self.meta.size, UnixNanos::now());
        match (self.reserved.take(), &self.intake.quotas) {
            (Some(reserved), _) => reserved.stored(size, now),
            (None, Some(quotas)) => Arc::clone(quotas).stored(&self.origin.transmitter, size, now),
            (None, None) => {}
        }
    }
}
