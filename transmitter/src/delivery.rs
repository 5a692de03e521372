//! Decides what is sent when: takes images from the outbox within the window, tries again what
//! failed, and settles what was answered.

mod backoff;
mod tally;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::FutureExt;
use parking_lot::Mutex;
use shared::clock::{ClockEstimate, UnixNanos};
use shared::image::ImageId;
use shared::receipt::{Receipt, ReceiptStatus, Reject, RejectReason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{LinkOptions, RetryOptions};
use crate::link::{Attempt, Connection, DeliveryError, Link, LinkError};
use crate::outbox::{Outbox, Outcome, Owed};
use crate::payload::Payload;

pub use backoff::Backoff;
pub use tally::{Tally, Totals};

/// What became of an image for good.
#[derive(Debug, Clone)]
pub enum Settlement {
    /// It is stored.
    Receipt(Receipt),
    /// The receiver keeps it apart.
    Quarantined(Reject),
    /// It will never arrive.
    Lost(String),
}

/// An image that is not owed any more.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The image.
    pub image: Arc<Owed>,
    /// What became of it.
    pub settlement: Settlement,
    /// When the last attempt began.
    pub started: UnixNanos,
    /// Send start to answer of the last attempt, monotonic.
    pub delivery: Duration,
    /// Times it was sent.
    pub attempts: u32,
    /// The receiver's clock as it was estimated then.
    pub clock: Option<ClockEstimate>,
}

impl Settled {
    /// Whether the receiver had the image before this transmitter first sent it. A receipt
    /// `duplicate` for a later attempt only means that an earlier one had arrived after all.
    pub fn is_duplicate(&self) -> bool {
        self.attempts == 1
            && !self.image.carried
            && matches!(&self.settlement, Settlement::Receipt(receipt)
                if receipt.status == ReceiptStatus::Duplicate)
    }
}

impl Settled {
    /// What the outbox is told.
    fn outcome(&self) -> Outcome {
        match &self.settlement {
            Settlement::Receipt(_) if self.is_duplicate() => Outcome::Duplicate,
            Settlement::Receipt(_) => Outcome::Delivered,
            Settlement::Quarantined(_) => Outcome::Quarantined,
            Settlement::Lost(reason) => Outcome::Lost(reason.clone()),
        }
    }
}

/// Is told of every settled image.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// An image is settled. What must happen before it leaves the outbox happens here.
    async fn settled(&self, settled: &Settled);
}

/// Sends everything in an outbox over one link.
pub struct Delivery {
    outbox: Arc<dyn Outbox>,
    link: Arc<dyn Link>,
    ledger: Arc<dyn Ledger>,
    tally: Arc<Tally>,
    options: LinkOptions,
    retry: RetryOptions,
    /// Bytes that may be in flight, in KiB.
    window: Arc<Semaphore>,
    window_kib: u32,
    attempts: Mutex<HashMap<ImageId, u32>>,
    /// Connections in use, the newest last.
    open: Mutex<Vec<Arc<dyn Connection>>>,
    /// A receiver was reached before.
    met: AtomicBool,
    last_contact: Mutex<tokio::time::Instant>,
    tasks: TaskTracker,
    /// The outbox was closed and empty, which it stays.
    drained: CancellationToken,
    stop: CancellationToken,
    gave_up: CancellationToken,
}

/// Time for the last words to the receiver after everything was delivered.
const CLOSING: Duration = Duration::from_secs(15);

/// Time for the last words to a receiver that stands still, once the delivery is stopped.
pub const PARTING: Duration = Duration::from_millis(500);

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Nothing is owed any more.
    Drained,
    /// It was stopped; images may still be owed.
    Stopped,
    /// No receiver was reached for as long as the settings allow.
    GaveUp {
        /// The last failure.
        problem: String,
    },
}

