//! A room in which what one says reaches everybody once, in the same order.
//!
//! Messages are in one buffer for all; each reader has its place in it. When the buffer is full, the
//! room waits for its readers, so that nobody who reads misses anything, however fast the others
//! talk. But it does not wait for stragglers: when it has been full for a second while at least half of
//! the readers keep up, those who are far behind are cut off; and whoever takes nothing at all for some
//! time is, too. Not at once: anybody may be far behind for a moment on a busy machine, and has the
//! processors for himself while nobody can speak.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::metrics::Chat;
use crate::refusal::{Refusal, Violation, Violations};
use crate::user::{self, check_name};

/// Most characters of a message.
pub const MAX_TEXT: usize = 4_096;
/// Messages that a reader takes at a time.
const PAGE: usize = 64;

/// Bounds of a room.
#[derive(Debug, Clone, Copy)]
pub struct RoomOptions {
    /// Most readers at a time.
    pub max_readers: usize,
    /// Messages that are kept for those who have not read them yet.
    pub messages: usize,
    /// The same in bytes of names and texts.
    pub bytes: usize,
    /// A full room cuts a reader off who has taken nothing for this time.
    pub patience: Duration,
    /// A room that has been full for this time cuts off those who are far behind, as long as at least
    /// half of its readers keep up.
    pub hurry: Duration,
}

impl Default for RoomOptions {
    fn default() -> Self {
        Self {
            max_readers: 1_024,
            messages: 16_384,
            bytes: 16 << 20,
            patience: Duration::from_secs(5),
            hurry: Duration::from_secs(1),
        }
    }
}

/// What somebody said.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Who.
    pub user: String,
    /// What.
    pub text: String,
    /// Counted from 1, the same for all readers.
    pub sequence: u64,
    /// When the room heard it.
    pub sent_at: Timestamp,
}

impl Message {
    fn bytes(&self) -> usize {
        self.user.len() + self.text.len()
    }
}

/// Something to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    user: String,
    text: String,
}

impl Saying {
    /// `text` of `user`.
    ///
    /// # Errors
    /// Names each of the two that is not as it should be.
    pub fn check(user: String, text: String) -> Result<Self, Violations> {
        let mut found = Vec::new();
        let mut wrong = |field: &str, description: Option<String>| {
            found.extend(description.map(|description| Violation {
                field: field.to_owned(),
                description,
            }));
        };
        wrong("user", check_name("user", &user));
        let length = text.chars().count();
        if !(1..=MAX_TEXT).contains(&length) {
            let words = format!("text must have 1 to {MAX_TEXT} characters, not {length}");
            wrong("text", Some(words));
        }
        Violations::check(found)?;
        Ok(Self { user, text })
    }
}

/// The room.
#[derive(Debug)]
pub struct Room {
    options: RoomOptions,
    inner: Mutex<Inner>,
    /// Number of the newest message.
    head: watch::Sender<u64>,
    /// There is room again for those who wait to say something.
    room: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// The last messages, by their numbers.
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    /// Number of the newest message.
    head: u64,
    readers: HashMap<u64, Place>,
    /// Number of the next reader.
    next_reader: u64,
    /// When somebody first found the room full, since there was room last.
    full_since: Option<Instant>,
    /// Readers that were too slow, so far.
    cut_off: u64,
}

/// Where a reader is.
#[derive(Debug)]
struct Place {
    /// Number of the last message that it took.
    read: u64,
    /// When that was.
    at: Instant,
}

/// What became of a try to add a message.
enum Outcome {
    Said(u64),
    /// Until there is room, or this moment.
    Full(Instant),
}

impl Room {
    /// An empty room.
    pub fn new(options: RoomOptions) -> Self {
        Self {
            options,
            inner: Mutex::default(),
            head: watch::Sender::new(0),
            room: Notify::new(),
        }
    }

    /// Takes a seat: what is said from now on is read there.
    ///
    /// # Errors
    /// When all seats are taken.
    pub fn join(self: &Arc<Self>) -> Result<Seat, Refusal> {
        let mut inner = self.inner.lock();
        let limit = self.options.max_readers;
        if inner.readers.len() >= limit {
            return Err(Refusal::Limit {
                what: format!("the chat has {limit} clients, its most"),
                setting: "max-chat-clients",
                instead: "come back later",
            });
        }
        let number = inner.next_reader;
        inner.next_reader += 1;
        let read = inner.head;
        let at = Instant::now();
        inner.readers.insert(number, Place { read, at });
        Ok(Seat {
            room: Arc::clone(self),
            number,
            head: self.head.subscribe(),
        })
    }

    /// Says something to all who have a seat; its number. Waits while the room is full.
    pub async fn say(&self, saying: Saying) -> u64 {
        let mut saying = Some(saying);
        loop {
            // Before looking, so that room that is made meanwhile is not missed.
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.try_say(&mut saying) {
                Outcome::Said(number) => return number,
                Outcome::Full(until) => {
                    // Whether there is room or the time is over: look again.
                    let _ = tokio::time::timeout_at(until, room).await;
                }
            }
        }
    }

