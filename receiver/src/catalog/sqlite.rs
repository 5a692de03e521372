//! The catalogue in an SQLite file.
//!
//! One thread owns the connection that writes. It takes everything that has queued up, does it in
//! one transaction and answers all waiting callers after the commit, so that the cost of a commit
//! is shared by all images that arrive meanwhile. Readers have connections of their own, which
//! write-ahead logging keeps out of the writer's way.
//!
//! The queue has no bound of its own: callers that wait bound it by their number, and what nobody
//! waits for (events, and entries of [`Durability::Memory`]) is added up and weighed
//! ([`Catalog::room`]). Nothing is dropped to save memory.

mod ledger;
mod read;
mod row;
mod schema;
mod unwaited;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use async_trait::async_trait;
use rusqlite::Connection;
use shared::image::ImageId;
use shared::receipt::Durability;
use shared::report::RunAccount;
use shared::wire::LossReport;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::catalog::{
    Catalog, CatalogError, Entry, Fault, Filter, Gap, Inserted, Integrity, Kept, KeptLoss,
    LossFilter, Numbered, Repeat, RunLedger, Series, StoredSum, Tally,
};
use read::Readers;
use unwaited::{Tallies, Unwaited};
use write::{Counts, Job, Writer};

/// Series that one answer holds at most: the latest ones.
pub const MAX_SERIES: usize = 10_000;

/// Entries that one answer holds at most.
pub const MAX_LIST: usize = 10_000;

/// Knows every image, in an SQLite file.
#[derive(Debug)]
pub struct SqliteCatalog {
    jobs: mpsc::UnboundedSender<Job>,
    counts: Arc<Counts>,
    unwaited: Arc<Unwaited>,
    readers: Readers,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteCatalog {
    /// Opens the catalogue at `path`, which is made when it is not there. With
    /// [`Durability::Synced`] an entry survives power loss once `insert` has returned, with
    /// [`Durability::Written`] it survives the death of the process.
    ///
    /// # Errors
    /// When the file cannot be opened or written, is damaged, is no catalogue, or was written by a
    /// newer version of this program.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, CatalogError> {
        Self::over(schema::open(path, durability)?, Readers::open(path)?)
    }

