//! The thread that writes.

mod changes;
mod meter;
mod streams;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior};
use shared::image::ImageId;
use shared::report::RunAccount;
use shared::wire::LossReport;
use tokio::sync::{mpsc, oneshot};

use super::unwaited::{Events, Tallies, Unwaited};
use super::{closed, sqlite};
use crate::catalog::{CatalogError, Entry, Fault, Inserted, Kept, Repeat};
use changes::Changes;
pub(super) use changes::Key;
use meter::Meter;

/// Jobs of one transaction at most: bounds the time until the first of them is answered.
const BATCH: usize = 1024;

type Done<T> = oneshot::Sender<Result<T, CatalogError>>;

/// What the thread is asked to do, in order.
#[derive(Debug)]
pub(super) enum Job {
    Insert {
        entry: Box<Entry>,
        done: Option<Done<Inserted>>,
    },
    /// Events were added: those that are there when this is taken from the queue.
    Tallies(Tallies),
    Remove {
        id: ImageId,
        location: String,
        reason: String,
        done: Done<bool>,
    },
    Account {
        account: Box<RunAccount>,
        done: Done<()>,
    },
    Losses {
        report: Box<LossReport>,
        done: Done<Kept>,
    },
    Repeat {
        repeat: Box<Repeat>,
        done: Done<()>,
    },
    /// Writes nothing new.
    Trial {
        done: Done<()>,
    },
    /// Answers when all before it is written.
    Settle {
        done: Done<()>,
    },
    /// As `Settle`, and ends the thread.
    Close {
        done: Done<()>,
    },
}

impl Job {
    /// Whether somebody waits for its end.
    fn is_awaited(&self) -> bool {
        !matches!(self, Self::Tallies(_) | Self::Insert { done: None, .. })
    }
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Transactions committed.
    pub(super) commits: AtomicU64,
    /// Jobs that somebody waits for.
    pub(super) waiting: AtomicU64,
    /// Jobs in the queue that nobody waits for.
    pub(super) unwaited: AtomicU64,
    /// Events and entries that nobody waited for and that could not be written.
    pub(super) lost: AtomicU64,
    /// Why the last transaction could not be done, if that was no job's own fault.
    pub(super) failure: Mutex<Option<CatalogError>>,
}

impl Counts {
    /// A job that nobody waited for could not be done, which loses so many events or entries.
    pub(super) fn lose(&self, events: u64, error: &CatalogError) {
        self.unwaited.fetch_sub(1, Ordering::AcqRel);
        self.lost.fetch_add(events, Ordering::Relaxed);
        tracing::error!(events, %error, "catalogue: events could not be written");
    }
}

/// Time for jobs that nobody waits for to gather. Waking this thread for each of them would cost
/// the one that hands it over more than the rest of its work on a small image.
const GATHER: Duration = Duration::from_millis(20);

pub(super) struct Writer {
    connection: Connection,
    queue: mpsc::UnboundedReceiver<Job>,
    counts: Arc<Counts>,
    waiting: Arc<Unwaited>,
    meter: Meter,
    /// Streams with more numbers to walk over, which is done between the jobs.
    unchecked: VecDeque<i64>,
}

