//! A cap on image bytes per second, by the time of day.
//!
//! A token bucket that may go into debt: whoever comes when nothing is owed to it goes at once, and
//! the next one waits until the bytes are paid for. A chunk of any size therefore passes whole, and
//! over time exactly the cap goes through. Senders wait in a row, the first first.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use crate::config::BandwidthOptions;
use bucket::Bucket;

mod bucket;
mod schedule;
#[cfg(test)]
mod tests;

/// Time between two looks at the schedule while somebody waits.
const LOOK: Duration = Duration::from_millis(500);

/// Holds senders back. All clones share one cap.
#[derive(Clone)]
pub struct Limiter(Arc<Shared>);

struct Shared {
    options: RwLock<BandwidthOptions>,
    /// Whether there may be a cap at any time of the day.
    is_capped: AtomicBool,
    /// Minute of the local day.
    minute: Box<dyn Fn() -> u16 + Send + Sync>,
    /// Whoever has it is the first in the row; the lock is a fair one.
    bucket: tokio::sync::Mutex<Bucket>,
}

impl Default for Limiter {
    /// Without a cap.
    fn default() -> Self {
        Self::new(BandwidthOptions::default())
    }
}

impl Limiter {
    /// A limiter that keeps to `options`, by the local time of this machine.
    pub fn new(options: BandwidthOptions) -> Self {
        Self::with_time_of_day(options, schedule::local_minute)
    }

    /// A limiter with a clock of its own: `minute` tells the minute of the day, 0 to 1439.
    pub fn with_time_of_day(
        options: BandwidthOptions,
        minute: impl Fn() -> u16 + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            is_capped: AtomicBool::new(is_capped(&options)),
            options: RwLock::new(options),
            minute: Box::new(minute),
            bucket: tokio::sync::Mutex::new(Bucket::new(Instant::now())),
        }))
    }

    /// Keeps to these options from now on. Those that wait notice soon.
    pub fn change(&self, options: BandwidthOptions) {
        let is_capped = is_capped(&options);
        *self.0.options.write() = options;
        self.0.is_capped.store(is_capped, Ordering::Release);
    }

    /// Waits until `bytes` may be sent, and counts them. Returns at once when there is no cap.
    /// Nothing is counted when it is dropped before.
    pub async fn take(&self, bytes: u64) {
        if !self.0.is_capped.load(Ordering::Acquire) {
            return;
        }
        let mut bucket = self.0.bucket.lock().await;
        loop {
            let cap = self.cap();
            let Some(pause) = bucket.pause(Instant::now(), cap) else {
                bucket.spend(bytes);
                return;
            };
            tokio::time::sleep(pause.min(LOOK)).await;
        }
    }

    /// The cap at this moment, bytes per second; `None` when there is none.
    pub fn cap(&self) -> Option<u64> {
        schedule::cap_at(&self.0.options.read(), (self.0.minute)())
    }

    /// The lowest cap of the day, bytes per second.
    pub fn lowest_cap(&self) -> Option<u64> {
        lowest_cap(&self.0.options.read())
    }
}

fn is_capped(options: &BandwidthOptions) -> bool {
    options.base.is_some() || !options.schedule.is_empty()
}

/// The lowest cap of the day, bytes per second.
pub fn lowest_cap(options: &BandwidthOptions) -> Option<u64> {
    let scheduled = options.schedule.iter().filter_map(|window| window.cap);
    let caps = scheduled.chain(options.base);
    caps.map(|cap| cap.bytes_per_second).min()
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("options", &*self.0.options.read())
            .finish()
    }
}
