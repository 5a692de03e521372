//! Waiting times between attempts: exponential, with full jitter, so that many transmitters that
//! lost the same receiver do not come back all at once ("Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015).

use std::time::Duration;

use crate::config::RetryOptions;

/// A sequence of waiting times.
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

    #[test]
    fn doubles_up_to_the_longest_and_begins_again() {
        let mut backoff = Backoff::new(&RetryOptions {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(1),
            attempts: None,
            give_up_after: None,
        });
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
}
