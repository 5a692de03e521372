//! A place for one value, of which only the newest counts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Hands the newest value from one task to another. Never held over an await, hence the plain
/// mutex.
#[derive(Debug)]
pub(super) struct Newest<T> {
    slot: Mutex<Slot<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    replaced: u64,
    closed: bool,
}

impl<T> Newest<T> {
    pub(super) fn new() -> Self {
        let slot = Slot {
            value: None,
            replaced: 0,
            closed: false,
        };
        Self {
            slot: Mutex::new(slot),
            changed: Notify::new(),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a value in the place of one that nobody took.
    pub(super) fn put(&self, value: T) {
        let mut slot = self.slot();
        if slot.value.replace(value).is_some() {
            slot.replaced += 1;
        }
        drop(slot);
        self.changed.notify_one();
    }

    /// Values that nobody took in time.
    pub(super) fn replaced(&self) -> u64 {
        self.slot().replaced
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.slot().closed
    }

    /// No more values will come.
    pub(super) fn close(&self) {
        self.slot().closed = true;
        self.changed.notify_one();
    }

    /// Waits for a value; `None` when there is none and none will come. May be dropped while it
    /// waits.
    pub(super) async fn take(&self) -> Option<T> {
        loop {
            {
                let mut slot = self.slot();
                if let Some(value) = slot.value.take() {
                    return Some(value);
                }
                if slot.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}
