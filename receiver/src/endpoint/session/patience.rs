//! How long a client may leave its answers unread.

use std::time::Duration;

use shared::wire::ServerMessage;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use crate::budget::Holder;

/// Answers of a session, on their way to the transport.
pub type Replies = mpsc::Sender<ServerMessage>;

/// Time to read an answer once the receiver is stopping.
const PARTING: Duration = Duration::from_secs(2);

/// How long a client may leave its answers unread.
#[derive(Debug, Clone)]
pub struct Patience {
    /// While the receiver runs.
    pub idle_timeout: Duration,
    /// The receiver is stopping: there is not that much time.
    pub stop: CancellationToken,
}

impl Patience {
    /// Resolves when a client that has not read an answer so far will not.
    pub async fn end(&self) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(self.idle_timeout) => {}
            () = async {
                self.stop.cancelled().await;
                tokio::time::sleep(PARTING).await;
            } => {}
        }
    }

    /// Hands an answer to the transport; `false` when the client does not read.
    pub async fn send(&self, replies: &Replies, message: ServerMessage) -> bool {
        match replies.try_send(message) {
            // Closed: the connection is gone, which the reading side notices by itself.
            Ok(()) | Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(message)) => self.wait(replies, message).await,
        }
    }

    /// The same for a client that has `memory` meanwhile: it does not get that much time if others
    /// need it.
    pub async fn send_holding(
        &self,
        memory: &Holder,
        replies: &Replies,
        message: ServerMessage,
    ) -> bool {
        match replies.try_send(message) {
            Ok(()) | Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(message)) => {
                let waiting = self.wait(replies, message);
                memory.for_client(waiting).await.unwrap_or(false)
            }
        }
    }

    async fn wait(&self, replies: &Replies, message: ServerMessage) -> bool {
        tokio::select! {
            biased;
            _ = replies.send(message) => true,
            () = self.end() => false,
        }
    }
}
