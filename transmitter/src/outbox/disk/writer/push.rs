//! Images come in.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use shared::clock::UnixNanos;
use shared::image::Transport;

use super::Writer;
use crate::outbox::Owed;
use crate::outbox::disk::index::{IndexError, is_full};
use crate::outbox::disk::job::{NotPushed, PushJob, Step};
use crate::outbox::disk::layout::FileName;
use crate::outbox::disk::record::{Entry, mark_key};
use crate::outbox::disk::window::Held;
use crate::payload::Payload;

/// An image whose file has its name.
struct Named {
    job: PushJob,
    sequence: u64,
    /// Its file, if it has one here.
    file: Option<FileName>,
    step: Step,
}

fn not_pushed(error: io::Error) -> NotPushed {
    if is_full(&error) {
        NotPushed::Full
    } else {
        NotPushed::Failed(error)
    }
}

/// The same error for somebody else.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl Writer {
    /// Enters images: all that can be.
    pub(super) fn push(&mut self, mut jobs: Vec<PushJob>) {
        // Who has gone does not want it kept.
        jobs.retain(|job| !job.reply.is_closed());
        if jobs.is_empty() {
            return;
        }
        // First what is kept back for emptying a full disk.
        if let Err(error) = self.core.ballast.hold() {
            self.refuse(jobs, &error);
            return;
        }
        if let Err(error) = self.core.mark.reserve(self.next + jobs.len() as u64) {
            self.refuse(jobs, &error);
            return;
        }
        let mut named = Vec::with_capacity(jobs.len());
        for job in jobs {
            named.extend(self.name(job));
        }
        if let Err(error) = self.sync_folders(&named) {
            self.take_back(named, &error);
            return;
        }
        if !named.is_empty() {
            self.enter(named);
        }
    }

    fn refuse(&mut self, jobs: Vec<PushJob>, error: &io::Error) {
        self.trouble(&problem(error));
        for job in jobs {
            let _ = job.reply.send(Err(not_pushed(copy(error))));
        }
    }

    /// Gives an image the next number and its file the name.
    fn name(&mut self, mut job: PushJob) -> Option<Named> {
        let transport = self.transport(job.series);
        let sequence = self.core.reused.take().unwrap_or(self.next);
        let queued = UnixNanos::now();
        job.meta.sequence = sequence;
        job.meta.queued = Some(queued);
        job.meta.digest = Some(job.staged.digest);
        let entry = Entry {
            id: job.meta.id,
            digest: job.staged.digest,
            size: job.meta.size,
            series: job.series,
            captured: job.meta.captured,
            queued: Some(queued),
            name: job.meta.name.clone(),
            content_type: job.meta.content_type.clone(),
            source_file: job.source_file.clone(),
            mark_key: job.mark.as_ref().map(mark_key),
            mark: job.mark.clone(),
            referenced: job.staged.referenced().map(Into::into),
        };
        let file = match &entry.referenced {
            Some(_) => None,
            None => Some(entry.file_name(sequence, transport)),
        };
        if let Some(file) = &file {
            let named = self
                .core
                .make_segment(sequence)
                .and_then(|()| job.staged.name(&self.core.path(file)));
            if let Err(error) = named {
                self.trouble(&problem(&error));
                let _ = job.reply.send(Err(not_pushed(error)));
                return None;
            }
        }
        self.next = self.next.max(sequence + 1);
        Some(Named {
            job,
            sequence,
            file,
            step: Step::Insert { sequence, entry },
        })
    }

    fn transport(&self, series: u32) -> Transport {
        let state = self.shared.state.lock();
        let series = state.series.get(&series);
        series.map_or(Transport::Grpc, |series| series.key.transport)
    }

    fn sync_folders(&self, named: &[Named]) -> io::Result<()> {
        if !self.core.synced {
            return Ok(());
        }
        let folders: BTreeSet<_> = named
            .iter()
            .filter(|named| named.file.is_some())
            .map(|named| self.core.layout.segment_of(named.sequence))
            .collect();
        folders
            .iter()
            .try_for_each(|folder| self.core.disk.sync_folder(folder))
    }

    /// Takes back images that are not in the index.
    fn take_back(&mut self, named: Vec<Named>, error: &io::Error) {
        self.trouble(&problem(error));
        for image in &named {
            if let Some(file) = &image.file {
                self.core.remove_file(file);
            }
        }
        // A file that comes back by a power loss would be taken in at the next start.
        let _ = self.sync_folders(&named);
        let mut state = self.shared.state.lock();
        for image in &named {
            state.entering.remove(&image.sequence);
        }
        drop(state);
        self.take_numbers_back();
        for image in named {
            let _ = image.job.reply.send(Err(not_pushed(copy(error))));
        }
    }

    /// Enters images into the index.
    fn enter(&mut self, named: Vec<Named>) {
        let numbers = named.iter().map(|image| image.sequence);
        self.shared.state.lock().entering.extend(numbers);
        let mut tries = 0;
        let error = loop {
            tries += 1;
            let next = self.next;
            let done = self
                .write_once(|change| named.iter().try_for_each(|image| image.step.apply(change)));
            let Err(error) = done else {
                self.well();
                return self.entered(named);
            };
            self.trouble(&error.to_string());
            if let IndexError::Full(_) = error {
                // The ballast is not for new images, but the index has to be opened again.
                self.core.ballast.release();
            }
            self.mend(&error);
            self.next = self.next.max(next);
            if tries == super::TRIES || matches!(error, IndexError::Full(_)) {
                break error;
            }
        };
        // Whether they are in all the same is what the index says.
        let (inside, outside): (Vec<_>, Vec<_>) = named.into_iter().partition(|image| {
            let Step::Insert { sequence, entry } = &image.step else {
                return false;
            };
            let found = self.core.index.read(|view| view.image(*sequence));
            matches!(found, Ok(Some(found)) if found.id == entry.id)
        });
        self.entered(inside);
        if !outside.is_empty() {
            self.take_back(outside, &error.into_io());
        }
    }

    /// They are in: whoever takes images may have them.
    fn entered(&mut self, named: Vec<Named>) {
        let mut replies = Vec::with_capacity(named.len());
        let mut state = self.shared.state.lock();
        for image in named {
            let Step::Insert { sequence, entry } = image.step else {
                continue;
            };
            state.entering.remove(&sequence);
            let mut job = image.job;
            let path = match (&image.file, &entry.referenced) {
                (Some(file), _) => self.core.path(file),
                (None, Some(path)) => path.clone(),
                (None, None) => continue,
            };
            let owed = Owed {
                payload: Payload::File {
                    path,
                    size: job.meta.size,
                },
                meta: job.meta,
                source_file: job.source_file,
                source_mark: job.mark,
                carried: false,
            };
            state.backlog.images += 1;
            state.backlog.bytes += entry.size;
            if let Some(series) = state.series.get_mut(&job.series) {
                series.counts.captured += 1;
            }
            let held = Held {
                image: Arc::new(owed),
                series: job.series,
                cost: entry.cost(),
                file: image.file,
            };
            state.window.push(sequence, held);
            job.admission.keep();
            replies.push((job.reply, job.admission, sequence));
        }
        drop(state);
        // Takers are woken by the admissions when they are let go.
        for (reply, _admission, sequence) in replies {
            let _ = reply.send(Ok(sequence));
        }
    }
}

fn problem(error: &io::Error) -> String {
    if is_full(error) {
        format!("no space for new images: {error}")
    } else {
        format!("new images cannot be written: {error}")
    }
}
