//! What is known of every image and run, and of those that will never arrive.

mod ledger;
#[cfg(test)]
pub(crate) mod sample;
pub mod sqlite;

use async_trait::async_trait;
use shared::digest::Digest;
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use shared::receipt::{Durability, ReceiverTimeline, RejectReason};
use shared::report::{ImageRow, RunAccount};
use shared::wire::LossReport;

pub use ledger::{Gap, Integrity, Kept, KeptLoss, LossFilter, Repeat, RunLedger};

/// Why an image is lost whose bytes were not where the catalogue says.
pub const FILE_MISSING: &str = "file missing after crash";

/// One image that arrived whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What its sender said of it.
    pub meta: ImageMeta,
    /// Who sent it.
    pub transmitter: String,
    /// The outbox that its sequence number counts in, when that was told.
    pub outbox: Option<OutboxId>,
    /// How it came.
    pub transport: Transport,
    /// Digest of the bytes.
    pub digest: Digest,
    /// What became of it.
    pub verdict: Verdict,
    /// Format found, for example `jpeg`; empty when none was recognised.
    pub format: String,
    /// Media type found.
    pub media_type: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Where the store keeps it; empty when it keeps no bytes.
    pub location: String,
    /// How firmly.
    pub durability: Durability,
    /// The receiver's times.
    pub timeline: ReceiverTimeline,
}

/// What became of an image that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A verified image.
    Stored,
    /// Kept apart.
    Quarantined {
        /// Why.
        reason: RejectReason,
        /// Why, for people.
        message: String,
    },
}

/// Something that happened without leaving an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Run of the image; empty when not known.
    pub run: String,
    /// How it came.
    pub transport: Transport,
    /// Who sent it.
    pub transmitter: String,
    /// What happened.
    pub kind: TallyKind,
}

/// Kinds of [`Tally`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TallyKind {
    /// An image that was there already was sent again.
    Duplicate,
    /// An attempt was turned down.
    Rejected(RejectReason),
}

/// What a stretch of the catalogue is asked for. Empty: everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this run.
    pub run: Option<String>,
    /// Only this transport.
    pub transport: Option<Transport>,
    /// Only this transmitter.
    pub transmitter: Option<String>,
    /// Only stored (`false`) or only quarantined (`true`) images.
    pub quarantined: Option<bool>,
}

/// An entry with its number in the order of arrival, which is the cursor for paging.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbered {
    /// Grows with each entry.
    pub number: i64,
    /// The entry.
    pub entry: Entry,
    /// What the transmitter told of it afterwards.
    pub delivery_ns: Option<u64>,
    /// Times it was sent, as told by the transmitter.
    pub attempts: Option<u32>,
}

/// One series of transfers: a run over one transport from one transmitter.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Label of the run.
    pub run: String,
    /// Its transport.
    pub transport: Transport,
    /// Its transmitter.
    pub transmitter: String,
    /// Stored images.
    pub stored: u64,
    /// Quarantined images.
    pub quarantined: u64,
    /// Images sent again.
    pub duplicates: u64,
    /// Attempts turned down.
    pub rejected: u64,
    /// Bytes of stored images.
    pub bytes: u64,
    /// First and last arrival, receiver's clock, nanoseconds since 1970.
    pub first_ns: i64,
    /// See `first_ns`.
    pub last_ns: i64,
    /// CPU time of the receiver's process while it took the series, nanoseconds. Where several
    /// series came at a time, it is divided by their bytes.
    pub cpu_ns: u64,
    /// Highest resident memory of the receiver's process so far when it took the series; 0 when
    /// that is not known.
    pub peak_memory_bytes: u64,
    /// The transmitter's latest account, without its images.
    pub account: Option<RunAccount>,
}

/// What a transmitter stored in a stretch of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSum {
    /// Who.
    pub transmitter: String,
    /// Number of the stretch.
    pub slot: i64,
    /// Images.
    pub images: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Whether an entry was new.
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// It was.
    New,
    /// This one was there before; nothing changed.
    Present(Box<Entry>),
}

