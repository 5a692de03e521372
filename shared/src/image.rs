//! An image in transit: its identity, what is known of it, and the transport that carries it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::{ClockEstimate, UnixNanos};
use crate::digest::Digest;
use crate::trace::TraceContext;

/// Identity of an image, given once, at capture. The same id is the same image, for ever.
///
/// Transmitters of this project make UUIDv7 (RFC 9562, section 5.7), so that ids sort by time of
/// capture; any other non-nil UUID from a foreign client is taken as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(Uuid);

impl ImageId {
    /// A fresh id for an image captured now.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id with these 128 bits, `None` if they are all zero.
    pub fn from_u128(bits: u128) -> Option<Self> {
        (bits != 0).then(|| Self(Uuid::from_u128(bits)))
    }

    /// The 128 bits of the id.
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// Writes the 36 characters of the canonical text into `buffer`.
    pub fn encode(self, buffer: &mut [u8; 36]) -> &str {
        self.0.hyphenated().encode_lower(buffer)
    }
}

impl Default for ImageId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Identity of an outbox, given once, when it is made: sequence numbers count within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OutboxId(Uuid);

impl OutboxId {
    /// A fresh id.
    #[allow(
        clippy::new_without_default,
        reason = "a default that differs each time would surprise"
    )]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 128 bits of the id.
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// The id with these 128 bits, `None` if they are all zero.
    pub fn from_u128(bits: u128) -> Option<Self> {
        (bits != 0).then(|| Self(Uuid::from_u128(bits)))
    }
}

impl fmt::Display for OutboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for OutboxId {
    type Err = InvalidImageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<ImageId>().map(|id| Self(id.0))
    }
}

/// The text is not the id of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image id {text:?} is not a UUID such as 01932f3e-7b5c-7c3a-9d4e-2f1a6b8c0d1e")]
pub struct InvalidImageId {
    text: String,
}

impl FromStr for ImageId {
    type Err = InvalidImageId;

    /// Takes the 36-character hyphenated form only: one image, one spelling.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidImageId {
            text: text.chars().take(64).collect(),
        };
        if text.len() != 36 {
            return Err(invalid());
        }
        match Uuid::try_parse(text) {
            Ok(uuid) if !uuid.is_nil() => Ok(Self(uuid)),
            _ => Err(invalid()),
        }
    }
}

/// A way for images to travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Protobuf over HTTP/2.
    Grpc,
    /// Protobuf in binary WebSocket frames.
    WebSocket,
    /// HTTP PUT, or tus.
    Rest,
}

impl Transport {
    /// All transports, in the order in which a comparison runs them (R3.2).
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Grpc, Self::Rest];

    /// The word in settings, URLs and labels: `grpc`, `websocket`, `rest`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
            Self::Rest => "rest",
        }
    }
}

/// The name for people: `gRPC`, `WebSocket`, `REST`.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Grpc => "gRPC",
            Self::WebSocket => "WebSocket",
            Self::Rest => "REST",
        })
    }
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "grpc" => Ok(Self::Grpc),
            "websocket" | "ws" => Ok(Self::WebSocket),
            "rest" | "http" => Ok(Self::Rest),
            _ => Err(format!(
                "unknown transport {:?}; use grpc, websocket or rest",
                text.chars().take(64).collect::<String>()
            )),
        }
    }
}

/// Everything that is said of an image before its bytes come.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageMeta {
    /// Identity.
    pub id: ImageId,
    /// Exact size in bytes.
    pub size: u64,
    /// Digest of the whole image, when it is known before the bytes are sent.
    pub digest: Option<Digest>,
    /// Declared media type, for example `image/jpeg`.
    pub content_type: Option<String>,
    /// Name at the source. Never a path on the receiver.
    pub name: Option<String>,
    /// Label of the run that the image belongs to; empty when there is none.
    pub run: String,
    /// Counted from 1 at the transmitter; 0 when the client does not count.
    pub sequence: u64,
    /// When the image was taken.
    pub captured: Option<UnixNanos>,
    /// When it entered the outbox.
    pub queued: Option<UnixNanos>,
    /// When this attempt to send it began.
    pub send_started: Option<UnixNanos>,
    /// The transmitter's estimate of the receiver's clock at that time.
    pub clock: Option<ClockEstimate>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The attempt's place in the image's trace, if anybody wants to know of it.
    pub trace: Option<TraceContext>,
}

impl ImageMeta {
    /// Metadata of an image of which only identity and size are known.
    pub fn new(id: ImageId, size: u64) -> Self {
        Self {
            id,
            size,
            digest: None,
            content_type: None,
            name: None,
            run: String::new(),
            sequence: 0,
            captured: None,
            queued: None,
            send_started: None,
            clock: None,
            attempt: 1,
            trace: None,
        }
    }
}

/// The media type that a file name's ending promises, for the formats this project knows.
pub fn media_type_of(name: &str) -> Option<&'static str> {
    let ending = name.rsplit_once('.')?.1.to_ascii_lowercase();
    Some(match ending.as_str() {
        "jpg" | "jpeg" | "jpe" | "jfif" => "image/jpeg",
        "png" => "image/png",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "pnm" | "pbm" | "pgm" | "ppm" => "image/x-portable-anymap",
        _ => return None,
    })
}
