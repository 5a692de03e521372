//! A file system in memory that loses power.
//!
//! It keeps, beside what programs see, what has been synced, and every change since. A
//! [`SimDisk::crash`] keeps what was synced; of everything else each write may be there, not be
//! there, or be torn at any byte, and each name may be there or not, in any combination. A rename
//! is atomic: a file never loses both names. But where the folders of the two names are synced one
//! by one, the old name may come back beside the new one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Disk, DiskFile, Listed};
use change::Change;
use random::Random;

mod change;
mod random;

/// A file system in memory that loses power. Clones are the same file system.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Clone)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    synced_names: BTreeMap<PathBuf, Node>,
    /// Changes of names since their folders were synced, in order.
    pending_names: Vec<NameChange>,
    files: HashMap<u64, FileState>,
    next_file: u64,
    capacity: u64,
    /// Changes until the power goes; `None`: it stays.
    left: Option<u64>,
    changes: u64,
    /// Syncs until some fail, and how many do then.
    failing_syncs: (u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Folder,
    File(u64),
}

#[derive(Debug, Clone)]
struct NameChange {
    path: PathBuf,
    node: Option<Node>,
    /// It happens only if this name is there with the same file: the other half of a rename.
    only_with: Option<(PathBuf, Node)>,
}

#[derive(Debug, Clone, Default)]
struct FileState {
    content: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Change>,
}

fn no_power() -> io::Error {
    io::Error::other("the power is gone")
}

impl State {
    /// Every change asks first: when the power is gone, nothing happens any more.
    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match &mut self.left {
            Some(0) => Err(no_power()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn sync_fails(&mut self) -> io::Result<()> {
        let (good, bad) = &mut self.failing_syncs;
        if *good > 0 {
            *good -= 1;
        } else if *bad > 0 {
            *bad -= 1;
            return Err(io::Error::other("sync failed"));
        }
        Ok(())
    }

    fn powered(&self) -> io::Result<()> {
        match self.left {
            Some(0) => Err(no_power()),
            _ => Ok(()),
        }
    }

    /// Bytes of all files that have a name.
    fn used(&self) -> u64 {
        let named: BTreeSet<&Node> = self.names.values().collect();
        let files = self.files.iter();
        let files = files.filter(|(number, _)| named.contains(&Node::File(**number)));
        files.map(|(_, file)| file.content.len() as u64).sum()
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(file)) => Ok(*file),
            Some(Node::Folder) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn needs_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            None => Ok(()),
            Some(parent) if parent.as_os_str().is_empty() => Ok(()),
            Some(parent) if self.names.get(parent) == Some(&Node::Folder) => Ok(()),
            Some(_) => Err(ErrorKind::NotFound.into()),
        }
    }

    fn rename_to(&mut self, path: &Path, node: Option<Node>, only_with: Option<(PathBuf, Node)>) {
        match node {
            Some(node) => self.names.insert(path.to_path_buf(), node),
            None => self.names.remove(path),
        };
        self.pending_names.push(NameChange {
            path: path.to_path_buf(),
            node,
            only_with,
        });
    }

    /// Forgets files that no name leads to, neither now nor after a power loss.
    fn collect(&mut self) {
        let mut named: Vec<u64> = Vec::new();
        let nodes = self.names.values().chain(self.synced_names.values());
        let pending = self
            .pending_names
            .iter()
            .filter_map(|change| change.node.as_ref());
        for node in nodes.chain(pending) {
            if let Node::File(file) = node {
                named.push(*file);
            }
        }
        named.sort_unstable();
        self.files
            .retain(|file, _| named.binary_search(file).is_ok());
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &NameChange) {
    if let Some((other, node)) = &change.only_with
        && names.get(other) != Some(node)
    {
        return;
    }
    match change.node {
        Some(node) => names.insert(change.path.clone(), node),
        None => names.remove(&change.path),
    };
}

impl SimDisk {
    /// An empty file system with these folders, synced.
    pub fn new(folders: &[&Path]) -> Self {
        let names: BTreeMap<PathBuf, Node> = folders
            .iter()
            .map(|path| (path.to_path_buf(), Node::Folder))
            .collect();
        Self(Arc::new(Mutex::new(State {
            synced_names: names.clone(),
            names,
            pending_names: Vec::new(),
            files: HashMap::new(),
            next_file: 1,
            capacity: u64::MAX,
            left: None,
            changes: 0,
            failing_syncs: (0, 0),
        })))
    }

