//! An index made from the names of the images.

use std::io;
use std::sync::Arc;

use shared::disk::Disk;
use shared::image::OutboxId;

use super::core::failed;
use super::index::{Change, Index, IndexError, View};
use super::layout::{FileName, Layout};
use super::mark::{BLOCK, MarkState};
use super::record::{Entry, MarkEntry, SeriesEntry};
use super::recovery::{broken, segment_named};
use crate::outbox::OutboxError;

/// What is known of an image by its file.
pub(super) fn recovered_entry(name: &FileName, size: u64, series: u32) -> Entry {
    Entry {
        id: name.id,
        digest: name.digest,
        size,
        series,
        captured: None,
        queued: None,
        name: None,
        content_type: None,
        source_file: None,
        mark_key: name.mark,
        mark: None,
        referenced: None,
    }
}

/// Remembers the mark in an image's name.
pub(super) fn put_mark(change: &mut Change<'_>, name: &FileName) -> Result<(), IndexError> {
    let Some(key) = name.mark else {
        return Ok(());
    };
    let entry = MarkEntry {
        sequence: name.sequence,
        path: Default::default(),
    };
    change.put_mark_key(key, &entry)
}

/// Puts the index that is there aside, makes one from the names of the images, with these series
/// and those of the images that it finds, and puts it in place when it is complete.
pub(super) fn rebuild(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    left: Option<MarkState>,
    series: &[(u32, SeriesEntry)],
) -> Result<(), OutboxError> {
    let old = layout.index();
    let aside = layout.quarantine().join("index.redb");
    match disk.rename(&old, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        moved => moved.map_err(failed("quarantining of its index"))?,
    }
    match disk.remove(&layout.new_index()) {
        // Of an attempt that found no space.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("removing of an unfinished index")(error));
        }
        _ => {}
    }
    let outbox = OutboxId::new();
    let index = Index::make(disk, &layout.new_index()).map_err(broken)?;
    index
        .write(|change| {
            for (number, entry) in series {
                change.put_series(*number, entry)?;
                change.counters.series = change.counters.series.max(*number);
            }
            change.name(outbox)
        })
        .map_err(broken)?;
    let scanned = scan(disk, layout, &index)?;
    let after = match left {
        Some(state) => state.reserved.max(scanned.highest.saturating_add(1)),
        None if scanned.highest == 0 => 1,
        None => scanned.highest.saturating_add(BLOCK),
    };
    index
        .write(|change| {
            let counters = &mut change.counters;
            counters.next = counters.next.max(after);
            counters.suspect_from = 1;
            counters.suspect_to = counters.next;
            Ok(())
        })
        .map_err(broken)?;
    for name in &scanned.doubled {
        renumber(disk, layout, &index, name)?;
    }
    index.close().map_err(broken)?;
    let in_place = || {
        // A transaction of redb is synced; what it writes when it is closed may not be.
        disk.open(&layout.new_index(), true)?.sync()?;
        disk.rename(&layout.new_index(), &old)?;
        disk.sync_folder(&layout.root)?;
        disk.sync_folder(&layout.quarantine())
    };
    in_place().map_err(failed("writing of its index"))?;
    if scanned.images > 0 || left.is_some() {
        tracing::warn!(
            "the index was made again, with {} images, as outbox {outbox}; the ledger of the former \
             one is lost",
            scanned.images
        );
    }
    Ok(())
}

#[derive(Default)]
struct Scanned {
    images: u64,
    highest: u64,
    /// Files with a number that another one has, too.
    doubled: Vec<FileName>,
}

/// Names are entered in batches of this many.
const BATCH: usize = 4_096;

fn scan(disk: &Arc<dyn Disk>, layout: &Layout, index: &Index) -> Result<Scanned, OutboxError> {
    let listing = || failed("listing of its images");
    let mut scanned = Scanned::default();
    for segment in disk.list(&layout.images()).map_err(listing())? {
        let segment = segment.map_err(listing())?;
        let number = segment.name.to_str().and_then(segment_named);
        let Some(number) = number.filter(|_| segment.is_folder) else {
            continue;
        };
        let folder = layout.segment(number);
        let mut batch = Vec::new();
        for file in disk.list(&folder).map_err(listing())? {
            let file = file.map_err(listing())?;
            let Some(name) = file.name.to_str().and_then(FileName::parse) else {
                tracing::warn!(
                    "left alone, since it is not the outbox's: {}",
                    folder.join(&file.name).display()
                );
                continue;
            };
            let length = disk.length(&folder.join(&file.name)).map_err(listing())?;
            batch.push((name, length.unwrap_or(0)));
            if batch.len() == BATCH {
                enter(index, &mut batch, &mut scanned)?;
            }
        }
        enter(index, &mut batch, &mut scanned)?;
    }
    Ok(scanned)
}

fn enter(
    index: &Index,
    batch: &mut Vec<(FileName, u64)>,
    scanned: &mut Scanned,
) -> Result<(), OutboxError> {
    if batch.is_empty() {
        return Ok(());
    }
    batch.sort_unstable_by_key(|(name, _)| name.sequence);
    index
        .write(|change| {
            for (name, size) in batch.iter() {
                let series = change.number_of(&SeriesEntry::recovered(name.transport))?;
                if change.insert(name.sequence, &recovered_entry(name, *size, series))? {
                    change.count(series, |counts| counts.captured += 1);
                    put_mark(change, name)?;
                    scanned.images += 1;
                } else {
                    scanned.doubled.push(*name);
                }
                scanned.highest = scanned.highest.max(name.sequence);
            }
            Ok(())
        })
        .map_err(broken)?;
    batch.clear();
    Ok(())
}

/// Gives an image a new number.
fn renumber(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    index: &Index,
    name: &FileName,
) -> Result<(), OutboxError> {
    let moving = || failed("renumbering of an image");
    let next = index.read(View::counters).map_err(broken)?.next;
    let renamed = FileName {
        sequence: next,
        ..*name
    };
    let folder = layout.segment_of(next);
    disk.create_folder(&folder).map_err(moving())?;
    let size = disk.length(&layout.image(name)).map_err(moving())?;
    disk.rename(&layout.image(name), &layout.image(&renamed))
        .map_err(moving())?;
    disk.sync_folder(&folder).map_err(moving())?;
    index
        .write(|change| {
            let series = change.number_of(&SeriesEntry::recovered(name.transport))?;
            change.insert(next, &recovered_entry(&renamed, size.unwrap_or(0), series))?;
            change.count(series, |counts| counts.captured += 1);
            put_mark(change, &renamed)
        })
        .map_err(broken)
}
