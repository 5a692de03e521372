//! What will never arrive, what is missing without a word, and what came under a number twice.

use shared::clock::UnixNanos;
use shared::image::{ImageId, OutboxId, Transport};
use shared::wire::Loss;

/// A loss that a transmitter told of.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptLoss {
    /// Grows with each loss: the cursor for paging.
    pub number: i64,
    /// Who told it.
    pub transmitter: String,
    /// The outbox that its sequence number counts in, when that was told.
    pub outbox: Option<OutboxId>,
    /// What was told.
    pub loss: Loss,
    /// When it was first told, receiver's clock.
    pub received: UnixNanos,
}

/// Sequence numbers below an outbox' floor that neither came nor were told as lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The transmitter.
    pub transmitter: String,
    /// Its outbox.
    pub outbox: OutboxId,
    /// Lowest and highest number.
    pub first: u64,
    /// See `first`.
    pub last: u64,
    /// How many of them are missing: all, unless an outbox has so many gaps that some had to be
    /// put into one.
    pub missing: u64,
    /// Run of the image next to it; empty when there is none.
    pub run: String,
    /// How that image came.
    pub transport: Option<Transport>,
    /// When it was found, receiver's clock.
    pub found: UnixNanos,
}

/// What losses and gaps are asked for. Empty: everything.
#[derive(Debug, Clone, Default)]
pub struct LossFilter {
    /// Only of this transmitter.
    pub transmitter: Option<String>,
    /// Only of this outbox.
    pub outbox: Option<OutboxId>,
    /// Only of this run.
    pub run: Option<String>,
    /// Only what was first told, or found, at this time or later.
    pub since: Option<UnixNanos>,
}

/// Answer to [`super::Catalog::keep_losses`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Which of the losses told were not known before, by their places in the report.
    pub fresh: Vec<usize>,
    /// Sequence numbers that are missing, as it turned out by this report.
    pub missing: u64,
}

/// An image that was there came again under another sequence number, outbox or transmitter: that
/// number is no gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    /// Who sent it again.
    pub transmitter: String,
    /// The outbox that the number counts in.
    pub outbox: OutboxId,
    /// The number.
    pub sequence: u64,
    /// The image.
    pub image_id: ImageId,
    /// Run of this attempt.
    pub run: String,
}

/// What became of a run beside its images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunLedger {
    /// Losses told.
    pub named: u64,
    /// The reasons most often told, and how often, the most frequent one first.
    pub reasons: Vec<(String, u64)>,
    /// Sequence numbers that are missing without a word.
    pub missing: u64,
    /// Sequence numbers under which several images came or were lost.
    pub reused: u64,
}

/// The state of all sequence numbers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Numbers that are missing without a word.
    pub missing: u64,
    /// Numbers under which several images came or were lost, as often as that was seen.
    pub reused: u64,
    /// Numbers that were given to an image and are still owed, as far as it was told.
    pub owed: u64,
}
