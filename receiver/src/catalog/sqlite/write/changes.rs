//! What a transaction does.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, named_params, params};
use shared::clock::UnixNanos;
use shared::image::{ImageId, Transport};
use shared::report::RunAccount;

use super::meter::Used;
use super::streams::Streams;
use super::{Job, Outcome};
use crate::catalog::sqlite::unwaited::Tallies;
use crate::catalog::sqlite::{read, row};
use crate::catalog::{Entry, Inserted, Verdict};

/// A series, as the key of what happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::catalog::sqlite) struct Key {
    pub(in crate::catalog::sqlite) run: String,
    pub(in crate::catalog::sqlite) transport: Transport,
    pub(in crate::catalog::sqlite) transmitter: String,
}

impl Key {
    fn of_entry(entry: &Entry) -> Self {
        Self {
            run: entry.meta.run.clone(),
            transport: entry.transport,
            transmitter: entry.transmitter.clone(),
        }
    }

    fn of_account(account: &RunAccount) -> Self {
        Self {
            run: account.run.clone(),
            transport: account.transport,
            transmitter: account.transmitter.clone(),
        }
    }
}

/// What a transaction adds to a series. Each series is written once a transaction.
#[derive(Debug, Default)]
struct Change {
    series: i64,
    stored: i64,
    quarantined: i64,
    duplicates: i64,
    rejected: i64,
    bytes: i64,
    /// First and last arrival.
    arrivals: Option<(i64, i64)>,
}

impl Change {
    fn arrived(&mut self, at: UnixNanos) {
        let (first, last) = self.arrivals.unwrap_or((at.0, at.0));
        self.arrivals = Some((first.min(at.0), last.max(at.0)));
    }
}

/// Writes a page as it was.
fn try_to_write(connection: &Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    connection.pragma_update(None, "user_version", version)
}

/// The changes of one transaction to the counts of series, gathered until its end.
#[derive(Debug, Default)]
pub(super) struct Changes {
    series: HashMap<Key, Change>,
    streams: Streams,
}

impl Changes {
    /// Does one job.
    pub(super) fn apply(
        &mut self,
        connection: &Connection,
        job: &Job,
    ) -> rusqlite::Result<Outcome> {
        match job {
            Job::Insert { entry, done } => {
                let inserted = self.insert(connection, entry, done.is_some())?;
                return Ok(Outcome::Inserted(inserted));
            }
            Job::Remove {
                id,
                location,
                reason,
                ..
            } => {
                let removed = self.remove(connection, *id, location, reason)?;
                return Ok(Outcome::Removed(removed));
            }
            Job::Tallies(tallies) => self.tally(connection, tallies)?,
            Job::Account { account, .. } => self.account(connection, account)?,
            Job::Losses { report, .. } => {
                return Ok(Outcome::Kept(self.streams.keep(connection, report)?));
            }
            Job::Repeat { repeat, .. } => self.streams.repeat(connection, repeat)?,
            Job::Trial { .. } => try_to_write(connection)?,
            Job::Settle { .. } | Job::Close { .. } => {}
        }
        Ok(Outcome::Done)
    }

