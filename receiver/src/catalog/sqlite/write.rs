//! The thread that writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, named_params, params};
use shared::clock::UnixNanos;
use shared::image::Transport;
use shared::report::RunAccount;
use tokio::sync::{mpsc, oneshot};

use super::{closed, row, sqlite};
use crate::catalog::{CatalogError, Entry, Inserted, Tally, TallyKind, Verdict};

/// Jobs of one transaction at most: bounds the time until the first of them is answered.
const BATCH: usize = 1024;

type Done<T> = oneshot::Sender<Result<T, CatalogError>>;

/// What the thread is asked to do, in order.
#[derive(Debug)]
pub(super) enum Job {
    Insert {
        entry: Box<Entry>,
        done: Option<Done<Inserted>>,
    },
    Tally(Tally),
    Account {
        account: Box<RunAccount>,
        done: Done<()>,
    },
    /// Answers when all before it is written.
    Settle {
        done: Done<()>,
    },
    /// As `Settle`, and ends the thread.
    Close {
        done: Done<()>,
    },
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Transactions committed.
    pub(super) commits: AtomicU64,
    /// Jobs in the queue that nobody waits for.
    pub(super) unwaited: AtomicU64,
    /// Jobs that nobody waited for and that could not be done.
    pub(super) lost: AtomicU64,
}

impl Counts {
    pub(super) fn lose(&self, jobs: u64, error: &CatalogError) {
        self.unwaited.fetch_sub(jobs, Ordering::AcqRel);
        self.lost.fetch_add(jobs, Ordering::Relaxed);
        tracing::error!(jobs, %error, "catalogue: events could not be written");
    }
}

pub(super) struct Writer {
    connection: Connection,
    queue: mpsc::UnboundedReceiver<Job>,
    counts: Arc<Counts>,
}

/// What a job came to, told after the commit.
enum Outcome {
    Inserted(Inserted),
    Done,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        queue: mpsc::UnboundedReceiver<Job>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            connection,
            queue,
            counts,
        }
    }

    /// Works until it is closed or nobody can ask any more.
    pub(super) fn run(mut self) {
        let mut jobs = Vec::with_capacity(BATCH);
        let mut close = None;
        while close.is_none() && self.queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
            let at = jobs.iter().position(|job| matches!(job, Job::Close { .. }));
            if let Some(at) = at {
                for late in jobs.split_off(at + 1) {
                    self.answer(late, Err(closed()));
                }
                if let Some(Job::Close { done }) = jobs.pop() {
                    close = Some(done);
                }
            }
            self.work(&mut jobs);
        }
        self.queue.close();
        while let Ok(late) = self.queue.try_recv() {
            self.answer(late, Err(closed()));
        }
        let closed = self
            .connection
            .close()
            .map_err(|(_, error)| sqlite("closing")(error));
        match (close, closed) {
            // Whoever closes may have stopped waiting.
            (Some(done), closed) => drop(done.send(closed)),
            (None, Err(error)) => tracing::error!(%error, "catalogue could not be closed"),
            (None, Ok(())) => {}
        }
    }

    /// Does all jobs in one transaction; if that fails, each in its own, so that one that cannot
    /// be done takes no other with it.
    fn work(&mut self, jobs: &mut Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        match self.transact(jobs) {
            Ok(outcomes) => {
                for (job, outcome) in jobs.drain(..).zip(outcomes) {
                    self.answer(job, Ok(outcome));
                }
            }
            Err(error) if jobs.len() == 1 => {
                for job in jobs.drain(..) {
                    self.answer(job, Err(error.clone()));
                }
            }
            Err(_) => {
                for job in std::mem::take(jobs) {
                    self.work(&mut vec![job]);
                }
            }
        }
    }

    fn transact(&mut self, jobs: &[Job]) -> Result<Vec<Outcome>, CatalogError> {
        if jobs.iter().all(|job| matches!(job, Job::Settle { .. })) {
            return Ok(jobs.iter().map(|_| Outcome::Done).collect());
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(sqlite("beginning to write"))?;
        let mut changes = Changes::default();
        let outcomes = jobs
            .iter()
            .map(|job| changes.apply(&transaction, job))
            .collect::<rusqlite::Result<Vec<_>>>()
            .and_then(|outcomes| changes.save(&transaction).map(|()| outcomes))
            .map_err(sqlite("writing"))?;
        transaction.commit().map_err(sqlite("committing"))?;
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        Ok(outcomes)
    }

    fn answer(&self, job: Job, outcome: Result<Outcome, CatalogError>) {
        // A caller that has gone away needs no answer, hence the ignored results.
        match (job, outcome) {
            (
                Job::Insert {
                    done: Some(done), ..
                },
                outcome,
            ) => {
                let _ = done.send(outcome.map(|outcome| match outcome {
                    Outcome::Inserted(inserted) => inserted,
                    Outcome::Done => Inserted::New,
                }));
            }
            (Job::Insert { done: None, .. } | Job::Tally(_), Ok(_)) => {
                self.counts.unwaited.fetch_sub(1, Ordering::AcqRel);
            }
            (Job::Insert { done: None, .. } | Job::Tally(_), Err(error)) => {
                self.counts.lose(1, &error);
            }
            (Job::Account { done, .. } | Job::Settle { done } | Job::Close { done }, outcome) => {
                let _ = done.send(outcome.map(|_| ()));
            }
        }
    }
}

