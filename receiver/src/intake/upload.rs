//! One image on its way in.

use std::io::BufReader;
use std::sync::Arc;
use std::time::Duration;

use shared::chunk::{AssemblyError, Assembler, ChunkError, Segments};
use shared::clock::UnixNanos;
use shared::digest::{Digest, Hasher};
use shared::image::ImageMeta;
use shared::receipt::{Durability, Receipt, ReceiverTimeline, Reject, RejectReason};

use super::inspect::{Facts, Finding, Inspector, decode_fully};
use super::{Intake, Origin, catalog_failed, quarantine_reject, store_failed, too_large};
use crate::catalog::{Entry, Inserted, Verdict};
use crate::config::Verify;
use crate::store::{Area, ImageWriter, Placement};

/// One image on its way in. Dropped before [`Upload::finish`], it leaves nothing behind.
pub struct Upload {
    intake: Arc<Intake>,
    owner: u64,
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
        owner: u64,
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
            second: second.map(|algorithm| algorithm.hasher()),
        };
        Self {
            intake,
            owner,
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

    /// Another connection goes on with it.
    pub(super) fn adopt(&mut self, owner: u64, meta: ImageMeta, origin: Origin) {
        self.owner = owner;
        self.origin = origin;
        self.meta.attempt = meta.attempt;
        self.meta.clock = meta.clock.or(self.meta.clock);
        self.meta.digest = self.meta.digest.or(meta.digest);
    }

    /// Gives up ownership; whether it had it.
    pub(super) fn let_go(&mut self) -> bool {
        let owned = self.intake.owns(self.meta.id, self.owner);
        self.intake.release(self.meta.id, self.owner);
        owned
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
        let Some(writer) = &mut self.writer else { return Ok(()) };
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
        if !self.intake.owns(id, self.owner) {
            let message = format!("a newer upload of image {id} took over");
            return Err(Reject::new(id, RejectReason::Superseded, message));
        }
        let now = UnixNanos::now();
        self.first_byte.get_or_insert(now);
        self.last_byte = Some(now);
        let kib = u32::try_from(data.len().div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let intake = Arc::clone(&self.intake);
        // The semaphore is never closed. A message larger than all of it is caught by its limit.
        let Ok(_memory) = intake.memory.acquire_many(kib).await else {
            return Err(Reject::new(id, RejectReason::Unavailable, "the receiver is stopping"));
        };
        if let Err(error) = self.state.assembler.push(offset, crc32c, &data) {
            let reject = match error {
                // Nobody declared that size: it is the limit.
                ChunkError::Overflow { end, .. } if self.open_ended => {
                    too_large(&self.meta, format_args!("at least {end}"), intake.limits())
                }
                error => chunk_reject(&self.meta, error),
            };
            return Err(self.turned_down(reject));
        }
        for piece in data.pieces() {
            self.state.inspector.update(piece);
            if let Some(second) = &mut self.state.second {
                second.update(piece);
            }
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let written = writer.write(data).await;
        written.map_err(|error| self.turned_down(store_failed(id, &error)))
    }

    /// All bytes have come: checks the whole, stores it as durably as promised, catalogues it.
    /// `declared` is the digest, unless the announcement had it.
    ///
    /// # Errors
    /// The image is not stored; with `quarantined` set it is kept apart.
    pub async fn finish(mut self, declared: Option<Digest>) -> Result<Receipt, Reject> {
        let result = self.complete(declared).await;
        self.let_go();
        result
    }

    async fn complete(&mut self, declared: Option<Digest>) -> Result<Receipt, Reject> {
        let id = self.meta.id;
        if !self.intake.owns(id, self.owner) {
            let message = format!("a newer upload of image {id} took over");
            return Err(Reject::new(id, RejectReason::Superseded, message));
        }
        if self.open_ended {
            self.meta.size = self.received();
            self.state.assembler.end_here();
        }
        let digest = self.verified_digest(declared)?;
        if let Some(known) = self.known.take() {
            let found = self.state.second.as_ref().map_or(digest, Hasher::finish);
            return self.intake.seen_before(&self.meta, &self.origin, found, *known);
        }
        let finding = match self.state.inspector.finish(self.meta.content_type.as_deref()) {
            Ok(facts) => self.look_closer(&facts).await?.map_or(Ok(facts), Err),
            Err(finding) => Err(finding),
        };
        let verified = UnixNanos::now();
        let entry = self.place(digest, finding, verified).await?;
        self.catalogue(entry).await
    }

    fn verified_digest(&mut self, declared: Option<Digest>) -> Result<Digest, Reject> {
        let assembler = &self.state.assembler;
        let algorithm = assembler.algorithm();
        let expected = self.meta.digest.or(declared);
        if let (Some(first), Some(second)) = (self.meta.digest, declared)
            && first != second
        {
            let message = format!("begin declares digest {first}, end {second}");
            return Err(self.turned_down(Reject::new(self.meta.id, RejectReason::Invalid, message)));
        }
        match assembler.finish(expected.filter(|digest| digest.algorithm() == algorithm)) {
            Ok(digest) => match expected {
                // A digest in End, of another kind than the one made while the bytes came.
                Some(other) if other.algorithm() != algorithm => {
                    let message = format!(
                        "digest {} can only be checked when begin announces it; \
                         send it in begin, or use {algorithm} in end",
                        other.algorithm()
                    );
                    let reject = Reject::new(self.meta.id, RejectReason::Invalid, message);
                    Err(self.turned_down(reject))
                }
                _ => Ok(digest),
            },
            Err(error) => {
                let reason = match error {
                    AssemblyError::Truncated { .. } => RejectReason::Truncated,
                    AssemblyError::Digest { .. } => RejectReason::DigestMismatch,
                };
                Err(self.turned_down(Reject::new(self.meta.id, reason, error.to_string())))
            }
        }
    }

    /// Decodes the whole image, if that is wanted.
    async fn look_closer(&mut self, facts: &Facts) -> Result<Option<Finding>, Reject> {
        if self.intake.parts.verify != Verify::Full {
            return Ok(None);
        }
        let id = self.meta.id;
        let Some(writer) = &mut self.writer else { return Ok(None) };
        let file = writer.reopen().await.map_err(|error| store_failed(id, &error))?;
        let Some(file) = file else { return Ok(None) };
        let decoders = Arc::clone(&self.intake.decoders);
        // The semaphore is never closed.
        let Ok(_turn) = decoders.acquire().await else { return Ok(None) };
        let (facts, max_pixels) = (facts.clone(), self.intake.limits().max_pixels);
        let decoded = tokio::task::spawn_blocking(move || {
            decode_fully(BufReader::new(file), &facts, max_pixels)
        })
        .await;
        match decoded {
            Ok(verdict) => Ok(verdict.err()),
            Err(panic) => Ok(Some(Finding {
                reason: RejectReason::CorruptImage,
                message: format!("the decoder failed: {panic}"),
            })),
        }
    }

    async fn place(
        &mut self,
        digest: Digest,
        finding: Result<Facts, Finding>,
        verified: UnixNanos,
    ) -> Result<Entry, Reject> {
        let last_byte = self.last_byte.unwrap_or(verified);
        let (area, extension) = match &finding {
            Ok(facts) => (Area::Images, facts.extension),
            Err(_) => (Area::Quarantine, "bin"),
        };
        let placement = Placement { id: self.meta.id, area, extension, received: last_byte };
        let committed = match self.writer.take() {
            Some(writer) => writer.commit(placement).await,
            None => Ok(String::new()),
        };
        let location = committed
            .map_err(|error| self.turned_down(store_failed(self.meta.id, &error)))?;
        let (format, media_type, width, height, verdict) = match finding {
            Ok(facts) => {
                (facts.format, facts.media_type, facts.width, facts.height, Verdict::Stored)
            }
            Err(Finding { reason, message }) => {
                ("", "", 0, 0, Verdict::Quarantined { reason, message })
            }
        };
        Ok(Entry {
            meta: self.meta.clone(),
            transmitter: self.origin.transmitter.to_string(),
            transport: self.origin.transport,
            digest,
            verdict,
            format: format.to_owned(),
            media_type: media_type.to_owned(),
            width,
            height,
            location,
            durability: self.intake.durability(),
            timeline: ReceiverTimeline {
                first_byte: self.first_byte.unwrap_or(last_byte),
                last_byte,
                verified,
                durable: UnixNanos::now(),
            },
        })
    }

    async fn catalogue(&mut self, mut entry: Entry) -> Result<Receipt, Reject> {
        let intake = Arc::clone(&self.intake);
        if entry.durability == Durability::Memory {
            intake.parts.catalog.insert_later(entry.clone());
        } else {
            let inserted = intake.parts.catalog.insert(entry.clone()).await;
            match inserted.map_err(|error| self.turned_down(catalog_failed(self.meta.id, &error)))? {
                Inserted::New => entry.timeline.durable = UnixNanos::now(),
                Inserted::Present(known) => {
                    return intake.seen_before(&self.meta, &self.origin, entry.digest, *known);
                }
            }
        }
        if let Some(reject) = quarantine_reject(&entry) {
            tracing::warn!(
                image = %self.meta.id,
                name = self.meta.name.as_deref(),
                transmitter = %self.origin.transmitter,
                reason = %reject.reason,
                "quarantined: {reject}"
            );
            intake.parts.metrics.image_quarantined(
                self.origin.transport,
                reject.reason,
                self.meta.size,
            );
            intake.announce(&self.meta, &self.origin, Err(reject.clone()));
            return Err(reject);
        }
        let receipt = intake.receipt_of(&entry);
        let storing = entry.timeline.durable.since(entry.timeline.last_byte).max(0).unsigned_abs();
        intake.parts.metrics.image_stored(
            self.origin.transport,
            receipt.size,
            transmission_of(&entry),
            Duration::from_nanos(storing),
        );
        intake.announce(&self.meta, &self.origin, Ok(receipt.clone()));
        Ok(receipt)
    }

    fn turned_down(&self, reject: Reject) -> Reject {
        self.intake.turn_down(&self.meta, &self.origin, reject)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.intake.release(self.meta.id, self.owner);
    }
}

fn chunk_reject(meta: &ImageMeta, error: ChunkError) -> Reject {
    let (reason, advice) = match error {
        ChunkError::Offset { .. } => (RejectReason::Offset, ""),
        ChunkError::Overflow { .. } => (RejectReason::Overflow, ""),
        ChunkError::Checksum { .. } => (RejectReason::ChunkChecksum, ""),
        ChunkError::Count { .. } => (
            RejectReason::Limit,
            "; send larger chunks (TRANSMITTER_CHUNK_SIZE) or raise RECEIVER_MAX_CHUNKS",
        ),
    };
    Reject::new(meta.id, reason, format!("{error}{advice}"))
}

/// One-way time from send start to last byte, as far as the clocks are known.
fn transmission_of(entry: &Entry) -> Option<Duration> {
    let sent = entry.meta.send_started?;
    let clock = entry.meta.clock?;
    Some(clock.one_way(sent, entry.timeline.last_byte))
}
