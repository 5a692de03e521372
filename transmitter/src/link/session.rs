//! The session protocol as the transmitter speaks it, over any pipe of messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::chunk::{crc32c, slices};
use shared::clock::{ClockEstimate, ClockSample, UnixNanos};
use shared::image::ImageId;
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::report::RunAccount;
use shared::wire::{
    Begin, Chunk, ClientMessage, Encoded, Hello, PROTOCOL_VERSION, ServerMessage, Welcome,
    encode_client,
};
use shared::wire::{Loss, Standing};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    AGENT, Attempt, Connection, DeliveryError, Identity, LinkError, SharedClock, unreadable,
};
use crate::config::LinkOptions;
use crate::outbox::Owed;

mod pipe;

pub use pipe::Pipe;

/// A message on its way to the transport.
pub(super) type Outgoing = mpsc::Sender<Encoded>;

/// Images on their way at once over one session, whatever the window.
const PARALLEL: usize = 32;

/// Clock measurements before the first image, and the time for all of them.
const FIRST_PINGS: u32 = 7;
const FIRST_LOOK: Duration = Duration::from_millis(20);

/// Time between the measurements that follow.
const EARLY_PING_INTERVAL: Duration = Duration::from_millis(100);

/// Messages that may wait for the transport: enough to keep it busy, few enough that memory stays
/// below the window.
pub(super) fn queue_length(options: &LinkOptions) -> usize {
    let chunks = options.window.0 / options.chunk_size.0.max(1);
    usize::try_from(chunks).unwrap_or(1).clamp(1, 4)
}

/// State shared by those who send images and the task that takes the receiver's messages.
pub(super) struct Session {
    outgoing: Outgoing,
    address: String,
    chunk_size: u32,
    /// In order, as everything that decides who wakes up first: simulations replay.
    pending: Mutex<BTreeMap<ImageId, oneshot::Sender<Result<Receipt, Reject>>>>,
    sent: AtomicU64,
    allowed: AtomicU64,
    more_credit: Notify,
    clock: SharedClock,
    clock_interval: Duration,
    welcome: Mutex<Option<oneshot::Sender<Welcome>>>,
    first_pong: Notify,
    pub(super) lost: CancellationToken,
    why_lost: Mutex<String>,
    /// The receiver has answered everything and closed its side.
    ended: CancellationToken,
    /// This side has said goodbye: nothing more is sent.
    pub(super) goodbye: CancellationToken,
}

impl Session {
    pub(super) fn new(
        outgoing: Outgoing,
        address: String,
        options: &LinkOptions,
        identity: &Identity,
    ) -> Arc<Self> {
        Arc::new(Self {
            outgoing,
            address,
            chunk_size: u32::try_from(options.chunk_size.0).unwrap_or(u32::MAX),
            pending: Mutex::default(),
            sent: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
            more_credit: Notify::new(),
            clock: identity.clock.clone(),
            clock_interval: options.clock_interval,
            welcome: Mutex::default(),
            first_pong: Notify::new(),
            lost: CancellationToken::new(),
            why_lost: Mutex::default(),
            ended: CancellationToken::new(),
            goodbye: CancellationToken::new(),
        })
    }

