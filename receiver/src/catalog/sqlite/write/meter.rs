//! What the process uses while images come.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use shared::telemetry::Usage;

/// Time between looks at the memory, which cost more than looks at the CPU time.
const MEMORY_INTERVAL: Duration = Duration::from_millis(100);

/// What the process used since the transaction before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    /// CPU time of all threads.
    pub(super) cpu: Duration,
    /// Highest resident memory so far.
    pub(super) peak_memory: u64,
}

/// Tells what the process used from one transaction to the next.
#[derive(Debug)]
pub(super) struct Meter {
    settled: Duration,
    read: Duration,
    peak_memory: u64,
    looked: Instant,
}

impl Meter {
    /// Begins now.
    pub(super) fn new() -> Self {
        let settled = cpu();
        Self {
            settled,
            read: settled,
            peak_memory: peak_memory(),
            looked: Instant::now(),
        }
    }

    /// What was used since the last call of [`Meter::settle`].
    pub(super) fn read(&mut self) -> Used {
        if self.looked.elapsed() >= MEMORY_INTERVAL {
            self.peak_memory = peak_memory();
            self.looked = Instant::now();
        }
        self.read = cpu();
        let cpu = self.read.saturating_sub(self.settled);
        Used {
            cpu,
            peak_memory: self.peak_memory,
        }
    }

    /// What was read last is in the catalogue.
    pub(super) fn settle(&mut self) {
        self.settled = self.read;
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn peak_memory() -> u64 {
    Usage::now().peak_memory
}
