//! Where images come from.

use std::path::PathBuf;

use async_trait::async_trait;
use shared::clock::UnixNanos;
use shared::image::ImageId;

use crate::payload::Payload;

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
