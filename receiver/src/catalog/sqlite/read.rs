//! Questions to the catalogue.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Params, named_params, params};
use shared::image::{ImageId, Transport};
use tokio::sync::Semaphore;

use super::{closed, failed, row, schema, sqlite};
use crate::catalog::{CatalogError, Filter, Numbered, Series, StoredSum};

/// Questions that are answered at the same time; more wait.
const CONNECTIONS: usize = 4;

/// Connections for reading, made when they are needed and kept.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    /// For look-ups of one image, on the caller's thread. `None` when closed.
    lookup: Mutex<Option<Connection>>,
    permits: Arc<Semaphore>,
    /// No await happens under it.
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self, CatalogError> {
        let first = schema::open_reader(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            lookup: Mutex::new(Some(schema::open_reader(path)?)),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            idle: Arc::new(Mutex::new(vec![first])),
        })
    }

    /// Looks up one image, on the caller's thread.
    ///
    /// Every image that arrives is looked up. New ids, which sort by time, fall on the last page
    /// of the index, which is in memory: microseconds. Handing the question to a blocking thread
    /// and waiting for its answer costs two thread switches before the first byte is taken.
    pub(super) fn find(&self, id: ImageId) -> Result<Option<Numbered>, CatalogError> {
        let lookup = self.lookup.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = lookup.as_ref().ok_or_else(closed)?;
        let failed = sqlite("finding an image");
        // Most ids are new: the index alone tells that.
        if !is_known(connection, id).map_err(&failed)? {
            return Ok(None);
        }
        find(connection, id).map_err(&failed)
    }

    /// Answers a question on a blocking thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let idle = Arc::clone(&self.idle);
        let path = self.path.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let ready = lock(&idle).pop();
            let connection = match ready {
                Some(connection) => connection,
                None => schema::open_reader(&path)?,
            };
            let answer = question(&connection).map_err(sqlite(action));
            lock(&idle).push(connection);
            // Last, so that a connection is there for whom it lets in.
            drop(permit);
            answer
        });
        match answer.await {
            Ok(answer) => answer,
            Err(error) => Err(failed(action)(error.to_string())),
        }
    }

    /// Waits for running questions, refuses further ones and closes the connections.
    pub(super) async fn close(&self) {
        let all = u32::try_from(CONNECTIONS).expect("a handful");
        // It fails only when it is closed already.
        if let Ok(permits) = self.permits.acquire_many(all).await {
            self.permits.close();
            self.lookup
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            lock(&self.idle).clear();
            drop(permits);
        }
    }
}

fn lock(idle: &Mutex<Vec<Connection>>) -> std::sync::MutexGuard<'_, Vec<Connection>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_known(connection: &Connection, id: ImageId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM images WHERE id = ?1")?
        .exists(params![row::id_bytes(id)])
}

pub(super) fn find(connection: &Connection, id: ImageId) -> rusqlite::Result<Option<Numbered>> {
    connection
        .prepare_cached(&format!("{} WHERE i.id = ?1", row::SELECT))?
        .query_row(params![row::id_bytes(id)], row::numbered)
        .optional()
}

const MATCHES: &str = "
    (:run IS NULL OR run = :run)
    AND (:transport IS NULL OR transport = :transport)
    AND (:transmitter IS NULL OR transmitter = :transmitter)";

/// All series that match, the one that began last first.
pub(super) fn series(
    connection: &Connection,
    filter: &Filter,
    limit: usize,
) -> rusqlite::Result<Vec<Series>> {
    let having = match filter.quarantined {
        None => "",
        Some(true) => "AND quarantined > 0",
        Some(false) => "AND stored > 0",
    };
    let sql = format!(
        "SELECT * FROM series WHERE {MATCHES} {having}
         ORDER BY first_ns DESC, series DESC LIMIT :limit"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(
        named_params! {
            ":run": filter.run,
            ":transport": filter.transport.map(Transport::key),
            ":transmitter": filter.transmitter,
            ":limit": to_i64(limit),
        },
        row::series,
    )?;
    rows.collect()
}

