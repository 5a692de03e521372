//! One image on its way in.

mod ending;

use std::sync::Arc;

use shared::chunk::{Assembler, ChunkError, Segments};
use shared::clock::UnixNanos;
use shared::digest::{Digest, DigestAlgorithm, Hasher};
use shared::image::{ImageMeta, Transport};
use shared::receipt::{Durability, Receipt, Reject, RejectReason};

use super::inspect::Inspector;
use super::unfinished::Claim;
use super::{Intake, Origin, store_failed};
use crate::catalog::Entry;
use crate::store::{ImageWriter, StoreError};

/// One image on its way in. Dropped before [`Upload::finish`], it leaves nothing behind.
pub struct Upload {
    intake: Arc<Intake>,
    /// `None` while it is parked.
    owner: Option<u64>,
    meta: ImageMeta,
    origin: Origin,
    state: Checkpoint,
    /// `None` once it is committed.
    writer: Option<Box<dyn ImageWriter>>,
    /// The catalogued image with this id, when only the bytes can tell whether it is the same.
    known: Option<Box<Entry>>,
    /// Size is what comes.
    open_ended: bool,
    first_byte: Option<UnixNanos>,
    last_byte: Option<UnixNanos>,
}

/// How far an upload was, to go back to.
#[derive(Clone)]
pub struct Checkpoint {
    assembler: Assembler,
    inspector: Inspector,
    /// Digest with the algorithm of the catalogued image, when that is another.
    second: Option<Hasher>,
}

impl Upload {
    pub(super) fn new(
        intake: Arc<Intake>,
        meta: ImageMeta,
        origin: Origin,
        writer: Box<dyn ImageWriter>,
        known: Option<Box<Entry>>,
        open_ended: bool,
    ) -> Self {
        let known_algorithm = known.as_ref().map(|entry| entry.digest.algorithm());
        let algorithm = meta
            .digest
            .map(|digest| digest.algorithm())
            .or(known_algorithm)
            .unwrap_or_default();
        let second = known_algorithm.filter(|known| *known != algorithm);
        let state = Checkpoint {
            assembler: Assembler::new(meta.size, intake.limits().max_chunks, algorithm),
            inspector: Inspector::default(),
            second: second.map(DigestAlgorithm::hasher),
        };
        Self {
            intake,
            owner: None,
            meta,
            origin,
            state,
            writer: Some(writer),
            known,
            open_ended,
            first_byte: None,
            last_byte: None,
        }
    }

    /// What its sender said of the image.
    pub fn meta(&self) -> &ImageMeta {
        &self.meta
    }

    /// Bytes so far, all of them checked.
    pub fn received(&self) -> u64 {
        self.state.assembler.received()
    }

    /// Bytes of the whole image, as declared.
    pub fn size(&self) -> u64 {
        self.state.assembler.size()
    }

