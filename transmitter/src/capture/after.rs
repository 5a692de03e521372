//! What is done with a file after the receipt of its image.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf, absolute};

use shared::clock::UnixNanos;

use super::CaptureError;
use crate::config::AfterDelivery;

/// The file as it was when it was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Its size then.
    pub size: u64,
    /// When that was.
    pub captured: UnixNanos,
    /// The time of its last modification, nanoseconds since 1970, if it was given a second name
    /// since then: that sets the change time, which therefore says nothing.
    pub linked: Option<i64>,
}

/// What was done with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Nothing, as asked for.
    Kept,
    /// It was deleted.
    Deleted,
    /// It was moved to here.
    Archived(PathBuf),
    /// Nothing, because it was changed after it was captured: what it holds now was not delivered.
    Changed,
    /// Nothing, because it is not there any more.
    Gone,
}

/// Names that are tried before archiving is given up.
const MAX_NAMES: u32 = 10_000;

/// Does with a file what is asked for after its receipt. Blocks; run it where it may.
///
/// In the archive the file keeps its path below `root`, the watched folder, or its name alone
/// when there is none; where that name is taken, `-1`, `-2` and so on is added to it. Nothing is
/// ever overwritten, and a file that was changed since it was captured is left alone. Across file
/// systems the file is copied, made durable, then removed.
///
/// # Errors
/// When the file cannot be removed or moved. It is where it was then.
pub fn settle_file(
    policy: &AfterDelivery,
    root: Option<&Path>,
    file: &Path,
    taken: &Taken,
) -> Result<Settled, CaptureError> {
    if *policy == AfterDelivery::Keep {
        return Ok(Settled::Kept);
    }
    let failed = |what: &str, error| CaptureError::path(file, what, Some(error));
    match fs::symlink_metadata(file) {
        Ok(metadata) if is_changed(&metadata, taken) => return Ok(Settled::Changed),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Settled::Gone),
        Err(error) => return Err(failed("cannot be looked at after its delivery", error)),
    }
    match policy {
        AfterDelivery::Keep => Ok(Settled::Kept),
        AfterDelivery::Delete => match fs::remove_file(file) {
            Ok(()) => Ok(Settled::Deleted),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settled::Gone),
            Err(error) => Err(failed(
                "was delivered but cannot be deleted; give this user the right to write to its folder",
                error,
            )),
        },
        AfterDelivery::Archive(archive) => move_into(archive, &path_below(root, file), file)
            .map(Settled::Archived)
            .map_err(|error| {
                let archive = archive.display();
                let what = format!("was delivered but cannot be moved to the archive {archive}");
                failed(&what, error)
            }),
    }
}

/// Whether the file may hold something else than what was captured. The change time is set by
/// the system at each write and rename and cannot be set back, unlike the modification time;
/// that one counts for file systems that have no change time. A modification time in the future
/// says nothing but that some clock is wrong.
fn is_changed(metadata: &fs::Metadata, taken: &Taken) -> bool {
    let nanos = |seconds: i64, nanos: i64| {
        UnixNanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    };
    let changed = nanos(metadata.ctime(), metadata.ctime_nsec());
    let modified = nanos(metadata.mtime(), metadata.mtime_nsec());
    if let Some(then) = taken.linked {
        return metadata.len() != taken.size || modified != UnixNanos(then);
    }
    metadata.len() != taken.size
        || changed > taken.captured
        || (modified > taken.captured && modified <= UnixNanos::now())
}

/// The file's path below the root, safe to join to a folder.
fn path_below(root: Option<&Path>, file: &Path) -> PathBuf {
    let below = root.and_then(|root| {
        // The root may be named as in the settings, the file absolutely.
        let (root, file) = (absolute(root).ok()?, absolute(file).ok()?);
        let below = file.strip_prefix(root).ok()?;
        let is_plain = below
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        (is_plain && below.file_name().is_some()).then(|| below.to_owned())
    });
    below.unwrap_or_else(|| file.file_name().unwrap_or_default().into())
}

fn move_into(archive: &Path, below: &Path, file: &Path) -> io::Result<PathBuf> {
    let wanted = archive.join(below);
    let folder = wanted.parent().unwrap_or(archive);
    fs::create_dir_all(folder)?;
    let target = claim_name(&wanted)?;
    let moved = match fs::rename(file, &target) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy_then_remove(file, &target, folder)
        }
        other => other,
    };
    if let Err(error) = moved {
        // The claim is an empty file of our own; if it stays, it only takes a name.
        let _ = fs::remove_file(&target);
        return Err(error);
    }
    Ok(target)
}

/// Makes an empty file of that name, or of the next free one. It is replaced by the real file in
/// one step, so that two archives that run at once never overwrite each other's files.
fn claim_name(wanted: &Path) -> io::Result<PathBuf> {
    let stem = wanted.file_stem().unwrap_or_default().to_owned();
    for number in 0..MAX_NAMES {
        let mut name = stem.clone();
        if number > 0 {
            name.push(format!("-{number}"));
        }
        if let Some(ending) = wanted.extension() {
            name.push(".");
            name.push(ending);
        }
        let candidate = wanted.with_file_name(name);
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&candidate)
        {
            Ok(_) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!(
        "{MAX_NAMES} files of that name are there; clear the archive"
    )))
}

/// Copies under a name that no reader takes for an image, makes the copy durable, gives it its
/// name, and only then removes the original.
fn copy_then_remove(file: &Path, target: &Path, folder: &Path) -> io::Result<()> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let partial = target.with_file_name(name);
    let copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&partial)?;
    let copied = copy_durably(file, copy).and_then(|()| fs::rename(&partial, target));
    if let Err(error) = copied {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    File::open(folder)?.sync_all()?;
    fs::remove_file(file)
}

fn copy_durably(from: &Path, mut to: File) -> io::Result<()> {
    let mut source = File::open(from)?;
    let metadata = source.metadata()?;
    io::copy(&mut source, &mut to)?;
    to.set_permissions(metadata.permissions())?;
    to.set_times(FileTimes::new().set_modified(metadata.modified()?))?;
    to.sync_all()
}

#[cfg(test)]
mod tests;
