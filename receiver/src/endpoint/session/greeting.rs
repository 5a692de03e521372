//! What a client says of itself, and of what it owes or has lost.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use shared::image::ImageId;
use shared::receipt::{Reject, RejectReason};
use shared::wire::{Hello, Limits, LossReport, PROTOCOL_VERSION, ServerMessage, Welcome};

use super::{Session, nameless};
use crate::intake::{Intake, MAX_NAME, Origin};

impl Session {
    pub(super) async fn hello(&mut self, hello: Hello) -> ControlFlow<String> {
        if hello.protocol_version != PROTOCOL_VERSION {
            let reason = format!(
                "protocol version {} is not spoken here; this receiver speaks {PROTOCOL_VERSION}",
                hello.protocol_version
            );
            let reject = Reject::new(None, RejectReason::Protocol, reason.clone());
            self.reject_message(reject).await;
            return ControlFlow::Break(reason);
        }
        if hello.transmitter.len() > MAX_NAME {
            let reason = format!(
                "hello.transmitter of {} bytes exceeds the receiver's limit of {MAX_NAME}; \
                 shorten TRANSMITTER_NAME",
                hello.transmitter.len()
            );
            let reject = Reject::new(None, RejectReason::Limit, reason.clone());
            self.reject_message(reject).await;
            return ControlFlow::Break(reason);
        }
        let outbox = hello.standing.map(|standing| standing.outbox);
        let caller = &self.origin.caller;
        let origin =
            Origin::new(self.origin.transport, &hello.transmitter, caller).with_outbox(outbox);
        if let Err(reject) = Intake::check_sender(None, &origin) {
            let reason = reject.message.clone();
            self.reject_message(reject).await;
            return ControlFlow::Break(reason);
        }
        self.origin = origin;
        // The welcome says that they are kept.
        let report = LossReport {
            id: 0,
            standing: hello.standing,
            losses: hello.losses,
            transmitter: self.origin.transmitter.to_string(),
        };
        if let Err(reject) = self.intake.keep_losses(report, &self.origin.caller).await {
            let reason = format!("the losses in hello are not kept: {reject}");
            self.reject_message(reject).await;
            return ControlFlow::Break(reason);
        }
        self.window = hello.window;
        self.greeted = true;
        tracing::info!(
            transmitter = %self.origin.transmitter,
            transport = %self.origin.transport,
            agent = hello.agent,
            unfinished = hello.unfinished.len(),
            "session"
        );
        let held = self.held(&hello.unfinished).await;
        self.memory.progressed();
        let limits = self.intake.limits();
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            receiver: self.intake.name().to_owned(),
            limits: Limits {
                max_image_bytes: limits.max_image_size.0,
                max_message_bytes: limits.max_message_size.0,
                max_chunks: limits.max_chunks,
                max_metadata_bytes: limits.max_metadata.0,
            },
            credit: self.granted,
            held,
            durability: self.intake.durability(),
        };
        self.reply(ServerMessage::Welcome(welcome)).await;
        ControlFlow::Continue(())
    }

    /// What is held of these images. It is taken from no connection that is still open: whoever
    /// goes on with an image says so by `Begin`.
    async fn held(&self, unfinished: &[ImageId]) -> Vec<(ImageId, u64)> {
        let mut held = Vec::new();
        let mut asked = HashSet::new();
        for id in unfinished {
            if asked.insert(*id)
                && let Some(offset) = self.intake.held_for(*id, &self.origin.caller).await
            {
                held.push((*id, offset));
            }
        }
        held
    }

    pub(super) async fn losses(&mut self, mut report: LossReport) {
        if let Some(standing) = &report.standing {
            self.origin.outbox = Some(standing.outbox);
        }
        self.origin
            .transmitter
            .as_ref()
            .clone_into(&mut report.transmitter);
        // Chunks go on while they are made durable. A client that has several reports under way
        // cannot tell what became of which.
        let Some(turn) = self.place(&Arc::clone(&self.reporting)).await else {
            return;
        };
        let lease = self.memory.part(self.unpacked);
        let (intake, origin) = (Arc::clone(&self.intake), self.origin.clone());
        let (replies, patience) = (self.replies.clone(), self.patience.clone());
        self.finishing.spawn(async move {
            let id = report.id;
            let kept = intake.keep_losses(report, &origin.caller).await;
            drop(lease);
            let reply = match kept {
                Ok(()) => ServerMessage::LossesKept { id },
                Err(reject) => {
                    let reject = intake.turn_down(&nameless(), &origin, reject);
                    intake.room_to_count().await;
                    ServerMessage::Reject(reject)
                }
            };
            patience.send(&replies, reply).await;
            drop(turn);
        });
    }
}
