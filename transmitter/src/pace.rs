//! When images are taken: a schedule without a clock.
//!
//! The caller holds the clock. It asks [`Pace::next`] when the next image is to be taken, waits
//! until then, takes it, and tells [`Pace::delivered`] when its delivery ended. All times are
//! counted from the start of the run.
//!
//! There are two kinds of schedule:
//!
//! - **Closed loop** (`rate` is not set): the next image is due `delay` after the *end of the
//!   former image's delivery*, as in "send, wait a second, send". With a delay of zero nothing is
//!   waited for: images are taken as fast as the source and the outbox accept them.
//! - **Timetable** (`rate` is set): image *k* (counted from zero) is due at
//!   `initial_delay + k / rate`, or, for [`Schedule::Poisson`], at the *k*-th event of a Poisson
//!   process of that rate which begins at `initial_delay`. Delivery does not move the timetable,
//!   so a slow link shows as waiting images and not as fewer images (no coordinated omission).
//!   Images that are late are due at once, each with its own intended time, until the timetable
//!   is caught up.
//!
//! In both, jitter moves each due time by a uniformly distributed amount within `±jitter`. In a
//! timetable it does not add up; due times never run backwards. `count` limits the images, and
//! `run_for` the time: nothing is due at or after `run_for`, late images included.

use std::time::Duration;

use fastrand::Rng;

use crate::config::{PaceOptions, Schedule};

#[cfg(test)]
mod tests;

/// Due times beyond this are cut to it, so that callers can add them to any clock's time.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// When the next image is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At this time since the start; at once if it has passed. It is the *intended* time, so that
    /// `now - intended` is how late the image is.
    At(Duration),
    /// No more images.
    Done,
}

/// The times between images, which can be changed while a schedule runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// Between the end of one image's delivery and the next capture.
    pub delay: Duration,
    /// Change at random.
    pub jitter: Duration,
}

impl Waits {
    /// Those of these options.
    pub fn of(options: &PaceOptions) -> Self {
        Self {
            delay: options.delay,
            jitter: options.jitter,
        }
    }
}

/// A schedule. See the [module](self) for what it promises.
#[derive(Debug)]
pub struct Pace {
    initial_delay: Duration,
    delay: Duration,
    jitter: Duration,
    timetable: Option<Timetable>,
    count: Option<u64>,
    run_for: Option<Duration>,
    rng: Rng,
    issued: u64,
    last_due: Duration,
    last_delivered: Option<Duration>,
}

#[derive(Debug)]
struct Timetable {
    rate: f64,
    schedule: Schedule,
    /// Sum of the random intervals so far, in seconds.
    elapsed: f64,
}

impl Pace {
    /// A schedule whose random parts are determined by `seed`. A rate that is not a positive,
    /// finite number counts as not set.
    pub fn new(options: &PaceOptions, seed: u64) -> Self {
        let rate = options.rate.filter(|rate| rate.is_finite() && *rate > 0.0);
        Self {
            initial_delay: options.initial_delay,
            delay: options.delay,
            jitter: options.jitter,
            timetable: rate.map(|rate| Timetable {
                rate,
                schedule: options.schedule,
                elapsed: 0.0,
            }),
            count: options.count,
            run_for: options.run_for,
            rng: Rng::with_seed(seed),
            issued: 0,
            last_due: Duration::ZERO,
            last_delivered: None,
        }
    }

    /// Other times between images, for those that are not planned yet.
    pub fn wait(&mut self, waits: Waits) {
        self.delay = waits.delay;
        self.jitter = waits.jitter;
    }

    /// Whether an image's delivery must have ended, and been told to [`delivered`](Self::delivered),
    /// before [`next`](Self::next) is asked for the one after it.
    pub fn waits_for_delivery(&self) -> bool {
        self.timetable.is_none() && self.delay > Duration::ZERO
    }

    /// When the next image is due. Each call but those that answer [`Next::Done`] plans one image:
    /// ask once an image.
    ///
    /// In a closed loop that was not told of a delivery since the last image, the delay counts
    /// from `now`.
    pub fn next(&mut self, now: Duration) -> Next {
        let ended = self.run_for.is_some_and(|run_for| now >= run_for);
        if ended || self.count.is_some_and(|count| self.issued >= count) {
            return Next::Done;
        }
        let first = self.issued == 0;
        let due = match &mut self.timetable {
            Some(timetable) => {
                let elapsed = timetable.elapsed_at(self.issued, &mut self.rng);
                let exact = self.initial_delay.saturating_add(elapsed);
                self.jittered(exact, Duration::ZERO).max(self.last_due)
            }
            None if first => self.jittered(self.initial_delay, Duration::ZERO),
            None => {
                let from = self.last_delivered.take().unwrap_or(now);
                self.jittered(from.saturating_add(self.delay), from)
            }
        };
        let due = due.min(FAR);
        if self.run_for.is_some_and(|run_for| due >= run_for) {
            return Next::Done;
        }
        self.issued += 1;
        self.last_due = due;
        Next::At(due)
    }

    /// The delivery of the last image ended: with its receipt, or with its loss.
    pub fn delivered(&mut self, now: Duration) {
        self.last_delivered = Some(now);
    }

    /// `exact` moved by up to `jitter` either way, but not before `earliest`.
    fn jittered(&mut self, exact: Duration, earliest: Duration) -> Duration {
        if self.jitter.is_zero() || exact == Duration::ZERO {
            return exact.max(earliest);
        }
        let moved = self.jitter.mul_f64(self.rng.f64());
        let due = if self.rng.bool() {
            exact.saturating_add(moved)
        } else {
            exact.saturating_sub(moved)
        };
        due.max(earliest)
    }
}

impl Timetable {
    /// Time from the timetable's beginning to its image number `index`. Asked once an index, in
    /// order.
    fn elapsed_at(&mut self, index: u64, rng: &mut Rng) -> Duration {
        let seconds = match self.schedule {
            // A product, not a sum: a week of frames does not drift.
            Schedule::Fixed => index as f64 / self.rate,
            Schedule::Poisson => {
                // Inverse transform sampling; 1 - u is never zero.
                self.elapsed -= (1.0 - rng.f64()).ln() / self.rate;
                self.elapsed
            }
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}
