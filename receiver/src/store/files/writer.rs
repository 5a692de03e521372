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
    /// No process after this one is to go on with what is written now.
    provisional: bool,
}

enum State {
    /// All bytes are there but those of the batch.
    Whole(Ground),
    /// Bytes were lost on their way to the disk; those there are as they were.
    Torn(Ground),
    /// All is lost, or under way on a blocking thread whose waiter was dropped.
    Broken,
}

enum Ground {
    /// Nothing is on disk yet; a small image goes there in one step at commit.
    New(Box<About>),
    There(Box<Part>),
}

impl Ground {
    fn length(&self) -> u64 {
        match self {
            Self::New(_) => 0,
            Self::There(part) => part.length(),
        }
    }
}

impl FileWriter {
    pub(super) fn new(root: Arc<Root>, about: About) -> Self {
        Self {
            root,
            id: about.meta.id,
            digest: about.algorithm.digest(b""),
            state: State::Whole(Ground::New(Box::new(about))),
            batch: Batch::default(),
            provisional: false,
        }
    }

    /// Goes on with a file.
    pub(super) fn reopened(root: Arc<Root>, id: ImageId, part: Part, digest: Digest) -> Self {
        Self {
            root,
            id,
            digest,
            state: State::Whole(Ground::There(Box::new(part))),
            batch: Batch::default(),
            provisional: false,
        }
    }

    /// Takes what is needed to go on from a blocking thread. Until it comes back the writer is
    /// broken, so that a cancelled call cannot leave a hole.
    fn begin(&mut self) -> Result<Work, StoreError> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Whole(ground) => Ok(Work {
                root: Arc::clone(&self.root),
                ground,
                pieces: std::mem::take(&mut self.batch).finish(),
                digest: (!self.provisional).then_some(self.digest),
            }),
            lost => {
                self.state = lost;
                Err(StoreError::Broken { id: self.id })
            }
        }
    }

    /// Brings all bytes to the file, and then does `more` with it. When it fails, what was there
    /// before is there yet.
    async fn flush<T: Send + 'static>(
        &mut self,
        more: impl FnOnce(&mut Part) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let work = self.begin()?;
        let (ground, done) = self.run(move || Ok(work.attempt(more))).await?;
        self.state = match &done {
            Ok(_) => State::Whole(ground),
            Err(_) => State::Torn(ground),
        };
        self.root.noting_space(done)
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
            self.flush(|_| Ok(())).await
        } else {
            Ok(())
        }
    }

    fn buffered(&self) -> u64 {
        self.batch.len() as u64
    }

    fn on_disk(&self) -> Option<u64> {
        match &self.state {
            State::Whole(ground) | State::Torn(ground) => Some(ground.length()),
            State::Broken => None,
        }
    }

    fn set_provisional(&mut self, provisional: bool) {
        self.provisional = provisional;
    }

    async fn truncate(&mut self, length: u64, digest: Digest) -> Result<(), StoreError> {
        let broken = StoreError::Broken { id: self.id };
        self.digest = digest;
        match &self.state {
            State::Whole(ground) => {
                if let Some(kept) = length.checked_sub(ground.length()) {
                    self.batch
                        .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
                    return Ok(());
                }
            }
            State::Torn(ground) if length <= ground.length() => {}
            State::Torn(_) | State::Broken => return Err(broken),
        }
        self.batch = Batch::default();
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Whole(ground) | State::Torn(ground) => self.state = State::Whole(ground),
            State::Broken => return Err(broken),
        }
        if matches!(self.state, State::Whole(Ground::New(_))) {
            return Ok(());
        }
        self.flush(move |part| part.cut(length)).await
    }

    async fn reopen(&mut self) -> Result<Option<File>, StoreError> {
        let root = Arc::clone(&self.root);
        self.flush(move |part| {
            let opening = |source| StoreError::io("opening", part.path(), source);
            let reader = root.disk.open(part.path(), false).map_err(opening)?;
            let reader = reader.as_os().map(File::try_clone).transpose();
            reader.map_err(opening)
        })
        .await
    }

    async fn park(&mut self, digest: Digest) -> Result<(), StoreError> {
        self.digest = digest;
        self.flush(move |part| {
            part.park(digest);
            Ok(())
        })
        .await
    }

    fn leave(&mut self) {
        if let State::Whole(Ground::There(part)) | State::Torn(Ground::There(part)) =
            &mut self.state
        {
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
        let placed = self.run(move || {
            let (ground, written) = work.attempt(|_| Ok(()));
            written?;
            match ground {
                Ground::There(part) => part.place(&location),
                Ground::New(about) => Err(StoreError::Broken { id: about.meta.id }),
            }
        });
        let placed = placed.await?;
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
    /// `None` when what is written is provisional.
    digest: Option<Digest>,
}

impl Work {
    fn attempt<T>(
        self,
        more: impl FnOnce(&mut Part) -> Result<T, StoreError>,
    ) -> (Ground, Result<T, StoreError>) {
        let mut part = match self.ground {
            Ground::There(part) => part,
            Ground::New(about) => match Part::create(self.root, about) {
                Ok(part) => Box::new(part),
                Err((about, error)) => return (Ground::New(about), Err(error)),
            },
        };
        let done = part.append(&self.pieces, self.digest);
        let done = done.and_then(|()| more(&mut part));
        (Ground::There(part), done)
    }
}
