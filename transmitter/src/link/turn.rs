//! The order in which images begin. Their files are opened and read side by side, and one is ready
//! before the other; what is sent first is still what was chosen first.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// An image that is not ready for so long is overtaken: a file on a disk that hangs must not hold up
/// the others.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives out turns.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    line: Arc<Mutex<Line>>,
}

#[derive(Default)]
struct Line {
    next: u64,
    /// Turns that were not passed on, in order, each with whoever waits for it.
    open: BTreeMap<u64, Option<oneshot::Sender<()>>>,
}

impl Turns {
    /// The turn behind all that were given out.
    #[must_use = "the turn is passed on when this is dropped"]
    pub fn next(&self) -> Turn {
        let mut line = self.line.lock();
        let number = line.next;
        line.next += 1;
        line.open.insert(number, None);
        Turn {
            turns: self.clone(),
            number,
        }
    }
}

impl Line {
    /// Wakes up the first, if it waits.
    fn call(&mut self) {
        if let Some(mut first) = self.open.first_entry()
            && let Some(waiting) = first.get_mut().take()
        {
            // Nobody is there any more whose wait was dropped; its turn is passed on with it.
            let _ = waiting.send(());
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("next", &self.next)
            .field("open", &self.open.keys())
            .finish()
    }
}

/// A place in the order; dropped, it is passed on.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    number: u64,
}

impl Turn {
    /// Resolves when all before it have begun, given up, or let others wait for too long.
    pub async fn come(&self) {
        let mut called = {
            let mut line = self.turns.line.lock();
            let (sender, called) = oneshot::channel();
            let first = line.open.first_key_value().map(|(number, _)| *number);
            match line.open.get_mut(&self.number) {
                Some(waiting) if first != Some(self.number) => *waiting = Some(sender),
                _ => return,
            }
            called
        };
        if tokio::time::timeout(PATIENCE, &mut called).await.is_ok() {
            return;
        }
        {
            // Who is ready and waits as well goes before this one still.
            let mut line = self.turns.line.lock();
            line.open
                .retain(|number, waiting| *number >= self.number || waiting.is_some());
            line.call();
        }
        // Whoever is called begins at once or gives up, and passes it on. An error would mean that
        // nobody is in front any more.
        let _ = called.await;
    }

    /// The image has begun.
    pub fn pass(&self) {
        let mut line = self.turns.line.lock();
        line.open.remove(&self.number);
        line.call();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pass();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::time::Instant;

    use super::*;

    fn is_there(turn: std::pin::Pin<&mut impl Future>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(turn.poll(&mut context), Poll::Ready(_))
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_the_order_in_which_they_were_given_out() {
        let turns = Turns::default();
        let given: Vec<Turn> = (0..3).map(|_| turns.next()).collect();
        let (mut third, mut second) = (pin!(given[2].come()), pin!(given[1].come()));
        assert!(!is_there(third.as_mut()) && !is_there(second.as_mut()));
        assert!(is_there(pin!(given[0].come())));
        given[0].pass();
        assert!(!is_there(third.as_mut()) && is_there(second.as_mut()));
        given[1].pass();
        assert!(is_there(third.as_mut()));
        // It came, and stays.
        assert!(is_there(pin!(given[2].come())) && is_there(pin!(given[0].come())));
        given[2].pass();
        let fourth = turns.next();
        assert!(is_there(pin!(fourth.come())));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_holds_up_nobody() {
        let turns = Turns::default();
        let (first, second, third) = (turns.next(), turns.next(), turns.next());
        let begun = Instant::now();
        // A wait that was dropped is called in vain.
        assert!(!is_there(pin!(second.come())));
        let mut waiting = pin!(third.come());
        assert!(!is_there(waiting.as_mut()));
        drop(first);
        assert!(!is_there(waiting.as_mut()));
        drop(second);
        waiting.await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_as_well_is_not_overtaken() {
        let turns = Turns::default();
        let given: Vec<Turn> = (0..3).map(|_| turns.next()).collect();
        let late = async {
            tokio::time::sleep(PATIENCE / 2).await;
            given[1].come().await;
            let came = Instant::now();
            given[1].pass();
            came
        };
        let early = async {
            given[2].come().await;
            Instant::now()
        };
        let begun = Instant::now();
        let (late, early) = tokio::join!(late, early);
        assert!(late <= early && early - begun == PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_ready_in_time_is_overtaken_once_by_all() {
        let turns = Turns::default();
        let given: Vec<Turn> = (0..4).map(|_| turns.next()).collect();
        let begun = Instant::now();
        given[1].come().await;
        assert_eq!(begun.elapsed(), PATIENCE);
        given[1].pass();
        given[2].come().await;
        given[2].pass();
        given[3].come().await;
        given[0].come().await;
        assert_eq!(begun.elapsed(), PATIENCE);
    }
}
