//! The outbox on disk: payload files and an index, as docs/specs/outbox.md describes them.
//!
//! Who pushes writes the payload; one thread, the writer, gives numbers and changes the index, for
//! many images at a time. Readers look into the index beside it. Memory holds the next few images
//! and those that are taken, whatever is owed.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::disk::Disk;
use shared::image::{ImageId, ImageMeta, OutboxId};
use shared::report::RunAccount;
use shared::wire::{Loss, Standing};
use tokio::sync::{Notify, oneshot};

use self::core::CoreOptions;
use self::files::Intake;
pub(super) use self::index::IndexError;
use self::job::Job;
use self::record::mark_key;
use self::state::{Departure, Leaving, Shared, State};
use self::writer::Writer;
use super::{
    Backlog, Counts, Extent, FileMark, Lost, Outbox, OutboxError, Outcome, Owed, Pushed, SeriesKey,
};
use crate::config::{Order, OutboxOptions};

mod ballast;
mod by_hand;

pub(crate) mod core;
mod encoding;
pub(crate) mod files;
mod index;
mod job;
pub(crate) mod layout;
mod lock;
mod mark;
mod policy;
mod push;
pub(crate) mod quarantine;
mod rebuild;
pub(crate) mod record;
pub(crate) mod recovery;
mod state;
mod take;
#[cfg(test)]
mod tests;
mod window;
mod writer;

/// Images in a folder. Dropping it is like the end of the process; [`Outbox::shut`] closes it in
/// order.
pub struct DiskOutbox {
    shared: Arc<Shared>,
    intake: Intake,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Time between tries on a medium that is full or fails.
    full_retry: std::time::Duration,
}

/// Settled images that wait for the writer at most.
const MOST_SETTLED: usize = 4_096;

impl DiskOutbox {
    /// Opens the outbox in `folder`, or makes it there, with what an earlier process left in it.
    /// Blocks while it does.
    ///
    /// # Errors
    /// When another process has it open, or the folder cannot be made or written.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        options: &OutboxOptions,
        order: Order,
    ) -> Result<Self, OutboxError> {
        let core = CoreOptions::new(options.durability);
        Self::open_with(disk, folder, options, order, &core)
    }

    fn open_with(
        disk: Arc<dyn Disk>,
        folder: &Path,
        options: &OutboxOptions,
        order: Order,
        core: &CoreOptions,
    ) -> Result<Self, OutboxError> {
        let core = recovery::open(&disk, folder, core)?;
        let (counters, series, first_owed, untold) = core
            .index
            .read(|view| {
                let untold = view.untold(1)?.first().copied();
                Ok((view.counters()?, view.series()?, view.first_owed()?, untold))
            })
            .map_err(recovery::broken)?;
        let mut state = State::new(order, &counters, series);
        state.first_owed = first_owed;
        state.first_untold = untold;
        let shared = Arc::new(Shared {
            disk: Arc::clone(&disk),
            layout: core.layout.clone(),
            index: Arc::clone(&core.index),
            outbox: core.outbox,
            limit: options.limit.0,
            min_free: options.min_free.0,
            when_full: options.when_full,
            began_at: counters.next,
            state: Mutex::new(state),
            room: Notify::new(),
            work: Notify::new(),
            loss: Notify::new(),
        });
        let intake = Intake::new(disk, core.layout.clone(), options.files, options.durability);
        let (jobs, receiver) = mpsc::channel();
        let writer = Writer::new(core, Arc::clone(&shared), receiver);
        let thread = std::thread::Builder::new()
            .name("outbox".to_owned())
            .spawn(move || writer.run())
            .map_err(self::core::failed("starting of its thread"))?;
        Ok(Self {
            shared,
            intake,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(thread)),
            full_retry: super::FULL_RETRY,
        })
    }

    /// What its sequence numbers count in.
    pub fn id(&self) -> OutboxId {
        self.shared.outbox
    }

    fn send(&self, job: Job) -> Result<(), OutboxError> {
        let jobs = self.jobs.lock();
        let jobs = jobs.as_ref().ok_or(OutboxError::Closed)?;
        jobs.send(job).map_err(|_| OutboxError::Closed)
    }

    /// Has something done by the writer. What was asked happens even if nobody waits for it.
    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, OutboxError>>) -> Job,
    ) -> Result<T, OutboxError> {
        let (reply, answer) = oneshot::channel();
        self.send(job(reply))?;
        answer.await.map_err(|_| OutboxError::Closed)?
    }

    /// Reads the index beside the writer.
    async fn look<T: Send + 'static>(
        &self,
        read: impl Fn(&index::View) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let index = Arc::clone(&self.shared.index);
        let looked = tokio::task::spawn_blocking(move || index.read(read)).await;
        looked.unwrap_or_else(|error| Err(IndexError::Io(std::io::Error::other(error))))
    }

    /// The series that images belong to now; that of the image's own run when none was begun.
    async fn present(&self, meta: &ImageMeta) -> Result<u32, OutboxError> {
        loop {
            if let Some(present) = self.shared.state.lock().present {
                return Ok(present);
            }
            let key = SeriesKey {
                run: meta.run.clone(),
                transport: shared::image::Transport::Grpc,
            };
            self.begin_series(key).await?;
        }
    }

    /// Settles an image that is not lost: the index learns of it later.
    /// How many images wait to leave the index, this one included, and whether its bytes are
    /// elsewhere; `None` when it is not taken any more.
    fn depart(&self, id: ImageId, outcome: Departure) -> Option<(usize, bool)> {
        let mut state = self.shared.state.lock();
        let taken = state.taken.remove(&id)?;
        let elsewhere = taken.held.file.is_none();
        state.taken_numbers.remove(&taken.sequence);
        state.leaving.insert(taken.sequence);
        state.subtract(taken.held.image.meta.size, taken.held.cost);
        if let Some(series) = state.series.get_mut(&taken.held.series) {
            let counts = &mut series.counts;
            match outcome {
                Departure::Delivered => counts.delivered += 1,
                Departure::Duplicate => counts.duplicates += 1,
                Departure::Quarantined => counts.quarantined += 1,
            }
        }
        state.settled.push(Leaving { taken, outcome });
        let settled = state.settled.len();
        let over = state.is_over();
        drop(state);
        self.shared.room.notify_waiters();
        if over {
            self.shared.work.notify_waiters();
            self.shared.work.notify_one();
        }
        Some((settled, elsewhere))
    }

    /// Brings what is settled into the index.
    async fn flush(&self) -> Result<(), OutboxError> {
        self.ask(|reply| Job::Flush { reply }).await
    }

    async fn settle_lost(&self, id: ImageId, reason: String) -> Result<(), OutboxError> {
        let (series, lost) = {
            let state = self.shared.state.lock();
            let Some(taken) = state.taken.get(&id) else {
                return Ok(());
            };
            let lost = Lost {
                meta: taken.held.image.meta.clone(),
                reason,
            };
            (taken.held.series, Box::new(lost))
        };
        self.ask(|reply| Job::Settle {
            series,
            lost,
            reply,
        })
        .await
    }
}

