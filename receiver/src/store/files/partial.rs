//! Images that an earlier process left unfinished.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shared::clock::UnixNanos;
use shared::digest::{Digest, Hasher};
use shared::disk::Disk;
use shared::image::ImageId;

use super::Root;
use super::part::{Notes, Part};
use super::sidecar::{self, MAX_BYTES, Record, Sidecar};
use super::writer::FileWriter;
use crate::store::{About, ImageWriter, Partial, Replay, StoreError};

/// Bytes that are read at a time.
const PIECE: u64 = 1 << 20;

/// A file in `incoming/` and what is beside it.
#[derive(Debug)]
pub(super) struct Leftover {
    part: PathBuf,
    beside: PathBuf,
    sidecar: Sidecar,
    head_sum: u32,
    /// Bytes of the file, as far as there are records for them.
    length: u64,
}

impl Leftover {
    /// Bytes that the records bear out, and bytes of the file.
    pub(super) fn verified(&self, disk: &dyn Disk) -> io::Result<(u64, u64)> {
        /// Only the digest is made.
        struct Sum(Hasher);
        impl Replay for Sum {
            fn take(&mut self, bytes: Bytes) {
                self.0.update(&bytes);
            }

            fn check(&mut self, digest: &Digest) -> bool {
                self.0.finish() == *digest
            }
        }
        let records = &self.sidecar.records;
        let mut sum = Sum(self.sidecar.about.algorithm.hasher());
        let good = verify(disk, &self.part, records, &mut sum)?;
        let end = good.checked_sub(1).and_then(|last| records.get(last));
        let there = disk.length(&self.part)?.unwrap_or_default();
        Ok((end.map_or(0, |record| record.end), there))
    }

    /// When its last bytes came.
    fn touched(&self) -> UnixNanos {
        let records = self.sidecar.records.last();
        records.map_or(self.sidecar.since, |record| record.at)
    }
}

/// What is in `incoming/`.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// What can be gone on with, one of each image at most.
    pub(super) partials: Vec<Leftover>,
    /// What nobody can go on with.
    pub(super) useless: Vec<PathBuf>,
    /// The first number that no name there has.
    pub(super) next: u64,
}

/// Reads `incoming/`.
pub(super) fn read(disk: &dyn Disk, incoming: &Path) -> Result<Incoming, StoreError> {
    let reading = |source| StoreError::io("reading folder", incoming, source);
    let mut stems: HashMap<String, (bool, bool)> = HashMap::new();
    let mut found = Incoming::default();
    for entry in disk.list(incoming).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        if entry.is_folder {
            continue;
        }
        let name = entry.name.to_str().unwrap_or_default();
        let split = name.rsplit_once('.').and_then(|(stem, kind)| {
            let (id, number) = stem.split_once('.')?;
            let number: u64 = number.parse().ok()?;
            id.parse::<ImageId>().ok()?;
            Some((stem, kind, number))
        });
        match split {
            Some((stem, kind @ ("part" | "meta"), number)) => {
                found.next = found.next.max(number.saturating_add(1));
                let (part, meta) = stems.entry(stem.to_owned()).or_default();
                *(if kind == "part" { part } else { meta }) = true;
            }
            _ => found.useless.push(incoming.join(&entry.name)),
        }
    }
    let mut best: HashMap<ImageId, Leftover> = HashMap::new();
    for (stem, is_there) in stems {
        let part = incoming.join(format!("{stem}.part"));
        let beside = incoming.join(format!("{stem}.meta"));
        let leftover = match is_there {
            (true, true) => load(disk, part.clone(), beside.clone()),
            _ => None,
        };
        let Some(leftover) = leftover else {
            found.useless.extend(is_there.0.then_some(part));
            found.useless.extend(is_there.1.then_some(beside));
            continue;
        };
        // Of several of one image, that which has most.
        let id = leftover.sidecar.about.meta.id;
        let loser = match best.get(&id) {
            Some(other) if other.length >= leftover.length => Some(leftover),
            _ => best.insert(id, leftover),
        };
        if let Some(loser) = loser {
            found.useless.extend([loser.part, loser.beside]);
        }
    }
    found.partials = best.into_values().collect();
    Ok(found)
}

/// Reads `incoming/`, removes what nobody can go on with, and tells the rest and the first number
/// that no name there has.
pub(super) fn find(disk: &dyn Disk, incoming: &Path) -> Result<(Vec<Leftover>, u64), StoreError> {
    let found = read(disk, incoming)?;
    let removed = found.useless.iter().filter(|path| remove(disk, path));
    let removed = removed.count();
    if removed > 0 || !found.partials.is_empty() {
        tracing::info!(
            removed,
            kept = found.partials.len(),
            "files of unfinished images of an earlier process"
        );
    }
    Ok((found.partials, found.next))
}

