//! Handing images out.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::Instant;

use super::DiskOutbox;
use super::files;
use super::index::IndexError;
use super::job::Job;
use super::record::Entry;
use super::state::{Shared, TakenImage};
use super::window::{Held, Next, Uncovered};
use crate::outbox::Owed;
use crate::payload::Payload;

/// Images that are read from the index at a time.
const PORTION: usize = 128;

/// Of suspect images, which are read whole, fewer.
const SUSPECT_PORTION: usize = 8;

/// What was read from the index.
pub(super) struct Portion {
    good: Vec<(u64, Held)>,
    bad: Vec<(u64, Option<Entry>, String)>,
    /// A folder that is away with images of it.
    away: Option<PathBuf>,
    /// An image whose bytes are elsewhere is there.
    back: bool,
    /// The number up to which it was read; `None`: to the end.
    read_up_to: Option<u64>,
    /// The next number when it was read.
    next: u64,
    /// Of the window that it was read for.
    generation: u64,
}

impl DiskOutbox {
    pub(super) async fn take_image(&self) -> Option<Arc<Owed>> {
        loop {
            let work = self.shared.work.notified();
            tokio::pin!(work);
            // Before the look, so that what comes in between is not missed.
            work.as_mut().enable();
            let (fill, away) = {
                let mut state = self.shared.state.lock();
                if state.away.is_due(Instant::now()) {
                    state.window.clear();
                }
                let away = state.away.due();
                let fill = match state.window.pop() {
                    Next::Image(sequence, held) => {
                        let image = Arc::clone(&held.image);
                        state.taken_numbers.insert(sequence);
                        let taken = TakenImage { sequence, held };
                        state.taken.insert(image.meta.id, taken);
                        drop(state);
                        // There may be another one for another taker.
                        self.shared.work.notify_one();
                        return Some(image);
                    }
                    Next::InIndex if state.left_meanwhile.is_none() => {
                        state.left_meanwhile = Some(HashSet::new());
                        true
                    }
                    Next::InIndex => false,
                    Next::Nothing if state.is_over() => return None,
                    Next::Nothing => false,
                };
                (fill, away)
            };
            if fill {
                self.fill_window().await;
            } else {
                tokio::select! {
                    biased;
                    () = work => {}
                    () = until(away) => {}
                }
            }
        }
    }

