//! One image on its way in.

mod body;
mod ending;
mod rationing;
mod recover;

use std::sync::Arc;

use shared::chunk::{ChunkError, Segments};
use shared::clock::UnixNanos;
use shared::digest::Digest;
use shared::image::{ImageId, ImageMeta};
use shared::receipt::{Durability, Receipt, Reject, RejectReason};
use shared::trace::TraceContext;

use super::unfinished::{Cell, Claim, Content};
use super::{Intake, Origin};
use crate::budget::{Budget, Lease};
pub use body::Checkpoint;
pub(super) use body::{Body, Opening};
pub(super) use recover::recover;

/// Whether bytes count as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// They do.
    Needless,
    /// Only together, when something has been checked that is known at their end.
    Follows,
}

/// What an upload takes beside its image's bytes and what is said of it, about.
const UPLOAD: usize = 2 << 10;

/// Bytes in memory of an upload of this image, but those of the image.
pub fn said(meta: &ImageMeta) -> u64 {
    let texts = [&meta.name, &meta.content_type];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();
    // The catalogue's entry has them again.
    (UPLOAD + 2 * (texts + meta.run.len())) as u64
}

/// One image on its way in, as its owner has it. Dropped before [`Upload::finish`], it leaves
/// nothing behind, unless a newer owner took over.
pub struct Upload {
    intake: Arc<Intake>,
    /// `None` once it is given up.
    owner: Option<u64>,
    cell: Arc<Cell>,
    meta: Arc<ImageMeta>,
    origin: Origin,
    size: u64,
    /// Bytes that are verified.
    received: u64,
    /// Where the next chunk begins: before `received` while bytes come again that are there.
    next: u64,
    /// Bytes in memory.
    buffered: u64,
    /// Bytes that it takes beside them.
    said: u64,
    /// For those, when nobody else answers for them.
    lease: Option<Lease>,
}

impl Upload {
    /// Goes on with what was claimed, from the byte `offset` on, which may be before its end;
    /// `None` if the claim has been given up.
    pub(super) fn new(claim: Claim, body: Box<Body>, offset: u64) -> Option<Self> {
        let intake = Arc::clone(body.intake());
        let (meta, origin) = (Arc::clone(body.meta()), body.origin().clone());
        let (size, received) = (body.size(), body.received());
        let (buffered, said) = (body.buffered(), said(&meta));
        let (owner, cell) = claim.keep(Content::Warm(body))?;
        Some(Self {
            intake,
            owner: Some(owner),
            cell,
            meta,
            origin,
            size,
            received,
            next: offset,
            buffered,
            said,
            lease: None,
        })
    }

    /// What its sender said of the image.
    pub fn meta(&self) -> &ImageMeta {
        &self.meta
    }

    /// Bytes so far, all of them checked.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes of the whole image, as declared.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of it that are in memory.
    pub fn buffered(&self) -> u64 {
        self.buffered
    }

    /// Bytes that it takes in memory beside them, until its end.
    pub fn said(&self) -> u64 {
        self.said
    }

    /// Answers itself for its bytes in memory from now on, until they are on disk.
    pub fn hold(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// The memory that its bytes count against until they are on disk.
    pub fn budget(&self) -> &Arc<Budget> {
        self.intake.budget()
    }

    /// The next bytes are of the attempt that has this place in the image's trace.
    pub async fn goes_on_in(&mut self, trace: TraceContext) {
        if let Some(Content::Warm(body)) = &mut *self.cell.lock().await
            && self.is_owned()
        {
            body.goes_on_in(trace);
        }
    }

    /// Hands the bytes that are in memory to the disk.
    ///
    /// # Errors
    /// When the store fails or another connection took over; the upload cannot be completed then.
    pub async fn write_out(&mut self) -> Result<(), Reject> {
        let mut content = self.cell.lock().await;
        let body = match &mut *content {
            Some(Content::Warm(body)) if self.is_owned() => body,
            _ => return Err(self.superseded()),
        };
        body.write_out().await?;
        self.buffered = body.buffered();
        Ok(())
    }

    /// Who sends it.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    fn id(&self) -> ImageId {
        self.meta.id
    }

    fn is_owned(&self) -> bool {
        self.owner
            .is_some_and(|owner| self.intake.unfinished.owns(self.meta.id, owner))
    }

    /// How far it is now. With `proof`, what comes from here on counts only once [`Self::prove`]
    /// says so: neither another connection nor another process goes on with it before.
    ///
    /// # Errors
    /// When another connection took over.
    pub async fn checkpoint(&self, proof: Proof) -> Result<Checkpoint, Reject> {
        let mut content = self.cell.lock().await;
        let body = match &mut *content {
            Some(Content::Warm(body)) if self.is_owned() => body,
            _ => return Err(self.superseded()),
        };
        if proof == Proof::Follows {
            body.suspect();
        }
        Ok(body.checkpoint())
    }

    /// What came since the checkpoint counts.
    ///
    /// # Errors
    /// When another connection took over.
    pub async fn prove(&self) -> Result<(), Reject> {
        let mut content = self.cell.lock().await;
        match &mut *content {
            Some(Content::Warm(body)) if self.is_owned() => {
                body.prove();
                Ok(())
            }
            _ => Err(self.superseded()),
        }
    }

    /// The store was full: goes back to what it has. Without this, the upload cannot be completed.
    ///
    /// # Errors
    /// When nothing is left, or another connection took over.
    pub async fn retreat(&mut self) -> Result<(), Reject> {
        let mut content = self.cell.lock().await;
        let body = match &mut *content {
            Some(Content::Warm(body)) if self.is_owned() => body,
            _ => return Err(self.superseded()),
        };
        body.retreat().await?;
        self.received = body.received();
        self.buffered = body.buffered();
        self.next = self.received;
        Ok(())
    }