/// A series, as the key of what happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    run: String,
    transport: Transport,
    transmitter: String,
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

#[derive(Debug, Default)]
struct Changes {
    series: HashMap<Key, Change>,
}

impl Changes {
    fn apply(&mut self, connection: &Connection, job: &Job) -> rusqlite::Result<Outcome> {
        match job {
            Job::Insert { entry, done } => {
                let inserted = self.insert(connection, entry, done.is_some())?;
                return Ok(Outcome::Inserted(inserted));
            }
            Job::Tally(tally) => self.tally(connection, tally)?,
            Job::Account { account, .. } => self.account(connection, account)?,
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
        let change = self.change(connection, Key::of_entry(entry), arrival)?;
        if row::insert(connection, change.series, entry)? {
            match entry.verdict {
                Verdict::Stored => {
                    change.stored += 1;
                    change.bytes = change.bytes.saturating_add_unsigned(entry.meta.size);
                }
                Verdict::Quarantined { .. } => change.quarantined += 1,
            }
            change.arrived(arrival);
            return Ok(Inserted::New);
        }
        if !waited {
            // Nobody else learns that it was there already.
            change.duplicates += 1;
            change.arrived(arrival);
            return Ok(Inserted::New);
        }
        let present = super::read::find(connection, entry.meta.id)?
            .ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        Ok(Inserted::Present(Box::new(present.entry)))
    }

    fn tally(&mut self, connection: &Connection, tally: &Tally) -> rusqlite::Result<()> {
        let now = UnixNanos::now();
        let key = Key {
            run: tally.run.clone(),
            transport: tally.transport,
            transmitter: tally.transmitter.clone(),
        };
        let change = self.change(connection, key, now)?;
        match tally.kind {
            TallyKind::Duplicate => change.duplicates += 1,
            TallyKind::Rejected(_) => change.rejected += 1,
        }
        change.arrived(now);
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

    fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "UPDATE series SET stored = stored + :stored,
                 quarantined = quarantined + :quarantined,
                 duplicates = duplicates + :duplicates, rejected = rejected + :rejected,
                 bytes = min(bytes, 9223372036854775807 - :bytes) + :bytes, first_ns = min(first_ns, :first),
                 last_ns = max(last_ns, :last)
             WHERE series = :series",
        )?;
        for change in self.series.values() {
            let Some((first, last)) = change.arrivals else {
                continue;
            };
            statement.execute(named_params! {
                ":series": change.series,
                ":stored": change.stored,
                ":quarantined": change.quarantined,
                ":duplicates": change.duplicates,
                ":rejected": change.rejected,
                ":bytes": change.bytes,
                ":first": first,
                ":last": last,
            })?;
        }
        Ok(())
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
                 rejected, bytes, first_ns, last_ns)
             VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, ?4, ?4)",
        )?
        .execute(params![run, transport.key(), transmitter, at.0])?;
    Ok(connection.last_insert_rowid())
}
