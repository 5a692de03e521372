//! Turns what arrives into verified, stored, catalogued images.
//!
//! An [`Upload`] is one image on its way in. Whatever transport brings its bytes, it goes through
//! the same checks and ends in the same [`Receipt`] or [`Reject`].

mod beginning;
mod decoding;
pub mod inspect;
mod losses;
mod quota;
mod resuming;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
pub(crate) mod sample;
mod settling;
mod traces;
mod unfinished;
mod upload;

use std::sync::Arc;

use shared::clock::UnixNanos;
use shared::digest::Digest;
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use shared::receipt::{Durability, Receipt, ReceiptStatus, Reject, RejectReason};
use shared::report::RunAccount;
use shared::security::access::{Caller, Denied};
use shared::telemetry::spans::Spans;
use shared::wire::Event;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::catalog::{Catalog, CatalogError, Entry, Fault, Repeat, Tally, TallyKind, Verdict};
use crate::config::{Limits, Verify};
use crate::metrics::{Going, Pool, ReceiverMetrics};
use crate::store::{ImageStore, StoreError};
use decoding::Decoders;
use quota::Quotas;

pub use beginning::Begun;
pub use settling::{SettleError, Settled};
pub use unfinished::Held;
use unfinished::Unfinished;
pub use upload::{Checkpoint, Proof, Upload, said};

/// Longest name of a transmitter or run, in bytes: series are counted under them, and each loss is
/// stored with both. A label of 128 characters fits.
pub const MAX_NAME: usize = 512;

/// Images that are read again at a time.
const VERIFIERS: usize = 4;

/// Who sends, and how.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Transport of the bytes.
    pub transport: Transport,
    /// Identity of the transmitter; `anonymous` when it has none.
    pub transmitter: Arc<str>,
    /// The outbox that its sequence numbers count in, when it says so.
    pub outbox: Option<OutboxId>,
    /// Who it has proved to be.
    pub caller: Caller,
}

