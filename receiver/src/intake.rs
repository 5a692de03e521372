//! Turns what arrives into verified, stored, catalogued images.
//!
//! An [`Upload`] is one image on its way in. Whatever transport brings its bytes, it goes through
//! the same checks and ends in the same [`Receipt`] or [`Reject`].

pub mod inspect;
mod losses;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
pub(crate) mod sample;
mod unfinished;
mod upload;

use std::sync::Arc;

use shared::clock::UnixNanos;
use shared::digest::Digest;
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use shared::receipt::{Durability, Receipt, ReceiptStatus, Reject, RejectReason};
use shared::report::RunAccount;
use shared::wire::{Begin, Event};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::task::TaskTracker;

use crate::catalog::{Catalog, CatalogError, Entry, Repeat, Tally, TallyKind, Verdict};
use crate::config::{Limits, Verify};
use crate::metrics::ReceiverMetrics;
use crate::store::{ImageStore, StoreError};

pub use losses::MAX_LOSSES;
use unfinished::Unfinished;
pub use unfinished::{Held, Resumed};
pub use upload::{Checkpoint, Upload};

/// Who sends, and how.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Transport of the bytes.
    pub transport: Transport,
    /// Identity of the transmitter; `anonymous` when it has none.
    pub transmitter: Arc<str>,
    /// The outbox that its sequence numbers count in, when it says so.
    pub outbox: Option<OutboxId>,
}

impl Origin {
    /// A client of `transport` that calls itself `transmitter`.
    pub fn new(transport: Transport, transmitter: &str) -> Self {
        let transmitter = if transmitter.is_empty() {
            "anonymous"
        } else {
            transmitter
        };
        Self {
            transport,
            transmitter: transmitter.into(),
            outbox: None,
        }
    }

    /// The same client, whose sequence numbers count in `outbox`.
    #[must_use]
    pub fn with_outbox(self, outbox: Option<OutboxId>) -> Self {
        Self { outbox, ..self }
    }
}

/// What an intake works with.
pub struct Parts {
    /// Keeps bytes.
    pub store: Arc<dyn ImageStore>,
    /// Keeps what is known.
    pub catalog: Arc<dyn Catalog>,
    /// Counts every answer.
    pub metrics: ReceiverMetrics,
    /// Identity of the receiver.
    pub name: String,
    /// What receipts promise.
    pub durability: Durability,
    /// How closely images are looked at.
    pub verify: Verify,
    /// What an image must keep.
    pub limits: Limits,
}

/// The receiver's core.
pub struct Intake {
    parts: Parts,
    /// Image bytes that may be in processing at once, in KiB.
    memory: Semaphore,
    /// How much of it there is.
    memory_kib: u32,
    unfinished: Unfinished,
    /// Images that are being stored, whether or not their senders still wait.
    storing: TaskTracker,
    events: broadcast::Sender<Arc<Event>>,
    /// Decoding whole images is kept to this many at once.
    decoders: Arc<Semaphore>,
}

/// Answer to the announcement of an image.
pub enum Begun {
    /// Its bytes are wanted.
    Upload(Box<Upload>),
    /// It is there already.
    Present(Receipt),
}

