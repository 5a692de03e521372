//! Images as files under one folder.
//!
//! `incoming/` holds what is being written, `images/` and `quarantine/` what is complete, by the
//! UTC day of its arrival. All lie in one file system, so that a complete image appears at its
//! place by one atomic rename. `orphans/` has files that no receipt was given for, because their
//! receiver died between placing and cataloguing them.

mod batch;
mod folders;
mod group;
mod location;
mod part;
mod partial;
mod sidecar;
mod space;
pub mod survey;
mod unsettled;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use shared::disk::{Disk, OsDisk};
use shared::image::ImageId;
use shared::receipt::Durability;

use crate::store::lock::DataLock;
use crate::store::{About, Area, ImageStore, ImageWriter, Partial, Room, StoreError, Unsettled};
use folders::Folders;
pub use location::Location;
use partial::FilePartial;
use space::Space;
use writer::FileWriter;

pub(crate) const INCOMING: &str = "incoming";
pub(crate) const ORPHANS: &str = "orphans";

/// Keeps images as files; the only user of its folder.
#[derive(Debug)]
pub struct FileStore {
    root: Arc<Root>,
    partials: Mutex<Vec<FilePartial>>,
}

#[derive(Debug)]
struct Root {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    durability: Durability,
    folders: Folders,
    space: Space,
    /// Tells uploads of the same image apart.
    uploads: AtomicU64,
    _lock: Option<DataLock>,
}

impl FileStore {
    /// Takes the folder `root`, which is made when it is not there, and finds what an earlier
    /// process left unfinished. No image begins while fewer than `min_free` bytes are free.
    /// [`Durability::Memory`] is taken as [`Durability::Written`].
    ///
    /// # Errors
    /// When another receiver works on the folder, or it cannot be made, read or written.
    pub fn open(root: &Path, durability: Durability, min_free: u64) -> Result<Self, StoreError> {
        let lock = DataLock::acquire(root)?;
        if let (Durability::Synced, Some(parent)) = (durability, root.parent()) {
            OsDisk
                .sync_folder(parent)
                .map_err(|source| StoreError::io("syncing folder", parent, source))?;
        }
        Self::on(Arc::new(OsDisk), root, durability, min_free, Some(lock))
    }

    /// The same on a file system of the caller's, who sees to it that nobody else uses the folder,
    /// which is there.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn on(
        disk: Arc<dyn Disk>,
        root: &Path,
        durability: Durability,
        min_free: u64,
        lock: Option<DataLock>,
    ) -> Result<Self, StoreError> {
        let folders = Folders::new(Arc::clone(&disk), root, durability == Durability::Synced);
        for name in [Area::Images.folder(), Area::Quarantine.folder(), INCOMING] {
            folders.make(name)?;
        }
        let incoming = root.join(INCOMING);
        let (found, next) = partial::find(&*disk, &incoming)?;
        folders.begin()?;
        let trial = incoming.join("trial");
        let space = Space::new(Arc::clone(&disk), root.to_path_buf(), trial, min_free);
        let root = Arc::new(Root {
            disk,
            path: root.to_path_buf(),
            durability,
            folders,
            space,
            uploads: AtomicU64::new(next),
            _lock: lock,
        });
        let partials = found
            .into_iter()
            .map(|found| FilePartial::new(Arc::clone(&root), found))
            .collect();
        Ok(Self {
            root,
            partials: Mutex::new(partials),
        })
    }
}

impl Root {
    /// The beginning of names in `incoming/` that no other upload has: the lock keeps other
    /// processes out, and counting goes on where what was found there ends.
    fn stem(&self, id: ImageId) -> String {
        format!("{id}.{}", self.next_number())
    }

    fn next_number(&self) -> u64 {
        self.uploads.fetch_add(1, Ordering::Relaxed)
    }

    fn incoming(&self, name: &str) -> PathBuf {
        self.path.join(INCOMING).join(name)
    }

    fn is_synced(&self) -> bool {
        self.durability == Durability::Synced
    }

    /// Takes note if the error is for want of space.
    fn noting(&self, error: StoreError) -> StoreError {
        if error.is_full() {
            self.space.found_full();
        }
        error
    }

    fn noting_space<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.map_err(|error| self.noting(error))
    }
}

#[async_trait]
impl ImageStore for FileStore {
    async fn create(&self, about: About) -> Result<Box<dyn ImageWriter>, StoreError> {
        Ok(Box::new(FileWriter::new(Arc::clone(&self.root), about)))
    }

    async fn open(&self, location: &str) -> Result<Option<File>, StoreError> {
        let path = self.root.path.join(Location::read(location)?.text());
        let disk = Arc::clone(&self.root.disk);
        blocking(move || {
            let opened = match disk.open(&path, false) {
                Ok(file) => file.as_os().map(File::try_clone).transpose(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            };
            opened.map_err(|source| StoreError::io("opening", &path, source))
        })
        .await
    }

    async fn size(&self, location: &str) -> Result<Option<u64>, StoreError> {
        let path = self.root.path.join(Location::read(location)?.text());
        let disk = Arc::clone(&self.root.disk);
        blocking(move || {
            disk.length(&path)
                .map_err(|source| StoreError::io("looking at", &path, source))
        })
        .await
    }

    async fn discard(&self, location: &str) -> Result<(), StoreError> {
        let path = self.root.path.join(Location::read(location)?.text());
        let disk = Arc::clone(&self.root.disk);
        blocking(move || match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("removing", &path, error))
            }
            _ => Ok(()),
        })
        .await
    }

    fn partials(&self) -> Vec<Box<dyn Partial>> {
        let found = std::mem::take(&mut *self.partials.lock());
        found
            .into_iter()
            .map(|partial| Box::new(partial) as Box<dyn Partial>)
            .collect()
    }

    fn found_full(&self) {
        self.root.space.found_full();
    }

    fn room(&self) -> Result<(), StoreError> {
        self.root.space.room()
    }

    async fn look_for_room(&self) -> Option<Room> {
        let root = Arc::clone(&self.root);
        let looked = blocking(move || {
            root.space.look();
            Ok(root.space.figures())
        });
        looked.await.ok()
    }

    fn unsettled(&self) -> Option<Arc<dyn Unsettled>> {
        unsettled::of(&self.root)
    }

    async fn close(&self) -> Result<(), StoreError> {
        let root = Arc::clone(&self.root);
        blocking(move || root.folders.end()).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.room()?;
        let path = self
            .root
            .incoming(&format!("check.{}", self.root.next_number()));
        let disk = Arc::clone(&self.root.disk);
        let checked = blocking(move || {
            let written = disk
                .create(&path)
                .and_then(|file| file.write_at(&[Bytes::from_static(b"ready")], 0));
            let removed = disk.remove(&path);
            written
                .and(removed)
                .map_err(|source| StoreError::io("writing", &path, source))
        });
        self.root.noting_space(checked.await)
    }
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
