//! Users in a file: SQLite, written by one thread, many users in one commit when many come.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::{mpsc, oneshot};

use super::List;
use crate::refusal::Refusal;
use crate::user::{Draft, NewUser, User, first_users};

/// Requests that wait for the writer, and those that it takes for one commit.
const QUEUE: usize = 1_024;
/// `pante`, in ASCII as far as it fits: which program a file belongs to.
const APPLICATION_ID: i32 = 0x7061_6e75;
const SCHEMA_VERSION: i32 = 1;

const SCHEMA: &str = "
    CREATE TABLE users (
        user_id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        email TEXT NOT NULL,
        age INTEGER NOT NULL,
        roles TEXT NOT NULL,            -- JSON array of strings
        created_at INTEGER NOT NULL     -- milliseconds since 1970
    ) STRICT;";

/// Why a file with users cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// SQLite says no.
    #[error("users file {path}: {problem}", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What was tried and what to do.
        problem: &'static str,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file is of another program or version.
    #[error("users file {path} is {what}; choose another --data", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A user in the file is not as users should be.
    #[error("users file {path}: user {id}: {problem}", path = path.display())]
    User {
        /// The file.
        path: PathBuf,
        /// The user's id.
        id: i64,
        /// What is wrong.
        problem: String,
    },
    /// There are more users than may be.
    #[error("users file {path} holds {count} users, {limit} at most; raise --max-users", path = path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// Users in it.
        count: usize,
        /// The setting.
        limit: usize,
    },
}

/// The writer of the file.
#[derive(Debug)]
pub(super) struct Journal {
    /// Until it is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The last commit failed.
    failing: Arc<AtomicBool>,
    /// When somebody last wanted to know whether the next one would.
    tried: Mutex<Option<Instant>>,
}

/// Time between two tries whether a file that could not be written can be written again, and time for one.
const RETRY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Job {
    new: Vec<NewUser>,
    answer: oneshot::Sender<Result<Vec<Arc<User>>, Refusal>>,
}

impl Journal {
    /// Opens the file; its users are in the list.
    pub(super) fn open(path: &Path, max_users: usize) -> Result<(Arc<List>, Self), JournalError> {
        let failed = |problem| {
            move |source| JournalError::Database {
                path: path.to_owned(),
                problem,
                source,
            }
        };
        if path.as_os_str() == ":memory:" || path.as_os_str().is_empty() {
            return Err(JournalError::Foreign {
                path: path.to_owned(),
                what: "no file, and would be forgotten; leave --data out for that",
            });
        }
        // A path is a path, never a URI.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut database = Connection::open_with_flags(path, flags).map_err(failed(
            "it cannot be opened; is its folder there, and writable?",
        ))?;
        prepare(&mut database, path)?;
        let users = load(&database, path)?;
        if users.len() > max_users {
            return Err(JournalError::TooMany {
                path: path.to_owned(),
                count: users.len(),
                limit: max_users,
            });
        }
        let list = Arc::new(List::new(users, max_users));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let failing = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            list: Arc::clone(&list),
            database,
            failing: Arc::clone(&failing),
        };
        let writer = std::thread::Builder::new()
            .name("users-journal".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
            .map_err(failed("its thread cannot be started"))?;
        let journal = Self {
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(writer)),
            failing,
            tried: Mutex::default(),
        };
        Ok((list, journal))
    }

    pub(super) async fn create(&self, new: Vec<NewUser>) -> Result<Vec<Arc<User>>, Refusal> {
        let jobs = self.jobs.lock().clone().ok_or_else(Refusal::stopping)?;
        let (answer, answered) = oneshot::channel();
        jobs.send(Job { new, answer })
            .await
            .map_err(|_| Refusal::Internal)?;
        answered.await.map_err(|_| Refusal::Internal)?
    }

    /// Requests that wait, and most of them.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let jobs = self.jobs.lock();
        let waiting = jobs.as_ref().map_or(0, |jobs| QUEUE - jobs.capacity());
        (waiting, QUEUE)
    }

    /// Whether users can be written, as far as is known. A file that could not be written is tried again, as
    /// nobody else may do so: a server that is not ready is sent no users.
    pub(super) async fn health(&self) -> Result<(), &'static str> {
        let has_ended = self
            .writer
            .lock()
            .as_ref()
            .is_none_or(JoinHandle::is_finished);
        if has_ended {
            return Err("nothing writes the users any more");
        }
        if self.failing.load(Ordering::Relaxed) && self.is_time_to_try() {
            // What comes of it is in the flag.
            let _ = tokio::time::timeout(PATIENCE, self.create(Vec::new())).await;
        }
        match self.failing.load(Ordering::Relaxed) {
            true => Err("users cannot be written; see the server's log"),
            false => Ok(()),
        }
    }

    fn is_time_to_try(&self) -> bool {
        let mut tried = self.tried.lock();
        let is_time = tried.is_none_or(|tried| tried.elapsed() >= RETRY);
        if is_time {
            *tried = Some(Instant::now());
        }
        is_time
    }

    pub(super) async fn close(&self) {
        self.jobs.lock().take();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            // Its panic has been printed, and its requests were answered.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

/// Makes a new file, or sees that an old one is ours.
fn prepare(database: &mut Connection, path: &Path) -> Result<(), JournalError> {
    let failed = |problem| {
        move |source| JournalError::Database {
            path: path.to_owned(),
            problem,
            source,
        }
    };
    let locked = "it cannot be locked; does another server use it?";
    // One server writes a file; the lock is kept until it is closed.
    for (pragma, value) in [
        ("locking_mode", "EXCLUSIVE"),
        ("journal_mode", "WAL"),
        ("synchronous", "FULL"),
    ] {
        database
            .pragma_update(None, pragma, value)
            .map_err(failed(locked))?;
    }
    let begun = database
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(failed(locked))?;
    let number = |name| {
        begun
            .pragma_query_value(None, name, |row| row.get::<_, i32>(0))
            .map_err(failed("it cannot be read"))
    };
    let foreign = |what| JournalError::Foreign {
        path: path.to_owned(),
        what,
    };
    match (number("application_id")?, number("user_version")?) {
        (APPLICATION_ID, SCHEMA_VERSION) => return Ok(()),
        (APPLICATION_ID, _) => return Err(foreign("of a newer version of this program")),
        (0, 0) => {}
        _ => return Err(foreign("a database of another program")),
    }
    let tables: i64 = begun
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed("it cannot be read"))?;
    if tables > 0 {
        return Err(foreign("a database of another program"));
    }
    let make = || {
        begun.execute_batch(SCHEMA)?;
        begun.pragma_update(None, "application_id", APPLICATION_ID)?;
        begun.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        first_users()
            .iter()
            .try_for_each(|user| insert(&begun, user))?;
        begun.commit()
    };
    make().map_err(failed("it cannot be made"))
}

