//! The transmitter's side of each transport. Only here are gRPC, WebSocket and HTTP known.
//!
//! A [`Link`] makes [`Connection`]s; a connection carries whole images and answers each with the
//! receiver's verdict. gRPC and WebSocket share the session of [`session`].

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::clock::{ClockEstimate, ClockFilter, ClockSample, UnixNanos};
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use shared::receipt::{Receipt, Reject};
use shared::report::RunAccount;
use shared::telemetry::WireCount;
use shared::trace::TraceContext;
use shared::wire::{Loss, Standing};

use crate::config::{GrpcCall, LinkOptions};
use crate::limiter::Limiter;
use crate::outbox::Owed;

mod body;
mod dial;
pub mod grpc;
mod portions;
pub mod rest;
pub mod session;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
mod turn;
mod unfinished;
pub mod websocket;

pub use dial::Dialler;
pub use turn::{Turn, Turns};
pub use unfinished::{MAX_UNFINISHED, UnfinishedImages};

/// Makes connections to one receiver over one transport.
#[async_trait]
pub trait Link: Send + Sync {
    /// The transport.
    fn transport(&self) -> Transport;

    /// Whether a connection that was closed while nothing was to be sent is made again only when
    /// something is: HTTP servers close idle connections, and sessions do not idle.
    fn is_lazy(&self) -> bool {
        false
    }

    /// Connects and is welcomed.
    ///
    /// # Errors
    /// When the receiver cannot be reached or does not speak the protocol.
    async fn connect(&self) -> Result<Arc<dyn Connection>, LinkError>;

    /// The image will not be sent any more, whatever became of it: what links remember of it in
    /// order to go on where it broke off is forgotten.
    fn forget(&self, _id: ImageId) {}
}

/// A connection to a receiver.
#[async_trait]
pub trait Connection: Send + Sync {
    /// Sends one image and waits for the verdict. May be called for several images at once, up to
    /// [`Connection::parallel`]. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// When there is no receipt.
    async fn deliver(&self, image: &Owed, attempt: Attempt<'_>) -> Result<Receipt, DeliveryError>;

    /// Images that may be on their way at once.
    fn parallel(&self) -> usize;

    /// The receiver's clock, as far as it has been measured over this connection.
    fn clock(&self) -> Option<ClockEstimate>;

    /// Tells the receiver what it cannot see itself.
    ///
    /// # Errors
    /// When the connection is gone.
    async fn account(&self, account: RunAccount) -> Result<(), LinkError>;

    /// Tells the receiver of losses and of where the outbox stands. Returns when the receiver keeps
    /// them.
    ///
    /// # Errors
    /// When the connection is gone, or the receiver cannot keep them.
    async fn losses(&self, losses: Vec<Loss>, standing: Standing) -> Result<(), LinkError>;

    /// Resolves when the connection is of no more use, with the reason.
    async fn closed(&self) -> String;

    /// Whether it is of no more use because the receiver does not let this station in.
    fn is_refused(&self) -> bool {
        false
    }

    /// Says goodbye and waits until the receiver has taken in everything that was sent.
    async fn close(&self);
}

/// One try to send an image.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Counted from 1.
    pub number: u32,
    /// When it began.
    pub started: UnixNanos,
    /// When the image may begin; at once without it.
    pub turn: Option<&'a Turn>,
    /// Its place in the image's trace.
    pub trace: Option<TraceContext>,
}

impl Attempt<'_> {
    /// What is said of `image` with this attempt, by the clock of the receiver as it is known now.
    pub(crate) fn meta(&self, image: &Owed, clock: Option<ClockEstimate>) -> ImageMeta {
        let mut meta = image.meta.clone();
        meta.attempt = self.number;
        meta.clock = clock;
        meta.send_started = Some(self.started);
        meta.trace = self.trace;
        meta
    }

    /// Waits until the image may begin.
    pub(crate) async fn come(&self) {
        if let Some(turn) = self.turn {
            turn.come().await;
        }
    }

    /// The image has begun: the next one may.
    pub(crate) fn pass(&self) {
        if let Some(turn) = self.turn {
            turn.pass();
        }
    }
}

