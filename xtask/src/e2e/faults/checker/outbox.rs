//! The transmitter's disk, by `docs/specs/outbox.md`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::truth::{has_digest, sha256};
use super::{Findings, files, hex, id_text};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const IMAGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("images");
const LEDGER: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ledger");
/// Length of a slot of the file `mark`.
const SLOT: usize = 80;

/// What is on it.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) id: Option<[u8; 16]>,
    /// The next image gets this number, or a higher one.
    pub(super) next: u64,
    /// Images that are owed.
    pub(super) owed: Vec<Owed>,
    /// Images on the loss ledger.
    pub(super) lost: Vec<Lost>,
}

pub(super) struct Owed {
    pub(super) sequence: u64,
    pub(super) id: [u8; 16],
    /// SHA-256 of its bytes, where they can be read.
    pub(super) content: Option<[u8; 32]>,
}

pub(super) struct Lost {
    pub(super) sequence: u64,
    pub(super) id: [u8; 16],
    pub(super) digest: Option<Vec<u8>>,
    pub(super) reason: String,
    pub(super) told: bool,
}

/// Reads everything. A folder in which no transmitter ever ran is empty.
pub(super) fn read(folder: &Path, scratch: &Path, findings: &mut Findings) -> Result<Outbox> {
    let mut outbox = Outbox::default();
    let mut kept = kept_files(folder, findings)?;
    let index = folder.join("index.redb");
    let mut reserved = None;
    if let Ok(bytes) = std::fs::read(folder.join("mark")) {
        let slot = mark(&bytes);
        reserved = slot.as_ref().map(|slot| slot.reserved);
        outbox.id = slot.map(|slot| slot.outbox);
    }
    if folder.join("quarantine/index.redb").exists() {
        findings.push("the index of the outbox was lost and made again".to_owned());
    }
    if index.exists() {
        let copy = scratch.join("index.redb");
        std::fs::copy(&index, &copy).context("copying the index")?;
        // The first thing on a new disk may be half an index: nothing is in it then.
        match redb::Database::open(&copy) {
            Ok(database) => read_index(&database, folder, &mut kept, &mut outbox, findings)
                .context("the index of the outbox")?,
            Err(error) if kept.is_empty() && reserved.is_none() => {
                findings.push(format!(
                    "the index of an empty outbox is unreadable: {error}"
                ));
            }
            Err(error) => bail!("the index of the outbox: {error}"),
        }
    }
    // What was written in full and not entered yet is taken in at the next start.
    for (sequence, file) in kept {
        if sequence >= outbox.next {
            let bytes = std::fs::read(&file.path)
                .with_context(|| format!("reading {}", file.path.display()))?;
            if has_digest(&bytes, &file.digest) {
                outbox.owed.push(Owed {
                    sequence,
                    id: file.id,
                    content: Some(sha256(&bytes)),
                });
            }
        }
    }
    if let Some(reserved) = reserved
        && outbox.next > reserved
    {
        let next = outbox.next;
        findings.push(format!(
            "number {next} is next and only those below {reserved} are reserved"
        ));
    }
    Ok(outbox)
}

/// A file in `images/`, by its name.
struct Kept {
    path: PathBuf,
    id: [u8; 16],
    digest: Vec<u8>,
}

