//! What the tool does with an outbox.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use shared::image::{ImageId, ImageMeta, Transport};

use super::core::{Core, failed};
use super::index::{Change, Counters, IndexError, View};
use super::job::Step;
use super::layout::{FileName, SEGMENTS};
use super::quarantine;
use super::rebuild::recovered_entry;
use super::record::{Entry, LossEntry, SeriesEntry};
use super::recovery::broken;
use crate::outbox::tool::ToolError;
use crate::outbox::{Lost, OutboxError, SeriesKey};

impl Core {
    pub(in crate::outbox) fn counters(&self) -> Result<Counters, ToolError> {
        Ok(self.index.read(View::counters).map_err(broken)?)
    }

    /// The series by their numbers.
    pub(in crate::outbox) fn series(&self) -> Result<HashMap<u32, SeriesKey>, ToolError> {
        let series = self.index.read(View::series).map_err(broken)?;
        let keys = series
            .into_iter()
            .map(|(number, entry)| (number, entry.key));
        Ok(keys.collect())
    }

    /// Where the bytes of an image are.
    pub(in crate::outbox) fn place(
        &self,
        sequence: u64,
        entry: &Entry,
        key: Option<&SeriesKey>,
    ) -> PathBuf {
        let transport = key.map_or(Transport::Grpc, |key| key.transport);
        match &entry.referenced {
            Some(path) => path.clone(),
            None => self.path(&entry.file_name(sequence, transport)),
        }
    }

    /// The name of an image's file, without a look into the folder where that is possible.
    pub(in crate::outbox) fn find_named(
        &self,
        sequence: u64,
        entry: Option<&Entry>,
        series: &HashMap<u32, SeriesKey>,
    ) -> Option<FileName> {
        let known = entry.and_then(|entry| {
            let key = series.get(&entry.series)?;
            Some(entry.file_name(sequence, key.transport))
        });
        known.or_else(|| self.find(sequence))
    }

    /// What the name of its file says of an image whose entry cannot be read.
    pub(in crate::outbox) fn meta_by_file(
        &self,
        sequence: u64,
        file: Option<&FileName>,
    ) -> ImageMeta {
        let id = file.map_or_else(ImageId::new, |file| file.id);
        let mut meta = ImageMeta::new(id, 0);
        meta.sequence = sequence;
        meta.digest = file.map(|file| file.digest);
        meta
    }

    /// Names of the images in quarantine, in the order of their numbers.
    pub(in crate::outbox) fn quarantined(&self) -> Result<Vec<FileName>, ToolError> {
        let names = quarantine::images(&*self.disk, &self.layout);
        names.map_err(|error| ToolError::Broken("read", error))
    }

    pub(in crate::outbox) fn quarantined_path(&self, name: &FileName) -> PathBuf {
        self.layout.quarantine().join(name.to_string())
    }

    /// Bytes of a file in quarantine.
    pub(in crate::outbox) fn quarantined_size(&self, name: &FileName) -> u64 {
        let length = self.disk.length(&self.quarantined_path(name));
        length.ok().flatten().unwrap_or(0)
    }

    /// Enters an image into the ledger.
    pub(in crate::outbox) fn give_up(
        &mut self,
        lost: Lost,
        series: u32,
        unreadable: bool,
    ) -> Result<(), IndexError> {
        self.give_all_up(vec![(lost, series, unreadable)])
    }

    /// Enters images into the ledger, each with its series and whether its entry is unreadable.
    pub(in crate::outbox) fn give_all_up(
        &mut self,
        losses: Vec<(Lost, u32, bool)>,
    ) -> Result<(), IndexError> {
        let steps: Vec<Step> = losses
            .into_iter()
            .map(|(lost, series, unreadable)| Step::Drop {
                series,
                lost,
                unreadable,
            })
            .collect();
        self.write(|change| steps.iter().try_for_each(|step| step.apply(change)))
    }

