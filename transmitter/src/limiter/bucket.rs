//! The bucket itself. Pure: its time comes from the caller.

use std::time::Duration;

use tokio::time::Instant;

/// What may be saved up while nobody sends: the cap of this time.
const BURST: Duration = Duration::from_millis(100);

/// One byte, in the unit of the bucket: bytes per second times nanoseconds, so that nothing is
/// ever rounded away.
const BYTE: i128 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Bucket {
    /// Below zero when more was sent than the time so far allows.
    level: i128,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { level: 0, at: now }
    }

    /// The time until something may be sent under this cap, in bytes per second; `None`: now.
    pub(super) fn pause(&mut self, now: Instant, cap: Option<u64>) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = now;
        let Some(cap) = cap.map(i128::from).filter(|cap| *cap > 0) else {
            // What was owed under a cap that is over is forgiven.
            self.level = 0;
            return None;
        };
        let (earned, burst) = (nanos(elapsed) * cap, nanos(BURST) * cap);
        self.level = (self.level + earned).min(burst);
        if self.level >= 0 {
            return None;
        }
        // Rounded up: waking up a nanosecond early would mean to wait twice.
        let left = (-self.level + cap - 1) / cap;
        Some(Duration::from_nanos(
            u64::try_from(left).unwrap_or(u64::MAX),
        ))
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.level -= i128::from(bytes) * BYTE;
    }
}

fn nanos(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX >> 64)
}
