//! Slices of images: how they are cut, carried, checked and put together again. No I/O, no clock.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::digest::{Digest, DigestAlgorithm, Hasher};

/// CRC-32C (Castagnoli) of `data`.
pub fn crc32c(data: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data);
    crc as u32
}

/// CRC-32C (Castagnoli) of bytes that come one after another.
pub struct Crc32c(crc_fast::Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The sum of all bytes.
    pub fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// Bytes in one or more pieces, as a network delivers them; taken apart without copying.
#[derive(Debug, Clone, Default)]
pub struct Segments {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Segments {
    /// No bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, in order; none of them is empty.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.pieces.iter()
    }

    /// Takes the first `count` bytes off.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn split_to(&mut self, count: usize) -> Self {
        assert!(
            count <= self.len,
            "split of {count} bytes from {}",
            self.len
        );
        let mut taken = Self::new();
        while taken.len < count {
            let wanted = count - taken.len;
            let Some(front) = self.pieces.front_mut() else {
                break;
            };
            if front.len() <= wanted {
                let piece = self.pieces.pop_front().unwrap_or_default();
                self.len -= piece.len();
                taken.push(piece);
            } else {
                taken.push(front.split_to(wanted));
                self.len -= wanted;
            }
        }
        taken
    }

    /// The bytes in one piece; copied only if they are in several.
    pub fn into_bytes(mut self) -> Bytes {
        match self.pieces.len() {
            0 => Bytes::new(),
            1 => self.pieces.pop_front().unwrap_or_default(),
            _ => self.copy_to_bytes(self.len),
        }
    }

    /// CRC-32C of the bytes.
    pub fn crc32c(&self) -> u32 {
        if let (Some(only), 1) = (self.pieces.front(), self.pieces.len()) {
            return crc32c(only);
        }
        let mut sum = Crc32c::default();
        for piece in &self.pieces {
            sum.update(piece);
        }
        sum.finish()
    }
}

impl From<Bytes> for Segments {
    fn from(piece: Bytes) -> Self {
        let mut segments = Self::new();
        segments.push(piece);
        segments
    }
}

impl From<Vec<u8>> for Segments {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl Buf for Segments {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advance by {count} of {}", self.len);
        self.len -= count;
        while count > 0 {
            let Some(front) = self.pieces.front_mut() else {
                break;
            };
            if front.len() > count {
                front.advance(count);
                break;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        if let Some(front) = self.pieces.front_mut()
            && front.len() > len
        {
            self.len -= len;
            return front.split_to(len);
        }
        let taken = self.split_to(len);
        if taken.pieces.len() == 1 {
            return taken.into_bytes();
        }
        let mut whole = Vec::with_capacity(taken.len);
        for piece in &taken.pieces {
            whole.extend_from_slice(piece);
        }
        whole.into()
    }
}

/// Pieces below this many bytes are copied together where they stay: each alone would cost more than
/// its bytes, and might keep a buffer alive that it was cut from and that is many times as large.
/// Copying them takes less time than anything else that is done with them.
pub const SMALL: usize = 64 << 10;

/// Pieces on their way to be [`Segments`], small ones joined.
#[derive(Debug, Default)]
pub struct Gathering {
    pieces: Segments,
    /// Small pieces at the end.
    small: BytesMut,
}

impl Gathering {
    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Bytes) {
        if piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
            if self.small.len() >= SMALL {
                self.settled();
            }
        } else {
            self.settled().push(piece);
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.pieces.len() + self.small.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What came so far.
    pub fn settled(&mut self) -> &mut Segments {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
        &mut self.pieces
    }
}

/// The slices of an image of `size` bytes from `offset` on: `(offset, length)` of each, of which
/// all but the last are `chunk_size` long. An empty image has none.
pub fn slices(size: u64, offset: u64, chunk_size: u32) -> impl Iterator<Item = (u64, u32)> {
    let step = u64::from(chunk_size.max(1));
    let mut next = offset;
    std::iter::from_fn(move || {
        let length = size.checked_sub(next).filter(|rest| *rest > 0)?.min(step);
        let at = next;
        next += length;
        u32::try_from(length).ok().map(|length| (at, length))
    })
}

/// Why a chunk does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// It does not start where the one before it ended.
    #[error("chunk starts at byte {offset}, expected byte {expected}")]
    Offset {
        /// Where it starts.
        offset: u64,
        /// Where it should.
        expected: u64,
    },
    /// It reaches beyond the declared size.
    #[error("chunk ends at byte {end} of an image declared with {size} bytes")]
    Overflow {
        /// Where it ends.
        end: u64,
        /// Declared size.
        size: u64,
    },
    /// Its sum is wrong.
    #[error("chunk at byte {offset} has CRC-32C {found:08x}, declared {declared:08x}")]
    Checksum {
        /// Where it starts.
        offset: u64,
        /// CRC-32C of the bytes that came.
        found: u32,
        /// CRC-32C that the sender declared.
        declared: u32,
    },
    /// One more than allowed.
    #[error("image has more than {limit} chunks")]
    Count {
        /// Allowed number.
        limit: u64,
    },
}

/// Why an image is not complete and right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// Bytes are missing.
    #[error("image declared with {declared} bytes ended after {received}")]
    Truncated {
        /// Declared size.
        declared: u64,
        /// Bytes that came.
        received: u64,
    },
    /// The digest is another.
    #[error("image has digest {found}, declared {declared}")]
    Digest {
        /// Digest of the bytes that came.
        found: Digest,
        /// Digest that the sender declared.
        declared: Digest,
    },
}

