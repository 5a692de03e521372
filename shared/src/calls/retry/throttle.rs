//! The token bucket of gRFC A6: while most calls fail, trying each of them again would only add to
//! a server's troubles.

/// Tokens that failures take and successes give back. Tries are repeated while more than half of
/// them are there.
#[derive(Debug, Clone, PartialEq)]
pub struct Throttle {
    max: f64,
    ratio: f64,
    tokens: f64,
}

impl Default for Throttle {
    /// The most that A6 allows: a thousand tokens, and a tenth of one for a success. A server that
    /// goes down with hundreds of calls in flight is no reason to give them up.
    fn default() -> Self {
        Self::new(1_000, 0.1)
    }
}

impl Throttle {
    /// A full bucket of `max` tokens, into which each success puts `ratio` of one.
    pub fn new(max: u32, ratio: f64) -> Self {
        let max = f64::from(max);
        Self {
            max,
            ratio,
            tokens: max,
        }
    }

    /// A call got through.
    pub(super) fn success(&mut self) {
        self.tokens = (self.tokens + self.ratio).min(self.max);
    }

    /// An attempt failed; whether another is allowed.
    pub(super) fn failure(&mut self) -> bool {
        self.tokens = (self.tokens - 1.0).max(0.0);
        self.tokens > self.max / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_stop_retries_and_successes_allow_them_again() {
        let mut throttle = Throttle::new(10, 0.5);
        let allowed = (0..10).filter(|_| throttle.failure()).count();
        assert_eq!(allowed, 4);
        for _ in 0..12 {
            throttle.success();
        }
        assert!(!throttle.failure());
        for _ in 0..4 {
            throttle.success();
        }
        assert!(throttle.failure());
    }
}
