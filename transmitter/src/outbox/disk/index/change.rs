//! One transaction of the index.

use std::collections::BTreeMap;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use shared::image::{ImageId, OutboxId};

use super::IndexError;
use crate::outbox::disk::record::{Entry, LossEntry, MarkEntry, SeriesEntry, mark_key};
use crate::outbox::{Counts, FileMark, Lost};

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const IMAGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("images");
pub(super) const LEDGER: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ledger");
pub(super) const UNTOLD: TableDefinition<'_, u64, ()> = TableDefinition::new("untold");
pub(super) const MARKS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("marks");
pub(super) const SERIES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("series");

/// Version of the format.
pub(super) const FORMAT: u32 = 1;

/// Told losses that the ledger keeps.
const TOLD_KEPT: u64 = 10_000;

/// The numbers in the table `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    /// The next image gets this number, or a higher one.
    pub(crate) next: u64,
    /// Images that are owed.
    pub(crate) images: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Bytes of their files in the outbox.
    pub(crate) stored: u64,
    /// Losses that the receiver has.
    pub(crate) told: u64,
    /// Number of the latest series.
    pub(crate) series: u32,
    /// First image that may be torn.
    pub(crate) suspect_from: u64,
    /// The one after the last that may be torn.
    pub(crate) suspect_to: u64,
    /// How far thinning out has come.
    pub(crate) thinned: u64,
}

/// A transaction that is being made.
pub(in crate::outbox) struct Change<'t> {
    meta: Table<'t, &'static str, &'static [u8]>,
    images: Table<'t, u64, &'static [u8]>,
    ledger: Table<'t, u64, &'static [u8]>,
    untold: Table<'t, u64, ()>,
    marks: Table<'t, u128, &'static [u8]>,
    series: Table<'t, u32, &'static [u8]>,
    before: Counters,
    pub(in crate::outbox) counters: Counters,
    /// What is to be added to the counts of series.
    counted: BTreeMap<u32, Counts>,
}

