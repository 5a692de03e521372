//! Images that will never arrive, and what the receiver knows of them.

use shared::image::{ImageId, ImageMeta};
use tokio::sync::oneshot;

use super::Writer;
use crate::outbox::disk::index::IndexError;
use crate::outbox::disk::job::{Job, Step};
use crate::outbox::disk::layout::FileName;
use crate::outbox::disk::policy;
use crate::outbox::disk::record::Entry;
use crate::outbox::{Lost, OutboxError};

/// Steps of one transaction, and who waits for it.
#[derive(Default)]
pub(super) struct Batch {
    steps: Vec<Step>,
    after: Vec<After>,
}

/// What happens when the transaction is committed, or is not.
enum After {
    Answer(oneshot::Sender<Result<(), OutboxError>>),
    Lost(oneshot::Sender<Result<Lost, OutboxError>>, Box<Lost>, u32),
    Settled {
        id: ImageId,
        reply: oneshot::Sender<Result<(), OutboxError>>,
    },
    Bad {
        sequence: u64,
        series: Option<u32>,
        entry: Option<Box<Entry>>,
    },
}

/// An image that was to leave by a transaction that failed. Until the index can be read, nobody
/// knows whether it is there.
pub(super) enum Doubt {
    Bad {
        sequence: u64,
        series: Option<u32>,
        entry: Option<Box<Entry>>,
    },
    Evicted(Box<Lost>, Box<Entry>),
}

impl Doubt {
    fn sequence(&self) -> u64 {
        match self {
            Self::Bad { sequence, .. } => *sequence,
            Self::Evicted(lost, _) => lost.meta.sequence,
        }
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn add(&mut self, job: Job, writer: &mut Writer) {
        match job {
            Job::Lose {
                mut meta,
                reason,
                mark,
                series,
                reply,
            } => {
                meta.sequence = writer.next;
                writer.next += 1;
                let lost = Lost {
                    meta: *meta,
                    reason,
                };
                self.steps.push(Step::Lose {
                    lost: lost.clone(),
                    series,
                    mark,
                });
                self.after.push(After::Lost(reply, Box::new(lost), series));
            }
            Job::Settle {
                series,
                lost,
                reply,
            } => {
                let id = lost.meta.id;
                self.steps.push(Step::Drop {
                    series,
                    lost: *lost,
                    unreadable: false,
                });
                self.after.push(After::Settled { id, reply });
            }
            Job::Bad {
                sequence,
                entry,
                reason,
            } => {
                let (lost, series) = writer.bad(sequence, entry.as_deref(), reason);
                self.steps.push(Step::Drop {
                    series,
                    lost,
                    unreadable: entry.is_none(),
                });
                self.after.push(After::Bad {
                    sequence,
                    series: Some(series),
                    entry,
                });
            }
            Job::Account {
                series,
                account,
                told_end,
                reply,
            } => {
                self.steps.push(Step::Account {
                    series,
                    account,
                    told_end,
                });
                self.after.push(After::Answer(reply));
            }
            Job::Forget(series) => self.steps.extend(series.into_iter().map(Step::Forget)),
            Job::Kept { sequences, reply } => {
                self.steps.extend(sequences.into_iter().map(Step::Told));
                self.after.push(After::Answer(reply));
            }
            // The writer does these by themselves.
            Job::Push(_)
            | Job::Evict { .. }
            | Job::Begin { .. }
            | Job::Damaged(_)
            | Job::Settled
            | Job::Flush { .. }
            | Job::Shut { .. } => {}
        }
    }
}

pub(super) fn failed(error: &IndexError) -> OutboxError {
    OutboxError::Io {
        action: "writing of the index".to_owned(),
        // The kind says whether to wait for space.
        source: std::io::Error::new(error.kind(), shared::telemetry::chain(error)),
    }
}

impl Writer {
    pub(super) fn lose(&mut self, batch: Batch) {
        let Batch { steps, after } = batch;
        let next = self.next;
        let reserved = self.core.mark.reserve(next).map_err(IndexError::Io);
        let done = reserved.and_then(|()| self.commit(&steps));
        if done.is_err() {
            self.take_numbers_back();
        }
        for after in after {
            self.after(after, &done);
        }
    }

