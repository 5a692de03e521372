//! Waiting times between attempts: exponential and random, so that many transmitters that lost the
//! same receiver do not come back all at once ("Exponential Backoff And Jitter", AWS Architecture
//! Blog, 2015).

use std::time::Duration;

use crate::config::RetryOptions;

/// The time before an image is sent again after so many failures in a row, the first being 1:
/// anything up to the ceiling, which doubles with each ("full jitter").
pub(super) fn pause(options: &RetryOptions, failures: u32) -> Duration {
    // The longest pause is reached long before the thirty-second.
    let doublings = failures.saturating_sub(1).min(31);
    let ceiling = options
        .initial
        .saturating_mul(1 << doublings)
        .min(options.max);
    ceiling.mul_f64(fastrand::f64()).max(SHORTEST.min(ceiling))
}

/// Even by chance nothing is tried again at once.
const SHORTEST: Duration = Duration::from_millis(1);

/// A sequence of waiting times between attempts to connect. Half of each is certain ("equal
/// jitter"): a receiver that is down is not to be hammered at.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// The sequence that `options` describe.
    pub fn new(options: &RetryOptions) -> Self {
        Self {
            initial: options.initial,
            max: options.max,
            ceiling: options.initial,
        }
    }

    /// The next waiting time: at random between half of the present ceiling and all of it; the
    /// ceiling doubles up to the longest waiting time.
    #[allow(clippy::should_implement_trait, reason = "the sequence has no end")]
    pub fn next(&mut self) -> Duration {
        let ceiling = self.ceiling.min(self.max);
        self.ceiling = ceiling.saturating_mul(2);
        ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Begins again: something worked.
    pub fn reset(&mut self) {
        self.ceiling = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: RetryOptions = RetryOptions {
        initial: Duration::from_millis(100),
        max: Duration::from_secs(1),
        attempts: None,
        give_up_after: None,
    };

    #[test]
    fn doubles_up_to_the_longest_and_begins_again() {
        let mut backoff = Backoff::new(&OPTIONS);
        for ceiling in [100, 200, 400, 800, 1_000, 1_000] {
            let pause = backoff.next();
            let ceiling = Duration::from_millis(ceiling);
            assert!(
                pause >= ceiling / 2 && pause <= ceiling,
                "{pause:?} of {ceiling:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }

    #[test]
    fn an_image_waits_for_any_part_of_a_ceiling_that_doubles() {
        for (failures, ceiling) in [(1, 100), (2, 200), (4, 800), (5, 1_000), (u32::MAX, 1_000)] {
            let ceiling = Duration::from_millis(ceiling);
            let pauses: Vec<_> = (0..1_000).map(|_| pause(&OPTIONS, failures)).collect();
            let (shortest, longest) = (pauses.iter().min(), pauses.iter().max());
            assert!(
                shortest.is_some_and(|shortest| *shortest >= SHORTEST && *shortest < ceiling / 4)
            );
            assert!(
                longest.is_some_and(|longest| *longest <= ceiling && *longest > ceiling / 4 * 3)
            );
        }
    }
}
