//! Sends images over a session.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use shared::chunk::crc32c;
use shared::image::ImageId;
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::wire::{Begin, Chunk, ClientMessage, encode_client};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{PROBE, Session};
use crate::link::{Attempt, DeliveryError, unreadable};
use crate::outbox::Owed;
use crate::payload::Reader;

type Answer = Result<Receipt, Reject>;
type Answered = oneshot::Receiver<Answer>;

/// Times that an image is begun again at once because the receiver holds something else of it than
/// it said; a newer connection may have it, too.
const MOST_RESTARTS: u32 = 3;

/// A receiver that answers pings and, for so many times the idle timeout, does nothing about any
/// image, is not going to. One that is slow to store what it got answers some of them meanwhile.
const QUIET: u32 = 10;

/// The same for one image while others are answered.
const OVERDUE: u32 = 120;

impl Session {
    /// Sends the image from where the receiver wants it, and waits for the verdict.
    pub(super) async fn deliver(
        &self,
        image: &Owed,
        attempt: Attempt<'_>,
    ) -> Result<Receipt, DeliveryError> {
        let id = image.meta.id;
        let reader = image.payload.open().await.map_err(unreadable)?;
        let mut offset = self.resume_at(image, attempt).await;
        let mut restarts = 0;
        loop {
            let answer = self.send_and_wait(image, attempt, &reader, offset).await?;
            match answer {
                Err(reject)
                    if reject.reason == RejectReason::Offset
                        && offset > 0
                        && restarts < MOST_RESTARTS =>
                {
                    tracing::debug!(image = %id, offset, "begun again: {reject}");
                    restarts += 1;
                    let held = reject.held.filter(|held| *held <= image.payload.size());
                    // The same offset again would meet the same answer.
                    offset = held.filter(|held| *held != offset).unwrap_or(0);
                }
                Err(reject) => {
                    if !reject.retryable {
                        self.end(id);
                    } else if let RejectReason::Rate | RejectReason::Quota = reject.reason {
                        // What it holds it keeps, and it is gone on with later.
                        self.left_at(id, offset);
                    } else if reject.reason != RejectReason::Superseded {
                        // The receiver does not keep what it turned down.
                        self.left_at(id, 0);
                    }
                    return Err(reject.into());
                }
                Ok(receipt) => {
                    self.end(id);
                    return Ok(receipt);
                }
            }
        }
    }

    /// The image has its answer.
    fn end(&self, id: ImageId) {
        self.identity.unfinished.end(id);
        self.forget(id);
    }

    async fn send_and_wait(
        &self,
        image: &Owed,
        attempt: Attempt<'_>,
        reader: &Reader,
        offset: u64,
    ) -> Result<Answer, DeliveryError> {
        let id = image.meta.id;
        let (sender, mut answered) = oneshot::channel();
        self.pending.lock().insert(id, sender);
        let _pending = Pending(self, id);
        if self.lost.is_cancelled() {
            return Err(DeliveryError::Lost(self.reason()));
        }
        let sent = self.send_image(image, attempt, reader, offset, &mut answered);
        match sent.await? {
            Some(answer) => Ok(answer),
            None => self.verdict(answered).await,
        }
    }

