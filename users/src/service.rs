//! What the service does, whatever the face that it is asked through.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::access::{Access, Credentials};
use crate::chat::Room;
use crate::directory::Directory;
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
    /// Who may do what.
    pub access: Access,
    /// Bounds on requests.
    pub limits: Limits,
    /// Cancelled when the server is about to stop: callers should go elsewhere.
    pub draining: CancellationToken,
    /// Cancelled when the server stops: whoever waits for news is told so.
    pub stop: CancellationToken,
}

impl Service {
    /// Creates a user.
    ///
    /// # Errors
    /// When its fields are wrong, the caller may not, or there is no room.
    pub async fn create(
        &self,
        credentials: Credentials<'_>,
        draft: Draft,
    ) -> Result<Arc<User>, Refusal> {
        let new = draft.check()?;
        self.access.may_create(credentials, &new)?;
        self.directory.create(new).await
    }

    /// A batch to be filled.
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            service: self,
            drafts: Vec::new(),
        }
    }

    /// Answers with `payload` after `delay`, or with the status of this number.
    ///
    /// # Errors
    /// The status that was asked for; when the delay or the number is not one.
    pub async fn echo<P>(
        &self,
        payload: P,
        delay: Option<Duration>,
        code: i32,
    ) -> Result<P, Refusal> {
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
    drafts: Vec<crate::user::NewUser>,
}

impl Batch<'_> {
    /// Adds a user.
    ///
    /// # Errors
    /// When its fields are wrong (their names begin with `users[N]`, counted from 0), the caller may
    /// not create it, or the batch is full.
    pub fn add(&mut self, credentials: Credentials<'_>, draft: Draft) -> Result<(), Refusal> {
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
        self.service.access.may_create(credentials, &new)?;
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
