//! Decodes whole images side by side with everything else: few at a time, and each for a limited time.
//!
//! A thread that decodes cannot be ended from outside. Most decoders stop by themselves when their bytes
//! cease to come ([`decode_fully`](super::inspect::decode_fully)); one that has all of them already (JPEG)
//! goes on until it is done, in its place, and its image is not waited for any longer. When all places
//! are taken by such ones, images are turned down for a later try rather than kept waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

/// Images that are decoded at a time.
const PLACES: usize = 2;

/// Time that a decoder has on top to notice that its time is over.
const NOTICING: Duration = Duration::from_millis(500);

/// Time between two looks at who has the places.
const LOOK: Duration = Duration::from_millis(250);

/// The places in which images are decoded.
#[derive(Debug)]
pub(super) struct Decoders {
    places: Arc<Semaphore>,
    /// Places of those for which nobody waits any more.
    overdue: Arc<AtomicUsize>,
    timeout: Duration,
}

/// What came of decoding.
#[derive(Debug)]
pub(super) enum Decoded<T> {
    /// It came to its end.
    Done(T),
    /// It panicked.
    Failed(JoinError),
    /// It took too long.
    Overdue,
    /// It was not begun: every place is taken by an image that takes too long.
    Busy,
}

impl Decoders {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES)),
            overdue: Arc::default(),
            timeout,
        }
    }

    /// Places that are taken, and all there are.
    pub(super) fn in_use(&self) -> (usize, usize) {
        (
            PLACES.saturating_sub(self.places.available_permits()),
            PLACES,
        )
    }

    /// Runs `work` on a thread of its own as soon as there is a place; it is told until when.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(Instant) -> T + Send + 'static,
    ) -> Decoded<T> {
        let Some(place) = self.place().await else {
            return Decoded::Busy;
        };
        let (begun, begins) = tokio::sync::oneshot::channel();
        let timeout = self.timeout;
        let mut working = tokio::task::spawn_blocking(move || {
            let place = place;
            // There may have been no thread until now.
            let _ = begun.send(());
            let done = work(Instant::now() + timeout);
            drop(place);
            done
        });
        let _ = begins.await;
        match tokio::time::timeout(timeout + NOTICING, &mut working).await {
            Ok(Ok(done)) => Decoded::Done(done),
            Ok(Err(panic)) => Decoded::Failed(panic),
            Err(_) => {
                self.leave_behind(working);
                Decoded::Overdue
            }
        }
    }

    fn leave_behind<T: Send + 'static>(&self, working: tokio::task::JoinHandle<T>) {
        let overdue = Arc::clone(&self.overdue);
        overdue.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            drop(working.await);
            overdue.fetch_sub(1, Ordering::Relaxed);
        });
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let waiting = Arc::clone(&self.places).acquire_owned();
        tokio::pin!(waiting);
        loop {
            match tokio::time::timeout(LOOK, waiting.as_mut()).await {
                // The semaphore is never closed.
                Ok(place) => return place.ok(),
                Err(_) if self.overdue.load(Ordering::Relaxed) >= PLACES => return None,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Work that goes on until it is told to end.
    fn endless() -> (mpsc::Sender<()>, impl FnOnce(Instant) + Send + 'static) {
        let (end, ends) = mpsc::channel();
        (end, move |_| {
            let _ = ends.recv();
        })
    }

    #[tokio::test]
    async fn what_takes_too_long_is_waited_for_no_longer_and_keeps_its_place() {
        let decoders = Decoders::new(Duration::from_millis(1));
        let (one, first) = endless();
        assert!(matches!(decoders.run(first).await, Decoded::Overdue));
        // There is another place.
        let quick = decoders.run(|until| until).await;
        assert!(matches!(quick, Decoded::Done(_)), "{quick:?}");
        let (two, second) = endless();
        assert!(matches!(decoders.run(second).await, Decoded::Overdue));
        let busy = decoders.run(|_| ()).await;
        assert!(matches!(busy, Decoded::Busy), "{busy:?}");
        drop((one, two));
        let again = decoders.run(|_| ()).await;
        assert!(matches!(again, Decoded::Done(())), "{again:?}");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_place_is_not_late_for_it() {
        let decoders = Arc::new(Decoders::new(Duration::from_secs(3_600)));
        let (ends, works): (Vec<_>, Vec<_>) = (0..PLACES).map(|_| endless()).unzip();
        let working = works.into_iter().map(|work| {
            let decoders = Arc::clone(&decoders);
            tokio::spawn(async move { decoders.run(work).await })
        });
        let working: Vec<_> = working.collect();
        while decoders.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting = tokio::spawn({
            let decoders = Arc::clone(&decoders);
            async move { decoders.run(|until| until > Instant::now()).await }
        });
        drop(ends);
        assert!(matches!(waiting.await.unwrap(), Decoded::Done(true)));
        for one in working {
            assert!(matches!(one.await.unwrap(), Decoded::Done(())));
        }
        let failed = decoders.run(|_| panic!("a decoder")).await;
        assert!(matches!(failed, Decoded::Failed(_)));
    }
}
