//! A cap on image bytes per second, by the time of day.
//!
//! A token bucket that may go into debt: whoever comes when nothing is owed to it goes at once, and
//! the next one waits until the bytes are paid for. A chunk of any size therefore passes whole, and
//! over time exactly the cap goes through. Senders wait in a row, the first first.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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
#[derive(Clone, Default)]
pub struct Limiter {
    /// `None`: there is never a cap.
    capped: Option<Arc<Capped>>,
}

struct Capped {
    options: BandwidthOptions,
    /// Minute of the local day.
    minute: Box<dyn Fn() -> u16 + Send + Sync>,
    /// Whoever has it is the first in the row; the lock is a fair one.
    bucket: tokio::sync::Mutex<Bucket>,
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
        let is_capped = options.base.is_some() || !options.schedule.is_empty();
        let capped = is_capped.then(|| {
            Arc::new(Capped {
                options,
                minute: Box::new(minute),
                bucket: tokio::sync::Mutex::new(Bucket::new(Instant::now())),
            })
        });
        Self { capped }
    }

    /// Waits until `bytes` may be sent, and counts them. Returns at once when there is no cap.
    /// Nothing is counted when it is dropped before.
    pub async fn take(&self, bytes: u64) {
        let Some(capped) = &self.capped else {
            return;
        };
        let mut bucket = capped.bucket.lock().await;
        loop {
            let cap = capped.cap();
            let Some(pause) = bucket.pause(Instant::now(), cap) else {
                bucket.spend(bytes);
                return;
            };
            tokio::time::sleep(pause.min(LOOK)).await;
        }
    }

    /// The cap at this moment, bytes per second; `None` when there is none.
    pub fn cap(&self) -> Option<u64> {
        self.capped.as_ref().and_then(|capped| capped.cap())
    }

    /// The lowest cap of the day, bytes per second.
    pub fn lowest_cap(&self) -> Option<u64> {
        let options = &self.capped.as_ref()?.options;
        let scheduled = options.schedule.iter().filter_map(|window| window.cap);
        let caps = scheduled.chain(options.base);
        caps.map(|cap| cap.bytes_per_second).min()
    }
}

impl Capped {
    fn cap(&self) -> Option<u64> {
        schedule::cap_at(&self.options, (self.minute)())
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.capped.as_ref().map(|capped| &capped.options);
        f.debug_struct("Limiter")
            .field("options", &options)
            .finish()
    }
}
