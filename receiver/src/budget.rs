//! The memory that clients may make this receiver take, as a setting (`--max-memory`).
//!
//! A part of it is for the program itself, and of what is left a quarter for what connections get
//! when they are made: windows of HTTP/2 and buffers for reading. Each takes a part of what is left,
//! so that many connections get little each and all of them together no more than there is, but for
//! a minimum each.
//!
//! The rest is for bytes that have come and are not on disk: messages that are not whole yet, and
//! batches of uploads. Whoever has them is a [`Holder`]. It leases a message as a whole when it
//! begins, and reads on when it has the lease; batches that find no room are written at once. So
//! nobody waits for memory while holding some, and whoever has a lease can go on. One that does
//! not while others wait, as a client that sends half a message and stops, is told to give back all
//! it has: its connection ends, and what was begun over it is parked on disk. A thousand slow
//! clients and a good one get by with the same memory, and the good one gets through.
//!
//! What else a connection takes (its tasks, tables and one read) is not counted byte by byte: each
//! has a [`Seat`], and what seats take cannot be leased. They leave a part of it whatever their
//! number, so that a small setting with many connections still moves images, more slowly; what a
//! setting can keep to is therefore no less than the program, the seats and that part.

mod idlers;
mod line;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::line::{Line, longest};

/// Time that a holder may be without progress while others wait, and time between looks for such.
const PATIENCE: Duration = Duration::from_millis(500);

/// Leases above this are large: they wait in a line of their own, and leave this part of what there
/// is to the others. A thousand that wait for megabytes would hold up whoever needs a few kilobytes.
const LARGE: u64 = 1 << 20;
const SMALL_PART: u64 = 4;

/// What the program takes before anybody comes (13 MiB resident), and what the allocator keeps of
/// what was given back.
const PROGRAM: u64 = 32 << 20;
/// That counts as this part of a setting at most.
const PROGRAM_PART: u64 = 4;

/// What a connection takes beside its window: measured with a thousand clients of ten kinds
/// (`cargo xtask e2e memory --part hostile`).
const SEAT: u64 = 128 << 10;
/// The part of what can be leased that seats leave, and what they leave at least where there is as
/// much: with less, those who wait for each other's messages hardly get on.
const LEFT_PART: u64 = 4;
const LEFT: u64 = 16 << 20;

/// The part of the windows that are left which one connection gets.
const WINDOW_PART: u64 = 8;

/// What a client is told whose connection is given up for others.
pub const REVOKED: &str = "memory is short and this connection made no progress; connect again and \
                           go on where it broke off";

/// The memory that clients may make a receiver take.
pub struct Budget {
    /// Bytes that may yet be leased. Waiting is in order of arrival.
    free: Line,
    /// Bytes of them that may yet be leased by large leases.
    bulk: Line,
    capacity: u64,
    /// What is there beyond what a line can count. Seats take this first.
    spare: u64,
    /// Bytes of all seats.
    seats: Mutex<u64>,
    leased: AtomicU64,
    peak: AtomicU64,
    revoked: AtomicU64,
    /// Bytes of windows that are left, below zero when minimums exceed them.
    windows: Mutex<i64>,
    /// In order, as everything that decides who wakes up first: simulations replay.
    holders: Mutex<BTreeMap<u64, Arc<State>>>,
    next: AtomicU64,
    /// When it was last looked for holders without progress: for who needs little, and much.
    looked: [Mutex<Instant>; 2],
    begun: Instant,
}

/// Figures of a budget, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Leased now.
    pub leased: u64,
    /// The most that was leased at a time.
    pub peak: u64,
    /// What may be leased while there is no connection.
    pub capacity: u64,
    /// Holders that had to give back.
    pub revoked: u64,
}

impl Budget {
    /// The budget of a program that is to take no more than `setting` bytes with all it is.
    pub fn of_program(setting: u64) -> Arc<Self> {
        Self::new(setting - PROGRAM.min(setting / PROGRAM_PART))
    }

    /// A budget of `bytes` for clients.
    pub fn new(bytes: u64) -> Arc<Self> {
        let windows = bytes / 4;
        let capacity = (bytes - windows).clamp(1, longest());
        let now = Instant::now();
        Arc::new(Self {
            free: Line::new(capacity),
            bulk: Line::new(bulk_of(capacity)),
            capacity,
            spare: (bytes - windows).saturating_sub(capacity),
            seats: Mutex::default(),
            leased: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            windows: Mutex::new(i64::try_from(windows).unwrap_or(i64::MAX)),
            holders: Mutex::default(),
            next: AtomicU64::new(0),
            looked: [Mutex::new(now), Mutex::new(now)],
            begun: now,
        })
    }

    /// What is leased.
    pub fn usage(&self) -> Usage {
        Usage {
            leased: self.leased.load(Ordering::Relaxed),
            peak: self.peak.load(Ordering::Relaxed),
            capacity: self.capacity,
            revoked: self.revoked.load(Ordering::Relaxed),
        }
    }