    fn try_say(&self, saying: &mut Option<Saying>) -> Outcome {
        let mut inner = self.inner.lock();
        if inner.is_full(&self.options) {
            inner.forget_read();
        }
        let now = Instant::now();
        if inner.is_full(&self.options) {
            inner.full_since.get_or_insert(now);
        }
        self.make_room(&mut inner);
        if let Some(full_since) = inner.full_since {
            let is_hurried = now.duration_since(full_since) >= self.options.hurry;
            let cut = inner.cut_off(now, is_hurried, self.options.patience);
            if cut > 0 {
                inner.cut_off += cut as u64;
                tracing::info!(cut, "readers of the chat were too slow");
                self.make_room(&mut inner);
            }
        }
        // Who comes now does not get in before those who wait already.
        if inner.full_since.is_some() {
            return Outcome::Full(inner.next_look(&self.options));
        }
        let said = saying.take().expect("it is said once");
        let sequence = inner.head + 1;
        let message = Message {
            user: said.user,
            text: said.text,
            sequence,
            sent_at: user::now(),
        };
        inner.head = sequence;
        inner.bytes += message.bytes();
        inner.messages.push_back(Arc::new(message));
        // Under the lock, so that numbers only grow.
        self.head.send_replace(sequence);
        Outcome::Said(sequence)
    }

    /// Tells those who wait when there is room again. Not for each message that is forgotten: they
    /// would wake up in their hundreds to find it full.
    fn make_room(&self, inner: &mut Inner) {
        if inner.full_since.is_none() {
            return;
        }
        inner.forget_read();
        let most = self.options.messages / 4 * 3;
        if inner.messages.len() <= most && inner.bytes <= self.options.bytes / 4 * 3 {
            inner.full_since = None;
            self.room.notify_waiters();
        }
    }

    /// Clients at the moment.
    pub fn readers(&self) -> usize {
        self.inner.lock().readers.len()
    }

    /// How full it is.
    pub fn state(&self) -> Chat {
        let inner = self.inner.lock();
        let read = inner.readers.values().map(|place| place.read).min();
        Chat {
            seats: inner.readers.len(),
            max_seats: self.options.max_readers,
            unread: inner.head - read.unwrap_or(inner.head),
            max_unread: self.options.messages,
            full: inner.full_since.is_some(),
            said: inner.head,
            cut_off: inner.cut_off,
        }
    }
}

impl Inner {
    fn is_full(&self, options: &RoomOptions) -> bool {
        self.messages.len() >= options.messages || self.bytes >= options.bytes
    }

    /// Drops messages that all have read.
    fn forget_read(&mut self) {
        let read = self.readers.values().map(|place| place.read).min();
        let read = read.unwrap_or(self.head);
        while let Some(message) = self.messages.front()
            && message.sequence <= read
        {
            self.bytes -= message.bytes();
            self.messages.pop_front();
        }
    }

    /// Cuts off readers for whom the room should not wait; how many.
    fn cut_off(&mut self, now: Instant, is_hurried: bool, patience: Duration) -> usize {
        let head = self.head;
        let most = self.messages.len() as u64;
        let before = self.readers.len();
        let keep_up = |place: &&Place| (head - place.read) * 2 <= most;
        let keeping_up = self.readers.values().filter(keep_up).count();
        let hurries = is_hurried && keeping_up * 2 >= before;
        self.readers.retain(|_, place| {
            let behind = head - place.read;
            let is_stalled = behind > 0 && now.duration_since(place.at) >= patience;
            let is_straggler = hurries && behind * 4 >= most * 3;
            !is_stalled && !is_straggler
        });
        before - self.readers.len()
    }

    /// When it is worth to look at a full room again, if nobody has made room before.
    fn next_look(&self, options: &RoomOptions) -> Instant {
        let now = Instant::now();
        let hurry = self.full_since.map(|since| since + options.hurry);
        let stalled = self.readers.values().map(|place| place.at).min();
        let stalled = stalled.map(|at| at + options.patience);
        let later = |at: &Instant| *at > now;
        let next = hurry
            .filter(later)
            .into_iter()
            .chain(stalled.filter(later))
            .min();
        // Both are over when nobody keeps up and all take something now and then.
        next.unwrap_or(now + options.hurry)
    }
}

/// A reader's place in the room; leaves it when dropped.
#[derive(Debug)]
pub struct Seat {
    room: Arc<Room>,
    number: u64,
    head: watch::Receiver<u64>,
}

impl Seat {
    /// The next messages, waiting for one if there is none. May be dropped while it waits.
    ///
    /// # Errors
    /// When this reader was too slow and has been cut off.
    pub async fn next(&mut self) -> Result<Vec<Arc<Message>>, Refusal> {
        loop {
            self.head.borrow_and_update();
            if let Some(messages) = self.take()? {
                return Ok(messages);
            }
            if self.head.changed().await.is_err() {
                return Err(Refusal::stopping());
            }
        }
    }

    fn take(&self) -> Result<Option<Vec<Arc<Message>>>, Refusal> {
        let mut inner = self.room.inner.lock();
        let inner = &mut *inner;
        let Some(place) = inner.readers.get_mut(&self.number) else {
            return Err(Refusal::TooSlow(
                "this client read too slowly and was cut off; connect again and read faster"
                    .to_owned(),
            ));
        };
        place.at = Instant::now();
        if place.read == inner.head {
            return Ok(None);
        }
        // What is behind the first message has been read by all.
        let first = inner.messages.front().map_or(0, |message| message.sequence);
        let begin = usize::try_from(place.read + 1 - first).expect("the room's size is a usize");
        let messages: Vec<_> = inner
            .messages
            .iter()
            .skip(begin)
            .take(PAGE)
            .cloned()
            .collect();
        place.read += messages.len() as u64;
        // Only who was the last lets go of something.
        if begin == 0 {
            self.room.make_room(inner);
        }
        Ok(Some(messages))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.room.inner.lock();
        inner.readers.remove(&self.number);
        self.room.make_room(&mut inner);
    }
}
