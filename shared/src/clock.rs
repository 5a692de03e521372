//! Wall-clock times of two devices, and the offset between their clocks.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A time of a wall clock: nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    /// This device's wall clock now.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Nanoseconds from `earlier` to this time; negative when `earlier` is the later one.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time that is this much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        let nanos = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl From<SystemTime> for UnixNanos {
    fn from(time: SystemTime) -> Self {
        let nanos = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos)
            }
        };
        Self(nanos)
    }
}

/// RFC 3339 in UTC with microseconds, for example `2026-01-02T03:04:05.000006Z`.
impl fmt::Display for UnixNanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{} ns", self.0),
        }
    }
}

/// One exchange of four timestamps (RFC 5905, section 8), in nanoseconds.
///
/// `t1` and `t4` are the transmitter's clock at sending and at arrival of the answer, `t2` and `t3`
/// the receiver's at arrival and at answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSample {
    /// Ping sent, transmitter's clock.
    pub t1: UnixNanos,
    /// Ping received, receiver's clock.
    pub t2: UnixNanos,
    /// Pong sent, receiver's clock.
    pub t3: UnixNanos,
    /// Pong received, transmitter's clock.
    pub t4: UnixNanos,
}

impl ClockSample {
    /// Receiver's clock minus transmitter's, if both ways took the same time.
    pub fn offset_ns(&self) -> i64 {
        let sum = i128::from(self.t2.since(self.t1)) + i128::from(self.t3.since(self.t4));
        i64::try_from(sum / 2).unwrap_or(0)
    }

    /// Time on the way, there and back.
    pub fn round_trip(&self) -> Duration {
        let nanos = self
            .t4
            .since(self.t1)
            .saturating_sub(self.t3.since(self.t2));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }

    /// Whether the four times can belong together: no clock ran backwards between them.
    fn is_sane(&self) -> bool {
        self.t4 >= self.t1 && self.t3 >= self.t2 && self.t4.since(self.t1) >= self.t3.since(self.t2)
    }
}

/// Receiver's clock minus transmitter's clock, and how far off that may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockEstimate {
    /// Receiver's clock minus transmitter's, nanoseconds.
    pub offset_ns: i64,
    /// The true offset lies within plus or minus this much: half the shortest round trip.
    pub error_ns: u64,
    /// Samples that the estimate rests on.
    pub samples: u32,
}

