//! The index: a redb database over the [`Disk`] trait, so that it loses power together with it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{Builder, Database, ReadableDatabase, StorageBackend};
use shared::disk::{Disk, DiskFile};

mod change;
mod view;

pub(super) use change::Change;
pub(in crate::outbox) use change::Counters;
pub(super) use view::View;

use super::encoding::Malformed;
use super::files::read_slice;
use super::layout::Layout;

/// Pages that redb keeps in memory, whatever the size of the index.
const CACHE_BYTES: usize = 6 << 20;

/// Why the index could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(in crate::outbox) enum IndexError {
    /// There is no space for it.
    #[error("no space for the index")]
    Full(#[source] io::Error),
    /// The medium failed.
    #[error("the index cannot be read or written")]
    Io(#[source] io::Error),
    /// It is not what was written.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    /// A number that was to be given is another image's.
    #[error("number {0} is another image's")]
    Taken(u64),
    /// A later version of the program wrote it.
    #[error("the index is of format {0}; use the program that wrote it")]
    Newer(u32),
}

impl IndexError {
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Full(error) | Self::Io(error) => error.kind(),
            Self::Damaged(_) | Self::Taken(_) | Self::Newer(_) => io::ErrorKind::InvalidData,
        }
    }

    /// Whether the medium itself failed, and not the way to it.
    pub(super) fn is_bad_medium(&self) -> bool {
        let failed = Some(rustix::io::Errno::IO.raw_os_error());
        matches!(self, Self::Io(error) if error.raw_os_error() == failed)
    }

    pub(in crate::outbox) fn into_io(self) -> io::Error {
        match self {
            Self::Full(error) | Self::Io(error) => error,
            Self::Damaged(_) | Self::Taken(_) | Self::Newer(_) => {
                io::Error::new(io::ErrorKind::InvalidData, self.to_string())
            }
        }
    }
}

/// Whether an error says that there is no space, or no more of it for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl From<redb::Error> for IndexError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) if is_full(&error) => Self::Full(error),
            redb::Error::Io(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Io(error)
            }
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                Self::Io(io::Error::other("an earlier write failed"))
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for IndexError {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}
from_redb!(
    StorageError,
    TableError,
    TransactionError,
    CommitError,
    DatabaseError
);

impl From<Malformed> for IndexError {
    fn from(error: Malformed) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// redb checks what it reads, but where it relies on a thing that a bad medium broke, it panics.
fn guarded<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("it cannot be used");
        Err(IndexError::Damaged(text.to_owned()))
    })
}

/// A file as redb wants it.
#[derive(Debug)]
struct Backend {
    file: Box<dyn DiskFile>,
    syncs: Arc<AtomicBool>,
    unsynced: Arc<AtomicBool>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.syncs.load(Relaxed) {
            return Ok(());
        }
        let synced = self.file.sync();
        if synced.is_err() {
            self.unsynced.store(true, Relaxed);
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(&[Bytes::copy_from_slice(data)], offset)
    }
}

/// The open index. Readers do not wait for the writer, of whom there is one.
pub(in crate::outbox) struct Index {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Where it is copied to when its file is not to be relied on; `None`: nowhere.
    spare: Option<PathBuf>,
    syncs: Arc<AtomicBool>,
    /// A sync failed. What it was to write counts as written, is read back from memory, and will
    /// never reach the medium by itself (fsync on Linux).
    unsynced: Arc<AtomicBool>,
    database: RwLock<Option<Arc<Database>>>,
}

impl Index {
    /// The index of an outbox, not open yet. `syncs`: a transaction is on the medium when its commit
    /// returns.
    pub(super) fn closed(disk: &Arc<dyn Disk>, layout: &Layout, syncs: bool) -> Self {
        Self {
            disk: Arc::clone(disk),
            path: layout.index(),
            spare: Some(layout.copied_index()),
            syncs: Arc::new(AtomicBool::new(syncs)),
            unsynced: Arc::default(),
            database: RwLock::new(None),
        }
    }

