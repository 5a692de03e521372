//! The settings of a receiver, checked.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use shared::receipt::Durability;
use shared::security::settings::ServerSettings;
use shared::settings::units::ByteSize;
use shared::telemetry::LogFormat;
use shared::telemetry::otlp::OtlpSettings;
use url::Url;

mod read;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

/// Everything a receiver needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Identity of this receiver.
    pub name: String,
    /// Listener for gRPC.
    pub grpc_listen: Option<SocketAddr>,
    /// Listener for REST, WebSocket, reports and metrics.
    pub http_listen: Option<SocketAddr>,
    /// Listener for all of them.
    pub listen_all: Option<SocketAddr>,
    /// Who gets in.
    pub security: ServerSettings,
    /// Whether figures are for everybody.
    pub open_metrics: bool,
    /// Connections of one address.
    pub max_connections_per_peer: usize,
    /// Time for the handshake of TLS, and for the beginning of the first request.
    pub handshake_timeout: Duration,
    /// Requests of one caller a second, if they are limited.
    pub max_requests_per_second: Option<NonZeroU32>,
    /// Transmitters to dial.
    pub pull: Vec<Url>,
    /// Folder for images and catalogue.
    pub data: PathBuf,
    /// How firmly an image is kept before its receipt.
    pub durability: Durability,
    /// How closely images are looked at.
    pub verify: Verify,
    /// What an image, a message and a connection must keep.
    pub limits: Limits,
    /// Connection parameters.
    pub link: LinkOptions,
    /// Time to finish what is in flight after SIGTERM or SIGINT.
    pub grace: Duration,
    /// Whom to tell of traces and figures.
    pub telemetry: OtlpSettings,
    /// Filter of the log, in the syntax of `RUST_LOG`.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
}

/// How closely images are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Format, dimensions and a proper end.
    #[default]
    Header,
    /// All of it is decoded.
    Full,
}

/// What an image, a message and a connection must keep.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Size of one image.
    pub max_image_size: ByteSize,
    /// Size of one message.
    pub max_message_size: ByteSize,
    /// Chunks of one image.
    pub max_chunks: u64,
    /// Metadata of one image: name, media type, run and identity together.
    pub max_metadata: ByteSize,
    /// Connections in all.
    pub max_connections: usize,
    /// Unfinished images of one connection.
    pub max_unfinished: usize,
    /// Image bytes in memory, of all connections together.
    pub max_memory: ByteSize,
    /// Time without a message after which a connection is closed.
    pub idle_timeout: Duration,
    /// Time that an unfinished upload is kept after its connection is gone.
    pub partial_ttl: Duration,
    /// Bytes of unfinished uploads that no connection has, in all.
    pub partial_limit: ByteSize,
    /// Bytes to be left free: with fewer, no image begins.
    pub min_free: ByteSize,
    /// What one transmitter may bring in.
    pub quota: Quota,
    /// Pixels of one image, checked before it is decoded.
    pub max_pixels: u64,
    /// Time to decode one image.
    pub decode_timeout: Duration,
}

/// What one transmitter may bring in within a period.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Bytes of images.
    pub bytes: Option<ByteSize>,
    /// Images.
    pub images: Option<u64>,
    /// How long they count.
    pub period: Duration,
}

impl Default for Quota {
    /// None.
    fn default() -> Self {
        Self {
            bytes: None,
            images: None,
            period: Duration::from_secs(86_400),
        }
    }
}

/// Connection parameters.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Chunk bytes that a session may have under way.
    pub credit: ByteSize,
    /// HTTP/2 frame size that this side accepts.
    pub http2_frame_size: ByteSize,
    /// HTTP/2 flow-control window of a stream and of a connection.
    pub http2_window: ByteSize,
}
