//! Who gives way when memory is short.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::holder::State;
use super::{Budget, PATIENCE};

/// The part of what can be leased that is made free at a time: those who wait are seldom alone.
const FREED_PART: u64 = 8;

/// A holder without progress.
struct Idler {
    /// Bytes, and those times the time.
    held: u64,
    burden: u128,
    state: Arc<State>,
}

impl Budget {
    /// Somebody waits for `wanted` bytes, of those for large leases if `bulk`: tells everybody to
    /// write what need not be in memory, and those to give back that make no progress, the heaviest
    /// burden (bytes times time) first, until that would be enough. Who waits itself and has less
    /// than an equal part is left alone: while all is taken, somebody has more.
    pub(super) fn look_for_idlers(&self, wanted: u64, bulk: bool) {
        {
            let mut looked = self.looked[usize::from(bulk)].lock();
            if looked.elapsed() < PATIENCE / 2 {
                return;
            }
            *looked = Instant::now();
        }
        let line = if bulk { &self.bulk } else { &self.free };
        // What comes back is first taken for seats.
        let wanted = wanted.max(self.leasable() / FREED_PART) + line.owed();
        let (mut coming, idlers) = self.idlers(bulk);
        for idler in idlers {
            if coming >= wanted {
                break;
            }
            coming += idler.held;
            self.revoked.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                bytes = idler.held,
                "memory is short: a connection without progress ends"
            );
            idler.state.revoked.cancel();
        }
    }

    /// Tells all to write what need not be in memory.
    pub(super) fn press(&self) {
        for state in self.holders.lock().values() {
            if state.held.load(Ordering::Acquire) > 0 {
                state.pressed.notify_one();
            }
        }
    }

    /// What is free or will be without anybody giving way, and who could, the heaviest first.
    fn idlers(&self, bulk: bool) -> (u64, Vec<Idler>) {
        let now = self.now();
        let patience = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
        let mut coming = if bulk {
            self.bulk.available()
        } else {
            let leased = self.leased.load(Ordering::Relaxed);
            self.leasable().saturating_sub(leased)
        };
        let (mut holders, mut all) = (0, 0);
        let mut idlers = Vec::new();
        for state in self.holders.lock().values() {
            let held = match bulk {
                true => state.bulk.load(Ordering::Acquire),
                false => state.held.load(Ordering::Acquire),
            };
            if held == 0 {
                continue;
            }
            if state.revoked.is_cancelled() {
                coming += held;
                continue;
            }
            holders += 1;
            all += held;
            // What can go to disk is better there.
            state.pressed.notify_one();
            let idle = now.saturating_sub(state.since.load(Ordering::Acquire));
            if idle >= patience && !state.is_served.load(Ordering::Acquire) {
                idlers.push(Idler {
                    held,
                    burden: u128::from(held) * u128::from(idle),
                    state: Arc::clone(state),
                });
            }
        }
        // Of what they have, not of all there is: a part may be set aside for whoever waits first.
        // So there is always somebody who has as much.
        let equal_part = all / holders.max(1);
        idlers.retain(|idler| {
            idler.held >= equal_part || !idler.state.is_waiting.load(Ordering::Acquire)
        });
        idlers.sort_by_key(|idler| std::cmp::Reverse(idler.burden));
        (coming, idlers)
    }
}
