//! The session protocol as domain values, and their form on the wire (`proto/`, docs/specs/wire.md).
//!
//! Chunks, which are nearly all of the traffic, are encoded and decoded here by hand so that image
//! bytes are never copied between the socket's buffer and the image: an encoded chunk is a short
//! head followed by the payload as it is, a decoded one is a view of the received pieces.

mod convert;
mod decode;
mod encode;
pub mod framing;
mod headers;
mod lists;

use crate::chunk::Segments;
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::image::{ImageId, ImageMeta, OutboxId};
use crate::receipt::{Durability, Receipt, Reject};
use crate::report::RunAccount;

pub use convert::{
    InvalidMessage, begin_from_proto, begin_to_proto, event_from_proto, event_to_proto,
    receipt_from_proto, receipt_to_proto, reject_from_proto, reject_to_proto,
};
pub use decode::{decode_account, decode_client, decode_losses, decode_server};
pub use encode::{Encoded, encode_account, encode_client, encode_losses, encode_server};
pub use headers::{HEADER_SUM, answer_sum, is_damaged, is_message, request_sum, sum_header};
pub use lists::{
    MAX_ACCOUNTED, MAX_LOSSES, MAX_UNFINISHED, unpacked, unpacked_account, unpacked_losses,
};

/// Code generated from `proto/pantelegraph/transfer/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod proto {
    tonic::include_proto!("pantelegraph.transfer.v1");
}

/// Version of the session protocol.
pub const PROTOCOL_VERSION: u32 = 1;

/// Subprotocol name of the WebSocket endpoint.
pub const WEBSOCKET_SUBPROTOCOL: &str = "pantelegraph.v1";

/// Path of the WebSocket endpoint.
pub const WEBSOCKET_PATH: &str = "/v1/stream";

/// Request path of the gRPC session.
pub const EXCHANGE_PATH: &str = "/pantelegraph.transfer.v1.TransferService/Exchange";

/// Request path of the gRPC client-streaming call.
pub const UPLOAD_PATH: &str = "/pantelegraph.transfer.v1.TransferService/Upload";

/// Bytes that a chunk's encoding adds to its data at most: tags, lengths, id, offset and sum.
pub const CHUNK_OVERHEAD: usize = 96;

/// What a transmitter sends.
#[derive(Debug, Clone)]
pub enum ClientMessage {
    /// First message of a session.
    Hello(Hello),
    /// Announces an image.
    Begin(Begin),
    /// A slice of an image.
    Chunk(Chunk),
    /// All slices of the image have been sent.
    End {
        /// The image.
        image_id: ImageId,
        /// Its digest, unless `Begin` carried it.
        digest: Option<Digest>,
    },
    /// The image will not be completed in this session.
    Abort {
        /// The image.
        image_id: ImageId,
        /// Why.
        reason: String,
    },
    /// Asks for the receiver's clock.
    ClockPing {
        /// Comes back in the answer.
        id: u64,
        /// Transmitter's clock at sending.
        t1: UnixNanos,
    },
    /// What the transmitter knows of a run.
    Account(RunAccount),
    /// Images that will never arrive.
    Losses(LossReport),
    /// The transmitter is about to close.
    Goodbye {
        /// Why.
        reason: String,
    },
}

/// First message of a session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hello {
    /// Version that the transmitter speaks.
    pub protocol_version: u32,
    /// Identity of the transmitter.
    pub transmitter: String,
    /// Images begun earlier and not yet answered.
    pub unfinished: Vec<ImageId>,
    /// Images lost since the last session.
    pub losses: Vec<Loss>,
    /// Program and version.
    pub agent: String,
    /// Where the transmitter's sequence numbers stand.
    pub standing: Option<Standing>,
    /// Credit is wanted at the latest each time that a quarter of so many bytes was taken; 0 when
    /// that does not matter.
    pub window: u64,
}

/// Where an outbox stands: every image below `first_owed` is stored at the receiver, quarantined
/// there, or among the losses told up to and including the message that carries this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The outbox.
    pub outbox: OutboxId,
    /// Lowest sequence number that is still owed; `next_sequence` when none is.
    pub first_owed: u64,
    /// The sequence number that the next captured image will get.
    pub next_sequence: u64,
}

impl Standing {
    /// Names the outbox without saying where it stands.
    pub fn unsaid(outbox: OutboxId) -> Self {
        Self {
            outbox,
            first_owed: 0,
            next_sequence: 0,
        }
    }
}

/// Images that are lost, told while a session lasts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LossReport {
    /// Comes back in the answer.
    pub id: u64,
    /// Where the outbox stands.
    pub standing: Option<Standing>,
    /// The images.
    pub losses: Vec<Loss>,
    /// Identity of the transmitter; in a session that of `Hello` counts.
    pub transmitter: String,
}

/// An image that will never arrive.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// Its sequence number at the transmitter.
    pub sequence: u64,
    /// The image.
    pub image_id: ImageId,
    /// Its digest, when it was known.
    pub digest: Option<Digest>,
    /// Why.
    pub reason: String,
    /// When.
    pub at: UnixNanos,
    /// Its run.
    pub run: String,
}

/// Announces an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Begin {
    /// What is known of it.
    pub meta: ImageMeta,
    /// First byte that this session sends.
    pub offset: u64,
}

/// A slice of an image.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The image.
    pub image_id: ImageId,
    /// Where in the image it starts.
    pub offset: u64,
    /// CRC-32C of the data.
    pub crc32c: Option<u32>,
    /// The bytes.
    pub data: Segments,
}

/// What a receiver sends.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerMessage {
    /// Answer to `Hello`.
    Welcome(Welcome),
    /// The client may have sent this many chunk bytes in this session in all.
    Credit {
        /// Bytes since the session began.
        total: u64,
    },
    /// Proof that an image is stored.
    Receipt(Receipt),
    /// An image or message was not accepted.
    Reject(Reject),
    /// Answer to `ClockPing`.
    ClockPong {
        /// Id of the ping.
        id: u64,
        /// Time in the ping.
        t1: UnixNanos,
        /// Receiver's clock when the ping came.
        t2: UnixNanos,
        /// Receiver's clock when the answer left.
        t3: UnixNanos,
    },
    /// The losses of the report with this id are kept as durably as receipts are.
    LossesKept {
        /// Id of the report.
        id: u64,
    },
    /// The receiver is about to close.
    Goodbye {
        /// Why.
        reason: String,
    },
}

/// Answer to `Hello`.
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// Version that the receiver speaks.
    pub protocol_version: u32,
    /// Identity of the receiver.
    pub receiver: String,
    /// What an image or message must keep.
    pub limits: Limits,
    /// Chunk bytes that the client may have sent in all.
    pub credit: u64,
    /// Verified bytes that the receiver holds of unfinished images.
    pub held: Vec<(ImageId, u64)>,
    /// Durability that receipts state.
    pub durability: Durability,
}

/// Limits of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Size of one image in bytes.
    pub max_image_bytes: u64,
    /// Size of one message in bytes.
    pub max_message_bytes: u64,
    /// Chunks of one image.
    pub max_chunks: u64,
    /// Metadata of one image in bytes.
    pub max_metadata_bytes: u64,
}

/// Something that happened at the receiver, for those who watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When.
    pub at: UnixNanos,
    /// Run of the image.
    pub run: String,
    /// Transport that it came by.
    pub transport: crate::image::Transport,
    /// Who sent it.
    pub transmitter: String,
    /// Name of the image at its source.
    pub name: String,
    /// What became of it.
    pub outcome: Result<Receipt, Reject>,
}

#[cfg(test)]
mod tests;
