//! What came of an image, and what becomes of it.

use std::sync::Arc;

use shared::chunk::{Assembler, ChunkError, Segments};
use shared::clock::UnixNanos;
use shared::digest::{DigestAlgorithm, Hasher};
use shared::image::{ImageMeta, Transport};
use shared::receipt::{Reject, RejectReason};
use shared::security::access::Caller;
use shared::trace::TraceContext;

use crate::catalog::Entry;
use crate::intake::inspect::Inspector;
use crate::intake::quota::Reservation;
use crate::intake::{Intake, Origin, store_failed};
use crate::store::{About, ImageWriter, StoreError};

/// What came of an image so far. Dropped, it leaves nothing behind.
pub(in crate::intake) struct Body {
    pub(super) intake: Arc<Intake>,
    pub(super) meta: Arc<ImageMeta>,
    pub(super) origin: Origin,
    pub(super) state: Checkpoint,
    /// What a full disk leaves: as far as the store has it.
    on_disk: Option<Box<Checkpoint>>,
    /// What was there when bytes began to come that count only together, and not yet.
    unproven: Option<Box<Checkpoint>>,
    /// `None` once it is committed.
    pub(super) writer: Option<Box<dyn ImageWriter>>,
    /// The catalogued image with this id, when only the bytes can tell whether it is the same.
    pub(super) known: Option<Box<Entry>>,
    /// Size is what comes.
    pub(super) open_ended: bool,
    /// Its part of its transmitter's quota, once it has one.
    pub(super) reserved: Option<Reservation>,
    pub(super) first_byte: Option<UnixNanos>,
    pub(super) last_byte: Option<UnixNanos>,
}

/// How far an upload was, to go back to.
#[derive(Clone)]
pub struct Checkpoint {
    pub(super) assembler: Assembler,
    pub(super) inspector: Inspector,
    /// Digest with the algorithm of the catalogued image, when that is another.
    pub(super) second: Option<Hasher>,
}

impl Checkpoint {
    /// Takes bytes whose place has been checked.
    pub(super) fn look_at(&mut self, data: &Segments) {
        for piece in data.pieces() {
            self.inspector.update(piece);
            if let Some(second) = &mut self.second {
                second.update(piece);
            }
        }
    }
}

/// The beginning of an upload.
pub(in crate::intake) struct Opening {
    pub(in crate::intake) meta: Arc<ImageMeta>,
    pub(in crate::intake) origin: Origin,
    pub(in crate::intake) known: Option<Box<Entry>>,
    pub(in crate::intake) open_ended: bool,
    pub(in crate::intake) reserved: Option<Reservation>,
}

impl Opening {
    fn known_algorithm(&self) -> Option<DigestAlgorithm> {
        self.known.as_ref().map(|entry| entry.digest.algorithm())
    }

    fn algorithm(&self) -> DigestAlgorithm {
        let declared = self.meta.digest.map(|digest| digest.algorithm());
        declared.or(self.known_algorithm()).unwrap_or_default()
    }

    /// What the store is to know of it.
    pub(in crate::intake) fn about(&self) -> About {
        About {
            meta: Arc::clone(&self.meta),
            transmitter: Arc::clone(&self.origin.transmitter),
            outbox: self.origin.outbox,
            transport: self.origin.transport,
            algorithm: self.algorithm(),
        }
    }
}

impl Body {
    pub(in crate::intake) fn new(
        intake: Arc<Intake>,
        opening: Opening,
        writer: Box<dyn ImageWriter>,
    ) -> Self {
        let algorithm = opening.algorithm();
        let second = opening.known_algorithm();
        let second = second.filter(|known| *known != algorithm);
        let mut body = Self::begun(intake, opening.meta, opening.origin, algorithm);
        body.state.second = second.map(DigestAlgorithm::hasher);
        body.writer = Some(writer);
        body.known = opening.known;
        body.open_ended = opening.open_ended;
        body.reserved = opening.reserved;
        body
    }

    /// Of what an earlier process left, with no bytes and no writer yet.
    pub(super) fn of_partial(intake: Arc<Intake>, about: About) -> Self {
        let origin = Origin::new(about.transport, &about.transmitter, &Caller::Anyone)
            .with_outbox(about.outbox);
        // As the records were made, whatever is known of the image by now.
        Self::begun(intake, about.meta, origin, about.algorithm)
    }

