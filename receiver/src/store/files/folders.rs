//! Folders that are made when the first image of a day comes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::store::StoreError;

/// Makes folders, and knows which are there for good.
#[derive(Debug)]
pub(super) struct Folders {
    synced: bool,
    /// Folders whose entry in their parent is durable. Held while one is made, because an image
    /// must not be receipted before another image's new folder is on the medium. No await happens
    /// under it, only rare and short file-system calls on blocking threads.
    known: Mutex<HashSet<PathBuf>>,
}

impl Folders {
    /// With `synced`, new folders are synced into their parents.
    pub(super) fn new(synced: bool) -> Self {
        Self {
            synced,
            known: Mutex::default(),
        }
    }

    /// Makes `folder` unless it is there. Its parent must be there.
    pub(super) fn ensure(&self, folder: &Path) -> Result<(), StoreError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(folder) {
            return Ok(());
        }
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(StoreError::io("making folder", folder, source)),
        }
        // Also when it was there already: the process that made it may have died before this.
        if let (true, Some(parent)) = (self.synced, folder.parent()) {
            sync_folder(parent)?;
        }
        known.insert(folder.to_path_buf());
        Ok(())
    }

    /// Forgets `folder`, because somebody removed it.
    pub(super) fn forget(&self, folder: &Path) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(folder);
    }
}

/// Brings the entries of `folder` to the medium.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    // The parent of a relative path of one component is the empty path.
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(|source| StoreError::io("syncing folder", folder, source))
}