    /// Makes a change; on a full disk with what is kept back for it. `work` may be called twice.
    fn write<T>(
        &mut self,
        work: impl Fn(&mut Change<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        match self.index.write(&work) {
            Err(IndexError::Full(_)) if self.ballast.release() => {
                self.reopen()?;
                self.index.write(&work)
            }
            changed => changed,
        }
    }

    /// Puts an image from quarantine back; its new number.
    pub(in crate::outbox) fn requeue(
        &mut self,
        name: &FileName,
        lost: Option<&LossEntry>,
    ) -> Result<u64, OutboxError> {
        let writing = || failed("putting back of an image");
        let sequence = self.index.read(View::counters).map_err(broken)?.next;
        self.mark.reserve(sequence + 1).map_err(writing())?;
        self.make_segment(sequence).map_err(writing())?;
        let from = self.quarantined_path(name);
        let size = self.disk.length(&from).map_err(writing())?.unwrap_or(0);
        let named = FileName { sequence, ..*name };
        self.disk
            .open(&from, false)
            .and_then(|file| file.sync())
            .map_err(writing())?;
        self.disk
            .rename(&from, &self.path(&named))
            .map_err(writing())?;
        self.disk
            .sync_folder(&self.layout.segment_of(sequence))
            .map_err(writing())?;
        let series = match lost.filter(|lost| !lost.run.is_empty()) {
            Some(lost) => SeriesEntry::new(SeriesKey {
                run: lost.run.clone(),
                transport: name.transport,
            }),
            None => SeriesEntry::recovered(name.transport),
        };
        let entered = self.write(|change| {
            let number = change.number_of(&series)?;
            let mut entry = recovered_entry(&named, size, number);
            entry.name = lost.and_then(|lost| lost.name.clone());
            if change.insert(sequence, &entry)? {
                change.count(number, |counts| counts.captured += 1);
            }
            // Its end was told before this.
            let mut series = change.series(number)?;
            series.told_end = false;
            change.put_series(number, &series)
        });
        match entered {
            Err(error) if !self.is_in(&named) => {
                // Its number will be another image's, and a file without an image is removed.
                let back = self.disk.rename(&self.path(&named), &from);
                back.and_then(|()| self.disk.sync_folder(&self.layout.quarantine()))
                    .map_err(writing())?;
                Err(writing()(error.into_io()))
            }
            _ => Ok(sequence),
        }
    }

    /// Whether an image is in the index, after an error of writing that may have come too late.
    fn is_in(&mut self, name: &FileName) -> bool {
        let found = self
            .reopen()
            .and_then(|()| self.index.read(|view| view.image(name.sequence)));
        matches!(found, Ok(Some(found)) if found.id == name.id)
    }

    /// Files below `images/` that belong to no image: the names of leftovers, and paths of what is
    /// not the outbox's.
    pub(in crate::outbox) fn strays(
        &self,
        mut found: impl FnMut(Result<FileName, PathBuf>) -> Result<(), ToolError>,
    ) -> Result<(), ToolError> {
        let listing = |error| ToolError::Broken("read", error);
        for number in 0..SEGMENTS {
            let folder = self.layout.segment(number);
            let listed = match self.disk.list(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                listed => listed.map_err(listing)?,
            };
            for file in listed {
                let file = file.map_err(listing)?;
                let name = file.name.to_str().and_then(FileName::parse);
                let Some(name) = name else {
                    found(Err(folder.join(&file.name)))?;
                    continue;
                };
                let owed = self.index.read(|view| view.image(name.sequence));
                // Of one whose entry cannot be read, too, this is the file.
                let is_its = match owed {
                    Ok(owed) => owed.is_some_and(|owed| owed.id == name.id),
                    Err(_) => true,
                };
                if !is_its {
                    found(Ok(name))?;
                }
            }
        }
        Ok(())
    }

    /// Everything that was left over is gone.
    pub(in crate::outbox) fn swept(&mut self) {
        self.sweep = None;
    }
}
