//! Whether a daemon has a folder just now.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Who has a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody.
    Nobody,
    /// This process.
    Process(u32),
    /// Somebody who does not say its number.
    Somebody,
    /// It cannot be found out.
    Unknown(String),
}

impl Holder {
    /// Who holds this lock. It is touched for a moment, shared, and left as it is.
    pub(crate) fn of(lock: &Path) -> Self {
        let file = match File::open(lock) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::Nobody,
            Err(error) => return Self::Unknown(error.to_string()),
        };
        match file.try_lock_shared() {
            Ok(()) => Self::Nobody,
            Err(TryLockError::WouldBlock) => {
                let text = io::read_to_string(io::Read::take(file, 32)).unwrap_or_default();
                text.trim().parse().map_or(Self::Somebody, Self::Process)
            }
            Err(TryLockError::Error(error)) => Self::Unknown(error.to_string()),
        }
    }

    /// Its number, if somebody is there who says it.
    pub(crate) fn process(&self) -> Option<u32> {
        match self {
            Self::Process(id) => Some(*id),
            Self::Nobody | Self::Somebody | Self::Unknown(_) => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_a_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("receiver.lock");
        assert_eq!(Holder::of(&lock), Holder::Nobody);
        let held = receiver::store::lock::DataLock::acquire(folder.path()).unwrap();
        assert_eq!(Holder::of(&lock), Holder::Process(std::process::id()));
        drop(held);
        assert_eq!(Holder::of(&lock), Holder::Nobody);
    }
}
