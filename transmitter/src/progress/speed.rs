//! Rates from totals: over the last seconds, and over all of the run.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Snapshot;

/// The time that present rates look back.
const WINDOW: Duration = Duration::from_secs(10);

/// Looks kept; more frequent ones than this allows for shorten the time looked back.
const MOST_LOOKS: usize = 100;

/// How fast it goes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Rates {
    /// Delivered bytes per second.
    pub(super) bytes_per_second: f64,
    /// Settled images per second.
    pub(super) images_per_second: f64,
}

impl Rates {
    fn between(from: Look, to: Look) -> Self {
        let seconds = to.at.duration_since(from.at).as_secs_f64();
        if seconds <= 0.0 {
            return Self::default();
        }
        Self {
            bytes_per_second: to.bytes.saturating_sub(from.bytes) as f64 / seconds,
            images_per_second: to.images.saturating_sub(from.images) as f64 / seconds,
        }
    }

    /// Time for what is left, when both that and the speed are known. A day at most.
    pub(super) fn left(&self, snapshot: &Snapshot) -> Option<Duration> {
        let left = snapshot.total?.checked_sub(snapshot.settled())?;
        if left == 0 || self.images_per_second <= 0.0 {
            return None;
        }
        let seconds = left as f64 / self.images_per_second;
        (seconds <= 86_400.0).then(|| Duration::from_secs_f64(seconds))
    }
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    bytes: u64,
    images: u64,
}

impl Look {
    fn new(at: Instant, snapshot: &Snapshot) -> Self {
        Self {
            at,
            bytes: snapshot.bytes_delivered,
            images: snapshot.settled(),
        }
    }
}

/// Makes rates of successive snapshots.
#[derive(Debug)]
pub(super) struct Speed {
    start: Look,
    transport: shared::image::Transport,
    looks: VecDeque<Look>,
}

impl Speed {
    pub(super) fn new(at: Instant, snapshot: &Snapshot) -> Self {
        let start = Look::new(at, snapshot);
        Self {
            start,
            transport: snapshot.transport,
            looks: VecDeque::from([start]),
        }
    }

    /// Rates of the last seconds.
    pub(super) fn update(&mut self, at: Instant, snapshot: &Snapshot) -> Rates {
        let look = Look::new(at, snapshot);
        self.start_over_if_new(look, snapshot);
        while self.looks.len() > 1
            && (self.looks.len() >= MOST_LOOKS || at.duration_since(self.looks[1].at) >= WINDOW)
        {
            self.looks.pop_front();
        }
        let rates = Rates::between(self.looks[0], look);
        self.looks.push_back(look);
        rates
    }

    /// Rates since the series began.
    pub(super) fn overall(&mut self, at: Instant, snapshot: &Snapshot) -> Rates {
        let look = Look::new(at, snapshot);
        self.start_over_if_new(look, snapshot);
        Rates::between(self.start, look)
    }

    /// The next transport's series counts from zero again.
    fn start_over_if_new(&mut self, look: Look, snapshot: &Snapshot) {
        let backwards = self
            .looks
            .back()
            .is_some_and(|last| look.images < last.images);
        if backwards || snapshot.transport != self.transport {
            // Its start lies between this look and the last.
            let at = self.looks.back().map_or(look.at, |last| last.at);
            self.start = Look {
                at,
                bytes: 0,
                images: 0,
            };
            self.transport = snapshot.transport;
            self.looks.clear();
            self.looks.push_back(self.start);
        }
    }
}
