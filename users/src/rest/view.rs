//! What answers look like.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{FieldError, Problem};
use crate::chat;
use crate::user::{self, User};

/// A user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserView<'a> {
    /// Counted from 1.
    #[schema(minimum = 1)]
    user_id: i32,
    name: &'a str,
    email: &'a str,
    /// Years.
    #[schema(value_type = i32, minimum = 0, maximum = 150)]
    age: u8,
    /// In milliseconds.
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(value_type = Vec<String>)]
    roles: &'a [Box<str>],
}

impl<'a> From<&'a User> for UserView<'a> {
    fn from(user: &'a User) -> Self {
        Self {
            user_id: user.id,
            name: user.fields.name(),
            email: user.fields.email(),
            age: user.fields.age(),
            created_at: user::format_time(user.created_at),
            roles: user.fields.roles(),
        }
    }
}

/// Some users, and where the others are.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Page)]
pub(super) struct Page<'a> {
    #[schema(value_type = Vec<UserView<'static>>)]
    pub(super) users: Vec<UserView<'a>>,
    /// Path of the next page; null after the last user.
    #[schema(required = true)]
    pub(super) next: Option<String>,
}

/// What a batch created.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Created {
    pub(super) users_created: usize,
    /// In the order in which the users came.
    pub(super) user_ids: Vec<i32>,
}

/// The answer to one line of a stream: either `created` or `refused`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Answer)]
pub(super) struct Answer<'a> {
    /// Number of the line that is answered, counted from 1; blank lines do not count.
    #[schema(minimum = 1)]
    pub(super) sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UserView<'static>>)]
    pub(super) created: Option<UserView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Refused<'static>>)]
    pub(super) refused: Option<Refused<'a>>,
}

/// Why a line was refused.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Refused)]
pub(super) struct Refused<'a> {
    /// The code that the gRPC face answers with in this case.
    code: &'a str,
    /// Status that a request with this line alone would have got.
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<FieldError>, required = false)]
    errors: &'a [FieldError],
}

impl<'a> From<&'a Problem> for Refused<'a> {
    fn from(problem: &'a Problem) -> Self {
        Self {
            code: problem.code(),
            status: problem.status().as_u16(),
            detail: problem.detail(),
            errors: problem.errors(),
        }
    }
}

/// What somebody said.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatMessage)]
pub(super) struct MessageView<'a> {
    user: &'a str,
    text: &'a str,
    /// Counted from 1, the same for all who listen.
    #[schema(minimum = 1)]
    sequence: u64,
    /// In milliseconds.
    #[schema(format = DateTime)]
    sent_at: String,
}

impl MessageView<'_> {
    /// The id of the event that carries it.
    pub(super) fn id(&self) -> String {
        self.sequence.to_string()
    }
}

impl<'a> From<&'a chat::Message> for MessageView<'a> {
    fn from(message: &'a chat::Message) -> Self {
        Self {
            user: &message.user,
            text: &message.text,
            sequence: message.sequence,
            sent_at: user::format_time(message.sent_at),
        }
    }
}

/// The number that a message got.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Said {
    #[schema(minimum = 1)]
    pub(super) sequence: u64,
}

/// What was sent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Echoed {
    pub(super) payload: Vec<String>,
}

/// That the server serves.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(pattern = "^serving$")]
    pub(super) status: &'static str,
}

/// `value` as one line of JSON, with its end.
pub(super) fn line(value: &impl Serialize, to: &mut Vec<u8>) {
    serde_json::to_writer(&mut *to, value).expect("it consists of text and numbers");
    to.push(b'\n');
}

/// `value` as JSON.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it consists of text and numbers")
}
