//! What becomes of images for good.

use std::sync::Arc;
use std::time::Duration;

use shared::clock::{ClockEstimate, UnixNanos};
use shared::receipt::{Receipt, ReceiptStatus, Reject};

use crate::outbox::{Outcome, Owed};

/// What became of an image for good.
#[derive(Debug, Clone)]
pub enum Settlement {
    /// It is stored.
    Receipt(Receipt),
    /// The receiver keeps it apart.
    Quarantined(Reject),
    /// It will never arrive, for this reason.
    Lost(LossKind, String),
}

/// Kinds of reasons why an image is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossKind {
    /// It gave way to others in a full outbox.
    Evicted,
    /// It could not be kept in the outbox.
    NotKept,
    /// It was sent as often as the settings allow.
    Abandoned,
    /// The receiver will never take it.
    Rejected,
    /// Another image has its id.
    Conflict,
    /// It can no longer be read.
    Unreadable,
    /// It is not what it was at capture.
    Changed,
    /// The receiver answers with receipts of something else.
    Contradicted,
}

impl LossKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Evicted,
        Self::NotKept,
        Self::Abandoned,
        Self::Rejected,
        Self::Conflict,
        Self::Unreadable,
        Self::Changed,
        Self::Contradicted,
    ];

    /// The word in metrics.
    pub fn key(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::NotKept => "not-kept",
            Self::Abandoned => "abandoned",
            Self::Rejected => "rejected",
            Self::Conflict => "conflict",
            Self::Unreadable => "unreadable",
            Self::Changed => "changed",
            Self::Contradicted => "contradicted",
        }
    }
}

/// An image that is not owed any more.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The image.
    pub image: Arc<Owed>,
    /// It was captured in the present series, not before.
    pub own: bool,
    /// What became of it.
    pub settlement: Settlement,
    /// When the last attempt began.
    pub started: UnixNanos,
    /// Send start to answer of the last attempt, monotonic.
    pub delivery: Duration,
    /// Times it was sent.
    pub attempts: u32,
    /// The receiver's clock as it was estimated then.
    pub clock: Option<ClockEstimate>,
}

impl Settled {
    /// Whether the receiver had the image before this transmitter first sent it. A receipt
    /// `duplicate` for a later attempt only means that an earlier one had arrived after all, and so
    /// it does for an image that was captured earlier and may have been sent then.
    pub fn is_duplicate(&self) -> bool {
        self.attempts == 1
            && self.own
            && !self.image.carried
            && matches!(&self.settlement, Settlement::Receipt(receipt)
                if receipt.status == ReceiptStatus::Duplicate)
    }

    /// What the outbox is told.
    pub(super) fn outcome(&self) -> Outcome {
        match &self.settlement {
            Settlement::Receipt(_) if self.is_duplicate() => Outcome::Duplicate,
            Settlement::Receipt(_) => Outcome::Delivered,
            Settlement::Quarantined(_) => Outcome::Quarantined,
            Settlement::Lost(_, reason) => Outcome::Lost(reason.clone()),
        }
    }
}
