//! The receiver's side of each transport. Only here are gRPC, WebSocket and HTTP known.

pub mod gate;
pub mod grpc;
pub mod http;
mod metered;
pub mod rest;
pub mod session;
pub mod websocket;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shared::door::{self, InFlight};
use shared::security::access::Caller;
use tokio_util::sync::CancellationToken;

/// A connection's place among those that are allowed, and in memory. It goes with the requests of the
/// connection, because what a request turns into, a WebSocket, may outlive the HTTP connection.
#[derive(Debug, Clone)]
pub struct Place {
    inner: Arc<(door::Place, crate::budget::Seat)>,
}

impl Place {
    /// The place of one connection.
    pub fn new(place: door::Place, seat: crate::budget::Seat) -> Self {
        Self {
            inner: Arc::new((place, seat)),
        }
    }

    /// Is cancelled when the connection, and whatever it has become, has to leave.
    pub fn gone(&self) -> CancellationToken {
        self.inner.0.gone().clone()
    }

    /// Whether it has to leave for others, if it has to.
    pub fn has_given_way(&self) -> bool {
        self.inner.0.has_given_way()
    }

    /// A request has been let in: the connection is busy until what this returns is dropped.
    pub fn begin(&self) -> InFlight {
        self.inner.0.begin()
    }
}

/// What a session is told whose client has to prove anew who it is.
const EXPIRED: &str = "Token expired";

/// Resolves when the proof of who `caller` is does not hold any more.
async fn expiry(caller: &Caller) {
    let Some(until) = caller.until() else {
        return std::future::pending().await;
    };
    // The clock on the wall may be set meanwhile, so this looks again now and then.
    while let Ok(left) = until.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.clamp(Duration::from_millis(1), Duration::from_secs(60))).await;
    }
}
