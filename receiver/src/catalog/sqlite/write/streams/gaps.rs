//! Gaps: numbers below a floor that neither came nor were told as lost.

use rusqlite::{Connection, OptionalExtension, named_params, params};
use shared::clock::UnixNanos;
use shared::image::OutboxId;

/// Gaps of one stream at most; what comes after is put into the last one.
const MAX_GAPS: i64 = 4_096;

/// Numbers that are walked over at a time.
const STEP: usize = 50_000;

/// Walks over the numbers of a stream up to its floor, or over as many as are walked over at a
/// time, and notes what is missing; how many those are.
pub(in super::super) fn check(connection: &Connection, stream: i64) -> rusqlite::Result<u64> {
    type Bounds = (String, Vec<u8>, Option<i64>, i64);
    let (transmitter, outbox, floor, from): Bounds = connection
        .prepare_cached(
            "SELECT transmitter, outbox, floor, checked FROM streams WHERE stream = ?1",
        )?
        .query_row([stream], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
    let Some(to) = floor.filter(|floor| from < *floor) else {
        return Ok(0);
    };
    // What is missing between `expected` and a number that came.
    let mut missing = Vec::new();
    let mut expected = from;
    let mut walked = 0;
    {
        // Each part is an index in its order, which SQLite merges as it goes.
        let mut came = connection.prepare_cached(
            "SELECT sequence FROM images
             WHERE stream = :stream AND sequence >= :from AND sequence < :to
             UNION
             SELECT sequence FROM repeats
             WHERE stream = :stream AND sequence >= :from AND sequence < :to
             UNION
             SELECT sequence FROM losses WHERE transmitter = :transmitter AND outbox = :outbox
                 AND sequence >= :from AND sequence < :to
             ORDER BY sequence LIMIT :limit",
        )?;
        let mut rows = came.query(named_params! {
            ":stream": stream,
            ":from": from,
            ":to": to,
            ":transmitter": transmitter,
            ":outbox": outbox,
            ":limit": i64::try_from(STEP).unwrap_or(i64::MAX),
        })?;
        while let Some(row) = rows.next()? {
            let sequence: i64 = row.get(0)?;
            if sequence > expected {
                missing.push((expected, sequence - 1));
            }
            expected = sequence + 1;
            walked += 1;
        }
    }
    if walked < STEP {
        if expected < to {
            missing.push((expected, to - 1));
        }
        expected = to;
    }
    connection
        .prepare_cached("UPDATE streams SET checked = ?2 WHERE stream = ?1")?
        .execute(params![stream, expected])?;
    let count = missing
        .iter()
        .map(|(first, last)| last.abs_diff(*first) + 1)
        .sum();
    if let Some((first, _)) = missing.first() {
        tracing::error!(
            transmitter,
            outbox = %OutboxName(&outbox),
            missing = count,
            first,
            gaps = missing.len(),
            "images are missing without a word: their sequence numbers never came"
        );
    }
    note(connection, stream, &missing)?;
    Ok(count)
}

/// The id of an outbox as its text.
struct OutboxName<'a>(&'a [u8]);

impl std::fmt::Display for OutboxName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = self.0.try_into().ok().map(u128::from_be_bytes);
        match bits.and_then(OutboxId::from_u128) {
            Some(outbox) => outbox.fmt(f),
            None => Ok(()),
        }
    }
}

/// A gap as it is stored.
#[derive(Debug, Clone, Copy)]
struct Known {
    first: i64,
    last: i64,
    missing: i64,
}

impl Known {
    /// Whether all of its numbers are missing.
    fn is_exact(&self) -> bool {
        self.missing == self.last - self.first + 1
    }

    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            first: row.get(0)?,
            last: row.get(1)?,
            missing: row.get(2)?,
        })
    }
}