    fn after(&mut self, after: After, done: &Result<(), IndexError>) {
        match (after, done) {
            (After::Answer(reply), done) => {
                let _ = reply.send(done.as_ref().map_err(failed).copied());
            }
            (After::Lost(reply, lost, series), done) => {
                if let Err(error) = done
                    && !self.is_on_ledger(&lost)
                {
                    let _ = reply.send(Err(failed(error)));
                    return;
                }
                if let Some(series) = self.shared.state.lock().series.get_mut(&series) {
                    series.counts.captured += 1;
                    series.counts.lost += 1;
                }
                if let Err(Ok(lost)) = reply.send(Ok(*lost)) {
                    self.shared.state.lock().unclaimed.push(lost);
                }
            }
            (After::Settled { id, reply }, Ok(())) => {
                self.is_lost(id);
                let _ = reply.send(Ok(()));
            }
            (After::Settled { reply, .. }, Err(error)) => {
                let _ = reply.send(Err(failed(error)));
            }
            (
                After::Bad {
                    sequence,
                    series,
                    entry,
                },
                Ok(()),
            ) => self.put_aside(sequence, series, entry.as_deref()),
            (
                After::Bad {
                    sequence,
                    series,
                    entry,
                },
                Err(_),
            ) => {
                self.doubts.push(Doubt::Bad {
                    sequence,
                    series,
                    entry,
                });
                // It is found again, if it is there.
                self.stays(&[sequence]);
            }
        }
    }

    /// Images that were to leave are in the index still, or it is not known.
    fn stays(&mut self, sequences: &[u64]) {
        let mut state = self.shared.state.lock();
        for sequence in sequences {
            state.leaving.remove(sequence);
        }
        // Meanwhile the window may have gone past those that it did not hold.
        state.window.clear();
        drop(state);
        self.settle_doubts();
        self.shared.work.notify_waiters();
    }

    fn is_on_ledger(&self, lost: &Lost) -> bool {
        let sequence = lost.meta.sequence;
        let found = self.core.index.read(|view| view.loss(sequence));
        matches!(found, Ok(Some(found)) if found.id == lost.meta.id)
    }

    /// Looks which transactions that failed are there all the same.
    pub(super) fn settle_doubts(&mut self) {
        for doubt in std::mem::take(&mut self.doubts) {
            let sequence = doubt.sequence();
            match self.core.index.read(|view| view.has_image(sequence)) {
                Ok(true) => {}
                Ok(false) => match doubt {
                    Doubt::Bad { series, entry, .. } => {
                        self.put_aside(sequence, series, entry.as_deref());
                    }
                    Doubt::Evicted(lost, entry) => {
                        self.evicted(&[(sequence, *entry)]);
                        self.shared.state.lock().unclaimed.push(*lost);
                    }
                },
                Err(_) => self.doubts.push(doubt),
            }
        }
    }

    /// What is known of an image that cannot be sent.
    fn bad(&self, sequence: u64, entry: Option<&Entry>, reason: String) -> (Lost, u32) {
        let state = self.shared.state.lock();
        let series = entry.map(|entry| entry.series).or(state.present);
        let run = series.and_then(|series| state.series.get(&series));
        let run = run.map_or("", |series| series.key.run.as_str());
        let meta = match entry {
            Some(entry) => entry.meta(sequence, run),
            None => {
                let name = self.core.find(sequence);
                let id = name.map_or_else(ImageId::new, |name| name.id);
                let mut meta = ImageMeta::new(id, 0);
                meta.sequence = sequence;
                meta.digest = name.map(|name| name.digest);
                meta
            }
        };
        drop(state);
        tracing::error!("image {} (number {sequence}) is lost: {reason}", meta.id);
        (Lost { meta, reason }, series.unwrap_or(0))
    }

    /// An image that was taken is on the ledger. Its file may be of use to somebody.
    fn is_lost(&mut self, id: ImageId) {
        let mut state = self.shared.state.lock();
        let Some(taken) = state.taken.remove(&id) else {
            return;
        };
        state.taken_numbers.remove(&taken.sequence);
        state.has_left(taken.sequence);
        state.subtract(taken.held.image.meta.size, taken.held.cost);
        if let Some(series) = state.series.get_mut(&taken.held.series) {
            series.counts.lost += 1;
        }
        drop(state);
        if let Some(name) = &taken.held.file {
            self.core.quarantine(name);
        }
        self.shared.changed();
    }