fn kept_files(folder: &Path, findings: &mut Findings) -> Result<BTreeMap<u64, Kept>> {
    let mut kept = BTreeMap::new();
    for path in files(&folder.join("images"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((sequence, id, digest)) = parts(&name) else {
            findings.push(format!("{} has no name of an image", path.display()));
            continue;
        };
        let file = Kept { path, id, digest };
        if let Some(other) = kept.insert(sequence, file) {
            findings.push(format!(
                "number {sequence} has two files, {} is one",
                other.path.display()
            ));
        }
    }
    Ok(kept)
}

/// Sequence number, id and digest of a file's name.
fn parts(name: &str) -> Option<(u64, [u8; 16], Vec<u8>)> {
    let (sequence, rest) = name.split_at_checked(20)?;
    let (id, rest) = rest.strip_prefix('-')?.split_at_checked(36)?;
    let (digest, _) = rest.strip_prefix('-')?.split_once('-')?;
    let digest = digest.strip_prefix(['x', 'b'])?;
    let digest = (0..digest.len() / 2)
        .map(|at| u8::from_str_radix(digest.get(2 * at..2 * at + 2)?, 16).ok())
        .collect::<Option<Vec<u8>>>()?;
    let id = uuid::Uuid::try_parse(id).ok()?.into_bytes();
    Some((sequence.parse().ok()?, id, digest))
}

struct Slot {
    generation: u64,
    outbox: [u8; 16],
    reserved: u64,
}

/// The slot that counts.
fn mark(bytes: &[u8]) -> Option<Slot> {
    let slot = |at: usize| {
        let slot = bytes.get(at..at + SLOT)?;
        let sum = twox_hash::XxHash3_128::oneshot(&slot[..64]).to_be_bytes();
        if !slot.starts_with(b"PGOUTBOX") || slot[64..] != sum {
            return None;
        }
        Some(Slot {
            generation: u64::from_le_bytes(slot[8..16].try_into().ok()?),
            outbox: slot[16..32].try_into().ok()?,
            reserved: u64::from_le_bytes(slot[32..40].try_into().ok()?),
        })
    };
    [slot(0), slot(4096)]
        .into_iter()
        .flatten()
        .max_by_key(|slot| slot.generation)
}

fn read_index(
    database: &redb::Database,
    folder: &Path,
    kept: &mut BTreeMap<u64, Kept>,
    outbox: &mut Outbox,
    findings: &mut Findings,
) -> Result<()> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        other => other?,
    };
    if let Some(format) = meta.get("format")? {
        ensure!(format.value() == 1_u32.to_le_bytes(), "its format is not 1");
    }
    if let Some(id) = meta.get("outbox")? {
        outbox.id = Some(id.value().try_into().context("the id of the outbox")?);
    }
    if let Some(next) = meta.get("next")? {
        outbox.next = u64::from_le_bytes(next.value().try_into().context("the next number")?);
    }
    match transaction.open_table(IMAGES) {
        Err(TableError::TableDoesNotExist(_)) => {}
        table => {
            for row in table?.iter()? {
                let (sequence, value) = row?;
                let sequence = sequence.value();
                let image = image(value.value()).with_context(|| format!("image {sequence}"))?;
                let file = kept.remove(&sequence);
                owed(sequence, &image, file, folder, outbox, findings);
            }
        }
    }
    match transaction.open_table(LEDGER) {
        Err(TableError::TableDoesNotExist(_)) => {}
        table => {
            for row in table?.iter()? {
                let (sequence, value) = row?;
                let lost = lost(sequence.value(), value.value());
                let lost = lost.with_context(|| format!("loss {}", sequence.value()))?;
                outbox.lost.push(lost);
            }
        }
    }
    Ok(())
}

struct Image {
    id: [u8; 16],
    digest: Vec<u8>,
    size: u64,
    referenced: Option<PathBuf>,
}

fn owed(
    sequence: u64,
    image: &Image,
    file: Option<Kept>,
    folder: &Path,
    outbox: &mut Outbox,
    findings: &mut Findings,
) {
    let label = format!("image {sequence} ({})", id_text(&image.id));
    let path = match (&image.referenced, &file) {
        (Some(path), _) => path.clone(),
        (None, Some(file)) => {
            if file.id != image.id || file.digest != image.digest {
                findings.push(format!("the file of {label} is named after another image"));
            }
            file.path.clone()
        }
        (None, None) => {
            let folder = folder.display();
            findings.push(format!("{label} is owed and has no file in {folder}"));
            PathBuf::new()
        }
    };
    let mut content = None;
    // A file that is only referred to is its owner's, who may have removed it.
    if let Ok(bytes) = std::fs::read(&path) {
        let is_whole = bytes.len() as u64 == image.size && has_digest(&bytes, &image.digest);
        if is_whole {
            content = Some(sha256(&bytes));
        } else if image.referenced.is_none() {
            let digest = hex(&image.digest);
            findings.push(format!("the bytes of {label} are not those of {digest}"));
        }
    }
    outbox.owed.push(Owed {
        sequence,
        id: image.id,
        content,
    });
}

