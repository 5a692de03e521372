//! Images that were not accepted and wait to be sent again, each for a time of its own. Pure: the
//! time comes from the caller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::outbox::Owed;

/// Images that may wait here. Beyond that no new ones are taken from the outbox, so that memory
/// stays bounded however many are turned down.
pub(super) const MOST: usize = 10_000;

/// What was tried with an image so far, by this delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tries {
    /// Times it was sent.
    pub(super) sent: u32,
    /// Those that count as attempts.
    pub(super) attempts: u32,
    /// Failures in a row that its waiting time is made from.
    pub(super) failures: u32,
    /// Receipts that were not of this image.
    pub(super) contradictions: u32,
    /// Answers that it will never be taken.
    pub(super) refusals: u32,
}

/// An image to be sent.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) image: Arc<Owed>,
    pub(super) tries: Tries,
}

/// Whose turn it is when both a new image and one that failed could go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Turn {
    #[default]
    New,
    Again,
}

#[derive(Debug, Default)]
pub(super) struct Retries {
    /// By the time when they are due; the number tells apart those of the same time.
    resting: BTreeMap<(Instant, u64), Job>,
    number: u64,
    turn: Turn,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// This image is to be sent again.
    Again(Job),
    /// A new image is to be taken. If none comes within the time, to ask again.
    New(Option<Duration>),
    /// No new image may be taken: to ask again after this time.
    Wait(Option<Duration>),
}

/// A new image that waits is handed out by the outbox within this time, unless another connection
/// was faster.
const HANDING_OUT: Duration = Duration::from_millis(50);

impl Retries {
    /// The image is to be sent again at `due`.
    pub(super) fn rest(&mut self, job: Job, due: Instant) {
        self.number += 1;
        self.resting.insert((due, self.number), job);
    }

    /// What is sent next. Images that are due and new ones take turns, so that neither kind holds
    /// up the other, however many there are of it.
    pub(super) fn next(&mut self, now: Instant, new_waits: bool, full: bool) -> Next {
        let first = self.resting.first_key_value().map(|((due, _), _)| *due);
        let left = first.map(|due| due.saturating_duration_since(now));
        if left == Some(Duration::ZERO) {
            if self.turn == Turn::New && new_waits && !full {
                return Next::New(Some(HANDING_OUT));
            }
            if let Some((_, job)) = self.resting.pop_first() {
                self.turn = Turn::New;
                return Next::Again(job);
            }
        }
        if full {
            Next::Wait(left)
        } else {
            Next::New(left)
        }
    }

    /// A new image was taken, or none came in time.
    pub(super) fn had_new(&mut self) {
        self.turn = Turn::Again;
    }

    pub(super) fn len(&self) -> usize {
        self.resting.len()
    }

    /// All of them, at the end.
    pub(super) fn drain(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.resting).into_values().collect()
    }
}
