//! The client of the REST face.

use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Stream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::request::Builder;
use http::{Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;

use super::http::{Http, broken};
use super::{
    Answers, BatchAnswer, CallOptions, Chat, ChatVoice, Client, Failure, Over, StreamAnswer,
    StreamResult, UserAnswer,
};
use crate::refusal::{Code, Violation};
use crate::user::Draft;

const LINES: &str = "application/x-ndjson";
/// Most bytes of one line of an answer.
const MAX_LINE: usize = 16 << 20;

/// Calls over REST.
#[derive(Debug, Clone)]
pub struct RestClient {
    http: Http,
}

impl RestClient {
    /// A client of the server at `server`, such as `http://127.0.0.1:8000`.
    ///
    /// # Errors
    /// When that is no address, or the certificates or the token cannot be used.
    pub fn new(server: &str, options: CallOptions) -> Result<Self, Failure> {
        let http = Http::new(server, options)?;
        Ok(Self { http })
    }

    fn url(&self, path: &str) -> Url {
        self.http.url(path)
    }

    /// Sends a request; an answer that is no success is a failure.
    async fn send(&self, request: Builder, body: Body) -> Result<Response<Incoming>, Failure> {
        let response = self.http.send(request, body).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(problem(status, &super::http::whole(response).await?))
    }

    /// Sends a request that is answered at once.
    async fn call<A: DeserializeOwned>(&self, request: Builder, body: Body) -> Result<A, Failure> {
        let (status, body) = self.http.call(request, body).await?;
        if !status.is_success() {
            return Err(problem(status, &body));
        }
        serde_json::from_slice(&body).map_err(Failure::strange)
    }

    /// Posts JSON, which is answered at once.
    async fn post<A: DeserializeOwned>(&self, path: &str, value: &Value) -> Result<A, Failure> {
        let request = self.http.request(Method::POST, &self.url(path))?;
        let (request, body) = super::http::json(request, value);
        self.call(request, body).await
    }

    /// Posts users, one a line.
    async fn post_lines(
        &self,
        url: &Url,
        users: impl Stream<Item = Draft> + Send + 'static,
    ) -> Result<Response<Incoming>, Failure> {
        let request = self.http.request(Method::POST, url)?;
        let request = request.header(header::CONTENT_TYPE, LINES);
        let lines = users.map(|user| Ok::<_, Failure>(line(&user)));
        self.send(request, Body::from_stream(lines)).await
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
fn lines(response: Response<Incoming>) -> BoxStream<'static, Result<Bytes, Failure>> {
    let body = response
        .into_body()
        .into_data_stream()
        .map_err(|error| broken(&error))
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
        let url = self.url(&format!("/users/{id}"));
        let request = self.http.request(Method::GET, &url)?;
        self.call(request, Body::empty()).await
    }

    async fn create_user(&self, user: Draft) -> Result<UserAnswer, Failure> {
        self.post("/users", &draft_json(&user)).await
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
        let request = self.http.request(Method::GET, &url)?;
        let request = request.header(header::ACCEPT, LINES);
        let response = self.send(request, Body::empty()).await?;
        Ok(lines(response).map(|line| read(&line?)).boxed())
    }

    async fn batch_create_users(&self, users: Vec<Draft>) -> Result<BatchAnswer, Failure> {
        let url = self.url("/users:batch");
        let response = self.post_lines(&url, stream::iter(users)).await?;
        read(&super::http::whole(response).await?)
    }

    async fn stream_users(
        &self,
        users: BoxStream<'static, Draft>,
        after_all: bool,
    ) -> Result<Answers<StreamAnswer>, Failure> {
        let mut url = self.url("/users:stream");
        let mode = if after_all { "after-all" } else { "each" };
        url.query_pairs_mut().append_pair("answer", mode);
        let response = self.post_lines(&url, users).await?;
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
        let request = self.http.request(Method::GET, &self.url("/chat/events"))?;
        let request = request.header(header::ACCEPT, "text/event-stream");
        let response = self.send(request, Body::empty()).await?;
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
        let echoed: Echoed = self.post("/echo", &body).await?;
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
        self.post::<Value>("/chat", &body).await.map(drop)
    }
}
