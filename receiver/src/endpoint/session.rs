//! The session protocol, whatever carries it: what the receiver does with each message.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::UnixNanos;
use shared::digest::Digest;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{Durability, Reject, RejectReason};
use shared::wire::{
    Begin, Chunk, ClientMessage, Hello, Limits, LossReport, PROTOCOL_VERSION, ServerMessage,
    Welcome,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Holder;
use crate::intake::{Begun, Intake, Origin, Upload};
use crate::metrics::SessionCount;

/// Answers of a session, on their way to the transport.
pub type Replies = mpsc::Sender<ServerMessage>;

/// Answers that may wait for a slow client before the session stops reading.
pub const MAX_WAITING_REPLIES: usize = 256;

/// Ids of images that were answered while their chunks were still under way.
const MAX_ANSWERED: usize = 4_096;

/// Images of one session that are being stored at once; the session reads on when one is done.
const MAX_FINISHING: usize = 128;

/// Credit of a session when there are very many.
const LEAST_CREDIT: u64 = 64 << 10;

/// Credit is told each time that this part of it was taken, or that part of the client's window.
const CREDIT_PART: u64 = 8;
const WINDOW_PART: u64 = 4;

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
            Err(TrySendError::Full(message)) => tokio::select! {
                biased;
                _ = replies.send(message) => true,
                () = self.end() => false,
            },
        }
    }
}

/// One client's conversation.
pub struct Session {
    intake: Arc<Intake>,
    origin: Origin,
    replies: Replies,
    /// In order, as everything that decides who wakes up first: simulations replay.
    uploads: BTreeMap<ImageId, Upload>,
    /// Images answered in mid-stream: the rest of their messages is swallowed.
    answered: HashSet<ImageId>,
    finishing: TaskTracker,
    finishing_places: Arc<Semaphore>,
    patience: Patience,
    /// The client did not read an answer in time.
    unread: bool,
    greeted: bool,
    /// Chunk bytes taken, and the total that the client was allowed so far.
    consumed: u64,
    granted: u64,
    /// Chunk bytes taken when that was told.
    told_at: u64,
    /// Most chunk bytes that the client may have under way.
    credit: u64,
    /// Window of the client, 0 when it did not say.
    window: u64,
    memory: Holder,
    _counted: SessionCount,
    /// Bytes in memory of all uploads together.
    buffered: u64,
}

impl Session {
    /// A session over `transport` whose answers go to `replies`, and for which `memory` holds what
    /// has come. With `greeting` it must begin with `Hello`.
    pub fn new(
        intake: Arc<Intake>,
        transport: Transport,
        credit: u64,
        replies: Replies,
        patience: Patience,
        memory: Holder,
        greeting: bool,
    ) -> Self {
        let granted = intake.budget().credit(credit, LEAST_CREDIT);
        Self {
            origin: Origin::new(transport, ""),
            _counted: intake.metrics().session(transport),
            intake,
            replies,
            uploads: BTreeMap::new(),
            answered: HashSet::new(),
            finishing: TaskTracker::new(),
            finishing_places: Arc::new(Semaphore::new(MAX_FINISHING)),
            patience,
            unread: false,
            greeted: !greeting,
            consumed: 0,
            granted,
            told_at: 0,
            credit,
            window: 0,
            memory,
            buffered: 0,
        }
    }

    /// Handles one message; `Break` with the reason when the session is over. What was leased for it
    /// is given back, but for what its uploads have in memory.
    pub async fn handle(&mut self, message: Result<ClientMessage, Reject>) -> ControlFlow<String> {
        self.memory.serve();
        let flow = self.dispatch(message).await;
        if !self.memory.keep(self.buffered) {
            self.flush().await;
            self.memory.clear();
        }
        flow
    }

    /// Hands what its uploads have in memory to the disk.
    pub async fn flush(&mut self) {
        let mut lost = Vec::new();
        for (id, upload) in &mut self.uploads {
            if upload.buffered() > 0
                && let Err(reject) = upload.write_out().await
            {
                lost.push((*id, reject));
            }
        }
        drop(self.memory.part(std::mem::take(&mut self.buffered)));
        for (id, reject) in lost {
            self.uploads.remove(&id);
            self.answer(id, Err(reject)).await;
        }
    }