fn image(value: &[u8]) -> Result<Image> {
    let mut value = Value::begin(value)?;
    let id = value.array()?;
    let digest = value.digest()?;
    let size = value.number()?;
    value.take(4)?;
    for _ in 0..2 {
        value.optional(|value| value.number().map(drop))?;
    }
    for _ in 0..3 {
        value.optional(|value| value.bytes().map(drop))?;
    }
    // The mark's key, and the mark.
    value.optional(|value| value.take(16).map(drop))?;
    value.optional(|value| {
        value.bytes()?;
        value.take(8 + 8 + 1).map(drop)
    })?;
    let referenced =
        value.optional(|value| Ok(PathBuf::from(OsStr::from_bytes(value.bytes()?))))?;
    Ok(Image {
        id,
        digest,
        size,
        referenced,
    })
}

fn lost(sequence: u64, value: &[u8]) -> Result<Lost> {
    let mut value = Value::begin(value)?;
    let told = value.array::<1>()? == [1];
    let id = value.array()?;
    let digest = value.optional(Value::digest)?;
    // Size and time.
    value.take(8 + 8)?;
    value.bytes()?;
    let reason = String::from_utf8_lossy(value.bytes()?).into_owned();
    Ok(Lost {
        sequence,
        id,
        digest,
        reason,
        told,
    })
}

/// A value of the index that is being taken apart.
struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    fn begin(bytes: &'a [u8]) -> Result<Self> {
        let mut value = Self(bytes);
        ensure!(value.array::<1>()? == [1], "a value of another version");
        Ok(value)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .context("a value breaks off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn number(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(length as usize)
    }

    fn digest(&mut self) -> Result<Vec<u8>> {
        let length = match self.array::<1>()? {
            [1] => 16,
            [2] => 32,
            other => bail!("digest of kind {other:?}"),
        };
        Ok(self.take(length)?.to_vec())
    }

    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        match self.array::<1>()? {
            [0] => Ok(None),
            [1] => read(self).map(Some),
            other => bail!("an optional value that begins with {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_image_is_taken_apart() {
        let id = "0190b6c2-7c3e-7b1a-9d3c-2f6a1b0c4d5e";
        let name = format!("00000000000000000042-{id}-x{}-g", "ab".repeat(16));
        let (sequence, found, digest) = parts(&name).unwrap();
        assert_eq!((sequence, id_text(&found).as_str()), (42, id));
        assert_eq!(digest, vec![0xab; 16]);
        let marked = format!("{name}-{}", "0".repeat(32));
        assert_eq!(parts(&marked).unwrap().2, digest);
        for wrong in ["", "x", "00000000000000000042", &name[..60]] {
            assert!(parts(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_newer_valid_slot_of_the_mark_counts() {
        let slot = |generation: u64, reserved: u64| {
            let mut slot = b"PGOUTBOX".to_vec();
            slot.extend(generation.to_le_bytes());
            slot.extend([7; 16]);
            slot.extend(reserved.to_le_bytes());
            slot.resize(64, 0);
            let sum = twox_hash::XxHash3_128::oneshot(&slot).to_be_bytes();
            slot.extend(sum);
            slot
        };
        let mut bytes = slot(4, 20_000);
        bytes.resize(4096, 0);
        bytes.extend(slot(5, 30_000));
        assert_eq!(mark(&bytes).unwrap().reserved, 30_000);
        bytes[4096 + 33] ^= 1;
        assert_eq!(mark(&bytes).unwrap().reserved, 20_000);
        bytes[0] = 0;
        assert!(mark(&bytes).is_none());
    }

    #[test]
    fn values_that_break_off_are_refused() {
        let mut value = vec![1, 1];
        value.extend([9; 16]);
        value.push(0);
        value.extend([0; 16]);
        for text in ["run", "evicted"] {
            value.extend((text.len() as u32).to_le_bytes());
            value.extend(text.as_bytes());
        }
        let loss = lost(3, &value).unwrap();
        assert!(loss.told && loss.reason == "evicted" && loss.digest.is_none());
        for length in 0..value.len() {
            assert!(lost(3, &value[..length]).is_err(), "{length}");
        }
    }
}
