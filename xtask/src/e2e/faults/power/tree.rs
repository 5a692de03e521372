//! A file system in memory that knows what of it is on the medium.
//!
//! A file's bytes and length are on the medium once the file was synced, a name once its folder
//! was. [`Tree::cut`] takes the power away: what was synced stays, of everything else any part may
//! be there, bytes torn anywhere. A rename is atomic: a file that had a name does not lose both.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::time::SystemTime;

use fastrand::Rng;
use fuser::Errno;

/// The root folder.
pub(super) const ROOT: u64 = 1;
/// What is written to a medium in one go.
const SECTOR: usize = 512;

pub(crate) struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
    capacity: u64,
    used: u64,
    /// Renames of which the old name may still be on the medium.
    renames: Vec<Rename>,
}

pub(super) enum Node {
    Folder(Folder),
    File(File),
}

#[derive(Default)]
pub(super) struct Folder {
    names: BTreeMap<OsString, u64>,
    synced: BTreeMap<OsString, u64>,
}

pub(super) struct File {
    content: Vec<u8>,
    synced: Vec<u8>,
    /// Where the two may differ, their lengths apart.
    dirty: Option<Range<usize>>,
    pub(super) modified: SystemTime,
    pub(super) links: u32,
}

struct Rename {
    node: u64,
    from: (u64, OsString),
    to: (u64, OsString),
}

/// What is said of a node.
pub(super) struct Facts {
    pub(super) is_folder: bool,
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) modified: SystemTime,
}

