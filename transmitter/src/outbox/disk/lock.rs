//! One process at a time.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use shared::disk::{Disk, DiskFile};

/// The lock of an outbox; let go when it is dropped, or its process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Box<dyn DiskFile>,
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum NotLocked {
    /// Another process has it: this one.
    Held(String),
    Io(io::Error),
}

impl Lock {
    /// Takes the lock, at once or not at all.
    pub(super) fn take(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, NotLocked> {
        let file = match disk.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(path, true),
            made => made,
        }
        .map_err(NotLocked::Io)?;
        // A disk that no other process sees needs no lock.
        if let Some(file) = file.as_os() {
            match flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(NotLocked::Held(holder(file)));
                }
                Err(error) => return Err(NotLocked::Io(error.into())),
            }
        }
        // Only for messages: on a full disk the lock holds without it.
        let process = Bytes::from(format!("{}\n", std::process::id()));
        let _ = file.set_len(0).and_then(|()| file.write_at(&[process], 0));
        Ok(Self { _file: file })
    }
}

fn holder(file: &std::fs::File) -> String {
    use std::os::unix::fs::FileExt;
    let mut text = [0; 20];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    let digits: String = text[..length]
        .iter()
        .map_while(|byte| byte.is_ascii_digit().then_some(char::from(*byte)))
        .collect();
    if digits.is_empty() {
        "another process".to_owned()
    } else {
        format!("process {digits}")
    }
}
