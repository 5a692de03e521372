//! The receiver's answers: proof that an image is stored, or the reason why it is not.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::image::ImageId;

/// How firmly an image is kept once its receipt is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Verified and counted; the bytes are not kept. For benchmarks only.
    Memory,
    /// Handed to the operating system: survives the death of the process, not of the machine.
    Written,
    /// On the medium, with its directory entry and its line in the catalogue: survives power loss.
    #[default]
    Synced,
}

impl Durability {
    /// The word in settings and JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Written => "written",
            Self::Synced => "synced",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "memory" => Ok(Self::Memory),
            "written" => Ok(Self::Written),
            "synced" => Ok(Self::Synced),
            _ => Err(format!(
                "unknown durability {text:?}; use memory, written or synced"
            )),
        }
    }
}

/// Whether an image was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptStatus {
    /// Stored now.
    Stored,
    /// The same id with the same digest had been stored before.
    Duplicate,
}

/// What the receiver's clock said at the stations of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverTimeline {
    /// First byte of the image arrived.
    pub first_byte: UnixNanos,
    /// Last byte of the image arrived.
    pub last_byte: UnixNanos,
    /// Sums, digest and format were found right.
    pub verified: UnixNanos,
    /// Stored with the durability of the receipt.
    pub durable: UnixNanos,
}

/// Proof that an image is verified, stored and catalogued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The image.
    pub image_id: ImageId,
    /// New or seen before.
    pub status: ReceiptStatus,
    /// Size in bytes.
    pub size: u64,
    /// Digest that the receiver made of the bytes it holds.
    pub digest: Digest,
    /// How firmly it is kept.
    pub durability: Durability,
    /// Format found in the bytes, for example `jpeg`.
    pub format: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The receiver's times; of a duplicate, those of the first time.
    pub timeline: ReceiverTimeline,
    /// Identity of the receiver.
    pub receiver: String,
}

/// Why an image or message was not accepted. The numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(
    missing_docs,
    reason = "each is described in transfer.proto and in `explain`"
)]
pub enum RejectReason {
    Truncated = 1,
    Overflow = 2,
    ChunkChecksum = 3,
    DigestMismatch = 4,
    Offset = 5,
    Limit = 6,
    NotAnImage = 7,
    TruncatedImage = 8,
    Mislabelled = 9,
    CorruptImage = 10,
    Empty = 11,
    Conflict = 12,
    Invalid = 13,
    UnknownMessage = 14,
    UnknownImage = 15,
    Protocol = 16,
    Unavailable = 17,
    Superseded = 18,
    Internal = 19,
    Forbidden = 20,
    Rate = 21,
    Quota = 22,
}

impl RejectReason {
    /// All reasons.
    pub const ALL: [Self; 22] = [
        Self::Truncated,
        Self::Overflow,
        Self::ChunkChecksum,
        Self::DigestMismatch,
        Self::Offset,
        Self::Limit,
        Self::NotAnImage,
        Self::TruncatedImage,
        Self::Mislabelled,
        Self::CorruptImage,
        Self::Empty,
        Self::Conflict,
        Self::Invalid,
        Self::UnknownMessage,
        Self::UnknownImage,
        Self::Protocol,
        Self::Unavailable,
        Self::Superseded,
        Self::Internal,
        Self::Forbidden,
        Self::Rate,
        Self::Quota,
    ];

    /// The word in JSON, labels and problem types, for example `digest-mismatch`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Overflow => "overflow",
            Self::ChunkChecksum => "chunk-checksum",
            Self::DigestMismatch => "digest-mismatch",
            Self::Offset => "offset",
            Self::Limit => "limit",
            Self::NotAnImage => "not-an-image",
            Self::TruncatedImage => "truncated-image",
            Self::Mislabelled => "mislabelled",
            Self::CorruptImage => "corrupt-image",
            Self::Empty => "empty",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::UnknownMessage => "unknown-message",
            Self::UnknownImage => "unknown-image",
            Self::Protocol => "protocol",
            Self::Unavailable => "unavailable",
            Self::Superseded => "superseded",
            Self::Internal => "internal",
            Self::Forbidden => "forbidden",
            Self::Rate => "rate",
            Self::Quota => "quota",
        }
    }

    /// What the reason means, for people.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Truncated => "fewer bytes than declared",
            Self::Overflow => "more bytes than declared",
            Self::ChunkChecksum => "a chunk was damaged on the way",
            Self::DigestMismatch => "the bytes are not those that the digest names",
            Self::Offset => "a chunk does not follow the one before it",
            Self::Limit => "above a limit of the receiver",
            Self::NotAnImage => "not an image of a known format",
            Self::TruncatedImage => "the image breaks off",
            Self::Mislabelled => "the image is of another kind than declared",
            Self::CorruptImage => "the image cannot be decoded",
            Self::Empty => "the image has no bytes",
            Self::Conflict => "another image has this id",
            Self::Invalid => "a field is missing or malformed",
            Self::UnknownMessage => "a message of an unknown kind",
            Self::UnknownImage => "the image was not begun in this session",
            Self::Protocol => "the session broke a rule",
            Self::Unavailable => "the receiver cannot take it just now",
            Self::Superseded => "a newer upload of the image took over",
            Self::Internal => "the receiver failed",
            Self::Forbidden => "the caller may not bring this in",
            Self::Rate => "the caller asks too often",
            Self::Quota => "the transmitter has brought in what it may for now",
        }
    }

    /// Whether the same bytes may be accepted at a later try.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::Truncated
                | Self::Overflow
                | Self::ChunkChecksum
                | Self::DigestMismatch
                | Self::Offset
                | Self::UnknownImage
                | Self::Unavailable
                | Self::Superseded
                | Self::Internal
                | Self::Forbidden
                | Self::Rate
                | Self::Quota
        )
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

impl FromStr for RejectReason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.key() == text)
            .ok_or_else(|| format!("unknown reason {text:?}"))
    }
}

/// The image, or the message, was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Reject {
    /// The image, where the message could be tied to one.
    pub image_id: Option<ImageId>,
    /// Why.
    pub reason: RejectReason,
    /// What is wrong, with its figures, and what to do about it.
    pub message: String,
    /// Whether the same bytes may be accepted at a later try.
    pub retryable: bool,
    /// Whether the bytes were kept, apart from the good images.
    pub quarantined: bool,
    /// With [`RejectReason::Offset`]: verified bytes that are held, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u64>,
    /// Milliseconds after which it is worth to try again, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Reject {
    /// A rejection that can be retried if its reason says so.
    pub fn new(
        image_id: impl Into<Option<ImageId>>,
        reason: RejectReason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            image_id: image_id.into(),
            reason,
            message: message.into(),
            retryable: reason.retryable(),
            quarantined: false,
            held: None,
            retry_after_ms: None,
        }
    }

    /// The same, to be tried again after this time.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }
}