    fn begun(
        intake: Arc<Intake>,
        meta: Arc<ImageMeta>,
        origin: Origin,
        algorithm: DigestAlgorithm,
    ) -> Self {
        let max_chunks = intake.limits().max_chunks;
        Self {
            state: Checkpoint {
                assembler: Assembler::new(meta.size, max_chunks, algorithm),
                inspector: Inspector::default(),
                second: None,
            },
            on_disk: None,
            unproven: None,
            intake,
            meta,
            origin,
            writer: None,
            known: None,
            open_ended: false,
            reserved: None,
            first_byte: None,
            last_byte: None,
        }
    }

    /// Has this writer, whose store has everything up to `state`.
    pub(super) fn goes_on(&mut self, writer: Box<dyn ImageWriter>, state: Checkpoint) {
        self.on_disk = Some(Box::new(state.clone()));
        self.state = state;
        self.writer = Some(writer);
    }

    pub(super) fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    pub(in crate::intake) fn meta(&self) -> &Arc<ImageMeta> {
        &self.meta
    }

    pub(in crate::intake) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(in crate::intake) fn received(&self) -> u64 {
        self.state.assembler.received()
    }

    /// Bytes that count, whatever becomes of those that come just now.
    pub(in crate::intake) fn proven(&self) -> u64 {
        match &self.unproven {
            Some(start) => start.assembler.received(),
            None => self.received(),
        }
    }

    pub(in crate::intake) fn size(&self) -> u64 {
        self.state.assembler.size()
    }

    /// Whether somebody else can go on with it, who would have to know its size.
    pub(in crate::intake) fn can_be_left(&self) -> bool {
        !self.open_ended
    }

    /// Somebody goes on with it as it is, over `transport`.
    pub(in crate::intake) fn comes_by(&mut self, transport: Transport) {
        self.origin.transport = transport;
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        self.state.clone()
    }

    /// What comes from here on counts only once [`Self::prove`] says so: neither another connection
    /// nor another process goes on with it before.
    pub(super) fn suspect(&mut self) {
        self.unproven = Some(Box::new(self.state.clone()));
        if let Some(writer) = &mut self.writer {
            writer.set_provisional(true);
        }
    }

    pub(super) fn prove(&mut self) {
        self.unproven = None;
        if let Some(writer) = &mut self.writer {
            writer.set_provisional(false);
        }
    }

    pub(in crate::intake) fn is_suspect(&self) -> bool {
        self.unproven.is_some()
    }

    /// Drops what does not count.
    pub(in crate::intake) async fn drop_unproven(&mut self) -> Result<(), StoreError> {
        match self.unproven.take() {
            Some(start) => self.go_back(*start).await,
            None => Ok(()),
        }
    }

    /// The store is full: goes back to what it has and may keep.
    pub(super) async fn retreat(&mut self) -> Result<(), Reject> {
        let id = self.meta.id;
        let Some(ground) = self.unproven.take().or_else(|| self.on_disk.clone()) else {
            return Err(store_failed(id, &StoreError::Broken { id }));
        };
        let back = self.go_back(*ground).await;
        back.map_err(|error| store_failed(id, &error))
    }

    /// A sender that announced the image again goes on with it.
    ///
    /// # Errors
    /// When the new announcement is of other bytes, or has a digest that can no longer be made.
    pub(in crate::intake) fn adopt(
        &mut self,
        meta: &ImageMeta,
        origin: &Origin,
    ) -> Result<(), Reject> {
        let other_digest = match (self.meta.digest, meta.digest) {
            (Some(before), Some(now)) => before != now,
            (None, Some(now)) => now.algorithm() != self.state.assembler.algorithm(),
            (_, None) => false,
        };
        if meta.size != self.size() || other_digest || self.open_ended {
            let message = format!(
                "the {} bytes held were announced with another size or digest and are dropped; \
                 send the image from byte 0",
                self.received()
            );
            return Err(Reject::new(self.meta.id, RejectReason::Offset, message));
        }
        self.origin = origin.clone();
        let known = Arc::make_mut(&mut self.meta);
        // The number counts in the outbox that its sender has now, which may be another one.
        known.sequence = meta.sequence;
        known.run.clone_from(&meta.run);
        known.attempt = meta.attempt;
        known.trace = meta.trace;
        known.clock = meta.clock.or(known.clock);
        known.digest = known.digest.or(meta.digest);
        Ok(())
    }

