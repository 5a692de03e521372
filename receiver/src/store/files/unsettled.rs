//! Files that an earlier process may have placed without cataloguing them.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use shared::disk::Disk;

use super::location::image_of;
use super::{Location, ORPHANS, Root};
use crate::store::{Found, StoreError, Unsettled};

/// The folders that the journal named.
struct Folders {
    root: Arc<Root>,
    names: Vec<String>,
}

/// Those of a store; `None` when there are none.
pub(super) fn of(root: &Arc<Root>) -> Option<Arc<dyn Unsettled>> {
    let names = root.folders.unsettled();
    let root = Arc::clone(root);
    (!names.is_empty()).then(|| Arc::new(Folders { root, names }) as Arc<dyn Unsettled>)
}

/// Moves a file below `root` out of sight; the folder for such is there. It takes the place of none
/// that came from the same location before.
pub(super) fn set_aside(disk: &dyn Disk, root: &Path, location: &str) -> Result<(), StoreError> {
    let from = root.join(location);
    let name = location.replace('/', ".");
    let mut to = root.join(ORPHANS).join(&name);
    let mut number = 0_u64;
    while is_there(disk, &to)? {
        number += 1;
        to.set_file_name(format!("{name}.{number}"));
    }
    disk.rename(&from, &to)
        .map_err(|source| StoreError::io("moving", &from, source))
}

fn is_there(disk: &dyn Disk, path: &Path) -> Result<bool, StoreError> {
    let length = disk.length(path);
    let length = length.map_err(|source| StoreError::io("looking at", path, source))?;
    Ok(length.is_some())
}

impl Unsettled for Folders {
    fn files(&self, each: &mut dyn FnMut(Found) -> ControlFlow<()>) -> Result<(), StoreError> {
        for folder in &self.names {
            let path = self.root.path.join(folder);
            let reading = |source| StoreError::io("reading folder", &path, source);
            let entries = match self.root.disk.list(&path) {
                Ok(entries) => entries,
                // Its making was not on the medium when the power went.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(reading(error)),
            };
            for entry in entries {
                let entry = entry.map_err(reading)?;
                let Some(name) = entry.name.to_str().filter(|_| !entry.is_folder) else {
                    continue;
                };
                let Some(id) = image_of(name) else { continue };
                let location = format!("{folder}/{name}");
                if each(Found { id, location }).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn concerns(&self, location: &str) -> bool {
        let Ok(location) = Location::read(location) else {
            return false;
        };
        self.names.contains(&location.folder())
    }

    fn set_aside(&self, location: &str) -> Result<(), StoreError> {
        let location = Location::read(location)?;
        let text = location.text();
        self.root.folders.make(ORPHANS)?;
        set_aside(&*self.root.disk, &self.root.path, &text)
    }

    fn settled(&self) -> Result<(), StoreError> {
        self.root.folders.settle()
    }
}
