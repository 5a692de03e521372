//! When to try again: arithmetic, without a clock or a die.

use std::time::Duration;

use super::Throttle;

/// How calls are tried again.
#[derive(Debug, Clone)]
pub struct RetryOptions {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// The waiting times between them.
    pub backoff: Backoff,
    /// Bytes of a request that are kept for the next attempt. A longer one is sent once.
    pub max_kept_bytes: usize,
    /// Stops retries while most calls fail; none for never.
    pub throttle: Option<Throttle>,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Backoff::default(),
            max_kept_bytes: 4 * 1024 * 1024,
            throttle: Some(Throttle::default()),
        }
    }
}

/// Waiting times that double up to the longest, and are then changed at random by a fifth.
///
/// The n-th is `min(initial * 2^(n-1), max) * random(0.8, 1.2)`, as gRFC A6 has it since it took
/// over the jitter of the connection backoff: clients that failed together come back apart, and
/// none of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first waiting time, before chance.
    pub initial: Duration,
    /// The longest, before chance.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(1),
        }
    }
}

impl Backoff {
    /// The waiting time after so many failures, the first being 1. `chance` is from 0 to 1.
    pub fn delay(&self, failures: u32, chance: f64) -> Duration {
        // The longest delay is reached long before the thirty-second.
        let doublings = failures.saturating_sub(1).min(31);
        let ceiling = self.initial.saturating_mul(1 << doublings).min(self.max);
        ceiling.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_from_a_tenth_of_a_second_to_a_whole_one() {
        let backoff = Backoff::default();
        for (failures, millis) in [
            (1, 100),
            (2, 200),
            (3, 400),
            (4, 800),
            (5, 1_000),
            (u32::MAX, 1_000),
        ] {
            let middle = Duration::from_millis(millis);
            assert_eq!(backoff.delay(failures, 0.5), middle);
            assert_eq!(backoff.delay(failures, 0.0), middle.mul_f64(0.8));
            assert_eq!(backoff.delay(failures, 1.0), middle.mul_f64(1.2));
        }
    }
}
