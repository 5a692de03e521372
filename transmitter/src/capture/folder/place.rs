//! The watched folder: where it is and what is taken from it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::filter::Filter;
use super::lock;
use super::scan::{MAX_FOUND, Scan, Seen, scan};
use super::watch::Watch;
use crate::capture::CaptureError;
use crate::config::{AfterDelivery, FolderOptions};

/// What does not change while a folder is watched.
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) filter: Filter,
    recursive: bool,
}

impl Place {
    /// Finds out what is wrong with the settings. Blocks.
    pub(super) fn new(options: &FolderOptions) -> Result<Self, CaptureError> {
        // Changes are told with absolute paths.
        let root = std::path::absolute(&options.path).map_err(|error| {
            CaptureError::path(&options.path, "cannot be resolved", Some(error))
        })?;
        let failed = |problem: &str, error| CaptureError::path(&root, problem, error);
        match std::fs::metadata(&root) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(failed(
                    "is no folder; use --file to send a single file",
                    None,
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(failed(
                    "no such folder; create it or check the path",
                    Some(error),
                ));
            }
            Err(error) => return Err(failed("cannot be looked at", Some(error))),
        }
        std::fs::read_dir(&root).map_err(|error| {
            failed(
                "cannot be read; give this user the right to read it",
                Some(error),
            )
        })?;
        let archive = match &options.after_delivery {
            AfterDelivery::Archive(archive) => archive_within(&root, archive)?,
            AfterDelivery::Keep | AfterDelivery::Delete => None,
        };
        let filter = Filter::new(&options.include, options.recursive, archive)
            .map_err(|(glob, error)| failed(&format!("{glob:?} is no glob: {error}"), None))?;
        Ok(Self {
            root,
            filter,
            recursive: options.recursive,
        })
    }

    /// Blocks. `None`, with a word in the log, when the folder cannot be watched.
    pub(super) fn watch(&self) -> Option<Watch> {
        let folder = self.root.display();
        match Watch::start(&self.root, self.recursive) {
            Ok((watch, None)) => Some(watch),
            Ok((watch, Some(error))) => {
                tracing::warn!(%folder, %error, "not all folders can be watched (fs.inotify.max_user_watches); scans find the rest");
                Some(watch)
            }
            Err(error) => {
                tracing::warn!(%folder, %error, "the folder cannot be watched; scans find new files, later");
                None
            }
        }
    }

    /// Looks for new files. Blocks.
    pub(super) fn scan(&self, seen: &Mutex<Seen>) -> io::Result<Scan> {
        lock(seen).begin_scan();
        let scan = scan(
            &self.root,
            &self.filter,
            |file| lock(seen).contains(file),
            MAX_FOUND,
        )?;
        if scan.complete {
            lock(seen).end_scan();
        }
        Ok(scan)
    }
}

/// The archive's path below the watched folder, if it is there.
fn archive_within(root: &Path, archive: &Path) -> Result<Option<PathBuf>, CaptureError> {
    let resolve = |path: &Path| {
        real_path(path).map_err(|error| CaptureError::path(path, "cannot be resolved", Some(error)))
    };
    let (root, archive) = (resolve(root)?, resolve(archive)?);
    if root.starts_with(&archive) {
        return Err(CaptureError::path(
            archive,
            "the archive holds the watched folder, and would be sent again; use a folder beside it or below it",
            None,
        ));
    }
    Ok(archive.strip_prefix(&root).ok().map(Path::to_owned))
}

/// The path without links, `.` and `..`, as far as it exists.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    for ancestor in absolute.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return Ok(if rest.as_os_str().is_empty() {
                real
            } else {
                real.join(rest)
            });
        }
    }
    Ok(absolute)
}