    /// Waits for the verdict on an image that was sent whole.
    async fn verdict(&self, mut answered: Answered) -> Result<Answer, DeliveryError> {
        let sent = Instant::now();
        let overdue = sent + self.idle_timeout.saturating_mul(OVERDUE);
        loop {
            let quiet = sent.max(*self.progress.lock()) + self.idle_timeout.saturating_mul(QUIET);
            let due = quiet.min(overdue);
            if due <= Instant::now() {
                let waited = sent.elapsed();
                return Err(DeliveryError::Lost(format!(
                    "the receiver is there and gave no answer within {waited:?}"
                )));
            }
            tokio::select! {
                biased;
                answer = &mut answered => {
                    return answer.map_err(|_| DeliveryError::Lost(self.reason()));
                }
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    /// The answer, if it came before everything was sent.
    async fn send_image(
        &self,
        image: &Owed,
        attempt: Attempt<'_>,
        reader: &Reader,
        offset: u64,
        answered: &mut Answered,
    ) -> Result<Option<Answer>, DeliveryError> {
        let lost = |_| DeliveryError::Lost(self.reason());
        let (id, size) = (image.meta.id, image.payload.size());
        // Before anything is said, so that a file that is slow to read holds up nobody.
        let mut ready = match offset < size {
            true => Some(self.read(reader, offset, size).await.map_err(unreadable)?),
            false => None,
        };
        let mut line = Some(self.in_line(attempt).await);
        if self.lost.is_cancelled() {
            return Err(DeliveryError::Lost(self.reason()));
        }
        // Just before it goes, as the wait may have been long.
        let meta = attempt.meta(image, self.identity.clock.estimate());
        // Before the receiver can know of it: what it said of the image is no longer so.
        self.identity.unfinished.begin(id);
        self.send(ClientMessage::Begin(Begin { meta, offset }))
            .await
            .map_err(lost)?;
        let mut begun = Begun {
            session: self,
            id,
            next: offset,
            open: true,
        };
        let alone = self.pending.lock().len() == 1;
        if alone {
            // Lets the announcement go out by itself: the receiver wakes up while the first chunk
            // is being made.
            tokio::task::yield_now().await;
        }
        while begun.next < size {
            let data = match ready.take() {
                Some(data) => data,
                None => match self.read(reader, begun.next, size).await {
                    Ok(data) => data,
                    Err(error) => {
                        begun.abort("the image can no longer be read").await;
                        return Err(unreadable(error));
                    }
                },
            };
            let len = data.len() as u64;
            let crc32c = Some(crc32c(&data));
            let reserved = self.reserve(len).await?;
            tokio::select! {
               biased;
                () = self.lost.cancelled() => return Err(DeliveryError::Lost(self.reason())),
                () = self.identity.limiter.take(len) => {}
            }
            if let Ok(answer) = answered.try_recv() {
                // Known already, or refused: the rest need not travel.
                drop(reserved);
                begun.abort("answered").await;
                self.forget(id);
                return Ok(Some(answer));
            }
            let chunk = Chunk {
                image_id: id,
                offset: begun.next,
                crc32c,
                data: data.into(),
            };
            self.send_chunk(reserved, chunk).await?;
            begun.next += len;
            line = None;
        }
        drop(line);
        self.send(ClientMessage::End {
            image_id: id,
            digest: None,
        })
        .await
        .map_err(lost)?;
        begun.open = false;
        Ok(None)
    }

    /// The chunk at `offset` of an image with `size` bytes.
    async fn read(&self, reader: &Reader, offset: u64, size: u64) -> io::Result<Bytes> {
        let len = (size - offset).min(u64::from(self.chunk_size));
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        reader.read(offset, len).await
    }

    /// Waits until the image may begin: when its turn has come and what was before it on this
    /// connection is on its way, with its first chunk. On other connections the next may begin
    /// meanwhile: this one may have stalled.
    async fn in_line(&self, attempt: Attempt<'_>) -> tokio::sync::MutexGuard<'_, ()> {
        attempt.come().await;
        let mut line = pin!(self.beginning.lock());
        let at_once = poll_fn(|context| Poll::Ready(line.as_mut().poll(context))).await;
        attempt.pass();
        match at_once {
            Poll::Ready(line) => line,
            Poll::Pending => line.await,
        }
    }

    /// Waits until `len` more chunk bytes may be on their way.
    async fn reserve(&self, len: u64) -> Result<Reserved<'_>, DeliveryError> {
        loop {
            let moved = self.flow_moved.notified();
            let probe = {
                let mut flow = self.flow.lock();
                if flow.reserve(len) {
                    return Ok(Reserved { session: self, len });
                }
                // Without one nobody might ever tell that what is on its way was taken.
                flow.wants_probe(true)
            };
            let waiting = async {
                if probe {
                    self.probe(true).await?;
                }
                moved.await;
                Ok::<(), DeliveryError>(())
            };
            tokio::select! {
                biased;
                waited = waiting => waited?,
                () = self.lost.cancelled() => return Err(DeliveryError::Lost(self.reason())),
            }
        }
    }

    /// Hands a chunk to the transport.
    async fn send_chunk(&self, reserved: Reserved<'_>, chunk: Chunk) -> Result<(), DeliveryError> {
        let (id, offset) = (chunk.image_id, chunk.offset);
        let message = encode_client(ClientMessage::Chunk(chunk));
        let place = self.place().await?;
        let len = reserved.into_len();
        let probe = {
            // Under the lock, so that a probe stands behind the chunks that it speaks for.
            let mut flow = self.flow.lock();
            flow.queue(len, Instant::now().into_std());
            place.send(message);
            flow.wants_probe(false)
        };
        self.flow_moved.notify_waiters();
        let again = self.identity.unfinished.sent(id, offset, len);
        self.identity.wire.add_image_bytes(len, again);
        if probe {
            self.probe(false).await?;
        }
        Ok(())
    }

    /// Asks to be told when what was sent so far is taken, unless that was asked meanwhile.
    async fn probe(&self, blocked: bool) -> Result<(), DeliveryError> {
        let place = self.place().await?;
        let mut flow = self.flow.lock();
        if let Some(id) = flow.probe(blocked) {
            let t1 = shared::clock::UnixNanos::now();
            place.send(encode_client(ClientMessage::ClockPing {
                id: id | PROBE,
                t1,
            }));
        }
        Ok(())
    }

    /// A place in the transport's queue.
    async fn place(
        &self,
    ) -> Result<tokio::sync::mpsc::Permit<'_, shared::wire::Encoded>, DeliveryError> {
        let lost = || DeliveryError::Lost(self.reason());
        tokio::select! {
           biased;
            // A transport that is stuck takes nothing more, and may stay stuck for ever.
            () = self.lost.cancelled() => Err(lost()),
            place = self.outgoing.reserve() => place.map_err(|_| lost()),
        }
    }
}

/// Forgets an attempt that was given up.
struct Pending<'a>(&'a Session, ImageId);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.lock().remove(&self.1);
    }
}