impl Delivery {
    /// A delivery that has not begun.
    pub fn new(
        outbox: Arc<dyn Outbox>,
        link: Arc<dyn Link>,
        ledger: Arc<dyn Ledger>,
        tally: Arc<Tally>,
        options: LinkOptions,
        retry: RetryOptions,
    ) -> Arc<Self> {
        let kib = u32::try_from(options.window.0.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let window_kib = kib.clamp(1, u32::MAX >> 4);
        Arc::new(Self {
            outbox,
            link,
            ledger,
            tally,
            options,
            retry,
            window: Arc::new(Semaphore::new(window_kib as usize)),
            window_kib,
            attempts: Mutex::default(),
            open: Mutex::default(),
            met: AtomicBool::new(false),
            last_contact: Mutex::new(tokio::time::Instant::now()),
            tasks: TaskTracker::new(),
            drained: CancellationToken::new(),
            stop: CancellationToken::new(),
            gave_up: CancellationToken::new(),
        })
    }

    /// The newest connection that is open, for what concerns the run as a whole.
    pub fn connection(&self) -> Option<Arc<dyn Connection>> {
        let open = self.open.lock();
        let mut newest_first = open.iter().rev();
        newest_first
            .find(|connection| connection.closed().now_or_never().is_none())
            .cloned()
    }

    /// Ends [`Delivery::run`], within [`PARTING`]; what is in flight is owed again.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Sends until the outbox is closed and empty, or stopped. `before_goodbye` runs on the last
    /// connection before it is closed.
    pub async fn run<F, Fut>(self: &Arc<Self>, before_goodbye: F) -> End
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = ()>,
    {
        let problem = Arc::new(Mutex::new(String::new()));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..self.options.connections.max(1) {
            let (delivery, problem) = (Arc::clone(self), Arc::clone(&problem));
            workers.spawn(async move { delivery.work(&problem).await });
        }
        let mut connections = Vec::new();
        while let Some(worker) = workers.join_next().await {
            match worker {
                Ok(connection) => connections.extend(connection),
                Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
                Err(_) => {}
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        let parting = async {
            connections.extend(self.connect_for_last_words().await);
            before_goodbye().await;
            for connection in connections {
                connection.close().await;
            }
        };
        // A connection that has stalled must not hold up the end.
        let stopped = async {
            self.stop.cancelled().await;
            tokio::time::sleep(PARTING).await;
        };
        let told = tokio::select! {
            told = tokio::time::timeout(CLOSING, parting) => told.is_ok(),
            () = stopped => false,
        };
        if !told {
            tracing::warn!("the receiver was not told everything about the run in time");
        }
        if self.gave_up.is_cancelled() {
            return End::GaveUp {
                problem: problem.lock().clone(),
            };
        }
        if self.stop.is_cancelled() {
            End::Stopped
        } else {
            End::Drained
        }
    }

    /// Everything was delivered, but no connection is left to say so: servers close idle ones.
    async fn connect_for_last_words(&self) -> Option<Arc<dyn Connection>> {
        let over = self.stop.is_cancelled() || self.gave_up.is_cancelled();
        if over || !self.met.load(Relaxed) || self.connection().is_some() {
            return None;
        }
        let connecting = tokio::time::timeout(self.options.connect_timeout, self.link.connect());
        let connection = connecting.await.ok()?.ok()?;
        self.open.lock().push(Arc::clone(&connection));
        Some(connection)
    }

    /// One connection after the other, until there is nothing more to send. The last one is
    /// handed out, still open.
    async fn work(self: &Arc<Self>, problem: &Mutex<String>) -> Option<Arc<dyn Connection>> {
        let mut backoff = Backoff::new(&self.retry);
        loop {
            if self.link.is_lazy() && self.met.load(Relaxed) {
                let idle = !self.is_owing();
                if !self.work_waits().await {
                    return None;
                }
                if idle {
                    // Nobody was looked for all the while.
                    *self.last_contact.lock() = tokio::time::Instant::now();
                }
            }
            self.tally.connecting();
            let connected = tokio::select! {
                biased;
                connected = self.link.connect() => connected,
                () = self.stop.cancelled() => return None,
                () = self.gave_up.cancelled() => return None,
                // Nothing was ever owed: no need to reach anybody.
                () = self.nothing_owed() => return None,
                () = self.patience() => Err(LinkError::Lost("no receiver was reached".to_owned())),
            };
            match connected {
                Ok(connection) => {
                    tracing::info!(transport = %self.link.transport(), "connected");
                    *self.last_contact.lock() = tokio::time::Instant::now();
                    self.met.store(true, Relaxed);
                    self.open.lock().push(Arc::clone(&connection));
                    self.tally.sending();
                    let used = self.use_connection(&connection).await;
                    if matches!(used, Use::Lost { .. }) {
                        self.leave(&connection);
                    }
                    match used {
                        Use::Finished | Use::Stopped => return Some(connection),
                        Use::Lost { reason, .. } if self.link.is_lazy() && !self.is_owing() => {
                            tracing::debug!("{reason}");
                            continue;
                        }
                        Use::Lost { reason, delivered } => {
                            if delivered {
                                backoff.reset();
                            }
                            *problem.lock() = reason;
                        }
                    }
                }
                Err(error) => *problem.lock() = error.to_string(),
            }
            let silence = self.silence();
            if self
                .retry
                .give_up_after
                .is_some_and(|limit| silence >= limit)
            {
                self.gave_up.cancel();
                return None;
            }
            let pause = backoff.next();
            tracing::warn!(retry_in = ?pause, "{}", problem.lock());
            self.tally.waiting(pause);
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return None,
                () = self.gave_up.cancelled() => return None,
                () = self.nothing_owed() => return None,
            }
        }
    }

    /// Until now the receiver was there, however little there was to send.
    fn leave(&self, connection: &Arc<dyn Connection>) {
        *self.last_contact.lock() = tokio::time::Instant::now();
        let mut open = self.open.lock();
        open.retain(|other| !Arc::ptr_eq(other, connection));
    }

    /// Time since a receiver was there.
    fn silence(&self) -> Duration {
        if self.open.lock().is_empty() {
            self.last_contact.lock().elapsed()
        } else {
            Duration::ZERO
        }
    }

    fn is_owing(&self) -> bool {
        self.outbox.backlog().images > 0
    }

    /// Waits until an image is there to be sent; `false` when none will come.
    async fn work_waits(&self) -> bool {
        tokio::select! {
            image = self.outbox.take() => match image {
                Some(image) => {
                    self.outbox.give_back(image.meta.id).await;
                    true
                }
                None => {
                    self.drained.cancel();
                    false
                }
            },
            () = self.stop.cancelled() => false,
            () = self.gave_up.cancelled() => false,
        }
    }

    /// Resolves when the outbox is closed and empty.
    async fn nothing_owed(self: &Arc<Self>) {
        tokio::select! {
            image = self.outbox.take() => if let Some(image) = image {
                // This wait may be dropped at any moment, and the image must not stay taken.
                self.try_again(image.meta.id, Duration::ZERO);
                // Taken over and over it would keep everybody awake; whoever sends the last one
                // tells.
                self.drained.cancelled().await;
            },
            () = self.drained.cancelled() => {}
        }
    }

    /// Resolves when the settings say to give up.
    async fn patience(&self) {
        let Some(limit) = self.retry.give_up_after else {
            return std::future::pending().await;
        };
        let left = limit.saturating_sub(self.silence());
        tokio::time::sleep(left).await;
    }

    async fn use_connection(self: &Arc<Self>, connection: &Arc<dyn Connection>) -> Use {
        let places = Arc::new(Semaphore::new(connection.parallel()));
        let in_flight = TaskTracker::new();
        let delivered = Arc::new(AtomicBool::new(false));
        let ended = loop {
            // The semaphore is never closed.
            let taking = async {
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                let image = self.outbox.take().await?;
                Some((place, image))
            };
            // A connection that is gone gets no more images: each would cost it an attempt.
            let (place, image) = tokio::select! {
                biased;
                () = self.stop.cancelled() => break Use::Stopped,
                reason = connection.closed() => break Use::Lost { reason, delivered: false },
                taken = taking => match taken {
                    Some(taken) => taken,
                    None => {
                        self.drained.cancel();
                        break Use::Finished;
                    }
                },
            };
            let id = image.meta.id;
            let flight = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.outbox.give_back(id).await;
                    break Use::Stopped;
                }
                reason = connection.closed() => {
                    self.outbox.give_back(id).await;
                    break Use::Lost { reason, delivered: false };
                }
                flight = self.room_in_window(&image) => flight,
            };
            let (delivery, connection) = (Arc::clone(self), Arc::clone(connection));
            let delivered = Arc::clone(&delivered);
            in_flight.spawn(async move {
                if delivery.attempt(&connection, image).await {
                    delivered.store(true, Relaxed);
                }
                drop((flight, place));
            });
        };
        in_flight.close();
        in_flight.wait().await;
        match ended {
            Use::Lost { reason, .. } => {
                let delivered = delivered.load(Relaxed);
                Use::Lost { reason, delivered }
            }
            other => other,
        }
    }

