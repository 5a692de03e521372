//! The folder of a CA:
//!
//! ```text
//! ca.pem         its certificate: what every station trusts
//! ca.key         its private key
//! revoked.pem    what it has revoked
//! token.key      signs tokens
//! token.pub      checks them, where the two differ
//! issued/        every certificate, by its number, and a mark for each that is revoked
//! STATION/       cert.pem, key.pem, ca.pem: what a station needs
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{Doing, KeysError};

/// The end of the name of a mark, see [`Folder::mark`].
pub(super) const MARK: &str = "revoked";

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    /// Its owner.
    Owner,
    /// Everybody.
    All,
}

impl Readers {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::All => 0o644,
        }
    }
}

/// Whether something that is there may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Keep,
    Replace,
}

impl Existing {
    pub(super) fn replaced(replace: bool) -> Self {
        match replace {
            true => Self::Replace,
            false => Self::Keep,
        }
    }
}

/// The folder, which nobody else changes meanwhile.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: Option<File>,
}

impl Folder {
    /// The folder at `path`, which may be yet to make.
    pub(super) fn open(path: &Path) -> Result<Self, KeysError> {
        let lock = match File::open(path) {
            Ok(folder) => {
                folder
                    .lock()
                    .map_err(|source| failed(path, Doing::Locked, source))?;
                Some(folder)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed(path, Doing::Read, source)),
        };
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Makes the folder, which only its owner may look into.
    pub(super) fn make(&self) -> Result<(), KeysError> {
        make(&self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.path.join("ca.pem")
    }

    pub(super) fn authority_key(&self) -> PathBuf {
        self.path.join("ca.key")
    }

    pub(super) fn revoked(&self) -> PathBuf {
        self.path.join("revoked.pem")
    }

    pub(super) fn token_key(&self) -> PathBuf {
        self.path.join("token.key")
    }

    pub(super) fn token_public(&self) -> PathBuf {
        self.path.join("token.pub")
    }

    pub(super) fn issued(&self) -> PathBuf {
        self.path.join("issued")
    }

    /// What tells of a certificate that it is revoked, should the list get lost. Its number is in
    /// hexadecimal digits.
    pub(super) fn mark(&self, serial: &str) -> PathBuf {
        self.issued().join(format!("{serial}.{MARK}"))
    }

    /// The files in `issued` of this kind.
    pub(super) fn issued_files(&self, kind: &str) -> Result<Vec<PathBuf>, KeysError> {
        let path = self.issued();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(&path, Doing::Read, source)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let file = entry.map_err(|source| failed(&path, Doing::Read, source))?;
            if file.path().extension().is_some_and(|found| found == kind) {
                files.push(file.path());
            }
        }
        files.sort();
        Ok(files)
    }

    /// The folder of a station, whose name has been checked.
    pub(super) fn station(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Names that are taken by what is not a station.
    pub(super) fn is_taken(name: &str) -> bool {
        [
            "ca.pem",
            "ca.key",
            "revoked.pem",
            "token.key",
            "token.pub",
            "issued",
        ]
        .contains(&name)
    }
}

/// This cannot be done to a file or folder.
pub(super) fn failed(path: &Path, doing: Doing, source: io::Error) -> KeysError {
    KeysError::File {
        path: path.to_owned(),
        doing,
        source,
    }
}

/// Makes a folder that only its owner may look into.
pub(super) fn make(path: &Path) -> Result<(), KeysError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|source| failed(path, Doing::Made, source))
}

/// Text in a file.
pub(super) fn read(path: &Path) -> Result<String, KeysError> {
    fs::read_to_string(path).map_err(|source| failed(path, Doing::Read, source))
}

/// Writes a file so that whoever reads it meanwhile sees the old content or the new one, whole.
pub(super) fn write(
    path: &Path,
    content: &[u8],
    readers: Readers,
    existing: Existing,
) -> Result<(), KeysError> {
    let fail = |source| failed(path, Doing::Written, source);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // What a process left that was stopped here is nobody's.
    let _ = fs::remove_file(&part);
    let mut options = OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(readers.mode())
        .open(&part)
        .and_then(|mut file| {
            // The mask of the process may have taken rights that were meant.
            file.set_permissions(fs::Permissions::from_mode(readers.mode()))?;
            file.write_all(content)?;
            file.sync_all()
        });
    let placed = written.and_then(|()| match existing {
        Existing::Replace => fs::rename(&part, path),
        // A link, unlike a rename, replaces nothing.
        Existing::Keep => fs::hard_link(&part, path),
    });
    if placed.is_err() || existing == Existing::Keep {
        let _ = fs::remove_file(&part);
    }
    match placed {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(KeysError::Exists(path.to_owned()))
        }
        placed => placed.map_err(fail),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_replaced_that_should_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.key");
        write(&path, b"one", Readers::Owner, Existing::Keep).unwrap();
        let refused = write(&path, b"two", Readers::Owner, Existing::Keep).unwrap_err();
        assert!(refused.to_string().contains("--force"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"three", Readers::Owner, Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
