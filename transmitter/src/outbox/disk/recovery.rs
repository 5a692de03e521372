//! Opening an outbox, whatever an earlier process, a power loss or a bad medium left of it.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use shared::disk::Disk;
use shared::image::{ImageMeta, OutboxId};

use super::ballast::Ballast;
use super::core::{Core, CoreOptions, failed, says_damaged, says_full};
use super::files;
use super::index::{Counters, Index, IndexError, View};
use super::layout::{FileName, Layout, segment_number};
use super::lock::{Lock, NotLocked};
use super::mark::{BLOCK, Mark, MarkState};
use super::rebuild::{self, recovered_entry};
use super::record::SeriesEntry;
use crate::config::OutboxDurability;
use crate::outbox::{Lost, OutboxError};

/// Opens the outbox in the folder `root`, or makes one there.
///
/// # Errors
/// When another process has it, or the folder cannot be made or written.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    root: &Path,
    options: &CoreOptions,
) -> Result<Core, OutboxError> {
    let layout = Layout::new(root);
    make_folders(disk, &layout)?;
    let lock = Lock::take(disk, &layout.lock()).map_err(|error| match error {
        NotLocked::Held(holder) => OutboxError::InUse {
            folder: root.display().to_string(),
            holder,
        },
        NotLocked::Io(source) => unusable(root)(source),
    })?;
    let mut ballast = Ballast::new(Arc::clone(disk), layout.ballast(), options.ballast);
    let opened = match open_locked(disk, &layout, options) {
        // On a full disk the ballast is what the index may need to be opened.
        Err(error) if says_full(&error) && ballast.release() => {
            open_locked(disk, &layout, options)?
        }
        opened => opened?,
    };
    if let Err(error) = ballast.hold() {
        tracing::warn!("no space is kept back for emptying a full disk: {error}");
    }
    Ok(Core {
        disk: Arc::clone(disk),
        layout,
        outbox: opened.outbox,
        index: Arc::new(opened.index),
        mark: opened.mark,
        ballast,
        synced: options.durability == OutboxDurability::Synced,
        segments: HashSet::new(),
        sweep: opened.unclean.then_some(0),
        reused: opened.reused,
        _lock: lock,
    })
}

fn unusable(root: &Path) -> impl FnOnce(io::Error) -> OutboxError + use<> {
    let root = root.display().to_string();
    failed(format!(
        "{root} cannot be used (give a folder that this user may write): opening"
    ))
}

