//! One image on its way into a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use shared::chunk::Segments;
use shared::image::ImageId;

use super::folders::sync_folder;
use super::{Root, blocking, locate};
use crate::store::{ImageWriter, Placement, StoreError};

/// Bytes that are gathered before a blocking thread is asked to write them: the hand-over costs
/// microseconds, which a batch of this size makes negligible.
const BATCH: usize = 1 << 20;

/// Pieces below this size are copied together, lest a small piece keeps a large network buffer
/// alive and a batch becomes thousands of slices.
const SMALL: usize = 4 << 10;

pub(super) struct FileWriter {
    root: Arc<Root>,
    id: ImageId,
    state: State,
    batch: Batch,
}

enum State {
    /// Nothing is on disk yet; a small image goes there in one step at commit.
    Fresh,
    /// The file holds all bytes but those of the batch.
    Open(Incoming),
    /// Bytes were lost, or are under way on a blocking thread whose waiter was dropped.
    Broken,
}

impl FileWriter {
    pub(super) fn new(root: Arc<Root>, id: ImageId) -> Self {
        Self {
            root,
            id,
            state: State::Fresh,
            batch: Batch::default(),
        }
    }

    /// Takes what is needed to go on from a blocking thread. Until it comes back the writer is
    /// broken, so that a cancelled call cannot leave a hole.
    fn begin(&mut self) -> Result<Work, StoreError> {
        let file = match std::mem::replace(&mut self.state, State::Broken) {
            State::Fresh => None,
            State::Open(file) => Some(file),
            State::Broken => return Err(StoreError::Broken { id: self.id }),
        };
        Ok(Work {
            root: Arc::clone(&self.root),
            id: self.id,
            file,
            pieces: std::mem::take(&mut self.batch).finish(),
        })
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let work = self.begin()?;
        self.state = State::Open(blocking(move || work.write()).await?);
        Ok(())
    }
}

#[async_trait]
impl ImageWriter for FileWriter {
    async fn write(&mut self, data: Segments) -> Result<(), StoreError> {
        if matches!(self.state, State::Broken) {
            return Err(StoreError::Broken { id: self.id });
        }
        for piece in data.pieces() {
            self.batch.push(piece);
        }
        if self.batch.len >= BATCH {
            self.flush().await
        } else {
            Ok(())
        }
    }

    fn buffered(&self) -> u64 {
        self.batch.len as u64
    }

    async fn truncate(&mut self, length: u64) -> Result<(), StoreError> {
        let on_disk = match &self.state {
            State::Fresh => 0,
            State::Open(file) => file.length,
            State::Broken => return Err(StoreError::Broken { id: self.id }),
        };
        if let Some(kept) = length.checked_sub(on_disk) {
            self.batch
                .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
            return Ok(());
        }
        self.batch = Batch::default();
        let mut work = self.begin()?;
        let cut = move || {
            work.length(length)?;
            work.write()
        };
        self.state = State::Open(blocking(cut).await?);
        Ok(())
    }

    async fn reopen(&mut self) -> Result<Option<File>, StoreError> {
        let work = self.begin()?;
        let (file, reader) = blocking(move || {
            let file = work.write()?;
            let reader = File::open(&file.path)
                .map_err(|source| StoreError::io("opening", &file.path, source))?;
            Ok((file, reader))
        })
        .await?;
        self.state = State::Open(file);
        Ok(Some(reader))
    }

    async fn commit(mut self: Box<Self>, placement: Placement) -> Result<String, StoreError> {
        let work = self.begin()?;
        blocking(move || {
            let root = Arc::clone(&work.root);
            let location = locate(&placement);
            work.write()?.place(&root, &root.path.join(&location))?;
            Ok(location)
        })
        .await
    }
}

/// What a blocking thread needs to bring the gathered bytes to the file.
struct Work {
    root: Arc<Root>,
    id: ImageId,
    file: Option<Incoming>,
    pieces: Vec<Bytes>,
}

impl Work {
    fn write(self) -> Result<Incoming, StoreError> {
        let mut file = match self.file {
            Some(file) => file,
            None => Incoming::create(self.root.incoming(self.id))?,
        };
        file.append(&self.pieces)?;
        Ok(file)
    }

    fn length(&mut self, length: u64) -> Result<(), StoreError> {
        self.file.as_mut().map_or(Ok(()), |file| file.cut(length))
    }
}

/// A file in `incoming/`, which is removed on drop unless it was placed.
struct Incoming {
    path: PathBuf,
    file: File,
    length: u64,
    placed: bool,
}

impl Incoming {
    fn create(path: PathBuf) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| StoreError::io("making", &path, source))?;
        Ok(Self {
            path,
            file,
            length: 0,
            placed: false,
        })
    }

    fn append(&mut self, pieces: &[Bytes]) -> Result<(), StoreError> {
        write_all(&mut self.file, pieces)
            .map_err(|source| StoreError::io("writing", &self.path, source))?;
        self.length += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        Ok(())
    }

    fn cut(&mut self, length: u64) -> Result<(), StoreError> {
        self.file
            .set_len(length)
            .and_then(|()| self.file.seek(SeekFrom::Start(length)))
            .map_err(|source| StoreError::io("cutting", &self.path, source))?;
        self.length = length;
        Ok(())
    }

    /// Moves the file to `target`, as durably as the store promises.
    fn place(mut self, root: &Root, target: &Path) -> Result<(), StoreError> {
        if root.is_synced() {
            self.file
                .sync_data()
                .map_err(|source| StoreError::io("syncing", &self.path, source))?;
        }
        let folder = target.parent().expect("a location has a folder");
        root.folders.ensure(folder)?;
        let mut renamed = fs::rename(&self.path, target);
        if matches!(&renamed, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            // The day's folder was removed while this process knew it.
            root.folders.forget(folder);
            root.folders.ensure(folder)?;
            renamed = fs::rename(&self.path, target);
        }
        renamed.map_err(|source| StoreError::io("placing", target, source))?;
        self.placed = true;
        if root.is_synced()
            && let Err(error) = sync_folder(folder)
        {
            // Not durable, hence not receipted: it must not be visible either.
            let _ = fs::remove_file(target);
            return Err(error);
        }
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "unfinished image stays behind");
        }
    }
}

fn write_all(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Bytes that wait for a blocking thread.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Batch {
    fn push(&mut self, piece: &Bytes) {
        self.len += piece.len();
        if piece.len() < SMALL {
            self.tail.extend_from_slice(piece);
        } else {
            self.close_tail();
            self.pieces.push(piece.clone());
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
    }

    fn truncate(&mut self, length: usize) {
        self.close_tail();
        let mut left = length;
        self.pieces.retain_mut(|piece| {
            piece.truncate(left);
            left -= piece.len();
            !piece.is_empty()
        });
        self.len = self.len.min(length);
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close_tail();
        self.pieces
    }
}
