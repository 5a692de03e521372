//! Which image is sent next.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::Delivery;
use super::retries::{Job, MOST, Next, Tries};

impl Delivery {
    /// Waits for an image that may be sent now; `None` when there is nothing more to send. May be
    /// dropped while it waits.
    pub(super) async fn next(&self) -> Option<Job> {
        loop {
            // Registered before the look, so that a change in between is not missed.
            let changed = self.changed.notified();
            let (takes_new, wait) = {
                let mut retries = self.retries.lock();
                let full = retries.len() + self.held.load(Relaxed) >= MOST;
                match retries.next(Instant::now(), self.new_waits(), full) {
                    Next::Again(job) => return Some(job),
                    Next::New(wait) => (true, wait),
                    Next::Wait(wait) => (false, wait),
                }
            };
            tokio::select! {
                biased;
                image = self.outbox.take(), if takes_new => {
                    let image = image?;
                    self.retries.lock().had_new();
                    self.in_hand.fetch_add(1, Relaxed);
                    return Some(Job { image, tries: Tries::default() });
                }
                () = sleep(wait) => self.retries.lock().had_new(),
                () = changed => {}
            }
        }
    }

    /// Whether the outbox has images that are not in hand here.
    fn new_waits(&self) -> bool {
        self.outbox.backlog().images > self.in_hand.load(Relaxed)
    }

    /// The image is sent again after a pause.
    pub(super) fn rest(&self, job: Job, pause: Duration) {
        self.retries.lock().rest(job, Instant::now() + pause);
        self.changed.notify_waiters();
    }

    /// The image was not sent after all.
    pub(super) async fn put_back(&self, job: Job) {
        if job.tries == Tries::default() {
            // In its old place: another may have to go first by now.
            self.give_back(job).await;
        } else {
            self.rest(job, Duration::ZERO);
        }
    }

    /// The image is the outbox's again.
    pub(super) async fn give_back(&self, job: Job) {
        self.outbox.give_back(job.image.meta.id).await;
        self.let_go();
    }

    /// An image is not in hand any more.
    pub(super) fn let_go(&self) {
        self.in_hand.fetch_sub(1, Relaxed);
        self.changed.notify_waiters();
    }

    /// Gives back everything that waits to be sent again.
    pub(super) async fn give_all_back(&self) {
        let resting = self.retries.lock().drain();
        for job in resting {
            self.give_back(job).await;
        }
    }

    /// Waits until an image is there to be sent; `false` when none will come.
    pub(super) async fn work_waits(self: &Arc<Self>) -> bool {
        tokio::select! {
            biased;
            job = self.next() => match job {
                Some(job) => {
                    self.put_back(job).await;
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
    pub(super) async fn nothing_owed(&self) {
        tokio::select! {
            biased;
            image = self.outbox.take() => if let Some(image) = image {
                // In a task of its own: this wait may be dropped at any moment, and the image must
                // not stay taken.
                let outbox = Arc::clone(&self.outbox);
                self.tasks.spawn(async move { outbox.give_back(image.meta.id).await });
                // Taken over and over it would keep everybody awake; whoever sends the last one
                // tells.
                self.drained.cancelled().await;
            },
            () = self.drained.cancelled() => {}
        }
    }
}

async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
