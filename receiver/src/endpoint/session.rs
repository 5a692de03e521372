//! The session protocol, whatever carries it: what the receiver does with each message.

mod greeting;
mod pacing;
mod patience;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use shared::chunk::Segments;
use shared::clock::UnixNanos;
use shared::digest::Digest;
use shared::image::{ImageId, ImageMeta};
use shared::receipt::{Durability, Reject, RejectReason};
use shared::security::access::Caller;
use shared::security::rate::Pace;
use shared::wire::{Begin, Chunk, ClientMessage, ServerMessage, decode_client, unpacked};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::budget::{Holder, REVOKED};
use crate::intake::{Begun, Intake, Origin, Upload, said};
use crate::metrics::SessionCount;

use pacing::Held;
pub use patience::{Patience, Replies};

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
    /// Its one place is taken while losses are being kept.
    reporting: Arc<Semaphore>,
    patience: Patience,
    pace: Pace,
    /// The client did not read an answer in time, or while others waited for its memory.
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
    /// The part of it that is leased.
    kept: u64,
    /// What is said of them, which is leased when they are begun.
    said: u64,
    /// What the lists of the present message take.
    unpacked: u64,
}

impl Session {
    /// A session with `origin` whose answers go to `replies`, and for which `memory` holds what has
    /// come. With `greeting` it must begin with `Hello`.
    pub fn new(
        intake: Arc<Intake>,
        origin: Origin,
        credit: u64,
        replies: Replies,
        patience: Patience,
        memory: Holder,
        greeting: bool,
    ) -> Self {
        let granted = intake.budget().credit(credit, LEAST_CREDIT);
        Self {
            _counted: intake.metrics().session(origin.transport),
            origin,
            intake,
            replies,
            uploads: BTreeMap::new(),
            answered: HashSet::new(),
            finishing: TaskTracker::new(),
            finishing_places: Arc::new(Semaphore::new(MAX_FINISHING)),
            reporting: Arc::new(Semaphore::new(1)),
            patience,
            pace: Pace::default(),
            unread: false,
            greeted: !greeting,
            consumed: 0,
            granted,
            told_at: 0,
            credit,
            window: 0,
            memory,
            buffered: 0,
            kept: 0,
            said: 0,
            unpacked: 0,
        }
    }

