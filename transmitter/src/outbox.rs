//! What the transmitter still owes, and what it will never be able to give.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shared::clock::UnixNanos;
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use shared::report::RunAccount;
use shared::wire::{Loss, Standing};

use crate::config::{Order, OutboxOptions, OutboxPlace};
use crate::payload::Payload;
use disk::DiskOutbox;
use memory::MemoryOutbox;
use shared::disk::OsDisk;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
pub(crate) mod conformance;
pub mod disk;
pub mod memory;
pub mod tool;

/// An image that is owed.
#[derive(Debug)]
pub struct Owed {
    /// Everything said of it, its sequence number and digest included.
    pub meta: ImageMeta,
    /// Its bytes.
    pub payload: Payload,
    /// The file that it came from.
    pub source_file: Option<PathBuf>,
    /// What tells that file from one with new content; `None` when it may be captured again.
    pub source_mark: Option<FileMark>,
    /// An earlier process captured it, and may have sent it: an answer `duplicate` to the first
    /// attempt of this one does not mean that the receiver had it from elsewhere.
    pub carried: bool,
}

/// A file of a watched folder as it was when it was captured. One with the same mark holds the same
/// image; a transmitter that is started again does not capture it a second time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileMark {
    /// Absolute path.
    pub path: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// Time of its last change, in nanoseconds since 1970.
    pub modified: i64,
    /// The transport that it was captured for.
    pub transport: Transport,
}

/// Images and bytes that are owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Images.
    pub images: u64,
    /// Bytes.
    pub bytes: u64,
}

/// How far an outbox reaches, as far as it knows: for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Bytes that it may take.
    pub limit: Option<u64>,
    /// Bytes that it can still take.
    pub free: Option<u64>,
    /// When the oldest image that is owed came into it.
    pub oldest: Option<UnixNanos>,
}

/// What became of an image that is not owed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has its receipt.
    Delivered,
    /// The receiver had it before it was first sent.
    Duplicate,
    /// The receiver keeps it apart. No entry in the loss ledger: the receiver knows it.
    Quarantined,
    /// It will never arrive. Enters the loss ledger with this reason.
    Lost(String),
}

/// An image on the loss ledger, with what a report needs of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    /// The image, its sequence number included.
    pub meta: ImageMeta,
    /// Why.
    pub reason: String,
}

/// Answer to [`Outbox::push`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pushed {
    /// Sequence number of the new image, whether it was kept or not.
    pub sequence: u64,
    /// Images on the loss ledger because of it: older ones that gave way, or the new one itself.
    pub lost: Vec<Lost>,
}

/// A run over one transport, as it is known in an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// Label of the run.
    pub run: String,
    /// The transport that it was captured for.
    pub transport: Transport,
}

/// What happened to the images of one series so far, in all processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Images taken from the source.
    pub captured: u64,
    /// Stored.
    pub delivered: u64,
    /// Had been there before.
    pub duplicates: u64,
    /// Kept apart by the receiver.
    pub quarantined: u64,
    /// Will never arrive.
    pub lost: u64,
}

impl Counts {
    /// Images without an answer.
    pub fn owed(&self) -> u64 {
        let answered = self.delivered + self.duplicates + self.quarantined + self.lost;
        self.captured.saturating_sub(answered)
    }
}

/// Keeps every image from capture to receipt.
///
/// An image is *waiting* until `take` hands it out, then *taken* until `settle` (it was answered,
/// or lost) or `give_back` (to be tried again). `close` says that no more will be pushed.
///
/// Every captured image gets a sequence number here, also one that is lost before it could be
/// kept, and no number is given twice in the life of an outbox. What is lost stays on the ledger
/// until the receiver has it (`losses`, `losses_kept`).
#[async_trait]
pub trait Outbox: Send + Sync {
    /// The images pushed from now on belong to this series. Its counts go on where they were. Opens
    /// an outbox again that was closed.
    ///
    /// # Errors
    /// When the outbox cannot be written.
    async fn begin_series(&self, series: SeriesKey) -> Result<(), OutboxError>;

    /// Takes responsibility for an image and gives it its sequence number. When it returns, the
    /// image is kept as firmly as the outbox promises. Where there is no room it waits, or
    /// something gives way, by the policy of the outbox. The sequence number in `image` is
    /// ignored. Dropping the future keeps nothing, or all of it: one that is kept is delivered.
    ///
    /// # Errors
    /// When the image cannot be kept. Except for [`OutboxError::Closed`] it is to be told to
    /// [`Outbox::lose`].
    async fn push(&self, image: Owed) -> Result<Pushed, OutboxError>;

    /// Whether an image with this mark was pushed or lost before, by this process or an earlier
    /// one. What was pushed with a mark is kept together with it, or not at all. An outbox in
    /// memory knows none.
    ///
    /// # Errors
    /// When that cannot be read just now. It is to be asked again: captured a second time, the same
    /// image would be stored twice.
    async fn knows(&self, mark: &FileMark) -> Result<bool, OutboxError>;

