//! The file of an image that is on its way in, and the one beside it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use shared::clock::UnixNanos;
use shared::digest::Digest;
use shared::disk::DiskFile;
use shared::sabotage::{self, Sabotage};

use super::group::Joined;
use super::sidecar::{self, RECORD, Record};
use super::{Location, Root};
use crate::store::{About, StoreError};

/// A file in `incoming/`, which is removed on drop unless it was placed or is to stay. All methods
/// may block.
pub(super) struct Part {
    root: Arc<Root>,
    path: PathBuf,
    /// `None` while it is parked.
    file: Option<Box<dyn DiskFile>>,
    length: u64,
    notes: Notes,
    stays: bool,
}

impl Part {
    /// # Errors
    /// When it cannot be made: `about` comes back.
    pub(super) fn create(
        root: Arc<Root>,
        about: Box<About>,
    ) -> Result<Self, (Box<About>, StoreError)> {
        let stem = root.stem(about.meta.id);
        let path = root.incoming(&format!("{stem}.part"));
        let file = match root.disk.create(&path) {
            Ok(file) => file,
            Err(source) => return Err((about, StoreError::io("making", &path, source))),
        };
        let beside = root.incoming(&format!("{stem}.meta"));
        Ok(Self {
            notes: Notes::new(Arc::clone(&root), beside, *about),
            root,
            path,
            file: Some(file),
            length: 0,
            stays: false,
        })
    }

    /// The file that an earlier process left, cut to what was verified of it.
    pub(super) fn reopen(
        root: Arc<Root>,
        path: PathBuf,
        notes: Notes,
        length: u64,
    ) -> Result<Self, StoreError> {
        let mut part = Self {
            root,
            path,
            file: None,
            length,
            notes,
            stays: false,
        };
        part.cut(length)?;
        part.file = None;
        part.notes.file = None;
        Ok(part)
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn stay(&mut self) {
        self.stays = true;
    }

    fn file(&mut self) -> Result<&dyn DiskFile, StoreError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self
                .root
                .disk
                .open(&self.path, true)
                .map_err(|source| StoreError::io("opening", &self.path, source))?,
        };
        Ok(&**self.file.insert(file))
    }

    /// Adds bytes, up to and including which the image has this digest. `None` when another
    /// process is not to go on with them.
    pub(super) fn append(
        &mut self,
        pieces: &[Bytes],
        digest: Option<Digest>,
    ) -> Result<(), StoreError> {
        if pieces.is_empty() {
            return Ok(());
        }
        let length = self.length;
        let written = self.file()?.write_at(pieces, length);
        written.map_err(|source| StoreError::io("writing", &self.path, source))?;
        self.length += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        if let Some(digest) = digest {
            self.notes.add(self.length, digest);
        }
        Ok(())
    }

    pub(super) fn cut(&mut self, length: u64) -> Result<(), StoreError> {
        let cut = self.file()?.set_len(length);
        cut.map_err(|source| StoreError::io("cutting", &self.path, source))?;
        self.length = length;
        self.notes.cut(length);
        Ok(())
    }

    /// Holds nothing open from now on; what is needed to go on is beside the file.
    pub(super) fn park(&mut self, digest: Digest) {
        self.notes.complete(self.length, digest);
        self.notes.file = None;
        self.file = None;
    }

    /// Moves the file to `target`, as durably as the store promises but for the name, which is
    /// durable at the end of the sync that it returns.
    pub(super) fn place(mut self, location: &Location) -> Result<Joined, StoreError> {
        let root = Arc::clone(&self.root);
        let target = root.path.join(location.text());
        if root.is_synced() && !sabotage::is(Sabotage::AckBeforeSync) {
            let synced = self.file()?.sync();
            synced.map_err(|source| StoreError::io("syncing", &self.path, source))?;
        }
        let mut group = root.folders.ensure(location)?;
        let mut renamed = root.disk.rename(&self.path, &target);
        if matches!(&renamed, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            // The day's folder was removed while this process knew it.
            root.folders.forget(location);
            group = root.folders.ensure(location)?;
            renamed = root.disk.rename(&self.path, &target);
        }
        renamed.map_err(|source| StoreError::io("placing", &target, source))?;
        // The name in `incoming/` is gone.
        self.stays = true;
        self.notes.remove();
        if root.is_synced() {
            Ok(group.join())
        } else {
            Ok(Joined::Done(Ok(())))
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        if let Err(error) = self.root.disk.remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "unfinished image stays behind");
        }
        self.notes.remove();
    }
}

