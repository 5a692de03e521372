//! Form of the file, and how older forms become the present one.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use shared::receipt::Durability;

use super::{failed, sqlite};
use crate::catalog::CatalogError;

/// "Pant" in ASCII: marks the file as a catalogue of this program.
const APPLICATION_ID: i32 = 0x5061_6e74;

/// Step `n` brings a file of version `n` to version `n + 1`. Published steps never change.
///
/// Unsigned 64-bit numbers are stored as the signed number with the same bits. Ids and digests are
/// blobs; the length of a digest tells its algorithm.
const MIGRATIONS: &[&str] = &[IMAGES, LOSSES];

const IMAGES: &str = "
    CREATE TABLE series (
        series      INTEGER PRIMARY KEY,
        run         TEXT NOT NULL,
        transport   TEXT NOT NULL,
        transmitter TEXT NOT NULL,
        stored      INTEGER NOT NULL,
        quarantined INTEGER NOT NULL,
        duplicates  INTEGER NOT NULL,
        rejected    INTEGER NOT NULL,
        bytes       INTEGER NOT NULL,
        first_ns    INTEGER NOT NULL,
        last_ns     INTEGER NOT NULL,
        cpu_ns      INTEGER NOT NULL,
        peak_memory INTEGER NOT NULL,
        account     TEXT,
        UNIQUE (run, transport, transmitter)
    ) STRICT;
    CREATE INDEX series_by_begin ON series (first_ns);

    CREATE TABLE images (
        number          INTEGER PRIMARY KEY AUTOINCREMENT,
        id              BLOB NOT NULL UNIQUE,
        series          INTEGER NOT NULL REFERENCES series (series),
        size            INTEGER NOT NULL,
        declared_digest BLOB,
        content_type    TEXT,
        name            TEXT,
        sequence        INTEGER NOT NULL,
        captured        INTEGER,
        queued          INTEGER,
        send_started    INTEGER,
        clock_offset    INTEGER,
        clock_error     INTEGER,
        clock_samples   INTEGER,
        attempt         INTEGER NOT NULL,
        digest          BLOB NOT NULL,
        reason          TEXT,
        message         TEXT,
        format          TEXT NOT NULL,
        media_type      TEXT NOT NULL,
        width           INTEGER NOT NULL,
        height          INTEGER NOT NULL,
        location        TEXT NOT NULL,
        durability      TEXT NOT NULL,
        first_byte      INTEGER NOT NULL,
        last_byte       INTEGER NOT NULL,
        verified        INTEGER NOT NULL,
        durable         INTEGER NOT NULL,
        delivery_ns     INTEGER,
        attempts        INTEGER
    ) STRICT;
    CREATE INDEX images_by_series ON images (series, number);
    CREATE INDEX images_quarantined ON images (number) WHERE reason IS NOT NULL;
";