    fn insert(
        &mut self,
        connection: &Connection,
        entry: &Entry,
        waited: bool,
    ) -> rusqlite::Result<Inserted> {
        let arrival = entry.timeline.last_byte;
        let stream = match entry.outbox {
            Some(outbox) => self
                .streams
                .number(connection, &entry.transmitter, outbox)?,
            None => None,
        };
        let change = self.change(connection, Key::of_entry(entry), arrival)?;
        if row::insert(connection, change.series, stream, entry)? {
            match entry.verdict {
                Verdict::Stored => {
                    change.stored += 1;
                    change.bytes = change.bytes.saturating_add_unsigned(entry.meta.size);
                }
                Verdict::Quarantined { .. } => change.quarantined += 1,
            }
            change.arrived(arrival);
            if let Some(outbox) = entry.outbox {
                let meta = &entry.meta;
                let arrival = (meta.sequence, meta.id, meta.run.as_str());
                self.streams
                    .image(connection, &entry.transmitter, outbox, arrival)?;
            }
            return Ok(Inserted::New);
        }
        if !waited {
            // Nobody else learns that it was there already.
            change.duplicates += 1;
            change.arrived(arrival);
            return Ok(Inserted::New);
        }
        let present =
            read::find(connection, entry.meta.id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        Ok(Inserted::Present(Box::new(present.entry)))
    }

    fn remove(
        &mut self,
        connection: &Connection,
        id: ImageId,
        location: &str,
        reason: &str,
    ) -> rusqlite::Result<bool> {
        let Some(known) = read::find(connection, id)? else {
            return Ok(false);
        };
        let entry = known.entry;
        if entry.location != location {
            return Ok(false);
        }
        connection
            .prepare_cached("DELETE FROM images WHERE number = ?1")?
            .execute(params![known.number])?;
        let key = Key::of_entry(&entry);
        let change = self.change(connection, key, entry.timeline.last_byte)?;
        match entry.verdict {
            Verdict::Stored => {
                change.stored -= 1;
                change.bytes = change.bytes.saturating_sub_unsigned(entry.meta.size);
            }
            Verdict::Quarantined { .. } => change.quarantined -= 1,
        }
        super::streams::lose(connection, &entry, reason)?;
        Ok(true)
    }

    fn tally(&mut self, connection: &Connection, tallies: &Tallies) -> rusqlite::Result<()> {
        let now = UnixNanos::now();
        for (key, events) in tallies {
            let change = self.change(connection, key.clone(), now)?;
            change.duplicates += i64::from(events.duplicates);
            change.rejected += i64::from(events.rejected);
            change.arrived(now);
        }
        Ok(())
    }

    fn account(&mut self, connection: &Connection, account: &RunAccount) -> rusqlite::Result<()> {
        let change = self.change(connection, Key::of_account(account), UnixNanos::now())?;
        let mut kept = account.clone();
        kept.images = Vec::new();
        // JSON has no other numbers.
        kept.cpu_seconds = if kept.cpu_seconds.is_finite() {
            kept.cpu_seconds
        } else {
            0.0
        };
        let json = serde_json::to_string(&kept)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        connection
            .prepare_cached("UPDATE series SET account = ?2 WHERE series = ?1")?
            .execute(params![change.series, json])?;
        // A transmitter speaks for its own images only, whatever transport the one that was
        // stored came by.
        let mut image = connection.prepare_cached(
            "UPDATE images SET delivery_ns = ?2, attempts = ?3 WHERE id = ?1 AND series IN
             (SELECT series FROM series WHERE run = ?4 AND transmitter = ?5)",
        )?;
        for told in &account.images {
            image.execute(params![
                row::id_bytes(told.image_id),
                told.delivery_ns.cast_signed(),
                told.attempts,
                account.run,
                account.transmitter,
            ])?;
        }
        Ok(())
    }

    /// The change of a series, which is made when it is not there, as one that began at `at`.
    fn change(
        &mut self,
        connection: &Connection,
        key: Key,
        at: UnixNanos,
    ) -> rusqlite::Result<&mut Change> {
        use std::collections::hash_map::Entry as Slot;
        match self.series.entry(key) {
            Slot::Occupied(known) => Ok(known.into_mut()),
            Slot::Vacant(slot) => {
                let series = series(connection, slot.key(), at)?;
                Ok(slot.insert(Change {
                    series,
                    ..Change::default()
                }))
            }
        }
    }

    /// Writes the counts, and divides what the process used among the series by their bytes.
    pub(super) fn save(&self, connection: &Connection, used: Used) -> rusqlite::Result<()> {
        // A byte more for each, as there may be none.
        let weight = |change: &Change| change.bytes.unsigned_abs().saturating_add(1);
        let all = self
            .series
            .values()
            .map(weight)
            .fold(0, u64::saturating_add)
            .max(1);
        let mut statement = connection.prepare_cached(
            "UPDATE series SET stored = stored + :stored,
                 quarantined = quarantined + :quarantined,
                 duplicates = duplicates + :duplicates, rejected = rejected + :rejected,
                 bytes = min(bytes, 9223372036854775807 - :bytes) + :bytes,
                 first_ns = min(first_ns, coalesce(:first, first_ns)),
                 last_ns = max(last_ns, coalesce(:last, last_ns)),
                 cpu_ns = cpu_ns + :cpu, peak_memory = max(peak_memory, :peak)
             WHERE series = :series",
        )?;
        for change in self.series.values() {
            let share = weight(change) as f64 / all as f64;
            statement.execute(named_params! {
                ":series": change.series,
                ":stored": change.stored,
                ":quarantined": change.quarantined,
                ":duplicates": change.duplicates,
                ":rejected": change.rejected,
                ":bytes": change.bytes,
                ":first": change.arrivals.map(|(first, _)| first),
                ":last": change.arrivals.map(|(_, last)| last),
                ":cpu": (used.cpu.as_nanos() as f64 * share) as i64,
                ":peak": used.peak_memory.cast_signed(),
            })?;
        }
        Ok(())
    }

    /// Streams whose numbers below the floor are not all walked over.
    pub(super) fn unchecked(&self) -> &[i64] {
        self.streams.unchecked()
    }

    /// Whether a series is concerned.
    pub(super) fn any(&self) -> bool {
        !self.series.is_empty()
    }
}

/// The number of a series, which is made when it is not there.
fn series(connection: &Connection, key: &Key, at: UnixNanos) -> rusqlite::Result<i64> {
    let Key {
        run,
        transport,
        transmitter,
    } = key;
    let known = connection
        .prepare_cached(
            "SELECT series FROM series WHERE run = ?1 AND transport = ?2 AND transmitter = ?3",
        )?
        .query_row(params![run, transport.key(), transmitter], |row| row.get(0))
        .optional()?;
    if let Some(number) = known {
        return Ok(number);
    }
    connection
        .prepare_cached(
            "INSERT INTO series (run, transport, transmitter, stored, quarantined, duplicates,
                 rejected, bytes, first_ns, last_ns, cpu_ns, peak_memory)
             VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, ?4, ?4, 0, 0)",
        )?
        .execute(params![run, transport.key(), transmitter, at.0])?;
    Ok(connection.last_insert_rowid())
}