/// Bytes that may be on their way; returned when they are not sent, because a receiver that never
/// sees them could not give new credit for them.
struct Reserved<'a> {
    session: &'a Session,
    len: u64,
}

impl Reserved<'_> {
    /// They are sent.
    fn into_len(mut self) -> u64 {
        std::mem::take(&mut self.len)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if self.len > 0 {
            self.session.flow.lock().give_back(self.len);
            self.session.flow_moved.notify_waiters();
        }
    }
}

/// An image that was begun and has no end. Dropped, it is aborted if there is room for saying so;
/// without that the receiver keeps waiting for it, and forgets what it has when it is begun anew.
struct Begun<'a> {
    session: &'a Session,
    id: ImageId,
    /// The first byte that was not handed to the transport.
    next: u64,
    open: bool,
}

impl Begun<'_> {
    fn message(&self, reason: &str) -> ClientMessage {
        ClientMessage::Abort {
            image_id: self.id,
            reason: reason.to_owned(),
        }
    }

    async fn abort(mut self, reason: &str) {
        // When the connection is gone there is nothing to abort.
        if self.session.send(self.message(reason)).await.is_ok() {
            self.open = false;
            self.session.left_at(self.id, self.next);
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.open || self.session.lost.is_cancelled() {
            return;
        }
        let abort = encode_client(self.message("given up"));
        if self.session.outgoing.try_send(abort).is_ok() {
            self.session.left_at(self.id, self.next);
        }
    }
}
