//! Space that is kept back, so that a full disk can still be emptied.
//!
//! The index is copied on writing: taking an image out of it needs some pages first. On a disk
//! without any space the ballast is let go for them, and comes back before new images are taken.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use shared::disk::Disk;

/// Size of a slice that is written at once.
const SLICE: usize = 64 << 10;

/// The file that holds the space.
#[derive(Debug)]
pub(super) struct Ballast {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Ballast {
    pub(super) fn new(disk: Arc<dyn Disk>, path: PathBuf, bytes: u64) -> Self {
        Self {
            disk,
            path,
            bytes,
            held: false,
        }
    }

    /// Whether the space is kept back.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Keeps the space back, if it is there.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        if self.held {
            return Ok(());
        }
        if self.disk.length(&self.path)? == Some(self.bytes) {
            self.held = true;
            return Ok(());
        }
        let fill = || {
            let _ = self.disk.remove(&self.path);
            let file = self.disk.create(&self.path)?;
            // Written, since a file system only notes a length that is set. Not zeros, which some
            // do not store.
            let slice = Bytes::from(vec![0xa5; SLICE]);
            let mut offset = 0;
            while offset < self.bytes {
                let length = (self.bytes - offset).min(SLICE as u64);
                let length = usize::try_from(length).unwrap_or(SLICE);
                file.write_at(&[slice.slice(..length)], offset)?;
                offset += length as u64;
            }
            // Only then the space is really taken: before, it may be a promise of the cache.
            file.sync()
        };
        match fill() {
            Ok(()) => {
                self.held = true;
                Ok(())
            }
            Err(error) => {
                let _ = self.disk.remove(&self.path);
                Err(error)
            }
        }
    }

    /// Lets the space go; whether there was any.
    pub(super) fn release(&mut self) -> bool {
        self.held = false;
        self.disk.remove(&self.path).is_ok()
    }
}
