//! What an open outbox keeps in memory: what is taken, what comes next, and totals. Small, whatever
//! is owed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::disk::Disk;
use shared::image::{ImageId, OutboxId};
use shared::wire::Standing;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::index::{Counters, Index};
use super::layout::Layout;
use super::record::{ENTRY_BYTES, SeriesEntry};
use super::window::{Held, Window};
use crate::config::{Order, WhenFull};
use crate::outbox::{Backlog, FileMark, Lost};

/// What the outbox and its writer share.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    pub(super) index: Arc<Index>,
    pub(super) outbox: OutboxId,
    pub(super) limit: u64,
    pub(super) min_free: u64,
    pub(super) when_full: WhenFull,
    /// Images with a number at or above are of this process.
    pub(super) began_at: u64,
    pub(super) state: Mutex<State>,
    /// Room may have been made.
    pub(super) room: Notify,
    /// Something may be waiting, or the end has come.
    pub(super) work: Notify,
    /// An entry has come into the ledger.
    pub(super) loss: Notify,
}

/// An image that was handed out.
#[derive(Debug, Clone)]
pub(super) struct TakenImage {
    pub(super) sequence: u64,
    pub(super) held: Held,
}

/// A settled image that is still in the index.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) taken: TakenImage,
    pub(super) outcome: Departure,
}

/// How an image left without a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    Delivered,
    Duplicate,
    Quarantined,
}

/// Images whose bytes are elsewhere, in folders that are away just now. They are passed by, and
/// looked for again.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// When they are looked for; `None`: there are none.
    due: Option<Instant>,
    pause: Duration,
    told: bool,
}

/// Time before the first and between the later looks.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LATER_LOOK: Duration = Duration::from_secs(30);

impl Away {
    /// When to look again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time to look, which ends the waiting.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// Images are away with this folder.
    pub(super) fn note(&mut self, folder: &Path, now: Instant) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                "{} is away or empty: images of it stay owed until it is back; others go on",
                folder.display()
            );
        }
        if self.due.is_none() {
            self.pause = (self.pause * 2).clamp(FIRST_LOOK, LATER_LOOK);
            self.due = Some(now + self.pause);
        }
    }

    /// An image that could be away is there.
    pub(super) fn is_back(&mut self) {
        if self.due.is_none() && std::mem::take(&mut self.told) {
            tracing::info!("images that were away are there again");
        }
        self.pause = Duration::ZERO;
    }
}

pub(super) struct State {
    pub(super) closed: bool,
    pub(super) backlog: Backlog,
    /// Bytes that images count for, those that are just coming in included.
    pub(super) used: u64,
    /// Bytes of images that are just coming in.
    pub(super) coming: u64,
    /// Pushes that were admitted and are not over.
    pub(super) pushing: usize,
    pub(super) window: Window,
    pub(super) taken: HashMap<ImageId, TakenImage>,
    pub(super) taken_numbers: HashSet<u64>,
    /// Numbers that are perhaps in the index already, and that nobody may take yet: their images
    /// are not counted.
    pub(super) entering: HashSet<u64>,
    /// Numbers that are in the index and on their way out of it.
    pub(super) leaving: HashSet<u64>,
    /// Settled images that the writer has not seen yet.
    pub(super) settled: Vec<Leaving>,
    /// Numbers that left the index while it was read to fill the window; `None`: it is not read.
    pub(super) left_meanwhile: Option<HashSet<u64>>,
    pub(super) away: Away,
    pub(super) present: Option<u32>,
    pub(super) series: BTreeMap<u32, SeriesEntry>,
    pub(super) next: u64,
    pub(super) first_owed: Option<u64>,
    pub(super) first_untold: Option<u64>,
    /// What is wrong with the medium.
    pub(super) trouble: Option<String>,
    /// Pushes that wait for room.
    pub(super) waiting_for_room: usize,
    /// Losses that nobody waited for.
    pub(super) unclaimed: Vec<Lost>,
    /// Marks of images that were refused, until they are told to be lost.
    pub(super) refused: HashMap<ImageId, FileMark>,
}

