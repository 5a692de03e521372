//! Who has bytes in memory, and how it comes by them and gives them back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Notify, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::line::Line;
use super::{Budget, LARGE, Lease, PATIENCE, REVOKED, SMALL_PART};

/// The holder has to give back what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{REVOKED}")]
pub struct Revoked;

pub(super) struct State {
    pub(super) held: AtomicU64,
    /// The part of it for a message that is still on its way.
    pub(super) arriving: AtomicU64,
    /// The part of it that is of large leases.
    pub(super) bulk: AtomicU64,
    /// When it last made progress, milliseconds since the budget was made.
    pub(super) since: AtomicU64,
    /// The receiver works on what it sent: if that takes long, it is not the client's fault.
    pub(super) is_served: AtomicBool,
    /// It waits for memory itself.
    pub(super) is_waiting: AtomicBool,
    /// Told when it or others have to wait and it may have bytes that need not be in memory.
    pub(super) pressed: Notify,
    pub(super) revoked: CancellationToken,
}

impl State {
    /// A holder that has nothing and came at `since`.
    pub(super) fn new(since: u64) -> Self {
        Self {
            held: AtomicU64::new(0),
            arriving: AtomicU64::new(0),
            bulk: AtomicU64::new(0),
            since: AtomicU64::new(since),
            is_served: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
            pressed: Notify::new(),
            revoked: CancellationToken::new(),
        }
    }
}

/// Somebody who has bytes in memory. Clones are the same holder; the last one gives back all.
#[derive(Clone)]
pub struct Holder {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    budget: Arc<Budget>,
    number: u64,
    pub(super) state: Arc<State>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.budget.holders.lock().remove(&self.number);
        let held = self.state.held.swap(0, Ordering::AcqRel);
        self.budget.give_back(held);
        self.leave_bulk();
    }
}

impl Inner {
    /// No more of what is held can be of large leases than is held.
    fn leave_bulk(&self) {
        let held = self.state.held.load(Ordering::Acquire);
        let bulk = self.state.bulk.load(Ordering::Acquire);
        if bulk > held {
            self.state.bulk.store(held, Ordering::Release);
            self.budget.bulk.give(bulk - held);
        }
    }

    /// What a lease of `wanted` bytes needs of the part for large ones.
    fn bulk_for(&self, wanted: u64) -> u64 {
        if wanted <= LARGE {
            return 0;
        }
        let most = bulk_of(self.budget.leasable());
        wanted.min(most.saturating_sub(self.state.bulk.load(Ordering::Acquire)))
    }
}

/// Bytes that large leases may have together.
pub(super) fn bulk_of(capacity: u64) -> u64 {
    capacity - capacity / SMALL_PART
}

impl Holder {
    /// The holder that `budget` knows by `number`.
    pub(super) fn new(budget: &Arc<Budget>, number: u64, state: Arc<State>) -> Self {
        Self {
            inner: Arc::new(Inner {
                budget: Arc::clone(budget),
                number,
                state,
            }),
        }
    }

    /// Leases `bytes` more, for a message that begins. Waits until they are free. One larger than
    /// all there is counts as all there is, a large one as all that large ones may have. Dropping the
    /// future leases nothing.
    ///
    /// # Errors
    /// When this holder has to give back what it has.
    pub async fn lease(&self, bytes: u64) -> Result<(), Revoked> {
        if self.try_lease(bytes) {
            return Ok(());
        }
        let Inner { budget, state, .. } = &*self.inner;
        if state.held.load(Ordering::Acquire) > 0 {
            state.pressed.notify_one();
        }
        // Whatever it has meanwhile is of use to nobody.
        let _turn = Turn::of_client(state);
        let _waiting = Waiting::begin(state);
        // Connections that come meanwhile may leave less than this waits for.
        loop {
            let wanted = self.leasable(bytes);
            let bulk = self.inner.bulk_for(wanted);
            let still = || self.leasable(bytes) >= wanted && self.inner.bulk_for(wanted) >= bulk;
            let Some(passed) = self.wait(&budget.bulk, bulk, true, still).await? else {
                continue;
            };
            let Some(leased) = self.wait(&budget.free, wanted, false, still).await? else {
                drop(passed);
                budget.bulk.give(0);
                continue;
            };
            passed.forget();
            leased.forget();
            self.leased(wanted, bulk);
            return Ok(());
        }
    }