    /// The power goes after so many further changes: from then on every call fails.
    pub fn lose_power_after(&self, changes: u64) {
        self.0.lock().left = Some(changes);
    }

    /// Changes so far, to choose the moment of a power loss from.
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// Bytes that all files together may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity = bytes;
    }

    /// Bytes that all files together have.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// So many further syncs fail. Bytes that they were to bring to the medium never come there,
    /// though they are read until the power goes; names stay unsynced.
    pub fn fail_syncs(&self, number: u64) {
        self.fail_syncs_after(0, number);
    }

    /// The same, once so many more have succeeded.
    pub fn fail_syncs_after(&self, good: u64, number: u64) {
        self.0.lock().failing_syncs = (good, number);
    }

    /// Flips a bit of a file, as a bad medium would; whether there was one to flip.
    pub fn flip_bit(&self, path: &Path, byte: usize) -> bool {
        let mut state = self.0.lock();
        let Ok(file) = state.file(path) else {
            return false;
        };
        let Some(file) = state.files.get_mut(&file) else {
            return false;
        };
        for content in [&mut file.content, &mut file.synced] {
            if let Some(byte) = content.get_mut(byte) {
                *byte ^= 1;
            }
        }
        byte < file.content.len()
    }

    /// All files and folders, for whoever checks what is there.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// The bytes of a file, for whoever checks what is there.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let file = state.file(path).ok()?;
        state.files.get(&file).map(|file| file.content.clone())
    }

    /// What the death of the process leaves, as a file system of its own: everything, and what was
    /// not synced is not yet. Files that are open on this one stay with it.
    pub fn after_death(&self) -> Self {
        let mut state = self.0.lock().clone();
        state.left = None;
        Self(Arc::new(Mutex::new(state)))
    }

    /// What the power loss leaves, by the dice of `seed`, as a file system of its own. Files that
    /// are open on this one stay with it.
    pub fn crash(&self, seed: u64) -> Self {
        let state = self.0.lock();
        let mut random = Random(seed);
        let mut names = state.synced_names.clone();
        for change in &state.pending_names {
            if random.below(2) == 0 {
                apply(&mut names, change);
            }
        }
        // What lies in a folder that is not there is not there. A folder comes before what is in it.
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        names.retain(|path, node| {
            let there = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() && parent.parent().is_some() => {
                    folders.contains(parent)
                }
                _ => true,
            };
            if there && *node == Node::Folder {
                folders.insert(path.clone());
            }
            there
        });
        let mut numbers: Vec<u64> = state.files.keys().copied().collect();
        numbers.sort_unstable();
        let mut files = HashMap::new();
        for number in numbers {
            let Some(file) = state.files.get(&number) else {
                continue;
            };
            let mut content = file.synced.clone();
            let mut pending = file.pending.clone();
            while !pending.is_empty() {
                let change = pending.swap_remove(random.below(pending.len()));
                match random.below(3) {
                    0 => {}
                    1 => change.apply(&mut content),
                    _ => change.torn(&mut random).apply(&mut content),
                }
            }
            files.insert(
                number,
                FileState {
                    synced: content.clone(),
                    content,
                    pending: Vec::new(),
                },
            );
        }
        let mut left = State {
            synced_names: names.clone(),
            names,
            pending_names: Vec::new(),
            files,
            next_file: state.next_file,
            capacity: state.capacity,
            left: None,
            changes: 0,
            failing_syncs: (0, 0),
        };
        left.collect();
        Self(Arc::new(Mutex::new(left)))
    }

    fn handle(&self, file: u64, writable: bool) -> Box<dyn DiskFile> {
        Box::new(SimFile {
            disk: self.clone(),
            file,
            writable,
        })
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.change()?;
        state.needs_parent(path)?;
        if state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, FileState::default());
        state.rename_to(path, Some(Node::File(file)), None);
        drop(state);
        Ok(self.handle(file, true))
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<Box<dyn DiskFile>> {
        let state = self.0.lock();
        state.powered()?;
        let file = state.file(path)?;
        drop(state);
        Ok(self.handle(file, writable))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        state.needs_parent(to)?;
        let node = Node::File(state.file(from)?);
        if from != to {
            state.rename_to(to, Some(node), None);
            state.rename_to(from, None, Some((to.to_path_buf(), node)));
            state.collect();
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        state.needs_parent(to)?;
        if state.names.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let node = Node::File(state.file(from)?);
        state.rename_to(to, Some(node), None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        state.file(path)?;
        state.rename_to(path, None, None);
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        state.needs_parent(path)?;
        match state.names.get(path) {
            Some(Node::Folder) => Ok(()),
            Some(Node::File(_)) => Err(ErrorKind::AlreadyExists.into()),
            None => {
                state.rename_to(path, Some(Node::Folder), None);
                Ok(())
            }
        }
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        state.sync_fails()?;
        let pending = std::mem::take(&mut state.pending_names);
        let (here, elsewhere): (Vec<_>, Vec<_>) = pending
            .into_iter()
            .partition(|change| change.path.parent() == Some(path));
        state.pending_names = elsewhere;
        for mut change in here {
            // The new name of a file that was moved away is on its way to the medium by itself; a
            // file never loses both.
            if let Some((to, node)) = change.only_with.take()
                && state.synced_names.get(&to) != Some(&node)
            {
                let names = &mut state.synced_names;
                names.insert(to, node);
            }
            apply(&mut state.synced_names, &change);
        }
        state.collect();
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<Listed>> + '_>> {
        let state = self.0.lock();
        state.powered()?;
        if state.names.get(path) != Some(&Node::Folder) {
            return Err(ErrorKind::NotFound.into());
        }
        let listed: Vec<_> = state
            .names
            .iter()
            .filter(|(name, _)| name.parent() == Some(path))
            .filter_map(|(name, node)| {
                Some(Ok(Listed {
                    name: name.file_name()?.to_owned(),
                    is_folder: *node == Node::Folder,
                }))
            })
            .collect();
        Ok(Box::new(listed.into_iter()))
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        let state = self.0.lock();
        state.powered()?;
        match state.file(path) {
            Ok(file) => Ok(state.files.get(&file).map(|file| file.content.len() as u64)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn free(&self, _path: &Path) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
    writable: bool,
}

impl SimFile {
    fn alter(&self, change: impl FnOnce(&FileState) -> Vec<Change>) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.change()?;
        if !self.writable {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let (mut used, capacity) = (state.used(), state.capacity);
        // A file whose names are gone while it is open: its bytes matter to nobody.
        let Some(file) = state.files.get_mut(&self.file) else {
            return Ok(());
        };
        for change in change(file) {
            let before = file.content.len() as u64;
            let mut content = std::mem::take(&mut file.content);
            change.apply(&mut content);
            let grown = (content.len() as u64).saturating_sub(before);
            if grown > 0 && used + grown > capacity {
                content.truncate(usize::try_from(before).unwrap_or(0));
                file.content = content;
                return Err(ErrorKind::StorageFull.into());
            }
            used += grown;
            file.content = content;
            file.pending.push(change);
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.0.lock();
        state.powered()?;
        let Some(file) = state.files.get(&self.file) else {
            return Ok(0);
        };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(rest) = file.content.get(offset..) else {
            return Ok(0);
        };
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, pieces: &[Bytes], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.alter(|_| {
            let mut at = offset;
            pieces
                .iter()
                .filter(|piece| !piece.is_empty())
                .map(|piece| {
                    let change = Change::Data {
                        offset: at,
                        bytes: piece.clone(),
                    };
                    at += piece.len();
                    change
                })
                .collect()
        })
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.0.lock();
        state.powered()?;
        let file = state.files.get(&self.file);
        Ok(file.map_or(0, |file| file.content.len() as u64))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.alter(|_| vec![Change::Length(length)])
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.change()?;
        let failed = state.sync_fails();
        if let Some(file) = state.files.get_mut(&self.file) {
            for change in std::mem::take(&mut file.pending) {
                // As Linux does: what could not be written counts as written from then on, is read
                // by everybody, and never reaches the medium.
                if failed.is_ok() {
                    change.apply(&mut file.synced);
                }
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/data";

    fn disk() -> SimDisk {
        SimDisk::new(&[Path::new(ROOT)])
    }

    fn path(name: &str) -> PathBuf {
        Path::new(ROOT).join(name)
    }

    /// How often something holds after a thousand power losses.
    fn how_often(disk: &SimDisk, holds: impl Fn(&SimDisk) -> bool) -> usize {
        (0..1_000).filter(|seed| holds(&disk.crash(*seed))).count()
    }

    #[test]
    fn what_was_synced_stays_and_nothing_else_is_sure() {
        let disk = disk();
        let file = disk.create(&path("a")).expect("new");
        file.write_at(&[Bytes::from_static(b"first ")], 0)
            .expect("space");
        file.sync().expect("power");
        file.write_at(&[Bytes::from_static(b"second")], 6)
            .expect("space");
        // The bytes are synced, the name is not.
        let there = how_often(&disk, |left| left.content(&path("a")).is_some());
        assert!((1..1_000).contains(&there), "{there}");
        disk.sync_folder(Path::new(ROOT)).expect("power");
        let first = how_often(&disk, |left| {
            left.content(&path("a"))
                .is_some_and(|content| content.starts_with(b"first "))
        });
        assert_eq!(first, 1_000);
        let whole = how_often(&disk, |left| {
            left.content(&path("a")).as_deref() == Some(b"first second")
        });
        assert!((1..1_000).contains(&whole), "{whole}");
        let torn = how_often(&disk, |left| {
            let content = left.content(&path("a")).expect("it is there");
            content != b"first second" && content != b"first "
        });
        assert!(torn > 0);
    }

    #[test]
    fn what_a_sync_failed_to_write_never_comes_to_the_medium() {
        let disk = disk();
        let file = disk.create(&path("a")).expect("new");
        disk.sync_folder(Path::new(ROOT)).expect("power");
        file.write_at(&[Bytes::from_static(b"lost")], 0)
            .expect("space");
        disk.fail_syncs(1);
        assert!(file.sync().is_err());
        file.write_at(&[Bytes::from_static(b"kept")], 4)
            .expect("space");
        file.sync().expect("the next one works");
        assert_eq!(disk.content(&path("a")).as_deref(), Some(&b"lostkept"[..]));
        let left = disk.crash(1).content(&path("a"));
        assert_eq!(left.as_deref(), Some(&b"\0\0\0\0kept"[..]));
    }

    #[test]
    fn a_file_that_is_renamed_keeps_a_name() {
        let disk = SimDisk::new(&[Path::new("/a"), Path::new("/b")]);
        let (from, to) = (Path::new("/a/x"), Path::new("/b/y"));
        disk.create(from).expect("new");
        disk.sync_folder(Path::new("/a")).expect("power");
        disk.rename(from, to).expect("power");
        let both = |left: &SimDisk| (left.content(from).is_some(), left.content(to).is_some());
        assert_eq!(how_often(&disk, |left| both(left) == (false, false)), 0);
        for seen in [(true, false), (true, true), (false, true)] {
            assert!(how_often(&disk, |left| both(left) == seen) > 0, "{seen:?}");
        }
        disk.sync_folder(Path::new("/b")).expect("power");
        assert_eq!(how_often(&disk, |left| both(left).1), 1_000);
    }

    #[test]
    fn without_power_or_space_nothing_is_written() {
        let disk = disk();
        disk.set_capacity(10);
        let file = disk.create(&path("a")).expect("new");
        file.write_at(&[Bytes::from_static(b"12345678")], 0)
            .expect("space");
        let error = file
            .write_at(&[Bytes::from_static(b"90ab")], 8)
            .expect_err("2 bytes are left");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(disk.content(&path("a")).as_deref(), Some(&b"12345678"[..]));
        disk.lose_power_after(1);
        file.sync().expect("the last thing that happens");
        assert!(file.sync().is_err() && disk.open(&path("a"), false).is_err());
    }
}