/// The sidecar of an unfinished image. It is made when there is more than one record, or when the
/// image is parked: an image that comes in one go does not pay for it. When it cannot be written,
/// the image goes on without it, and cannot be gone on with by another process.
pub(super) struct Notes {
    root: Arc<Root>,
    path: PathBuf,
    about: About,
    /// `None` while nothing is written.
    file: Option<Box<dyn DiskFile>>,
    /// Where records begin, and the sum of what is before them; 0 while there is no file.
    head: u64,
    head_sum: u32,
    /// Where the records end that there are.
    ends: Vec<u64>,
    /// The first of them, while there is no file.
    first: Option<Record>,
    failed: bool,
}

impl Notes {
    fn new(root: Arc<Root>, path: PathBuf, about: About) -> Self {
        Self {
            root,
            path,
            about,
            file: None,
            head: 0,
            head_sum: 0,
            ends: Vec::new(),
            first: None,
            failed: false,
        }
    }

    /// Those that an earlier process wrote.
    pub(super) fn found(
        root: Arc<Root>,
        path: PathBuf,
        about: About,
        head: (u64, u32),
        ends: Vec<u64>,
    ) -> Self {
        Self {
            head: head.0,
            head_sum: head.1,
            ends,
            ..Self::new(root, path, about)
        }
    }

    fn add(&mut self, end: u64, digest: Digest) {
        let record = Record {
            end,
            at: UnixNanos::now(),
            digest,
        };
        if self.ends.is_empty() && self.head == 0 {
            self.first = Some(record);
            self.ends.push(end);
        } else {
            self.attempt(|notes| notes.write(&record));
        }
    }

    /// Makes sure that the last record is at `end`, and written.
    fn complete(&mut self, end: u64, digest: Digest) {
        let written = self.head > 0;
        if !(written && self.ends.last() == Some(&end)) {
            if self.ends.last() == Some(&end) {
                self.attempt(Self::begin);
                return;
            }
            let record = Record {
                end,
                at: UnixNanos::now(),
                digest,
            };
            self.attempt(|notes| notes.write(&record));
        }
    }

    fn cut(&mut self, length: u64) {
        self.ends.retain(|end| *end <= length);
        if self.ends.is_empty() {
            self.first = None;
        }
        if self.head > 0 {
            self.attempt(|notes| {
                let length = notes.length();
                notes.file()?.set_len(length)
            });
        }
    }

    /// Bytes of the file.
    fn length(&self) -> u64 {
        self.head + (self.ends.len() * RECORD) as u64
    }

    fn file(&mut self) -> io::Result<&dyn DiskFile> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.root.disk.open(&self.path, true)?,
        };
        Ok(&**self.file.insert(file))
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.head > 0 {
            return Ok(());
        }
        let mut bytes = sidecar::head(&self.about, UnixNanos::now());
        let (head, sum) = (bytes.len() as u64, sidecar::head_sum(&bytes));
        if let Some(first) = self.first.take() {
            bytes.extend_from_slice(&sidecar::record(&first, sum));
        }
        let file = self.root.disk.create(&self.path)?;
        // From here on there is a file to be removed.
        (self.head, self.head_sum) = (head, sum);
        file.write_at(&[Bytes::from(bytes)], 0)?;
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.begin()?;
        let bytes = sidecar::record(record, self.head_sum);
        let at = self.length();
        self.file()?
            .write_at(&[Bytes::copy_from_slice(&bytes)], at)?;
        self.ends.push(record.end);
        Ok(())
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> io::Result<()>) {
        if self.failed {
            return;
        }
        if let Err(error) = work(self) {
            tracing::debug!(path = %self.path.display(), %error, "an unfinished image has no notes");
            self.remove();
            self.failed = true;
        }
    }

    fn remove(&mut self) {
        self.file = None;
        if self.head == 0 {
            return;
        }
        self.head = 0;
        if let Err(error) = self.root.disk.remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "notes of an image stay behind");
        }
    }
}