/// Removes a file if it is there; whether it was.
pub(super) fn remove(disk: &dyn Disk, path: &Path) -> bool {
    match disk.remove(path) {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "a leftover stays behind");
            }
            false
        }
    }
}

fn load(disk: &dyn Disk, part: PathBuf, beside: PathBuf) -> Option<Leftover> {
    let bytes = read_whole(disk, &beside)
        .inspect_err(|error| tracing::warn!(path = %beside.display(), %error, "not readable"))
        .ok()?;
    let Some(mut sidecar) = sidecar::read(&bytes) else {
        tracing::info!(path = %beside.display(), "notes of an unfinished image are torn");
        return None;
    };
    let there = disk.length(&part).ok().flatten()?;
    sidecar.records.retain(|record| record.end <= there);
    let head = usize::try_from(sidecar.head).ok()?;
    let length = sidecar.records.last().map_or(0, |record| record.end);
    Some(Leftover {
        head_sum: sidecar::head_sum(bytes.get(..head)?),
        part,
        beside,
        sidecar,
        length,
    })
}

fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, false)?;
    let length = file.len()?.min(MAX_BYTES);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// An unfinished image that is still to be verified.
#[derive(Debug)]
pub(super) struct FilePartial {
    root: Arc<Root>,
    /// `None` once it is somebody else's.
    found: Option<Leftover>,
    about: About,
    length: u64,
    touched: UnixNanos,
}

impl FilePartial {
    pub(super) fn new(root: Arc<Root>, found: Leftover) -> Self {
        Self {
            root,
            about: found.sidecar.about.clone(),
            length: found.length,
            touched: found.touched(),
            found: Some(found),
        }
    }
}

impl Partial for FilePartial {
    fn about(&self) -> &About {
        &self.about
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn age(&self) -> Duration {
        let nanos = UnixNanos::now().since(self.touched).max(0).unsigned_abs();
        Duration::from_nanos(nanos)
    }

    fn leave(&mut self) {
        self.found = None;
    }

    fn recover(
        mut self: Box<Self>,
        replay: &mut dyn Replay,
    ) -> Result<Box<dyn ImageWriter>, StoreError> {
        let id = self.about.meta.id;
        let Some(found) = &self.found else {
            return Err(StoreError::Broken { id });
        };
        let good = verify(
            &*self.root.disk,
            &found.part,
            &found.sidecar.records,
            replay,
        )
        .map_err(|source| StoreError::io("reading", &found.part, source))?;
        let (ends, lost): (Vec<&Record>, u64) = {
            let kept: Vec<&Record> = found.sidecar.records.iter().take(good).collect();
            let end = kept.last().map_or(0, |record| record.end);
            (kept, found.length - end)
        };
        if lost > 0 {
            tracing::info!(image = %id, lost, "the end of an unfinished image is not as it was written");
        }
        let digest = ends
            .last()
            .map_or_else(|| self.about.algorithm.digest(b""), |record| record.digest);
        let length = ends.last().map_or(0, |record| record.end);
        let ends = ends.iter().map(|record| record.end).collect();
        let Some(found) = self.found.take() else {
            return Err(StoreError::Broken { id });
        };
        let root = Arc::clone(&self.root);
        let head = (found.sidecar.head, found.head_sum);
        let notes = Notes::found(
            Arc::clone(&root),
            found.beside,
            found.sidecar.about,
            head,
            ends,
        );
        let part = Part::reopen(Arc::clone(&root), found.part, notes, length)?;
        Ok(Box::new(FileWriter::reopened(root, id, part, digest)))
    }
}

impl Drop for FilePartial {
    fn drop(&mut self) {
        if let Some(found) = self.found.take() {
            remove(&*self.root.disk, &found.part);
            remove(&*self.root.disk, &found.beside);
        }
    }
}

/// How many records the bytes of the file bear out.
fn verify(
    disk: &dyn Disk,
    path: &Path,
    records: &[Record],
    replay: &mut dyn Replay,
) -> io::Result<usize> {
    let file = disk.open(path, false)?;
    let mut at = 0;
    for (number, record) in records.iter().enumerate() {
        while at < record.end {
            let length = (record.end - at).min(PIECE);
            let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            match file.read_exact_at(&mut piece, at) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(number),
                Err(error) => return Err(error),
            }
            replay.take(Bytes::from(piece));
            at += length;
        }
        if !replay.check(&record.digest) {
            return Ok(number);
        }
    }
    Ok(records.len())
}
