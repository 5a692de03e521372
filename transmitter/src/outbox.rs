//! What the transmitter still owes.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use shared::image::{ImageId, ImageMeta};

use crate::payload::Payload;

pub mod memory;

/// An image that is owed.
#[derive(Debug)]
pub struct Owed {
    /// Everything said of it, its sequence number and digest included.
    pub meta: ImageMeta,
    /// Its bytes.
    pub payload: Payload,
    /// The file that it came from.
    pub source_file: Option<PathBuf>,
}

/// Images and bytes that are owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Images.
    pub images: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Keeps every image from capture to receipt.
///
/// An image is *waiting* until `take` hands it out, then *taken* until `settle` (it was answered,
/// or lost) or `give_back` (to be tried again). `close` says that no more will be pushed.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Takes responsibility for an image and gives it its sequence number. Waits while full.
    /// The sequence number in `image` is ignored. Dropping the future keeps nothing.
    ///
    /// # Errors
    /// When the image cannot be kept.
    async fn push(&self, image: Owed) -> Result<u64, OutboxError>;

    /// Hands out the next waiting image. Waits for one; `None` when the outbox is closed and none
    /// is waiting or taken. May be dropped while it waits.
    async fn take(&self) -> Option<Arc<Owed>>;

    /// The image was answered for good, or lost: it is not owed any more.
    async fn settle(&self, id: ImageId);

    /// The image, taken before, waits again, in its old place.
    async fn give_back(&self, id: ImageId);

    /// No more images will be pushed.
    fn close(&self);

    /// What is owed now, waiting and taken.
    fn backlog(&self) -> Backlog;
}

/// Why an image cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// It would never fit.
    #[error(
        "image of {size} bytes is larger than the outbox of {limit} bytes; raise TRANSMITTER_OUTBOX_MEMORY"
    )]
    TooLarge {
        /// Size of the image.
        size: u64,
        /// Size of the outbox.
        limit: u64,
    },
    /// The outbox was closed.
    #[error("the outbox is closed")]
    Closed,
}
