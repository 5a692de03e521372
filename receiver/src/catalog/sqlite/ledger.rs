//! Questions about losses and gaps.

use rusqlite::{Connection, named_params, params};
use shared::image::Transport;

use super::row;
use crate::catalog::{Gap, Integrity, KeptLoss, LossFilter, RunLedger};

/// Reasons that a run's ledger lists.
const REASONS: usize = 20;

/// Losses after number `after`.
pub(super) fn losses(
    connection: &Connection,
    filter: &LossFilter,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<KeptLoss>> {
    let mut statement = connection.prepare_cached(
        "SELECT * FROM losses WHERE number > :after
             AND (:transmitter IS NULL OR transmitter = :transmitter)
             AND (:outbox IS NULL OR outbox = :outbox)
             AND (:run IS NULL OR run = :run)
             AND (:since IS NULL OR received >= :since)
         ORDER BY number LIMIT :limit",
    )?;
    let rows = statement.query_map(
        named_params! {
            ":after": after,
            ":transmitter": filter.transmitter,
            ":outbox": filter.outbox.map(row::outbox_bytes),
            ":run": filter.run,
            ":since": filter.since.map(|time| time.0),
            ":limit": to_i64(limit),
        },
        row::loss,
    )?;
    rows.collect()
}

/// Gaps by transmitter, outbox and number.
pub(super) fn gaps(
    connection: &Connection,
    filter: &LossFilter,
    limit: usize,
) -> rusqlite::Result<Vec<Gap>> {
    let mut statement = connection.prepare_cached(
        "SELECT g.*, s.transmitter, s.outbox FROM gaps g JOIN streams s ON s.stream = g.stream
         WHERE (:transmitter IS NULL OR s.transmitter = :transmitter)
             AND (:outbox IS NULL OR s.outbox = :outbox)
             AND (:run IS NULL OR g.run = :run)
             AND (:since IS NULL OR g.found >= :since)
         ORDER BY s.transmitter, s.outbox, g.first LIMIT :limit",
    )?;
    let rows = statement.query_map(
        named_params! {
            ":transmitter": filter.transmitter,
            ":outbox": filter.outbox.map(row::outbox_bytes),
            ":run": filter.run,
            ":since": filter.since.map(|time| time.0),
            ":limit": to_i64(limit),
        },
        row::gap,
    )?;
    rows.collect()
}

/// What became of a series beside its images.
pub(super) fn of_run(
    connection: &Connection,
    run: &str,
    transport: Transport,
    transmitter: &str,
) -> rusqlite::Result<RunLedger> {
    let named: i64 = connection
        .prepare_cached("SELECT count(*) FROM losses WHERE run = ?1 AND transmitter = ?2")?
        .query_row(params![run, transmitter], |row| row.get(0))?;
    let mut reasons = Vec::new();
    if named > 0 {
        reasons = connection
            .prepare_cached(
                "SELECT reason, count(*) FROM losses WHERE run = ?1 AND transmitter = ?2
                 GROUP BY reason ORDER BY 2 DESC, 1 LIMIT ?3",
            )?
            .query_map(params![run, transmitter, to_i64(REASONS)], |row| {
                Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
            })?
            .collect::<rusqlite::Result<_>>()?;
    }
    let missing = connection
        .prepare_cached(
            "SELECT total(g.missing) FROM streams s JOIN gaps g ON g.stream = s.stream
             WHERE s.transmitter = ?2 AND g.run = ?1
                 AND (g.transport IS NULL OR g.transport = ?3)",
        )?
        .query_row(params![run, transmitter, transport.key()], number)?;
    let reused: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM streams s JOIN reuses r ON r.stream = s.stream
             WHERE s.transmitter = ?2 AND r.run = ?1",
        )?
        .query_row(params![run, transmitter], |row| row.get(0))?;
    Ok(RunLedger {
        named: named.cast_unsigned(),
        reasons,
        missing,
        reused: reused.cast_unsigned(),
    })
}

/// The state of all sequence numbers together.
pub(super) fn integrity(connection: &Connection) -> rusqlite::Result<Integrity> {
    let reused: i64 = connection
        .prepare_cached("SELECT count(*) FROM reuses")?
        .query_row([], |row| row.get(0))?;
    Ok(Integrity {
        missing: connection
            .prepare_cached("SELECT total(missing) FROM gaps")?
            .query_row([], number)?,
        reused: reused.cast_unsigned(),
        owed: connection
            .prepare_cached(
                "SELECT total(max(0, next_sequence - floor)) FROM streams WHERE floor IS NOT NULL",
            )?
            .query_row([], number)?,
    })
}

/// A sum that may go beyond what whole numbers hold: outboxes may tell any number.
fn number(row: &rusqlite::Row<'_>) -> rusqlite::Result<u64> {
    row.get::<_, f64>(0).map(|sum| sum as u64)
}

fn to_i64(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
