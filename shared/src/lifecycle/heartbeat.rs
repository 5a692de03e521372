//! Whether the process lives: the question behind `WATCHDOG=1`.
//!
//! What is asked is whether the process can work, not whether what it works with does. A disk that
//! hangs or a receiver that is gone shows at `/readyz`; to kill the process for it mends nothing and would
//! begin anew for ever. So the question goes through the threads of the runtime and through the state of
//! the daemon, and touches no file and no socket: a deadlock, a task that holds its thread, timers that
//! do not go off.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::runtime::Handle;

use super::manager;

/// How it goes, in a few words. Asked on a thread of the runtime, it goes through the locks of the daemon's
/// state.
pub type Words = dyn Fn() -> String + Send + Sync;

/// Time between two words to a manager that waits for no sign of life, and least time between different
/// words to one that does.
const SELDOM: Duration = Duration::from_secs(10);

/// Shortest time between two signs of life.
const SHORTEST: Duration = Duration::from_millis(10);

/// Gives signs of life until it is dropped.
#[derive(Debug)]
#[must_use = "it ends when this is dropped"]
pub struct Heartbeat {
    _end: SyncSender<()>,
}

impl Heartbeat {
    /// Of this runtime, when a service manager wants to know. It has a thread of its own, so that it sees a
    /// runtime that stands still.
    pub fn begin(runtime: &Handle, words: Arc<Words>) -> Option<Self> {
        if !manager::is_there() {
            return None;
        }
        let patience = manager::patience();
        let interval = patience.map_or(SELDOM, |patience| (patience / 2).max(SHORTEST));
        let (end, ended) = sync_channel(1);
        let runtime = runtime.clone();
        let watch = Watch {
            runtime,
            words,
            interval,
            watched: patience.is_some(),
        };
        let thread = std::thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || watch.run(&ended));
        match thread {
            Ok(_) => Some(Self { _end: end }),
            Err(error) => {
                tracing::warn!(%error, "no sign of life can be given");
                None
            }
        }
    }
}

struct Watch {
    runtime: Handle,
    words: Arc<Words>,
    interval: Duration,
    watched: bool,
}

impl Watch {
    fn run(self, ended: &Receiver<()>) {
        let mut workers = Workers::default();
        let mut said = Said::default();
        let mut was_alive = true;
        loop {
            let words = ask(&self.runtime, &self.words, self.interval);
            let stuck = workers.stuck(&self.runtime);
            let alive = words.is_some() && stuck == 0;
            if was_alive && !alive {
                tracing::error!(
                    threads = stuck,
                    answers = words.is_some(),
                    "this process hangs; its service manager is given no sign of life"
                );
            }
            was_alive = alive;
            let news = words.filter(|words| said.is_news(words, self.interval));
            manager::beat(alive && self.watched, news.as_deref());
            match ended.recv_timeout(self.interval) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// What was said last, and how long ago.
#[derive(Debug, Default)]
struct Said {
    words: String,
    /// Time that has passed since, as far as it matters.
    age: Option<Duration>,
}

impl Said {
    /// Whether `words`, `after` the last question, are worth telling.
    fn is_news(&mut self, words: &str, after: Duration) -> bool {
        let age = self.age.map(|age| age.saturating_add(after));
        let is_news = words != self.words && age.is_none_or(|age| age >= SELDOM);
        if is_news {
            words.clone_into(&mut self.words);
        }
        self.age = if is_news { Some(Duration::ZERO) } else { age };
        is_news
    }
}

/// Asks a runtime for `words`: its threads run what is given to them, its timers go off, and the state
/// behind the words is not locked for ever.
fn ask(runtime: &Handle, words: &Arc<Words>, within: Duration) -> Option<String> {
    let (answer, answered) = sync_channel(1);
    let words = Arc::clone(words);
    runtime.spawn(async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        // Whoever asked may have lost patience.
        let _ = answer.try_send(words());
    });
    answered.recv_timeout(within).ok()
}

/// The threads of a runtime, as they were when they were looked at last. Others take over what waits for
/// a thread that hangs, all but one task, so that the answer to a question does not show it.
#[derive(Debug, Default)]
struct Workers(Vec<(u64, Duration)>);

impl Workers {
    /// How many have neither slept nor finished anything since the last look.
    #[cfg(target_has_atomic = "64")]
    fn stuck(&mut self, runtime: &Handle) -> usize {
        let metrics = runtime.metrics();
        let looks = (0..metrics.num_workers()).map(|worker| {
            let turns = metrics.worker_park_unpark_count(worker);
            (turns, metrics.worker_total_busy_duration(worker))
        });
        let now: Vec<_> = looks.collect();
        let before = std::mem::replace(&mut self.0, now);
        let is_awake = |turns: u64| turns.is_multiple_of(2);
        let pairs = before.iter().zip(&self.0);
        pairs
            .filter(|(before, now)| before == now && is_awake(now.0))
            .count()
    }

    /// Counts of so many bits are not to be had here.
    #[cfg(not(target_has_atomic = "64"))]
    fn stuck(&mut self, _runtime: &Handle) -> usize {
        self.0.clear();
        0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn runtime(threads: usize) -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .unwrap()
    }

    /// Holds a thread of `runtime` until the sender is dropped.
    fn hold(runtime: &Handle) -> SyncSender<()> {
        let (held, holding) = sync_channel(1);
        let (release, released) = sync_channel::<()>(1);
        runtime.spawn(async move {
            held.send(()).unwrap();
            let _ = released.recv();
        });
        holding.recv().unwrap();
        release
    }

    fn words() -> Arc<Words> {
        Arc::new(|| "well".to_owned())
    }

    #[test]
    fn a_runtime_that_works_answers_and_one_that_stands_still_does_not() {
        let runtime = runtime(1);
        let handle = runtime.handle();
        assert_eq!(ask(handle, &words(), LONG).as_deref(), Some("well"));
        let held = hold(handle);
        assert_eq!(ask(handle, &words(), SHORTEST), None);
        drop(held);
        assert_eq!(ask(handle, &words(), LONG).as_deref(), Some("well"));
    }

    #[test]
    fn a_state_that_is_locked_for_ever_gives_no_words() {
        let runtime = runtime(2);
        let state = Arc::new(std::sync::Mutex::new("well".to_owned()));
        let locked = Arc::clone(&state);
        let words: Arc<Words> = Arc::new(move || locked.lock().unwrap().clone());
        let held = state.lock().unwrap();
        assert_eq!(ask(runtime.handle(), &words, SHORTEST), None);
        drop(held);
        assert!(ask(runtime.handle(), &words, LONG).is_some());
    }

    #[test]
    #[cfg(target_has_atomic = "64")]
    fn one_thread_that_hangs_among_others_is_seen() {
        let runtime = runtime(2);
        let handle = runtime.handle();
        let mut workers = Workers::default();
        let held = hold(handle);
        workers.stuck(handle);
        // The others go on, which is why the question alone shows nothing.
        assert!(ask(handle, &words(), LONG).is_some());
        assert_eq!(workers.stuck(handle), 1);
        drop(held);
        while workers.stuck(handle) > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn words_are_told_when_they_are_new_and_not_too_often() {
        let mut said = Said::default();
        let second = Duration::from_secs(1);
        assert!(said.is_news("0 images", second));
        assert!(!said.is_news("0 images", LONG));
        assert!(said.is_news("1 image", second));
        assert!(!said.is_news("2 images", second), "too soon");
        assert!(said.is_news("2 images", SELDOM));
    }
}
