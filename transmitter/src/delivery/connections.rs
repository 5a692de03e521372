//! One connection after the other, and the images that go over each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::attempt::Attempted;
use super::{Backoff, Delivery};
use crate::link::Connection;
use crate::outbox::Owed;

/// A connection that lasted for this long, and did not end by this station being turned away, was a
/// proper one: the next is made soon after it.
const PROPER: Duration = Duration::from_millis(500);

enum Use {
    Finished,
    Stopped,
    Lost { reason: String, proper: bool },
}

impl Delivery {
    /// One connection after the other, until there is nothing more to send. The last one is
    /// handed out, still open.
    pub(super) async fn work(self: &Arc<Self>) -> Option<Arc<dyn Connection>> {
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
                connected = self.link.connect() => Some(connected),
                () = self.stop.cancelled() => return None,
                () = self.gave_up.cancelled() => return None,
                // Nothing was ever owed: no need to reach anybody.
                () = self.nothing_owed() => return None,
                () = self.patience() => None,
            };
            match connected {
                Some(Ok(connection)) => {
                    tracing::info!(transport = %self.link.transport(), "connected");
                    self.welcome(&connection);
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
                        Use::Lost { reason, proper } => {
                            if proper {
                                backoff.reset();
                            }
                            *self.problem.lock() = reason;
                        }
                    }
                }
                Some(Err(error)) => *self.problem.lock() = error.to_string(),
                // What was in the way before this attempt says more.
                None => {
                    let mut problem = self.problem.lock();
                    if problem.is_empty() {
                        "no receiver was reached".clone_into(&mut problem);
                    }
                }
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
            tracing::warn!(retry_in = ?pause, "{}", self.problem.lock());
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

    fn welcome(&self, connection: &Arc<dyn Connection>) {
        // Over HTTP it may show no sooner than with an image that this station is not let in still.
        if !self.turned_away.load(Relaxed) {
            *self.last_contact.lock() = tokio::time::Instant::now();
        }
        self.met.store(true, Relaxed);
        self.problem.lock().clear();
        self.open.lock().push(Arc::clone(connection));
        self.connected.notify_waiters();
        self.tally.sending();
    }

    /// Until now the receiver was there, however little there was to send; unless it has been turning
    /// this station away.
    fn leave(&self, connection: &Arc<dyn Connection>) {
        let refused = connection.is_refused();
        let still = self.turned_away.swap(refused, Relaxed) && refused;
        if !still {
            *self.last_contact.lock() = tokio::time::Instant::now();
        }
        let mut open = self.open.lock();
        open.retain(|other| !Arc::ptr_eq(other, connection));
    }

    /// Time since a receiver was there that lets this station in.
    fn silence(&self) -> Duration {
        if self.open.lock().is_empty() {
            self.last_contact.lock().elapsed()
        } else {
            Duration::ZERO
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
        let begun = tokio::time::Instant::now();
        let places = Arc::new(Semaphore::new(connection.parallel()));
        let in_flight = TaskTracker::new();
        let delivered = Arc::new(AtomicBool::new(false));
        let ended = loop {
            let taking = async {
                // Neither semaphore is ever closed.
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                // An image is not chosen before it can go: a better one may come meanwhile.
                drop(self.window.acquire().await.ok()?);
                let share = self.ration.share().await;
                Some((place, share, self.next().await?))
            };
            // A connection that is gone gets no more images: each would cost it an attempt.
            let (place, share, job) = tokio::select! {
                biased;
                () = self.stop.cancelled() => break Use::Stopped,
                reason = connection.closed() => break Use::Lost { reason, proper: false },
                taken = taking => match taken {
                    Some(taken) => taken,
                    None => {
                        self.drained.cancel();
                        break Use::Finished;
                    }
                },
            };
            let flight = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.give_back(job).await;
                    break Use::Stopped;
                }
                reason = connection.closed() => {
                    self.put_back(job).await;
                    break Use::Lost { reason, proper: false };
                }
                flight = self.room_in_window(&job.image) => flight,
            };
            let (delivery, connection) = (Arc::clone(self), Arc::clone(connection));
            let delivered = Arc::clone(&delivered);
            // One that failed may fail again, and has lost its place anyway.
            let turn = (job.tries.failures == 0).then(|| self.turns.next());
            in_flight.spawn(async move {
                let attempted = delivery.attempt(&connection, job, turn).await;
                // Others need not wait for room while this place does.
                drop((flight, share));
                match attempted {
                    Attempted::Answered => delivered.store(true, Relaxed),
                    Attempted::TooOften => delivery.hold_off(&connection).await,
                    Attempted::Unanswered => {}
                }
                drop(place);
            });
        };
        in_flight.close();
        in_flight.wait().await;
        match ended {
            Use::Lost { reason, .. } => {
                // Being turned away may take long, with an image that is read before the answer, and
                // would be asked for again and again.
                let proper = !connection.is_refused()
                    && (delivered.load(Relaxed) || begun.elapsed() >= PROPER);
                Use::Lost { reason, proper }
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
}
