//! Turns what arrives into verified, stored, catalogued images.
//!
//! An [`Upload`] is one image on its way in. Whatever transport brings its bytes, it goes through
//! the same checks and ends in the same [`Receipt`] or [`Reject`].

pub mod inspect;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use shared::clock::UnixNanos;
use shared::digest::Digest;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{Durability, Receipt, ReceiptStatus, Reject, RejectReason};
use shared::wire::{Begin, Event};
use tokio::sync::{Semaphore, broadcast};

use crate::catalog::{Catalog, CatalogError, Entry, Tally, TallyKind, Verdict};
use crate::config::{Limits, Verify};
use crate::metrics::ReceiverMetrics;
use crate::store::{ImageStore, StoreError};

pub use upload::{Checkpoint, Upload};

/// Who sends, and how.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Transport of the bytes.
    pub transport: Transport,
    /// Identity of the transmitter; `anonymous` when it has none.
    pub transmitter: Arc<str>,
}

impl Origin {
    /// A client of `transport` that calls itself `transmitter`.
    pub fn new(transport: Transport, transmitter: &str) -> Self {
        let transmitter = if transmitter.is_empty() { "anonymous" } else { transmitter };
        Self { transport, transmitter: transmitter.into() }
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
    /// Unfinished uploads that a connection owns, by the number of the one that owns it.
    active: Mutex<HashMap<ImageId, u64>>,
    next_owner: std::sync::atomic::AtomicU64,
    /// Unfinished uploads that no connection owns.
    parked: Mutex<HashMap<ImageId, Parked>>,
    events: broadcast::Sender<Arc<Event>>,
    /// Decoding whole images is kept to this many at once.
    decoders: Arc<Semaphore>,
}

struct Parked {
    upload: Upload,
    since: Instant,
}

/// Answer to the announcement of an image.
pub enum Begun {
    /// Its bytes are wanted.
    Upload(Box<Upload>),
    /// It is there already.
    Present(Receipt),
}

/// Parked uploads at most; beyond, the oldest gives way.
const MAX_PARKED: usize = 1_024;

impl Intake {
    /// An intake with nothing in it.
    pub fn new(parts: Parts) -> Arc<Self> {
        let kib = usize::try_from(parts.limits.max_memory.0 >> 10).unwrap_or(usize::MAX);
        Arc::new(Self {
            memory: Semaphore::new(kib.clamp(1, Semaphore::MAX_PERMITS)),
            active: Mutex::default(),
            next_owner: 1.into(),
            parked: Mutex::default(),
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
        let known = self.parts.catalog.find(id).await.map_err(|error| catalog_failed(id, &error))?;
        let mut compare = None;
        if let Some(known) = known {
            match begin.meta.digest {
                Some(digest) if digest.algorithm() == known.entry.digest.algorithm() => {
                    return self.seen_before(&begin.meta, origin, digest, known.entry).map(Begun::Present);
                }
                // Only the bytes can tell whether it is the same image.
                _ => compare = Some(Box::new(known.entry)),
            }
        }
        let owner = self.own(id);
        if begin.offset > 0 {
            let mut upload = self.unpark(id, begin.offset).map_err(|reject| {
                self.release(id, owner);
                self.turn_down(&begin.meta, origin, reject)
            })?;
            upload.adopt(owner, begin.meta, origin.clone());
            return Ok(Begun::Upload(Box::new(upload)));
        }
        self.parked.lock().remove(&id);
        let writer = self.parts.store.create(id).await.map_err(|error| {
            self.release(id, owner);
            self.turn_down(&begin.meta, origin, store_failed(id, &error))
        })?;
        let intake = Arc::clone(self);
        let upload =
            Upload::new(intake, owner, begin.meta, origin.clone(), writer, compare, open_ended);
        Ok(Begun::Upload(Box::new(upload)))
    }

    fn check_limits(&self, meta: &ImageMeta, origin: &Origin) -> Result<(), Reject> {
        let limits = &self.parts.limits;
        let limit = |message| Err(Reject::new(meta.id, RejectReason::Limit, message));
        if meta.size > limits.max_image_size.0 {
            return Err(too_large(meta, meta.size, limits));
        }
        let metadata = meta.name.as_ref().map_or(0, String::len)
            + meta.content_type.as_ref().map_or(0, String::len)
            + meta.run.len()
            + origin.transmitter.len();
        if metadata as u64 > limits.max_metadata.0 {
            return limit(format!(
                "metadata of {metadata} bytes exceeds the receiver's limit of {}; \
                 shorten the name or raise RECEIVER_MAX_METADATA",
                limits.max_metadata
            ));
        }
        Ok(())
    }

    fn own(&self, id: ImageId) -> u64 {
        let owner = self.next_owner.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.active.lock().insert(id, owner);
        owner
    }

    fn owns(&self, id: ImageId, owner: u64) -> bool {
        self.active.lock().get(&id) == Some(&owner)
    }

    fn release(&self, id: ImageId, owner: u64) {
        let mut active = self.active.lock();
        if active.get(&id) == Some(&owner) {
            active.remove(&id);
        }
    }

    /// Verified bytes that are held of an unfinished image.
    pub fn held(&self, id: ImageId) -> Option<u64> {
        self.parked.lock().get(&id).map(|parked| parked.upload.received())
    }

    fn unpark(&self, id: ImageId, offset: u64) -> Result<Upload, Reject> {
        let mut parked = self.parked.lock();
        let held = parked.get(&id).map_or(0, |parked| parked.upload.received());
        match parked.remove(&id) {
            Some(found) if held == offset => Ok(found.upload),
            found => {
                if let Some(found) = found {
                    parked.insert(id, found);
                }
                Err(Reject::new(
                    id,
                    RejectReason::Offset,
                    format!("upload to go on at byte {offset}, but {held} bytes are held"),
                ))
            }
        }
    }

    /// Keeps an unfinished upload for a later connection to go on with.
    pub fn park(&self, mut upload: Upload) {
        let id = upload.meta().id;
        if upload.received() == 0 || !upload.let_go() {
            return;
        }
        let mut parked = self.parked.lock();
        if parked.len() >= MAX_PARKED {
            let oldest = parked.iter().min_by_key(|(_, parked)| parked.since).map(|(id, _)| *id);
            oldest.and_then(|id| parked.remove(&id));
        }
        parked.insert(id, Parked { upload, since: Instant::now() });
    }

    /// Forgets parked uploads older than the limit; to be called now and then.
    pub fn expire(&self) {
        let ttl = self.parts.limits.partial_ttl;
        let gone: Vec<Parked> = {
            let mut parked = self.parked.lock();
            let old: Vec<ImageId> = parked
                .iter()
                .filter(|(_, parked)| parked.since.elapsed() >= ttl)
                .map(|(id, _)| *id)
                .collect();
            old.iter().filter_map(|id| parked.remove(id)).collect()
        };
        if !gone.is_empty() {
            tracing::info!(uploads = gone.len(), "unfinished uploads expired");
        }
    }

    /// The image is in the catalogue: a duplicate, a quarantined image again, or another image.
    fn seen_before(
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
        match quarantine_reject(&known) {
            Some(reject) => {
                self.announce(meta, origin, Err(reject.clone()));
                Err(reject)
            }
            None => {
                let receipt =
                    Receipt { status: ReceiptStatus::Duplicate, ..self.receipt_of(&known) };
                self.parts.catalog.tally(Tally {
                    run: meta.run.clone(),
                    transport: origin.transport,
                    transmitter: origin.transmitter.to_string(),
                    kind: TallyKind::Duplicate,
                });
                self.parts.metrics.image_duplicate(origin.transport, receipt.size);
                self.announce(meta, origin, Ok(receipt.clone()));
                Ok(receipt)
            }
        }
    }

    fn receipt_of(&self, entry: &Entry) -> Receipt {
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

/// An image of `size` bytes, which are too many.
fn too_large(meta: &ImageMeta, size: impl fmt::Display, limits: &Limits) -> Reject {
    let message = format!(
        "image of {size} bytes exceeds the receiver's limit of {} ({} bytes); \
         raise RECEIVER_MAX_IMAGE_SIZE",
        limits.max_image_size, limits.max_image_size.0
    );
    Reject::new(meta.id, RejectReason::Limit, message)
}

fn catalog_failed(id: ImageId, error: &CatalogError) -> Reject {
    tracing::error!(image = %id, "{error}");
    Reject::new(id, RejectReason::Internal, "the receiver's catalogue failed; its log says why")
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
        _ => {
            Reject::new(id, RejectReason::Internal, "the receiver's store failed; its log says why")
        }
    }
}

#[cfg(test)]
mod tests;
