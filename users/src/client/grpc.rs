//! The client of the gRPC face.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::{HeaderMap, header};
use shared::calls::{BalanceOptions, Caller, Counts, InvalidTarget, Methods, Options, Targets};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{
    Answers, BatchAnswer, CallOptions, Chat, ChatAnswer, ChatVoice, Client, Failure, Over,
    StreamAnswer, StreamResult, UserAnswer,
};
use crate::refusal::{Code, Violation};
use crate::user::{Draft, format_time};
use crate::wire::proto::stream_users_response::Result as Answer;
use crate::wire::proto::user_service_client::UserServiceClient;
use crate::wire::{self, proto};

/// Messages that wait to be sent.
const QUEUE: usize = 16;

/// Calls over gRPC: with deadlines, retries of what may be retried, and in turn when there are
/// several servers.
#[derive(Debug, Clone)]
pub struct GrpcClient {
    calls: UserServiceClient<Caller>,
    caller: Caller,
    options: CallOptions,
}

impl GrpcClient {
    /// A client of the servers at `servers`: `http://host:port`, several with commas, or
    /// `dns:///host:port`; encrypted with `https://` and `dns+https:///`.
    ///
    /// # Errors
    /// When that is no address, or the certificates or the token cannot be used.
    pub fn new(servers: &str, options: CallOptions) -> Result<Self, Failure> {
        options.authorization()?;
        let targets = targets(servers)?;
        let balance = BalanceOptions {
            tls: options.tls(targets.any_encrypted())?,
            health_service: wire::SERVICE.to_owned(),
            ..BalanceOptions::default()
        };
        let call_options = Options {
            deadline: options.deadline,
            balance,
            ..Options::default()
        };
        let methods = Methods::from_descriptors(wire::DESCRIPTORS)
            .expect("the contract was compiled with this program");
        let caller = Caller::new(targets, methods, call_options);
        Ok(Self {
            calls: UserServiceClient::new(caller.clone()).max_decoding_message_size(usize::MAX),
            caller,
            options,
        })
    }

    /// Calls and attempts so far.
    pub fn counts(&self) -> Counts {
        self.caller.counts()
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Failure> {
        let mut request = Request::new(message);
        if let Some(value) = self.options.authorization()? {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            *request.metadata_mut() = MetadataMap::from_headers(headers);
        }
        Ok(request)
    }
}

fn targets(servers: &str) -> Result<Targets, Failure> {
    let targets = servers.parse();
    targets.map_err(|error: InvalidTarget| Failure::usage(&error.to_string()))
}

fn failure(status: Status) -> Failure {
    let details = status.get_error_details();
    let fields = details
        .bad_request()
        .map(|bad| bad.field_violations.as_slice());
    let violation = |violation: &tonic_types::FieldViolation| Violation {
        field: violation.field.clone(),
        description: violation.description.clone(),
    };
    let mut message = status.message().to_owned();
    if status.code() == tonic::Code::Unimplemented {
        message.push_str("; is the server one of users, and of this version?");
    }
    Failure {
        code: Code::from_number(status.code() as i32).unwrap_or(Code::Unknown),
        message,
        violations: fields.unwrap_or_default().iter().map(violation).collect(),
    }
}

fn user(user: proto::UserResponse) -> UserAnswer {
    UserAnswer {
        user_id: user.user_id,
        name: user.name,
        email: user.email,
        age: user.age,
        created_at: time(user.created_at),
        roles: user.roles,
    }
}

fn time(time: Option<prost_types::Timestamp>) -> String {
    let time = time.and_then(|time| wire::time_from_proto(&time));
    time.map(format_time).unwrap_or_default()
}

fn request_of(draft: Draft) -> proto::CreateUserRequest {
    proto::CreateUserRequest {
        name: draft.name,
        email: draft.email,
        age: draft.age,
        roles: draft.roles,
    }
}

fn answers<T, A>(
    response: Response<Streaming<T>>,
    read: impl Fn(T) -> Result<A, Failure> + Send + 'static,
) -> Answers<A>
where
    T: Send + 'static,
    A: Send + 'static,
{
    let stream = response.into_inner();
    stream
        .map(move |message| message.map_err(failure).and_then(&read))
        .boxed()
}

#[async_trait]
impl Client for GrpcClient {
    fn over(&self) -> Over {
        Over::Grpc
    }

    async fn get_user(&self, id: i32) -> Result<UserAnswer, Failure> {
        let request = self.request(proto::GetUserRequest { user_id: id })?;
        let response = self.calls.clone().get_user(request).await;
        Ok(user(response.map_err(failure)?.into_inner()))
    }

