//! The memory that clients may make this receiver take, as a setting (`--max-memory`).
//!
//! A part of it is for the program itself, and of the rest a part for what the allocator loses. Of
//! what is left, a quarter is for what connections get when they are made: windows of HTTP/2 and
//! buffers for reading. Each takes a part of what is left of that, so that many connections get
//! little each and all of them together no more than there is, but for a minimum each.
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

mod holder;
mod idlers;
mod line;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use self::holder::{State, bulk_of};
use self::line::{Line, longest};

pub use self::holder::{Holder, Revoked};

/// Time that a holder may be without progress while others wait, and time between looks for such.
const PATIENCE: Duration = Duration::from_millis(500);

/// Leases above this are large: they wait in a line of their own, and leave this part of what there
/// is to the others. A thousand that wait for megabytes would hold up whoever needs a few kilobytes.
const LARGE: u64 = 1 << 20;
const SMALL_PART: u64 = 4;

/// What the program takes before anybody comes: 13 MiB resident.
const PROGRAM: u64 = 16 << 20;
/// That counts as this part of a setting at most.
const PROGRAM_PART: u64 = 4;
/// Tenths of the rest for what the allocator keeps of what was given back, and loses between blocks.
/// Measured: with 32 MiB of 128 MiB for the program and this together, 150 clients that send
/// messages of 4 MiB as fast as they can and read no answers brought it to 121 to 136 MiB, and as
/// it is now to 110 to 119 MiB (`cargo xtask e2e memory`, "gRPC answers not read", 6 runs of each).
const KEPT_TENTHS: u64 = 3;

/// What a connection takes beside its window: measured with a thousand clients of ten kinds
/// (`cargo xtask e2e memory --part hostile`).
const SEAT: u64 = 128 << 10;
/// The part of what can be leased that seats leave, and what they leave at least where there is as
/// much: with less, those who wait for each other's messages hardly get on.
const LEFT_PART: u64 = 3;
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
        let rest = setting - PROGRAM.min(setting / PROGRAM_PART);
        Self::new(rest / 10 * (10 - KEPT_TENTHS))
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
        let state = Arc::new(State::new(self.now()));
        self.holders.lock().insert(number, Arc::clone(&state));
        Holder::new(self, number, state)
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
