//! What programs that have done much take for an image, against what fresh ones take at the same time.
//!
//! CPU time of an image follows the machine: on virtual disks it was seen to double within minutes,
//! for the same programs at the same work. What began and what ended minutes apart says
//! nothing about a tenth, therefore; what works side by side does.

use anyhow::{Result, ensure};

use super::pair::{Seen, Time, us_per_image};

/// Slices of the time, for the spread.
const SLICES: usize = 10;

/// Looks at both pairs at the same times: old, fresh.
#[derive(Default)]
pub(super) struct Beside(Vec<[Seen; 2]>);

/// How many times what the fresh one takes the old one takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ratio {
    pub(super) whole: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Beside {
    pub(super) fn add(&mut self, old: Seen, fresh: Seen) {
        self.0.push([old, fresh]);
    }

    /// Images of the old and of the fresh pair that were compared.
    pub(super) fn images(&self) -> [u64; 2] {
        match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) => [0, 1].map(|pair| last[pair].images - first[pair].images),
            _ => [0; 2],
        }
    }

    /// Compares the time of processors that one side of both takes for an image.
    pub(super) fn work(&self, side: usize, of: Time) -> Result<Ratio> {
        self.compare(|from, to| of(us_per_image(from, to, side)))
    }

    /// Compares how long an image takes: both had the same time for theirs.
    pub(super) fn pace(&self) -> Result<Ratio> {
        self.compare(|from, to| 1.0 / (to.images - from.images) as f64)
    }

    fn compare(&self, cost: impl Fn(&Seen, &Seen) -> f64) -> Result<Ratio> {
        ensure!(
            self.0.len() > SLICES,
            "both were not seen for long enough: take more images"
        );
        let last = self.0.len() - 1;
        let between = |from: usize, to: usize| {
            let [old, fresh] = [0, 1].map(|pair| cost(&self.0[from][pair], &self.0[to][pair]));
            old / fresh
        };
        let slice = |slice: usize| between(slice * last / SLICES, (slice + 1) * last / SLICES);
        let slices = (0..SLICES).map(slice);
        let (least, most) = slices.fold((f64::INFINITY, 0.0_f64), |(least, most), ratio| {
            (least.min(ratio), most.max(ratio))
        });
        let whole = between(0, last);
        ensure!(whole.is_finite() && whole > 0.0, "one of both did nothing");
        Ok(Ratio { whole, least, most })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::pair::seen;
    use super::*;

    const TIMES: [Time; 2] = [|times| times.user, |times| times.with_kernel];

    fn is(ratio: Result<Ratio>, expected: f64) {
        let Ratio { whole, least, most } = ratio.expect("a ratio");
        for ratio in [whole, least, most] {
            assert!((ratio - expected).abs() < 1e-6, "{ratio}");
        }
    }

    #[test]
    fn a_machine_that_becomes_slower_is_no_growth_and_more_time_than_a_fresh_one_takes_is() {
        let mut beside = Beside::default();
        // Of each pair, side and kind of time.
        let took = [[[8.0, 10.0], [6.0, 12.0]], [[4.0, 5.0], [2.0, 5.0]]];
        let mut times = [[[0.0; 2]; 2]; 2];
        for look in 0..=100_u64 {
            // Twice as slow in the end; the old pair does more images.
            let slow = 1e-3 * (1.0 + look as f64 / 100.0);
            let [old, fresh] = [0, 1].map(|pair: usize| {
                for (side, kind) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    times[pair][side][kind] += took[pair][side][kind] * slow;
                }
                let sides = times[pair].map(|side| side.map(Duration::from_secs_f64));
                seen(1_000 + look * [10, 5][pair], sides)
            });
            beside.add(old, fresh);
        }
        assert_eq!(beside.images(), [1_000, 500]);
        for (side, kind, expected) in [(0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.5), (1, 1, 1.2)] {
            is(beside.work(side, TIMES[kind]), expected);
        }
        is(beside.pace(), 0.5);
    }

    #[test]
    fn too_little_is_no_comparison() {
        let mut beside = Beside::default();
        assert!(beside.work(0, TIMES[0]).is_err());
        for look in 0..20 {
            let same = seen(look, [[Duration::ZERO; 2]; 2]);
            beside.add(same, same);
        }
        assert!(beside.work(0, TIMES[0]).is_err());
    }
}
