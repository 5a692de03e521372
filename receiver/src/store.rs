//! Where the bytes of images are kept.

pub mod files;
pub mod lock;
pub mod memory;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use shared::chunk::Segments;
use shared::clock::UnixNanos;
use shared::digest::{Digest, DigestAlgorithm};
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};

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

/// What is known of an image while it is on its way in; kept beside its bytes, so that another
/// process can go on with them.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// What its sender says of it.
    pub meta: Arc<ImageMeta>,
    /// Who sends it.
    pub transmitter: Arc<str>,
    /// The outbox that its sequence number counts in, when that is known.
    pub outbox: Option<OutboxId>,
    /// How it comes.
    pub transport: Transport,
    /// How its digest is made while it comes.
    pub algorithm: DigestAlgorithm,
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that are to be left free.
    pub floor: u64,
    /// No images are taken for want of space.
    pub full: bool,
}

/// An image file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The image, by its name.
    pub id: ImageId,
    /// Where it is.
    pub location: String,
}

/// Image files of which the catalogue may not know. All methods may block.
pub trait Unsettled: Send + Sync {
    /// Shows all image files in question to `each` until that says that it is enough. Files that
    /// are no store's are passed over.
    ///
    /// # Errors
    /// When the medium fails.
    fn files(&self, each: &mut dyn FnMut(Found) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// Whether a location is among them.
    fn concerns(&self, location: &str) -> bool;

    /// Moves a file that the catalogue does not know out of sight.
    ///
    /// # Errors
    /// When the medium fails.
    fn set_aside(&self, location: &str) -> Result<(), StoreError>;

    /// Files and catalogue agree.
    ///
    /// # Errors
    /// When the medium fails.
    fn settled(&self) -> Result<(), StoreError>;
}

/// Keeps images.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// Begins to write an image. Nothing becomes visible before [`ImageWriter::commit`].
    ///
    /// # Errors
    /// When there is no space or no permission.
    async fn create(&self, about: About) -> Result<Box<dyn ImageWriter>, StoreError>;

    /// Opens a stored image by the location that `commit` gave. `None` when the bytes are not
    /// there (any more).
    ///
    /// # Errors
    /// When it cannot be read.
    async fn open(&self, location: &str) -> Result<Option<std::fs::File>, StoreError>;

    /// Size of a stored image. `None` when the bytes are not there (any more).
    ///
    /// # Errors
    /// When the medium fails.
    async fn size(&self, location: &str) -> Result<Option<u64>, StoreError>;

    /// Removes an image that was placed and that the catalogue does not know.
    ///
    /// # Errors
    /// When the medium fails.
    async fn discard(&self, location: &str) -> Result<(), StoreError>;

    /// What an earlier process left unfinished. Each is handed out once.
    fn partials(&self) -> Vec<Box<dyn Partial>> {
        Vec::new()
    }

    /// Something beside the store, on the same medium, found no space.
    fn found_full(&self) {}

    /// Whether there is room for a new image, by the last look; costs nothing.
    ///
    /// # Errors
    /// When there is none.
    fn room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Looks again whether there is room, and tells; to be called now and then. `None` when the
    /// store needs none.
    async fn look_for_room(&self) -> Option<Room> {
        None
    }

    /// What was placed, while files and catalogue were not known to agree, by an earlier process
    /// that did not stop in order. `None` when nothing is left to be looked at.
    fn unsettled(&self) -> Option<Arc<dyn Unsettled>> {
        None
    }

    /// Nothing is being written and everything that was placed is catalogued: the next process has
    /// nothing to look for.
    ///
    /// # Errors
    /// When the medium fails.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

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
/// A writer that is dropped without `commit` leaves nothing behind, unless it was told to.
#[async_trait]
pub trait ImageWriter: Send + Sync {
    /// Adds bytes at the end. `digest` is that of all bytes of the image up to and including them,
    /// by the algorithm of [`About`].
    ///
    /// # Errors
    /// When there is no space; the image cannot be completed then, unless it is cut down to what is
    /// [on disk](Self::on_disk).
    async fn write(&mut self, data: Segments, digest: Digest) -> Result<(), StoreError>;

    /// Bytes that are in memory and not yet handed to the operating system.
    fn buffered(&self) -> u64 {
        0
    }

    /// Bytes that stay, and can be gone back to by [`Self::truncate`], if a later write fails for
    /// want of space. `None` when none do.
    fn on_disk(&self) -> Option<u64> {
        None
    }

    /// Whether what is written from now on is of no use to another process, until this is taken
    /// back.
    fn set_provisional(&mut self, _provisional: bool) {}

    /// Cuts the image down to its first `length` bytes, whose digest is `digest`.
    ///
    /// # Errors
    /// When the medium fails, or not all of those bytes are there.
    async fn truncate(&mut self, length: u64, digest: Digest) -> Result<(), StoreError>;

    /// Hands all bytes to the operating system and opens them for reading, for a closer look.
    /// `None` when the store keeps no bytes, or none that the operating system knows.
    ///
    /// # Errors
    /// When the medium fails.
    async fn reopen(&mut self) -> Result<Option<std::fs::File>, StoreError>;

    /// The image will not go on for a while: hands all bytes to the operating system, with what a
    /// later process needs to go on, and holds nothing open. `digest` is that of all bytes so far.
    ///
    /// # Errors
    /// When the medium fails.
    async fn park(&mut self, digest: Digest) -> Result<(), StoreError>;

    /// From now on, what is there stays when the writer is dropped: for the next process.
    fn leave(&mut self);

    /// Makes the image visible at its final place, as durably as the store promises, and tells its
    /// location. Replaces what is there.
    ///
    /// # Errors
    /// When the medium fails; nothing is visible then.
    async fn commit(self: Box<Self>, placement: Placement) -> Result<String, StoreError>;
}

/// An image that an earlier process left unfinished. Dropped, it is removed, unless it was told to
/// stay.
pub trait Partial: Send + Sync {
    /// What was said of it.
    fn about(&self) -> &About;

    /// Bytes of it at most: they are not verified yet.
    fn length(&self) -> u64;

    /// Time since its last bytes came, by a clock that may have been set meanwhile.
    fn age(&self) -> Duration;

    /// From now on, it stays when it is dropped: for the next process.
    fn leave(&mut self);

    /// Reads the bytes and keeps the longest beginning that is as it was written. May block.
    ///
    /// # Errors
    /// When the medium fails; the partial image is gone then.
    fn recover(
        self: Box<Self>,
        replay: &mut dyn Replay,
    ) -> Result<Box<dyn ImageWriter>, StoreError>;
}

/// Takes the bytes of a partial image again.
pub trait Replay {
    /// The next bytes.
    fn take(&mut self, bytes: Bytes);

    /// Whether the digest of all bytes so far is this one. If so, they count; if not, the last
    /// bytes that counted are all that there is.
    fn check(&mut self, digest: &Digest) -> bool;
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
    /// Less space than is to be left free.
    #[error(
        "{free} are free in {path}, less than the {least} of RECEIVER_MIN_FREE: free some or point \
         RECEIVER_DATA at a larger disk",
        path = path.display(),
        free = shared::settings::units::ByteSize(*free),
        least = shared::settings::units::ByteSize(*least)
    )]
    Low {
        /// The folder.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are to be.
        least: u64,
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

    /// Whether it is for want of space.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Low { .. })
    }
}

#[cfg(test)]
mod tests;