    /// A holder of nothing yet: a session, or a request with a body.
    pub fn holder(self: &Arc<Self>) -> Holder {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(State {
            held: AtomicU64::new(0),
            arriving: AtomicU64::new(0),
            bulk: AtomicU64::new(0),
            since: AtomicU64::new(self.now()),
            is_served: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
            pressed: Notify::new(),
            revoked: CancellationToken::new(),
        });
        self.holders.lock().insert(number, Arc::clone(&state));
        Holder {
            inner: Arc::new(Inner {
                budget: Arc::clone(self),
                number,
                state,
            }),
        }
    }

    /// The credit of a session that would like `wanted` bytes: an equal part of what there is, but
    /// never less than `least`.
    pub fn credit(&self, wanted: u64, least: u64) -> u64 {
        let holders = self.holders.lock().len().max(1) as u64;
        (self.leasable() / holders)
            .max(least)
            .min(wanted.max(least))
    }

    /// What can be leased with the connections there are: the seats leave a part of all there is.
    fn leasable(&self) -> u64 {
        self.capacity - self.taken_by(*self.seats.lock())
    }

    fn taken_by(&self, seats: u64) -> u64 {
        let left = (self.capacity / LEFT_PART).max(LEFT);
        seats
            .saturating_sub(self.spare)
            .min(self.capacity.saturating_sub(left))
    }

    /// Takes the seat of a new connection.
    pub fn seat(self: &Arc<Self>) -> Seat {
        self.change_seats(|seats| seats + SEAT);
        Seat {
            budget: Arc::clone(self),
        }
    }

    fn change_seats(&self, change: impl FnOnce(u64) -> u64) {
        let mut seats = self.seats.lock();
        let before = self.capacity - self.taken_by(*seats);
        *seats = change(*seats);
        let after = self.capacity - self.taken_by(*seats);
        for (line, before, after) in [
            (&self.free, before, after),
            (&self.bulk, bulk_of(before), bulk_of(after)),
        ] {
            line.shorten(before.saturating_sub(after));
            line.give(after.saturating_sub(before));
        }
    }

    /// Sees to it, for as long as it is polled, that what new connections take comes back from those
    /// who leased it, also when nobody waits for memory: first they are told to write it, then
    /// those without progress give way.
    pub async fn settle(&self) {
        let mut ticks = tokio::time::interval(PATIENCE);
        let mut was_told = false;
        loop {
            ticks.tick().await;
            let owes = [&self.free, &self.bulk].map(|line| {
                line.give(0);
                line.owed() > 0
            });
            if owes == [false, false] {
                was_told = false;
                continue;
            }
            if was_told {
                self.look_for_idlers(0, owes == [false, true]);
            } else {
                self.press();
            }
            was_told = true;
        }
    }

    /// Takes the window of a new connection, between `least` and `most` bytes.
    pub fn window(self: &Arc<Self>, least: u64, most: u64) -> Window {
        let mut left = self.windows.lock();
        let part = u64::try_from(*left).unwrap_or(0) / WINDOW_PART;
        let bytes = part.min(most).max(least);
        *left = left.saturating_sub_unsigned(bytes);
        Window {
            budget: Arc::clone(self),
            bytes,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn took(&self, bytes: u64) {
        let leased = self.leased.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(leased, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.leased.fetch_sub(bytes, Ordering::Relaxed);
            self.free.give(bytes);
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

/// The holder has to give back what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{REVOKED}")]
pub struct Revoked;

struct State {
    held: AtomicU64,
    /// The part of it for a message that is still on its way.
    arriving: AtomicU64,
    /// The part of it that is of large leases.
    bulk: AtomicU64,
    /// When it last made progress, milliseconds since the budget was made.
    since: AtomicU64,
    /// The receiver works on what it sent: if that takes long, it is not the client's fault.
    is_served: AtomicBool,
    /// It waits for memory itself.
    is_waiting: AtomicBool,
    /// Told when it or others have to wait and it may have bytes that need not be in memory.
    pressed: Notify,
    revoked: CancellationToken,
}

/// Somebody who has bytes in memory. Clones are the same holder; the last one gives back all.
#[derive(Clone)]
pub struct Holder {
    inner: Arc<Inner>,
}

struct Inner {
    budget: Arc<Budget>,
    number: u64,
    state: Arc<State>,
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
fn bulk_of(capacity: u64) -> u64 {
    capacity - capacity / SMALL_PART
}

impl Holder {
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

/// Bytes in memory of work that ends by itself.
#[must_use = "the bytes count as given back when this is dropped"]
pub struct Lease {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// The place of a connection in memory, given back when it is dropped.
#[must_use = "the seat counts as given back when this is dropped"]
pub struct Seat {
    budget: Arc<Budget>,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").finish_non_exhaustive()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.budget.change_seats(|seats| seats.saturating_sub(SEAT));
    }
}

/// The window of a connection, given back when it is dropped.
#[must_use = "the window counts as given back when this is dropped"]
pub struct Window {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Window {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut left = self.budget.windows.lock();
        *left = left.saturating_add_unsigned(self.bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