/// A stream is an outbox of a transmitter. Its `floor` is the lowest sequence number that is still
/// owed, NULL until that is told; of the numbers below `checked`, each came, or is among the losses
/// or gaps. Losses that were told without an outbox have one of no bytes.
const LOSSES: &str = "
    CREATE TABLE streams (
        stream        INTEGER PRIMARY KEY,
        transmitter   TEXT NOT NULL,
        outbox        BLOB NOT NULL,
        floor         INTEGER,
        next_sequence INTEGER NOT NULL,
        checked       INTEGER NOT NULL,
        changed       INTEGER NOT NULL,
        UNIQUE (transmitter, outbox)
    ) STRICT;

    ALTER TABLE images ADD COLUMN outbox BLOB;
    ALTER TABLE images ADD COLUMN stream INTEGER;
    CREATE INDEX images_by_sequence ON images (stream, sequence) WHERE stream IS NOT NULL;

    CREATE TABLE losses (
        number      INTEGER PRIMARY KEY AUTOINCREMENT,
        transmitter TEXT NOT NULL,
        outbox      BLOB NOT NULL,
        sequence    INTEGER NOT NULL,
        image_id    BLOB NOT NULL,
        digest      BLOB,
        reason      TEXT NOT NULL,
        at          INTEGER NOT NULL,
        run         TEXT NOT NULL,
        received    INTEGER NOT NULL,
        UNIQUE (transmitter, outbox, sequence, image_id)
    ) STRICT;
    CREATE INDEX losses_by_run ON losses (run, transmitter);

    CREATE TABLE repeats (
        stream   INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        image_id BLOB NOT NULL,
        PRIMARY KEY (stream, sequence, image_id)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE gaps (
        stream    INTEGER NOT NULL,
        first     INTEGER NOT NULL,
        last      INTEGER NOT NULL,
        missing   INTEGER NOT NULL,
        run       TEXT NOT NULL,
        transport TEXT,
        found     INTEGER NOT NULL,
        PRIMARY KEY (stream, first)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE reuses (
        stream   INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        image_id BLOB NOT NULL,
        other_id BLOB NOT NULL,
        run      TEXT NOT NULL,
        at       INTEGER NOT NULL,
        PRIMARY KEY (stream, sequence, image_id)
    ) STRICT, WITHOUT ROWID;
";

/// Up to this size the whole file is checked when it is opened: about a tenth of a second. Damage
/// in a larger one is found where it is read.
const CHECKED_BYTES: u64 = 64 << 20;

/// Opens the file for writing, in its present form.
pub(super) fn open(path: &Path, durability: Durability) -> Result<Connection, CatalogError> {
    let named = |error: CatalogError| CatalogError {
        action: error.action,
        problem: format!("{}: {}", path.display(), error.problem),
        fault: error.fault,
    };
    prepare(path, durability).map_err(named)
}

fn prepare(path: &Path, durability: Durability) -> Result<Connection, CatalogError> {
    const ACTION: &str = "opening";
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let mut connection = Connection::open(path).map_err(sqlite(ACTION))?;
    tune(&connection).map_err(sqlite(ACTION))?;
    migrate(&mut connection)?;
    if (1..=CHECKED_BYTES).contains(&size) {
        check(&connection)?;
    }
    let synchronous = match durability {
        Durability::Synced => "FULL",
        Durability::Written => "NORMAL",
        Durability::Memory => "OFF",
    };
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
             PRAGMA journal_size_limit = 67108864; PRAGMA foreign_keys = ON;"
        ))
        .map_err(sqlite(ACTION))?;
    Ok(connection)
}

/// Opens the file for reading; the writer has brought it to its present form.
pub(super) fn open_reader(path: &Path) -> Result<Connection, CatalogError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(sqlite("opening for reading"))?;
    tune(&connection).map_err(sqlite("opening for reading"))?;
    Ok(connection)
}

fn tune(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    // Negative: in KiB.
    connection.pragma_update(None, "cache_size", -4096)
}

fn migrate(connection: &mut Connection) -> Result<(), CatalogError> {
    const ACTION: &str = "reading its version";
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sqlite(ACTION))?;
    let number = |pragma: &str| {
        transaction
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i32>(0))
            .map_err(sqlite(ACTION))
    };
    let tables: i64 = transaction
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite(ACTION))?;
    if tables > 0 && number("application_id")? != APPLICATION_ID {
        return Err(failed(ACTION)(
            "it is a database of another program: move it away or choose another RECEIVER_DATA"
                .to_owned(),
        ));
    }
    let found = number("user_version")?;
    let version = usize::try_from(found).unwrap_or(usize::MAX);
    let Some(steps) = MIGRATIONS.get(version..) else {
        return Err(failed(ACTION)(format!(
            "it has version {found}, this program knows up to {}: use the newer program",
            MIGRATIONS.len()
        )));
    };
    if steps.is_empty() {
        return Ok(());
    }
    for step in steps {
        transaction
            .execute_batch(step)
            .map_err(sqlite("bringing it to the present form"))?;
    }
    let version = MIGRATIONS.len();
    transaction
        .execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version};"
        ))
        .and_then(|()| transaction.commit())
        .map_err(sqlite("bringing it to the present form"))
}

fn check(connection: &Connection) -> Result<(), CatalogError> {
    const ACTION: &str = "checking";
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(sqlite(ACTION))?;
    if found == "ok" {
        return Ok(());
    }
    // The findings are one text with several lines.
    let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(failed(ACTION)(format!(
        "{found}; the file is damaged: restore it from a backup, or move it away to begin anew"
    )))
}