/// What a link says of itself and counts.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Identity of the transmitter.
    pub transmitter: String,
    /// The outbox that sequence numbers count in.
    pub outbox: OutboxId,
    /// Images that were begun and have no answer: what a new connection asks for first, to go on
    /// where the one before broke off.
    pub unfinished: UnfinishedImages,
    /// Holds back whoever is about to send image bytes.
    pub limiter: Limiter,
    /// Bytes on all its sockets.
    pub wire: WireCount,
    /// The receiver's clock: what all connections to it have measured.
    pub clock: SharedClock,
    /// Makes its connections, and shows who it is.
    pub dialler: Dialler,
}

/// Measurements of one receiver's clock, shared by the connections to it.
#[derive(Debug, Clone, Default)]
pub struct SharedClock(Arc<Mutex<ClockFilter>>);

impl SharedClock {
    /// Takes one measurement.
    pub fn add(&self, sample: ClockSample) {
        self.0.lock().add(sample);
    }

    /// The present estimate.
    pub fn estimate(&self) -> Option<ClockEstimate> {
        self.0.lock().estimate()
    }
}

/// Program and version, for the receiver's log.
pub(crate) const AGENT: &str = concat!("pantelegraph-transmitter/", env!("CARGO_PKG_VERSION"));

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// The receiver cannot be reached.
    #[error("{address} cannot be reached: {problem}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        problem: String,
    },
    /// Something answers there, but not a receiver of this protocol.
    #[error("{address} does not answer as a Pantelegraph receiver: {problem}")]
    Protocol {
        /// Where.
        address: String,
        /// What it did instead.
        problem: String,
    },
    /// The receiver does not let this station in, until somebody mends that.
    #[error("{address} does not let this station in: {problem}")]
    Refused {
        /// Where.
        address: String,
        /// Why, and what to do about it.
        problem: String,
    },
    /// The connection was there and is gone.
    #[error("connection lost: {0}")]
    Lost(String),
}

/// Why an image was not delivered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeliveryError {
    /// The receiver turned it down.
    #[error(transparent)]
    Rejected(#[from] Reject),
    /// The connection is gone; whether the image arrived is not known.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The receiver does not let this station in. That says nothing of the image.
    #[error("{0}")]
    Refused(String),
    /// The image can no longer be read.
    #[error("image cannot be read: {0}")]
    Unreadable(String),
    /// The image cannot be read just now: no file descriptors, no memory, a device that fails.
    #[error("image cannot be read just now: {0}")]
    Unavailable(String),
}

/// What an error of reading an image means for it. Only a file that is gone, closed to this user or
/// cut short will never be read; anything else may pass.
pub(crate) fn unreadable(error: std::io::Error) -> DeliveryError {
    use std::io::ErrorKind::{IsADirectory, NotFound, PermissionDenied, UnexpectedEof};
    match error.kind() {
        NotFound | PermissionDenied | IsADirectory | UnexpectedEof => {
            DeliveryError::Unreadable(error.to_string())
        }
        _ => DeliveryError::Unavailable(error.to_string()),
    }
}

/// The link that `options` describe.
pub fn open(
    transport: Transport,
    url: &url::Url,
    options: &LinkOptions,
    identity: &Identity,
) -> Arc<dyn Link> {
    let (url, options, identity) = (url.clone(), options.clone(), identity.clone());
    match (transport, options.grpc_call) {
        (Transport::Grpc, GrpcCall::Exchange) => {
            Arc::new(grpc::ExchangeLink::new(url, options, identity))
        }
        (Transport::Grpc, GrpcCall::Put) => Arc::new(grpc::PutLink::new(url, options, identity)),
        (Transport::WebSocket, _) => {
            Arc::new(websocket::WebSocketLink::new(url, options, identity))
        }
        (Transport::Rest, _) => Arc::new(rest::RestLink::new(url, options, identity)),
    }
}
