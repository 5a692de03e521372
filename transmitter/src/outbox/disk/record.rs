//! What the index says of images, losses and series.

use std::path::PathBuf;

use bytes::Bytes;
use shared::clock::UnixNanos;
use shared::digest::{Digest, DigestAlgorithm};
use shared::image::{ImageId, ImageMeta, Transport};
use shared::report::RunAccount;
use shared::wire::{self, Loss};

use super::encoding::{Malformed, Packer, Unpacker, transport_number};
use super::layout::FileName;
use crate::outbox::{Counts, FileMark, Lost, SeriesKey};

/// What an image counts for beside its bytes: name, entry, mark.
pub(super) const ENTRY_BYTES: u64 = 1_024;

/// An image that is owed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) id: ImageId,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Number of its series.
    pub(crate) series: u32,
    pub(crate) captured: Option<UnixNanos>,
    pub(crate) queued: Option<UnixNanos>,
    pub(crate) name: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) source_file: Option<PathBuf>,
    /// Key of its mark; known also of an image of which only the file is left.
    pub(crate) mark_key: Option<u128>,
    pub(crate) mark: Option<FileMark>,
    /// Where its bytes are when they are not in the outbox.
    pub(crate) referenced: Option<PathBuf>,
}

impl Entry {
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::new();
        packer.id(self.id);
        packer.digest(&self.digest);
        packer.u64(self.size);
        packer.u32(self.series);
        packer.optional(self.captured, Packer::time);
        packer.optional(self.queued, Packer::time);
        packer.optional(self.name.as_deref(), Packer::text);
        packer.optional(self.content_type.as_deref(), Packer::text);
        packer.optional(self.source_file.as_deref(), Packer::path);
        packer.optional(self.mark_key, Packer::u128);
        packer.optional(self.mark.as_ref(), |packer, mark| {
            packer.path(&mark.path);
            packer.u64(mark.size);
            packer.time(UnixNanos(mark.modified));
            packer.transport(mark.transport);
        });
        packer.optional(self.referenced.as_deref(), Packer::path);
        packer.finish()
    }

    pub(super) fn unpack(value: &[u8]) -> Result<Self, Malformed> {
        let mut unpacker = Unpacker::new(value)?;
        let entry = Self {
            id: unpacker.id()?,
            digest: unpacker.digest()?,
            size: unpacker.u64()?,
            series: unpacker.u32()?,
            captured: unpacker.optional(Unpacker::time)?,
            queued: unpacker.optional(Unpacker::time)?,
            name: unpacker.optional(Unpacker::text)?,
            content_type: unpacker.optional(Unpacker::text)?,
            source_file: unpacker.optional(Unpacker::path)?,
            mark_key: unpacker.optional(Unpacker::u128)?,
            mark: unpacker.optional(|unpacker| {
                Ok(FileMark {
                    path: unpacker.path()?,
                    size: unpacker.u64()?,
                    modified: unpacker.i64()?,
                    transport: unpacker.transport()?,
                })
            })?,
            referenced: unpacker.optional(Unpacker::path)?,
        };
        unpacker.finish()?;
        Ok(entry)
    }

    /// The name of its file.
    pub(super) fn file_name(&self, sequence: u64, transport: Transport) -> FileName {
        FileName {
            sequence,
            id: self.id,
            digest: self.digest,
            transport,
            mark: self.mark_key,
        }
    }

    /// Bytes of its file in the outbox.
    pub(super) fn stored(&self) -> u64 {
        match self.referenced {
            None => self.size,
            Some(_) => 0,
        }
    }

    /// Bytes that it counts for.
    pub(super) fn cost(&self) -> u64 {
        self.stored() + ENTRY_BYTES
    }

    /// What is said of it when it is sent.
    pub(in crate::outbox) fn meta(&self, sequence: u64, run: &str) -> ImageMeta {
        let mut meta = ImageMeta::new(self.id, self.size);
        meta.digest = Some(self.digest);
        meta.content_type.clone_from(&self.content_type);
        meta.name.clone_from(&self.name);
        run.clone_into(&mut meta.run);
        meta.sequence = sequence;
        meta.captured = self.captured;
        meta.queued = self.queued;
        meta
    }
}

/// The key of a mark: the same file, unchanged, for the same transport.
pub(super) fn mark_key(mark: &FileMark) -> u128 {
    use std::os::unix::ffi::OsStrExt;
    let mut hasher = DigestAlgorithm::Xxh3.hasher();
    hasher.update(mark.path.as_os_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(&mark.size.to_le_bytes());
    hasher.update(&mark.modified.to_le_bytes());
    hasher.update(&[transport_number(mark.transport)]);
    xxh3(&hasher.finish())
}

/// The 128 bits of an XXH3 digest.
pub(super) fn xxh3(digest: &Digest) -> u128 {
    let bytes = digest.as_bytes();
    bytes
        .iter()
        .take(16)
        .fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

/// A mark of a file that was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::outbox) struct MarkEntry {
    /// The image that it was.
    pub(super) sequence: u64,
    /// The file; empty when only the mark's key is known.
    pub(super) path: PathBuf,
}

impl MarkEntry {
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::new();
        packer.u64(self.sequence);
        packer.path(&self.path);
        packer.finish()
    }

    pub(super) fn unpack(value: &[u8]) -> Result<Self, Malformed> {
        let mut unpacker = Unpacker::new(value)?;
        let entry = Self {
            sequence: unpacker.u64()?,
            path: unpacker.path()?,
        };
        unpacker.finish()?;
        Ok(entry)
    }
}