impl Intake {
    /// An intake with nothing in it.
    pub fn new(parts: Parts) -> Arc<Self> {
        let kib = parts.limits.max_memory.as_usize() >> 10;
        let kib = kib.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            memory: Semaphore::new(kib),
            memory_kib: u32::try_from(kib).unwrap_or(u32::MAX),
            unfinished: Unfinished::new(parts.limits.partial_ttl),
            storing: TaskTracker::new(),
            events: broadcast::channel(1_024).0,
            decoders: Arc::new(Semaphore::new(2)),
            parts,
        })
    }

    /// Limits in force.
    pub fn limits(&self) -> &Limits {
        &self.parts.limits
    }

    /// Durability that receipts state.
    pub fn durability(&self) -> Durability {
        self.parts.durability
    }

    /// Identity of the receiver.
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// What is counted.
    pub fn metrics(&self) -> &ReceiverMetrics {
        &self.parts.metrics
    }

    /// The catalogue.
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.parts.catalog
    }

    /// Events from now on.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// An image is announced. An unfinished upload of it is gone on with when `begin.offset` is
    /// what is held, and begun anew when it is 0; the newest connection owns it.
    ///
    /// # Errors
    /// When the image breaks a limit, its id belongs to another image, or the offset is not held.
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
        let id = begin.meta.id;
        self.check_limits(&begin.meta, origin)
            .map_err(|reject| self.turn_down(&begin.meta, origin, reject))?;
        if begin.offset > 0 && self.unfinished.is_receiving(id) {
            // An offset that is not held takes the image from nobody.
            self.check_offset(&begin, 0, origin)?;
        }
        // The claim comes before the look into the catalogue: whoever stored the image until then
        // is found there, and whoever has not begun to no longer can.
        let mut claim = Unfinished::claim(self, id).await;
        let known = self
            .parts
            .catalog
            .find(id)
            .await
            .map_err(|error| catalog_failed(id, &error))?;
        let mut compare = None;
        if let Some(known) = known {
            match begin.meta.digest {
                Some(digest) if digest.algorithm() == known.entry.digest.algorithm() => {
                    drop(claim.take());
                    let same_size = begin.meta.size == known.entry.meta.size;
                    if digest == known.entry.digest && !same_size && !open_ended {
                        let reject = other_size(&begin.meta, &known.entry);
                        return Err(self.turn_down(&begin.meta, origin, reject));
                    }
                    return self
                        .seen_before(&begin.meta, origin, digest, known.entry)
                        .await
                        .map(Begun::Present);
                }
                // Only the bytes can tell whether it is the same image.
                _ => compare = Some(Box::new(known.entry)),
            }
        }
        if begin.offset > 0 {
            self.check_offset(&begin, claim.received(), origin)?;
        }
        let parked = claim.take();
        let upload = match parked {
            Some(mut upload) if begin.offset > 0 => {
                upload
                    .adopt(&begin.meta, origin)
                    .map_err(|reject| self.turn_down(&begin.meta, origin, reject))?;
                upload
            }
            replaced => {
                drop(replaced);
                let writer = self.parts.store.create(id).await.map_err(|error| {
                    self.turn_down(&begin.meta, origin, store_failed(id, &error))
                })?;
                let intake = Arc::clone(self);
                Upload::new(
                    intake,
                    begin.meta,
                    origin.clone(),
                    writer,
                    compare,
                    open_ended,
                )
            }
        };
        Ok(Begun::Upload(Box::new(upload.claimed(claim))))
    }

    fn check_offset(&self, begin: &Begin, held: u64, origin: &Origin) -> Result<(), Reject> {
        if begin.offset == held {
            return Ok(());
        }
        let message = format!(
            "upload to go on at byte {}, but {held} bytes are held",
            begin.offset
        );
        let reject = Reject::new(begin.meta.id, RejectReason::Offset, message);
        Err(self.turn_down(&begin.meta, origin, reject))
    }

    fn check_limits(&self, meta: &ImageMeta, origin: &Origin) -> Result<(), Reject> {
        let limits = &self.parts.limits;
        let limit = |message| Err(Reject::new(meta.id, RejectReason::Limit, message));
        if meta.size > limits.max_image_size.0 {
            return limit(format!(
                "image of {} bytes exceeds the receiver's limit of {} ({} bytes); \
                 raise RECEIVER_MAX_IMAGE_SIZE",
                meta.size, limits.max_image_size, limits.max_image_size.0
            ));
        }
        let metadata = Self::metadata_len(meta, origin);
        if metadata > limits.max_metadata.0 {
            return limit(format!(
                "metadata of {metadata} bytes exceeds the receiver's limit of {}; \
                 shorten the name or raise RECEIVER_MAX_METADATA",
                limits.max_metadata
            ));
        }
        Ok(())
    }

    /// Whether what a transmitter says of a run is short enough to be kept.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_account(&self, account: &RunAccount) -> Result<(), Reject> {
        let len = (account.run.len() + account.transmitter.len()) as u64;
        let limit = self.parts.limits.max_metadata;
        if len <= limit.0 {
            return Ok(());
        }
        let message = format!(
            "run and transmitter of {len} bytes exceed the receiver's limit of {limit}; \
             shorten the label or raise RECEIVER_MAX_METADATA"
        );
        Err(Reject::new(None, RejectReason::Limit, message))
    }

    fn metadata_len(meta: &ImageMeta, origin: &Origin) -> u64 {
        let len = meta.name.as_ref().map_or(0, String::len)
            + meta.content_type.as_ref().map_or(0, String::len)
            + meta.run.len()
            + origin.transmitter.len();
        len as u64
    }

    /// Verified bytes that are held of an unfinished image.
    pub fn held(&self, id: ImageId) -> Option<u64> {
        let held = self.unfinished.held(id)?;
        (held.received > 0).then_some(held.received)
    }

    /// The unfinished upload of an image that no connection owns, one without bytes included.
    pub fn parked(&self, id: ImageId) -> Option<Held> {
        self.unfinished.held(id)
    }

    /// Whether a connection is sending the image, or it is being stored.
    pub fn is_busy(&self, id: ImageId) -> bool {
        self.unfinished.is_owned(id)
    }

    /// Takes a parked upload, as it is, to go on with it over `transport`.
    pub fn resume(&self, id: ImageId, transport: Transport) -> Resumed {
        self.unfinished.resume(id, transport)
    }

    /// Drops a parked upload; whether there was one.
    pub fn forget(&self, id: ImageId) -> bool {
        self.unfinished.forget(id)
    }

    /// Keeps an unfinished upload for a later connection to go on with, if it has any bytes.
    pub async fn park(&self, upload: Upload) {
        if upload.received() > 0 {
            self.keep(upload).await;
        }
    }

    /// The same for one that is to be kept even without a byte.
    pub async fn keep(&self, mut upload: Upload) {
        if let Err(error) = upload.flush().await {
            let image = upload.meta().id;
            tracing::error!(%image, "unfinished upload cannot be kept: {error}");
            return;
        }
        self.unfinished.park(upload);
    }

    /// Forgets parked uploads older than the limit; to be called now and then.
    pub fn expire(&self) {
        let uploads = self.unfinished.expire();
        if uploads > 0 {
            tracing::info!(uploads, "unfinished uploads expired");
        }
    }

    /// Drops all unfinished uploads, and waits until what is being stored is stored. To be called
    /// when no connection is left: parked uploads keep intake and store alive.
    pub async fn close(&self) {
        self.unfinished.close();
        self.storing.close();
        self.storing.wait().await;
    }

    /// The image is in the catalogue: a duplicate, a quarantined image again, or another image.
    async fn seen_before(
        &self,
        meta: &ImageMeta,
        origin: &Origin,
        digest: Digest,
        known: Entry,
    ) -> Result<Receipt, Reject> {
        if digest != known.digest {
            let reject = Reject::new(
                meta.id,
                RejectReason::Conflict,
                format!(
                    "image {} is stored with digest {}, not {digest}; \
                     give a new image a new id",
                    meta.id, known.digest
                ),
            );
            return Err(self.turn_down(meta, origin, reject));
        }
        self.note_repeat(meta, origin, &known).await?;
        match quarantine_reject(&known) {
            Some(reject) => {
                self.announce(meta, origin, Err(reject.clone()));
                Err(reject)
            }
            None => {
                let receipt = Receipt {
                    status: ReceiptStatus::Duplicate,
                    ..self.receipt_of(&known)
                };
                self.parts.catalog.tally(Tally {
                    run: meta.run.clone(),
                    transport: origin.transport,
                    transmitter: origin.transmitter.to_string(),
                    kind: TallyKind::Duplicate,
                });
                self.parts
                    .metrics
                    .image_duplicate(origin.transport, receipt.size);
                self.announce(meta, origin, Ok(receipt.clone()));
                Ok(receipt)
            }
        }
    }

    /// The image is there under another number than it came with now, as after the index of its
    /// outbox was made anew. Its answer says that it is here, so the number must not look like a
    /// gap later.
    async fn note_repeat(
        &self,
        meta: &ImageMeta,
        origin: &Origin,
        known: &Entry,
    ) -> Result<(), Reject> {
        let Some(outbox) = origin.outbox else {
            return Ok(());
        };
        let is_same = known.outbox == origin.outbox
            && known.meta.sequence == meta.sequence
            && *known.transmitter == *origin.transmitter;
        if is_same || meta.sequence == 0 {
            return Ok(());
        }
        let repeat = Repeat {
            transmitter: origin.transmitter.to_string(),
            outbox,
            sequence: meta.sequence,
            image_id: meta.id,
            run: meta.run.clone(),
        };
        let noted = self.parts.catalog.repeat(repeat).await;
        noted.map_err(|error| catalog_failed(meta.id, &error))
    }

    /// The receipt of a catalogued image.
    pub(crate) fn receipt_of(&self, entry: &Entry) -> Receipt {
        Receipt {
            image_id: entry.meta.id,
            status: ReceiptStatus::Stored,
            size: entry.meta.size,
            digest: entry.digest,
            durability: entry.durability,
            format: entry.format.clone(),
            width: entry.width,
            height: entry.height,
            timeline: entry.timeline,
            receiver: self.parts.name.clone(),
        }
    }

    /// Counts and announces a rejection, and hands it back.
    pub fn turn_down(&self, meta: &ImageMeta, origin: &Origin, reject: Reject) -> Reject {
        if Self::metadata_len(meta, origin) > self.parts.limits.max_metadata.0 {
            // What is too long to be taken is too long to be remembered.
            let mut short = ImageMeta::new(meta.id, meta.size);
            let mut origin = origin.clone();
            let series = meta.run.len() + origin.transmitter.len();
            if series as u64 <= self.parts.limits.max_metadata.0 {
                short.run.clone_from(&meta.run);
            } else {
                origin = Origin::new(origin.transport, "");
            }
            return self.count_rejection(&short, &origin, reject);
        }
        self.count_rejection(meta, origin, reject)
    }

    fn count_rejection(&self, meta: &ImageMeta, origin: &Origin, reject: Reject) -> Reject {
        tracing::info!(
            image = %meta.id,
            transport = %origin.transport,
            transmitter = %origin.transmitter,
            reason = %reject.reason,
            "rejected: {reject}"
        );
        self.parts.metrics.rejected(origin.transport, reject.reason);
        self.parts.catalog.tally(Tally {
            run: meta.run.clone(),
            transport: origin.transport,
            transmitter: origin.transmitter.to_string(),
            kind: TallyKind::Rejected(reject.reason),
        });
        self.announce(meta, origin, Err(reject.clone()));
        reject
    }

    fn announce(&self, meta: &ImageMeta, origin: &Origin, outcome: Result<Receipt, Reject>) {
        if self.events.receiver_count() == 0 {
            return;
        }
        // Fails only when the last watcher has just gone.
        let _ = self.events.send(Arc::new(Event {
            at: UnixNanos::now(),
            run: meta.run.clone(),
            transport: origin.transport,
            transmitter: origin.transmitter.to_string(),
            name: meta.name.clone().unwrap_or_default(),
            outcome,
        }));
    }
}

