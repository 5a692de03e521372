//! Images as files under one folder.
//!
//! `incoming/` holds what is being written, `images/` and `quarantine/` what is complete, by the
//! UTC day of its arrival. All three lie in one file system, so that a complete image appears at
//! its place by one atomic rename.

mod folders;
mod writer;

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use shared::clock::UnixNanos;
use shared::image::ImageId;
use shared::receipt::Durability;

use crate::store::lock::DataLock;
use crate::store::{Area, ImageStore, ImageWriter, Placement, StoreError};
use folders::{Folders, sync_folder};
use writer::FileWriter;

const INCOMING: &str = "incoming";

impl Area {
    /// Name of its folder.
    fn folder(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Quarantine => "quarantine",
        }
    }
}

/// Keeps images as files; the only user of its folder.
#[derive(Debug)]
pub struct FileStore {
    root: Arc<Root>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    durability: Durability,
    folders: Folders,
    /// Tells uploads of the same image apart.
    uploads: AtomicU64,
    _lock: DataLock,
}

impl FileStore {
    /// Takes the folder `root`, which is made when it is not there, and removes what an earlier
    /// process left unfinished. [`Durability::Memory`] is taken as [`Durability::Written`].
    ///
    /// # Errors
    /// When another receiver works on the folder, or it cannot be made, read or written.
    pub fn open(root: &Path, durability: Durability) -> Result<Self, StoreError> {
        let lock = DataLock::acquire(root)?;
        let folders = Folders::new(durability == Durability::Synced);
        if let (Durability::Synced, Some(parent)) = (durability, root.parent()) {
            sync_folder(parent)?;
        }
        for name in [Area::Images.folder(), Area::Quarantine.folder(), INCOMING] {
            folders.ensure(&root.join(name))?;
        }
        let removed = clear(&root.join(INCOMING))?;
        if removed > 0 {
            tracing::info!(
                removed,
                "unfinished images of an earlier process were removed"
            );
        }
        let root = Root {
            path: root.to_path_buf(),
            durability,
            folders,
            uploads: AtomicU64::new(0),
            _lock: lock,
        };
        Ok(Self {
            root: Arc::new(root),
        })
    }
}

impl Root {
    /// A name in `incoming/` that no other upload has: the lock keeps other processes out, and the
    /// folder was empty when this one began.
    fn incoming(&self, name: impl std::fmt::Display) -> PathBuf {
        let upload = self.uploads.fetch_add(1, Ordering::Relaxed);
        self.path
            .join(INCOMING)
            .join(format!("{name}.{upload}.part"))
    }

    fn is_synced(&self) -> bool {
        self.durability == Durability::Synced
    }
}

#[async_trait]
impl ImageStore for FileStore {
    async fn create(&self, id: ImageId) -> Result<Box<dyn ImageWriter>, StoreError> {
        Ok(Box::new(FileWriter::new(Arc::clone(&self.root), id)))
    }

    async fn open(&self, location: &str) -> Result<Option<File>, StoreError> {
        let path = resolve(&self.root.path, location)?;
        blocking(move || match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::io("opening", &path, source)),
        })
        .await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let path = self.root.incoming("check");
        blocking(move || {
            let written = fs::write(&path, b"ready");
            let removed = fs::remove_file(&path);
            written
                .and(removed)
                .map_err(|source| StoreError::io("writing", &path, source))
        })
        .await
    }
}

/// The location of an image, relative to the store's folder.
fn locate(placement: &Placement) -> String {
    let Placement {
        id,
        area,
        extension,
        received,
    } = placement;
    format!("{}/{}/{id}.{extension}", area.folder(), day(*received))
}

/// The UTC day, for example `2026-01-02`.
fn day(time: UnixNanos) -> jiff::civil::Date {
    jiff::Timestamp::from_nanosecond(i128::from(time.0))
        .expect("64-bit nanoseconds lie between the years 1677 and 2262")
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
}

/// The path of a location, if it is one that [`locate`] can give: locations come from the
/// catalogue, and a damaged one must not reach outside.
fn resolve(root: &Path, location: &str) -> Result<PathBuf, StoreError> {
    let refused = || StoreError::Location {
        location: location.chars().take(128).collect(),
    };
    let mut parts = Vec::with_capacity(3);
    for component in Path::new(location).components() {
        match component {
            Component::Normal(part) if parts.len() < 3 => parts.push(part),
            _ => return Err(refused()),
        }
    }
    let known = [Area::Images, Area::Quarantine]
        .iter()
        .any(|area| parts.first().is_some_and(|first| *first == area.folder()));
    if parts.len() != 3 || !known || location.contains('\0') {
        return Err(refused());
    }
    Ok(parts
        .iter()
        .fold(root.to_path_buf(), |path, part| path.join(part)))
}

/// Removes all files in `folder` and tells their number.
fn clear(folder: &Path) -> Result<u64, StoreError> {
    let reading = |source| StoreError::io("reading folder", folder, source);
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        if !entry.file_type().map_err(reading)?.is_dir() {
            let path = entry.path();
            fs::remove_file(&path).map_err(|source| StoreError::io("removing", &path, source))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(StoreError::Io {
                action: "working on",
                path: PathBuf::from("the store"),
                source: io::Error::other(error),
            }),
        },
    }
}
