//! Folders that are made when the first image of a day comes.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use shared::disk::Disk;

use super::Location;
use super::group::GroupSync;
use super::location::is_folder;
use crate::store::StoreError;

/// Lists the folders into which images were moved since files and catalogue were last known to
/// agree. It is there while a receiver runs, and after one that did not stop in order.
pub(super) const JOURNAL: &str = "receiver.open";

/// A folder into which nothing was moved for this long has nothing under way.
const SETTLED: Duration = Duration::from_secs(600);

/// Folders that are taken from a journal at most, and bytes of it: more were never written.
const MAX_FOLDERS: usize = 10_000;
const MAX_JOURNAL: u64 = 1 << 20;

/// Makes folders, and knows which are there for good.
#[derive(Debug)]
pub(super) struct Folders {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    synced: bool,
    /// Held while a folder is made, because an image must not be receipted before another image's
    /// new folder is on the medium. No await happens under it, only rare and short file-system
    /// calls on blocking threads.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Folders whose entry in their parent is durable, by their names below the root.
    folders: HashMap<String, Folder>,
    /// Folders that an earlier process left unsettled.
    unsettled: Vec<String>,
}

#[derive(Debug)]
struct Folder {
    used: Instant,
    group: Arc<GroupSync>,
}

impl Folders {
    /// With `synced`, new folders are synced into their parents.
    pub(super) fn new(disk: Arc<dyn Disk>, root: &Path, synced: bool) -> Self {
        Self {
            disk,
            root: root.to_path_buf(),
            synced,
            known: Mutex::default(),
        }
    }

    /// Makes a folder of the root.
    pub(super) fn make(&self, name: &str) -> Result<(), StoreError> {
        self.create(&self.root.join(name))
    }

    fn create(&self, folder: &Path) -> Result<(), StoreError> {
        self.disk
            .create_folder(folder)
            .map_err(|source| StoreError::io("making folder", folder, source))?;
        // Also when it was there already: the process that made it may have died before this.
        match folder.parent() {
            Some(parent) if self.synced => self.sync(parent),
            _ => Ok(()),
        }
    }

    fn sync(&self, folder: &Path) -> Result<(), StoreError> {
        self.disk
            .sync_folder(folder)
            .map_err(|source| StoreError::io("syncing folder", folder, source))
    }

    /// Makes the folder of a location unless it is there; what syncs it.
    pub(super) fn ensure(&self, location: &Location) -> Result<Arc<GroupSync>, StoreError> {
        let name = location.folder();
        let mut known = self.known.lock();
        if let Some(folder) = known.folders.get_mut(&name) {
            folder.used = Instant::now();
            return Ok(Arc::clone(&folder.group));
        }
        let path = self.root.join(&name);
        self.create(&path)?;
        // One that is struck off the journal is forgotten, so that it is listed when it is used
        // again.
        known
            .folders
            .retain(|_, folder| folder.used.elapsed() < SETTLED);
        let mut listed = known.unsettled.clone();
        listed.extend(known.folders.keys().cloned());
        listed.push(name.clone());
        // Before the first image is moved into it.
        self.write_journal(listed)?;
        let group = GroupSync::new(Arc::clone(&self.disk), path);
        let folder = Folder {
            used: Instant::now(),
            group: Arc::clone(&group),
        };
        known.folders.insert(name, folder);
        Ok(group)
    }

    /// Forgets a folder, because somebody removed it.
    pub(super) fn forget(&self, location: &Location) {
        self.known.lock().folders.remove(&location.folder());
    }

    /// Reads what an earlier process left, and says that this one runs.
    pub(super) fn begin(&self) -> Result<(), StoreError> {
        let path = self.root.join(JOURNAL);
        let mut known = self.known.lock();
        known.unsettled = match self.disk.open(&path, false) {
            Ok(file) => {
                let read = |source| StoreError::io("reading", &path, source);
                let length = file.len().map_err(read)?.min(MAX_JOURNAL);
                let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
                file.read_exact_at(&mut bytes, 0).map_err(read)?;
                parse(&bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(StoreError::io("opening", &path, source)),
        };
        let listed = known.unsettled.clone();
        self.write_journal(listed)
    }

    /// Folders in which files and catalogue may disagree.
    pub(super) fn unsettled(&self) -> Vec<String> {
        self.known.lock().unsettled.clone()
    }

    /// Files and catalogue agree in what was left unsettled.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let mut known = self.known.lock();
        if std::mem::take(&mut known.unsettled).is_empty() {
            return Ok(());
        }
        let listed = known.folders.keys().cloned().collect();
        self.write_journal(listed)
    }

    /// Nothing is under way any more: the next process has nothing to look for. Not if something
    /// is unsettled yet.
    pub(super) fn end(&self) -> Result<(), StoreError> {
        let known = self.known.lock();
        if !known.unsettled.is_empty() {
            return Ok(());
        }
        let path = self.root.join(JOURNAL);
        match self.disk.remove(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(StoreError::io("removing", &path, source)),
        }
        if self.synced {
            self.sync(&self.root)?;
        }
        Ok(())
    }

    fn write_journal(&self, mut listed: Vec<String>) -> Result<(), StoreError> {
        listed.sort();
        listed.dedup();
        let path = self.root.join(JOURNAL);
        let fresh = self.root.join(format!("{JOURNAL}.new"));
        let writing = |source| StoreError::io("writing", &fresh, source);
        let mut text: String = listed.iter().map(|name| format!("{name}\n")).collect();
        text.push_str("end\n");
        match self.disk.remove(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(writing(error)),
            _ => {}
        }
        let file = self.disk.create(&fresh).map_err(writing)?;
        file.write_at(&[Bytes::from(text)], 0).map_err(writing)?;
        if self.synced {
            file.sync().map_err(writing)?;
        }
        self.disk.rename(&fresh, &path).map_err(writing)?;
        if self.synced {
            self.sync(&self.root)?;
        }
        Ok(())
    }
}

/// The folders that a journal names. A name that this program does not give is passed over.
fn parse(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes)
        .lines()
        .filter(|line| is_folder(line))
        .take(MAX_FOLDERS)
        .map(str::to_owned)
        .collect()
}
