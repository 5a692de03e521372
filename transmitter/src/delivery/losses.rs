//! Tells the receiver what will never come, and where the sequence numbers stand, so that it finds
//! the gaps.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use shared::telemetry::chain;
use shared::wire::Standing;
use tokio_util::sync::CancellationToken;

use super::{Backoff, Delivery};
use crate::link::{Connection, LinkError};
use crate::outbox::OutboxError;

/// Losses told at once.
const PORTION: usize = 1_000;

/// Time between two looks at whether the standing has changed.
const LOOK: Duration = Duration::from_secs(5);

/// Losses that come shortly after one another are told together.
const GATHERING: Duration = Duration::from_millis(100);

/// Connections that are made at the end to tell what is left.
const MOST_LAST_CONNECTIONS: usize = 2;

/// Time for the receiver to keep a portion.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why losses were not told, or have to be told again.
#[derive(Debug, thiserror::Error)]
pub(super) enum TellError {
    #[error("the receiver was not told of losses")]
    Link(#[from] LinkError),
    #[error("losses that the receiver keeps cannot be marked, and are told to it again")]
    Outbox(#[from] OutboxError),
}

impl Delivery {
    /// Tells losses as they come, and everything to each receiver that was just reached, until it is
    /// `over`, and says what the last one was told.
    pub(super) async fn tell_losses(&self, over: CancellationToken) -> Option<Standing> {
        let mut backoff = Backoff::new(&self.retry);
        let mut told = None;
        let mut failed = false;
        loop {
            let reached = self.connected.notified();
            let Some(connection) = self.connection() else {
                tokio::select! {
                    biased;
                    () = over.cancelled() => return None,
                    () = reached => told = None,
                }
                continue;
            };
            if over.is_cancelled() {
                return told;
            }
            match self.tell_losses_to(&connection, &mut told).await {
                Ok(()) => {
                    if std::mem::take(&mut failed) {
                        tracing::info!("the receiver is told of losses again");
                    }
                    backoff.reset();
                    tokio::select! {
                        biased;
                        () = reached => told = None,
                        () = over.cancelled() => {}
                        () = self.outbox.loss_waits() => tokio::time::sleep(GATHERING).await,
                        () = tokio::time::sleep(LOOK) => {}
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::warn!("{}", chain(&error));
                    }
                    tokio::select! {
                        () = over.cancelled() => {}
                        () = tokio::time::sleep(backoff.next()) => {}
                    }
                }
            }
        }
    }

    /// Tells what is left at the end, over a connection that is made for it if none is there any more,
    /// which is handed out. `told` is what is known to be told.
    pub(super) async fn tell_last_losses(
        &self,
        mut told: Option<Standing>,
    ) -> Vec<Arc<dyn Connection>> {
        let mut made = Vec::new();
        loop {
            if self.connection().is_none() {
                told = None;
                made.extend(self.connect_for_last_words().await);
            }
            let Some(connection) = self.connection() else {
                return made;
            };
            let Err(error) = self.tell_losses_to(&connection, &mut told).await else {
                return made;
            };
            // One that has just gone is known as such with the first word over it.
            let is_gone = connection.closed().now_or_never().is_some();
            if is_gone && made.len() < MOST_LAST_CONNECTIONS {
                continue;
            }
            tracing::warn!("{}", chain(&error));
            return made;
        }
    }

    /// Tells everything that the receiver is not known to have; the standing alone if it is not
    /// the one that was `told`.
    pub(super) async fn tell_losses_to(
        &self,
        connection: &Arc<dyn Connection>,
        told: &mut Option<Standing>,
    ) -> Result<(), TellError> {
        loop {
            let (losses, standing) = self.outbox.losses(PORTION).await;
            if losses.is_empty() && *told == Some(standing) {
                return Ok(());
            }
            let sequences: Vec<u64> = losses.iter().map(|loss| loss.sequence).collect();
            let telling = connection.losses(losses, standing);
            match tokio::time::timeout(PATIENCE, telling).await {
                Ok(kept) => kept?,
                Err(_) => {
                    let problem = format!("losses were not kept within {PATIENCE:?}");
                    return Err(LinkError::Lost(problem).into());
                }
            }
            // Whatever happens before this is done: told twice, they are the same losses.
            self.outbox.losses_kept(&sequences).await?;
            *told = Some(standing);
            if sequences.len() < PORTION {
                return Ok(());
            }
        }
    }
}