impl State {
    pub(super) fn new(order: Order, counters: &Counters, series: Vec<(u32, SeriesEntry)>) -> Self {
        Self {
            closed: false,
            backlog: Backlog {
                images: counters.images,
                bytes: counters.bytes,
            },
            used: counters.stored + counters.images * ENTRY_BYTES,
            pushing: 0,
            window: Window::new(order),
            taken: HashMap::new(),
            taken_numbers: HashSet::new(),
            entering: HashSet::new(),
            leaving: HashSet::new(),
            settled: Vec::new(),
            left_meanwhile: None,
            away: Away::default(),
            present: None,
            series: series.into_iter().collect(),
            next: counters.next,
            first_owed: None,
            first_untold: None,
            trouble: None,
            waiting_for_room: 0,
            unclaimed: Vec::new(),
            refused: HashMap::new(),
            coming: 0,
        }
    }

    /// Nothing is owed and nothing will be.
    pub(super) fn is_over(&self) -> bool {
        self.closed && self.backlog.images == 0 && self.pushing == 0
    }

    /// The image waits no more and is not taken: it has left the index.
    pub(super) fn has_left(&mut self, sequence: u64) {
        self.leaving.remove(&sequence);
        if let Some(left) = &mut self.left_meanwhile {
            left.insert(sequence);
        }
    }

    /// The counters of images that are not owed any more.
    pub(super) fn subtract(&mut self, size: u64, cost: u64) {
        self.backlog.images = self.backlog.images.saturating_sub(1);
        self.backlog.bytes = self.backlog.bytes.saturating_sub(size);
        self.used = self.used.saturating_sub(cost);
    }

    pub(super) fn standing(&self, outbox: OutboxId) -> Standing {
        let lowest = self.first_owed.into_iter().chain(self.first_untold).min();
        Standing {
            outbox,
            first_owed: lowest.unwrap_or(self.next),
            next_sequence: self.next,
        }
    }
}

/// Room for an image that is coming in; given up when it is dropped, unless the image was kept.
pub(super) struct Admission {
    shared: Arc<Shared>,
    cost: u64,
    kept: bool,
}

impl Admission {
    /// Takes the room, which the caller has found to be there.
    pub(super) fn new(shared: &Arc<Shared>, state: &mut State, cost: u64) -> Self {
        state.used += cost;
        state.coming += cost;
        state.pushing += 1;
        Self {
            shared: Arc::clone(shared),
            cost,
            kept: false,
        }
    }

    /// The image is in.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.pushing = state.pushing.saturating_sub(1);
        state.coming = state.coming.saturating_sub(self.cost);
        if !self.kept {
            state.used = state.used.saturating_sub(self.cost);
        }
        drop(state);
        if self.kept {
            self.shared.work.notify_one();
        } else {
            self.shared.room.notify_waiters();
        }
        if self.shared.state.lock().is_over() {
            self.shared.work.notify_waiters();
        }
    }
}

impl Shared {
    /// Images have left: there may be room, an end, or a loss to tell.
    pub(super) fn changed(&self) {
        self.room.notify_waiters();
        self.work.notify_waiters();
        self.loss.notify_waiters();
    }

    /// Why new images wait for room, and which setting has a say in it.
    pub(super) fn full(&self, backlog: Backlog) -> String {
        let Backlog { images, bytes } = backlog;
        let free = self.disk.free(&self.layout.root);
        let why = match free {
            Ok(free) if free.saturating_sub(self.min_free) < self.limit.saturating_sub(bytes) => {
                format!(
                    "{free} bytes are free on its disk, and --outbox-min-free keeps {}",
                    self.min_free
                )
            }
            _ => format!("--outbox-limit is {} bytes", self.limit),
        };
        format!(
            "the outbox is full: {images} images with {bytes} bytes wait; {why}; new ones wait for room"
        )
    }

    /// Bytes that can be written before the least free space is reached. What a medium does not say
    /// is found out by writing.
    pub(super) fn free_space(&self) -> u64 {
        if self.min_free == 0 {
            return u64::MAX;
        }
        let free = self.disk.free(&self.layout.root);
        free.map_or(u64::MAX, |free| free.saturating_sub(self.min_free))
    }
}
