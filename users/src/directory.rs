//! The users: kept in memory, and in a file when one is given.
//!
//! Users are only ever added, so the directory is a list that grows: those who follow it need no
//! queue, only their place in the list and word that it has grown. However slow they are, they cost
//! nothing and miss nothing.

mod journal;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::refusal::Refusal;
use crate::user::{NewUser, User, check_id, first_users, now};
use journal::Journal;
pub use journal::JournalError;

/// Users that a listing takes at a time.
const PAGE: usize = 256;

/// All users.
#[derive(Debug)]
pub struct Directory {
    list: Arc<List>,
    /// Writes users to a file before they are in the list.
    journal: Option<Journal>,
}

/// The users in memory.
#[derive(Debug)]
struct List {
    /// By their ids. The lock is held for moments only, never across an await.
    users: RwLock<Vec<Arc<User>>>,
    /// The highest id, for those who follow.
    head: watch::Sender<i32>,
    max_users: usize,
}

impl List {
    fn new(users: Vec<Arc<User>>, max_users: usize) -> Self {
        let head = watch::Sender::new(users.last().map_or(0, |user| user.id));
        Self {
            users: RwLock::new(users),
            head,
            max_users,
        }
    }

    /// Gives ids to users; `next` is the first of them.
    fn number(&self, new: Vec<NewUser>, next: i32) -> Vec<Arc<User>> {
        let created_at = now();
        (next..)
            .zip(new)
            .map(|(id, fields)| {
                Arc::new(User {
                    id,
                    fields,
                    created_at,
                })
            })
            .collect()
    }

    /// Whether there is room for `more` users.
    fn room(&self, has: usize, last: i32, more: usize) -> Result<(), Refusal> {
        let more_ids = i32::try_from(more)
            .ok()
            .and_then(|more| last.checked_add(more));
        if has.saturating_add(more) <= self.max_users && more_ids.is_some() {
            return Ok(());
        }
        Err(Refusal::Limit {
            what: format!(
                "the directory holds {has} users and {} at most",
                self.max_users
            ),
            setting: "max-users",
            instead: "start with another --data",
        })
    }

    /// Adds users that have their ids.
    fn extend(&self, new: impl IntoIterator<Item = Arc<User>>) {
        let mut users = self.users.write();
        users.extend(new);
        let last = users.last().map_or(0, |user| user.id);
        drop(users);
        self.head.send_replace(last);
    }
}

impl Directory {
    /// A directory in memory, with the first five users.
    pub fn in_memory(max_users: usize) -> Self {
        Self {
            list: Arc::new(List::new(first_users(), max_users)),
            journal: None,
        }
    }

    /// A directory in the file `path`, which is made with the first five users when it is not there.
    /// Blocks until all users are in memory.
    ///
    /// # Errors
    /// When the file cannot be used, or is in use.
    pub fn open(path: &Path, max_users: usize) -> Result<Self, JournalError> {
        let (list, journal) = Journal::open(path, max_users)?;
        Ok(Self {
            list,
            journal: Some(journal),
        })
    }

    /// Creates a user.
    ///
    /// # Errors
    /// When there is no room, or the file cannot be written.
    pub async fn create(&self, new: NewUser) -> Result<Arc<User>, Refusal> {
        let mut created = self.create_all(vec![new]).await?;
        created.pop().ok_or(Refusal::Internal)
    }

    /// Creates users: all of them, or none. They get successive ids.
    ///
    /// # Errors
    /// When there is no room, or the file cannot be written.
    pub async fn create_all(&self, new: Vec<NewUser>) -> Result<Vec<Arc<User>>, Refusal> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(journal) = &self.journal {
            return journal.create(new).await;
        }
        let mut users = self.list.users.write();
        let last = users.last().map_or(0, |user| user.id);
        self.list.room(users.len(), last, new.len())?;
        let created = self.list.number(new, last + 1);
        users.extend(created.iter().cloned());
        // Under the lock, so that the head never goes back.
        self.list
            .head
            .send_replace(created.last().map_or(last, |user| user.id));
        Ok(created)
    }

    /// The user with this id.
    ///
    /// # Errors
    /// When it is below 1, or there is none.
    pub fn user(&self, id: i32) -> Result<Arc<User>, Refusal> {
        let id = check_id(id)?;
        let users = self.list.users.read();
        users
            .binary_search_by_key(&id, |user| user.id)
            .map(|index| Arc::clone(&users[index]))
            .map_err(|_| Refusal::NotFound(id))
    }

    /// Most users.
    pub fn max_users(&self) -> usize {
        self.list.max_users
    }

    /// Lists that are being sent, those included that wait for users to come.
    pub fn lists(&self) -> usize {
        self.list.head.receiver_count()
    }

    /// Requests that wait to be written to the file, and most of them; `None` without a file.
    pub fn writes(&self) -> Option<(usize, usize)> {
        self.journal.as_ref().map(Journal::waiting)
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.list.users.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest id; 0 when there are no users.
    pub fn newest(&self) -> i32 {
        *self.list.head.borrow()
    }

    /// At most `limit` users after the one with the id `after`, by their ids.
    pub fn page(&self, after: i32, limit: usize) -> Vec<Arc<User>> {
        let users = self.list.users.read();
        let begin = users.partition_point(|user| user.id <= after);
        users[begin..].iter().take(limit).cloned().collect()
    }

    /// Users after the one with the id `after`: `limit` of them, all when there is none.
    pub fn list(self: &Arc<Self>, after: i32, limit: Option<usize>, follow: bool) -> Listing {
        Listing {
            head: self.list.head.subscribe(),
            directory: Arc::clone(self),
            after,
            left: limit.unwrap_or(usize::MAX),
            follow,
        }
    }

    /// Whether users can be created, as far as is known.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn health(&self) -> Result<(), &'static str> {
        match &self.journal {
            Some(journal) => journal.health().await,
            None => Ok(()),
        }
    }

    /// Waits until everything that was created is in the file, and lets go of it.
    pub async fn close(&self) {
        if let Some(journal) = &self.journal {
            journal.close().await;
        }
    }
}

/// Users one page after the other; goes on with new ones if it follows.
#[derive(Debug)]
pub struct Listing {
    directory: Arc<Directory>,
    head: watch::Receiver<i32>,
    after: i32,
    left: usize,
    follow: bool,
}

impl Listing {
    /// The next users; `None` after the last. One that follows waits for new users, and may be
    /// dropped while it does.
    pub async fn next(&mut self) -> Option<Vec<Arc<User>>> {
        while self.left > 0 {
            // Before looking, so that what is added meanwhile counts as news.
            self.head.borrow_and_update();
            let page = self.directory.page(self.after, self.left.min(PAGE));
            if let Some(last) = page.last() {
                self.after = last.id;
                self.left -= page.len();
                return Some(page);
            }
            if !self.follow || self.head.changed().await.is_err() {
                return None;
            }
        }
        None
    }
}
