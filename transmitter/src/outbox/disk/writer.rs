//! The one thread that changes an outbox. It takes together what was asked meanwhile, so that many
//! images share one sync of their folder and one transaction.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::core::Core;
use super::index::IndexError;
use super::job::{Job, Step};
use super::state::{Leaving, Shared};
use crate::outbox::FULL_RETRY;

mod commit;
mod losses;
mod push;
mod upkeep;

/// Jobs that are done together at most.
const BATCH: usize = 256;

/// Time for which a settled image may still be in the index.
const SETTLE_WITHIN: Duration = Duration::from_millis(500);

pub(super) struct Writer {
    core: Core,
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    /// Number of the next image.
    next: u64,
    /// When the settled images must be out of the index.
    settle_by: Option<Instant>,
    upkeep: upkeep::Upkeep,
    doubts: Vec<losses::Doubt>,
}

/// Tries for what the medium refuses.
const TRIES: usize = 3;

impl Writer {
    pub(super) fn new(core: Core, shared: Arc<Shared>, jobs: Receiver<Job>) -> Self {
        let next = shared.state.lock().next;
        Self {
            core,
            shared,
            jobs,
            next,
            settle_by: None,
            upkeep: upkeep::Upkeep::new(),
            doubts: Vec::new(),
        }
    }

    /// Works until the outbox is shut, or gone.
    pub(super) fn run(mut self) {
        loop {
            let first = match self.jobs.recv_timeout(self.patience()) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                // As if the process had ended: what is settled is sent again.
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let Some(first) = first else {
                self.idle();
                continue;
            };
            let mut jobs = vec![first];
            while jobs.len() < BATCH {
                match self.jobs.try_recv() {
                    Ok(job) => jobs.push(job),
                    Err(_) => break,
                }
            }
            if let Some(shut) = self.work(jobs) {
                // What stays is sent again.
                let _ = self.settle();
                if let Err(error) = self.core.close() {
                    tracing::error!(
                        "the outbox could not be closed in order; its next start looks for damage: {}",
                        shared::telemetry::chain(&error)
                    );
                }
                let _ = shut.send(());
                return;
            }
            if self.settle_by.is_some_and(|by| by <= Instant::now()) {
                let _ = self.settle();
            }
        }
    }

    /// How long to wait for jobs.
    fn patience(&self) -> Duration {
        if self.core.sweep.is_some() && !self.core.index.is_closed() {
            return Duration::ZERO;
        }
        let settle = self
            .settle_by
            .map(|by| by.saturating_duration_since(Instant::now()));
        let mending = self.core.index.is_closed().then_some(FULL_RETRY);
        let due = [settle, mending].into_iter().flatten();
        due.fold(self.upkeep.due(), Duration::min)
    }

    fn idle(&mut self) {
        if self.core.index.is_closed() {
            // Whoever only reads needs it, too.
            self.mend(&IndexError::Io(std::io::Error::other("it is closed")));
            if self.core.index.is_closed() {
                return;
            }
            self.well();
        }
        if self.settle_by.is_some_and(|by| by <= Instant::now()) {
            let _ = self.settle();
            return;
        }
        match self.core.sweep_one() {
            Ok(true) => {}
            Ok(false) => self.upkeep(),
            Err(error) => {
                tracing::warn!("leftovers stay until the next start: {error}");
                self.core.sweep = None;
            }
        }
    }

    /// Does a batch; who waits for the end, if somebody does.
    fn work(&mut self, jobs: Vec<Job>) -> Option<tokio::sync::oneshot::Sender<()>> {
        let mut pushes = Vec::new();
        let mut losses = losses::Batch::default();
        let mut shut = None;
        let mut flushed = Vec::new();
        for job in jobs {
            match job {
                Job::Push(push) => pushes.push(*push),
                Job::Settled => {
                    let by = Instant::now() + SETTLE_WITHIN;
                    self.settle_by.get_or_insert(by);
                }
                Job::Flush { reply } => flushed.push(reply),
                Job::Damaged(problem) => self.check(&problem),
                Job::Shut { reply } => shut = Some(reply),
                Job::Begin { key, reply } => {
                    let _ = reply.send(self.begin(&key));
                }
                Job::Evict { needed, reply } => self.evict(needed, reply),
                other => losses.add(other, self),
            }
        }
        if !losses.is_empty() {
            self.lose(losses);
        }
        if !pushes.is_empty() {
            self.push(pushes);
        }
        if !flushed.is_empty() {
            let settled = self.settle();
            for reply in flushed {
                let settled = settled.as_ref().map_err(losses::failed).copied();
                let _ = reply.send(settled);
            }
        }
        shut
    }

    /// Takes the settled images out of the index, then removes their files. What cannot be taken out
    /// is in the log, and tried again.
    fn settle(&mut self) -> Result<(), IndexError> {
        self.settle_by = None;
        let settled = std::mem::take(&mut self.shared.state.lock().settled);
        if settled.is_empty() {
            return Ok(());
        }
        let steps: Vec<Step> = settled.iter().map(departure).collect();
        let done = self.commit(&steps);
        match &done {
            Ok(()) => self.departed(&settled),
            Err(error) => {
                tracing::warn!(
                    "{} settled images stay in the outbox for now: {error}",
                    settled.len()
                );
                self.shared.state.lock().settled.extend(settled);
                self.settle_by = Some(Instant::now() + FULL_RETRY);
            }
        }
        done
    }

    /// Files of settled images are not needed any more.
    fn departed(&mut self, settled: &[Leaving]) {
        for leaving in settled {
            if let Some(name) = &leaving.taken.held.file {
                self.core.remove_file(name);
            }
        }
        let mut state = self.shared.state.lock();
        for leaving in settled {
            state.has_left(leaving.taken.sequence);
        }
    }

    fn begin(&mut self, key: &crate::outbox::SeriesKey) -> Result<(), crate::outbox::OutboxError> {
        let new = super::record::SeriesEntry::new(key.clone());
        let begun = self.write(|change| {
            let number = change.number_of(&new)?;
            let mut series = change.series(number)?;
            if series.told_end {
                series.told_end = false;
                change.put_series(number, &series)?;
            }
            Ok((number, series))
        });
        let (number, series) = begun.map_err(|error| crate::outbox::OutboxError::Io {
            action: "beginning of a series".to_owned(),
            source: error.into_io(),
        })?;
        let mut state = self.shared.state.lock();
        // The counts in memory may be ahead of those in the index.
        state.series.entry(number).or_insert(series).told_end = false;
        state.present = Some(number);
        state.closed = false;
        Ok(())
    }

    fn commit(&mut self, steps: &[Step]) -> Result<(), IndexError> {
        self.write(|change| steps.iter().try_for_each(|step| step.apply(change)))
    }
}

fn departure(leaving: &Leaving) -> Step {
    Step::Settle {
        sequence: leaving.taken.sequence,
        series: leaving.taken.held.series,
        outcome: leaving.outcome,
    }
}
