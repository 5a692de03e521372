//! Decides what is sent when: takes images from the outbox within the window, tries again what
//! failed, and settles what was answered.

mod attempt;
mod backoff;
mod connections;
mod losses;
mod queue;
mod ration;
mod retries;
mod settled;
mod tally;
mod traces;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use parking_lot::Mutex;
use shared::telemetry::spans::Spans;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::config::{LinkOptions, RetryOptions};
use crate::link::{Connection, Link, Turns};
use crate::outbox::Outbox;
use ration::Ration;
use retries::Retries;

pub use backoff::Backoff;
pub use settled::{LossKind, Settled, Settlement};
pub use tally::{Tally, Totals};
pub(crate) use traces::Traces;

/// Is told of every settled image.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// An image was answered. What must happen before it leaves the outbox happens here.
    ///
    /// # Errors
    /// When that cannot be done just now. The image stays owed, and it is tried again.
    async fn prepare(&self, settled: &Settled) -> std::io::Result<()>;

    /// An image has left the outbox.
    async fn settled(&self, settled: &Settled);
}

/// What a delivery works with.
pub struct Means {
    /// What is owed.
    pub outbox: Arc<dyn Outbox>,
    /// Where it goes.
    pub link: Arc<dyn Link>,
    /// Who is told.
    pub ledger: Arc<dyn Ledger>,
    /// Where it is counted.
    pub tally: Arc<Tally>,
    /// How images travel.
    pub options: LinkOptions,
    /// What happens after a failure.
    pub retry: RetryOptions,
    /// Images with lower sequence numbers were captured before this delivery began.
    pub own_from: u64,
    /// Who wants to know of traces.
    pub spans: Spans,
}

/// Sends everything in an outbox over one link.
pub struct Delivery {
    outbox: Arc<dyn Outbox>,
    link: Arc<dyn Link>,
    ledger: Arc<dyn Ledger>,
    tally: Arc<Tally>,
    options: LinkOptions,
    retry: RetryOptions,
    own_from: u64,
    traces: Traces,
    /// Bytes that may be in flight, in KiB.
    window: Arc<Semaphore>,
    window_kib: u32,
    /// What the receiver's quota leaves for this station.
    ration: Arc<Ration>,
    /// The order in which images begin, over whatever connection.
    turns: Turns,
    /// Images that wait to be sent again.
    retries: Mutex<Retries>,
    /// Images that were answered and cannot leave the outbox just now.
    held: AtomicUsize,
    /// Images that the outbox has handed out.
    in_hand: AtomicU64,
    /// What is in hand has changed.
    changed: Notify,
    /// The last answered image could not leave the outbox.
    unsettled: AtomicBool,
    /// Connections in use, the newest last.
    open: Mutex<Vec<Arc<dyn Connection>>>,
    /// One was made.
    connected: Notify,
    /// A receiver was reached before.
    met: AtomicBool,
    /// When a receiver was last there that lets this station in.
    last_contact: Mutex<tokio::time::Instant>,
    /// The last connection ended because the receiver does not, and no image was answered since.
    turned_away: AtomicBool,
    /// The last failure to reach one.
    problem: Mutex<String>,
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
    /// No receiver was reached that lets this station in, for as long as the settings allow.
    GaveUp {
        /// The last failure.
        problem: String,
    },
}

impl Delivery {
    /// A delivery that has not begun.
    pub fn new(means: Means) -> Arc<Self> {
        let kib = u32::try_from(means.options.window.0.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let window_kib = kib.clamp(1, u32::MAX >> 4);
        let traces = Traces::new(means.spans, means.link.transport());
        Arc::new(Self {
            outbox: means.outbox,
            link: means.link,
            ledger: means.ledger,
            tally: means.tally,
            options: means.options,
            retry: means.retry,
            own_from: means.own_from,
            traces,
            window: Arc::new(Semaphore::new(window_kib as usize)),
            window_kib,
            ration: Arc::default(),
            turns: Turns::default(),
            retries: Mutex::default(),
            held: AtomicUsize::new(0),
            in_hand: AtomicU64::new(0),
            changed: Notify::new(),
            unsettled: AtomicBool::new(false),
            open: Mutex::default(),
            connected: Notify::new(),
            met: AtomicBool::new(false),
            last_contact: Mutex::new(tokio::time::Instant::now()),
            turned_away: AtomicBool::new(false),
            problem: Mutex::default(),
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

    /// Connections in use.
    pub fn connections(&self) -> usize {
        self.open.lock().len()
    }

    /// Bytes that are in flight, in whole KiB, and those that may be.
    pub fn window(&self) -> (u64, u64) {
        let kib = |kib: usize| (kib as u64) << 10;
        let window = self.window_kib as usize;
        let free = self.window.available_permits();
        (kib(window.saturating_sub(free)), kib(window))
    }

    /// Whether a receiver can be reached, as far as is known.
    ///
    /// # Errors
    /// Why not.
    pub fn reach(&self) -> Result<(), String> {
        if !self.open.lock().is_empty() {
            return Ok(());
        }
        let problem = self.problem.lock();
        // A connection that nobody needs is not kept.
        let rests = self.link.is_lazy() && self.met.load(Relaxed) && !self.is_owing();
        if rests && problem.is_empty() {
            return Ok(());
        }
        if problem.is_empty() {
            Err("no receiver was reached yet".to_owned())
        } else {
            Err(format!("no receiver is reached: {problem}"))
        }
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
        let telling = Arc::clone(self);
        let over = CancellationToken::new();
        let until = over.clone();
        let telling =
            AbortOnDropHandle::new(tokio::spawn(
                async move { telling.tell_losses(until).await },
            ));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..self.options.connections.max(1) {
            let delivery = Arc::clone(self);
            workers.spawn(async move { delivery.work().await });
        }
        let mut connections = Vec::new();
        while let Some(worker) = workers.join_next().await {
            match worker {
                Ok(connection) => connections.extend(connection),
                Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
                Err(_) => {}
            }
        }
        over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.give_all_back().await;
        let parting = async {
            // What is being told is told to its end: it may have the connection to itself.
            let told = telling.await.unwrap_or_default();
            connections.extend(self.tell_last_losses(told).await);
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
                problem: self.problem.lock().clone(),
            };
        }
        if self.stop.is_cancelled() {
            End::Stopped
        } else {
            End::Drained
        }
    }

    /// Everything was delivered, but no connection is left to say so, as servers close idle ones; or
    /// none was needed, and the process before may have been cut off before it told of its losses
    /// and of its last number.
    async fn connect_for_last_words(&self) -> Option<Arc<dyn Connection>> {
        let over = self.stop.is_cancelled() || self.gave_up.is_cancelled();
        let has_to_tell = self.met.load(Relaxed) || self.outbox.standing().next_sequence > 1;
        if over || self.connection().is_some() || !has_to_tell {
            return None;
        }
        let mut backoff = Backoff::new(&self.retry);
        loop {
            let connecting =
                tokio::time::timeout(self.options.connect_timeout, self.link.connect()).await;
            if let Ok(Ok(connection)) = connecting {
                self.open.lock().push(Arc::clone(&connection));
                return Some(connection);
            }
            // A number can be told at the next start. Losses should not wait for one.
            if self.outbox.losses(1).await.0.is_empty() {
                return None;
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    fn is_owing(&self) -> bool {
        self.outbox.backlog().images > 0
    }
}

#[cfg(test)]
mod tests;
