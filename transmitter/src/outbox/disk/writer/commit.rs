//! Transactions on a medium that fails.

use std::io;

use super::{TRIES, Writer};
use crate::outbox::disk::core::Core;
use crate::outbox::disk::index::{Change, IndexError, View};
use crate::outbox::disk::rebuild;
use crate::outbox::disk::record::SeriesEntry;

impl Writer {
    /// Makes a change, whatever it takes: after an error the index is opened again, on a full disk
    /// the ballast is let go, and a damaged index is made again from the images. `work` may be
    /// called more than once, also after a time that succeeded without anybody's knowing.
    pub(super) fn write<T>(
        &mut self,
        work: impl Fn(&mut Change<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.write_once(&work) {
                Ok(done) => return Ok(done),
                Err(error) => {
                    let again = tries < TRIES
                        && match &error {
                            IndexError::Full(_) => self.core.ballast.release(),
                            IndexError::Io(_) | IndexError::Damaged(_) => true,
                            IndexError::Newer(_) | IndexError::Taken(_) => false,
                        };
                    self.trouble(&error.to_string());
                    self.mend(&error);
                    if !again {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Makes a change, or does not; the index must be mended after an error.
    pub(super) fn write_once<T>(
        &mut self,
        work: impl Fn(&mut Change<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let (done, counters, first_owed, first_untold) = self.core.index.write(|change| {
            let done = work(change)?;
            let first_owed = change.first_owed()?;
            let first_untold = change.first_untold()?;
            let counters = &mut change.counters;
            if counters.suspect_to != 0
                && first_owed.is_none_or(|first| first >= counters.suspect_to)
            {
                counters.suspect_from = 0;
                counters.suspect_to = 0;
            }
            Ok((done, *counters, first_owed, first_untold))
        })?;
        let mut state = self.shared.state.lock();
        state.next = counters.next;
        state.first_owed = first_owed;
        state.first_untold = first_untold;
        drop(state);
        // Numbers that are being given are ahead of the index.
        self.next = self.next.max(counters.next);
        if first_untold.is_some() {
            self.shared.loss.notify_waiters();
        }
        Ok(done)
    }

    /// Numbers that were given in vain are given again. Where the index does not say which those are,
    /// none is: a gap is better.
    pub(super) fn take_numbers_back(&mut self) {
        if let Ok(counters) = self.core.index.read(View::counters) {
            self.next = counters.next;
        }
    }

    /// Says what is wrong, in the log and to whoever asks.
    pub(super) fn trouble(&self, problem: &str) {
        let mut state = self.shared.state.lock();
        if state.trouble.as_deref() != Some(problem) {
            tracing::error!("outbox: {problem}");
            state.trouble = Some(problem.to_owned());
        }
    }

    /// Nothing is wrong any more.
    pub(super) fn well(&self) {
        let mut state = self.shared.state.lock();
        if state.trouble.take().is_some() {
            tracing::info!("outbox: all is well again");
        }
    }

    /// Opens the index again, or makes it again.
    pub(super) fn mend(&mut self, error: &IndexError) {
        if !matches!(error, IndexError::Damaged(_)) {
            match self.core.reopen() {
                Ok(()) => return self.look_again(),
                // It was put aside when it was to be made again, for which there was no space.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(IndexError::Damaged(_)) => {}
                Err(error) => return self.trouble(&error.to_string()),
            }
        }
        let series = self.shared.state.lock().series.clone();
        let series: Vec<_> = series.into_iter().collect();
        let made = match self.core.make_index_again(self.next, &series) {
            Err(_) if self.core.ballast.release() => self.core.make_index_again(self.next, &series),
            made => made,
        };
        match made {
            Ok(()) => self.start_anew(),
            Err(error) => self.trouble(&error.to_string()),
        }
    }

    /// A reader found the index to be damaged: whether it is, since it may have been made again
    /// meanwhile, and making it again takes its ledger away.
    pub(super) fn check(&mut self, problem: &str) {
        let checked = self
            .core
            .reopen()
            .and_then(|()| self.core.index.read(View::check));
        match checked {
            Ok(()) => tracing::warn!("the index is whole at a second look: {problem}"),
            Err(error) => {
                self.trouble(&error.to_string());
                self.mend(&error);
            }
        }
    }

    /// After a transaction that failed: it may be there all the same, with the numbers that it
    /// gave.
    fn look_again(&mut self) {
        let read = self.core.index.read(|view| {
            let first_untold = view.untold(1)?.first().copied();
            Ok((view.counters()?, view.first_owed()?, first_untold))
        });
        let Ok((counters, first_owed, first_untold)) = read else {
            return;
        };
        let mut state = self.shared.state.lock();
        state.next = counters.next;
        state.first_owed = first_owed;
        state.first_untold = first_untold;
        drop(state);
        self.next = self.next.max(counters.next);
        self.settle_doubts();
    }

    /// The index is another one: what is in memory is read again.
    fn start_anew(&mut self) {
        let read = self
            .core
            .index
            .read(|view| Ok((view.counters()?, view.series()?, view.first_owed()?)));
        let Ok((counters, series, first_owed)) = read else {
            return;
        };
        let mut state = self.shared.state.lock();
        state.window.clear();
        state.first_owed = first_owed;
        state.first_untold = None;
        state.next = counters.next;
        // The counts of this process are in memory; those of what was found are in the index.
        for (number, found) in series {
            state.series.entry(number).or_insert(found);
        }
        drop(state);
        self.next = counters.next;
        self.shared.work.notify_waiters();
    }
}

impl Core {
    /// Makes the index again from the images, while the outbox is in use: with its id, and with
    /// numbers from `next` on.
    fn make_index_again(
        &mut self,
        next: u64,
        series: &[(u32, SeriesEntry)],
    ) -> Result<(), IndexError> {
        tracing::error!("the index is damaged and is made again from the images");
        // Whatever it holds, it is not used any more.
        let _ = self.index.close();
        let state = Some(*self.mark.state());
        rebuild::rebuild(&self.disk, &self.layout, state, series).map_err(|error| {
            IndexError::Io(std::io::Error::other(shared::telemetry::chain(&error)))
        })?;
        self.index.reopen()?;
        let outbox = self.outbox;
        self.index.write(|change| {
            change.counters.next = change.counters.next.max(next);
            change.name(outbox)
        })
    }
}