impl Origin {
    /// A client of `transport` that calls itself `transmitter`; one that gives no name has that which
    /// it has proved.
    pub fn new(transport: Transport, transmitter: &str, caller: &Caller) -> Self {
        let transmitter = match transmitter {
            "" => caller.name().unwrap_or("anonymous"),
            name => name,
        };
        Self {
            transport,
            transmitter: transmitter.into(),
            outbox: None,
            caller: caller.clone(),
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
    /// Who wants to know of traces.
    pub spans: Spans,
}

/// The receiver's core.
pub struct Intake {
    parts: Parts,
    /// The memory that clients may make this receiver take.
    budget: Arc<Budget>,
    unfinished: Unfinished,
    /// Images that are being stored, whether or not their senders still wait.
    storing: TaskTracker,
    events: broadcast::Sender<Arc<Event>>,
    /// What transmitters may bring in, if that is limited.
    quotas: Option<Arc<Quotas>>,
    /// Decoding whole images is kept to this many at once.
    decoders: Decoders,
    /// Reading again what an earlier process left is kept to this many at once: after a restart many
    /// ask for it, and other images need the disk and its threads as well.
    verifiers: Arc<Semaphore>,
}

impl Intake {
    /// An intake with nothing in it but what an earlier process left unfinished in the store.
    pub fn new(parts: Parts) -> Arc<Self> {
        let limits = &parts.limits;
        let unfinished = Unfinished::new(limits.partial_ttl, limits.partial_limit.0);
        unfinished.load(parts.store.partials());
        Arc::new(Self {
            budget: Budget::of_program(limits.max_memory.0),
            unfinished,
            storing: TaskTracker::new(),
            events: broadcast::channel(1_024).0,
            quotas: Quotas::new(limits.quota),
            decoders: Decoders::new(limits.decode_timeout),
            verifiers: Arc::new(Semaphore::new(VERIFIERS)),
            parts,
        })
    }

    /// What is going on.
    pub fn going(&self) -> Going {
        let (sent, left, left_bytes) = self.unfinished.counts();
        let pool = |label, (busy, size)| Pool { label, busy, size };
        let verifying = VERIFIERS.saturating_sub(self.verifiers.available_permits());
        Going {
            storing: self.storing.len(),
            sent,
            left,
            left_bytes,
            pools: [
                pool("{pool=\"decode\"}", self.decoders.in_use()),
                pool("{pool=\"verify\"}", (verifying, VERIFIERS)),
            ],
        }
    }

    /// Learns from the catalogue what transmitters have brought in within the period of their quota. To
    /// be called before anybody is served.
    ///
    /// # Errors
    /// When the catalogue fails.
    pub async fn load_quotas(&self) -> Result<(), CatalogError> {
        let Some(quotas) = &self.quotas else {
            return Ok(());
        };
        let since = quotas.first_slot(UnixNanos::now());
        let stored = self.parts.catalog.stored_since(since, quotas.slot_ns());
        quotas.load(stored.await?);
        Ok(())
    }

    /// Limits in force.
    pub fn limits(&self) -> &Limits {
        &self.parts.limits
    }

    /// The memory that clients may make this receiver take.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
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

    /// Whether its sender may bring in anything under the name that it gives.
    ///
    /// # Errors
    /// When it is another, or lacks the scope. The transmitter keeps the image.
    pub fn check_sender(id: impl Into<Option<ImageId>>, origin: &Origin) -> Result<(), Reject> {
        let allowed = origin.caller.may_upload_as(&origin.transmitter);
        allowed.map_err(|denied| forbidden(id, &denied))
    }

    /// Whether the caller may touch an image that is here, finished or not.
    ///
    /// # Errors
    /// When it is another's.
    pub async fn check_owner(&self, id: ImageId, caller: &Caller) -> Result<(), Reject> {
        self.check_sending(id, caller)?;
        if caller.name().is_none() {
            return Ok(());
        }
        let found = self.parts.catalog.find(id).await;
        match found.map_err(|error| catalog_failed(id, &error))? {
            Some(found) => {
                let allowed = caller.may_upload_as(&found.entry.transmitter);
                allowed.map_err(|_| not_yours(id))
            }
            None => Ok(()),
        }
    }

    /// The same for one that is not finished. Of one that is stored, whoever has its id and its digest
    /// may learn that it is here: it has the image, for example under an earlier name of its own.
    ///
    /// # Errors
    /// When it is another's.
    pub fn check_sending(&self, id: ImageId, caller: &Caller) -> Result<(), Reject> {
        match self.unfinished.whose(id) {
            Some(whose) => caller.may_upload_as(&whose).map_err(|_| not_yours(id)),
            None => Ok(()),
        }
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
        if let Some(problem) = too_long(&[("run", &meta.run), ("transmitter", &origin.transmitter)])
        {
            return limit(problem);
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

    /// Whether what a transmitter says of a run is its own, and short enough to be kept.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_account(&self, account: &RunAccount, caller: &Caller) -> Result<(), Reject> {
        let allowed = caller.may_upload_as(&account.transmitter);
        allowed.map_err(|denied| forbidden(None, &denied))?;
        let names = [
            ("run", account.run.as_str()),
            ("transmitter", &account.transmitter),
        ];
        match too_long(&names) {
            Some(problem) => Err(Reject::new(None, RejectReason::Limit, problem)),
            None => Ok(()),
        }
    }

    /// Waits until what was counted and not written yet is little enough to count on. Whoever brought
    /// something that was counted (a duplicate, or what was turned down) waits here before its
    /// answer, and nobody else: a good client does not wait for those who make up names.
    pub async fn room_to_count(&self) {
        self.parts.catalog.room().await;
    }

    fn metadata_len(meta: &ImageMeta, origin: &Origin) -> u64 {
        let len = meta.name.as_ref().map_or(0, String::len)
            + meta.content_type.as_ref().map_or(0, String::len)
            + meta.run.len()
            + origin.transmitter.len();
        len as u64
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
            let is_own = origin.caller.may_upload_as(&known.transmitter).is_ok();
            let stored = match is_own {
                true => format!("digest {}", known.digest),
                // It is not told what it does not have.
                false => "another digest".to_owned(),
            };
            let message = format!(
                "image {} is stored with {stored}, not {digest}; give a new image a new id",
                meta.id
            );
            let reject = Reject::new(meta.id, RejectReason::Conflict, message);
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
        noted.map_err(|error| self.catalog_failed(meta.id, &error))
    }

    /// The catalogue could not be written: a full disk is told to the store as well.
    fn catalog_failed(&self, id: impl Into<Option<ImageId>>, error: &CatalogError) -> Reject {
        if error.fault == Fault::NoSpace {
            self.parts.store.found_full();
        }
        catalog_failed(id, error)
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
        let has_names = meta.run.len() <= MAX_NAME && origin.transmitter.len() <= MAX_NAME;
        if has_names && Self::metadata_len(meta, origin) <= self.parts.limits.max_metadata.0 {
            return self.count_rejection(meta, origin, reject);
        }
        // What is too long to be taken is too long to be remembered.
        let mut short = ImageMeta::new(meta.id, meta.size);
        if has_names {
            short.run.clone_from(&meta.run);
            return self.count_rejection(&short, origin, reject);
        }
        self.count_rejection(
            &short,
            &Origin::new(origin.transport, "", &Caller::Anyone),
            reject,
        )
    }

    fn count_rejection(&self, meta: &ImageMeta, origin: &Origin, reject: Reject) -> Reject {
        if reject.reason == RejectReason::Conflict {
            // Two images with one id: somebody gives ids twice.
            tracing::warn!(
                image = %meta.id,
                transport = %origin.transport,
                transmitter = %origin.transmitter,
                "conflict: {reject}"
            );
        }
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
        self.trace(meta, origin, &outcome);
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

/// What to say of a name that is too long for a series.
fn too_long(names: &[(&str, &str)]) -> Option<String> {
    let (what, name) = names.iter().find(|(_, name)| name.len() > MAX_NAME)?;
    let len = name.len();
    Some(format!(
        "{what} of {len} bytes exceeds the receiver's limit of {MAX_NAME}; shorten it"
    ))
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

/// Whose it is, is not told.
fn not_yours(id: ImageId) -> Reject {
    let message = format!("image {id} is another transmitter's");
    Reject::new(id, RejectReason::Forbidden, message)
}

fn forbidden(id: impl Into<Option<ImageId>>, denied: &Denied) -> Reject {
    Reject::new(id, RejectReason::Forbidden, denied.to_string())
}

fn catalog_failed(id: impl Into<Option<ImageId>>, error: &CatalogError) -> Reject {
    let id = id.into();
    tracing::error!(image = id.map(tracing::field::display), "{error}");
    if error.fault == Fault::NoSpace {
        return Reject::new(id, RejectReason::Unavailable, NO_SPACE);
    }
    Reject::new(
        id,
        RejectReason::Internal,
        "the receiver's catalogue failed; its log says why",
    )
}

const NO_SPACE: &str = "the receiver has no space left; try again later";

fn store_failed(id: ImageId, error: &StoreError) -> Reject {
    let source = std::error::Error::source(error);
    let source = source.map(tracing::field::display);
    if error.is_full() {
        // The store tells once when it begins and once when it ends.
        tracing::debug!(image = %id, source, "{error}");
    } else {
        tracing::error!(image = %id, source, "{error}");
    }
    match error {
        StoreError::Full { .. } | StoreError::Low { .. } => {
            Reject::new(id, RejectReason::Unavailable, NO_SPACE)
        }
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