    async fn room_in_window(&self, image: &Owed) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(image.meta.size.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        // An image larger than the window travels alone.
        let kib = kib.clamp(1, self.window_kib);
        Arc::clone(&self.window).acquire_many_owned(kib).await.ok()
    }

    /// Sends an image once and draws the conclusion; whether it was answered.
    async fn attempt(self: &Arc<Self>, connection: &Arc<dyn Connection>, image: Arc<Owed>) -> bool {
        let id = image.meta.id;
        let number = {
            let mut attempts = self.attempts.lock();
            let number = attempts.entry(id).or_insert(0);
            *number += 1;
            *number
        };
        let started = UnixNanos::now();
        let clock = Instant::now();
        let flight = self.tally.flight(image.meta.size, number);
        let result = tokio::select! {
            biased;
            result = connection.deliver(&image, Attempt { number, started }) => result,
            () = self.stop.cancelled() => {
                // It is owed still, however few attempts it has.
                self.outbox.give_back(id).await;
                return false;
            }
        };
        let delivery = clock.elapsed();
        drop(flight);
        let settlement = match self.judge(&image, number, result).await {
            Judgement::Settle(settlement) => settlement,
            Judgement::Again { after } => {
                self.try_again(id, after);
                return false;
            }
        };
        *self.last_contact.lock() = tokio::time::Instant::now();
        let settled = Settled {
            clock: connection.clock(),
            image,
            settlement,
            started,
            delivery,
            attempts: number,
        };
        self.tally.settle(&settled);
        self.ledger.settled(&settled).await;
        self.attempts.lock().remove(&id);
        let outcome = settled.outcome();
        if let Err(error) = self.outbox.settle(id, outcome).await {
            tracing::error!(image = %id, "{}", shared::telemetry::chain(&error));
        }
        true
    }

