//! A client of the service over any of its three faces, with the same answers and the same errors.

mod graphql;
mod grpc;
mod http;
mod rest;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use shared::security::bearer::Bearer;
use shared::security::settings::ClientSettings;
use shared::security::tls::{ClientFiles, ClientTls};

use crate::refusal::{Code, Violation};
use crate::user::Draft;

pub use graphql::GraphqlClient;
pub use grpc::GrpcClient;
pub use rest::RestClient;
pub use shared::calls::DEFAULT_DEADLINE;

/// Which face is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// gRPC.
    Grpc,
    /// REST.
    Rest,
    /// GraphQL.
    Graphql,
}

impl Over {
    /// Where a server on this machine has it, unless told otherwise.
    pub fn default_server(self) -> &'static str {
        match self {
            Self::Grpc => "http://127.0.0.1:50051",
            Self::Rest | Self::Graphql => "http://127.0.0.1:8000",
        }
    }
}

impl FromStr for Over {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        shared::settings::units::word(
            text,
            &[
                ("grpc", Self::Grpc),
                ("rest", Self::Rest),
                ("graphql", Self::Graphql),
            ],
        )
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "gRPC",
            Self::Rest => "REST",
            Self::Graphql => "GraphQL",
        })
    }
}

/// How a client calls.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// Time for a call that is not a stream.
    pub deadline: Duration,
    /// What it shows, and whom it trusts where its server is `https://`.
    pub security: ClientSettings,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            deadline: shared::calls::DEFAULT_DEADLINE,
            security: ClientSettings::default(),
        }
    }
}

impl CallOptions {
    /// The value of `authorization`.
    fn authorization(&self) -> Result<Option<HeaderValue>, Failure> {
        let header = self.security.token.as_ref().map(Bearer::header);
        let header = header.transpose();
        header.map_err(|problem| Failure::usage(&format!("the token: {problem}")))
    }

    /// How connections are encrypted, if they are.
    fn tls(&self, encrypted: bool) -> Result<Option<Arc<ClientTls>>, Failure> {
        let files = &self.security.tls;
        if encrypted {
            let opened = ClientTls::open(files.clone());
            return opened
                .map(Some)
                .map_err(|error| Failure::usage(&error.to_string()));
        }
        if *files != ClientFiles::default() {
            return Err(Failure::usage(
                "certificates mean nothing without encryption; write https://host:port",
            ));
        }
        Ok(None)
    }
}

/// A user as it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "snake_case"))]
pub struct UserAnswer {
    /// Counted from 1.
    #[serde(alias = "userId")]
    pub user_id: i32,
    /// The name.
    pub name: String,
    /// The address.
    pub email: String,
    /// Years.
    pub age: i32,
    /// As of RFC 3339.
    #[serde(alias = "createdAt")]
    pub created_at: String,
    /// The roles.
    pub roles: Vec<String>,
}

/// What a batch created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// How many.
    #[serde(alias = "usersCreated")]
    pub users_created: i32,
    /// In the order in which the users were sent.
    #[serde(alias = "userIds")]
    pub user_ids: Vec<i32>,
}

/// The answer to one message of a stream.
#[derive(Debug, Clone, Serialize)]
pub struct StreamAnswer {
    /// Number of the message, counted from 1.
    pub sequence: u64,
    /// What became of it.
    #[serde(flatten)]
    pub result: StreamResult,
}

/// What became of one message of a stream.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamResult {
    /// The user was created.
    Created(UserAnswer),
    /// It was not.
    Refused(Failure),
}

/// What somebody said in the chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatAnswer {
    /// Who.
    pub user: String,
    /// What.
    pub text: String,
    /// Counted from 1, the same for all.
    pub sequence: u64,
    /// As of RFC 3339.
    #[serde(alias = "sentAt")]
    pub sent_at: String,
}

/// Why a call failed.
#[derive(Debug, Clone, Serialize, thiserror::Error)]
#[error("{}: {message}", .code.name())]
pub struct Failure {
    /// The kind: what a caller branches on.
    #[serde(serialize_with = "code_name")]
    pub code: Code,
    /// The words.
    pub message: String,
    /// Fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn code_name<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.name())
}

impl Failure {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            violations: Vec::new(),
        }
    }

    /// A call that cannot be made.
    fn usage(message: &str) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// An answer that is not what the contract says.
    fn strange(what: impl fmt::Display) -> Self {
        let words = format!(
            "the server's answer is not that of a user service: {what}; is it one of this version?"
        );
        Self::new(Code::Internal, words)
    }
}

/// Answers one after the other.
pub type Answers<T> = BoxStream<'static, Result<T, Failure>>;

/// A place in the chat. What is said and what is heard go on independently: whoever says much has
/// to hear meanwhile.
pub struct Chat {
    /// Says.
    pub voice: Box<dyn ChatVoice>,
    /// What everybody says, until the server ends the chat.
    pub heard: Answers<ChatAnswer>,
}

/// Says something in the chat.
#[async_trait]
pub trait ChatVoice: Send + Sync {
    /// Says something to all.
    async fn say(&self, user: &str, text: &str) -> Result<(), Failure>;
}

/// The calls of the contract.
#[async_trait]
pub trait Client: Send + Sync {
    /// Which face it calls.
    fn over(&self) -> Over;

    /// `GetUser`.
    async fn get_user(&self, id: i32) -> Result<UserAnswer, Failure>;

    /// `CreateUser`.
    async fn create_user(&self, user: Draft) -> Result<UserAnswer, Failure>;

    /// `ListUsers`; all users without a limit.
    async fn list_users(
        &self,
        after: i32,
        limit: Option<i32>,
        follow: bool,
    ) -> Result<Answers<UserAnswer>, Failure>;

    /// `BatchCreateUsers`.
    async fn batch_create_users(&self, users: Vec<Draft>) -> Result<BatchAnswer, Failure>;

    /// `StreamUsers`; with `after_all` every answer comes after the last user.
    async fn stream_users(
        &self,
        users: BoxStream<'static, Draft>,
        after_all: bool,
    ) -> Result<Answers<StreamAnswer>, Failure>;

    /// `Chat`: returns when what is said reaches this client.
    async fn chat(&self) -> Result<Chat, Failure>;

    /// `Echo`.
    async fn echo(
        &self,
        payload: Vec<String>,
        delay: Option<Duration>,
        code: i32,
    ) -> Result<Vec<String>, Failure>;
}

/// A client of the servers at `server`: an address or, with gRPC, several and names of DNS.
///
/// # Errors
/// When `server` is no address for this face. Nothing is connected yet.
pub fn client(over: Over, server: &str, options: CallOptions) -> Result<Box<dyn Client>, Failure> {
    Ok(match over {
        Over::Grpc => Box::new(GrpcClient::new(server, options)?),
        Over::Rest => Box::new(RestClient::new(server, options)?),
        Over::Graphql => Box::new(GraphqlClient::new(server, options)?),
    })
}