impl Tree {
    /// An empty one that takes `capacity` bytes.
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::Folder(Folder::default()))]),
            next: ROOT + 1,
            capacity,
            used: 0,
            renames: Vec::new(),
        }
    }

    /// From now on so many bytes can still be written.
    pub(crate) fn leave_free(&mut self, bytes: u64) {
        self.capacity = self.used + bytes;
    }

    /// From now on it takes so many bytes in all.
    pub(crate) fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    pub(super) fn space(&self) -> (u64, u64) {
        (self.capacity, self.capacity.saturating_sub(self.used))
    }

    pub(super) fn facts(&self, node: u64) -> Result<Facts, Errno> {
        match self.nodes.get(&node).ok_or(Errno::ENOENT)? {
            Node::Folder(_) => Ok(Facts {
                is_folder: true,
                size: 0,
                links: 2,
                modified: SystemTime::UNIX_EPOCH,
            }),
            Node::File(file) => Ok(Facts {
                is_folder: false,
                size: file.content.len() as u64,
                links: file.links,
                modified: file.modified,
            }),
        }
    }

    pub(super) fn find(&self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        let found = self.folder(folder)?.names.get(name).copied();
        found.ok_or(Errno::ENOENT)
    }

    pub(super) fn names(&self, folder: u64) -> Result<Vec<(u64, OsString)>, Errno> {
        let names = self.folder(folder)?.names.iter();
        Ok(names.map(|(name, node)| (*node, name.clone())).collect())
    }

    pub(super) fn make_folder(&mut self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.add(parent, name, Node::Folder(Folder::default()))
    }

    pub(super) fn make_file(&mut self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        let file = File {
            content: Vec::new(),
            synced: Vec::new(),
            dirty: None,
            modified: SystemTime::now(),
            links: 1,
        };
        self.add(parent, name, Node::File(file))
    }

    fn add(&mut self, parent: u64, name: &OsStr, node: Node) -> Result<u64, Errno> {
        let id = self.next;
        let names = &mut self.folder_mut(parent)?.names;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.to_owned(), id);
        self.nodes.insert(id, node);
        self.next += 1;
        Ok(id)
    }

    pub(super) fn link(&mut self, node: u64, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let names = &mut self.folder_mut(parent)?.names;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.to_owned(), node);
        self.file_mut(node)?.links += 1;
        Ok(())
    }

    pub(super) fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let node = self.find(parent, name)?;
        if let Node::Folder(folder) = self.node(node)?
            && !folder.names.is_empty()
        {
            return Err(Errno::ENOTEMPTY);
        }
        self.folder_mut(parent)?.names.remove(name);
        self.unlink(node);
        Ok(())
    }

    /// One name less. Open files keep their bytes, which take no space any more.
    fn unlink(&mut self, node: u64) {
        if let Some(Node::File(file)) = self.nodes.get_mut(&node) {
            file.links -= 1;
            if file.links == 0 {
                self.used = self.used.saturating_sub(file.content.len() as u64);
            }
        }
    }

    pub(super) fn rename(
        &mut self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        must_be_new: bool,
    ) -> Result<(), Errno> {
        let node = self.find(from.0, from.1)?;
        if let Ok(there) = self.find(to.0, to.1) {
            if must_be_new {
                return Err(Errno::EEXIST);
            }
            if there == node {
                return Ok(());
            }
            self.remove(to.0, to.1)?;
        }
        self.folder_mut(from.0)?.names.remove(from.1);
        self.folder_mut(to.0)?.names.insert(to.1.to_owned(), node);
        self.renames.push(Rename {
            node,
            from: (from.0, from.1.to_owned()),
            to: (to.0, to.1.to_owned()),
        });
        Ok(())
    }

    pub(super) fn read(&self, node: u64, offset: u64, size: u32) -> Result<&[u8], Errno> {
        let content = &self.file(node)?.content;
        let start = usize::try_from(offset).map_or(content.len(), |at| at.min(content.len()));
        let end = start.saturating_add(size as usize).min(content.len());
        Ok(&content[start..end])
    }

    pub(super) fn write(&mut self, node: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let end = start.checked_add(data.len()).ok_or(Errno::EFBIG)?;
        let length = self.file(node)?.content.len();
        if end > length {
            self.resize(node, end)?;
        }
        let file = self.file_mut(node)?;
        file.content[start..end].copy_from_slice(data);
        // Between the old end and the new bytes are zeros that are not on the medium either.
        file.touch(start.min(length)..end);
        Ok(())
    }

    pub(super) fn set_length(&mut self, node: u64, length: u64) -> Result<(), Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::EFBIG)?;
        let before = self.file(node)?.content.len();
        self.resize(node, length)?;
        if length > before {
            self.file_mut(node)?.touch(before..length);
        } else {
            self.file_mut(node)?.touch(length..length);
        }
        Ok(())
    }

    fn resize(&mut self, node: u64, length: usize) -> Result<(), Errno> {
        let (capacity, used) = (self.capacity, self.used);
        let file = self.file_mut(node)?;
        let before = file.content.len() as u64;
        let grown = (length as u64).saturating_sub(before);
        let counts = file.links > 0;
        if counts && grown > capacity.saturating_sub(used) {
            return Err(Errno::ENOSPC);
        }
        file.content.resize(length, 0);
        if counts {
            self.used = (used + length as u64).saturating_sub(before);
        }
        Ok(())
    }

    pub(super) fn set_modified(&mut self, node: u64, time: SystemTime) -> Result<(), Errno> {
        if let Node::File(file) = self.nodes.get_mut(&node).ok_or(Errno::ENOENT)? {
            file.modified = time;
        }
        Ok(())
    }

    /// Brings bytes and length of a file to the medium.
    pub(super) fn sync_file(&mut self, node: u64) -> Result<(), Errno> {
        let file = self.file_mut(node)?;
        file.synced.resize(file.content.len(), 0);
        if let Some(dirty) = file.dirty.take() {
            let dirty = dirty.start.min(file.content.len())..dirty.end.min(file.content.len());
            file.synced[dirty.clone()].copy_from_slice(&file.content[dirty]);
        }
        Ok(())
    }

    /// Brings the names in a folder to the medium. What was moved out of it is there under its new
    /// name then, as journals have it.
    pub(super) fn sync_folder(&mut self, node: u64) -> Result<(), Errno> {
        let folder = self.folder_mut(node)?;
        folder.synced = folder.names.clone();
        let (settled, open) = std::mem::take(&mut self.renames)
            .into_iter()
            .partition::<Vec<_>, _>(|rename| rename.from.0 == node);
        self.renames = open;
        for Rename { node, to, .. } in settled {
            if let Ok(folder) = self.folder_mut(to.0)
                && folder.names.get(&to.1) == Some(&node)
            {
                folder.synced.insert(to.1, node);
            }
        }
        Ok(())
    }

    /// The power goes: what is left on the medium.
    pub(crate) fn cut(self, random: &mut Rng) -> Self {
        let Self {
            mut nodes,
            next,
            capacity,
            mut renames,
            ..
        } = self;
        renames.retain(|Rename { node, from, .. }| match nodes.get(&from.0) {
            Some(Node::Folder(folder)) => folder.synced.get(&from.1) == Some(node),
            _ => false,
        });
        // Mostly nothing lasts that was not synced, now and then a part of it or all.
        let chance = *random.choice(&[0.0, 0.0, 0.5, 1.0]).unwrap_or(&0.0);
        let mut left: HashMap<u64, Node> = HashMap::new();
        let mut ids: Vec<u64> = nodes.keys().copied().collect();
        // The order of a map is another each time; that of a seed must not be.
        ids.sort_unstable();
        for id in ids {
            let node = match nodes.remove(&id) {
                Some(Node::Folder(folder)) => Node::Folder(folder.cut(chance, random)),
                Some(Node::File(file)) => Node::File(file.cut(chance, random)),
                None => continue,
            };
            left.insert(id, node);
        }
        keep_renamed(&mut left, renames);
        let mut tree = Self {
            nodes: HashMap::new(),
            next,
            capacity,
            used: 0,
            renames: Vec::new(),
        };
        tree.adopt(&mut left);
        tree
    }

    /// Takes what can be reached from the root, and counts it.
    fn adopt(&mut self, left: &mut HashMap<u64, Node>) {
        let mut waiting = vec![ROOT];
        let mut seen = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            if !seen.insert(id) {
                if let Some(Node::File(file)) = self.nodes.get_mut(&id) {
                    file.links += 1;
                }
                continue;
            }
            let Some(mut node) = left.remove(&id) else {
                continue;
            };
            match &mut node {
                Node::Folder(folder) => waiting.extend(folder.names.values().copied()),
                Node::File(file) => {
                    file.links = 1;
                    self.used += file.content.len() as u64;
                }
            }
            self.nodes.insert(id, node);
        }
    }

    fn node(&self, node: u64) -> Result<&Node, Errno> {
        self.nodes.get(&node).ok_or(Errno::ENOENT)
    }

    fn folder(&self, node: u64) -> Result<&Folder, Errno> {
        match self.node(node)? {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn folder_mut(&mut self, node: u64) -> Result<&mut Folder, Errno> {
        match self.nodes.get_mut(&node).ok_or(Errno::ENOENT)? {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn file(&self, node: u64) -> Result<&File, Errno> {
        match self.node(node)? {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(Errno::EISDIR),
        }
    }

    fn file_mut(&mut self, node: u64) -> Result<&mut File, Errno> {
        match self.nodes.get_mut(&node).ok_or(Errno::ENOENT)? {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(Errno::EISDIR),
        }
    }
}

impl Folder {
    /// Each name that is not on the medium, or is gone and still on it, lasts with `chance`.
    fn cut(self, chance: f64, random: &mut Rng) -> Self {
        let Self { names, synced } = self;
        let mut left = synced.clone();
        let changed: BTreeSet<&OsString> = names.keys().chain(synced.keys()).collect();
        for name in changed {
            if names.get(name) == synced.get(name) || random.f64() >= chance {
                continue;
            }
            match names.get(name) {
                Some(node) => left.insert(name.clone(), *node),
                None => left.remove(name),
            };
        }
        Self {
            names: left.clone(),
            synced: left,
        }
    }
}

impl File {
    fn touch(&mut self, range: Range<usize>) {
        self.modified = SystemTime::now();
        self.dirty = Some(match self.dirty.take() {
            Some(dirty) => dirty.start.min(range.start)..dirty.end.max(range.end),
            None => range,
        });
    }

    /// Each sector that is not on the medium lasts with `chance`, one of them in part; the length
    /// does too.
    fn cut(self, chance: f64, random: &mut Rng) -> Self {
        let Self {
            content,
            synced,
            dirty,
            modified,
            ..
        } = self;
        let mut left = synced;
        if content.len() != left.len() && random.f64() < chance {
            left.resize(content.len(), 0);
        }
        if let Some(dirty) = dirty {
            let end = dirty.end.min(left.len()).min(content.len());
            let torn = random.usize(dirty.start..=dirty.end.max(dirty.start));
            let mut at = dirty.start;
            while at < end {
                let mut until = ((at / SECTOR + 1) * SECTOR).min(end);
                let next = until;
                if (at..until).contains(&torn) {
                    until = torn;
                }
                if random.f64() < chance {
                    left[at..until].copy_from_slice(&content[at..until]);
                }
                at = next;
            }
        }
        Self {
            content: left.clone(),
            synced: left,
            dirty: None,
            modified,
            links: 0,
        }
    }
}

/// A file whose old name was on the medium and went, and whose new one did not come, has the new
/// one: the two changes are one.
fn keep_renamed(left: &mut HashMap<u64, Node>, renames: Vec<Rename>) {
    for Rename { node, to, .. } in renames {
        let is_named = left.values().any(|other| match other {
            Node::Folder(folder) => folder.names.values().any(|named| *named == node),
            Node::File(_) => false,
        });
        if let Some(Node::Folder(folder)) = left.get_mut(&to.0)
            && !is_named
        {
            folder.names.insert(to.1.clone(), node);
            folder.synced.insert(to.1, node);
        }
    }
}

#[cfg(test)]
mod tests;