/// An image on the ledger.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LossEntry {
    /// The receiver has it.
    pub(crate) told: bool,
    pub(crate) id: ImageId,
    pub(crate) digest: Option<Digest>,
    pub(crate) size: u64,
    pub(crate) at: UnixNanos,
    pub(crate) run: String,
    pub(crate) reason: String,
    pub(crate) name: Option<String>,
}

/// A reason is a sentence, not a book.
const LONGEST_REASON: usize = 1_024;

impl LossEntry {
    pub(super) fn new(lost: &Lost) -> Self {
        let mut reason = lost.reason.clone();
        reason.truncate(reason.floor_char_boundary(LONGEST_REASON));
        Self {
            told: false,
            id: lost.meta.id,
            digest: lost.meta.digest,
            size: lost.meta.size,
            at: UnixNanos::now(),
            run: lost.meta.run.clone(),
            reason,
            name: lost.meta.name.clone(),
        }
    }

    pub(super) fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::new();
        packer.u8(u8::from(self.told));
        packer.id(self.id);
        packer.optional(self.digest.as_ref(), Packer::digest);
        packer.u64(self.size);
        packer.time(self.at);
        packer.text(&self.run);
        packer.text(&self.reason);
        packer.optional(self.name.as_deref(), Packer::text);
        packer.finish()
    }

    pub(super) fn unpack(value: &[u8]) -> Result<Self, Malformed> {
        let mut unpacker = Unpacker::new(value)?;
        let entry = Self {
            told: unpacker.u8()? != 0,
            id: unpacker.id()?,
            digest: unpacker.optional(Unpacker::digest)?,
            size: unpacker.u64()?,
            at: unpacker.time()?,
            run: unpacker.text()?,
            reason: unpacker.text()?,
            name: unpacker.optional(Unpacker::text)?,
        };
        unpacker.finish()?;
        Ok(entry)
    }

    pub(super) fn loss(self, sequence: u64) -> Loss {
        Loss {
            sequence,
            image_id: self.id,
            digest: self.digest,
            reason: self.reason,
            at: self.at,
            run: self.run,
        }
    }
}

/// A series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeriesEntry {
    pub(crate) key: SeriesKey,
    pub(crate) counts: Counts,
    /// The receiver knows that it is over.
    pub(crate) told_end: bool,
    /// Its latest account, encoded: it may be large, and is seldom asked for.
    pub(crate) account: Option<Bytes>,
}

impl SeriesEntry {
    pub(super) fn new(key: SeriesKey) -> Self {
        Self {
            key,
            counts: Counts::default(),
            told_end: false,
            account: None,
        }
    }

    /// The series of images of which only the files are left.
    pub(super) fn recovered(transport: Transport) -> Self {
        Self::new(SeriesKey {
            run: "recovered".to_owned(),
            transport,
        })
    }

    pub(super) fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::new();
        packer.text(&self.key.run);
        packer.transport(self.key.transport);
        let counts = &self.counts;
        for count in [
            counts.captured,
            counts.delivered,
            counts.duplicates,
            counts.quarantined,
            counts.lost,
        ] {
            packer.u64(count);
        }
        packer.u8(u8::from(self.told_end));
        packer.optional(self.account.as_deref(), Packer::bytes);
        packer.finish()
    }

    pub(super) fn unpack(value: &[u8]) -> Result<Self, Malformed> {
        let mut unpacker = Unpacker::new(value)?;
        let key = SeriesKey {
            run: unpacker.text()?,
            transport: unpacker.transport()?,
        };
        let counts = Counts {
            captured: unpacker.u64()?,
            delivered: unpacker.u64()?,
            duplicates: unpacker.u64()?,
            quarantined: unpacker.u64()?,
            lost: unpacker.u64()?,
        };
        let told_end = unpacker.u8()? != 0;
        let account = unpacker.optional(Unpacker::bytes)?;
        unpacker.finish()?;
        Ok(Self {
            key,
            counts,
            told_end,
            account: account.map(Bytes::copy_from_slice),
        })
    }

    /// Its latest account. It is for reports; a series lives without one that cannot be read.
    pub(super) fn account(&self) -> Option<RunAccount> {
        let account = self.account.clone()?;
        wire::decode_account(account).ok()
    }
}
