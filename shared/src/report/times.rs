//! Distributions of times in little memory.

use hdrhistogram::Histogram;

use super::model::Distribution;

/// Longest time told apart in percentiles: one hour.
const LONGEST_NS: u64 = 3_600 * 1_000_000_000;

/// Significant digits of percentiles.
const DIGITS: u8 = 3;

/// A growing distribution of times.
#[derive(Debug)]
pub(super) struct Times {
    histogram: Histogram<u64>,
    min: u64,
    max: u64,
    sum: u128,
}

impl Times {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)
            .expect("the bounds are constants that a histogram takes");
        Self {
            histogram,
            min: u64::MAX,
            max: 0,
            sum: 0,
        }
    }

    pub(super) fn record(&mut self, nanos: Option<u64>) {
        let Some(nanos) = nanos else { return };
        self.histogram.saturating_record(nanos);
        self.min = self.min.min(nanos);
        self.max = self.max.max(nanos);
        self.sum += u128::from(nanos);
    }

    pub(super) fn sum(&self) -> u64 {
        u64::try_from(self.sum).unwrap_or(u64::MAX)
    }

    pub(super) fn distribution(&self) -> Option<Distribution> {
        let count = self.histogram.len();
        if count == 0 {
            return None;
        }
        // The histogram tells the upper end of a bucket, which may lie beyond the greatest value.
        let at = |quantile| {
            self.histogram
                .value_at_quantile(quantile)
                .clamp(self.min, self.max)
        };
        let mean = (self.sum + u128::from(count) / 2) / u128::from(count);
        Some(Distribution {
            count,
            min: self.min,
            mean: u64::try_from(mean).unwrap_or(u64::MAX),
            p50: at(0.50),
            p90: at(0.90),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: self.max,
            sum: self.sum(),
        })
    }
}
