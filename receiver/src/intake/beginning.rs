//! The announcement of an image.

use std::sync::Arc;

use shared::receipt::{Receipt, Reject, RejectReason};
use shared::sabotage::{self, Sabotage};
use shared::wire::Begin;

use super::unfinished::{Claim, Content};
use super::upload::{Body, Opening};
use super::{Intake, Origin, Upload, catalog_failed, not_yours, store_failed};
use crate::catalog::Entry;

/// Answer to the announcement of an image.
pub enum Begun {
    /// Its bytes are wanted.
    Upload(Box<Upload>),
    /// It is there already.
    Present(Receipt),
}

/// What the catalogue says of an announced image.
enum Known {
    /// The answer can be given.
    Answer(Result<Receipt, Reject>),
    /// Only the bytes can tell whether it is the same image.
    Compare(Box<Entry>),
    /// Nothing.
    No,
}

impl Intake {
    /// An image is announced. An unfinished upload of it is gone on with when `begin.offset` is not
    /// beyond what is held (bytes that are there are passed over), and begun anew when it is 0.
    /// Whichever connection had it before no longer has.
    ///
    /// # Errors
    /// When the image breaks a limit, its id belongs to another image, the offset is not held, or
    /// there is no room.
    pub async fn begin(self: &Arc<Self>, begin: Begin, origin: &Origin) -> Result<Begun, Reject> {
        self.begin_sized(begin, origin, false).await
    }

    /// The same for an image whose size is not known before its end: `begin.meta.size` is ignored.
    ///
    /// # Errors
    /// As for [`Self::begin`].
    pub async fn begin_unsized(
        self: &Arc<Self>,
        mut begin: Begin,
        origin: &Origin,
    ) -> Result<Begun, Reject> {
        begin.meta.size = self.parts.limits.max_image_size.0;
        self.begin_sized(begin, origin, true).await
    }

    async fn begin_sized(
        self: &Arc<Self>,
        begin: Begin,
        origin: &Origin,
        open_ended: bool,
    ) -> Result<Begun, Reject> {
        let begun = self.look_and_begin(begin, origin, open_ended).await;
        if !matches!(begun, Ok(Begun::Upload(_))) {
            self.room_to_count().await;
        }
        begun
    }

    async fn look_and_begin(
        self: &Arc<Self>,
        begin: Begin,
        origin: &Origin,
        open_ended: bool,
    ) -> Result<Begun, Reject> {
        let id = begin.meta.id;
        Self::check_sender(id, origin)
            .and_then(|()| self.check_limits(&begin.meta, origin))
            .map_err(|reject| self.turn_down(&begin.meta, origin, reject))?;
        if begin.offset > 0 && self.unfinished.is_sending(id) {
            // An offset that is not held takes the image from nobody.
            let held = self.held_for(id, &origin.caller).await.unwrap_or_default();
            if begin.offset > held && self.unfinished.is_sending(id) {
                return Err(self.not_held(&begin, held, origin));
            }
        }
        // The claim comes before the look into the catalogue: whoever stored the image until then
        // is found there, and whoever has not begun to no longer can.
        let mut claim = Claim::of(self, id, &origin.caller)
            .await
            .map_err(|_| self.turn_down(&begin.meta, origin, not_yours(id)))?;
        let compare = match self.look_up(&begin, origin, open_ended).await? {
            Known::Answer(answer) => {
                drop(claim.take());
                return answer.map(Begun::Present);
            }
            Known::Compare(entry) => Some(entry),
            Known::No => None,
        };
        self.parts
            .store
            .room()
            .map_err(|error| self.turn_down(&begin.meta, origin, store_failed(id, &error)))?;
        if begin.offset > 0 {
            return self.go_on(begin, origin, claim).await;
        }
        drop(claim.take());
        // Of one whose size is not known, what comes is set aside as it comes.
        let size = if open_ended { 0 } else { begin.meta.size };
        let reserved = match &compare {
            Some(_) => None,
            None => self
                .reserve(id, size, origin)
                .map_err(|reject| self.turn_down(&begin.meta, origin, reject))?,
        };
        let opening = Opening {
            meta: Arc::new(begin.meta),
            origin: origin.clone(),
            known: compare,
            open_ended,
            reserved,
        };
        let created = self.parts.store.create(opening.about()).await;
        let writer = created
            .map_err(|error| self.turn_down(&opening.meta, origin, store_failed(id, &error)))?;
        let body = Box::new(Body::new(Arc::clone(self), opening, writer));
        Self::begun(claim, body, 0)
    }

