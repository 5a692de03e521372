//! The machine's own file system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;

use super::{Disk, DiskFile, Listed};

/// The machine's own file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

/// Images are nobody else's business.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(PRIVATE_FILE)
            .open(path)?;
        Ok(Box::new(OsFile(file)))
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(writable);
        if writable {
            // What is written to has been made here. A link that somebody put in its place would
            // have another file overwritten.
            let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
            options.custom_flags(flags.bits().cast_signed());
        }
        let not_ours = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is no regular file; remove it", path.display()),
            )
        };
        let file = match options.open(path) {
            Err(error) if writable && is_link(&error) => {
                return Err(not_ours());
            }
            opened => opened?,
        };
        if writable && !file.metadata()?.is_file() {
            return Err(not_ours());
        }
        Ok(Box::new(OsFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(PRIVATE_FOLDER).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => made,
        }
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        // The parent of a relative path of one component is the empty path.
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<Listed>> + '_>> {
        Ok(Box::new(fs::read_dir(path)?.map(|entry| {
            let entry = entry?;
            Ok(Listed {
                is_folder: entry.file_type()?.is_dir(),
                name: entry.file_name(),
            })
        })))
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(path)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
}

#[derive(Debug)]
struct OsFile(File);

impl DiskFile for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, pieces: &[Bytes], offset: u64) -> io::Result<()> {
        if let [piece] = pieces {
            return self.0.write_all_at(piece, offset);
        }
        let mut slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .filter(|piece| !piece.is_empty())
            .map(|piece| IoSlice::new(piece))
            .collect();
        let mut rest = slices.as_mut_slice();
        let mut offset = offset;
        // The system takes 1,024 pieces at a time.
        while !rest.is_empty() {
            let some = rest.len().min(1_024);
            match rustix::io::pwritev(&self.0, &rest[..some], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        // On Linux, sync_data brings the length with it.
        self.0.sync_data()
    }

    fn as_os(&self) -> Option<&File> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_made_is_closed_to_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let (inner, path) = (folder.path().join("a"), folder.path().join("a/b"));
        OsDisk.create_folder(&inner).expect("a folder");
        OsDisk.create(&path).expect("a file");
        for path in [inner, path] {
            let mode = fs::metadata(&path).expect("it is there").permissions();
            assert_eq!(mode.mode() & 0o077, 0, "{}", path.display());
        }
    }

    #[test]
    fn nothing_is_written_through_a_link_or_to_what_is_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (victim, link) = (folder.path().join("victim"), folder.path().join("lock"));
        fs::write(&victim, "of somebody else").expect("a file");
        symlink(&victim, &link).expect("a link");
        let error = OsDisk.open(&link, true).expect_err("it leads elsewhere");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("lock"), "{error}");
        OsDisk.open(&link, false).expect("it may be read");
        OsDisk.open(folder.path(), true).expect_err("a folder");
        OsDisk.open(&victim, true).expect("a file");
    }

    #[test]
    fn writes_any_number_of_pieces_and_reads_them_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let file = OsDisk.create(&path).expect("a file");
        let pieces: Vec<Bytes> = (0..3_000_u32)
            .map(|number| match number % 3 {
                0 => Bytes::new(),
                _ => Bytes::from(number.to_be_bytes().to_vec()),
            })
            .collect();
        file.write_at(&pieces, 5).expect("space");
        let expected = pieces.concat();
        assert_eq!(file.len().expect("a length"), 5 + expected.len() as u64);
        let mut read = vec![0; expected.len()];
        file.read_exact_at(&mut read, 5).expect("its bytes");
        assert_eq!(read, expected);
        assert!(OsDisk.create(&path).is_err(), "it is there already");
        assert!(OsDisk.free(folder.path()).expect("a number") > 0);
    }
}