    fn try_again(self: &Arc<Self>, id: ImageId, after: Duration) {
        let delivery = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(after) => {}
                () = delivery.stop.cancelled() => {}
                () = delivery.gave_up.cancelled() => {}
            }
            delivery.outbox.give_back(id).await;
        });
    }

    async fn judge(
        &self,
        image: &Owed,
        number: u32,
        result: Result<Receipt, DeliveryError>,
    ) -> Judgement {
        let reject = match result {
            Ok(receipt) => {
                return Judgement::Settle(match contradiction(image, &receipt) {
                    None => Settlement::Receipt(receipt),
                    Some(problem) => Settlement::Lost(problem),
                });
            }
            Err(DeliveryError::Lost(reason)) => {
                tracing::debug!(image = %image.meta.id, "not delivered: {reason}");
                return self.again(number, &reason, Duration::ZERO);
            }
            Err(DeliveryError::Unreadable(problem)) => {
                return Judgement::Settle(Settlement::Lost(format!("unreadable: {problem}")));
            }
            Err(DeliveryError::Unavailable(problem)) => {
                tracing::warn!(image = %image.meta.id, attempt = number, "unreadable: {problem}");
                return self.again(number, &problem, self.pause(number));
            }
            Err(DeliveryError::Rejected(reject)) => reject,
        };
        if reject.quarantined {
            return Judgement::Settle(Settlement::Quarantined(reject));
        }
        if !reject.retryable {
            return Judgement::Settle(Settlement::Lost(format!("{}: {reject}", reject.reason)));
        }
        if reject.reason == RejectReason::DigestMismatch && has_changed(image).await {
            let reason = "the file changed after it was captured".to_owned();
            return Judgement::Settle(Settlement::Lost(reason));
        }
        tracing::warn!(image = %image.meta.id, attempt = number, "rejected: {reject}");
        self.again(number, &reject.to_string(), self.pause(number))
    }

    /// Time before the attempt after number `number`.
    fn pause(&self, number: u32) -> Duration {
        let mut backoff = Backoff::new(&self.retry);
        // The longest pause is reached long before the thirty-second.
        (1..number.min(32)).fold(backoff.next(), |_, _| backoff.next())
    }

    fn again(&self, number: u32, reason: &str, after: Duration) -> Judgement {
        if self.retry.attempts.is_some_and(|limit| number >= limit) {
            let reason = format!("given up after {number} attempts: {reason}");
            return Judgement::Settle(Settlement::Lost(reason));
        }
        Judgement::Again { after }
    }
}

enum Use {
    Finished,
    Stopped,
    Lost { reason: String, delivered: bool },
}

enum Judgement {
    Settle(Settlement),
    Again { after: Duration },
}

/// What in a receipt is not of the image that was sent: it proves nothing.
fn contradiction(image: &Owed, receipt: &Receipt) -> Option<String> {
    let meta = &image.meta;
    let other_digest = meta.digest.is_some_and(|digest| {
        digest.algorithm() == receipt.digest.algorithm() && digest != receipt.digest
    });
    (receipt.image_id != meta.id || receipt.size != meta.size || other_digest).then(|| {
        format!(
            "the receipt is of image {} with {} bytes and digest {}, which was not sent",
            receipt.image_id, receipt.size, receipt.digest
        )
    })
}

/// Whether a file is not what it was when its digest was made.
async fn has_changed(image: &Owed) -> bool {
    let Some(digest) = image.meta.digest else {
        return false;
    };
    matches!(image.payload, Payload::File { .. })
        && image.payload.digest(digest.algorithm()).await.ok() != Some(digest)
}

#[cfg(test)]
mod tests;