    async fn create_user(&self, draft: Draft) -> Result<UserAnswer, Failure> {
        let request = self.request(request_of(draft))?;
        let response = self.calls.clone().create_user(request).await;
        Ok(user(response.map_err(failure)?.into_inner()))
    }

    async fn list_users(
        &self,
        after: i32,
        limit: Option<i32>,
        follow: bool,
    ) -> Result<Answers<UserAnswer>, Failure> {
        let request = self.request(proto::ListUsersRequest {
            limit: limit.unwrap_or(0),
            follow,
            after_user_id: after,
        })?;
        let response = self.calls.clone().list_users(request).await;
        Ok(answers(response.map_err(failure)?, |message| {
            Ok(user(message))
        }))
    }

    async fn batch_create_users(&self, users: Vec<Draft>) -> Result<BatchAnswer, Failure> {
        let users = tokio_stream::iter(users.into_iter().map(request_of));
        let response = self
            .calls
            .clone()
            .batch_create_users(self.request(users)?)
            .await;
        let answer = response.map_err(failure)?.into_inner();
        Ok(BatchAnswer {
            users_created: answer.users_created,
            user_ids: answer.user_ids,
        })
    }

    async fn stream_users(
        &self,
        users: BoxStream<'static, Draft>,
        after_all: bool,
    ) -> Result<Answers<StreamAnswer>, Failure> {
        let mode = match after_all {
            true => proto::AnswerMode::AfterAll,
            false => proto::AnswerMode::Each,
        };
        // Through a channel: with the stream itself the compiler cannot prove that the call can be
        // sent to another thread (rust-lang/rust#102211).
        let (send, requests) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut users = users;
            while let Some(draft) = users.next().await {
                let request = proto::StreamUsersRequest {
                    user: Some(request_of(draft)),
                    answer_mode: mode.into(),
                };
                if send.send(request).await.is_err() {
                    return;
                }
            }
        });
        let requests = ReceiverStream::new(requests);
        let response = self
            .calls
            .clone()
            .stream_users(self.request(requests)?)
            .await;
        Ok(answers(response.map_err(failure)?, stream_answer))
    }

    async fn chat(&self) -> Result<Chat, Failure> {
        let (say, said) = mpsc::channel(QUEUE);
        let request = self.request(ReceiverStream::new(said))?;
        let response = self.calls.clone().chat(request).await;
        let heard = answers(response.map_err(failure)?, |message: proto::ChatMessage| {
            Ok(ChatAnswer {
                user: message.user,
                text: message.text,
                sequence: message.sequence,
                sent_at: time(message.sent_at),
            })
        });
        let voice = Box::new(Voice { say });
        Ok(Chat { voice, heard })
    }

    async fn echo(
        &self,
        payload: Vec<String>,
        delay: Option<Duration>,
        code: i32,
    ) -> Result<Vec<String>, Failure> {
        let delay = delay.map(prost_types::Duration::try_from).transpose();
        let request = self.request(proto::EchoRequest {
            payload,
            delay: delay.map_err(|_| Failure::usage("the delay is too long"))?,
            code,
        })?;
        let response = self.calls.clone().echo(request).await;
        Ok(response.map_err(failure)?.into_inner().payload)
    }
}

fn stream_answer(answer: proto::StreamUsersResponse) -> Result<StreamAnswer, Failure> {
    let result = match answer.result {
        Some(Answer::Created(created)) => StreamResult::Created(user(created)),
        Some(Answer::Refused(refused)) => StreamResult::Refused(refusal(refused)),
        None => return Err(Failure::strange("an answer without a result")),
    };
    let sequence = answer.sequence;
    Ok(StreamAnswer { sequence, result })
}

fn refusal(refused: proto::Refusal) -> Failure {
    let violation = |violation: proto::FieldViolation| Violation {
        field: violation.field,
        description: violation.description,
    };
    Failure {
        code: Code::from_number(refused.code).unwrap_or(Code::Unknown),
        message: refused.message,
        violations: refused.violations.into_iter().map(violation).collect(),
    }
}

struct Voice {
    say: mpsc::Sender<proto::ChatMessage>,
}

#[async_trait]
impl ChatVoice for Voice {
    async fn say(&self, user: &str, text: &str) -> Result<(), Failure> {
        let message = proto::ChatMessage {
            user: user.to_owned(),
            text: text.to_owned(),
            ..Default::default()
        };
        let sent = self.say.send(message).await;
        sent.map_err(|_| Failure::new(Code::Unavailable, "the chat has ended"))
    }
}