    /// Says hello and waits to be welcomed, with a first look at the receiver's clock.
    pub(super) async fn greet(
        self: &Arc<Self>,
        identity: &Identity,
        timeout: Duration,
    ) -> Result<(), LinkError> {
        let (sender, welcomed) = oneshot::channel();
        *self.welcome.lock() = Some(sender);
        let first_pong = self.first_pong.notified();
        // Without a welcome the transport's tasks, which hold this session, must not live on.
        let abandoned = self.lost.clone().drop_guard();
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            transmitter: identity.transmitter.clone(),
            agent: AGENT.to_owned(),
            ..Hello::default()
        };
        self.send(ClientMessage::Hello(hello)).await?;
        self.ping(0).await?;
        let protocol = |problem: String| LinkError::Protocol {
            address: self.address.clone(),
            problem,
        };
        let welcome = tokio::select! {
            biased;
            welcome = tokio::time::timeout(timeout, welcomed) => match welcome {
                Ok(Ok(welcome)) => welcome,
                Ok(Err(_)) => return Err(LinkError::Lost(self.reason())),
                Err(_) => return Err(protocol(format!("no welcome within {timeout:?}"))),
            },
            () = self.lost.cancelled() => return Err(protocol(self.reason())),
        };
        let largest = u64::from(self.chunk_size);
        if welcome.limits.max_message_bytes > 0 && largest > welcome.limits.max_message_bytes {
            return Err(protocol(format!(
                "chunks of {largest} bytes exceed its limit of {} bytes; lower \
                 TRANSMITTER_CHUNK_SIZE or raise RECEIVER_MAX_MESSAGE_SIZE",
                welcome.limits.max_message_bytes
            )));
        }
        self.allowed.fetch_max(welcome.credit, Ordering::AcqRel);
        tracing::debug!(receiver = welcome.receiver, durability = %welcome.durability, "welcomed");
        // Answered right behind the welcome; a receiver that never does has no clock for us.
        let _ = tokio::time::timeout(timeout, first_pong).await;
        // The first round trip is a slow one (everything is cold). Where round trips are short, a
        // few more before the first image make the offset sharp.
        let begin = Instant::now();
        for id in 1..=FIRST_PINGS {
            let pong = self.first_pong.notified();
            self.ping(u64::from(id)).await?;
            let left = FIRST_LOOK.saturating_sub(begin.elapsed());
            if tokio::time::timeout(left, pong).await.is_err() {
                break;
            }
        }
        abandoned.disarm();
        let session = Arc::clone(self);
        tokio::spawn(async move { session.watch_clock().await });
        Ok(())
    }

    async fn watch_clock(&self) {
        for id in 1.. {
            // Close together at first, while the estimate is young.
            let early = id <= FIRST_PINGS;
            let pause = if early {
                EARLY_PING_INTERVAL
            } else {
                self.clock_interval
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.lost.cancelled() => return,
                () = self.goodbye.cancelled() => return,
            }
            if self.ping(u64::from(id)).await.is_err() {
                return;
            }
        }
    }

    async fn ping(&self, id: u64) -> Result<(), LinkError> {
        // A place in the queue first: the time is taken when nothing is in front of the ping but
        // what the transport itself holds.
        let place = tokio::select! {
            biased;
            () = self.lost.cancelled() => return Err(LinkError::Lost(self.reason())),
            place = self.outgoing.reserve() => place,
        };
        let Ok(place) = place else {
            return Err(LinkError::Lost(self.reason()));
        };
        place.send(encode_client(ClientMessage::ClockPing {
            id,
            t1: UnixNanos::now(),
        }));
        Ok(())
    }

    async fn send(&self, message: ClientMessage) -> Result<(), LinkError> {
        let sent = tokio::select! {
            biased;
            // A transport that is stuck takes nothing more, and may stay stuck for ever.
            () = self.lost.cancelled() => return Err(LinkError::Lost(self.reason())),
            sent = self.outgoing.send(encode_client(message)) => sent,
        };
        sent.map_err(|_| LinkError::Lost(self.reason()))
    }

    fn reason(&self) -> String {
        let why = self.why_lost.lock();
        if why.is_empty() {
            "the transport stopped".to_owned()
        } else {
            why.clone()
        }
    }

    /// A message of the receiver.
    pub(super) fn take(&self, message: ServerMessage) {
        match message {
            ServerMessage::Welcome(welcome) => {
                if let Some(waiting) = self.welcome.lock().take() {
                    // Fails only when the greeting has timed out.
                    let _ = waiting.send(welcome);
                }
            }
            ServerMessage::Credit { total } => {
                self.allowed.fetch_max(total, Ordering::AcqRel);
                self.more_credit.notify_waiters();
            }
            ServerMessage::Receipt(receipt) => self.answer(receipt.image_id, Ok(receipt)),
            ServerMessage::Reject(reject) => match reject.image_id {
                Some(id) => self.answer(id, Err(reject)),
                None if reject.reason == RejectReason::Protocol => {
                    self.lose(format!("refused by the receiver: {reject}"));
                }
                None => tracing::warn!(reason = %reject.reason, "the receiver says: {reject}"),
            },
            ServerMessage::ClockPong { t1, t2, t3, .. } => {
                self.clock.add(ClockSample {
                    t1,
                    t2,
                    t3,
                    t4: UnixNanos::now(),
                });
                self.first_pong.notify_waiters();
            }
            // Nothing is told yet.
            ServerMessage::LossesKept { .. } => {}
            ServerMessage::Goodbye { reason } => {
                self.lose(format!("the receiver said goodbye: {reason}"));
            }
        }
    }

    fn answer(&self, id: ImageId, answer: Result<Receipt, Reject>) {
        // An answer that nobody waits for belongs to an attempt that was given up.
        if let Some(waiting) = self.pending.lock().remove(&id) {
            let _ = waiting.send(answer);
        }
    }

    /// The connection is of no more use.
    pub(super) fn lose(&self, reason: String) {
        {
            let mut why = self.why_lost.lock();
            if why.is_empty() {
                *why = reason;
            }
        }
        self.lost.cancel();
        self.ended.cancel();
        self.pending.lock().clear();
    }

    /// Waits until `len` more chunk bytes may be sent, and counts them as sent.
    async fn take_credit(&self, len: u64) -> Result<(), DeliveryError> {
        loop {
            let more = self.more_credit.notified();
            let sent = self.sent.load(Ordering::Acquire);
            // A chunk larger than all credit goes when nothing else is on its way.
            if sent < self.allowed.load(Ordering::Acquire) {
                if self
                    .sent
                    .compare_exchange(sent, sent + len, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
                {
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                biased;
                () = more => {}
                () = self.lost.cancelled() => return Err(DeliveryError::Lost(self.reason())),
            }
        }
    }

    /// Chunk bytes that were counted will not be sent: the receiver, which never sees them, could
    /// not give new credit for them.
    fn return_credit(&self, len: u64) {
        self.sent.fetch_sub(len, Ordering::AcqRel);
        self.more_credit.notify_waiters();
    }

    async fn send_image(
        &self,
        image: &Owed,
        attempt: Attempt,
        answered: &mut oneshot::Receiver<Result<Receipt, Reject>>,
    ) -> Result<Option<Result<Receipt, Reject>>, DeliveryError> {
        let lost = |_| DeliveryError::Lost(self.reason());
        let reader = image.payload.open().await.map_err(unreadable)?;
        let mut meta = image.meta.clone();
        let id = meta.id;
        meta.attempt = attempt.number;
        meta.clock = self.clock.estimate();
        meta.send_started = Some(attempt.started);
        self.send(ClientMessage::Begin(Begin { meta, offset: 0 }))
            .await
            .map_err(lost)?;
        let alone = self.pending.lock().len() == 1;
        if alone {
            // Lets the announcement go out by itself: the receiver wakes up while the first chunk
            // is being made.
            tokio::task::yield_now().await;
        }
        for (offset, len) in slices(image.payload.size(), 0, self.chunk_size) {
            let data = match reader.read(offset, len).await {
                Ok(data) => data,
                Err(error) => {
                    self.abort(id, "the image can no longer be read").await;
                    return Err(unreadable(error));
                }
            };
            let crc32c = Some(crc32c(&data));
            self.take_credit(u64::from(len)).await?;
            if let Ok(answer) = answered.try_recv() {
                // Known already, or refused: the rest need not travel.
                self.return_credit(u64::from(len));
                self.abort(id, "answered").await;
                return Ok(Some(answer));
            }
            let chunk = Chunk {
                image_id: id,
                offset,
                crc32c,
                data: data.into(),
            };
            self.send(ClientMessage::Chunk(chunk)).await.map_err(lost)?;
        }
        self.send(ClientMessage::End {
            image_id: id,
            digest: None,
        })
        .await
        .map_err(lost)?;
        Ok(None)
    }

    async fn abort(&self, image_id: ImageId, reason: &str) {
        let reason = reason.to_owned();
        // When the connection is gone there is nothing to abort.
        let _ = self.send(ClientMessage::Abort { image_id, reason }).await;
    }
}

/// Forgets an attempt that was given up.
struct Pending<'a>(&'a Session, ImageId);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.lock().remove(&self.1);
    }
}