    /// The announcement begins in the middle.
    async fn go_on(
        self: &Arc<Self>,
        begin: Begin,
        origin: &Origin,
        claim: Claim,
    ) -> Result<Begun, Reject> {
        let Some(mut claim) = self.warm_up(claim).await else {
            return Err(self.not_held(&begin, 0, origin));
        };
        let held = match claim.content() {
            Some(Some(Content::Warm(body))) => body.received(),
            _ => 0,
        };
        if begin.offset > held {
            return Err(self.not_held(&begin, held, origin));
        }
        if let Some(Some(Content::Warm(body))) = claim.content() {
            // If it is turned down, what is held stays.
            body.secure_as(origin)
                .map_err(|reject| self.turn_down(&begin.meta, origin, reject))?;
        }
        let Some(Content::Warm(mut body)) = claim.take() else {
            return Err(self.not_held(&begin, 0, origin));
        };
        body.adopt(&begin.meta, origin)
            .map_err(|reject| self.turn_down(&begin.meta, origin, reject))?;
        Self::begun(claim, body, begin.offset)
    }

    fn begun(claim: Claim, body: Box<Body>, offset: u64) -> Result<Begun, Reject> {
        let id = body.meta().id;
        match Upload::new(claim, body, offset) {
            Some(upload) => Ok(Begun::Upload(Box::new(upload))),
            None => {
                let message = format!("a newer upload of image {id} took over");
                Err(Reject::new(id, RejectReason::Superseded, message))
            }
        }
    }

    async fn look_up(
        &self,
        begin: &Begin,
        origin: &Origin,
        open_ended: bool,
    ) -> Result<Known, Reject> {
        if sabotage::is(Sabotage::ForgetDuplicates) {
            return Ok(Known::No);
        }
        let id = begin.meta.id;
        let found = self.parts.catalog.find(id).await;
        let known = match found.map_err(|error| catalog_failed(id, &error))? {
            Some(known) if self.is_there(&known.entry).await? => known.entry,
            _ => return Ok(Known::No),
        };
        let digest = match begin.meta.digest {
            Some(digest) if digest.algorithm() == known.digest.algorithm() => digest,
            _ => return Ok(Known::Compare(Box::new(known))),
        };
        let same_size = begin.meta.size == known.meta.size;
        if digest == known.digest && !same_size && !open_ended {
            let reject = other_size(begin, &known);
            return Ok(Known::Answer(Err(self.turn_down(
                &begin.meta,
                origin,
                reject,
            ))));
        }
        let answer = self.seen_before(&begin.meta, origin, digest, known).await;
        Ok(Known::Answer(answer))
    }

    fn not_held(&self, begin: &Begin, held: u64, origin: &Origin) -> Reject {
        let message = format!(
            "upload to go on at byte {}, but {held} bytes are held",
            begin.offset
        );
        let mut reject = Reject::new(begin.meta.id, RejectReason::Offset, message);
        reject.held = Some(held);
        self.turn_down(&begin.meta, origin, reject)
    }
}

/// A digest that is right, of a size that cannot be.
fn other_size(begin: &Begin, known: &Entry) -> Reject {
    let message = format!(
        "image {} is stored with {} bytes, not {}; give a new image a new id",
        begin.meta.id, known.meta.size, begin.meta.size
    );
    Reject::new(begin.meta.id, RejectReason::Conflict, message)
}
