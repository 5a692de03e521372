//! A session as a connection.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shared::clock::ClockEstimate;
use shared::receipt::Receipt;
use shared::report::RunAccount;
use shared::wire::{ClientMessage, Loss, Standing};

use super::Session;
use crate::link::{Attempt, Connection, DeliveryError, LinkError};
use crate::outbox::Owed;

/// Images on their way at once over one session, whatever the window.
const PARALLEL: usize = 32;

/// Time for the receiver to take in what was sent before goodbye.
const CLOSING: Duration = Duration::from_secs(10);

/// A session as a connection.
pub(in crate::link) struct SessionConnection(pub(in crate::link) Arc<Session>);

#[async_trait]
impl Connection for SessionConnection {
    async fn deliver(&self, image: &Owed, attempt: Attempt<'_>) -> Result<Receipt, DeliveryError> {
        let delivered = self.0.deliver(image, attempt).await;
        delivered.map_err(|error| match (error, self.0.refusal()) {
            (DeliveryError::Lost(_), Some(refusal)) => DeliveryError::Refused(refusal.to_string()),
            (error, _) => error,
        })
    }

    fn parallel(&self) -> usize {
        PARALLEL
    }

    fn clock(&self) -> Option<ClockEstimate> {
        self.0.identity.clock.estimate()
    }

    async fn account(&self, account: RunAccount) -> Result<(), LinkError> {
        self.0.send(ClientMessage::Account(account)).await
    }

    async fn losses(&self, losses: Vec<Loss>, standing: Standing) -> Result<(), LinkError> {
        self.0.tell_losses(losses, standing).await
    }

    async fn closed(&self) -> String {
        self.0.lost.cancelled().await;
        self.0.reason()
    }

    fn is_refused(&self) -> bool {
        self.0.refusal().is_some()
    }

    async fn close(&self) {
        let session = &self.0;
        let reason = "nothing more to send".to_owned();
        if session
            .send(ClientMessage::Goodbye { reason })
            .await
            .is_err()
        {
            return;
        }
        session.goodbye.cancel();
        if tokio::time::timeout(CLOSING, session.ended.cancelled())
            .await
            .is_err()
        {
            tracing::warn!("the receiver did not close the session in time");
        }
    }
}
