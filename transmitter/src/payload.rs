//! The bytes of an image that waits to be sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use shared::chunk::{Crc32c, slices};
use shared::digest::{Digest, DigestAlgorithm};

use crate::workers::FILES;

/// Where an image's bytes are.
#[derive(Debug, Clone)]
pub enum Payload {
    /// In memory: frames of a camera, generated patterns.
    Memory(Bytes),
    /// In a file, read in slices when it is sent, so that memory does not grow with its size.
    File {
        /// The file.
        path: PathBuf,
        /// Its size when it was captured.
        size: u64,
    },
}

impl Payload {
    /// Size of the image in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// Bytes of memory that the payload occupies while it waits.
    pub fn memory(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { .. } => 0,
        }
    }

    /// Opens the payload for one attempt to send it.
    ///
    /// # Errors
    /// When the file is gone or cannot be read.
    pub async fn open(&self) -> io::Result<Reader> {
        match self {
            Self::Memory(bytes) => Ok(Reader::Memory(bytes.clone())),
            Self::File { path, .. } => {
                let path = path.clone();
                let file = FILES.work(move || File::open(path)).await?;
                Ok(Reader::File(Arc::new(file)))
            }
        }
    }

    /// Digest of the whole payload; a file is read once, in slices.
    ///
    /// # Errors
    /// When the file cannot be read; of kind `InvalidData` when it has another size than at capture.
    pub async fn digest(&self, algorithm: DigestAlgorithm) -> io::Result<Digest> {
        match self {
            Self::Memory(bytes) => Ok(algorithm.digest(bytes)),
            Self::File { path, size } => {
                let (path, size) = (path.clone(), *size);
                FILES
                    .work(move || digest_of_file(&path, size, algorithm))
                    .await
            }
        }
    }
}

/// A payload that is being sent.
#[derive(Debug, Clone)]
pub enum Reader {
    /// In memory.
    Memory(Bytes),
    /// An open file.
    File(Arc<File>),
}

impl Reader {
    /// The `len` bytes from `offset` on; no copy when the payload is in memory.
    ///
    /// # Errors
    /// When the file cannot be read or ends before.
    pub async fn read(&self, offset: u64, len: u32) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).map_err(io::Error::other)?;
                let to = from + len as usize;
                if to > bytes.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(bytes.slice(from..to))
            }
            Self::File(file) => {
                let file = Arc::clone(file);
                FILES
                    .work(move || {
                        let mut slice = vec![0; len as usize];
                        file.read_exact_at(&mut slice, offset)?;
                        Ok(slice.into())
                    })
                    .await
            }
        }
    }

    /// CRC-32C of the bytes from `from` up to `to`.
    ///
    /// # Errors
    /// When the file cannot be read or ends before.
    pub async fn crc32c(&self, from: u64, to: u64) -> io::Result<u32> {
        match self {
            Self::Memory(_) => {
                let mut sum = Crc32c::default();
                for (offset, len) in slices(to, from, SLICE as u32) {
                    sum.update(&self.read(offset, len).await?);
                    // Others have their turn: a window may be large.
                    tokio::task::yield_now().await;
                }
                Ok(sum.finish())
            }
            Self::File(file) => {
                let file = Arc::clone(file);
                FILES
                    .work(move || {
                        let (mut sum, mut slice) = (Crc32c::default(), vec![0; SLICE]);
                        for (offset, len) in slices(to, from, SLICE as u32) {
                            let slice = &mut slice[..len as usize];
                            file.read_exact_at(slice, offset)?;
                            sum.update(slice);
                        }
                        Ok(sum.finish())
                    })
                    .await
            }
        }
    }
}

/// Files are read in slices of this size.
const SLICE: usize = 256 << 10;

fn digest_of_file(path: &Path, size: u64, algorithm: DigestAlgorithm) -> io::Result<Digest> {
    use std::io::Read;
    let mut file = File::open(path)?;
    let mut hasher = algorithm.hasher();
    let mut slice = vec![0; SLICE];
    let mut total = 0;
    loop {
        let read = file.read(&mut slice)?;
        if read == 0 {
            break;
        }
        total += read as u64;
        hasher.update(&slice[..read]);
    }
    if total != size {
        let problem = format!("file changed from {size} to {total} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(hasher.finish())
}
