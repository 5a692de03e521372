//! The client of the REST face.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;

use super::{
    Answers, BatchAnswer, CallOptions, Chat, ChatVoice, Client, Failure, Over, StreamAnswer,
    StreamResult, UserAnswer, base, http_client, transport,
};
use crate::refusal::{Code, Violation};
use crate::user::Draft;

const LINES: &str = "application/x-ndjson";
/// Most bytes of one line of an answer.
const MAX_LINE: usize = 16 << 20;

/// Calls over REST.
#[derive(Debug, Clone)]
pub struct RestClient {
    http: reqwest::Client,
    base: Url,
    options: CallOptions,
}

impl RestClient {
    /// A client of the server at `server`, such as `http://127.0.0.1:8000`.
    ///
    /// # Errors
    /// When that is no address.
    pub fn new(server: &str, options: CallOptions) -> Result<Self, Failure> {
        options.authorization()?;
        Ok(Self {
            http: http_client()?,
            base: base(server)?,
            options,
        })
    }

    fn url(&self, path: &str) -> Url {
        // Not `join`: a colon in the path would make a scheme of what is before it.
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }

    /// Sends a request; an answer that is no success is a failure.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let request = match self.options.authorization()? {
            Some(value) => request.header(http::header::AUTHORIZATION, value),
            None => request,
        };
        // Of a stream, the head has to come in time.
        let sent = tokio::time::timeout(self.options.deadline, request.send()).await;
        let response = sent
            .map_err(|_| Failure::new(Code::DeadlineExceeded, "no answer came in time"))?
            .map_err(|error| transport(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.map_err(|error| transport(&error))?;
        Err(problem(status, &body))
    }

    /// Sends a request that is answered at once.
    async fn call<A: DeserializeOwned>(&self, request: RequestBuilder) -> Result<A, Failure> {
        let response = self.send(request.timeout(self.options.deadline)).await?;
        let body = response.bytes().await.map_err(|error| transport(&error))?;
        serde_json::from_slice(&body).map_err(Failure::strange)
    }
}

/// A problem document.
#[derive(Debug, Deserialize)]
struct Problem {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<FieldProblem>,
}

#[derive(Debug, Deserialize)]
struct FieldProblem {
    field: String,
    detail: String,
}

fn problem(status: StatusCode, body: &[u8]) -> Failure {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        return Failure::new(code_of(status), format!("the server answered {status}"));
    };
    problem.failure(status)
}

impl Problem {
    fn failure(self, status: StatusCode) -> Failure {
        let named = self.code.as_deref().and_then(Code::from_name);
        let violation = |error: FieldProblem| Violation {
            field: error.field,
            description: error.detail,
        };
        Failure {
            code: named.unwrap_or_else(|| code_of(status)),
            message: self.detail,
            violations: self.errors.into_iter().map(violation).collect(),
        }
    }
}

/// The kind of failure that a status stands for.
fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 | 410 => Code::NotFound,
        409 => Code::Aborted,
        413 | 429 => Code::ResourceExhausted,
        400..=498 => Code::InvalidArgument,
        499 => Code::Cancelled,
        501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}

pub(super) fn draft_json(draft: &Draft) -> Value {
    json!({
        "name": draft.name,
        "email": draft.email,
        "age": draft.age,
        "roles": draft.roles,
    })
}

/// The lines of an answer.
fn lines(response: Response) -> BoxStream<'static, Result<Bytes, Failure>> {
    let body = response
        .bytes_stream()
        .map_err(|error| transport(&error))
        .boxed();
    stream::try_unfold((body, BytesMut::new()), |(mut body, mut held)| async {
        loop {
            if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let line = held.split_to(end + 1).freeze();
                return Ok(Some((line, (body, held))));
            }
            if held.len() > MAX_LINE {
                return Err(Failure::strange("a line without an end"));
            }
            match body.next().await {
                Some(piece) => held.extend_from_slice(&piece?),
                None if held.is_empty() => return Ok(None),
                None => return Ok(Some((held.split().freeze(), (body, held)))),
            }
        }
    })
    .boxed()
}

fn read<A: DeserializeOwned>(line: &Bytes) -> Result<A, Failure> {
    serde_json::from_slice(line).map_err(Failure::strange)
}

#[derive(Debug, Deserialize)]
struct Echoed {
    payload: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    sequence: u64,
    created: Option<UserAnswer>,
    refused: Option<Refused>,
}

#[derive(Debug, Deserialize)]
struct Refused {
    #[serde(flatten)]
    problem: Problem,
    status: u16,
}

#[async_trait]
impl Client for RestClient {
    fn over(&self) -> Over {
        Over::Rest
    }

    async fn get_user(&self, id: i32) -> Result<UserAnswer, Failure> {
        self.call(self.http.get(self.url(&format!("/users/{id}"))))
            .await
    }

    async fn create_user(&self, user: Draft) -> Result<UserAnswer, Failure> {
        let request = self.http.post(self.url("/users")).json(&draft_json(&user));
        self.call(request).await
    }

