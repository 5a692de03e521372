//! Bytes for which one waits in line, and of which some can be taken away while others have them.

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes that can be acquired, in the order of asking.
pub(super) struct Line {
    free: Semaphore,
    /// Bytes taken away that somebody still has: they do not come back.
    owed: Mutex<u64>,
}

/// The most bytes that a line can have: what a semaphore and a permit of it can count.
pub(super) fn longest() -> u64 {
    u64::try_from(Semaphore::MAX_PERMITS)
        .unwrap_or(u64::MAX)
        .min(u64::from(u32::MAX))
}

impl Line {
    /// A line of `bytes`, [`longest`] at most.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            free: Semaphore::new(count(bytes)),
            owed: Mutex::default(),
        }
    }

    /// Takes `bytes` away: what is free of them now, the rest as it comes back.
    pub(super) fn shorten(&self, bytes: u64) {
        let mut owed = self.owed.lock();
        *owed += bytes;
        self.settle(&mut owed);
    }

    /// Adds `bytes`, or gives them back.
    pub(super) fn give(&self, bytes: u64) {
        let mut owed = self.owed.lock();
        let kept = bytes.min(*owed);
        *owed -= kept;
        self.free.add_permits(count(bytes - kept));
        self.settle(&mut owed);
    }

    /// A permit that is dropped goes back to the semaphore by itself, past what is owed.
    fn settle(&self, owed: &mut u64) {
        if *owed > 0 {
            let taken = self.free.forget_permits(count(*owed));
            *owed -= u64::try_from(taken).unwrap_or(*owed);
        }
    }

    /// Waits for `bytes`. `None` would be a closed line, which there is not.
    pub(super) async fn acquire(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.free.acquire_many(permits(bytes)).await.ok()
    }

    /// `bytes`, if nobody waits for them and they are free.
    pub(super) fn try_acquire(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.free.try_acquire_many(permits(bytes)).ok()
    }

    /// Bytes that were taken away and that somebody still has.
    pub(super) fn owed(&self) -> u64 {
        *self.owed.lock()
    }

    /// Bytes that are free.
    pub(super) fn available(&self) -> u64 {
        self.free.available_permits() as u64
    }
}

fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn count(bytes: u64) -> usize {
    usize::try_from(bytes)
        .unwrap_or(usize::MAX)
        .min(Semaphore::MAX_PERMITS)
}