/// Entries after number `after`.
pub(super) fn list(
    connection: &Connection,
    filter: &Filter,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Numbered>> {
    let verdict = match filter.quarantined {
        None => "",
        Some(true) => "AND i.reason IS NOT NULL",
        Some(false) => "AND i.reason IS NULL",
    };
    let limit = to_i64(limit);
    let tail = "ORDER BY i.number LIMIT :limit";
    let open = Filter {
        quarantined: None,
        ..filter.clone()
    };
    if open.run.is_none() && open.transport.is_none() && open.transmitter.is_none() {
        let sql = format!("{} WHERE i.number > :after {verdict} {tail}", row::SELECT);
        return entries(
            connection,
            &sql,
            named_params! { ":after": after, ":limit": limit },
        );
    }
    match matching(connection, &open)?[..] {
        [] => Ok(Vec::new()),
        [only] => {
            // Quarantined images are few and have an index of their own, which the plus sign picks.
            let plus = if filter.quarantined == Some(true) {
                "+"
            } else {
                ""
            };
            let sql = format!(
                "{} WHERE {plus}i.series = :series AND i.number > :after {verdict} {tail}",
                row::SELECT
            );
            let named = named_params! { ":series": only, ":after": after, ":limit": limit };
            entries(connection, &sql, named)
        }
        _ => {
            // By number and not by series (the plus sign keeps the index out): going through the
            // pages then passes over each row once, instead of sorting all of them for each page.
            let sql = format!(
                "{} WHERE i.number > :after {verdict} AND +i.series IN
                 (SELECT series FROM series WHERE {MATCHES}) {tail}",
                row::SELECT
            );
            let named = named_params! {
                ":run": filter.run,
                ":transport": filter.transport.map(Transport::key),
                ":transmitter": filter.transmitter,
                ":after": after,
                ":limit": limit,
            };
            entries(connection, &sql, named)
        }
    }
}

/// What each transmitter stored from a slot of time on. Numbers grow with time, so that where to begin is
/// found by halving; only where a clock was set back some of it may be missed.
pub(super) fn stored_since(
    connection: &Connection,
    first: i64,
    slot_ns: i64,
) -> rusqlite::Result<Vec<StoredSum>> {
    let since = first.saturating_mul(slot_ns);
    let begin = number_at(connection, since)?;
    let sql = "SELECT s.transmitter, i.durable / :slot, count(*), sum(i.size)
         FROM images i JOIN series s ON s.series = i.series
         WHERE i.number >= :begin AND i.durable >= :since GROUP BY 1, 2 ORDER BY 2";
    let mut statement = connection.prepare(sql)?;
    let named = named_params! { ":slot": slot_ns, ":begin": begin, ":since": since };
    let rows = statement.query_map(named, |row| {
        Ok(StoredSum {
            transmitter: row.get(0)?,
            slot: row.get(1)?,
            images: row.get::<_, i64>(2)?.unsigned_abs(),
            bytes: row.get::<_, i64>(3)?.unsigned_abs(),
        })
    })?;
    rows.collect()
}

/// The number from which on images are as young as that.
fn number_at(connection: &Connection, since: i64) -> rusqlite::Result<i64> {
    let (mut low, mut high) = connection.query_row(
        "SELECT coalesce(min(number), 0), coalesce(max(number), 0) + 1 FROM images",
        [],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
    )?;
    let mut look = connection
        .prepare("SELECT durable FROM images WHERE number >= ?1 ORDER BY number LIMIT 1")?;
    while low < high {
        let middle = low + (high - low) / 2;
        let durable: Option<i64> = look.query_row([middle], |row| row.get(0)).optional()?;
        if durable.is_some_and(|durable| durable < since) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The first two series that match.
fn matching(connection: &Connection, filter: &Filter) -> rusqlite::Result<Vec<i64>> {
    let sql = format!("SELECT series FROM series WHERE {MATCHES} LIMIT 2");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(
        named_params! {
            ":run": filter.run,
            ":transport": filter.transport.map(Transport::key),
            ":transmitter": filter.transmitter,
        },
        |row| row.get(0),
    )?;
    rows.collect()
}

fn entries(
    connection: &Connection,
    sql: &str,
    named: impl Params,
) -> rusqlite::Result<Vec<Numbered>> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(named, row::numbered)?;
    rows.collect()
}

fn to_i64(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
