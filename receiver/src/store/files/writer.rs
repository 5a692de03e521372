//! One image on its way into a file.

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use shared::chunk::Segments;
use shared::digest::Digest;
use shared::image::ImageId;
use shared::sabotage::{self, Sabotage};

use super::batch::Batch;
use super::part::Part;
use super::{Location, Root, blocking};
use crate::store::{About, ImageWriter, Placement, StoreError};

/// Bytes that are gathered before a blocking thread is asked to write them: the hand-over costs
/// microseconds, which a batch of this size makes negligible.
const BATCH: usize = 1 << 20;

pub(super) struct FileWriter {
    root: Arc<Root>,
    id: ImageId,
    state: State,
    batch: Batch,
    /// Digest of all bytes, those of the batch included.
    digest: Digest,
}

enum State {
    /// Nothing is on disk yet; a small image goes there in one step at commit.
    Fresh(Box<About>),
    /// The file holds all bytes but those of the batch.
    Open(Box<Part>),
    /// Bytes were lost, or are under way on a blocking thread whose waiter was dropped.
    Broken,
}

impl FileWriter {
    pub(super) fn new(root: Arc<Root>, about: About) -> Self {
        Self {
            root,
            id: about.meta.id,
            digest: about.algorithm.digest(b""),
            state: State::Fresh(Box::new(about)),
            batch: Batch::default(),
        }
    }

    /// Goes on with a file.
    pub(super) fn reopened(root: Arc<Root>, id: ImageId, part: Part, digest: Digest) -> Self {
        Self {
            root,
            id,
            digest,
            state: State::Open(Box::new(part)),
            batch: Batch::default(),
        }
    }

    /// Takes what is needed to go on from a blocking thread. Until it comes back the writer is
    /// broken, so that a cancelled call cannot leave a hole.
    fn begin(&mut self) -> Result<Work, StoreError> {
        let ground = match std::mem::replace(&mut self.state, State::Broken) {
            State::Fresh(about) => Ground::New(about),
            State::Open(part) => Ground::There(part),
            State::Broken => return Err(StoreError::Broken { id: self.id }),
        };
        Ok(Work {
            root: Arc::clone(&self.root),
            ground,
            pieces: std::mem::take(&mut self.batch).finish(),
            digest: self.digest,
        })
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let work = self.begin()?;
        self.state = State::Open(self.run(move || work.write()).await?);
        Ok(())
    }

    /// Runs `work` where it may block; a full disk is told.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = blocking(work).await;
        self.root.noting_space(done)
    }
}

#[async_trait]
impl ImageWriter for FileWriter {
    async fn write(&mut self, data: Segments, digest: Digest) -> Result<(), StoreError> {
        if matches!(self.state, State::Broken) {
            return Err(StoreError::Broken { id: self.id });
        }
        for piece in data.pieces() {
            self.batch.push(piece);
        }
        self.digest = digest;
        if self.batch.len() >= BATCH {
            self.flush().await
        } else {
            Ok(())
        }
    }

    fn buffered(&self) -> u64 {
        self.batch.len() as u64
    }

    async fn truncate(&mut self, length: u64, digest: Digest) -> Result<(), StoreError> {
        self.digest = digest;
        let on_disk = match &self.state {
            State::Fresh(_) => 0,
            State::Open(part) => part.length(),
            State::Broken => return Err(StoreError::Broken { id: self.id }),
        };
        if let Some(kept) = length.checked_sub(on_disk) {
            self.batch
                .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
            return Ok(());
        }
        self.batch = Batch::default();
        let work = self.begin()?;
        let cut = move || {
            let mut part = work.write()?;
            part.cut(length)?;
            Ok(part)
        };
        self.state = State::Open(self.run(cut).await?);
        Ok(())
    }

    async fn reopen(&mut self) -> Result<Option<File>, StoreError> {
        let work = self.begin()?;
        let read = move || {
            let root = Arc::clone(&work.root);
            let part = work.write()?;
            let opening = |source| StoreError::io("opening", part.path(), source);
            let reader = root.disk.open(part.path(), false).map_err(opening)?;
            let reader = reader.as_os().map(File::try_clone).transpose();
            let reader = reader.map_err(opening)?;
            Ok((part, reader))
        };
        let (part, reader) = self.run(read).await?;
        self.state = State::Open(part);
        Ok(reader)
    }

    async fn park(&mut self, digest: Digest) -> Result<(), StoreError> {
        self.digest = digest;
        let work = self.begin()?;
        let parked = move || {
            let mut part = work.write()?;
            part.park(digest);
            Ok(part)
        };
        self.state = State::Open(self.run(parked).await?);
        Ok(())
    }

    fn leave(&mut self) {
        if let State::Open(part) = &mut self.state {
            part.stay();
        }
    }

    async fn commit(mut self: Box<Self>, placement: Placement) -> Result<String, StoreError> {
        let work = self.begin()?;
        let mut location = Location::new(&placement);
        if sabotage::is(Sabotage::ForgetDuplicates) {
            location.number(self.root.next_number());
        }
        let text = location.text();
        let placed = self.run(move || work.write()?.place(&location)).await?;
        if let Err(error) = placed.end().await {
            // Not durable, hence not receipted: it must not be visible either.
            let root = Arc::clone(&self.root);
            let path = root.path.join(&text);
            let removed = blocking(move || {
                root.disk
                    .remove(&path)
                    .map_err(|source| StoreError::io("removing", &path, source))
            });
            if let Err(error) = removed.await {
                tracing::warn!(%error, "an image that is not durable stays behind");
            }
            return Err(self.root.noting(error));
        }
        Ok(text)
    }
}

/// What a blocking thread needs to bring the gathered bytes to the file.
struct Work {
    root: Arc<Root>,
    ground: Ground,
    pieces: Vec<Bytes>,
    digest: Digest,
}

enum Ground {
    New(Box<About>),
    There(Box<Part>),
}

impl Work {
    fn write(self) -> Result<Box<Part>, StoreError> {
        let mut part = match self.ground {
            Ground::New(about) => Box::new(Part::create(self.root, *about)?),
            Ground::There(part) => part,
        };
        part.append(&self.pieces, self.digest)?;
        Ok(part)
    }
}