    async fn dispatch(&mut self, message: Result<ClientMessage, Reject>) -> ControlFlow<String> {
        if self.unread {
            return ControlFlow::Break("answers are not read".to_owned());
        }
        let message = match message {
            Ok(message) => message,
            Err(reject) => {
                self.reject_message(reject).await;
                return ControlFlow::Continue(());
            }
        };
        if !self.greeted && !matches!(message, ClientMessage::Hello(_)) {
            let text = "the first message of a session must be hello";
            self.reject_message(Reject::new(None, RejectReason::Protocol, text))
                .await;
            return ControlFlow::Continue(());
        }
        match message {
            ClientMessage::Hello(hello) => return self.hello(hello).await,
            ClientMessage::Begin(begin) => self.begin(begin).await,
            ClientMessage::Chunk(chunk) => self.chunk(chunk).await,
            ClientMessage::End { image_id, digest } => self.end(image_id, digest).await,
            ClientMessage::Abort { image_id, reason } => {
                tracing::debug!(image = %image_id, reason, "aborted by the transmitter");
                self.answered.remove(&image_id);
                if let Some(upload) = self.take(image_id) {
                    self.intake.park(upload).await;
                }
            }
            ClientMessage::ClockPing { id, t1 } => {
                let t2 = UnixNanos::now();
                self.reply(ServerMessage::ClockPong {
                    id,
                    t1,
                    t2,
                    t3: UnixNanos::now(),
                })
                .await;
            }
            ClientMessage::Account(account) => {
                if let Err(reject) = self.intake.check_account(&account) {
                    self.reject_message(reject).await;
                } else if let Err(error) = self.intake.catalog().account(account).await {
                    tracing::error!("{error}");
                }
            }
            ClientMessage::Losses(report) => self.losses(report).await,
            ClientMessage::Goodbye { reason } => {
                tracing::debug!(transmitter = %self.origin.transmitter, reason, "goodbye");
                return ControlFlow::Break(reason);
            }
        }
        ControlFlow::Continue(())
    }

    /// The connection is gone or said goodbye: waits for the answers that are being made, and
    /// keeps what is unfinished for the next session.
    pub async fn close(mut self) {
        self.memory.serve();
        for (_, upload) in std::mem::take(&mut self.uploads) {
            self.intake.park(upload).await;
        }
        self.memory.clear();
        self.finishing.close();
        self.finishing.wait().await;
    }

    /// Identity of the transmitter, once it has said it.
    pub fn transmitter(&self) -> &str {
        &self.origin.transmitter
    }

    async fn reply(&mut self, message: ServerMessage) {
        if !self.unread && !self.patience.send(&self.replies, message).await {
            tracing::info!(transmitter = %self.origin.transmitter, "answers are not read");
            self.unread = true;
        }
    }

    async fn reject_message(&mut self, reject: Reject) {
        let meta = match reject.image_id {
            Some(id) => ImageMeta::new(id, 0),
            None => nameless(),
        };
        let reject = self.intake.turn_down(&meta, &self.origin, reject);
        self.reply(ServerMessage::Reject(reject)).await;
    }