    /// Puts the file of an image aside that is on the ledger now.
    fn put_aside(&mut self, sequence: u64, series: Option<u32>, entry: Option<&Entry>) {
        if entry.is_none_or(|entry| entry.referenced.is_none())
            && let Some(name) = self.core.find(sequence)
        {
            self.core.quarantine(&name);
        }
        let mut state = self.shared.state.lock();
        state.has_left(sequence);
        let size = entry.map_or(0, |entry| entry.size);
        state.subtract(size, entry.map_or(0, Entry::cost));
        if let Some(series) = series.and_then(|series| state.series.get_mut(&series)) {
            series.counts.lost += 1;
        }
        drop(state);
        self.shared.changed();
    }

    /// Makes room: images give way, by the policy of the outbox.
    pub(super) fn evict(
        &mut self,
        needed: u64,
        reply: oneshot::Sender<Result<Vec<Lost>, OutboxError>>,
    ) {
        let result = self.make_room(needed).map_err(|error| failed(&error));
        if let Err(Ok(lost)) = reply.send(result) {
            self.shared.state.lock().unclaimed.extend(lost);
        }
    }

    fn make_room(&mut self, needed: u64) -> Result<Vec<Lost>, IndexError> {
        let when_full = self.shared.when_full;
        let victims = self.core.index.read(|view| {
            // Locked while choosing, so that nobody takes a victim meanwhile.
            let mut state = self.shared.state.lock();
            let victims = policy::choose(view, &state, when_full, needed)?;
            for (sequence, _) in &victims.images {
                state.leaving.insert(*sequence);
                state.window.remove(*sequence);
            }
            Ok(victims)
        })?;
        let mut losses = Vec::with_capacity(victims.images.len());
        let mut steps: Vec<Step> = Vec::with_capacity(victims.images.len() + 1);
        for (sequence, entry) in &victims.images {
            let run = {
                let state = self.shared.state.lock();
                let series = state.series.get(&entry.series);
                series.map(|series| series.key.run.clone())
            };
            let lost = Lost {
                meta: entry.meta(*sequence, run.as_deref().unwrap_or("")),
                reason: "evicted: the outbox was full".to_owned(),
            };
            losses.push(lost.clone());
            steps.push(Step::Drop {
                series: entry.series,
                lost,
                unreadable: false,
            });
        }
        steps.extend(victims.thinned.map(Step::Thinned));
        if steps.is_empty() {
            return Ok(losses);
        }
        if let Err(error) = self.commit(&steps) {
            let numbers: Vec<u64> = victims.images.iter().map(|(number, _)| *number).collect();
            let doubts = losses.into_iter().zip(victims.images);
            self.doubts.extend(
                doubts.map(|(lost, (_, entry))| Doubt::Evicted(Box::new(lost), Box::new(entry))),
            );
            self.stays(&numbers);
            return Err(error);
        }
        self.evicted(&victims.images);
        Ok(losses)
    }

    /// Images have given way.
    fn evicted(&mut self, images: &[(u64, Entry)]) {
        for (sequence, entry) in images {
            if entry.referenced.is_none() {
                let name = entry.file_name(*sequence, self.transport_of(entry.series));
                self.core.remove_file(&name);
            }
        }
        let mut state = self.shared.state.lock();
        for (sequence, entry) in images {
            state.has_left(*sequence);
            state.subtract(entry.size, entry.cost());
            if let Some(series) = state.series.get_mut(&entry.series) {
                series.counts.lost += 1;
            }
        }
        drop(state);
        self.shared.changed();
    }

    fn transport_of(&self, series: u32) -> shared::image::Transport {
        let state = self.shared.state.lock();
        let series = state.series.get(&series);
        series.map_or(shared::image::Transport::Grpc, |series| {
            series.key.transport
        })
    }
}

impl crate::outbox::disk::core::Core {
    /// The file of an image, by its number alone.
    pub(in crate::outbox) fn find(&self, sequence: u64) -> Option<FileName> {
        let listed = self.disk.list(&self.layout.segment_of(sequence)).ok()?;
        let mut names = listed
            .filter_map(Result::ok)
            .filter_map(|listed| listed.name.to_str().and_then(FileName::parse));
        names.find(|name| name.sequence == sequence)
    }
}