    /// Waits in a line, and sees to it that it moves. `None` as soon as there can not be as much any
    /// more.
    async fn wait<'a>(
        &'a self,
        line: &'a Line,
        wanted: u64,
        bulk: bool,
        still: impl Fn() -> bool,
    ) -> Result<Option<SemaphorePermit<'a>>, Revoked> {
        let Inner { budget, state, .. } = &*self.inner;
        let acquiring = line.acquire(wanted);
        tokio::pin!(acquiring);
        loop {
            tokio::select! {
                biased;
                () = state.revoked.cancelled() => return Err(Revoked),
                permit = &mut acquiring => return permit.map(Some).ok_or(Revoked),
                () = tokio::time::sleep(PATIENCE) => {
                    if !still() {
                        return Ok(None);
                    }
                    budget.look_for_idlers(wanted, bulk);
                }
            }
        }
    }

    /// Waits for something that only the client can bring about, such as that it reads an answer.
    ///
    /// # Errors
    /// When this holder has to give back what it has.
    pub async fn for_client<T>(&self, waiting: impl Future<Output = T>) -> Result<T, Revoked> {
        let state = &self.inner.state;
        let _turn = Turn::of_client(state);
        tokio::select! {
            biased;
            done = waiting => Ok(done),
            () = state.revoked.cancelled() => Err(Revoked),
        }
    }

    /// The same if it need not wait for them; whether it got them.
    pub fn try_lease(&self, bytes: u64) -> bool {
        let Inner { budget, .. } = &*self.inner;
        let wanted = self.leasable(bytes);
        let bulk = self.inner.bulk_for(wanted);
        let Some(passed) = budget.bulk.try_acquire(bulk) else {
            return false;
        };
        let Some(leased) = budget.free.try_acquire(wanted) else {
            return false;
        };
        passed.forget();
        leased.forget();
        self.leased(wanted, bulk);
        true
    }

    fn leasable(&self, bytes: u64) -> u64 {
        let held = self.inner.state.held.load(Ordering::Acquire);
        let all = match self.inner.budget.leasable() {
            all if bytes > LARGE => bulk_of(all),
            all => all,
        };
        bytes.min(all.saturating_sub(held))
    }

    fn leased(&self, bytes: u64, bulk: u64) {
        let Inner { budget, state, .. } = &*self.inner;
        state.held.fetch_add(bytes, Ordering::AcqRel);
        state.bulk.fetch_add(bulk, Ordering::AcqRel);
        state.since.store(budget.now(), Ordering::Release);
        budget.took(bytes);
    }

    /// Resolves when it or others have to wait: what it has need not be in memory.
    pub async fn pressed(&self) {
        self.inner.state.pressed.notified().await;
    }

    /// What is leased for a message that is still on its way: [`Self::keep`] leaves it.
    pub fn set_arriving(&self, bytes: u64) {
        self.inner.state.arriving.store(bytes, Ordering::Release);
    }

    /// Something came that what is held was for. What is merely a sign of life is none: who holds
    /// memory and sends pings would never give way.
    pub fn progressed(&self) {
        let Inner { budget, state, .. } = &*self.inner;
        state.since.store(budget.now(), Ordering::Release);
    }

    /// A message is whole: until [`Self::keep`], its sender waits for the receiver.
    pub fn serve(&self) {
        self.inner.state.is_served.store(true, Ordering::Release);
    }

    /// The receiver is done with what came, but for `bytes` that are still in memory: gives back
    /// the rest, what is arriving excepted, or, if there are more than before, leases them. `false`
    /// when there is no room for them: they are to be written to disk.
    #[must_use = "what finds no room must not stay in memory"]
    pub fn keep(&self, bytes: u64) -> bool {
        let Inner { budget, state, .. } = &*self.inner;
        state.is_served.store(false, Ordering::Release);
        let held = state.held.load(Ordering::Acquire);
        let bytes = bytes.saturating_add(state.arriving.load(Ordering::Acquire).min(held));
        if bytes > held {
            return self.try_lease(bytes - held);
        }
        state.held.fetch_sub(held - bytes, Ordering::AcqRel);
        budget.give_back(held - bytes);
        self.inner.leave_bulk();
        true
    }

    /// The receiver is done with all that came whole, and nothing of it is in memory.
    pub fn clear(&self) {
        let held_nothing = self.keep(0);
        debug_assert!(held_nothing, "giving back needs no room");
    }

    /// Parts with `bytes`, for work that goes on without this holder.
    pub fn part(&self, bytes: u64) -> Lease {
        let Inner { budget, state, .. } = &*self.inner;
        let bytes = bytes.min(state.held.load(Ordering::Acquire));
        state.held.fetch_sub(bytes, Ordering::AcqRel);
        self.inner.leave_bulk();
        Lease {
            budget: Arc::clone(budget),
            bytes,
        }
    }

    /// Resolves when this holder has to give back what it has.
    pub async fn revoked(&self) {
        self.inner.state.revoked.cancelled().await;
    }

    /// Whether it has to.
    pub fn is_revoked(&self) -> bool {
        self.inner.state.revoked.is_cancelled()
    }
}

/// A holder waits for memory, until this is dropped.
struct Waiting<'a>(&'a State);

impl<'a> Waiting<'a> {
    fn begin(state: &'a State) -> Self {
        state.is_waiting.store(true, Ordering::Release);
        Self(state)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.is_waiting.store(false, Ordering::Release);
    }
}

/// The receiver waits for a client, until this is dropped.
struct Turn<'a> {
    state: &'a State,
    was_served: bool,
}

impl<'a> Turn<'a> {
    fn of_client(state: &'a State) -> Self {
        let was_served = state.is_served.swap(false, Ordering::AcqRel);
        Self { state, was_served }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.state
            .is_served
            .store(self.was_served, Ordering::Release);
    }
}