impl ClockEstimate {
    /// Time from `sent` (transmitter's clock) to `received` (receiver's clock), never below zero.
    pub fn one_way(&self, sent: UnixNanos, received: UnixNanos) -> Duration {
        let nanos = received.since(sent).saturating_sub(self.offset_ns);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

/// Keeps the last eight samples and believes the one with the shortest round trip, as NTP's clock
/// filter does (RFC 5905, section 10): a short round trip leaves little room for asymmetry.
#[derive(Debug, Clone, Default)]
pub struct ClockFilter {
    samples: VecDeque<ClockSample>,
    taken: u32,
}

impl ClockFilter {
    /// Samples kept.
    pub const DEPTH: usize = 8;

    /// Takes one sample; samples that cannot be true are ignored.
    pub fn add(&mut self, sample: ClockSample) {
        if !sample.is_sane() {
            return;
        }
        if self.samples.len() == Self::DEPTH {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.taken = self.taken.saturating_add(1);
    }

    /// The present estimate, `None` before the first sample.
    pub fn estimate(&self) -> Option<ClockEstimate> {
        let best = self
            .samples
            .iter()
            .min_by_key(|sample| sample.round_trip())?;
        let half = best.round_trip().as_nanos().div_ceil(2);
        Some(ClockEstimate {
            offset_ns: best.offset_ns(),
            error_ns: u64::try_from(half).unwrap_or(u64::MAX),
            samples: self.taken,
        })
    }

    /// Drift of the receiver's clock against the transmitter's, in parts per million: the slope of
    /// the offsets over time by least squares. `None` with fewer than three samples or when they
    /// span less than a second.
    pub fn drift_ppm(&self) -> Option<f64> {
        let first = self.samples.front()?.t1;
        let points: Vec<(f64, f64)> = self
            .samples
            .iter()
            .map(|s| {
                (
                    s.t1.since(first) as f64,
                    // In floating point: a receiver may claim any time.
                    s.offset_ns() as f64 - self.samples[0].offset_ns() as f64,
                )
            })
            .collect();
        let span = points.last()?.0;
        if points.len() < 3 || span < 1e9 {
            return None;
        }
        let n = points.len() as f64;
        let (mean_x, mean_y) = points
            .iter()
            .fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (x, y) in points {
            covariance += (x - mean_x) * (y - mean_y);
            variance += (x - mean_x) * (x - mean_x);
        }
        (variance > 0.0).then(|| covariance / variance * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(t1: i64, there: i64, back: i64, offset: i64) -> ClockSample {
        let t2 = t1 + there + offset;
        ClockSample {
            t1: UnixNanos(t1),
            t2: UnixNanos(t2),
            t3: UnixNanos(t2 + 10),
            t4: UnixNanos(t1 + there + 10 + back),
        }
    }

    #[test]
    fn believes_the_sample_with_the_shortest_round_trip() {
        let mut filter = ClockFilter::default();
        assert_eq!(filter.estimate(), None);
        filter.add(sample(0, 9_000, 1_000, 500_000));
        filter.add(sample(1_000_000, 100, 120, 500_000));
        filter.add(sample(2_000_000, 1_000, 50_000, 500_000));
        let estimate = filter.estimate().expect("three samples");
        assert_eq!(estimate.error_ns, 110);
        assert!((estimate.offset_ns - 500_000).unsigned_abs() <= estimate.error_ns);
        assert_eq!(estimate.samples, 3);
    }

    #[test]
    fn the_true_offset_lies_within_the_error() {
        for (there, back) in [(0, 1_000), (1_000, 0), (300, 700), (500, 500)] {
            for offset in [-3_600_000_000_000, -1, 0, 77, 86_400_000_000_000] {
                let mut filter = ClockFilter::default();
                filter.add(sample(1_700_000_000_000_000_000, there, back, offset));
                let estimate = filter.estimate().expect("one sample");
                assert!((estimate.offset_ns - offset).unsigned_abs() <= estimate.error_ns);
            }
        }
    }

    #[test]
    fn forgets_all_but_the_last_eight_samples() {
        let mut filter = ClockFilter::default();
        filter.add(sample(0, 1, 1, 7));
        for i in 1..=8 {
            filter.add(sample(i * 1_000, 500, 500, 9));
        }
        assert_eq!(filter.estimate().map(|e| e.offset_ns), Some(9));
    }

    #[test]
    fn ignores_times_that_cannot_be_true() {
        let mut filter = ClockFilter::default();
        filter.add(ClockSample {
            t1: UnixNanos(100),
            t2: UnixNanos(0),
            t3: UnixNanos(50),
            t4: UnixNanos(90),
        });
        assert_eq!(filter.estimate(), None);
    }

    #[test]
    fn finds_a_drift_of_fifty_ppm() {
        let mut filter = ClockFilter::default();
        for second in 0..8_i64 {
            filter.add(sample(second * 1_000_000_000, 100, 100, second * 50_000));
        }
        let drift = filter
            .drift_ppm()
            .expect("eight samples over seven seconds");
        assert!((drift - 50.0).abs() < 0.1, "{drift}");
    }

    #[test]
    fn claims_beyond_all_bounds_do_no_harm() {
        let mut filter = ClockFilter::default();
        for (second, claim) in [i64::MAX, i64::MIN, i64::MAX].into_iter().enumerate() {
            let t1 = UnixNanos(i64::try_from(second).expect("small") * 1_000_000_000);
            let (t2, t4) = (UnixNanos(claim), UnixNanos(t1.0 + 10));
            filter.add(ClockSample { t1, t2, t3: t2, t4 });
        }
        let estimate = filter.estimate().expect("three samples");
        estimate.one_way(UnixNanos(i64::MIN), UnixNanos(i64::MAX));
        assert!(filter.drift_ppm().is_none_or(f64::is_finite));
    }

    #[test]
    fn writes_rfc_3339() {
        assert_eq!(
            UnixNanos(1_767_323_045_000_006_000).to_string(),
            "2026-01-02T03:04:05.000006Z"
        );
    }
}