/// Knows every image that arrived whole.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// The entry of an image.
    async fn find(&self, id: ImageId) -> Result<Option<Numbered>, CatalogError>;

    /// Adds an entry unless one with its id is there. When it returns, the entry is as durable as
    /// it says; concurrent calls share one commit.
    async fn insert(&self, entry: Entry) -> Result<Inserted, CatalogError>;

    /// Takes an entry away whose bytes are not at `location` (any more), and keeps it as a loss for
    /// this reason; `false` when there is none with this id and location.
    async fn remove(&self, id: ImageId, location: &str, reason: &str)
    -> Result<bool, CatalogError>;

    /// Adds an entry of [`Durability::Memory`] without waiting for it.
    fn insert_later(&self, entry: Entry);

    /// Counts an event, without waiting for it.
    fn tally(&self, tally: Tally);

    /// Waits until [`Self::insert_later`] and [`Self::tally`] may be used again: what they hand over
    /// is in memory until it is written. Whoever brought it waits here afterwards.
    async fn room(&self) {}

    /// Keeps a run's account, replacing an earlier one of the same run, transport and transmitter,
    /// and the figures of its images.
    async fn account(&self, account: RunAccount) -> Result<(), CatalogError>;

    /// Entries after number `after`, in order of arrival, at most `limit`.
    async fn list(
        &self,
        filter: Filter,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Numbered>, CatalogError>;

    /// All series that match, the one that began last first.
    async fn series(&self, filter: Filter) -> Result<Vec<Series>, CatalogError>;

    /// Keeps losses that `report.transmitter` tells of, those that are known already excepted, and
    /// notes where its outbox stands: what is below its floor, never came and was never told as
    /// lost is a gap from then on. A floor only rises. When it returns, everything is as durable as
    /// an entry is.
    async fn keep_losses(&self, report: LossReport) -> Result<Kept, CatalogError>;

    /// An image that was there came again under a number that its entry does not have.
    async fn repeat(&self, repeat: Repeat) -> Result<(), CatalogError>;

    /// Losses after number `after`, in the order in which they were told, at most `limit`.
    async fn losses(
        &self,
        filter: LossFilter,
        after: i64,
        limit: usize,
    ) -> Result<Vec<KeptLoss>, CatalogError>;

    /// Gaps that match, by transmitter, outbox and number, at most `limit`.
    async fn gaps(&self, filter: LossFilter, limit: usize) -> Result<Vec<Gap>, CatalogError>;

    /// What became of a series beside its images. Losses do not tell how they would have come:
    /// they are those of the run over any transport.
    async fn ledger(&self, series: &Series) -> Result<RunLedger, CatalogError>;

    /// The state of all sequence numbers together.
    async fn integrity(&self) -> Result<Integrity, CatalogError>;

    /// Entries and questions that wait to be written or answered.
    fn waiting(&self) -> u64 {
        0
    }

    /// What each transmitter stored, or had quarantined, in slots of `slot_ns` nanoseconds since 1970, from
    /// the slot `first` on.
    async fn stored_since(
        &self,
        _first: i64,
        _slot_ns: i64,
    ) -> Result<Vec<StoredSum>, CatalogError> {
        Ok(Vec::new())
    }

    /// Why the last attempt to write failed, whatever was to be written; `None` once one succeeded.
    fn failure(&self) -> Option<CatalogError> {
        None
    }

    /// Writes nothing new, to find out whether a catalogue that failed can be written again.
    async fn try_to_write(&self) -> Result<(), CatalogError> {
        Ok(())
    }
}

/// Whose fault it is that the catalogue failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What was asked for cannot be done.
    Request,
    /// The file cannot be written or read at present.
    Medium,
    /// There is no space for it.
    NoSpace,
}

/// The catalogue failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("catalogue: {action}: {problem}")]
pub struct CatalogError {
    /// What was tried.
    pub action: &'static str,
    /// What went wrong.
    pub problem: String,
    /// Whose fault it is.
    pub fault: Fault,
}

/// The line of a report for an entry.
pub fn report_row(numbered: &Numbered) -> ImageRow {
    use shared::report::Outcome;
    let entry = &numbered.entry;
    let meta = &entry.meta;
    let (outcome, reason) = match &entry.verdict {
        Verdict::Stored => (Outcome::Delivered, None),
        Verdict::Quarantined { message, .. } => (Outcome::Quarantined, Some(message.clone())),
    };
    let transmission = meta.send_started.map(|sent| match &meta.clock {
        Some(clock) => (
            clock.one_way(sent, entry.timeline.last_byte),
            Some(clock.error_ns),
        ),
        None => {
            let nanos = entry.timeline.last_byte.since(sent).max(0).unsigned_abs();
            (std::time::Duration::from_nanos(nanos), None)
        }
    });
    ImageRow {
        sequence: meta.sequence,
        image_id: meta.id,
        name: meta.name.clone(),
        size: meta.size,
        outcome,
        reason,
        attempts: numbered.attempts.unwrap_or(meta.attempt),
        captured: meta.captured,
        queued: meta.queued,
        send_started: meta.send_started,
        first_byte: Some(entry.timeline.first_byte),
        last_byte: Some(entry.timeline.last_byte),
        verified: Some(entry.timeline.verified),
        durable: Some(entry.timeline.durable),
        transmission_ns: transmission.map(|(time, _)| u64::try_from(time.as_nanos()).unwrap_or(0)),
        transmission_error_ns: transmission.and_then(|(_, error)| error),
        delivery_ns: numbered.delivery_ns,
    }
}