    /// Reads the next images from the index. Goes on to the end when it is dropped.
    async fn fill_window(&self) {
        let shared = Arc::clone(&self.shared);
        let jobs = self.jobs.lock().clone();
        let filled = tokio::task::spawn_blocking(move || {
            let read = shared.read_portion();
            if let Err(error) = &read {
                tracing::warn!("the outbox cannot be read now: {error}");
                if let (IndexError::Damaged(problem), Some(jobs)) = (error, &jobs) {
                    let _ = jobs.send(Job::Damaged(problem.clone()));
                }
            }
            let failed = read.is_err();
            let bad = shared.put_into_window(read);
            for (sequence, entry, reason) in bad {
                let job = Job::Bad {
                    sequence,
                    entry: entry.map(Box::new),
                    reason,
                };
                if let Some(jobs) = &jobs {
                    let _ = jobs.send(job);
                }
            }
            // Whoever waits for the window looks again.
            shared.work.notify_waiters();
            failed
        })
        .await;
        if filled.unwrap_or(true) {
            // Dropped while it waits, another taker goes on.
            tokio::time::sleep(self.full_retry).await;
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Shared {
    pub(super) fn read_portion(&self) -> Result<Portion, IndexError> {
        let (uncovered, skip) = {
            let state = self.state.lock();
            let skip: HashSet<u64> = state.taken_numbers.union(&state.leaving).copied().collect();
            (state.window.uncovered(), skip)
        };
        let Uncovered {
            range,
            from_the_end,
            generation,
        } = uncovered;
        let (rows, suspects, read_up_to, next) = self.index.read(|view| {
            let counters = view.counters()?;
            let suspects = counters.suspect_from..counters.suspect_to;
            let most = if suspects.is_empty() {
                PORTION
            } else {
                SUSPECT_PORTION
            };
            let mut rows = Vec::new();
            let mut read_up_to = None;
            view.images(range, from_the_end, |(sequence, entry)| {
                if !skip.contains(&sequence) {
                    rows.push((sequence, entry));
                }
                let full = rows.len() >= most;
                read_up_to = full.then_some(sequence);
                !full
            })?;
            Ok((rows, suspects, read_up_to, counters.next))
        })?;
        let mut portion = Portion {
            good: Vec::with_capacity(rows.len()),
            bad: Vec::new(),
            away: None,
            back: false,
            read_up_to,
            next,
            generation,
        };
        let mut inhabited = HashMap::new();
        for (sequence, entry) in rows {
            if let Ok(entry) = &entry
                && let Some(path) = &entry.referenced
            {
                if files::is_away(&*self.disk, path, &mut inhabited) {
                    portion.away = path.parent().map(Path::to_path_buf);
                    continue;
                }
                portion.back = true;
            }
            match entry {
                Err(error) => portion.bad.push((sequence, None, error.to_string())),
                Ok(entry) => {
                    let closely = suspects.contains(&sequence);
                    match self.hold(sequence, &entry, closely) {
                        Ok(held) => portion.good.push((sequence, held)),
                        Err(reason) => portion.bad.push((sequence, Some(entry), reason)),
                    }
                }
            }
        }
        Ok(portion)
    }

    /// An image of the index as it is handed out; or what is wrong with it.
    fn hold(&self, sequence: u64, entry: &Entry, closely: bool) -> Result<Held, String> {
        let key = {
            let state = self.state.lock();
            let series = state.series.get(&entry.series);
            series.map(|series| series.key.clone())
        };
        let Some(key) = key else {
            return Err(format!("its series, number {}, is not known", entry.series));
        };
        let name = entry.file_name(sequence, key.transport);
        let (path, file) = match &entry.referenced {
            Some(path) => (path.clone(), None),
            None => (self.layout.image(&name), Some(name)),
        };
        // What a medium does not say now is found out when the image is sent.
        let fault = files::fault(&*self.disk, &path, Some(entry.size), &entry.digest, closely);
        if let Ok(Some(reason)) = fault {
            return Err(reason);
        }
        let image = Owed {
            meta: entry.meta(sequence, &key.run),
            payload: Payload::File {
                path,
                size: entry.size,
            },
            source_file: entry.source_file.clone(),
            source_mark: entry.mark.clone(),
            carried: sequence < self.began_at,
        };
        Ok(Held {
            image: Arc::new(image),
            series: entry.series,
            cost: entry.cost(),
            file,
        })
    }

    /// Puts what was read where it is taken from; what is bad is on its way out from then on.
    pub(super) fn put_into_window(
        &self,
        read: Result<Portion, IndexError>,
    ) -> Vec<(u64, Option<Entry>, String)> {
        let mut state = self.state.lock();
        let left = state.left_meanwhile.take().unwrap_or_default();
        let Ok(mut portion) = read else {
            return Vec::new();
        };
        let state = &mut *state;
        if !state.window.continues(portion.generation) {
            // It is read again.
            return Vec::new();
        }
        if let Some(folder) = &portion.away {
            state.away.note(folder, Instant::now());
        } else if portion.back {
            state.away.is_back();
        }
        let waits = |sequence: &u64| {
            !left.contains(sequence)
                && !state.entering.contains(sequence)
                && !state.taken_numbers.contains(sequence)
                && !state.leaving.contains(sequence)
        };
        portion.good.retain(|(sequence, _)| waits(sequence));
        portion.bad.retain(|(sequence, ..)| waits(sequence));
        state
            .leaving
            .extend(portion.bad.iter().map(|(sequence, ..)| *sequence));
        // What came in since then was not read, and is not in the window either unless that
        // reached to the end: then the number before it is where reading goes on.
        let read_up_to = match portion.read_up_to {
            None if state.next != portion.next => state.window.end_of_reading(portion.next),
            read_up_to => read_up_to,
        };
        state.window.fill(portion.good, read_up_to);
        portion.bad
    }
}
