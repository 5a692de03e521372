//! Where images come from.
//!
//! [`open`] makes a [`Capture`] of each kind of source. A source hands out an image only when it
//! is complete, gives it a fresh id, and says in the log what it skipped and why.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use shared::clock::UnixNanos;
use shared::image::{ImageId, media_type_of};

use crate::config::SourceOptions;
use crate::payload::Payload;

mod after;
mod command;
mod file;
mod folder;
mod pattern;
mod snapshot;
pub mod split;

pub use after::{Settled, Taken, settle_file};
pub use folder::{Survey, survey};

/// Opens a source. Everything that can be known to be wrong with it is found here, before the
/// first image.
///
/// # Errors
/// When the source cannot be used: no such file or folder, a pattern that cannot be drawn, a URL
/// of a kind that is not supported, a command that cannot be started.
pub async fn open(source: &SourceOptions) -> Result<Box<dyn Capture>, CaptureError> {
    Ok(match source {
        SourceOptions::File { path, repeat } => {
            Box::new(file::FileSource::open(path.clone(), *repeat).await?)
        }
        SourceOptions::Folder(options) => Box::new(folder::FolderSource::open(options).await?),
        SourceOptions::Pattern(options) => Box::new(pattern::PatternSource::open(options)?),
        SourceOptions::Snapshot { url, timeout } => {
            Box::new(snapshot::SnapshotSource::open(url, *timeout)?)
        }
        SourceOptions::Command { command } => Box::new(command::CommandSource::open(command)?),
    })
}

/// Largest image that a camera or a command may give. It is held in memory, unlike a file.
const MAX_IMAGE: usize = 64 << 20;

/// An image as its source gives it.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Identity, fresh for each capture.
    pub id: ImageId,
    /// Its bytes.
    pub payload: Payload,
    /// Name at the source, for people.
    pub name: Option<String>,
    /// Media type, as far as the source tells (its header or the file's ending).
    pub content_type: Option<String>,
    /// When it was taken.
    pub captured: UnixNanos,
    /// The file that it came from, for what is done with it after delivery.
    pub source_file: Option<PathBuf>,
    /// When that file was changed last, nanoseconds since 1970, if it is not captured a second time
    /// as long as it stays as it is.
    pub modified: Option<i64>,
}

impl Captured {
    /// An image that was taken just now, into memory.
    fn from_memory(bytes: Bytes, name: String, content_type: impl Into<String>) -> Self {
        Self {
            id: ImageId::new(),
            payload: Payload::Memory(bytes),
            name: Some(name),
            content_type: Some(content_type.into()),
            captured: UnixNanos::now(),
            source_file: None,
            modified: None,
        }
    }

    /// An image that was found just now in a file.
    fn from_file(path: PathBuf, size: u64, name: String) -> Self {
        Self {
            id: ImageId::new(),
            content_type: media_type_of(&name).map(str::to_owned),
            payload: Payload::File {
                path: path.clone(),
                size,
            },
            name: Some(name),
            captured: UnixNanos::now(),
            source_file: Some(path),
            modified: None,
        }
    }
}

/// A source of images.
#[async_trait]
pub trait Capture: Send {
    /// Waits for the next image; `None` when there are no more. May be dropped while it waits
    /// without losing an image. A source that can be broken (a camera that is switched off, a
    /// file that cannot be read) heals itself where it can and logs what it skipped.
    ///
    /// # Errors
    /// When the source cannot go on.
    async fn next(&mut self) -> Result<Option<Captured>, CaptureError>;

    /// Whether the source ends by itself.
    fn is_finite(&self) -> bool;
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A file or folder cannot be used.
    #[error("{path}: {problem}", path = path.display())]
    Path {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do about it.
        problem: String,
        /// The system's error, where there is one.
        #[source]
        source: Option<std::io::Error>,
    },
    /// A URL cannot be used.
    #[error("{url}: {problem}")]
    Url {
        /// The URL, without user and password.
        url: String,
        /// What is wrong and what to do about it.
        problem: String,
    },
    /// The command failed.
    #[error("command {command:?}: {problem}")]
    Command {
        /// The command line.
        command: String,
        /// What is wrong and what to do about it.
        problem: String,
    },
    /// An image could not be generated.
    #[error("pattern: {0}")]
    Pattern(String),
}

impl CaptureError {
    fn path(
        path: impl Into<PathBuf>,
        problem: impl Into<String>,
        source: Option<std::io::Error>,
    ) -> Self {
        Self::Path {
            path: path.into(),
            problem: problem.into(),
            source,
        }
    }
}

/// Runs file system work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is cancelled only when the runtime shuts down; nobody waits then.
            Err(_) => std::future::pending().await,
        },
    }
}
