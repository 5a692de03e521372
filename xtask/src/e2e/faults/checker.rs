//! Reads both disks while both programs are stopped, and says what does not hold.
//!
//! It shares no code with the programs: the catalogue is read as the SQLite file that it is, the
//! outbox by `docs/specs/outbox.md`. It works on copies of both databases, because opening one
//! after a crash changes it.

mod books;
mod outbox;
mod receipts;
mod receiver;
mod truth;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(crate) use books::Summary;
pub(crate) use truth::{Known, Truth};

/// Where everything lies.
pub(crate) struct Disks<'a> {
    /// The receiver's `--data`.
    pub(crate) data: &'a Path,
    /// The transmitter's `--outbox`.
    pub(crate) outbox: &'a Path,
    /// The transmitter's `--receipts`.
    pub(crate) receipts: &'a Path,
    /// A folder for copies.
    pub(crate) scratch: &'a Path,
}

/// How strictly it is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expect {
    /// The receiver stopped in order: it left no image without an entry.
    pub(crate) receiver_stopped: bool,
    /// Everything was delivered: nothing may be owed, and nothing may be without a trace.
    pub(crate) drained: bool,
    /// Images give way when the outbox is full: also one that was answered just before a crash.
    pub(crate) gives_way: bool,
}

/// An image's place in the order of its outbox: id of the outbox and sequence number.
pub(crate) type Place = ([u8; 16], u64);

/// What earlier looks at the same disks saw.
#[derive(Default)]
pub(crate) struct History {
    /// Which image has which number, for ever.
    sequences: BTreeMap<Place, [u8; 16]>,
    /// Files without an entry, and for how many looks.
    orphans: BTreeMap<PathBuf, u32>,
}

/// What was found to be wrong; empty when everything holds.
pub(crate) type Findings = Vec<String>;

/// Looks at both disks. With `truth`, the contents of all images are known.
///
/// # Errors
/// When a disk cannot be read. What is read and is wrong is a finding.
pub(crate) fn check(
    disks: &Disks<'_>,
    truth: Option<&Truth>,
    expect: Expect,
    history: &mut History,
) -> Result<(Summary, Findings)> {
    match std::fs::remove_dir_all(disks.scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("clearing {}", disks.scratch.display()));
        }
        _ => std::fs::create_dir_all(disks.scratch)?,
    }
    let mut findings = Findings::new();
    let receiver =
        receiver::read(disks.data, disks.scratch, &mut findings).context("the receiver's disk")?;
    let outbox = outbox::read(disks.outbox, disks.scratch, &mut findings)
        .context("the transmitter's disk")?;
    let receipts =
        receipts::read(disks.receipts, &mut findings).context("the transmitter's receipts")?;
    let books = books::Books {
        receiver,
        outbox,
        receipts,
    };
    let summary = books.audit(truth, expect, history, &mut findings);
    Ok((summary, findings))
}

/// An image id as text.
pub(crate) fn id_text(id: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes(*id).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files below `folder`, none when it is not there.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    crate::e2e::check::files_below(folder)
}

#[cfg(test)]
mod tests;