    /// Goes back to `checkpoint`.
    ///
    /// # Errors
    /// When the store fails or another connection took over; the upload cannot be completed then.
    pub async fn roll_back(&mut self, checkpoint: Checkpoint) -> Result<(), Reject> {
        let mut content = self.cell.lock().await;
        let body = match &mut *content {
            Some(Content::Warm(body)) if self.is_owned() => body,
            _ => return Err(self.superseded()),
        };
        body.roll_back(checkpoint).await?;
        self.received = body.received();
        self.buffered = body.buffered();
        self.next = self.received;
        Ok(())
    }

    /// Takes the chunk that starts at `offset`, with its CRC-32C if one was declared.
    ///
    /// # Errors
    /// When it does not fit or is damaged: the upload is where it was before. When the store fails
    /// or another connection took over: the upload cannot be completed.
    pub async fn push(
        &mut self,
        offset: u64,
        crc32c: Option<u32>,
        data: Segments,
    ) -> Result<(), Reject> {
        let now = UnixNanos::now();
        let mut content = self.cell.lock().await;
        let body = match &mut *content {
            Some(Content::Warm(body)) if self.is_owned() => body,
            _ => return Err(self.superseded()),
        };
        let (mut offset, mut crc32c, mut data) = (offset, crc32c, data);
        if self.next < body.received() {
            let fits = again(self.next, offset, crc32c, &data);
            fits.map_err(|error| body.turned_down(body.chunk_reject(error)))?;
            let end = offset + data.len() as u64;
            let known = body.received() - offset;
            self.next = end.min(body.received());
            let Some(known) = usize::try_from(known)
                .ok()
                .filter(|known| *known < data.len())
            else {
                return Ok(());
            };
            data.split_to(known);
            offset = body.received();
            crc32c = None;
        }
        let pushed = body.push(now, offset, crc32c, data).await;
        self.received = body.received();
        self.buffered = body.buffered();
        self.next = self.received;
        drop(content);
        if pushed.is_err() {
            self.intake.room_to_count().await;
        }
        pushed
    }

    /// All bytes have come: checks the whole, stores it as durably as promised, catalogues it.
    /// `declared` is the digest, unless the announcement had it. Once begun it goes on to its end,
    /// even if nobody waits for it any more, lest a file is left that the catalogue does not know.
    ///
    /// # Errors
    /// The image is not stored; with `quarantined` set it is kept apart.
    pub async fn finish(mut self, declared: Option<Digest>) -> Result<Receipt, Reject> {
        let id = self.id();
        let lease = self.lease.take();
        let (mut body, storing) = {
            let mut content = self.cell.lock().await;
            let Some(owner) = self.owner else {
                return Err(self.superseded());
            };
            if !self.intake.unfinished.begin_storing(id, owner) {
                return Err(self.superseded());
            }
            // From here on, whoever wants the image waits until this is dropped.
            self.owner = None;
            let storing = Storing {
                intake: Arc::clone(&self.intake),
                id,
                owner,
            };
            match content.take() {
                Some(Content::Warm(body)) => (body, storing),
                _ => return Err(self.superseded()),
            }
        };
        if self.intake.durability() == Durability::Memory {
            // Nothing that could be left half done, and no time to lose.
            let stored = body.complete(declared).await;
            drop((body, storing, lease));
            return stored;
        }
        let tasks = self.intake.storing.clone();
        let completed = tasks
            .spawn(async move {
                let stored = body.complete(declared).await;
                drop((body, storing, lease));
                stored
            })
            .await;
        completed.unwrap_or_else(|error| {
            tracing::error!(image = %id, "storing failed: {error}");
            let message = "the receiver failed to store the image; its log says why";
            Err(Reject::new(id, RejectReason::Internal, message))
        })
    }

    /// Leaves it for somebody to go on with.
    pub(super) async fn park(mut self) {
        let Some(owner) = self.owner else { return };
        let mut content = self.cell.lock().await;
        let Some(Content::Warm(body)) = &mut *content else {
            return;
        };
        if !self.intake.unfinished.owns(self.meta.id, owner) {
            return;
        }
        if let Err(error) = body.park().await {
            let image = self.meta.id;
            tracing::error!(%image, "unfinished upload cannot be kept: {error}");
            return;
        }
        let bytes = body.received();
        drop(content);
        self.owner = None;
        let since = std::time::Instant::now();
        self.intake
            .unfinished
            .park(self.meta.id, owner, bytes, since);
    }

    fn superseded(&self) -> Reject {
        let id = self.id();
        let message = format!("a newer upload of image {id} took over");
        Reject::new(id, RejectReason::Superseded, message)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(owner) = self.owner else { return };
        let unfinished = &self.intake.unfinished;
        if unfinished.is_closed()
            && unfinished.owns(self.meta.id, owner)
            && let Ok(mut content) = self.cell.try_lock()
            && let Some(content) = content.take()
        {
            // The process ends; the next one may go on with it.
            content.leave();
        }
        unfinished.release(self.meta.id, owner);
    }
}

/// The right to store an image, until it is dropped.
struct Storing {
    intake: Arc<Intake>,
    id: ImageId,
    owner: u64,
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.intake.unfinished.release(self.id, self.owner);
    }
}

/// Checks a chunk of bytes that are there already.
fn again(
    expected: u64,
    offset: u64,
    declared: Option<u32>,
    data: &Segments,
) -> Result<(), ChunkError> {
    if offset != expected {
        return Err(ChunkError::Offset { offset, expected });
    }
    match declared {
        Some(declared) if data.crc32c() != declared => Err(ChunkError::Checksum {
            offset,
            found: data.crc32c(),
            declared,
        }),
        _ => Ok(()),
    }
}