/// The rejection that a quarantined image gets, at first and again.
pub fn quarantine_reject(entry: &Entry) -> Option<Reject> {
    match &entry.verdict {
        Verdict::Stored => None,
        Verdict::Quarantined { reason, message } => Some(Reject {
            quarantined: true,
            retryable: false,
            ..Reject::new(entry.meta.id, *reason, message.clone())
        }),
    }
}

/// A digest that is right, of a size that cannot be.
fn other_size(meta: &ImageMeta, known: &Entry) -> Reject {
    let message = format!(
        "image {} is stored with {} bytes, not {}; give a new image a new id",
        meta.id, known.meta.size, meta.size
    );
    Reject::new(meta.id, RejectReason::Conflict, message)
}

fn catalog_failed(id: ImageId, error: &CatalogError) -> Reject {
    tracing::error!(image = %id, "{error}");
    Reject::new(
        id,
        RejectReason::Internal,
        "the receiver's catalogue failed; its log says why",
    )
}

fn store_failed(id: ImageId, error: &StoreError) -> Reject {
    let source = std::error::Error::source(error);
    tracing::error!(image = %id, source = source.map(tracing::field::display), "{error}");
    match error {
        StoreError::Full { .. } => Reject::new(
            id,
            RejectReason::Unavailable,
            "the receiver has no space left; try again later",
        ),
        _ => Reject::new(
            id,
            RejectReason::Internal,
            "the receiver's store failed; its log says why",
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