#[async_trait]
impl Outbox for DiskOutbox {
    async fn begin_series(&self, series: SeriesKey) -> Result<(), OutboxError> {
        self.ask(|reply| Job::Begin { key: series, reply }).await
    }

    async fn push(&self, image: Owed) -> Result<Pushed, OutboxError> {
        self.push_image(image).await
    }

    async fn knows(&self, mark: &FileMark) -> Result<bool, OutboxError> {
        let key = mark_key(mark);
        let known = self.look(move |view| view.has_mark(key)).await;
        known.map_err(recovery::broken)
    }

    async fn lose(&self, meta: ImageMeta, reason: &str) -> Result<Lost, OutboxError> {
        let series = self.present(&meta).await?;
        let mark = self.shared.state.lock().refused.remove(&meta.id);
        self.ask(|reply| Job::Lose {
            meta: Box::new(meta),
            reason: reason.to_owned(),
            mark,
            series,
            reply,
        })
        .await
    }

    async fn take(&self) -> Option<Arc<Owed>> {
        self.take_image().await
    }

    async fn settle(&self, id: ImageId, outcome: Outcome) -> Result<(), OutboxError> {
        let departure = match outcome {
            Outcome::Lost(reason) => return self.settle_lost(id, reason).await,
            Outcome::Delivered => Departure::Delivered,
            Outcome::Duplicate => Departure::Duplicate,
            Outcome::Quarantined => Departure::Quarantined,
        };
        if self.shared.state.lock().settled.len() >= MOST_SETTLED {
            // A medium that takes nothing holds the delivery up in the end.
            self.flush().await?;
        }
        let Some((settled, elsewhere)) = self.depart(id, departure) else {
            // It was settled before, and perhaps not brought into the index.
            return self.flush().await;
        };
        if settled == 1 {
            // Whoever shuts the outbox brings it into the index.
            let _ = self.send(Job::Settled);
        }
        if elsewhere {
            // A file that is only referred to may be removed by its owner from now on; were the
            // image still owed after a crash, it would be taken for lost.
            return self.flush().await;
        }
        if settled >= MOST_SETTLED {
            // In vain, it is tried again before the next one.
            let _ = self.flush().await;
        }
        Ok(())
    }

    async fn give_back(&self, id: ImageId) {
        let mut state = self.shared.state.lock();
        let Some(taken) = state.taken.remove(&id) else {
            return;
        };
        state.taken_numbers.remove(&taken.sequence);
        state.window.give_back(taken.sequence, taken.held);
        drop(state);
        self.shared.work.notify_one();
    }

    fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.room.notify_waiters();
        self.shared.work.notify_waiters();
        self.shared.work.notify_one();
    }

    fn backlog(&self) -> Backlog {
        self.shared.state.lock().backlog
    }

    fn standing(&self) -> Standing {
        self.shared.state.lock().standing(self.shared.outbox)
    }

    async fn losses(&self, limit: usize) -> (Vec<Loss>, Standing) {
        let outbox = self.shared.outbox;
        // What is settled and still in the index would be told as owed. In vain, the numbers told
        // are only older than they could be.
        if !self.shared.state.lock().settled.is_empty() {
            let _ = self.flush().await;
        }
        let read = self.look(move |view| {
            let untold = view.untold(limit.saturating_add(1))?;
            let mut losses = Vec::new();
            for sequence in untold.iter().take(limit) {
                let entry = view.loss(*sequence)?;
                losses.extend(entry.map(|entry| entry.loss(*sequence)));
            }
            let next = view.counters()?.next;
            let first_owed = view.first_owed()?.unwrap_or(next);
            let standing = Standing {
                outbox,
                first_owed: untold
                    .get(limit)
                    .map_or(first_owed, |next| first_owed.min(*next)),
                next_sequence: next,
            };
            Ok((losses, standing))
        });
        match read.await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!("the losses cannot be told now: {error}");
                (Vec::new(), self.standing())
            }
        }
    }

    async fn losses_kept(&self, sequences: &[u64]) -> Result<(), OutboxError> {
        if sequences.is_empty() {
            return Ok(());
        }
        let sequences = sequences.to_vec();
        self.ask(|reply| Job::Kept { sequences, reply }).await
    }

    async fn loss_waits(&self) {
        loop {
            let loss = self.shared.loss.notified();
            tokio::pin!(loss);
            loss.as_mut().enable();
            if self.shared.state.lock().first_untold.is_some() {
                return;
            }
            loss.await;
        }
    }

    async fn series(&self) -> Vec<(SeriesKey, Counts, Option<RunAccount>)> {
        let mut state = self.shared.state.lock();
        let present = state.present;
        let over: Vec<u32> = state
            .series
            .iter()
            .filter(|(number, series)| {
                present != Some(**number) && series.told_end && series.counts.owed() == 0
            })
            .map(|(number, _)| *number)
            .collect();
        // One whose last images are still in the index is needed for those.
        let over: Vec<u32> = over
            .into_iter()
            .filter(|number| {
                let mut settled = state.settled.iter();
                !settled.any(|leaving| leaving.taken.held.series == *number)
            })
            .collect();
        for number in &over {
            state.series.remove(number);
        }
        let series = state
            .series
            .values()
            .map(|series| (series.key.clone(), series.counts, series.account()))
            .collect();
        drop(state);
        if !over.is_empty() {
            let _ = self.send(Job::Forget(over));
        }
        series
    }

    async fn save_account(&self, series: &SeriesKey, account: RunAccount, told_end: bool) {
        let account = shared::wire::encode_account(account);
        let number = {
            let mut state = self.shared.state.lock();
            let found = state
                .series
                .iter_mut()
                .find(|(_, entry)| entry.key == *series);
            let Some((number, entry)) = found else {
                return;
            };
            entry.account = Some(account.clone());
            entry.told_end = told_end;
            *number
        };
        let saved = self
            .ask(|reply| Job::Account {
                series: number,
                account,
                told_end,
                reply,
            })
            .await;
        if let Err(error) = saved {
            tracing::warn!(
                "the account of run {} is not kept: {}",
                series.run,
                shared::telemetry::chain(&error)
            );
        }
    }

    fn health(&self) -> Result<(), String> {
        let state = self.shared.state.lock();
        if let Some(trouble) = &state.trouble {
            return Err(trouble.clone());
        }
        if state.waiting_for_room > 0 {
            let backlog = state.backlog;
            drop(state);
            return Err(self.shared.full(backlog));
        }
        Ok(())
    }

    async fn extent(&self) -> Extent {
        let shared = Arc::clone(&self.shared);
        let looked = self.look(move |view| {
            let first = match view.first_owed()? {
                Some(sequence) => view.image(sequence)?,
                None => None,
            };
            Ok((shared.free_space(), first.and_then(|entry| entry.queued)))
        });
        // What cannot be read is in the log and in the health already.
        let (space, oldest) = looked.await.unwrap_or((u64::MAX, None));
        let limit = self.shared.limit;
        let left = limit.saturating_sub(self.backlog().bytes);
        Extent {
            limit: Some(limit),
            free: Some(left.min(space)),
            oldest,
        }
    }

    async fn shut(&self) {
        let (reply, answer) = oneshot::channel();
        let sent = self.send(Job::Shut { reply });
        *self.jobs.lock() = None;
        if sent.is_ok() {
            let _ = answer.await;
        }
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

impl Drop for DiskOutbox {
    fn drop(&mut self) {
        *self.jobs.lock() = None;
        // Its files are free for the next one then.
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}