/// Notes gaps, which lie above those known, in their order.
fn note(connection: &Connection, stream: i64, missing: &[(i64, i64)]) -> rusqlite::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let mut known = gaps(connection, stream)?;
    let mut top = connection
        .prepare_cached(
            "SELECT first, last, missing FROM gaps WHERE stream = ?1 ORDER BY first DESC LIMIT 1",
        )?
        .query_row([stream], Known::read)
        .optional()?;
    let mut widened = false;
    for &(first, last) in missing {
        let count = last - first + 1;
        let joins = |top: &Known| top.last + 1 == first && top.is_exact();
        match &mut top {
            Some(top) if known >= MAX_GAPS || joins(top) => {
                top.last = last;
                top.missing += count;
                widened = true;
            }
            _ => {
                if let Some(top) = top.filter(|_| widened) {
                    widen(connection, stream, &top)?;
                    widened = false;
                }
                add(connection, stream, (first, last))?;
                known += 1;
                let missing = count;
                top = Some(Known {
                    first,
                    last,
                    missing,
                });
            }
        }
    }
    match top.filter(|_| widened) {
        Some(top) => widen(connection, stream, &top),
        None => Ok(()),
    }
}

fn gaps(connection: &Connection, stream: i64) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT count(*) FROM gaps WHERE stream = ?1")?
        .query_row([stream], |row| row.get(0))
}

fn widen(connection: &Connection, stream: i64, gap: &Known) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE gaps SET last = ?3, missing = ?4 WHERE stream = ?1 AND first = ?2")?
        .execute(params![stream, gap.first, gap.last, gap.missing])?;
    Ok(())
}

/// Adds a gap, as one of the run of the image before it or, if there is none, after it.
fn add(connection: &Connection, stream: i64, (first, last): (i64, i64)) -> rusqlite::Result<()> {
    const NEXT_TO: &str = "SELECT s.run, s.transport FROM images i
         CROSS JOIN series s ON s.series = i.series WHERE i.stream = ?1 AND i.sequence";
    let next_to = |side: &str, from: i64| {
        connection
            .prepare_cached(&format!("{NEXT_TO} {side} LIMIT 1"))?
            .query_row(params![stream, from], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .optional()
    };
    let mut image = next_to("BETWEEN 1 AND ?2 ORDER BY i.sequence DESC", first - 1)?;
    if image.is_none() {
        image = next_to("> ?2 ORDER BY i.sequence", last)?;
    }
    let (run, transport) = image.unzip();
    connection
        .prepare_cached(
            "INSERT INTO gaps (stream, first, last, missing, run, transport, found)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            stream,
            first,
            last,
            last - first + 1,
            run.unwrap_or_default(),
            transport,
            UnixNanos::now().0
        ])?;
    Ok(())
}

/// A missing number came after all.
pub(super) fn close(connection: &Connection, stream: i64, sequence: i64) -> rusqlite::Result<()> {
    let gap = connection
        .prepare_cached(
            "SELECT first, last, missing FROM gaps WHERE stream = ?1 AND first <= ?2
             ORDER BY first DESC LIMIT 1",
        )?
        .query_row(params![stream, sequence], Known::read)
        .optional()?;
    let Some(gap) = gap.filter(|gap| sequence <= gap.last) else {
        // It is older than the first word of the outbox.
        return Ok(());
    };
    let at = params![stream, gap.first];
    if gap.missing <= 1 {
        connection
            .prepare_cached("DELETE FROM gaps WHERE stream = ?1 AND first = ?2")?
            .execute(at)?;
    } else if gap.is_exact() && sequence == gap.first {
        connection
            .prepare_cached(
                "UPDATE gaps SET first = first + 1, missing = missing - 1
                 WHERE stream = ?1 AND first = ?2",
            )?
            .execute(at)?;
    } else if gap.is_exact() && sequence == gap.last {
        connection
            .prepare_cached(
                "UPDATE gaps SET last = last - 1, missing = missing - 1
                 WHERE stream = ?1 AND first = ?2",
            )?
            .execute(at)?;
    } else if gap.is_exact() && gaps(connection, stream)? < MAX_GAPS {
        connection
            .prepare_cached(
                "INSERT INTO gaps (stream, first, last, missing, run, transport, found)
                 SELECT stream, ?3 + 1, last, last - ?3, run, transport, found FROM gaps
                 WHERE stream = ?1 AND first = ?2",
            )?
            .execute(params![stream, gap.first, sequence])?;
        let lower = Known {
            last: sequence - 1,
            missing: sequence - gap.first,
            ..gap
        };
        widen(connection, stream, &lower)?;
    } else {
        connection
            .prepare_cached(
                "UPDATE gaps SET missing = missing - 1 WHERE stream = ?1 AND first = ?2",
            )?
            .execute(at)?;
    }
    Ok(())
}