/// Puts an image together: checks the order, the sums, the size and the digest of its chunks, and
/// holds none of their bytes. Cloning it is a checkpoint.
#[derive(Debug, Clone)]
pub struct Assembler {
    size: u64,
    received: u64,
    chunks: u64,
    max_chunks: u64,
    hasher: Hasher,
}

impl Assembler {
    /// For an image of `size` bytes in at most `max_chunks` chunks.
    pub fn new(size: u64, max_chunks: u64, algorithm: DigestAlgorithm) -> Self {
        Self {
            size,
            received: 0,
            chunks: 0,
            max_chunks,
            hasher: algorithm.hasher(),
        }
    }

    /// Bytes so far, all of them checked.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Algorithm of the digest that is being made.
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.hasher.algorithm()
    }

    /// Digest of the bytes so far: what is kept of them can be checked against it later.
    pub fn digest_so_far(&self) -> Digest {
        self.hasher.finish()
    }

    /// The image, whose size was not known before, is complete as it is.
    pub fn end_here(&mut self) {
        self.size = self.received;
    }

    /// Declared size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the chunk that starts at `offset`. On an error nothing has changed.
    pub fn push(
        &mut self,
        offset: u64,
        declared: Option<u32>,
        data: &Segments,
    ) -> Result<(), ChunkError> {
        if offset != self.received {
            return Err(ChunkError::Offset {
                offset,
                expected: self.received,
            });
        }
        let end = offset.saturating_add(data.len() as u64);
        if end > self.size {
            return Err(ChunkError::Overflow {
                end,
                size: self.size,
            });
        }
        if self.chunks >= self.max_chunks {
            return Err(ChunkError::Count {
                limit: self.max_chunks,
            });
        }
        if let Some(declared) = declared {
            let found = data.crc32c();
            if found != declared {
                return Err(ChunkError::Checksum {
                    offset,
                    found,
                    declared,
                });
            }
        }
        for piece in data.pieces() {
            self.hasher.update(piece);
        }
        self.received = end;
        self.chunks += 1;
        Ok(())
    }

    /// The digest of the whole image, which must be complete and, where one is declared with the
    /// algorithm in use, the declared one.
    pub fn finish(&self, declared: Option<Digest>) -> Result<Digest, AssemblyError> {
        if self.received != self.size {
            return Err(AssemblyError::Truncated {
                declared: self.size,
                received: self.received,
            });
        }
        let found = self.hasher.finish();
        match declared {
            Some(declared) if declared != found => Err(AssemblyError::Digest { found, declared }),
            _ => Ok(found),
        }
    }
}
