//! Whether there is room for images.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use shared::disk::Disk;
use shared::settings::units::ByteSize;

use crate::store::{Room, StoreError};

/// Bytes that must go to the disk again before it counts as no longer full.
const TRIAL: usize = 64 << 10;

const ROOM: u8 = 0;
/// A write found no space, whatever the file system says is free.
const FULL: u8 = 1;
/// Less is free than is to be left.
const LOW: u8 = 2;

/// Knows by the last look whether there is room. Tells each change once.
#[derive(Debug)]
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// Written and removed to see whether a full disk is full yet.
    trial: PathBuf,
    least: u64,
    free: AtomicU64,
    state: AtomicU8,
    /// One look at a time.
    looking: Mutex<()>,
}

impl Space {
    pub(super) fn new(disk: Arc<dyn Disk>, root: PathBuf, trial: PathBuf, least: u64) -> Self {
        let space = Self {
            free: AtomicU64::new(u64::MAX),
            state: AtomicU8::new(ROOM),
            looking: Mutex::default(),
            disk,
            root,
            trial,
            least,
        };
        space.look();
        space
    }

    /// Whether a new image may begin.
    pub(super) fn room(&self) -> Result<(), StoreError> {
        match self.state.load(Ordering::Acquire) {
            ROOM => Ok(()),
            LOW => Err(StoreError::Low {
                path: self.root.clone(),
                free: self.free.load(Ordering::Relaxed),
                least: self.least,
            }),
            _ => Err(StoreError::Full {
                path: self.root.clone(),
            }),
        }
    }

    pub(super) fn figures(&self) -> Room {
        Room {
            free: self.free.load(Ordering::Relaxed),
            floor: self.least,
            full: self.state.load(Ordering::Acquire) != ROOM,
        }
    }

    /// Something could not be written for want of space.
    pub(super) fn found_full(&self) {
        self.change(FULL);
    }

    /// Looks again. May block.
    pub(super) fn look(&self) {
        let Some(_turn) = self.looking.try_lock() else {
            return;
        };
        let before = self.state.load(Ordering::Acquire);
        match self.disk.free(&self.root) {
            Ok(free) => {
                self.free.store(free, Ordering::Relaxed);
                if free < self.least {
                    self.change(LOW);
                } else if before == LOW || (before == FULL && self.try_to_write()) {
                    self.change(ROOM);
                }
            }
            Err(error) => tracing::debug!(%error, "free space is not known"),
        }
    }

    fn try_to_write(&self) -> bool {
        let written = self.disk.create(&self.trial).and_then(|file| {
            file.write_at(&[Bytes::from(vec![0x5a; TRIAL])], 0)?;
            // A file system that allocates late tells only now.
            file.sync()
        });
        let removed = self.disk.remove(&self.trial);
        written.and(removed).is_ok()
    }

    fn change(&self, state: u8) {
        let before = self.state.swap(state, Ordering::AcqRel);
        if before == state {
            return;
        }
        let free = ByteSize(self.free.load(Ordering::Relaxed));
        let folder = self.root.display();
        match state {
            ROOM => tracing::info!(%free, %folder, "there is room again: images are taken"),
            LOW => tracing::error!(
                %free,
                least = %ByteSize(self.least),
                %folder,
                "less is free than RECEIVER_MIN_FREE: no images are taken until there is more"
            ),
            _ => {
                tracing::error!(%folder, "the disk is full: no images are taken until there is room");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use shared::disk::sim::SimDisk;

    use super::*;

    fn space(disk: &SimDisk, least: u64) -> Space {
        let root = PathBuf::from("/data");
        let trial = root.join("trial");
        Space::new(Arc::new(disk.clone()), root, trial, least)
    }

    fn disk() -> SimDisk {
        SimDisk::new(&[Path::new("/data")])
    }

    #[test]
    fn less_than_the_least_is_no_room_until_there_is_more() {
        let disk = disk();
        disk.set_capacity(99);
        let space = space(&disk, 100);
        assert!(matches!(
            space.room(),
            Err(StoreError::Low {
                free: 99,
                least: 100,
                ..
            })
        ));
        assert!(space.figures().full);
        disk.set_capacity(100);
        assert!(space.room().is_err(), "nobody has looked");
        space.look();
        assert!(space.room().is_ok());
    }

    #[test]
    fn a_disk_that_was_full_counts_as_full_until_it_can_be_written() {
        let disk = disk();
        let space = space(&disk, 0);
        assert!(space.room().is_ok());
        disk.set_capacity(10);
        space.found_full();
        space.look();
        assert!(matches!(space.room(), Err(StoreError::Full { .. })));
        disk.set_capacity(1 << 20);
        space.look();
        assert!(space.room().is_ok());
        assert_eq!(
            disk.paths(),
            [PathBuf::from("/data")],
            "the trial is removed"
        );
    }
}