    async fn list_users(
        &self,
        after: i32,
        limit: Option<i32>,
        follow: bool,
    ) -> Result<Answers<UserAnswer>, Failure> {
        let mut url = self.url("/users");
        url.query_pairs_mut()
            .append_pair("after", &after.to_string())
            .append_pair("limit", &limit.unwrap_or(0).to_string())
            .append_pair("follow", &follow.to_string());
        let request = self.http.get(url).header(http::header::ACCEPT, LINES);
        let response = self.send(request).await?;
        Ok(lines(response).map(|line| read(&line?)).boxed())
    }

    async fn batch_create_users(&self, users: Vec<Draft>) -> Result<BatchAnswer, Failure> {
        let lines = users.into_iter().map(|user| Ok::<_, Failure>(line(&user)));
        let request = self
            .http
            .post(self.url("/users:batch"))
            .header(http::header::CONTENT_TYPE, LINES)
            .body(reqwest::Body::wrap_stream(stream::iter(lines)));
        let body = self.send(request).await?.bytes().await;
        read(&body.map_err(|error| transport(&error))?)
    }

    async fn stream_users(
        &self,
        users: BoxStream<'static, Draft>,
        after_all: bool,
    ) -> Result<Answers<StreamAnswer>, Failure> {
        let mut url = self.url("/users:stream");
        let mode = if after_all { "after-all" } else { "each" };
        url.query_pairs_mut().append_pair("answer", mode);
        let sent = users.map(|user| Ok::<_, Failure>(line(&user)));
        let request = self
            .http
            .post(url)
            .header(http::header::CONTENT_TYPE, LINES)
            .body(reqwest::Body::wrap_stream(sent));
        let response = self.send(request).await?;
        Ok(lines(response)
            .map(|line| {
                let answer: Answer = read(&line?)?;
                let result = match (answer.created, answer.refused) {
                    (Some(user), None) => StreamResult::Created(user),
                    (None, Some(Refused { problem, status })) => {
                        let status = StatusCode::from_u16(status).map_err(Failure::strange)?;
                        StreamResult::Refused(problem.failure(status))
                    }
                    _ => return Err(Failure::strange("an answer without a result")),
                };
                let sequence = answer.sequence;
                Ok(StreamAnswer { sequence, result })
            })
            .boxed())
    }

    async fn chat(&self) -> Result<Chat, Failure> {
        let request = self.http.get(self.url("/chat/events"));
        let response = self
            .send(request.header(http::header::ACCEPT, "text/event-stream"))
            .await?;
        let heard = stream::unfold(lines(response), |mut lines| async {
            let message = match event(&mut lines).await? {
                Ok((name, data)) if name == "error" => {
                    Err(problem(StatusCode::TOO_MANY_REQUESTS, data.as_bytes()))
                }
                Ok((_, data)) => serde_json::from_str(&data).map_err(Failure::strange),
                Err(failure) => Err(failure),
            };
            Some((message, lines))
        });
        Ok(Chat {
            voice: Box::new(self.clone()),
            heard: heard.boxed(),
        })
    }

    async fn echo(
        &self,
        payload: Vec<String>,
        delay: Option<Duration>,
        code: i32,
    ) -> Result<Vec<String>, Failure> {
        let mut body = json!({ "payload": payload, "code": code });
        if let Some(delay) = delay {
            let delay = u64::try_from(delay.as_millis());
            body["delay_ms"] = delay
                .map_err(|_| Failure::usage("the delay is too long"))?
                .into();
        }
        let echoed: Echoed = self
            .call(self.http.post(self.url("/echo")).json(&body))
            .await?;
        Ok(echoed.payload)
    }
}

fn line(user: &Draft) -> Bytes {
    Bytes::from(format!("{}\n", draft_json(user)))
}

/// The next server-sent event's name and data.
async fn event(
    lines: &mut BoxStream<'static, Result<Bytes, Failure>>,
) -> Option<Result<(String, String), Failure>> {
    let (mut name, mut data) = (String::new(), String::new());
    loop {
        let line = match lines.next().await? {
            Ok(line) => line,
            Err(failure) => return Some(Err(failure)),
        };
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\r', '\n']);
        let value = |field: &str| {
            let rest = line.strip_prefix(field)?.strip_prefix(':')?;
            Some(rest.strip_prefix(' ').unwrap_or(rest).to_owned())
        };
        if line.is_empty() && !data.is_empty() {
            return Some(Ok((name, data)));
        }
        if let Some(value) = value("event") {
            name = value;
        }
        if let Some(value) = value("data") {
            data.push_str(&value);
        }
    }
}

#[async_trait]
impl ChatVoice for RestClient {
    async fn say(&self, user: &str, text: &str) -> Result<(), Failure> {
        let body = json!({ "user": user, "text": text });
        let said = self.call::<Value>(self.http.post(self.url("/chat")).json(&body));
        said.await.map(drop)
    }
}
