//! Tells the receiver what will never arrive.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use shared::receipt::Reject;
use shared::wire::{ClientMessage, Loss, LossReport, Standing};
use tokio::sync::oneshot;

use super::Session;
use crate::link::LinkError;
use crate::link::portions::portions;

/// Reports that have no answer.
#[derive(Debug, Default)]
pub(super) struct Told {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Result<(), String>>>>,
}

impl Told {
    /// The receiver keeps what the report with this id says.
    pub(super) fn kept(&self, id: u64) {
        if let Some(waiting) = self.waiting.lock().remove(&id) {
            // Fails only when nobody waits any more.
            let _ = waiting.send(Ok(()));
        }
    }

    /// The receiver refused a message that it cannot name. That it was a report is not certain, but
    /// one that is told again does no harm.
    pub(super) fn refused(&self, reject: &Reject) {
        for (_, waiting) in std::mem::take(&mut *self.waiting.lock()) {
            let _ = waiting.send(Err(reject.to_string()));
        }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// Nothing more will be answered.
    pub(super) fn forget(&self) {
        self.waiting.lock().clear();
    }
}

/// Forgets a report that nobody waits for any more.
struct Waiting<'a>(&'a Told, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().remove(&self.1);
    }
}

impl Session {
    /// Returns when the receiver keeps all of `losses`.
    pub(super) async fn tell_losses(
        &self,
        losses: Vec<Loss>,
        standing: Standing,
    ) -> Result<(), LinkError> {
        let limit = self.max_message.load(Ordering::Relaxed);
        for (losses, standing) in portions(losses, standing, limit) {
            self.tell_portion(losses, standing).await?;
        }
        Ok(())
    }

    async fn tell_portion(&self, losses: Vec<Loss>, standing: Standing) -> Result<(), LinkError> {
        let id = self.told.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answered) = oneshot::channel();
        self.told.waiting.lock().insert(id, sender);
        let _waiting = Waiting(&self.told, id);
        if self.lost.is_cancelled() {
            return Err(LinkError::Lost(self.reason()));
        }
        let report = LossReport {
            id,
            standing: Some(standing),
            losses,
            transmitter: self.identity.transmitter.clone(),
        };
        self.send(ClientMessage::Losses(report)).await?;
        let timeout = self.idle_timeout;
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(refusal))) => {
                Err(self.protocol(format!("it does not keep the losses: {refusal}")))
            }
            Ok(Err(_)) => Err(LinkError::Lost(self.reason())),
            Err(_) => Err(self.protocol(format!(
                "it has not said within {timeout:?} that it keeps the losses"
            ))),
        }
    }
}
