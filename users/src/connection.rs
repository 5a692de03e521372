//! What a request knows of its connection: among its extensions.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The connection's place among all of them. Who keeps a connection beyond its requests, as a
/// WebSocket does, keeps this too: it counts as a connection, and the server waits for its end.
#[derive(Debug, Clone)]
pub struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
    _task: TaskTrackerToken,
}

impl Place {
    /// The place that `permit` stands for, of a server that waits for `task`.
    pub fn new(permit: OwnedSemaphorePermit, task: TaskTrackerToken) -> Self {
        Self {
            _permit: Arc::new(permit),
            _task: task,
        }
    }
}
