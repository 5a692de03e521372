//! The session protocol as the transmitter speaks it, over any pipe of messages.

mod connection;
mod ending;
mod flow;
mod losses;
mod pipe;
mod resume;
mod sending;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use shared::clock::{ClockSample, UnixNanos};
use shared::image::ImageId;
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::wire::{
    ClientMessage, Encoded, Hello, PROTOCOL_VERSION, ServerMessage, Standing, Welcome,
    encode_client,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dial::Denial;
use super::{AGENT, Identity, LinkError};
use crate::config::LinkOptions;
use flow::Flow;
use losses::Told;
use resume::Known;

pub(super) use connection::SessionConnection;
pub use pipe::Pipe;

/// A message on its way to the transport.
pub(super) type Outgoing = mpsc::Sender<Encoded>;

/// Clock measurements before the first image, and the time for all of them.
const FIRST_PINGS: u32 = 7;
const FIRST_LOOK: Duration = Duration::from_millis(20);

/// Time between the measurements that follow.
const EARLY_PING_INTERVAL: Duration = Duration::from_millis(100);

/// Time for a transport that takes no more messages to say why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Set in the id of a ping that asks for no time, but follows chunks to learn that they were taken
/// ([`flow`]). Its round trip is that of the chunks and would spoil the measurements.
const PROBE: u64 = 1 << 63;

/// The goodbye of a receiver to whom this side's token is good no more (docs/specs/wire.md).
const EXPIRED: &str = "Token expired";

/// Messages that may wait for the transport: enough to keep it busy, few enough that memory stays
/// below the window.
pub(super) fn queue_length(options: &LinkOptions) -> usize {
    let chunks = options.window.0 / options.chunk_size.0.max(1);
    usize::try_from(chunks).unwrap_or(1).clamp(1, 4)
}

/// State shared by those who send images and the task that takes the receiver's messages.
pub(super) struct Session {
    outgoing: Outgoing,
    /// Held by the image that begins.
    beginning: tokio::sync::Mutex<()>,
    address: String,
    identity: Identity,
    chunk_size: u32,
    window: u64,
    idle_timeout: Duration,
    clock_interval: Duration,
    /// Time for the receiver to answer what it answers at once.
    patience: Duration,
    /// In order, as everything that decides who wakes up first: simulations replay.
    pending: Mutex<BTreeMap<ImageId, oneshot::Sender<Result<Receipt, Reject>>>>,
    flow: Mutex<Flow>,
    flow_moved: Notify,
    /// What the receiver was asked for, and whoever asks has the turn.
    known: Mutex<Known>,
    asking: tokio::sync::Mutex<()>,
    welcome: Mutex<Option<oneshot::Sender<Welcome>>>,
    /// Largest message that the receiver takes.
    max_message: AtomicU64,
    told: Told,
    first_pong: Notify,
    heard: Mutex<Instant>,
    /// When the receiver last did something about an image: answered, or took bytes of it.
    progress: Mutex<Instant>,
    pub(super) lost: CancellationToken,
    why_lost: Mutex<String>,
    /// That is because the receiver does not let this station in.
    refused: AtomicBool,
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
            beginning: tokio::sync::Mutex::default(),
            address,
            identity: identity.clone(),
            chunk_size: u32::try_from(options.chunk_size.0).unwrap_or(u32::MAX),
            window: options.window.0,
            idle_timeout: options.idle_timeout,
            // Signs of life on both sides, whatever the interval of the measurements.
            clock_interval: options.clock_interval.min(options.idle_timeout / 3),
            patience: options.connect_timeout,
            pending: Mutex::default(),
            flow: Mutex::new(Flow::new(options.window.0, options.idle_timeout / 8)),
            flow_moved: Notify::new(),
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            welcome: Mutex::default(),
            max_message: AtomicU64::new(0),
            told: Told::default(),
            first_pong: Notify::new(),
            heard: Mutex::new(Instant::now()),
            progress: Mutex::new(Instant::now()),
            lost: CancellationToken::new(),
            why_lost: Mutex::default(),
            refused: AtomicBool::new(false),
            ended: CancellationToken::new(),
            goodbye: CancellationToken::new(),
        })
    }

    /// Says hello and waits to be welcomed, with a first look at the receiver's clock.
    pub(super) async fn greet(self: &Arc<Self>) -> Result<(), LinkError> {
        let welcomed = self.be_welcomed().await;
        welcomed.map_err(|error| self.refusal().unwrap_or(error))
    }

    async fn be_welcomed(self: &Arc<Self>) -> Result<(), LinkError> {
        let first_pong = self.first_pong.notified();
        // Without a welcome the transport's tasks, which hold this session, must not live on.
        let abandoned = self.lost.clone().drop_guard();
        let greeting = async {
            let unfinished = self.identity.unfinished.list();
            let welcomed = self.hello(unfinished);
            let pinged = self.ping(0);
            tokio::try_join!(welcomed, pinged)
        };
        let (welcome, ()) = greeting.await?;
        let largest = u64::from(self.chunk_size);
        let limit = welcome.limits.max_message_bytes;
        if limit > 0 && largest > limit {
            return Err(self.protocol(format!(
                "chunks of {largest} bytes exceed its limit of {limit} bytes; lower \
                 TRANSMITTER_CHUNK_SIZE or raise RECEIVER_MAX_MESSAGE_SIZE",
            )));
        }
        tracing::debug!(receiver = welcome.receiver, durability = %welcome.durability, "welcomed");
        // Answered right behind the welcome; a receiver that never does has no clock for us.
        let _ = tokio::time::timeout(self.patience, first_pong).await;
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
        tokio::spawn(async move { session.watch().await });
        Ok(())
    }

    fn protocol(&self, problem: String) -> LinkError {
        LinkError::Protocol {
            address: self.address.clone(),
            problem,
        }
    }

    /// Says hello, for the first time or to ask what the receiver holds of `unfinished` images, and
    /// takes in what the welcome says.
    async fn hello(&self, unfinished: Vec<(ImageId, u64)>) -> Result<Welcome, LinkError> {
        let (sender, welcomed) = oneshot::channel();
        *self.welcome.lock() = Some(sender);
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            transmitter: self.identity.transmitter.clone(),
            unfinished: unfinished.iter().map(|(id, _)| *id).collect(),
            losses: Vec::new(),
            agent: AGENT.to_owned(),
            // Which outbox it is. Where it stands is told with the losses, which the outbox knows.
            standing: Some(Standing::unsaid(self.identity.outbox)),
            window: self.window,
        };
        self.send(ClientMessage::Hello(hello)).await?;
        let timeout = self.patience;
        let welcome = tokio::select! {
            biased;
            welcome = tokio::time::timeout(timeout, welcomed) => match welcome {
                Ok(Ok(welcome)) => welcome,
                Ok(Err(_)) => return Err(LinkError::Lost(self.reason())),
                Err(_) => return Err(self.protocol(format!("no welcome within {timeout:?}"))),
            },
            () = self.lost.cancelled() => return Err(self.protocol(self.reason())),
        };
        self.flow.lock().grant(welcome.credit);
        self.flow_moved.notify_waiters();
        self.max_message
            .store(welcome.limits.max_message_bytes, Ordering::Relaxed);
        self.known.lock().learn(&unfinished, &welcome.held);
        Ok(welcome)
    }

    /// Looks at the clock now and then, and for signs of life.
    async fn watch(&self) {
        for id in 1.. {
            // Close together at first, while the estimate is young.
            let early = id <= FIRST_PINGS;
            let pause = if early {
                EARLY_PING_INTERVAL.min(self.clock_interval)
            } else {
                self.clock_interval
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.lost.cancelled() => return,
                () = self.goodbye.cancelled() => return,
            }
            // Every ping is answered, so silence means that nobody is there, whatever stands
            // between here and there and keeps its own connection alive.
            let silence = self
                .idle_timeout
                .saturating_sub(self.heard.lock().elapsed());
            if silence.is_zero() {
                self.lose(format!(
                    "no sign of the receiver for {:?}",
                    self.idle_timeout
                ));
                return;
            }
            // Where the transport is stuck there is no place for a ping.
            match tokio::time::timeout(silence, self.ping(u64::from(id))).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => return,
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
            return Err(self.stopped().await);
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
        match sent {
            Ok(()) => Ok(()),
            Err(_) => Err(self.stopped().await),
        }
    }

    /// The transport takes no more messages, and says why.
    async fn stopped(&self) -> LinkError {
        let _ = tokio::time::timeout(LAST_WORD, self.lost.cancelled()).await;
        LinkError::Lost(self.reason())
    }

    /// A message of the receiver.
    pub(super) fn take(&self, message: ServerMessage) {
        *self.heard.lock() = Instant::now();
        match message {
            ServerMessage::Welcome(welcome) => {
                if let Some(waiting) = self.welcome.lock().take() {
                    // Fails only when the greeting has timed out.
                    let _ = waiting.send(welcome);
                }
            }
            ServerMessage::Credit { total } => {
                self.progressed();
                self.flow.lock().grant(total);
                self.flow_moved.notify_waiters();
            }
            ServerMessage::Receipt(receipt) => self.answer(receipt.image_id, Ok(receipt)),
            ServerMessage::Reject(reject) => match reject.image_id {
                Some(id) => self.answer(id, Err(reject)),
                // Not about a report of losses, so about everything.
                None if reject.reason == RejectReason::Forbidden && self.told.is_empty() => {
                    self.refuse(self.advise(Denial::Forbidden, &reject.message));
                }
                None if reject.reason == RejectReason::Protocol => {
                    self.lose(format!("refused by the receiver: {reject}"));
                }
                // What this side sends is proper, so it was damaged on its way; and as it may have been
                // an image's end, nobody would ever answer for that.
                None if reject.reason == RejectReason::Invalid && self.is_waited_for() => {
                    self.lose(format!("something was damaged on its way: {reject}"));
                }
                None => {
                    tracing::warn!(reason = %reject.reason, "the receiver says: {reject}");
                    self.told.refused(&reject);
                }
            },
            ServerMessage::ClockPong { id, .. } if id & PROBE != 0 => {
                self.progressed();
                self.flow
                    .lock()
                    .pong(id & !PROBE, Instant::now().into_std());
                self.flow_moved.notify_waiters();
            }
            ServerMessage::ClockPong { t1, t2, t3, .. } => {
                self.identity.clock.add(ClockSample {
                    t1,
                    t2,
                    t3,
                    t4: UnixNanos::now(),
                });
                self.first_pong.notify_waiters();
            }
            ServerMessage::LossesKept { id } => self.told.kept(id),
            // There is no other message to say it by in the midst of a session.
            ServerMessage::Goodbye { reason } if reason == EXPIRED => {
                self.refuse(self.advise(Denial::Unknown, &reason));
            }
            ServerMessage::Goodbye { reason } => {
                self.lose(format!("the receiver said goodbye: {reason}"));
            }
        }
    }

    fn progressed(&self) {
        *self.progress.lock() = Instant::now();
    }

    /// Whether it is an image that waits for an answer, and no report of losses.
    fn is_waited_for(&self) -> bool {
        !self.pending.lock().is_empty() && self.told.is_empty()
    }

    fn answer(&self, id: ImageId, answer: Result<Receipt, Reject>) {
        self.progressed();
        // An answer that nobody waits for belongs to an attempt that was given up.
        if let Some(waiting) = self.pending.lock().remove(&id) {
            let _ = waiting.send(answer);
        }
    }
}

#[cfg(test)]
mod tests;