    /// Makes an empty one at `path`, which is synced at each commit.
    pub(super) fn make(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, IndexError> {
        disk.create(path).map_err(redb::Error::Io)?;
        let index = Self {
            disk: Arc::clone(disk),
            path: path.to_path_buf(),
            spare: None,
            syncs: Arc::new(AtomicBool::new(true)),
            unsynced: Arc::default(),
            database: RwLock::new(None),
        };
        index.reopen()?;
        Ok(index)
    }

    /// From now on commits are synced, or not.
    pub(super) fn set_syncs(&self, syncs: bool) {
        self.syncs.store(syncs, Relaxed);
    }

    /// Opens the file anew, after an error: redb refuses everything after one.
    pub(super) fn reopen(&self) -> Result<(), IndexError> {
        let mut database = self.database.write();
        close(database.take());
        self.renew()?;
        let file = self.disk.open(&self.path, true).map_err(redb::Error::Io)?;
        let backend = Backend {
            file,
            syncs: Arc::clone(&self.syncs),
            unsynced: Arc::clone(&self.unsynced),
        };
        let opened = guarded(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES);
            Ok(builder.create_with_backend(backend)?)
        })?;
        *database = Some(Arc::new(opened));
        Ok(())
    }

    /// Closes the file. Reading and writing fail afterwards.
    ///
    /// # Errors
    /// When it cannot be relied on that everything is on the medium.
    pub(super) fn close(&self) -> Result<(), IndexError> {
        let mut database = self.database.write();
        close(database.take());
        self.renew()
    }

    /// After a sync that failed: writes everything once more, to another file, which takes the
    /// place of this one. Where there is no space for that it is written where it is.
    fn renew(&self) -> Result<(), IndexError> {
        if !self.unsynced.load(Relaxed) {
            return Ok(());
        }
        let Some(spare) = &self.spare else {
            return Err(IndexError::Io(io::Error::other("a sync failed")));
        };
        tracing::warn!(
            "a sync of {} failed: it is written anew",
            self.path.display()
        );
        let renewed = match self.move_to(spare) {
            Err(error) if is_full(&error) => {
                let _ = self.disk.remove(spare);
                let file = self.disk.open(&self.path, true);
                file.and_then(|file| copy(&*file, &*file))
            }
            moved => moved,
        };
        renewed.map_err(redb::Error::Io)?;
        self.unsynced.store(false, Relaxed);
        Ok(())
    }

    fn move_to(&self, spare: &Path) -> io::Result<()> {
        let from = self.disk.open(&self.path, false)?;
        match self.disk.remove(spare) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let to = self.disk.create(spare)?;
        copy(&*from, &*to)?;
        self.disk.rename(spare, &self.path)?;
        let folder = self.path.parent().unwrap_or_else(|| Path::new(""));
        self.disk.sync_folder(folder)
    }

    /// Whether it could not be opened again after an error.
    pub(super) fn is_closed(&self) -> bool {
        self.database.read().is_none()
    }

    fn database(&self) -> Result<Arc<Database>, IndexError> {
        let database = self.database.read();
        database
            .clone()
            .ok_or_else(|| IndexError::Io(io::Error::other("it is closed since an earlier error")))
    }

    /// Reads at one moment.
    pub(in crate::outbox) fn read<T>(
        &self,
        work: impl FnOnce(&View) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let database = self.database()?;
        guarded(|| {
            let view = View::new(&database.begin_read()?)?;
            work(&view)
        })
    }

    /// Changes all or nothing. After an error [`Index::reopen`] is needed, and what is there then
    /// says whether the change was made.
    pub(in crate::outbox) fn write<T>(
        &self,
        work: impl FnOnce(&mut Change<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let database = self.database()?;
        guarded(|| {
            let transaction = database.begin_write()?;
            let mut change = Change::open(&transaction)?;
            let done = work(&mut change)?;
            change.finish()?;
            transaction.commit()?;
            Ok(done)
        })
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        close(self.database.write().take());
    }
}

/// Writes and syncs all bytes of a file.
fn copy(from: &dyn DiskFile, to: &dyn DiskFile) -> io::Result<()> {
    let mut offset = 0;
    loop {
        let slice = read_slice(from, offset)?;
        if slice.is_empty() {
            return to.sync();
        }
        let length = slice.len() as u64;
        to.write_at(&[slice], offset)?;
        offset += length;
    }
}

/// Ends a database once its last reader has gone, so that the file can be opened again.
fn close(database: Option<Arc<Database>>) {
    let Some(mut database) = database else {
        return;
    };
    let _ = catch_unwind(AssertUnwindSafe(move || {
        loop {
            // Readers hold it for the time of a few pages.
            match Arc::try_unwrap(database) {
                Ok(last) => return drop(last),
                Err(shared) => database = shared,
            }
            std::thread::yield_now();
        }
    }));
}
