//! The receiver's side of each transport. Only here are gRPC, WebSocket and HTTP known.

pub mod grpc;
pub mod http;
mod metered;
pub mod rest;
pub mod session;
pub mod websocket;

/// A connection's place among those that are allowed, and in memory. It goes with the requests of the
/// connection, because what a request turns into, a WebSocket, may outlive the HTTP connection.
#[derive(Debug, Clone)]
pub struct Place {
    _inner: std::sync::Arc<(tokio::sync::OwnedSemaphorePermit, crate::budget::Seat)>,
}

impl Place {
    /// The place of one connection.
    pub fn new(permit: tokio::sync::OwnedSemaphorePermit, seat: crate::budget::Seat) -> Self {
        Self {
            _inner: (permit, seat).into(),
        }
    }
}
