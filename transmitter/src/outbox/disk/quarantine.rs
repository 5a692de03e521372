//! Where files go that are not what they should be: a bounded number of them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use shared::disk::Disk;

use super::layout::{FileName, Layout};

/// Files that are kept.
const MOST_FILES: usize = 1_000;

/// Bytes that are kept.
const MOST_BYTES: u64 = 256 << 20;

/// Puts a file aside. When that fails it stays where it is, and is a leftover there.
pub(super) fn put(disk: &Arc<dyn Disk>, layout: &Layout, path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Ok(());
    };
    let folder = layout.quarantine();
    match disk.rename(path, &folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        moved => moved?,
    }
    tracing::warn!("put into quarantine: {}", name.display());
    bound(disk, &folder)
}

/// Names of the images in quarantine, in the order of their numbers.
pub(crate) fn images(disk: &dyn Disk, layout: &Layout) -> io::Result<Vec<FileName>> {
    let mut names = Vec::new();
    for listed in disk.list(&layout.quarantine())? {
        let listed = listed?;
        if let Some(name) = listed.name.to_str().and_then(FileName::parse) {
            names.push(name);
        }
    }
    names.sort_unstable_by_key(|name| name.sequence);
    Ok(names)
}

/// Removes the oldest ones until few enough are left.
fn bound(disk: &Arc<dyn Disk>, folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    let mut bytes = 0;
    for listed in disk.list(folder)? {
        let listed = listed?;
        // The names begin with the numbers; a former index, which does not, is kept.
        let Some(name) = listed.name.to_str() else {
            continue;
        };
        if FileName::parse(name).is_none() {
            continue;
        }
        let length = disk.length(&folder.join(name))?.unwrap_or(0);
        bytes += length;
        files.push((name.to_owned(), length));
    }
    files.sort_unstable();
    let mut left = files.len();
    for (name, length) in files {
        // The last one is kept whatever its size.
        if left <= 1 || (left <= MOST_FILES && bytes <= MOST_BYTES) {
            break;
        }
        disk.remove(&folder.join(&name))?;
        tracing::warn!("removed from quarantine, which is full: {name}");
        left -= 1;
        bytes -= length;
    }
    Ok(())
}
