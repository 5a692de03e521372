//! The receiver's disk: files, and the catalogue as plain SQLite.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rusqlite::Connection;

use super::truth::{has_digest, sha256};
use super::{Findings, files, id_text};

/// What is on it.
#[derive(Default)]
pub(super) struct Received {
    /// Entries of the catalogue by image id.
    pub(super) entries: BTreeMap<[u8; 16], Entry>,
    /// What each outbox said last of its numbers: all below the first have their end.
    pub(super) floors: BTreeMap<[u8; 16], u64>,
    /// Losses it was told of.
    pub(super) losses: Vec<Loss>,
    /// Complete files without an entry: path and SHA-256 of the content.
    pub(super) orphans: Vec<(PathBuf, [u8; 32])>,
}

pub(super) struct Entry {
    pub(super) outbox: Option<[u8; 16]>,
    pub(super) sequence: u64,
    pub(super) digest: Vec<u8>,
    pub(super) size: u64,
    pub(super) quarantined: bool,
    /// When it was found to be right, nanoseconds since 1970.
    pub(super) verified: i64,
    /// SHA-256 of its file; `None` when there is no file, which is a finding already.
    pub(super) content: Option<[u8; 32]>,
}

pub(super) struct Loss {
    pub(super) outbox: Option<[u8; 16]>,
    pub(super) sequence: u64,
    pub(super) id: [u8; 16],
    pub(super) digest: Option<Vec<u8>>,
    pub(super) reason: String,
}

/// Reads everything. A folder in which no receiver ever ran is empty.
pub(super) fn read(data: &Path, scratch: &Path, findings: &mut Findings) -> Result<Received> {
    let mut received = Received::default();
    let mut named = BTreeSet::new();
    if let Some(catalogue) = copy(data, scratch)? {
        let connection = Connection::open(&catalogue).context("opening the catalogue")?;
        let verdict: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        if verdict != "ok" {
            findings.push(format!("the catalogue is damaged: {verdict}"));
        }
        // All tables or none: a crash may have come before the first was made.
        if has(&connection, "images")? {
            entries(&connection, data, &mut received, &mut named, findings)?;
            received.losses = losses(&connection).context("reading losses")?;
            received.floors = floors(&connection).context("reading floors")?;
            // What the receiver found out by itself must not be there either.
            for (table, what) in [
                ("gaps", "numbers that are missing"),
                ("reuses", "numbers given twice"),
            ] {
                let query = format!("SELECT count(*) FROM {table}");
                let count: i64 = connection.query_row(&query, [], |row| row.get(0))?;
                if count > 0 {
                    findings.push(format!("the receiver reports {what} ({count} entries)"));
                }
            }
        }
    }
    for folder in ["images", "quarantine"] {
        for file in files(&data.join(folder))? {
            if !named.contains(&file) {
                let bytes =
                    std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
                received.orphans.push((file, sha256(&bytes)));
            }
        }
    }
    Ok(received)
}

/// A copy of the catalogue with its log, as a crash left them; `None` when there is none.
fn copy(data: &Path, scratch: &Path) -> Result<Option<PathBuf>> {
    let name = "catalog.sqlite";
    if !data.join(name).exists() {
        return Ok(None);
    }
    // Not the `-shm` file: it is an index of the log, made again when there is none.
    for ending in ["", "-wal", "-journal"] {
        let from = data.join(format!("{name}{ending}"));
        if from.exists() {
            std::fs::copy(&from, scratch.join(format!("{name}{ending}")))
                .with_context(|| format!("copying {}", from.display()))?;
        }
    }
    Ok(Some(scratch.join(name)))
}

fn has(connection: &Connection, table: &str) -> Result<bool> {
    let query = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    let count: i64 = connection.query_row(query, [table], |row| row.get(0))?;
    Ok(count > 0)
}

fn entries(
    connection: &Connection,
    data: &Path,
    received: &mut Received,
    named: &mut BTreeSet<PathBuf>,
    findings: &mut Findings,
) -> Result<()> {
    let mut statement = connection.prepare(
        "SELECT id, outbox, sequence, digest, size, reason IS NOT NULL, location, verified
             FROM images",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: [u8; 16] = row.get(0)?;
        let mut entry = Entry {
            outbox: row.get(1)?,
            sequence: row.get::<_, i64>(2)?.cast_unsigned(),
            digest: row.get(3)?,
            size: row.get::<_, i64>(4)?.cast_unsigned(),
            quarantined: row.get(5)?,
            verified: row.get(7)?,
            content: None,
        };
        let location: String = row.get(6)?;
        let file = data.join(&location);
        let label = format!("image {} at {location}", id_text(&id));
        match std::fs::read(&file) {
            Ok(bytes) => {
                if bytes.len() as u64 != entry.size {
                    let length = bytes.len();
                    findings.push(format!("{label} has {length} bytes, not {}", entry.size));
                }
                if !has_digest(&bytes, &entry.digest) {
                    findings.push(format!("{label} has another digest than its entry"));
                }
                entry.content = Some(sha256(&bytes));
            }
            Err(error) => findings.push(format!("{label} is catalogued and not there: {error}")),
        }
        if !named.insert(file) {
            findings.push(format!("{label} shares its file with another entry"));
        }
        if received.entries.insert(id, entry).is_some() {
            findings.push(format!("{label} is catalogued twice"));
        }
    }
    Ok(())
}

fn floors(connection: &Connection) -> Result<BTreeMap<[u8; 16], u64>> {
    let mut statement =
        connection.prepare("SELECT outbox, floor FROM streams WHERE floor IS NOT NULL")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
    })?;
    rows.map(|row| row.context("a floor")).collect()
}

fn losses(connection: &Connection) -> Result<Vec<Loss>> {
    let mut statement =
        connection.prepare("SELECT outbox, sequence, image_id, digest, reason FROM losses")?;
    let rows = statement.query_map([], |row| {
        Ok(Loss {
            // One of no bytes: told without an outbox.
            outbox: row.get::<_, Vec<u8>>(0)?.try_into().ok(),
            sequence: row.get::<_, i64>(1)?.cast_unsigned(),
            id: row.get(2)?,
            digest: row.get(3)?,
            reason: row.get(4)?,
        })
    })?;
    rows.map(|row| row.context("a loss")).collect()
}