fn load(database: &Connection, path: &Path) -> Result<Vec<Arc<User>>, JournalError> {
    let failed = |source| JournalError::Database {
        path: path.to_owned(),
        problem: "its users cannot be read",
        source,
    };
    let mut select = database
        .prepare("SELECT user_id, name, email, age, roles, created_at FROM users ORDER BY user_id")
        .map_err(failed)?;
    let rows = select
        .query_map([], |row| {
            let fields = (
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get::<_, String>(4)?,
            );
            Ok((row.get::<_, i64>(0)?, fields, row.get::<_, i64>(5)?))
        })
        .map_err(failed)?;
    let mut users = Vec::new();
    for row in rows {
        let (id, (name, email, age, roles), created_at) = row.map_err(failed)?;
        let user = read(id, name, email, age, &roles, created_at);
        users.push(user.map_err(|problem| JournalError::User {
            path: path.to_owned(),
            id,
            problem,
        })?);
    }
    Ok(users)
}

/// A user of the file, as long as it is one that could have been created.
fn read(
    id: i64,
    name: String,
    email: String,
    age: i32,
    roles: &str,
    created_at: i64,
) -> Result<Arc<User>, String> {
    let roles = serde_json::from_str(roles).map_err(|error| format!("roles: {error}"))?;
    let draft = Draft {
        name,
        email,
        age,
        roles,
    };
    let id = i32::try_from(id).ok().filter(|id| *id > 0);
    Ok(Arc::new(User {
        id: id.ok_or("an id is 1 to 2147483647")?,
        fields: draft.check().map_err(|violations| violations.to_string())?,
        created_at: Timestamp::from_millisecond(created_at).map_err(|error| error.to_string())?,
    }))
}

fn insert(database: &Connection, user: &User) -> rusqlite::Result<()> {
    let sql = "INSERT INTO users (user_id, name, email, age, roles, created_at) VALUES (?, ?, ?, ?, ?, ?)";
    let fields = &user.fields;
    let roles = serde_json::to_string(fields.roles()).expect("roles are text");
    database.prepare_cached(sql)?.execute(params![
        user.id,
        fields.name(),
        fields.email(),
        fields.age(),
        roles,
        user.created_at.as_millisecond()
    ])?;
    Ok(())
}

struct Writer {
    list: Arc<List>,
    database: Connection,
    failing: Arc<AtomicBool>,
}

impl Writer {
    /// Serves until nobody can ask any more.
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(QUEUE);
        while queue.blocking_recv_many(&mut jobs, QUEUE) > 0 {
            self.write(std::mem::take(&mut jobs));
        }
    }

    /// Writes what several requests ask for in one commit, puts it into the list and answers.
    fn write(&mut self, jobs: Vec<Job>) {
        let (has, mut last) = {
            let users = self.list.users.read();
            (users.len(), users.last().map_or(0, |user| user.id))
        };
        let mut created = Vec::new();
        let mut answers = Vec::with_capacity(jobs.len());
        for Job { new, answer } in jobs {
            if let Err(refusal) = self.list.room(has + created.len(), last, new.len()) {
                // Who asks may have gone; so below.
                let _ = answer.send(Err(refusal));
                continue;
            }
            let users = self.list.number(new, last + 1);
            last = users.last().map_or(last, |user| user.id);
            created.extend(users.iter().cloned());
            answers.push((answer, users));
        }
        let committed = self.commit(&created);
        self.failing.store(committed.is_err(), Ordering::Relaxed);
        match committed {
            Ok(()) => {
                self.list.extend(created);
                for (answer, users) in answers {
                    let _ = answer.send(Ok(users));
                }
            }
            Err(error) => {
                let requests = answers.len();
                tracing::error!(%error, requests, "users could not be written");
                for (answer, _) in answers {
                    let _ = answer.send(Err(Refusal::Internal));
                }
            }
        }
    }

    fn commit(&mut self, users: &[Arc<User>]) -> rusqlite::Result<()> {
        let begun = self.database.transaction()?;
        users.iter().try_for_each(|user| insert(&begun, user))?;
        if users.is_empty() {
            // To see whether it can be written, something has to be.
            begun.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        begun.commit()
    }
}
