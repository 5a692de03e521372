//! Payload files: how they come in, and how it is seen that they are what they should be.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use shared::digest::{Digest, DigestAlgorithm};
use shared::disk::{Disk, DiskFile};
use shared::image::ImageId;

use super::layout::Layout;
use crate::config::{OutboxDurability, OutboxFiles};
use crate::payload::Payload;

/// Files are read and written in slices of this size.
const SLICE: usize = 256 << 10;

/// How payloads come in.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    pub(super) files: OutboxFiles,
    pub(super) durability: OutboxDurability,
    numbers: Arc<AtomicU64>,
}

/// A payload that is in the outbox's file system, whole and, where that is promised, synced; but
/// it has no number yet. Its file is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Staged {
    disk: Arc<dyn Disk>,
    /// Its temporary name, or the file that is referred to.
    place: Place,
    pub(super) digest: Digest,
}

#[derive(Debug)]
enum Place {
    Temporary(PathBuf),
    Referenced(PathBuf),
    /// It has been given its name.
    Named,
}

/// Why a payload did not come in.
#[derive(Debug)]
pub(super) enum NotStaged {
    /// The image cannot be read.
    Unreadable(io::Error),
    /// The outbox cannot be written.
    Unwritable(io::Error),
}

impl Staged {
    /// The file that is referred to, if it is.
    pub(super) fn referenced(&self) -> Option<&Path> {
        match &self.place {
            Place::Referenced(path) => Some(path),
            Place::Temporary(_) | Place::Named => None,
        }
    }

    /// Gives the file its name. Whoever does it answers for the file from then on.
    pub(super) fn name(&mut self, path: &Path) -> io::Result<()> {
        if let Place::Temporary(temporary) = &self.place {
            self.disk.rename(temporary, path)?;
            self.place = Place::Named;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Place::Temporary(path) = &self.place {
            // What is left is removed at the next start.
            let _ = self.disk.remove(path);
        }
    }
}

impl Intake {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        layout: Layout,
        files: OutboxFiles,
        durability: OutboxDurability,
    ) -> Self {
        Self {
            disk,
            layout,
            files,
            durability,
            numbers: Arc::default(),
        }
    }

    /// Brings a payload in. May block for as long as it takes to write it.
    pub(super) fn stage(
        &self,
        payload: &Payload,
        id: ImageId,
        digest: Option<Digest>,
    ) -> Result<Staged, NotStaged> {
        let number = self.numbers.fetch_add(1, Relaxed);
        let path = self.layout.incoming().join(format!("{id}-{number}"));
        let mut staged = Staged {
            disk: Arc::clone(&self.disk),
            digest: digest.unwrap_or(Digest::Xxh3([0; 16])),
            place: Place::Temporary(path.clone()),
        };
        match payload {
            Payload::Memory(bytes) => {
                if digest.is_none() {
                    staged.digest = DigestAlgorithm::default().digest(bytes);
                }
                let write = || {
                    let file = self.disk.create(&path)?;
                    file.write_at(std::slice::from_ref(bytes), 0)?;
                    self.sync(&*file)
                };
                write().map_err(NotStaged::Unwritable)?;
            }
            Payload::File { path: source, size } if self.files == OutboxFiles::Reference => {
                staged.place = Place::Referenced(source.clone());
                staged.digest = self.look_at(source, *size, digest)?;
            }
            Payload::File { path: source, size } => {
                if self.link(source, &path) {
                    staged.digest = self.look_at(&path, *size, digest)?;
                    self.disk
                        .open(&path, false)
                        .and_then(|file| self.sync(&*file))
                        .map_err(NotStaged::Unwritable)?;
                } else {
                    staged.digest = self.copy(source, &path, *size, digest)?;
                }
            }
        }
        Ok(staged)
    }

    fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        match self.durability {
            OutboxDurability::Synced => file.sync(),
            OutboxDurability::Written => Ok(()),
        }
    }

    /// Tries to give a file a second name.
    fn link(&self, source: &Path, path: &Path) -> bool {
        // The second name of a symbolic link is one, and leads nowhere once its file is gone.
        let symbolic = std::fs::symlink_metadata(source).is_ok_and(|meta| meta.is_symlink());
        // Another file system, one without links, a file of somebody else: then it is copied, and
        // what is really wrong with it is seen there.
        self.files == OutboxFiles::Link && !symbolic && self.disk.link(source, path).is_ok()
    }

    /// Checks that a file that stays where it is has its size; makes the digest if there is none.
    fn look_at(&self, path: &Path, size: u64, digest: Option<Digest>) -> Result<Digest, NotStaged> {
        let file = self.disk.open(path, false).map_err(NotStaged::Unreadable)?;
        let length = file.len().map_err(NotStaged::Unreadable)?;
        if length != size {
            return Err(NotStaged::Unreadable(changed(size, length)));
        }
        match digest {
            Some(digest) => Ok(digest),
            None => digest_of(&*file, DigestAlgorithm::default()).map_err(NotStaged::Unreadable),
        }
    }

    fn copy(
        &self,
        source: &Path,
        path: &Path,
        size: u64,
        digest: Option<Digest>,
    ) -> Result<Digest, NotStaged> {
        let from = self
            .disk
            .open(source, false)
            .map_err(NotStaged::Unreadable)?;
        let to = self.disk.create(path).map_err(NotStaged::Unwritable)?;
        let algorithm = digest.map_or_else(DigestAlgorithm::default, |digest| digest.algorithm());
        let mut hasher = algorithm.hasher();
        let mut offset = 0;
        loop {
            let slice = read_slice(&*from, offset).map_err(NotStaged::Unreadable)?;
            if slice.is_empty() {
                break;
            }
            let length = slice.len() as u64;
            hasher.update(&slice);
            to.write_at(&[slice], offset)
                .map_err(NotStaged::Unwritable)?;
            offset += length;
            if offset > size {
                break;
            }
        }
        let copied = hasher.finish();
        if offset != size || digest.is_some_and(|digest| digest != copied) {
            return Err(NotStaged::Unreadable(changed(size, offset)));
        }
        self.sync(&*to).map_err(NotStaged::Unwritable)?;
        Ok(copied)
    }
}

fn changed(from: u64, to: u64) -> io::Error {
    io::Error::other(if from == to {
        "file changed after it was captured".to_owned()
    } else {
        format!("file changed from {from} to {to} bytes after it was captured")
    })
}

/// The next bytes of a file; none at its end.
pub(super) fn read_slice(file: &dyn DiskFile, offset: u64) -> io::Result<Bytes> {
    let mut slice = BytesMut::zeroed(SLICE);
    loop {
        match file.read_at(&mut slice, offset) {
            Ok(read) => {
                slice.truncate(read);
                return Ok(slice.freeze());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The digest of a whole file.
pub(crate) fn digest_of(file: &dyn DiskFile, algorithm: DigestAlgorithm) -> io::Result<Digest> {
    let mut hasher = algorithm.hasher();
    let mut offset = 0;
    let mut slice = vec![0; SLICE];
    loop {
        match file.read_at(&mut slice, offset) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => {
                hasher.update(&slice[..read]);
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What is wrong with the file of an image, by a look at its size or, `closely`, at its bytes.
///
/// # Errors
/// When the medium does not say.
pub(crate) fn fault(
    disk: &dyn Disk,
    path: &Path,
    size: Option<u64>,
    digest: &Digest,
    closely: bool,
) -> io::Result<Option<String>> {
    let Some(length) = disk.length(path)? else {
        return Ok(Some("its file is gone".to_owned()));
    };
    if let Some(size) = size
        && length != size
    {
        return Ok(Some(format!(
            "its file has {length} bytes in place of {size}"
        )));
    }
    if closely {
        let file = disk.open(path, false)?;
        if digest_of(&*file, digest.algorithm())? != *digest {
            return Ok(Some("its file is torn: the digest is another".to_owned()));
        }
    }
    Ok(None)
}

/// Whether a file that is not the outbox's own is not there, and may come back: when its whole
/// folder is empty or away, a medium was taken out or a file system is not mounted. `inhabited`
/// keeps what is known of folders.
pub(crate) fn is_away(
    disk: &dyn Disk,
    path: &Path,
    inhabited: &mut HashMap<PathBuf, bool>,
) -> bool {
    matches!(disk.length(path), Ok(None)) && !is_inhabited(disk, path, inhabited)
}

/// Whether the folder of a file holds anything.
pub(super) fn is_inhabited(
    disk: &dyn Disk,
    path: &Path,
    inhabited: &mut HashMap<PathBuf, bool>,
) -> bool {
    let Some(folder) = path.parent() else {
        return false;
    };
    *inhabited.entry(folder.to_path_buf()).or_insert_with(|| {
        let listed = disk.list(folder);
        listed.is_ok_and(|mut listed| listed.next().is_some())
    })
}
