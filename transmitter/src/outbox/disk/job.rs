//! What the writer is asked to do, and what a transaction is made of.

use bytes::Bytes;
use shared::image::ImageMeta;
use tokio::sync::oneshot;

use super::files::Staged;
use super::index::{Change, IndexError};
use super::record::Entry;
use super::state::{Admission, Departure};
use crate::outbox::{FileMark, Lost, OutboxError, SeriesKey};

/// What the writer is asked to do. Who does not wait for the answer any more is not missed.
pub(super) enum Job {
    /// Enters an image whose bytes are there.
    Push(Box<PushJob>),
    /// Enters an image into the ledger that never came in.
    Lose {
        meta: Box<ImageMeta>,
        reason: String,
        mark: Option<FileMark>,
        series: u32,
        reply: oneshot::Sender<Result<Lost, OutboxError>>,
    },
    /// Enters an image into the ledger that was taken.
    Settle {
        series: u32,
        lost: Box<Lost>,
        reply: oneshot::Sender<Result<(), OutboxError>>,
    },
    /// Makes room.
    Evict {
        needed: u64,
        reply: oneshot::Sender<Result<Vec<Lost>, OutboxError>>,
    },
    /// Takes an image out that cannot be sent.
    Bad {
        sequence: u64,
        entry: Option<Box<Entry>>,
        reason: String,
    },
    /// The index was found to be damaged.
    Damaged(String),
    /// Opens a series.
    Begin {
        key: SeriesKey,
        reply: oneshot::Sender<Result<(), OutboxError>>,
    },
    /// Keeps an account.
    Account {
        series: u32,
        account: Bytes,
        told_end: bool,
        reply: oneshot::Sender<Result<(), OutboxError>>,
    },
    /// Forgets series.
    Forget(Vec<u32>),
    /// The receiver has these losses.
    Kept {
        sequences: Vec<u64>,
        reply: oneshot::Sender<Result<(), OutboxError>>,
    },
    /// Settled images are waiting.
    Settled,
    /// Brings settled images into the index now.
    Flush {
        reply: oneshot::Sender<Result<(), OutboxError>>,
    },
    /// Ends.
    Shut { reply: oneshot::Sender<()> },
}

/// An image whose bytes are there.
pub(super) struct PushJob {
    pub(super) meta: ImageMeta,
    pub(super) source_file: Option<std::path::PathBuf>,
    pub(super) mark: Option<FileMark>,
    pub(super) staged: Staged,
    pub(super) series: u32,
    pub(super) admission: Admission,
    pub(super) reply: oneshot::Sender<Result<u64, NotPushed>>,
}

/// Why an image is not in.
#[derive(Debug)]
pub(super) enum NotPushed {
    /// No space.
    Full,
    /// The medium failed.
    Failed(std::io::Error),
}

/// A change of the index. Making it a second time changes nothing, so that a transaction of which
/// nobody knows whether it was committed can be made again.
pub(super) enum Step {
    /// An image comes in.
    Insert { sequence: u64, entry: Entry },
    /// An image that never came in is lost.
    Lose {
        lost: Lost,
        series: u32,
        mark: Option<FileMark>,
    },
    /// An image was answered.
    Settle {
        sequence: u64,
        series: u32,
        outcome: Departure,
    },
    /// An image is lost.
    Drop {
        series: u32,
        lost: Lost,
        /// An entry that cannot be read goes with it.
        unreadable: bool,
    },
    /// How far thinning out has come.
    Thinned(u64),
    /// A series has another account.
    Account {
        series: u32,
        account: Bytes,
        told_end: bool,
    },
    /// A series is forgotten.
    Forget(u32),
    /// The receiver has a loss.
    Told(u64),
    /// A mark is forgotten.
    Unmark(u128),
}

impl Step {
    pub(super) fn apply(&self, change: &mut Change<'_>) -> Result<(), IndexError> {
        match self {
            Self::Insert { sequence, entry } => {
                if change.insert(*sequence, entry)? {
                    change.count(entry.series, |counts| counts.captured += 1);
                } else if change.id_of(*sequence)? != Some(entry.id) {
                    return Err(IndexError::Taken(*sequence));
                }
            }
            Self::Lose { lost, series, mark } => {
                if !change.has_loss(lost)? {
                    if change.was_given(lost.meta.sequence) {
                        return Err(IndexError::Taken(lost.meta.sequence));
                    }
                    change.lose(lost)?;
                    change.count(*series, |counts| {
                        counts.captured += 1;
                        counts.lost += 1;
                    });
                }
                if let Some(mark) = mark {
                    change.put_mark(lost.meta.sequence, mark)?;
                }
            }
            Self::Settle {
                sequence,
                series,
                outcome,
            } => {
                if change.take_out(*sequence)?.is_some() {
                    change.count(*series, |counts| match outcome {
                        Departure::Delivered => counts.delivered += 1,
                        Departure::Duplicate => counts.duplicates += 1,
                        Departure::Quarantined => counts.quarantined += 1,
                    });
                }
            }
            Self::Drop {
                series,
                lost,
                unreadable,
            } => {
                let there = if *unreadable {
                    change.discard(lost.meta.sequence)?
                } else {
                    change.take_out(lost.meta.sequence)?.is_some()
                };
                if there {
                    if !shared::sabotage::is(shared::sabotage::Sabotage::DropLoss) {
                        change.lose(lost)?;
                    }
                    change.count(*series, |counts| counts.lost += 1);
                }
            }
            Self::Thinned(sequence) => change.counters.thinned = *sequence,
            Self::Account {
                series,
                account,
                told_end,
            } => {
                // It may have been forgotten meanwhile: nobody needs its account then.
                if let Some(mut entry) = change.find_series(*series)? {
                    entry.account = Some(account.clone());
                    entry.told_end = *told_end;
                    change.put_series(*series, &entry)?;
                }
            }
            Self::Forget(series) => change.forget_series(*series)?,
            Self::Told(sequence) => {
                change.told(*sequence)?;
            }
            Self::Unmark(key) => change.remove_mark(*key)?,
        }
        Ok(())
    }
}
