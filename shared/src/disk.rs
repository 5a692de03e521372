//! A file system, as far as the stations need one to keep what they promise.
//!
//! Outbox and store do everything that a power loss could undo through [`Disk`], so that the same
//! code runs on the machine's file system ([`OsDisk`]) and on one that forgets what was not synced
//! (`sim::SimDisk`, with the feature `simulation`).
//!
//! What a power loss leaves is what POSIX promises and no more: a file's bytes and length survive
//! once [`DiskFile::sync`] has returned, a name (made, renamed, linked or removed) once
//! [`Disk::sync_folder`] of its folder has. Everything else may be there, not be there, or be torn.

mod os;
#[cfg(feature = "simulation")]
pub mod sim;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

use bytes::Bytes;

pub use os::OsDisk;

/// A file system. All calls may block.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a file that is not there, for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` when it is, or the system's error.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file that is there, for reading and, with `writable`, for writing.
    ///
    /// # Errors
    /// `NotFound` when it is not, or the system's error.
    fn open(&self, path: &Path, writable: bool) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name; what had that name before is gone. Atomic.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, which must be free.
    ///
    /// # Errors
    /// `CrossesDevices` when the names lie in different file systems, or the system's error.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder; none is made above it. One that is there already is no error.
    ///
    /// # Errors
    /// The system's.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Brings the names in a folder to the medium.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// What is in a folder, in no order, one by one: a folder may hold millions of files.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, path: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<Listed>> + '_>>;

    /// Length of a file; `None` when there is none of this name.
    ///
    /// # Errors
    /// The system's.
    fn length(&self, path: &Path) -> io::Result<Option<u64>>;

    /// Bytes that can still be written to the file system of `path`.
    ///
    /// # Errors
    /// The system's.
    fn free(&self, path: &Path) -> io::Result<u64>;
}

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "nobody asks")]
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Reads at `offset`; fewer bytes than asked for at the end of the file.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `pieces`, one after another, from `offset` on. When it fails, any part of
    /// them may have been written.
    ///
    /// # Errors
    /// `StorageFull`, or the system's error.
    fn write_at(&self, pieces: &[Bytes], offset: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file or fills it with zeros to this length.
    ///
    /// # Errors
    /// The system's.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Brings bytes and length to the medium.
    ///
    /// # Errors
    /// The system's: what was written since the last sync may be lost then, and syncing again
    /// proves nothing (the kernel reports a failed write once).
    fn sync(&self) -> io::Result<()>;

    /// The file as the system's, where it is one: for readers that need more than this trait.
    fn as_os(&self) -> Option<&std::fs::File> {
        None
    }
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: OsString,
    /// It is a folder.
    pub is_folder: bool,
}

impl dyn Disk {
    /// Makes the folder `path` and those above it that are missing. Each name is on the medium
    /// then, as far as the folders above may be read.
    ///
    /// # Errors
    /// The system's.
    pub fn create_folders(&self, path: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        for folder in path.ancestors() {
            let there = folder.as_os_str().is_empty() || self.list(folder).is_ok();
            if there {
                break;
            }
            missing.push(folder);
        }
        for folder in missing.into_iter().rev() {
            self.create_folder(folder)?;
            if let Some(parent) = folder.parent() {
                // One that may not be read is no reason to stop.
                let _ = self.sync_folder(parent);
            }
        }
        Ok(())
    }
}

impl dyn DiskFile {
    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before, or the system's error.
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
