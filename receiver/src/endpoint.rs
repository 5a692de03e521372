//! The receiver's side of each transport. Only here are gRPC, WebSocket and HTTP known.

pub mod grpc;
pub mod http;
mod metered;
pub mod rest;
pub mod session;
pub mod websocket;

/// A connection's place among those that are allowed. It goes with the requests of the connection,
/// because what a request turns into, a WebSocket, may outlive the HTTP connection.
#[derive(Debug, Clone)]
pub struct Place {
    _permit: std::sync::Arc<tokio::sync::OwnedSemaphorePermit>,
}

impl From<tokio::sync::OwnedSemaphorePermit> for Place {
    fn from(permit: tokio::sync::OwnedSemaphorePermit) -> Self {
        Self {
            _permit: permit.into(),
        }
    }
}