/// A session as a connection.
pub(super) struct SessionConnection(pub(super) Arc<Session>);

/// Time for the receiver to take in what was sent before goodbye.
const CLOSING: Duration = Duration::from_secs(10);

#[async_trait]
impl Connection for SessionConnection {
    async fn deliver(&self, image: &Owed, attempt: Attempt) -> Result<Receipt, DeliveryError> {
        let session = &self.0;
        let id = image.meta.id;
        let (sender, mut answered) = oneshot::channel();
        session.pending.lock().insert(id, sender);
        let _pending = Pending(session, id);
        if session.lost.is_cancelled() {
            return Err(DeliveryError::Lost(session.reason()));
        }
        let answer = match session.send_image(image, attempt, &mut answered).await? {
            Some(answer) => answer,
            None => answered
                .await
                .map_err(|_| DeliveryError::Lost(session.reason()))?,
        };
        Ok(answer?)
    }

    fn parallel(&self) -> usize {
        PARALLEL
    }

    fn clock(&self) -> Option<ClockEstimate> {
        self.0.clock.estimate()
    }

    async fn account(&self, account: RunAccount) -> Result<(), LinkError> {
        self.0.send(ClientMessage::Account(account)).await
    }

    async fn losses(&self, _losses: Vec<Loss>, _standing: Standing) -> Result<(), LinkError> {
        Ok(())
    }

    async fn closed(&self) -> String {
        self.0.lost.cancelled().await;
        self.0.reason()
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

#[cfg(test)]
mod tests;
