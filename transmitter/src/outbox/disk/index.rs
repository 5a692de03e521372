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
    /// A later version of the program wrote it.
    #[error("the index is of format {0}; use the program that wrote it")]
    Newer(u32),
}

impl IndexError {
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Full(error) | Self::Io(error) => error.kind(),
            Self::Damaged(_) | Self::Newer(_) => io::ErrorKind::InvalidData,
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
            Self::Damaged(_) | Self::Newer(_) => {
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
        if self.syncs.load(Relaxed) {
            self.file.sync()
        } else {
            Ok(())
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(&[Bytes::copy_from_slice(data)], offset)
    }
}

/// The open index. Readers do not wait for the writer, of whom there is one.
pub(in crate::outbox) struct Index {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    syncs: Arc<AtomicBool>,
    database: RwLock<Option<Arc<Database>>>,
}

impl Index {
    /// Opens the index at `path`, or makes an empty one. `syncs`: a transaction is on the medium
    /// when its commit returns.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        syncs: bool,
        make: bool,
    ) -> Result<Self, IndexError> {
        let index = Self {
            disk: Arc::clone(disk),
            path: path.to_path_buf(),
            syncs: Arc::new(AtomicBool::new(syncs)),
            database: RwLock::new(None),
        };
        if make {
            disk.create(path).map_err(redb::Error::Io)?;
        }
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
        let file = self.disk.open(&self.path, true).map_err(redb::Error::Io)?;
        let backend = Backend {
            file,
            syncs: Arc::clone(&self.syncs),
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
    pub(super) fn close(&self) {
        let mut database = self.database.write();
        close(database.take());
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
        self.close();
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
