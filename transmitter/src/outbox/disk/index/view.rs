//! The index at one moment.

use std::ops::RangeBounds;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};
use shared::image::OutboxId;

use super::IndexError;
use super::change::{
    Counters, FORMAT, IMAGES, LEDGER, MARKS, META, SERIES, UNTOLD, read_counters, read_u32,
};
use crate::outbox::disk::encoding::Malformed;
use crate::outbox::disk::record::{Entry, LossEntry, MarkEntry, SeriesEntry};

/// What the index held when it was made.
pub(in crate::outbox) struct View {
    meta: ReadOnlyTable<&'static str, &'static [u8]>,
    images: ReadOnlyTable<u64, &'static [u8]>,
    ledger: ReadOnlyTable<u64, &'static [u8]>,
    untold: ReadOnlyTable<u64, ()>,
    marks: ReadOnlyTable<u128, &'static [u8]>,
    series: ReadOnlyTable<u32, &'static [u8]>,
}

/// An image with its number, or only its number when its entry cannot be read.
pub(in crate::outbox) type Row = (u64, Result<Entry, Malformed>);

impl View {
    pub(super) fn new(transaction: &ReadTransaction) -> Result<Self, IndexError> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            images: transaction.open_table(IMAGES)?,
            ledger: transaction.open_table(LEDGER)?,
            untold: transaction.open_table(UNTOLD)?,
            marks: transaction.open_table(MARKS)?,
            series: transaction.open_table(SERIES)?,
        })
    }

    /// The outbox that it belongs to.
    pub(in crate::outbox) fn outbox(&self) -> Result<OutboxId, IndexError> {
        match read_u32(&self.meta, "format")? {
            Some(FORMAT) => {}
            Some(newer) if newer > FORMAT => return Err(IndexError::Newer(newer)),
            other => {
                return Err(IndexError::Damaged(format!(
                    "format {other:?} in place of {FORMAT}"
                )));
            }
        }
        let id = self.meta.get("outbox")?;
        let id = id.and_then(|id| id.value().try_into().ok());
        id.and_then(|id| OutboxId::from_u128(u128::from_be_bytes(id)))
            .ok_or_else(|| IndexError::Damaged("meta outbox".to_owned()))
    }

    pub(in crate::outbox) fn counters(&self) -> Result<Counters, IndexError> {
        read_counters(&self.meta)
    }

    /// Reads everything that this program needs, to see whether it can be read. An entry that cannot
    /// be understood is one image's damage.
    pub(in crate::outbox) fn check(&self) -> Result<(), IndexError> {
        self.outbox()?;
        self.counters()?;
        self.series()?;
        self.images(.., false, |_| true)?;
        self.ledger(.., |_, _| true)?;
        self.untold(usize::MAX)?;
        for row in self.marks.iter()? {
            row?;
        }
        Ok(())
    }

    /// Images with numbers in this range, in order, or from the highest down. Ends when `wanted`
    /// says `false`.
    pub(in crate::outbox) fn images(
        &self,
        range: impl RangeBounds<u64>,
        from_the_end: bool,
        mut wanted: impl FnMut(Row) -> bool,
    ) -> Result<(), IndexError> {
        let mut rows = self.images.range(range)?;
        loop {
            let row = if from_the_end {
                rows.next_back()
            } else {
                rows.next()
            };
            let Some(row) = row else {
                return Ok(());
            };
            let (sequence, value) = row?;
            if !wanted((sequence.value(), Entry::unpack(value.value()))) {
                return Ok(());
            }
        }
    }

    pub(in crate::outbox) fn image(&self, sequence: u64) -> Result<Option<Entry>, IndexError> {
        match self.images.get(sequence)? {
            None => Ok(None),
            Some(value) => Ok(Some(Entry::unpack(value.value())?)),
        }
    }

    pub(in crate::outbox) fn has_image(&self, sequence: u64) -> Result<bool, IndexError> {
        Ok(self.images.get(sequence)?.is_some())
    }

    pub(in crate::outbox) fn first_owed(&self) -> Result<Option<u64>, IndexError> {
        Ok(self.images.first()?.map(|(sequence, _)| sequence.value()))
    }

    /// Losses with numbers in this range, in order, told ones too.
    pub(in crate::outbox) fn ledger(
        &self,
        range: impl RangeBounds<u64>,
        mut wanted: impl FnMut(u64, LossEntry) -> bool,
    ) -> Result<(), IndexError> {
        for row in self.ledger.range(range)? {
            let (sequence, value) = row?;
            if !wanted(sequence.value(), LossEntry::unpack(value.value())?) {
                break;
            }
        }
        Ok(())
    }

    pub(in crate::outbox) fn loss(&self, sequence: u64) -> Result<Option<LossEntry>, IndexError> {
        match self.ledger.get(sequence)? {
            None => Ok(None),
            Some(value) => Ok(Some(LossEntry::unpack(value.value())?)),
        }
    }

    /// Numbers of losses that the receiver has not got, in order, at most `limit`.
    pub(in crate::outbox) fn untold(&self, limit: usize) -> Result<Vec<u64>, IndexError> {
        let rows = self.untold.iter()?.take(limit);
        rows.map(|row| Ok(row?.0.value())).collect()
    }

    pub(in crate::outbox) fn has_mark(&self, key: u128) -> Result<bool, IndexError> {
        Ok(self.marks.get(key)?.is_some())
    }

    /// Marks with keys above `after`, at most `limit`.
    pub(in crate::outbox) fn marks(
        &self,
        after: Option<u128>,
        limit: usize,
    ) -> Result<Vec<(u128, MarkEntry)>, IndexError> {
        let from = match after {
            None => std::ops::Bound::Unbounded,
            Some(key) => std::ops::Bound::Excluded(key),
        };
        let rows = self
            .marks
            .range::<u128>((from, std::ops::Bound::Unbounded))?;
        rows.take(limit)
            .map(|row| {
                let (key, value) = row?;
                Ok((key.value(), MarkEntry::unpack(value.value())?))
            })
            .collect()
    }

    pub(in crate::outbox) fn series(&self) -> Result<Vec<(u32, SeriesEntry)>, IndexError> {
        self.series
            .iter()?
            .map(|row| {
                let (number, value) = row?;
                Ok((number.value(), SeriesEntry::unpack(value.value())?))
            })
            .collect()
    }
}
