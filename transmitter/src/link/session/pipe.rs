//! A session over a pipe that the caller makes: the state machine of gRPC and WebSocket for
//! simulated networks, which have neither.

use std::sync::Arc;

use shared::wire::{Encoded, ServerMessage};
use tokio::sync::mpsc;

use super::{Session, SessionConnection, queue_length};
use crate::config::LinkOptions;
use crate::link::{Connection, Identity, LinkError};

/// The end of a session that a transport holds.
#[derive(Clone)]
pub struct Pipe(Arc<Session>);

impl Pipe {
    /// A session that has not greeted yet, and its messages on their way to the transport.
    pub fn new(
        address: String,
        options: &LinkOptions,
        identity: &Identity,
    ) -> (Self, mpsc::Receiver<Encoded>) {
        let (outgoing, messages) = mpsc::channel(queue_length(options));
        let session = Session::new(outgoing, address, options, identity);
        (Self(session), messages)
    }

    /// Says hello, and makes a connection of the session once it is welcomed. The transport must
    /// run meanwhile.
    ///
    /// # Errors
    /// When nobody answers as a receiver within the time to connect.
    pub async fn greet(&self) -> Result<Arc<dyn Connection>, LinkError> {
        self.0.greet().await?;
        Ok(Arc::new(SessionConnection(Arc::clone(&self.0))))
    }

    /// A message of the receiver has come.
    pub fn take(&self, message: ServerMessage) {
        self.0.take(message);
    }

    /// The transport is gone.
    pub fn lose(&self, reason: String) {
        self.0.lose(reason);
    }

    /// Resolves when the session is of no more use to either side.
    pub async fn lost(&self) {
        self.0.lost.cancelled().await;
    }
}
