//! What the service does, whatever the face that it is asked through.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use shared::security::access::Scope;

use crate::access::{Access, Requester};
use crate::chat::{Room, Saying, Seat};
use crate::directory::{Directory, Listing};
use crate::metrics::State;
use crate::observe::Observer;
use crate::refusal::{Code, Refusal, Violations};
use crate::user::{Draft, User};

/// Longest time that an echo waits.
pub const MAX_DELAY: Duration = Duration::from_secs(60);

/// Bounds on what one request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest message of gRPC, and largest body of HTTP where it is not a stream; bytes.
    pub max_message_size: usize,
    /// Most users of one batch.
    pub max_batch: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_size: 4 << 20,
            max_batch: 100_000,
        }
    }
}

impl Limits {
    /// Most bytes of answers that are held back until the last request has come.
    pub fn max_held(&self) -> usize {
        self.max_message_size.saturating_mul(4)
    }

    /// Most strings of an echo: each takes more memory than its bytes on the wire, which may be two.
    pub fn max_strings(&self) -> usize {
        self.max_message_size / 8
    }
}

/// The service behind its faces.
#[derive(Debug)]
pub struct Service {
    /// The users.
    pub directory: Arc<Directory>,
    /// The chat.
    pub room: Arc<Room>,
    /// Who gets in.
    pub access: Access,
    /// Bounds on requests.
    pub limits: Limits,
    /// Hears of every call.
    pub observer: Observer,
    /// Whether figures are for everybody.
    pub open_metrics: bool,
    /// Cancelled when the server is about to stop: callers should go elsewhere.
    pub draining: CancellationToken,
    /// Cancelled when the server stops: whoever waits for news is told so.
    pub stop: CancellationToken,
}

impl Service {
    /// The figures of now, in Prometheus' text format.
    pub fn figures(&self) -> String {
        let state = State {
            users: self.directory.len(),
            max_users: self.directory.max_users(),
            lists: self.directory.lists(),
            writes: self.directory.writes(),
            chat: self.room.state(),
        };
        self.observer.metrics.render(&state) + &shared::telemetry::process::figures()
    }

    /// The user with this id.
    ///
    /// # Errors
    /// When there is none, or the caller may not read.
    pub fn user(&self, requester: &Requester, id: i32) -> Result<Arc<User>, Refusal> {
        requester.may(Scope::Read)?;
        self.directory.user(id)
    }

    /// At most `limit` users after the one with the id `after`.
    ///
    /// # Errors
    /// When the caller may not read.
    pub fn page(
        &self,
        requester: &Requester,
        after: i32,
        limit: usize,
    ) -> Result<Vec<Arc<User>>, Refusal> {
        requester.may(Scope::Read)?;
        Ok(self.directory.page(after, limit))
    }

    /// Users after the one with the id `after`; with `follow` also those who come.
    ///
    /// # Errors
    /// When the caller may not read.
    pub fn list(
        &self,
        requester: &Requester,
        after: i32,
        limit: Option<usize>,
        follow: bool,
    ) -> Result<Listing, Refusal> {
        requester.may(Scope::Read)?;
        Ok(self.directory.list(after, limit, follow))
    }

    /// Number of users.
    ///
    /// # Errors
    /// When the caller may not read.
    pub fn count(&self, requester: &Requester) -> Result<usize, Refusal> {
        requester.may(Scope::Read)?;
        Ok(self.directory.len())
    }

    /// Creates a user.
    ///
    /// # Errors
    /// When its fields are wrong, the caller may not, or there is no room.
    pub async fn create(&self, requester: &Requester, draft: Draft) -> Result<Arc<User>, Refusal> {
        // Who may not create anything learns nothing about its fields.
        requester.may(Scope::Upload)?;
        let new = draft.check()?;
        requester.may_create(&new)?;
        self.directory.create(new).await
    }

    /// A batch to be filled.
    ///
    /// # Errors
    /// When the caller may not create users.
    pub fn batch<'a>(&'a self, requester: &'a Requester) -> Result<Batch<'a>, Refusal> {
        requester.may(Scope::Upload)?;
        Ok(Batch {
            service: self,
            requester,
            drafts: Vec::new(),
        })
    }

    /// A seat in the chat, to hear what is said.
    ///
    /// # Errors
    /// When the caller may not read, or the room is full.
    pub fn join(&self, requester: &Requester) -> Result<Seat, Refusal> {
        requester.may(Scope::Read)?;
        self.room.join()
    }

    /// Says something in the chat; its number.
    ///
    /// # Errors
    /// When the caller may not bring anything in.
    pub async fn say(&self, requester: &Requester, saying: Saying) -> Result<u64, Refusal> {
        requester.may(Scope::Upload)?;
        Ok(self.room.say(saying).await)
    }

    /// Answers with `payload` after `delay`, or with the status of this number.
    ///
    /// # Errors
    /// The status that was asked for; when the delay or the number is not one, or the caller may not
    /// read.
    pub async fn echo<P>(
        &self,
        requester: &Requester,
        payload: P,
        delay: Option<Duration>,
        code: i32,
    ) -> Result<P, Refusal> {
        requester.may(Scope::Read)?;
        let delay = delay.unwrap_or_default();
        if delay > MAX_DELAY {
            let words = format!("delay must be at most {} s", MAX_DELAY.as_secs());
            return Err(Violations::one("delay", words).into());
        }
        let status = match code {
            0 => None,
            code => Some(Code::from_number(code).ok_or_else(|| {
                Violations::one("code", format!("code must be 0 to 16, not {code}"))
            })?),
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match status {
            None => Ok(payload),
            Some(code) => Err(Refusal::AskedFor(code)),
        }
    }
}

/// Users that are created together, or not at all.
#[derive(Debug)]
pub struct Batch<'a> {
    service: &'a Service,
    requester: &'a Requester,
    drafts: Vec<crate::user::NewUser>,
}

impl Batch<'_> {
    /// Adds a user.
    ///
    /// # Errors
    /// When its fields are wrong (their names begin with `users[N]`, counted from 0), the caller may
    /// not create it, or the batch is full.
    pub fn add(&mut self, draft: Draft) -> Result<(), Refusal> {
        let limit = self.service.limits.max_batch;
        let index = self.drafts.len();
        if index >= limit {
            return Err(Refusal::Limit {
                what: format!("a batch has at most {limit} users"),
                setting: "max-batch",
                instead: "send several batches",
            });
        }
        let new = draft
            .check()
            .map_err(|violations| violations.within(&format!("users[{index}]")))?;
        self.requester.may_create(&new)?;
        self.drafts.push(new);
        Ok(())
    }

    /// Creates all of them.
    ///
    /// # Errors
    /// When there is no room; then none is created.
    pub async fn create(self) -> Result<Vec<Arc<User>>, Refusal> {
        self.service.directory.create_all(self.drafts).await
    }
}
