//! Everything that a store's folder holds, for whoever checks it while no receiver runs.

use std::io;
use std::path::{Path, PathBuf};

use shared::digest::{Digest, DigestAlgorithm};
use shared::disk::{Disk, Listed, OsDisk};

use super::folders::JOURNAL;
use super::location::{image_of, is_folder};
use super::unsettled::set_aside;
use super::{INCOMING, Location, ORPHANS, partial};
use crate::store::lock::DataLock;
use crate::store::{Area, Found, StoreError};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The folder of a store, taken for a check.
#[derive(Debug)]
pub struct Survey {
    root: PathBuf,
    disk: OsDisk,
    _lock: DataLock,
}

/// State of an image's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// As the catalogue says.
    Good,
    /// Not there.
    Missing,
    /// Of another size.
    Size(u64),
    /// With another digest.
    Digest(Digest),
    /// It cannot be read.
    Unreadable(String),
}

/// What unfinished images take up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Images that can be gone on with.
    pub images: u64,
    /// Bytes of them that are verified.
    pub verified: u64,
    /// Bytes that are not as they were written: they are sent again.
    pub torn: u64,
    /// Files that nobody can go on with; a receiver removes them when it starts.
    pub useless: u64,
}

impl Survey {
    /// Takes the folder, which must be there.
    ///
    /// # Errors
    /// When a receiver works on it, or it is not there.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let there = std::fs::metadata(root);
        there.map_err(|source| StoreError::io("opening", root, source))?;
        Ok(Self {
            root: root.to_path_buf(),
            disk: OsDisk,
            _lock: DataLock::acquire(root)?,
        })
    }

    /// Whether the last receiver did not stop in order.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.root.join(JOURNAL).exists()
    }

    /// Whether an image's file is known not to be there.
    #[must_use]
    pub fn is_missing(&self, location: &str) -> bool {
        Location::read(location).is_ok_and(|location| {
            let length = self.disk.length(&self.root.join(location.text()));
            matches!(length, Ok(None))
        })
    }

    /// Looks at an image's file, all of it. `read` is told how many bytes were read.
    pub fn look(
        &self,
        location: &str,
        size: u64,
        digest: Digest,
        read: &mut dyn FnMut(u64),
    ) -> FileState {
        let unreadable = |error: &dyn std::fmt::Display| FileState::Unreadable(error.to_string());
        let path = match Location::read(location) {
            Ok(location) => self.root.join(location.text()),
            Err(error) => return unreadable(&error),
        };
        match self.disk.length(&path) {
            Ok(None) => FileState::Missing,
            Ok(Some(length)) if length != size => FileState::Size(length),
            Ok(Some(_)) => match self.digest(&path, digest.algorithm(), read) {
                Ok(found) if found == digest => FileState::Good,
                Ok(found) => FileState::Digest(found),
                Err(error) => unreadable(&error),
            },
            Err(error) => unreadable(&error),
        }
    }

    fn digest(
        &self,
        path: &Path,
        algorithm: DigestAlgorithm,
        read: &mut dyn FnMut(u64),
    ) -> io::Result<Digest> {
        let file = self.disk.open(path, false)?;
        let mut hasher = algorithm.hasher();
        let (mut piece, mut at) = (vec![0; PIECE], 0);
        loop {
            let length = file.read_at(&mut piece, at)?;
            let Some(bytes) = piece.get(..length).filter(|bytes| !bytes.is_empty()) else {
                return Ok(hasher.finish());
            };
            hasher.update(bytes);
            at += length as u64;
            read(length as u64);
        }
    }

    /// The folders in which image files lie, and how many files lie where none should.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn folders(&self) -> Result<(Vec<String>, u64), StoreError> {
        let (mut folders, mut others) = (Vec::new(), 0);
        for area in Area::ALL {
            for entry in self.names(&self.root.join(area.folder()))? {
                let entry = entry?;
                match entry.name.to_str().filter(|_| entry.is_folder) {
                    Some(name) => folders.push(format!("{}/{name}", area.folder())),
                    None => others += 1,
                }
            }
        }
        folders.sort();
        Ok((folders, others))
    }

    /// The image files of one of [`Self::folders`], one by one: there may be millions. `None` for
    /// a file that is none.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn files<'a>(
        &'a self,
        folder: &'a str,
    ) -> Result<impl Iterator<Item = Result<Option<Found>, StoreError>> + 'a, StoreError> {
        let path = self.root.join(folder);
        let names = self.names(&path)?;
        Ok(names.map(move |entry| {
            let entry = entry?;
            let name = entry.name.to_str().filter(|_| !entry.is_folder);
            let image = name.and_then(|name| Some((name, image_of(name)?)));
            Ok(image.filter(|_| is_folder(folder)).map(|(name, id)| {
                let location = format!("{folder}/{name}");
                Found { id, location }
            }))
        }))
    }

    fn names<'a>(
        &'a self,
        folder: &Path,
    ) -> Result<impl Iterator<Item = Result<Listed, StoreError>> + use<'a>, StoreError> {
        let reading = |folder: &Path, source| StoreError::io("reading folder", folder, source);
        let listed = match self.disk.list(folder) {
            Ok(listed) => Some(listed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(reading(folder, source)),
        };
        let folder = folder.to_path_buf();
        let listed = listed.into_iter().flatten();
        Ok(listed.map(move |entry| entry.map_err(|source| reading(&folder, source))))
    }

    /// Reads all unfinished images.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub fn unfinished(&self) -> Result<Unfinished, StoreError> {
        let incoming = self.root.join(INCOMING);
        let mut found = Unfinished::default();
        if !incoming.exists() {
            return Ok(found);
        }
        let listed = partial::read(&self.disk, &incoming)?;
        found.useless = listed.useless.len() as u64;
        for partial in listed.partials {
            let (verified, there) = partial.verified(&self.disk).unwrap_or_default();
            found.images += 1;
            found.verified += verified;
            found.torn += there.saturating_sub(verified);
        }
        Ok(found)
    }

    /// Removes what nobody can go on with.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn clear(&self) -> Result<(), StoreError> {
        let incoming = self.root.join(INCOMING);
        if incoming.exists() {
            partial::find(&self.disk, &incoming)?;
        }
        Ok(())
    }

    /// Moves a file out of sight, to `orphans/`.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self, location: &str) -> Result<(), StoreError> {
        let location = Location::read(location)?;
        let orphans = self.root.join(ORPHANS);
        self.disk
            .create_folder(&orphans)
            .map_err(|source| StoreError::io("making folder", &orphans, source))?;
        set_aside(&self.disk, &self.root, &location.text())
    }

    /// Files and catalogue agree: the next receiver has nothing to look for.
    ///
    /// # Errors
    /// When that cannot be noted.
    pub fn settled(&self) -> Result<(), StoreError> {
        let path = self.root.join(JOURNAL);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("removing", &path, error))
            }
            _ => Ok(()),
        }
    }
}
