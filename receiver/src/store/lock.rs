//! One receiver for one data folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::store::StoreError;

const FILE_NAME: &str = "receiver.lock";

/// Holds a data folder for this receiver until it is dropped or its process dies.
///
/// The lock is the kernel's, so nothing is left to clean after a crash; the file only names the
/// process to whoever finds the folder taken.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    /// Takes `folder`, which is made when it is not there.
    ///
    /// # Errors
    /// When another receiver holds it, or the folder cannot be made or written.
    pub fn acquire(folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder)
            .map_err(|source| StoreError::io("making folder", folder, source))?;
        let path = folder.join(FILE_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| StoreError::io("opening", &path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file);
                return Err(StoreError::InUse {
                    path: folder.to_path_buf(),
                    holder,
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(StoreError::io("locking", &path, source));
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|source| StoreError::io("writing", &path, source))?;
        Ok(Self { _file: file })
    }
}

/// The holder by the file's word, which may be missing in the moment between locking and writing.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}