    /// Who sends it.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn claimed(mut self, claim: Claim) -> Self {
        self.owner = claim.into_owner();
        self
    }

    /// An owner goes on with it as it is.
    pub(super) fn owned_by(&mut self, owner: u64, transport: Transport) {
        self.owner = Some(owner);
        self.origin.transport = transport;
    }

    /// It has no owner from now on; the last one.
    pub(super) fn disowned(&mut self) -> Option<u64> {
        self.owner.take()
    }

    fn is_owned(&self) -> bool {
        self.owner
            .is_some_and(|owner| self.intake.unfinished.owns(self.meta.id, owner))
    }

    /// A sender that announced the image again goes on with it.
    ///
    /// # Errors
    /// When the new announcement is of other bytes, or has a digest that can no longer be made.
    pub(super) fn adopt(&mut self, meta: &ImageMeta, origin: &Origin) -> Result<(), Reject> {
        let other_digest = match (self.meta.digest, meta.digest) {
            (Some(before), Some(now)) => before != now,
            (None, Some(now)) => now.algorithm() != self.state.assembler.algorithm(),
            (_, None) => false,
        };
        if meta.size != self.size() || other_digest {
            let message = format!(
                "the {} bytes held were announced with another size or digest and are dropped; \
                 send the image from byte 0",
                self.received()
            );
            return Err(Reject::new(self.meta.id, RejectReason::Offset, message));
        }
        self.origin = origin.clone();
        self.meta.attempt = meta.attempt;
        self.meta.clock = meta.clock.or(self.meta.clock);
        self.meta.digest = self.meta.digest.or(meta.digest);
        Ok(())
    }

    /// Hands all bytes to the store's medium, so that a parked upload takes no memory for them.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        match &mut self.writer {
            Some(writer) if self.state.assembler.received() > 0 => writer.reopen().await.map(drop),
            _ => Ok(()),
        }
    }

    /// How far it is now.
    pub fn checkpoint(&self) -> Checkpoint {
        self.state.clone()
    }

    /// Goes back to `checkpoint`.
    ///
    /// # Errors
    /// When the store fails; the upload cannot be completed then.
    pub async fn roll_back(&mut self, checkpoint: Checkpoint) -> Result<(), Reject> {
        let length = checkpoint.assembler.received();
        self.state = checkpoint;
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let truncated = writer.truncate(length).await;
        truncated.map_err(|error| self.turned_down(store_failed(self.meta.id, &error)))
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
        let id = self.meta.id;
        if !self.is_owned() {
            return Err(self.superseded());
        }
        let now = UnixNanos::now();
        self.first_byte.get_or_insert(now);
        self.last_byte = Some(now);
        let kib = u32::try_from(data.len().div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let intake = Arc::clone(&self.intake);
        // The semaphore is never closed. More than there is would be waited for for ever.
        let Ok(_memory) = intake.memory.acquire_many(kib.min(intake.memory_kib)).await else {
            return Err(Reject::new(
                id,
                RejectReason::Unavailable,
                "the receiver is stopping",
            ));
        };
        if let Err(error) = self.state.assembler.push(offset, crc32c, &data) {
            return Err(self.turned_down(self.chunk_reject(error)));
        }
        for piece in data.pieces() {
            self.state.inspector.update(piece);
            if let Some(second) = &mut self.state.second {
                second.update(piece);
            }
        }
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let written = writer.write(data).await;
        written.map_err(|error| self.turned_down(store_failed(id, &error)))
    }

    /// All bytes have come: checks the whole, stores it as durably as promised, catalogues it.
    /// `declared` is the digest, unless the announcement had it. Once begun it goes on to its end,
    /// even if nobody waits for it any more, lest a file is left that the catalogue does not know.
    ///
    /// # Errors
    /// The image is not stored; with `quarantined` set it is kept apart.
    pub async fn finish(mut self, declared: Option<Digest>) -> Result<Receipt, Reject> {
        let id = self.meta.id;
        let unfinished = &self.intake.unfinished;
        if !self
            .owner
            .is_some_and(|owner| unfinished.begin_storing(id, owner))
        {
            return Err(self.superseded());
        }
        if self.intake.durability() == Durability::Memory {
            // Nothing that could be left half done, and no time to lose.
            return self.complete(declared).await;
        }
        let storing = self.intake.storing.clone();
        let completed = storing
            .spawn(async move { self.complete(declared).await })
            .await;
        completed.unwrap_or_else(|error| {
            tracing::error!(image = %id, "storing failed: {error}");
            let message = "the receiver failed to store the image; its log says why";
            Err(Reject::new(id, RejectReason::Internal, message))
        })
    }

    fn superseded(&self) -> Reject {
        let id = self.meta.id;
        let message = format!("a newer upload of image {id} took over");
        Reject::new(id, RejectReason::Superseded, message)
    }

    async fn complete(&mut self, declared: Option<Digest>) -> Result<Receipt, Reject> {
        if self.open_ended {
            self.meta.size = self.received();
            self.state.assembler.end_here();
        }
        let digest = self.verified_digest(declared)?;
        if let Some(known) = self.known.take() {
            let found = self.state.second.as_ref().map_or(digest, Hasher::finish);
            return self
                .intake
                .seen_before(&self.meta, &self.origin, found, *known)
                .await;
        }
        let finding = match self
            .state
            .inspector
            .finish(self.meta.content_type.as_deref())
        {
            Ok(facts) => self.look_closer(&facts).await?.map_or(Ok(facts), Err),
            Err(finding) => Err(finding),
        };
        let verified = UnixNanos::now();
        let entry = self.place(digest, finding, verified).await?;
        self.catalogue(entry).await
    }

    fn chunk_reject(&self, error: ChunkError) -> Reject {
        let id = self.meta.id;
        let (reason, advice) = match error {
            ChunkError::Offset { .. } => (RejectReason::Offset, ""),
            ChunkError::Overflow { .. } if self.open_ended => {
                let limit = self.intake.limits().max_image_size;
                let message = format!(
                    "image exceeds the receiver's limit of {limit} ({} bytes); \
                     raise RECEIVER_MAX_IMAGE_SIZE",
                    limit.0
                );
                return Reject::new(id, RejectReason::Limit, message);
            }
            ChunkError::Overflow { .. } => (RejectReason::Overflow, ""),
            ChunkError::Checksum { .. } => (RejectReason::ChunkChecksum, ""),
            ChunkError::Count { .. } => (
                RejectReason::Limit,
                "; send larger chunks (TRANSMITTER_CHUNK_SIZE) or raise RECEIVER_MAX_CHUNKS",
            ),
        };
        Reject::new(id, reason, format!("{error}{advice}"))
    }

    fn turned_down(&self, reject: Reject) -> Reject {
        self.intake.turn_down(&self.meta, &self.origin, reject)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(owner) = self.owner {
            self.intake.unfinished.release(self.meta.id, owner);
        }
    }
}