/// What a job came to, told after the commit.
enum Outcome {
    Inserted(Inserted),
    Removed(bool),
    Kept(Kept),
    Done,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        queue: mpsc::UnboundedReceiver<Job>,
        counts: Arc<Counts>,
        waiting: Arc<Unwaited>,
    ) -> Self {
        Self {
            connection,
            queue,
            counts,
            waiting,
            meter: Meter::new(),
            unchecked: VecDeque::new(),
        }
    }

    /// Works until it is closed or nobody can ask any more.
    pub(super) fn run(mut self) {
        let mut jobs = Vec::with_capacity(BATCH);
        let mut close = None;
        self.find_unchecked();
        while close.is_none() && self.next(&mut jobs) {
            if !jobs.is_empty() && !jobs.iter().any(Job::is_awaited) {
                self.gather(&mut jobs);
            }
            for job in &mut jobs {
                if let Job::Tallies(tallies) = job {
                    *tallies = self.waiting.take();
                }
            }
            let at = jobs.iter().position(|job| matches!(job, Job::Close { .. }));
            if let Some(at) = at {
                for late in jobs.split_off(at + 1) {
                    self.answer(late, Err(closed()));
                }
                if let Some(Job::Close { done }) = jobs.pop() {
                    close = Some(done);
                }
            }
            self.work(&mut jobs);
            self.check_one();
        }
        self.queue.close();
        while let Ok(late) = self.queue.try_recv() {
            self.answer(late, Err(closed()));
        }
        // Nobody waits for room any more.
        drop(self.waiting.take());
        let closed = self
            .connection
            .close()
            .map_err(|(_, error)| sqlite("closing")(error));
        match (close, closed) {
            // Whoever closes may have stopped waiting.
            (Some(done), closed) => drop(done.send(closed)),
            (None, Err(error)) => tracing::error!(%error, "catalogue could not be closed"),
            (None, Ok(())) => {}
        }
    }

    /// Takes the jobs that are there. Waits for one, unless there is other work; `false` when no
    /// more will come.
    fn next(&mut self, jobs: &mut Vec<Job>) -> bool {
        if self.unchecked.is_empty() {
            return self.queue.blocking_recv_many(jobs, BATCH) > 0;
        }
        while jobs.len() < BATCH {
            match self.queue.try_recv() {
                Ok(job) => jobs.push(job),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return !jobs.is_empty(),
            }
        }
        true
    }

    /// What an earlier process did not get to.
    fn find_unchecked(&mut self) {
        let found = self
            .connection
            .prepare("SELECT stream FROM streams WHERE checked < floor")
            .and_then(|mut statement| {
                let streams = statement.query_map([], |row| row.get(0))?;
                streams.collect()
            });
        match found.map_err(sqlite("reading where outboxes stand")) {
            Ok(streams) => self.unchecked = streams,
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Walks on over the numbers of one stream.
    fn check_one(&mut self) {
        let Some(stream) = self.unchecked.pop_front() else {
            return;
        };
        match self.check(stream) {
            Ok(true) => {}
            Ok(false) => self.unchecked.push_back(stream),
            // It is gone on with when its transmitter tells the next time, or at the next start.
            Err(error) => tracing::error!("gaps are looked for later: {error}"),
        }
    }

    fn check(&mut self, stream: i64) -> Result<bool, CatalogError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(sqlite("beginning to write"))?;
        let checked = streams::check(&transaction, stream)
            .and_then(|_| {
                transaction.query_row(
                    "SELECT floor IS NULL OR floor <= checked FROM streams WHERE stream = ?1",
                    [stream],
                    |row| row.get(0),
                )
            })
            .map_err(sqlite("looking for gaps"))?;
        transaction.commit().map_err(sqlite("committing"))?;
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        Ok(checked)
    }

    /// Waits a moment for more jobs, so that they share a transaction and a wake-up, unless there
    /// are enough of them.
    fn gather(&mut self, jobs: &mut Vec<Job>) {
        if jobs.len() < BATCH && !self.waiting.is_full() {
            std::thread::sleep(GATHER);
        }
        while jobs.len() < BATCH
            && let Ok(job) = self.queue.try_recv()
        {
            jobs.push(job);
        }
    }

    /// Does all jobs in one transaction; if that fails, each in its own, so that one that cannot
    /// be done takes no other with it.
    fn work(&mut self, jobs: &mut Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        match self.transact(jobs) {
            Ok(outcomes) => {
                for (job, outcome) in jobs.drain(..).zip(outcomes) {
                    self.answer(job, Ok(outcome));
                }
            }
            Err(error) if jobs.len() == 1 => {
                if error.fault != Fault::Request {
                    *self.counts.failure.lock() = Some(error.clone());
                }
                for job in jobs.drain(..) {
                    self.answer(job, Err(error.clone()));
                }
            }
            Err(_) => {
                for job in std::mem::take(jobs) {
                    self.work(&mut vec![job]);
                }
            }
        }
    }

    fn transact(&mut self, jobs: &[Job]) -> Result<Vec<Outcome>, CatalogError> {
        if jobs.iter().all(|job| matches!(job, Job::Settle { .. })) {
            return Ok(jobs.iter().map(|_| Outcome::Done).collect());
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(sqlite("beginning to write"))?;
        let used = self.meter.read();
        let mut changes = Changes::default();
        let outcomes = jobs
            .iter()
            .map(|job| changes.apply(&transaction, job))
            .collect::<rusqlite::Result<Vec<_>>>()
            .and_then(|outcomes| changes.save(&transaction, used).map(|()| outcomes))
            .map_err(sqlite("writing"))?;
        transaction.commit().map_err(sqlite("committing"))?;
        *self.counts.failure.lock() = None;
        if changes.any() {
            self.meter.settle();
        }
        for stream in changes.unchecked() {
            if !self.unchecked.contains(stream) {
                self.unchecked.push_back(*stream);
            }
        }
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        Ok(outcomes)
    }

    fn answer(&self, job: Job, outcome: Result<Outcome, CatalogError>) {
        if let Job::Insert { entry, done: None } = &job {
            self.waiting.leave(entry);
        }
        // A caller that has gone away needs no answer, hence the ignored results.
        match (job, outcome) {
            (
                Job::Insert {
                    done: Some(done), ..
                },
                outcome,
            ) => {
                let _ = done.send(outcome.map(|outcome| match outcome {
                    Outcome::Inserted(inserted) => inserted,
                    Outcome::Removed(_) | Outcome::Kept(_) | Outcome::Done => Inserted::New,
                }));
            }
            (Job::Losses { done, .. }, outcome) => {
                let _ = done.send(outcome.map(|outcome| match outcome {
                    Outcome::Kept(kept) => kept,
                    Outcome::Inserted(_) | Outcome::Removed(_) | Outcome::Done => Kept::default(),
                }));
            }
            (Job::Remove { done, .. }, outcome) => {
                let removed = |outcome| matches!(outcome, Outcome::Removed(true));
                let _ = done.send(outcome.map(removed));
            }
            (Job::Insert { done: None, .. } | Job::Tallies(_), Ok(_)) => {
                self.counts.unwaited.fetch_sub(1, Ordering::AcqRel);
            }
            (Job::Insert { done: None, .. }, Err(error)) => self.counts.lose(1, &error),
            (Job::Tallies(tallies), Err(error)) => {
                let events = tallies.values().copied().map(Events::count).sum();
                self.counts.lose(events, &error);
            }
            (
                Job::Account { done, .. }
                | Job::Repeat { done, .. }
                | Job::Trial { done }
                | Job::Settle { done }
                | Job::Close { done },
                outcome,
            ) => {
                let _ = done.send(outcome.map(|_| ()));
            }
        }
    }
}