fn make_folders(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<(), OutboxError> {
    let root = &layout.root;
    // Folders above it are not the outbox's, but it would be unkind to ask for them.
    disk.create_folders(root).map_err(unusable(root))?;
    for folder in [layout.images(), layout.incoming(), layout.quarantine()] {
        disk.create_folder(&folder).map_err(unusable(root))?;
    }
    disk.sync_folder(root).map_err(unusable(root))
}

struct OpenedIndex {
    index: Index,
    mark: Mark,
    outbox: OutboxId,
    unclean: bool,
    reused: Option<u64>,
}

/// How an outbox was left.
#[derive(Debug, Clone, Copy)]
struct Left {
    state: Option<MarkState>,
    /// Not closed in order.
    unclean: bool,
    /// What was not synced may be gone.
    power_loss: bool,
}

fn open_locked(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    options: &CoreOptions,
) -> Result<OpenedIndex, OutboxError> {
    let (file, state) = Mark::open(disk, &layout.mark()).map_err(failed("opening of its mark"))?;
    let left = Left {
        state,
        unclean: state.is_none_or(|state| !state.clean),
        power_loss: state.is_none_or(|state| state.boot != options.boot || options.boot == 0),
    };
    clean_up(disk, layout)?;
    let syncs = options.durability == OutboxDurability::Synced;
    let (mut index, made) = open_index(disk, layout, left, syncs)?;
    let mut unclean = left.unclean || made;
    let (outbox, counters) = match take_over(disk, layout, &index, left, unclean) {
        Err(error) if says_damaged(&error) && !made => {
            // What a power loss tore may be seen only when it is changed.
            tracing::error!(
                "the index cannot be used and is made again from the images: {}",
                shared::telemetry::chain(&error)
            );
            drop(index);
            index = make_index(disk, layout, left, syncs)?;
            unclean = true;
            take_over(disk, layout, &index, left, unclean)?
        }
        taken => taken?,
    };
    let reserved = state.map_or(0, |state| state.reserved);
    if syncs && unclean && !left.power_loss && state.is_some_and(|state| !state.synced) {
        // The process before promised less than this one does. Before the mark says so: a power
        // loss in between must find an outbox that is doubted.
        sync_what_was_written(disk, layout)?;
    }
    let mark = file
        .say(MarkState {
            outbox,
            reserved: reserved.max(counters.next.saturating_add(BLOCK)),
            clean: false,
            synced: syncs,
            boot: options.boot,
        })
        .map_err(failed("writing of its mark"))?;
    disk.sync_folder(&layout.root).map_err(failed("syncing"))?;
    let reused = reused(&index, counters).map_err(broken)?;
    Ok(OpenedIndex {
        index,
        mark,
        outbox,
        unclean,
        reused,
    })
}

/// Brings the index up to what a process left that did not close it; the outbox, and its counters.
fn take_over(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    index: &Index,
    left: Left,
    unclean: bool,
) -> Result<(OutboxId, Counters), OutboxError> {
    let (mut outbox, counters) = index
        .read(|view| Ok((view.outbox()?, view.counters()?)))
        .map_err(broken)?;
    if unclean {
        adopt(disk, layout, index, left, counters.next)?;
        if left.power_loss && left.state.is_none_or(|state| !state.synced) {
            outbox = doubt(index, outbox, left)?;
        }
    }
    Ok((outbox, index.read(View::counters).map_err(broken)?))
}

pub(super) fn broken(error: IndexError) -> OutboxError {
    OutboxError::Io {
        action: "reading of the index".to_owned(),
        source: error.into_io(),
    }
}

/// A number that was given before, to see the proof fail.
fn reused(index: &Index, counters: Counters) -> Result<Option<u64>, IndexError> {
    if !shared::sabotage::is(shared::sabotage::Sabotage::ReuseSequence) {
        return Ok(None);
    }
    index.read(|view| {
        for sequence in (1..counters.next).rev().take(100) {
            if !view.has_image(sequence)? {
                return Ok(Some(sequence));
            }
        }
        Ok(None)
    })
}

/// Removes what was being written, and names what is not the outbox's.
fn clean_up(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<(), OutboxError> {
    let incoming = layout.incoming();
    let listed: Vec<_> = disk
        .list(&incoming)
        .and_then(Iterator::collect)
        .map_err(failed("listing of its folders"))?;
    for entry in listed {
        let path = incoming.join(&entry.name);
        if let Err(error) = disk.remove(&path) {
            tracing::warn!("{} cannot be removed: {error}", path.display());
        }
    }
    for entry in disk
        .list(&layout.root)
        .map_err(failed("listing of its folder"))?
    {
        let entry = entry.map_err(failed("listing of its folder"))?;
        if !entry.name.to_str().is_some_and(Layout::is_own) {
            tracing::warn!(
                "left alone, since it is not the outbox's: {}",
                layout.root.join(&entry.name).display()
            );
        }
    }
    Ok(())
}

/// Opens the index, or makes it from what there is; whether it was made.
fn open_index(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    left: Left,
    syncs: bool,
) -> Result<(Index, bool), OutboxError> {
    let path = layout.index();
    let there = disk
        .length(&path)
        .map_err(failed("opening of the index"))?
        .is_some();
    let index = Index::closed(disk, layout, syncs);
    if there {
        let opened = open_and_check(&index).or_else(|error| match error {
            // Once more: not everything that fails is broken.
            IndexError::Io(_) => open_and_check(&index),
            error => Err(error),
        });
        match opened {
            Ok(()) => return Ok((index, false)),
            Err(error) if !matches!(error, IndexError::Damaged(_)) && !error.is_bad_medium() => {
                // It may be whole: somebody else's, or there is no space just now.
                return Err(broken(error));
            }
            Err(error) => {
                tracing::error!(
                    "{} cannot be used and is made again from the images: {error}",
                    path.display()
                );
            }
        }
    } else if left.state.is_some() {
        tracing::error!(
            "{} is gone and is made again from the images",
            path.display()
        );
    }
    drop(index);
    let index = make_index(disk, layout, left, syncs)?;
    Ok((index, there || left.state.is_some()))
}

/// Makes the index from what there is.
fn make_index(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    left: Left,
    syncs: bool,
) -> Result<Index, OutboxError> {
    rebuild::rebuild(disk, layout, left.state, &[])?;
    let index = Index::closed(disk, layout, syncs);
    open_and_check(&index).map_err(broken)?;
    Ok(index)
}

fn open_and_check(index: &Index) -> Result<(), IndexError> {
    index.reopen()?;
    // A database of something else has no such tables; one that was just made has them all.
    index.read(|view| {
        view.outbox()?;
        view.series()?;
        view.counters()
    })?;
    Ok(())
}

/// Takes in files that the index does not know yet: of images that were never acknowledged to
/// their source.
fn adopt(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    index: &Index,
    left: Left,
    next: u64,
) -> Result<(), OutboxError> {
    let listing = || failed("listing of its images");
    // Without the mark any folder may have some.
    let reserved = left.state.map(|state| state.reserved);
    let segments: Option<BTreeSet<u64>> = reserved.map(|reserved| {
        let ends = [reserved.saturating_sub(1)];
        (next..reserved)
            .step_by(1_024)
            .chain(ends)
            .map(segment_number)
            .collect()
    });
    let mut found = Vec::new();
    for segment in disk.list(&layout.images()).map_err(listing())? {
        let segment = segment.map_err(listing())?;
        let number = segment.name.to_str().and_then(segment_named);
        let Some(number) = number.filter(|_| segment.is_folder) else {
            tracing::warn!(
                "left alone, since it is not the outbox's: {}",
                layout.images().join(&segment.name).display()
            );
            continue;
        };
        if segments
            .as_ref()
            .is_some_and(|segments| !segments.contains(&number))
        {
            continue;
        }
        for file in disk.list(&layout.segment(number)).map_err(listing())? {
            let file = file.map_err(listing())?;
            let name = file.name.to_str().and_then(FileName::parse);
            found.extend(name.filter(|name| name.sequence >= next));
        }
    }
    found.sort_unstable_by_key(|name| name.sequence);
    for name in found {
        let path = layout.image(&name);
        let fault = files::fault(&**disk, &path, None, &name.digest, true)
            .unwrap_or_else(|error| Some(format!("its file cannot be read: {error}")));
        match fault {
            None => take_in(disk, index, layout, &name)?,
            Some(reason) => put_aside(disk, index, layout, &name, &reason)?,
        }
    }
    Ok(())
}

/// The number of a folder below `images/`.
pub(super) fn segment_named(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name, 16).ok()?;
    let spelt = name.len() == 3 && format!("{number:03x}") == name;
    (spelt && number < super::layout::SEGMENTS).then_some(number)
}

fn take_in(
    disk: &Arc<dyn Disk>,
    index: &Index,
    layout: &Layout,
    name: &FileName,
) -> Result<(), OutboxError> {
    let size = disk
        .length(&layout.image(name))
        .map_err(failed("reading of an image"))?
        .unwrap_or(0);
    tracing::info!("taken in, though its source was not told so: {name}");
    let taken = index.write(|change| {
        let series = SeriesEntry::recovered(name.transport);
        let series = change.number_of(&series)?;
        if change.insert(name.sequence, &recovered_entry(name, size, series))? {
            change.count(series, |counts| counts.captured += 1);
            rebuild::put_mark(change, name)?;
        }
        Ok(())
    });
    taken.map_err(broken)
}

fn put_aside(
    disk: &Arc<dyn Disk>,
    index: &Index,
    layout: &Layout,
    name: &FileName,
    reason: &str,
) -> Result<(), OutboxError> {
    tracing::warn!("torn, and never acknowledged to its source: {name}: {reason}");
    super::quarantine::put(disk, layout, &layout.image(name))
        .map_err(failed("quarantining of a torn image"))?;
    let mut meta = ImageMeta::new(name.id, 0);
    meta.sequence = name.sequence;
    meta.digest = Some(name.digest);
    let lost = Lost {
        meta,
        reason: format!("torn by a crash: {reason}"),
    };
    let entered = index.write(|change| {
        let series = SeriesEntry::recovered(name.transport);
        let series = change.number_of(&series)?;
        change.count(series, |counts| {
            counts.captured += 1;
            counts.lost += 1;
        });
        change.lose(&lost)
    });
    entered.map_err(broken)
}

/// After a power loss of an outbox that synced nothing: any file may be torn, and transactions that
/// others had seen may be missing. Its numbers count in something new.
fn doubt(index: &Index, outbox: OutboxId, left: Left) -> Result<OutboxId, OutboxError> {
    let counters = index.read(View::counters).map_err(broken)?;
    if counters.next <= 1 {
        // It is new: its maker did not come to the mark.
        return Ok(outbox);
    }
    let new = OutboxId::new();
    let owed = index
        .write(|change| {
            let counters = &mut change.counters;
            let reserved = left.state.map(|state| state.reserved);
            let next = reserved.unwrap_or_else(|| counters.next.saturating_add(BLOCK));
            counters.next = counters.next.max(next);
            counters.suspect_from = 1;
            counters.suspect_to = counters.next;
            let owed = counters.images;
            change.name(new)?;
            Ok(owed)
        })
        .map_err(broken)?;
    tracing::warn!(
        "the power was lost while nothing was synced: the latest images of outbox {outbox} may be \
         missing; it goes on as {new} with {owed} images, which are checked before they are sent"
    );
    Ok(new)
}

fn sync_what_was_written(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<(), OutboxError> {
    Core::sync_tree(disk, layout).map_err(failed("syncing"))
}