pub(super) fn read_counters(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Counters, IndexError> {
    let number = |key: &str| -> Result<u64, IndexError> {
        match meta.get(key)? {
            None => Ok(0),
            Some(value) => {
                let value = value.value().try_into();
                let value = value.map_err(|_| IndexError::Damaged(format!("meta {key}")))?;
                Ok(u64::from_le_bytes(value))
            }
        }
    };
    let pair = |key: &str, at: usize| -> Result<u64, IndexError> {
        match meta.get(key)? {
            None => Ok(0),
            Some(value) => {
                let value = value.value().get(at..at + 8);
                let value = value.and_then(|value| value.try_into().ok());
                let value = value.ok_or_else(|| IndexError::Damaged(format!("meta {key}")))?;
                Ok(u64::from_le_bytes(value))
            }
        }
    };
    Ok(Counters {
        next: number("next")?.max(1),
        images: number("images")?,
        bytes: number("bytes")?,
        stored: number("stored")?,
        told: number("told")?,
        series: read_u32(meta, "series")?.unwrap_or(0),
        suspect_from: pair("suspect", 0)?,
        suspect_to: pair("suspect", 8)?,
        thinned: number("thinned")?,
    })
}

pub(super) fn read_u32(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<u32>, IndexError> {
    let Some(value) = meta.get(key)? else {
        return Ok(None);
    };
    let value = value.value().try_into();
    let value = value.map_err(|_| IndexError::Damaged(format!("meta {key}")))?;
    Ok(Some(u32::from_le_bytes(value)))
}

impl<'t> Change<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, IndexError> {
        let meta = transaction.open_table(META)?;
        let before = read_counters(&meta)?;
        Ok(Self {
            meta,
            images: transaction.open_table(IMAGES)?,
            ledger: transaction.open_table(LEDGER)?,
            untold: transaction.open_table(UNTOLD)?,
            marks: transaction.open_table(MARKS)?,
            series: transaction.open_table(SERIES)?,
            before,
            counters: before,
            counted: BTreeMap::new(),
        })
    }

    /// Writes what the tables do not say yet.
    pub(super) fn finish(mut self) -> Result<(), IndexError> {
        self.prune_ledger()?;
        self.add_counts()?;
        let (before, now) = (self.before, self.counters);
        for (key, before, now) in [
            ("next", before.next, now.next),
            ("images", before.images, now.images),
            ("bytes", before.bytes, now.bytes),
            ("stored", before.stored, now.stored),
            ("told", before.told, now.told),
            ("thinned", before.thinned, now.thinned),
        ] {
            if before != now {
                self.meta.insert(key, &now.to_le_bytes()[..])?;
            }
        }
        if before.series != now.series {
            let number = now.series.to_le_bytes();
            self.meta.insert("series", &number[..])?;
        }
        let suspect = (now.suspect_from, now.suspect_to);
        if (before.suspect_from, before.suspect_to) != suspect {
            let mut pair = suspect.0.to_le_bytes().to_vec();
            pair.extend(suspect.1.to_le_bytes());
            self.meta.insert("suspect", &pair[..])?;
        }
        Ok(())
    }

    /// Names the outbox and the format.
    pub(in crate::outbox) fn name(&mut self, outbox: OutboxId) -> Result<(), IndexError> {
        self.set_format(FORMAT)?;
        let id = outbox.as_u128().to_be_bytes();
        self.meta.insert("outbox", &id[..])?;
        Ok(())
    }

    /// Names the format.
    pub(in crate::outbox) fn set_format(&mut self, format: u32) -> Result<(), IndexError> {
        self.meta.insert("format", &format.to_le_bytes()[..])?;
        Ok(())
    }

    /// Enters an image; `false` when its number is taken.
    pub(in crate::outbox) fn insert(
        &mut self,
        sequence: u64,
        entry: &Entry,
    ) -> Result<bool, IndexError> {
        if self.images.get(sequence)?.is_some() {
            return Ok(false);
        }
        self.images.insert(sequence, &entry.pack()[..])?;
        self.counters.images += 1;
        self.counters.bytes += entry.size;
        self.counters.stored += entry.stored();
        self.counters.next = self.counters.next.max(sequence + 1);
        if let Some(mark) = &entry.mark {
            self.put_mark(sequence, mark)?;
        }
        Ok(true)
    }

    /// Whether the number was given before this transaction.
    pub(in crate::outbox) fn was_given(&self, sequence: u64) -> bool {
        sequence < self.before.next
    }

    /// Whose number it is.
    pub(in crate::outbox) fn id_of(&self, sequence: u64) -> Result<Option<ImageId>, IndexError> {
        match self.images.get(sequence)? {
            None => Ok(None),
            Some(value) => Ok(Some(Entry::unpack(value.value())?.id)),
        }
    }

    /// Takes an image out; `None` when it is not there (any more).
    pub(in crate::outbox) fn take_out(
        &mut self,
        sequence: u64,
    ) -> Result<Option<Entry>, IndexError> {
        let removed = match self.images.remove(sequence)? {
            None => return Ok(None),
            Some(value) => Entry::unpack(value.value()),
        };
        self.counters.images = self.counters.images.saturating_sub(1);
        if let Ok(entry) = &removed {
            let counters = &mut self.counters;
            counters.bytes = counters.bytes.saturating_sub(entry.size);
            counters.stored = counters.stored.saturating_sub(entry.stored());
        }
        Ok(Some(removed?))
    }

    /// Takes an entry out that cannot be read.
    pub(in crate::outbox) fn discard(&mut self, sequence: u64) -> Result<bool, IndexError> {
        let there = self.images.remove(sequence)?.is_some();
        self.counters.images = self.counters.images.saturating_sub(u64::from(there));
        Ok(there)
    }

    /// Whether this very loss is on the ledger.
    pub(in crate::outbox) fn has_loss(&self, lost: &Lost) -> Result<bool, IndexError> {
        let entry = self.ledger.get(lost.meta.sequence)?;
        let entry = entry.map(|entry| LossEntry::unpack(entry.value()));
        Ok(entry.is_some_and(|entry| entry.is_ok_and(|entry| entry.id == lost.meta.id)))
    }

    /// Enters a loss into the ledger. It takes the place of an older one of this number.
    pub(in crate::outbox) fn lose(&mut self, lost: &Lost) -> Result<(), IndexError> {
        let sequence = lost.meta.sequence;
        let entry = LossEntry::new(lost);
        let told = match self.ledger.insert(sequence, &entry.pack()[..])? {
            Some(before) => LossEntry::unpack(before.value()).is_ok_and(|before| before.told),
            None => false,
        };
        self.counters.told = self.counters.told.saturating_sub(u64::from(told));
        self.untold.insert(sequence, ())?;
        self.counters.next = self.counters.next.max(sequence + 1);
        Ok(())
    }

    /// The receiver has this loss.
    pub(in crate::outbox) fn told(&mut self, sequence: u64) -> Result<bool, IndexError> {
        if self.untold.remove(sequence)?.is_none() {
            return Ok(false);
        }
        let entry = match self.ledger.get(sequence)? {
            None => return Ok(true),
            Some(value) => LossEntry::unpack(value.value())?,
        };
        let entry = LossEntry {
            told: true,
            ..entry
        };
        self.ledger.insert(sequence, &entry.pack()[..])?;
        self.counters.told += 1;
        Ok(true)
    }

    /// Forgets the oldest losses that the receiver has.
    fn prune_ledger(&mut self) -> Result<(), IndexError> {
        let surplus = self.counters.told.saturating_sub(TOLD_KEPT);
        if surplus == 0 {
            return Ok(());
        }
        let mut oldest = Vec::new();
        for row in self.ledger.iter()? {
            let (sequence, _) = row?;
            let sequence = sequence.value();
            if self.untold.get(sequence)?.is_none() {
                oldest.push(sequence);
            }
            if oldest.len() as u64 >= surplus {
                break;
            }
        }
        for sequence in oldest {
            self.ledger.remove(sequence)?;
            self.counters.told = self.counters.told.saturating_sub(1);
        }
        Ok(())
    }

    /// Remembers that a file was captured.
    pub(in crate::outbox) fn put_mark(
        &mut self,
        sequence: u64,
        mark: &FileMark,
    ) -> Result<(), IndexError> {
        let entry = MarkEntry {
            sequence,
            path: mark.path.clone(),
        };
        self.put_mark_key(mark_key(mark), &entry)
    }

    /// Remembers that a file was captured of which only the mark's key may be known.
    pub(in crate::outbox) fn put_mark_key(
        &mut self,
        key: u128,
        entry: &MarkEntry,
    ) -> Result<(), IndexError> {
        self.marks.insert(key, &entry.pack()[..])?;
        Ok(())
    }

    /// Forgets a mark.
    pub(in crate::outbox) fn remove_mark(&mut self, key: u128) -> Result<(), IndexError> {
        self.marks.remove(key)?;
        Ok(())
    }

    /// A series by its number.
    pub(in crate::outbox) fn series(&self, number: u32) -> Result<SeriesEntry, IndexError> {
        self.find_series(number)?
            .ok_or_else(|| IndexError::Damaged(format!("series {number} is missing")))
    }

    /// A series by its number, unless it was forgotten.
    pub(in crate::outbox) fn find_series(
        &self,
        number: u32,
    ) -> Result<Option<SeriesEntry>, IndexError> {
        match self.series.get(number)? {
            Some(value) => Ok(Some(SeriesEntry::unpack(value.value())?)),
            None => Ok(None),
        }
    }

    /// The number of a series; a new one when it is not there.
    pub(in crate::outbox) fn number_of(&mut self, series: &SeriesEntry) -> Result<u32, IndexError> {
        for row in self.series.iter()? {
            let (number, value) = row?;
            if SeriesEntry::unpack(value.value())?.key == series.key {
                return Ok(number.value());
            }
        }
        self.counters.series += 1;
        let number = self.counters.series;
        self.put_series(number, series)?;
        Ok(number)
    }

    /// Replaces what is known of a series.
    pub(in crate::outbox) fn put_series(
        &mut self,
        number: u32,
        series: &SeriesEntry,
    ) -> Result<(), IndexError> {
        self.series.insert(number, &series.pack()[..])?;
        Ok(())
    }

    /// Counts something in a series. Of one that is not there any more nobody needs the counts.
    pub(in crate::outbox) fn count(&mut self, number: u32, count: impl FnOnce(&mut Counts)) {
        count(self.counted.entry(number).or_default());
    }

    /// Writes what was counted, once for each series.
    fn add_counts(&mut self) -> Result<(), IndexError> {
        for (number, more) in std::mem::take(&mut self.counted) {
            let mut series = match self.series.get(number)? {
                Some(value) => SeriesEntry::unpack(value.value())?,
                None => continue,
            };
            let counts = &mut series.counts;
            counts.captured += more.captured;
            counts.delivered += more.delivered;
            counts.duplicates += more.duplicates;
            counts.quarantined += more.quarantined;
            counts.lost += more.lost;
            self.put_series(number, &series)?;
        }
        Ok(())
    }

    /// Forgets a series, unless it was begun again since that was decided.
    pub(in crate::outbox) fn forget_series(&mut self, number: u32) -> Result<(), IndexError> {
        let series = self.find_series(number)?;
        if series.is_some_and(|series| series.told_end && series.counts.owed() == 0) {
            self.series.remove(number)?;
        }
        Ok(())
    }

    /// The lowest number that is owed.
    pub(in crate::outbox) fn first_owed(&self) -> Result<Option<u64>, IndexError> {
        Ok(self.images.first()?.map(|(sequence, _)| sequence.value()))
    }

    /// The lowest number on the ledger that the receiver has not got.
    pub(in crate::outbox) fn first_untold(&self) -> Result<Option<u64>, IndexError> {
        Ok(self.untold.first()?.map(|(sequence, _)| sequence.value()))
    }
}