    /// An image of the present series was captured and cannot be kept: gives it a sequence number
    /// and enters it into the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    async fn lose(&self, meta: ImageMeta, reason: &str) -> Result<Lost, OutboxError>;

    /// Hands out the next waiting image by the order of the outbox. Waits for one; `None` when the
    /// outbox is closed and none is waiting or taken. May be dropped while it waits.
    async fn take(&self) -> Option<Arc<Owed>>;

    /// The image is not owed any more. When it returns, a loss is on the ledger as firmly as the
    /// outbox promises; another outcome may be forgotten by a power loss, whereupon the image is
    /// sent again and found to be a duplicate. An image whose bytes are not the outbox's own is not
    /// owed after a power loss either: they may be removed from then on.
    ///
    /// # Errors
    /// When the outbox cannot be written. It is to be tried again.
    async fn settle(&self, id: ImageId, outcome: Outcome) -> Result<(), OutboxError>;

    /// The image, taken before, waits again, in its old place.
    async fn give_back(&self, id: ImageId);

    /// No more images will be pushed.
    fn close(&self);

    /// What is owed now, waiting and taken.
    fn backlog(&self) -> Backlog;

    /// Where the sequence numbers stand, given that the losses of `losses` are told with it:
    /// `first_owed` never passes a loss that the receiver has not got.
    fn standing(&self) -> Standing;

    /// Entries of the loss ledger that the receiver is not known to have, the lowest sequence
    /// first, at most `limit`, with the standing that holds when they are told.
    async fn losses(&self, limit: usize) -> (Vec<Loss>, Standing);

    /// The receiver has these entries, by their sequence numbers.
    ///
    /// # Errors
    /// When that cannot be written down: they are told again.
    async fn losses_kept(&self, sequences: &[u64]) -> Result<(), OutboxError>;

    /// Resolves when there is an entry that the receiver is not known to have. May be dropped.
    async fn loss_waits(&self);

    /// All series of which images are owed or whose end the receiver was not told, the present one
    /// included, each with its latest saved account.
    async fn series(&self) -> Vec<(SeriesKey, Counts, Option<RunAccount>)>;

    /// Keeps the account of a series for a later process to go on with. `told_end`: the receiver
    /// knows that the series is over, so that it can be forgotten once nothing of it is owed.
    async fn save_account(&self, series: &SeriesKey, account: RunAccount, told_end: bool);

    /// Whether images can be kept just now, with what is wrong: no space, a failing medium.
    fn health(&self) -> Result<(), String>;

    /// Limits and age, for metrics.
    async fn extent(&self) -> Extent {
        Extent::default()
    }

    /// Brings everything to the medium. The outbox is of no use afterwards.
    async fn shut(&self);
}

/// An outbox that was opened.
pub struct Opened {
    /// The outbox.
    pub outbox: Arc<dyn Outbox>,
    /// What its sequence numbers count in.
    pub id: OutboxId,
}

/// Opens the outbox that `options` describe, with what an earlier process left in it. What was
/// found to be torn is in the log and on the ledger.
///
/// # Errors
/// When another process has it open, or it can neither be read nor made.
pub async fn open(options: &OutboxOptions, order: Order) -> Result<Opened, OutboxError> {
    match &options.place {
        OutboxPlace::Memory => {
            let outbox = MemoryOutbox::new(options.memory.0, order);
            let id = outbox.id();
            Ok(Opened {
                outbox: Arc::new(outbox),
                id,
            })
        }
        OutboxPlace::Folder(folder) => {
            let (folder, options) = (folder.clone(), options.clone());
            let opening = tokio::task::spawn_blocking(move || {
                DiskOutbox::open(Arc::new(OsDisk), &folder, &options, order)
            });
            let outbox = opening.await.map_err(|error| OutboxError::Io {
                action: "opening".to_owned(),
                source: std::io::Error::other(error),
            })??;
            let id = outbox.id();
            Ok(Opened {
                outbox: Arc::new(outbox),
                id,
            })
        }
    }
}

/// How long the outbox waits before it tries again to write to a medium that was full.
pub const FULL_RETRY: Duration = Duration::from_secs(1);

/// Why an image cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// It would never fit.
    #[error("image of {size} bytes is larger than the outbox of {limit} bytes; raise {setting}")]
    TooLarge {
        /// Size of the image.
        size: u64,
        /// Size of the outbox.
        limit: u64,
        /// The setting that helps.
        setting: &'static str,
    },
    /// The image cannot be read.
    #[error("unreadable: {0}")]
    Unreadable(#[source] std::io::Error),
    /// The outbox cannot be written.
    #[error("outbox {action} failed")]
    Io {
        /// What was tried, with the file.
        action: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("outbox {folder} is in use by {holder}; stop that, or use another folder")]
    InUse {
        /// The outbox.
        folder: String,
        /// `process 1234`.
        holder: String,
    },
    /// The outbox was closed.
    #[error("the outbox is closed")]
    Closed,
}