    /// The same, in which no more images begin than `pace` allows.
    #[must_use]
    pub fn paced(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// Handles one message as it came; `Break` with the reason when the session is over. What was
    /// leased for it is given back, but for what its uploads have in memory.
    pub async fn receive(&mut self, message: Segments) -> ControlFlow<String> {
        self.unpacked = unpacked(&message);
        if !self.lease(self.unpacked).await {
            return ControlFlow::Break(REVOKED.to_owned());
        }
        self.handle(decode_client(message)).await
    }

    /// The same for one that was taken apart or refused before.
    pub async fn handle(&mut self, message: Result<ClientMessage, Reject>) -> ControlFlow<String> {
        self.memory.serve();
        let flow = self.dispatch(message).await;
        self.unpacked = 0;
        if !self.memory.keep(self.said + self.buffered) {
            self.flush().await;
            // It was leased before, so there is no other answer.
            let _ = self.memory.keep(self.said);
        }
        self.kept = self.buffered;
        match flow {
            ControlFlow::Continue(()) if self.unread => {
                ControlFlow::Break("answers are not read".to_owned())
            }
            flow => flow,
        }
    }

    /// Leases memory for what cannot go to disk; `false` when the session has to end instead.
    async fn lease(&mut self, bytes: u64) -> bool {
        if bytes == 0 || self.memory.try_lease(bytes) {
            return true;
        }
        // Nobody waits for memory while holding some that others could have.
        self.flush().await;
        self.memory.lease(bytes).await.is_ok()
    }

    /// Whether the session ends because others need its memory.
    pub fn is_revoked(&self) -> bool {
        self.memory.is_revoked()
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
        self.buffered = 0;
        drop(self.memory.part(std::mem::take(&mut self.kept)));
        for (id, reject) in lost {
            drop(self.take(id));
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
            ClientMessage::Begin(begin) => match self.hold_back().await {
                Held::Passed => self.begin(begin).await,
                Held::TooLong(time) => self.begins_too_often(&begin.meta, time).await,
                Held::Over => {}
            },
            ClientMessage::Chunk(chunk) => self.chunk(chunk).await,
            ClientMessage::End { image_id, digest } => self.end(image_id, digest).await,
            ClientMessage::Abort { image_id, reason } => {
                tracing::debug!(image = %image_id, reason, "aborted by the transmitter");
                self.answered.remove(&image_id);
                if let Some(upload) = self.take(image_id) {
                    self.intake.park(upload).await;
                    self.memory.progressed();
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
                // Not counted: a station tells it every second, whatever it may ask.
                if let Err(reject) = self.intake.check_account(&account, &self.origin.caller) {
                    self.reject_message(reject).await;
                } else if let Err(error) = self.intake.catalog().account(account).await {
                    tracing::error!("{error}");
                }
            }
            ClientMessage::Losses(report) => {
                self.hold_back().await;
                self.losses(report).await;
            }
            ClientMessage::Goodbye { reason } => {
                tracing::debug!(transmitter = %self.origin.transmitter, reason, "goodbye");
                return ControlFlow::Break(reason);
            }
        }
        ControlFlow::Continue(())
    }

    /// Keeps what is unfinished for the next session, and nothing in memory.
    pub async fn release(&mut self) {
        self.memory.serve();
        for (_, upload) in std::mem::take(&mut self.uploads) {
            // Of one with no bytes there is nothing to go on with.
            if upload.received() > 0 {
                self.intake.park(upload).await;
            }
        }
        (self.buffered, self.kept, self.said) = (0, 0, 0);
        self.memory.clear();
    }

    /// The connection is gone or said goodbye: waits for the answers that are being made, and
    /// keeps what is unfinished for the next session.
    pub async fn close(mut self) {
        self.release().await;
        self.finishing.close();
        self.finishing.wait().await;
    }

    /// Who the client has proved to be.
    pub fn caller(&self) -> &Caller {
        &self.origin.caller
    }

    /// Identity of the transmitter, once it has said it.
    pub fn transmitter(&self) -> &str {
        &self.origin.transmitter
    }

    async fn reply(&mut self, message: ServerMessage) {
        let sending = self
            .patience
            .send_holding(&self.memory, &self.replies, message);
        if !self.unread && !sending.await {
            tracing::info!(transmitter = %self.origin.transmitter, "answers are not read");
            self.unread = true;
        }
    }

    /// A place among what is done beside the messages; `None` if it does not come because the client
    /// reads no answers while others need its memory.
    async fn place(&mut self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(places).acquire_owned();
        let is_read = self.replies.capacity() > 0;
        let place = if is_read && !Arc::ptr_eq(places, &self.reporting) {
            // One comes as soon as anything is done, because there is room for its answer.
            Ok(place.await)
        } else {
            self.memory.for_client(place).await
        };
        self.unread |= place.is_err();
        // The semaphores are never closed.
        place.ok()?.ok()
    }

    async fn reject_message(&mut self, reject: Reject) {
        let meta = match reject.image_id {
            Some(id) => ImageMeta::new(id, 0),
            None => nameless(),
        };
        let reject = self.intake.turn_down(&meta, &self.origin, reject);
        self.intake.room_to_count().await;
        self.reply(ServerMessage::Reject(reject)).await;
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
            self.intake.room_to_count().await;
            return self.answer(id, Err(reject)).await;
        }
        // What is said of an image stays in memory until its end.
        let said = said(&begin.meta);
        if !self.memory.try_lease(said) {
            self.flush().await;
            if !self.uploads.is_empty() && !self.memory.try_lease(said) {
                // The others cannot go on while this one waits, and it may be them that it waits for.
                let message = "the receiver's memory is short; send the image again when others \
                               are finished, or raise RECEIVER_MAX_MEMORY";
                let reject = Reject::new(id, RejectReason::Unavailable, message);
                let reject = self.intake.turn_down(&begin.meta, &self.origin, reject);
                self.intake.room_to_count().await;
                return self.answer(id, Err(reject)).await;
            }
            if self.uploads.is_empty() && !self.lease(said).await {
                self.unread = true;
                return;
            }
        }
        let begun = self.intake.begin(begin, &self.origin).await;
        self.memory.progressed();
        match begun {
            Ok(Begun::Upload(upload)) => {
                self.buffered += upload.buffered();
                self.said += upload.said();
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
                self.memory.progressed();
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
        self.kept = self.kept.saturating_sub(upload.buffered());
        self.said -= upload.said();
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
        self.memory.progressed();
        if self.intake.durability() == Durability::Memory {
            let answer = upload.finish(digest).await;
            return self.reply(reply_of(answer)).await;
        }
        // Making an image durable takes milliseconds; the next one's chunks go on meanwhile.
        let Some(place) = self.place(&Arc::clone(&self.finishing_places)).await else {
            return self.intake.park(upload).await;
        };
        upload.hold(self.memory.part(upload.buffered() + upload.said()));
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
