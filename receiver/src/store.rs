//! Where the bytes of images are kept.

pub mod files;
pub mod lock;
pub mod memory;

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use shared::chunk::Segments;
use shared::clock::UnixNanos;
use shared::image::ImageId;

/// Which images belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Verified images.
    Images,
    /// Bytes that arrived whole and are no proper image.
    Quarantine,
}

/// The final place of an image, made from nothing that a sender controls but the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The image.
    pub id: ImageId,
    /// Where it belongs.
    pub area: Area,
    /// Ending of its name, by the format that was found, for example `jpg`.
    pub extension: &'static str,
    /// When its last byte arrived.
    pub received: UnixNanos,
}

/// Keeps images.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// Begins to write an image. Nothing becomes visible before [`ImageWriter::commit`].
    ///
    /// # Errors
    /// When there is no space or no permission.
    async fn create(&self, id: ImageId) -> Result<Box<dyn ImageWriter>, StoreError>;

    /// Opens a stored image by the location that `commit` gave. `None` when the bytes are not
    /// there (any more).
    ///
    /// # Errors
    /// When it cannot be read.
    async fn open(&self, location: &str) -> Result<Option<std::fs::File>, StoreError>;

    /// Tries whether images can be written just now.
    ///
    /// # Errors
    /// When they cannot.
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// An image that is being written.
///
/// A writer that is dropped without `commit` leaves nothing behind.
#[async_trait]
pub trait ImageWriter: Send + Sync {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// When there is no space; the image cannot be completed then.
    async fn write(&mut self, data: Segments) -> Result<(), StoreError>;

    /// Bytes that are in memory and not yet handed to the operating system.
    fn buffered(&self) -> u64 {
        0
    }

    /// Cuts the image down to its first `length` bytes.
    ///
    /// # Errors
    /// When the medium fails.
    async fn truncate(&mut self, length: u64) -> Result<(), StoreError>;

    /// Hands all bytes to the operating system and opens them for reading, for a closer look.
    /// `None` when the store keeps no bytes.
    ///
    /// # Errors
    /// When the medium fails.
    async fn reopen(&mut self) -> Result<Option<std::fs::File>, StoreError>;

    /// Makes the image visible at its final place, as durably as the store promises, and tells its
    /// location. Replaces what is there.
    ///
    /// # Errors
    /// When the medium fails; nothing is visible then.
    async fn commit(self: Box<Self>, placement: Placement) -> Result<String, StoreError>;
}

/// Why bytes could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another receiver works on the same folder.
    #[error(
        "{path} is in use by {holder}: stop it or point RECEIVER_DATA at another folder",
        path = path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who holds it, for example `process 4711`.
        holder: String,
    },
    /// A location that no store gave.
    #[error("location {location:?} is not inside the store")]
    Location {
        /// What was asked for.
        location: String,
    },
    /// An earlier failure lost bytes of the image.
    #[error("image {id} lost bytes in an earlier failure: send it again from its start")]
    Broken {
        /// The image.
        id: ImageId,
    },
    /// No space.
    #[error("no space left for {path}: free some or point RECEIVER_DATA at a larger disk", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The medium failed.
    #[error("{action} {path} failed", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// The error for `action` on `path`, which failed with `source`.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests;