    async fn hello(&mut self, hello: Hello) -> ControlFlow<String> {
        if hello.protocol_version != PROTOCOL_VERSION {
            let reason = format!(
                "protocol version {} is not spoken here; this receiver speaks {PROTOCOL_VERSION}",
                hello.protocol_version
            );
            let reject = Reject::new(None, RejectReason::Protocol, reason.clone());
            self.reject_message(reject).await;
            return ControlFlow::Break(reason);
        }
        let limits = self.intake.limits();
        if hello.transmitter.len() as u64 > limits.max_metadata.0 {
            let reason = "hello.transmitter is longer than RECEIVER_MAX_METADATA".to_owned();
            let reject = Reject::new(None, RejectReason::Limit, reason.clone());
            self.reject_message(reject).await;
            return ControlFlow::Break(reason);
        }
        let outbox = hello.standing.map(|standing| standing.outbox);
        self.origin = Origin::new(self.origin.transport, &hello.transmitter).with_outbox(outbox);
        // The welcome says that they are kept.
        let report = LossReport {
            id: 0,
            standing: hello.standing,
            losses: hello.losses,
            transmitter: self.origin.transmitter.to_string(),
        };
        if let Err(reject) = self.intake.keep_losses(report).await {
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

    async fn losses(&mut self, mut report: LossReport) {
        if let Some(standing) = &report.standing {
            self.origin.outbox = Some(standing.outbox);
        }
        self.origin
            .transmitter
            .as_ref()
            .clone_into(&mut report.transmitter);
        // Chunks go on while they are made durable.
        let place = Arc::clone(&self.finishing_places).acquire_owned().await;
        let (intake, origin) = (Arc::clone(&self.intake), self.origin.clone());
        let (replies, patience) = (self.replies.clone(), self.patience.clone());
        self.finishing.spawn(async move {
            let id = report.id;
            let reply = match intake.keep_losses(report).await {
                Ok(()) => ServerMessage::LossesKept { id },
                Err(reject) => {
                    ServerMessage::Reject(intake.turn_down(&nameless(), &origin, reject))
                }
            };
            patience.send(&replies, reply).await;
            drop(place);
        });
    }

    /// What is held of these images. It is taken from no connection that is still open: whoever
    /// goes on with an image says so by `Begin`.
    async fn held(&self, unfinished: &[ImageId]) -> Vec<(ImageId, u64)> {
        let mut held = Vec::new();
        for id in unfinished {
            if let Some(offset) = self.intake.held(*id).await {
                held.push((*id, offset));
            }
        }
        held
    }

    async fn begin(&mut self, begin: Begin) {
        let id = begin.meta.id;
        self.answered.remove(&id);
        // A second announcement replaces the first.
        drop(self.take(id));
        let limit = self.intake.limits().max_unfinished;
        if self.uploads.len() >= limit {
            let message = format!(
                "more than {limit} unfinished images in one session; \
                 finish some or raise RECEIVER_MAX_UNFINISHED"
            );
            let mut reject = Reject::new(id, RejectReason::Limit, message);
            reject.retryable = true;
            let reject = self.intake.turn_down(&begin.meta, &self.origin, reject);
            return self.answer(id, Err(reject)).await;
        }
        match self.intake.begin(begin, &self.origin).await {
            Ok(Begun::Upload(upload)) => {
                self.buffered += upload.buffered();
                self.uploads.insert(id, *upload);
            }
            Ok(Begun::Present(receipt)) => self.answer(id, Ok(receipt)).await,
            Err(reject) => self.answer(id, Err(reject)).await,
        }
    }

    /// Answers an image of which more messages may be under way.
    async fn answer(&mut self, id: ImageId, answer: Result<shared::receipt::Receipt, Reject>) {
        if self.answered.len() < MAX_ANSWERED {
            self.answered.insert(id);
        }
        self.reply(reply_of(answer)).await;
    }

    async fn chunk(&mut self, chunk: Chunk) {
        let Chunk {
            image_id,
            offset,
            crc32c,
            data,
        } = chunk;
        self.consumed += data.len() as u64;
        match self.uploads.get_mut(&image_id) {
            Some(upload) => {
                self.buffered -= upload.buffered();
                let pushed = upload.push(offset, crc32c, data).await;
                self.buffered += upload.buffered();
                if let Err(reject) = pushed {
                    drop(self.take(image_id));
                    self.answer(image_id, Err(reject)).await;
                }
            }
            None if self.answered.contains(&image_id) => {}
            None => {
                let text = format!("chunk of image {image_id}, which was not begun here");
                let reject = Reject::new(image_id, RejectReason::UnknownImage, text);
                self.reject_message(reject).await;
                if self.answered.len() < MAX_ANSWERED {
                    self.answered.insert(image_id);
                }
            }
        }
        self.grant().await;
    }

    /// Tells new credit, as often as the client needs it to keep its window full.
    async fn grant(&mut self) {
        let credit = self.intake.budget().credit(self.credit, LEAST_CREDIT);
        let step = match self.window {
            0 => credit / CREDIT_PART,
            window => (credit / CREDIT_PART).min(window / WINDOW_PART),
        };
        let allowed = self.consumed + credit;
        if self.consumed - self.told_at < step.max(1) || allowed <= self.granted {
            return;
        }
        self.granted = allowed;
        self.told_at = self.consumed;
        self.reply(ServerMessage::Credit {
            total: self.granted,
        })
        .await;
    }

    /// Takes an upload out.
    fn take(&mut self, id: ImageId) -> Option<Upload> {
        let upload = self.uploads.remove(&id)?;
        self.buffered -= upload.buffered();
        Some(upload)
    }

    async fn end(&mut self, image_id: ImageId, digest: Option<Digest>) {
        if self.answered.remove(&image_id) {
            return;
        }
        let Some(mut upload) = self.take(image_id) else {
            let text = format!("end of image {image_id}, which was not begun here");
            let reject = Reject::new(image_id, RejectReason::UnknownImage, text);
            return self.reject_message(reject).await;
        };
        if self.intake.durability() == Durability::Memory {
            let answer = upload.finish(digest).await;
            return self.reply(reply_of(answer)).await;
        }
        upload.hold(self.memory.part(upload.buffered()));
        // Making an image durable takes milliseconds; the next one's chunks go on meanwhile. The
        // semaphore is never closed.
        let place = Arc::clone(&self.finishing_places).acquire_owned().await;
        let (replies, patience) = (self.replies.clone(), self.patience.clone());
        self.finishing.spawn(async move {
            let answer = upload.finish(digest).await;
            patience.send(&replies, reply_of(answer)).await;
            drop(place);
        });
    }
}

/// What is known of the image of a message that cannot be tied to one.
fn nameless() -> ImageMeta {
    ImageMeta::new(ImageId::default(), 0)
}

fn reply_of(answer: Result<shared::receipt::Receipt, Reject>) -> ServerMessage {
    match answer {
        Ok(receipt) => ServerMessage::Receipt(receipt),
        Err(reject) => ServerMessage::Reject(reject),
    }
}

/// A message above the limit, and the settings that help.
pub(crate) fn too_large(len: u64, limit: usize) -> Reject {
    let limit = shared::settings::units::ByteSize(limit as u64);
    Reject::new(
        None,
        RejectReason::Limit,
        format!(
            "message of {len} bytes exceeds the receiver's limit of {limit}; \
             raise RECEIVER_MAX_MESSAGE_SIZE or lower TRANSMITTER_CHUNK_SIZE"
        ),
    )
}

#[cfg(test)]
mod tests;