    pub(super) fn goes_on_in(&mut self, trace: TraceContext) {
        Arc::make_mut(&mut self.meta).trace = Some(trace);
    }

    /// Hands all bytes to the store's medium, so that a parked upload takes no memory for them,
    /// and holds nothing open.
    ///
    /// # Errors
    /// When the store fails. A full one keeps what it has: the rest is sent again.
    pub(in crate::intake) async fn park(&mut self) -> Result<(), StoreError> {
        self.drop_unproven().await?;
        if let Err(error) = self.park_writer().await {
            let Some(ground) = self.on_disk.clone().filter(|_| error.is_full()) else {
                return Err(error);
            };
            self.go_back(*ground).await?;
            self.park_writer().await?;
        }
        self.on_disk = Some(Box::new(self.state.clone()));
        self.release();
        Ok(())
    }

    async fn park_writer(&mut self) -> Result<(), StoreError> {
        let digest = self.state.assembler.digest_so_far();
        match &mut self.writer {
            Some(writer) => writer.park(digest).await,
            None => Ok(()),
        }
    }

    /// Bytes in memory.
    pub(super) fn buffered(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.buffered())
    }

    /// Hands the bytes in memory to the operating system.
    pub(super) async fn write_out(&mut self) -> Result<(), Reject> {
        let id = self.meta.id;
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let written = writer.reopen().await.map(drop);
        self.note_on_disk();
        written.map_err(|error| self.turned_down(store_failed(id, &error)))
    }

    /// What is there stays for the next process.
    pub(in crate::intake) fn leave(&mut self) {
        if let Some(writer) = &mut self.writer
            && !self.open_ended
        {
            writer.leave();
        }
    }

    pub(super) async fn roll_back(&mut self, checkpoint: Checkpoint) -> Result<(), Reject> {
        let back = self.go_back(checkpoint).await;
        back.map_err(|error| self.turned_down(store_failed(self.meta.id, &error)))
    }

    async fn go_back(&mut self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let length = checkpoint.assembler.received();
        let digest = checkpoint.assembler.digest_so_far();
        let beyond = |ground: &Checkpoint| ground.assembler.received() > length;
        if self.on_disk.as_deref().is_some_and(beyond) {
            // The store has more than that, and cuts it off.
            self.on_disk = Some(Box::new(checkpoint.clone()));
        }
        self.state = checkpoint;
        self.prove();
        match &mut self.writer {
            Some(writer) => writer.truncate(length, digest).await,
            None => Ok(()),
        }
    }

    pub(super) async fn push(
        &mut self,
        now: UnixNanos,
        offset: u64,
        crc32c: Option<u32>,
        data: Segments,
    ) -> Result<(), Reject> {
        let id = self.meta.id;
        self.first_byte.get_or_insert(now);
        let end = offset.saturating_add(data.len() as u64);
        self.secure(end)
            .map_err(|reject| self.turned_down(reject))?;
        self.last_byte = Some(now);
        if let Err(error) = self.state.assembler.push(offset, crc32c, &data) {
            return Err(self.turned_down(self.chunk_reject(error)));
        }
        self.state.look_at(&data);
        let digest = self.state.assembler.digest_so_far();
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let written = writer.write(data, digest).await;
        self.note_on_disk();
        written.map_err(|error| self.turned_down(store_failed(id, &error)))
    }

    /// Takes note if the store has everything.
    fn note_on_disk(&mut self) {
        let on_disk = self.writer.as_ref().and_then(|writer| writer.on_disk());
        if on_disk == Some(self.received()) {
            self.on_disk = Some(Box::new(self.state.clone()));
        }
    }

    pub(super) fn chunk_reject(&self, error: ChunkError) -> Reject {
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

    pub(super) fn turned_down(&self, reject: Reject) -> Reject {
        self.intake.turn_down(&self.meta, &self.origin, reject)
    }
}
