//! Whether the parts of a receiver work, for whoever asks: everybody may, without a name, so what costs
//! something is asked once for all who come meanwhile.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::Room;

/// Time within which a part must answer to count as ready.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Time for which an answer counts.
const FRESH: Duration = Duration::from_secs(1);

/// What is known of the parts.
#[derive(Debug)]
pub struct Readiness {
    pub(super) catalogue: Probe<()>,
    pub(super) store: Probe<()>,
    /// How much room there is, where there is a disk.
    pub(super) disk: Probe<Option<Room>>,
    settling: AtomicBool,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::lasting(FRESH)
    }
}

impl Readiness {
    /// Answers count for this long.
    pub(super) fn lasting(fresh: Duration) -> Self {
        Self {
            catalogue: Probe::lasting(fresh),
            store: Probe::lasting(fresh),
            disk: Probe::lasting(fresh),
            settling: AtomicBool::new(false),
        }
    }

    /// Files and catalogue are being made to agree, or that is over.
    pub fn settle(&self, is_going_on: bool) {
        self.settling.store(is_going_on, Ordering::Relaxed);
    }

    pub(super) fn is_settling(&self) -> bool {
        self.settling.load(Ordering::Relaxed)
    }
}

/// What is wrong with a part: a word, and more words.
pub(super) type Trouble = (&'static str, String);

/// What a part answered. `None`: it panicked.
type Answer<T> = Option<(Instant, Result<T, Trouble>)>;

/// Asks one part, never twice at a time: one that hangs holds one thread and not one for each who asks.
#[derive(Debug)]
pub(super) struct Probe<T: Clone + Send + 'static> {
    fresh: Duration,
    asked: Mutex<Option<Asked<T>>>,
}

#[derive(Debug, Clone)]
struct Asked<T: Clone> {
    at: Instant,
    answer: Shared<BoxFuture<'static, Answer<T>>>,
}

impl<T: Clone + Send + Sync + 'static> Probe<T> {
    fn lasting(fresh: Duration) -> Self {
        Self {
            fresh,
            asked: Mutex::default(),
        }
    }

    /// What `check` says, or what it said a moment ago.
    pub(super) async fn ask<F>(&self, check: impl FnOnce() -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>> + Send + 'static,
    {
        let asked = {
            let mut last = self.asked.lock();
            match last.as_ref().filter(|asked| asked.counts(self.fresh)) {
                Some(asked) => asked.clone(),
                None => last.insert(Asked::begin(check())).clone(),
            }
        };
        match tokio::time::timeout_at(asked.at + PATIENCE, asked.answer).await {
            Ok(Some((_, answer))) => answer,
            Ok(None) => Err(("fails", super::health::SEE_LOG.to_owned())),
            Err(_) => {
                let words = format!("no answer within {} s", PATIENCE.as_secs());
                Err(("silent", words))
            }
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Asked<T> {
    /// Goes on although whoever asks has gone.
    fn begin(check: impl Future<Output = Result<T, Trouble>> + Send + 'static) -> Self {
        let checking = tokio::spawn(async move {
            let answer = check.await;
            (Instant::now(), answer)
        });
        Self {
            at: Instant::now(),
            answer: checking.map(Result::ok).boxed().shared(),
        }
    }

    fn counts(&self, fresh: Duration) -> bool {
        match self.answer.peek() {
            None => true,
            Some(answer) => answer.as_ref().is_some_and(|(at, _)| at.elapsed() < fresh),
        }
    }
}

/// For those who share one.
pub type SharedReadiness = Arc<Readiness>;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_asks_once_and_later_again() {
        let (probe, asked) = (Probe::lasting(FRESH), Arc::new(AtomicU32::new(0)));
        let ask = || {
            let asked = Arc::clone(&asked);
            probe.ask(move || async move { Ok(asked.fetch_add(1, Ordering::Relaxed)) })
        };
        let answers = futures_util::future::join_all((0..100).map(|_| ask())).await;
        assert!(answers.iter().all(|answer| *answer == Ok(0)), "{answers:?}");
        assert_eq!(ask().await, Ok(0));
        tokio::time::advance(FRESH).await;
        assert_eq!(ask().await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_hangs_is_asked_once_and_is_well_when_it_answers() {
        let (probe, gate) = (Probe::lasting(FRESH), Arc::new(Semaphore::new(0)));
        let asked = Arc::new(AtomicU32::new(0));
        let ask = || {
            let (gate, asked) = (Arc::clone(&gate), Arc::clone(&asked));
            probe.ask(move || async move {
                asked.fetch_add(1, Ordering::Relaxed);
                let _open = gate.acquire().await;
                Ok(())
            })
        };
        let begun = Instant::now();
        assert_eq!(ask().await.unwrap_err().0, "silent");
        assert_eq!(begun.elapsed(), PATIENCE);
        assert_eq!(ask().await.unwrap_err().0, "silent");
        assert_eq!(begun.elapsed(), PATIENCE, "known already");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        gate.add_permits(1);
        while ask().await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_part_that_panics_is_asked_again() {
        let probe = Probe::<()>::lasting(FRESH);
        let broken = probe.ask(|| async { panic!("on purpose") }).await;
        assert_eq!(broken.unwrap_err().0, "fails");
        assert_eq!(probe.ask(|| async { Ok(()) }).await, Ok(()));
    }
}
