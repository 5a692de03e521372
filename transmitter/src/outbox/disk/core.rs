//! An outbox that is open: its files, its index, and the right to change them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use shared::disk::Disk;
use shared::image::OutboxId;

use super::ballast::Ballast;
use super::index::{Index, IndexError, is_full};
use super::layout::{FileName, Layout, SEGMENTS};
use super::lock::Lock;
use super::mark::{Mark, MarkState};
use crate::config::OutboxDurability;
use crate::outbox::OutboxError;

/// How an outbox is opened.
#[derive(Debug, Clone)]
pub(crate) struct CoreOptions {
    pub(crate) durability: OutboxDurability,
    /// Bytes kept back for emptying a full disk.
    pub(crate) ballast: u64,
    /// Identifies the time since the system was started; 0: not known.
    pub(crate) boot: u128,
}

/// Bytes kept back for emptying a full disk.
pub(super) const BALLAST: u64 = 4 << 20;

impl CoreOptions {
    /// For an outbox of this machine.
    pub(crate) fn new(durability: OutboxDurability) -> Self {
        Self {
            durability,
            ballast: BALLAST,
            boot: super::mark::boot(),
        }
    }
}

/// The open outbox. Whoever has it is the only one to change it; its index may be read meanwhile.
pub(crate) struct Core {
    pub(in crate::outbox) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    pub(super) outbox: OutboxId,
    pub(in crate::outbox) index: Arc<Index>,
    pub(super) mark: Mark,
    pub(super) ballast: Ballast,
    pub(super) synced: bool,
    /// Folders below `images/` that are known to be there.
    pub(super) segments: HashSet<u64>,
    /// The next folder to look for leftovers in.
    pub(super) sweep: Option<u64>,
    /// A number to give once more, to see the proof fail.
    pub(super) reused: Option<u64>,
    /// Dropped last.
    pub(super) _lock: Lock,
}

pub(super) fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> OutboxError {
    let action = action.into();
    move |source| OutboxError::Io { action, source }
}

impl Core {
    /// The file of an image.
    pub(super) fn path(&self, name: &FileName) -> std::path::PathBuf {
        self.layout.image(name)
    }

    /// Makes sure that the folder of an image is there.
    pub(super) fn make_segment(&mut self, sequence: u64) -> io::Result<()> {
        let number = super::layout::segment_number(sequence);
        if self.segments.contains(&number) {
            return Ok(());
        }
        self.disk.create_folder(&self.layout.segment(number))?;
        if self.synced {
            self.disk.sync_folder(&self.layout.images())?;
        }
        self.segments.insert(number);
        Ok(())
    }

    /// Opens the index again after an error. Where there is no space for that, the ballast goes.
    pub(super) fn reopen(&mut self) -> Result<(), IndexError> {
        match self.index.reopen() {
            Err(IndexError::Full(_)) if self.ballast.release() => self.index.reopen(),
            opened => opened,
        }
    }

    /// Removes the file of an image that is not owed any more. What cannot be removed is a leftover
    /// that the next start after a crash finds.
    pub(in crate::outbox) fn remove_file(&self, name: &FileName) {
        let path = self.path(name);
        match self.disk.remove(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("{} cannot be removed: {error}", path.display()),
        }
    }

    /// Puts the file of an image that is not owed any more aside.
    pub(in crate::outbox) fn quarantine(&self, name: &FileName) {
        let path = self.path(name);
        if let Err(error) = super::quarantine::put(&self.disk, &self.layout, &path) {
            tracing::warn!("{} cannot be put aside: {error}", path.display());
        }
    }

    /// Looks into one folder for files that belong to no image any more, and removes them; whether
    /// there are folders left to look into.
    pub(super) fn sweep_one(&mut self) -> Result<bool, IndexError> {
        let Some(number) = self.sweep else {
            return Ok(false);
        };
        self.sweep = (number + 1 < SEGMENTS).then_some(number + 1);
        let folder = self.layout.segment(number);
        let listed = match self.disk.list(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            listed => listed.map_err(IndexError::Io)?,
        };
        let mut names = Vec::new();
        for entry in listed {
            let entry = entry.map_err(IndexError::Io)?;
            match entry.name.to_str().and_then(FileName::parse) {
                Some(name) => names.push(name),
                None => tracing::warn!(
                    "left alone, since it is not the outbox's: {}",
                    folder.join(&entry.name).display()
                ),
            }
        }
        let leftovers = self.index.read(|view| {
            let next = view.counters()?.next;
            let mut leftovers = Vec::new();
            for name in names {
                if name.sequence < next && !view.has_image(name.sequence)? {
                    leftovers.push(name);
                }
            }
            Ok(leftovers)
        })?;
        for name in &leftovers {
            tracing::debug!("removed, since its image is settled: {name}");
            self.remove_file(name);
        }
        if !leftovers.is_empty() {
            tracing::info!(
                "removed {} files of settled images that a crash had left",
                leftovers.len()
            );
        }
        Ok(true)
    }

    /// Brings everything to the medium, whether or not it was synced when it was written.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        Self::sync_tree(&self.disk, &self.layout)
    }

    pub(super) fn sync_tree(disk: &Arc<dyn Disk>, layout: &Layout) -> io::Result<()> {
        let file = disk.open(&layout.mark(), true)?;
        if let Some(file) = file.as_os() {
            return Ok(rustix::fs::syncfs(file)?);
        }
        for segment in disk.list(&layout.images())? {
            let segment = segment?;
            if !segment.is_folder {
                continue;
            }
            let folder = layout.images().join(segment.name);
            for listed in disk.list(&folder)? {
                disk.open(&folder.join(listed?.name), false)?.sync()?;
            }
            disk.sync_folder(&folder)?;
        }
        disk.open(&layout.index(), true)?.sync()?;
        disk.sync_folder(&layout.images())
    }

    /// Closes in order: what the outbox holds is on the medium, and the next start need not look
    /// for damage.
    pub(in crate::outbox) fn close(mut self) -> Result<(), OutboxError> {
        self.index.set_syncs(true);
        let closed = self.index.close();
        closed.map_err(|error| failed("closing of the index")(error.into_io()))?;
        self.sync_all().map_err(failed("syncing"))?;
        let state = MarkState {
            clean: self.sweep.is_none(),
            ..*self.mark.state()
        };
        self.mark.write(state).map_err(failed("closing"))
    }
}

/// Whether an outbox error says that there is no space.
pub(super) fn says_full(error: &OutboxError) -> bool {
    matches!(error, OutboxError::Io { source, .. } if is_full(source))
}

/// Whether an outbox error says that the index is not what was written.
pub(super) fn says_damaged(error: &OutboxError) -> bool {
    let damaged = io::ErrorKind::InvalidData;
    matches!(error, OutboxError::Io { source, .. } if source.kind() == damaged)
}
