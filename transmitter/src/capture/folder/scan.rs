//! Looks at files: one, some, or all of a folder.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::filter::Filter;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint {
    pub(super) size: u64,
    /// Nanoseconds since 1970.
    pub(super) modified: i64,
    pub(super) inode: u64,
}

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Below the folder.
    pub(super) path: Box<Path>,
    pub(super) print: Fingerprint,
}

/// Most new files that one scan reports; the next one reports more.
pub(super) const MAX_FOUND: usize = 200_000;
/// Folders within folders that are looked into.
const MAX_DEPTH: usize = 64;

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        let modified = metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec());
        Self {
            size: metadata.len(),
            modified,
            inode: metadata.ino(),
        }
    }
}

/// The file as it is now; `None` if it is no regular file, which a symbolic link is not: what it
/// leads to may be outside of the folder.
pub(super) fn look(path: &Path) -> io::Result<Option<Fingerprint>> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(metadata.is_file().then(|| Fingerprint::of(&metadata)))
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scan {
    /// New files, oldest first, those of the same time by name.
    pub(super) found: Vec<Found>,
    /// Whether that is all.
    pub(super) complete: bool,
}

/// Looks through the folder for files that `is_known` does not know.
///
/// A folder or file below that cannot be read is logged and left out.
pub(super) fn scan(
    root: &Path,
    filter: &Filter,
    mut is_known: impl FnMut(&Found) -> bool,
    max_found: usize,
) -> io::Result<Scan> {
    let mut found = Vec::new();
    let mut complete = true;
    // Folders below the root, and how deep they are.
    let mut folders = vec![(PathBuf::new(), 0)];
    'folders: while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(error) => {
                tracing::warn!(folder = %root.join(&folder).display(), %error, "folder skipped");
                continue;
            }
        };
        for entry in entries {
            // Entries may go away while they are read.
            let Ok(entry) = entry else { continue };
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let path = folder.join(entry.file_name());
            if kind.is_dir() {
                if depth < MAX_DEPTH && filter.enters(&path) {
                    folders.push((path, depth + 1));
                }
                continue;
            }
            if !kind.is_file() || !filter.takes(&path) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let file = Found {
                path: path.into(),
                print: Fingerprint::of(&metadata),
            };
            if is_known(&file) {
                continue;
            }
            if found.len() == max_found {
                complete = false;
                break 'folders;
            }
            found.push(file);
        }
    }
    found.sort_unstable_by(|a, b| (a.print.modified, &a.path).cmp(&(b.print.modified, &b.path)));
    Ok(Scan { found, complete })
}

/// The files that were taken, in about 40 bytes each: hashes instead of paths.
#[derive(Debug, Default)]
pub(super) struct Seen {
    files: HashMap<u64, Entry>,
    hasher: RandomState,
    scan: u32,
}

#[derive(Debug)]
struct Entry {
    print: u64,
    /// The last scan that found it.
    scan: u32,
}

/// Files that are gone and remembered nevertheless. A folder that goes away for a while (a
/// network share, a stick) is not sent anew.
const REMEMBERED: usize = 65_536;

impl Seen {
    /// Whether this state of the file was taken.
    pub(super) fn contains(&mut self, file: &Found) -> bool {
        let (path, print) = self.hashes(file);
        match self.files.get_mut(&path) {
            Some(entry) => {
                entry.scan = self.scan;
                entry.print == print
            }
            None => false,
        }
    }

    /// Takes the file; false if this state of it was taken before.
    pub(super) fn insert(&mut self, file: &Found) -> bool {
        let (path, print) = self.hashes(file);
        let entry = Entry {
            print,
            scan: self.scan,
        };
        self.files
            .insert(path, entry)
            .is_none_or(|former| former.print != print)
    }

    /// A scan begins.
    pub(super) fn begin_scan(&mut self) {
        self.scan = self.scan.wrapping_add(1);
    }

    /// A scan that saw all files has ended: forgets files that are gone, when they are many.
    pub(super) fn end_scan(&mut self) {
        let present = self
            .files
            .values()
            .filter(|entry| entry.scan == self.scan)
            .count();
        if self.files.len() > 2 * present + REMEMBERED {
            self.files.retain(|_, entry| entry.scan == self.scan);
            self.files.shrink_to_fit();
        }
    }

    fn hashes(&self, file: &Found) -> (u64, u64) {
        (
            self.hasher.hash_one(&file.path),
            self.hasher.hash_one(file.print),
        )
    }
}

#[cfg(test)]
mod tests;