    fn over(connection: Connection, readers: Readers) -> Result<Self, CatalogError> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let counts = Arc::new(Counts::default());
        let unwaited = Arc::new(Unwaited::default());
        let writer = Writer::new(
            connection,
            queue,
            Arc::clone(&counts),
            Arc::clone(&unwaited),
        );
        let thread = std::thread::Builder::new()
            .name("catalogue".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| failed("starting the writer")(error.to_string()))?;
        Ok(Self {
            jobs,
            counts,
            unwaited,
            readers,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Brings everything that was handed over to the file and closes it. Later calls fail; a
    /// second `close` does nothing.
    pub async fn close(&self) {
        // The writer's connection goes last: only the last one can fold the log into the file.
        self.readers.close().await;
        if let Err(error) = self.request(|done| Job::Close { done }).await {
            tracing::debug!(%error, "catalogue was not closed by this call");
        }
        let thread = self.thread.lock().await.take();
        if let Some(thread) = thread {
            // The thread has answered, so this wait is for its return only.
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the catalogue's writer ended in a panic");
            }
        }
    }

    /// Transactions committed so far. Images per commit tell how well commits are shared.
    pub fn commits(&self) -> u64 {
        self.counts.commits.load(Ordering::Relaxed)
    }

    /// Events and entries that nobody waited for and that could not be written, so far.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    async fn request<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, CatalogError>>) -> Job,
    ) -> Result<T, CatalogError> {
        let (done, answer) = oneshot::channel();
        let _waiting = Waiting::new(&self.counts.waiting);
        self.jobs.send(job(done)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Hands over what nobody waits for; `false` when it is closed.
    fn post(&self, job: Job) -> bool {
        self.counts.unwaited.fetch_add(1, Ordering::AcqRel);
        let is_open = self.jobs.send(job).is_ok();
        if !is_open {
            self.counts.lose(1, &closed());
        }
        is_open
    }

    /// Waits until what was handed over before is written, so that a reader sees it.
    async fn settle(&self) -> Result<(), CatalogError> {
        if self.counts.unwaited.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        self.request(|done| Job::Settle { done }).await
    }
}

/// Somebody who waits for the writer, until it is dropped.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Catalog for SqliteCatalog {
    fn waiting(&self) -> u64 {
        let unwaited = self.counts.unwaited.load(Ordering::Relaxed);
        unwaited + self.counts.waiting.load(Ordering::Relaxed)
    }

    async fn find(&self, id: ImageId) -> Result<Option<Numbered>, CatalogError> {
        self.readers.find(id)
    }

    async fn insert(&self, entry: Entry) -> Result<Inserted, CatalogError> {
        let entry = Box::new(entry);
        self.request(|done| Job::Insert {
            entry,
            done: Some(done),
        })
        .await
    }

    async fn remove(
        &self,
        id: ImageId,
        location: &str,
        reason: &str,
    ) -> Result<bool, CatalogError> {
        let (location, reason) = (location.to_owned(), reason.to_owned());
        self.request(|done| Job::Remove {
            id,
            location,
            reason,
            done,
        })
        .await
    }

    fn insert_later(&self, entry: Entry) {
        self.unwaited.enter(&entry);
        self.post(Job::Insert {
            entry: Box::new(entry),
            done: None,
        });
    }

    fn tally(&self, tally: Tally) {
        let mut is_open = true;
        self.unwaited
            .add(tally, || is_open = self.post(Job::Tallies(Tallies::new())));
        if !is_open {
            drop(self.unwaited.take());
        }
    }

    async fn room(&self) {
        self.unwaited.room().await;
    }

    async fn account(&self, account: RunAccount) -> Result<(), CatalogError> {
        let account = Box::new(account);
        self.request(|done| Job::Account { account, done }).await
    }

    async fn list(
        &self,
        filter: Filter,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Numbered>, CatalogError> {
        self.settle().await?;
        let limit = limit.min(MAX_LIST);
        self.readers
            .run("listing images", move |connection| {
                read::list(connection, &filter, after, limit)
            })
            .await
    }

    async fn series(&self, filter: Filter) -> Result<Vec<Series>, CatalogError> {
        self.settle().await?;
        self.readers
            .run("listing runs", move |connection| {
                read::series(connection, &filter, MAX_SERIES)
            })
            .await
    }

    async fn keep_losses(&self, report: LossReport) -> Result<Kept, CatalogError> {
        let report = Box::new(report);
        self.request(|done| Job::Losses { report, done }).await
    }

    async fn repeat(&self, repeat: Repeat) -> Result<(), CatalogError> {
        let repeat = Box::new(repeat);
        self.request(|done| Job::Repeat { repeat, done }).await
    }

    async fn losses(
        &self,
        filter: LossFilter,
        after: i64,
        limit: usize,
    ) -> Result<Vec<KeptLoss>, CatalogError> {
        let limit = limit.min(MAX_LIST);
        self.readers
            .run("listing losses", move |connection| {
                ledger::losses(connection, &filter, after, limit)
            })
            .await
    }

    async fn gaps(&self, filter: LossFilter, limit: usize) -> Result<Vec<Gap>, CatalogError> {
        self.settle().await?;
        let limit = limit.min(MAX_LIST);
        self.readers
            .run("listing gaps", move |connection| {
                ledger::gaps(connection, &filter, limit)
            })
            .await
    }

    async fn ledger(&self, series: &Series) -> Result<RunLedger, CatalogError> {
        self.settle().await?;
        let (run, transport) = (series.run.clone(), series.transport);
        let transmitter = series.transmitter.clone();
        self.readers
            .run("adding up losses", move |connection| {
                ledger::of_run(connection, &run, transport, &transmitter)
            })
            .await
    }

    async fn integrity(&self) -> Result<Integrity, CatalogError> {
        self.readers.run("adding up gaps", ledger::integrity).await
    }

    async fn stored_since(&self, first: i64, slot_ns: i64) -> Result<Vec<StoredSum>, CatalogError> {
        self.settle().await?;
        self.readers
            .run("adding up what was stored", move |connection| {
                read::stored_since(connection, first, slot_ns)
            })
            .await
    }

    fn failure(&self) -> Option<CatalogError> {
        self.counts.failure.lock().clone()
    }

    async fn try_to_write(&self) -> Result<(), CatalogError> {
        self.request(|done| Job::Trial { done }).await
    }
}

fn closed() -> CatalogError {
    failed("writing")("it is closed".to_owned())
}

/// Makes the error of `action`.
fn failed(action: &'static str) -> impl Fn(String) -> CatalogError {
    move |problem| CatalogError {
        action,
        problem,
        fault: Fault::Request,
    }
}

/// Makes the error of `action` from SQLite's.
fn sqlite(action: &'static str) -> impl Fn(rusqlite::Error) -> CatalogError {
    move |error| {
        use rusqlite::ErrorCode;
        let (fault, hint) = match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
                Fault::Medium,
                "; the file is damaged: restore it from a backup, or move it away to begin anew",
            ),
            Some(ErrorCode::DiskFull) => {
                (Fault::NoSpace, "; free some space or move RECEIVER_DATA")
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
                Fault::Medium,
                "; another program is writing to it: stop that one",
            ),
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (
                Fault::Medium,
                "; check that the folder exists and may be written",
            ),
            Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory) => (Fault::Medium, ""),
            _ => (Fault::Request, ""),
        };
        CatalogError {
            action,
            problem: format!("{error}{hint}"),
            fault,
        }
    }
}

#[cfg(test)]
mod tests;
