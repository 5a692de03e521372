//! The client of the GraphQL face.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::calls::Connected;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};
use url::Url;

use super::http::Http;
use super::rest::draft_json;
use super::{
    Answers, BatchAnswer, CallOptions, Chat, ChatVoice, Client, Failure, Over, StreamAnswer,
    StreamResult, UserAnswer,
};
use crate::refusal::{Code, Violation};
use crate::user::Draft;

/// Fields of a user.
const USER: &str = "userId name email age createdAt roles";
/// Users of a page.
const PAGE: i32 = 500;
/// The subprotocol of subscriptions.
const PROTOCOL: &str = "graphql-transport-ws";

/// Calls over GraphQL.
#[derive(Debug, Clone)]
pub struct GraphqlClient {
    http: Http,
    url: Url,
}

impl GraphqlClient {
    /// A client of the server at `server`, such as `http://127.0.0.1:8000`.
    ///
    /// # Errors
    /// When that is no address, or the certificates or the token cannot be used.
    pub fn new(server: &str, options: CallOptions) -> Result<Self, Failure> {
        let http = Http::new(server, options)?;
        let url = http.url("/graphql");
        Ok(Self { http, url })
    }

    /// Runs an operation; the answer is the field `field` of its data.
    async fn run<A: DeserializeOwned>(
        &self,
        query: &str,
        variables: Value,
        field: &str,
    ) -> Result<A, Failure> {
        let body = json!({ "query": query, "variables": variables });
        let request = self.http.request(Method::POST, &self.url)?;
        let (request, body) = super::http::json(request, &body);
        let (_, body) = self.http.call(request, body).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(Failure::strange)?;
        answer.field(field)
    }

    /// Starts a subscription.
    async fn subscribe(&self, query: &str, variables: Value) -> Result<Subscribed, Failure> {
        self.http.within(self.begin(query, variables)).await?
    }

    async fn begin(&self, query: &str, variables: Value) -> Result<Subscribed, Failure> {
        let asking = self.http.request(Method::GET, &self.url)?;
        let asking = asking.body(()).map_err(Failure::strange)?;
        // Whether it is encrypted is the connection's affair.
        let mut url = self.url.clone();
        let _ = url.set_scheme("ws");
        let request = url.as_str().into_client_request();
        let mut request = request.map_err(|error| socket(&error))?;
        let headers = request.headers_mut();
        headers.extend(asking.into_parts().0.headers);
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(PROTOCOL),
        );
        let stream = self.http.dial().await?;
        let connected = tokio_tungstenite::client_async(request, stream).await;
        let (mut socket, _) = connected.map_err(|error| self::socket(&error))?;
        send(&mut socket, &json!({ "type": "connection_init" })).await?;
        let payload = json!({ "query": query, "variables": variables });
        let subscribe = json!({ "id": "1", "type": "subscribe", "payload": payload });
        let (mut has_begun, mut early) = (false, VecDeque::new());
        loop {
            let event = receive(&mut socket).await;
            let event = event.unwrap_or_else(|| Err(Failure::strange("it hung up")))?;
            match event.kind.as_str() {
                "connection_ack" => {
                    send(&mut socket, &subscribe).await?;
                    // Answered in turn: when the pong is there, the subscription is.
                    send(&mut socket, &json!({ "type": "ping" })).await?;
                    has_begun = true;
                }
                "pong" if has_begun => return Ok(Subscribed { socket, early }),
                "next" | "complete" if has_begun => early.push_back(event),
                "ping" => send(&mut socket, &json!({ "type": "pong" })).await?,
                "error" => return Err(event.failure()),
                other => return Err(Failure::strange(format_args!("{other} before pong"))),
            }
        }
    }
}

type Socket = WebSocketStream<Connected>;

/// A subscription that the server has begun.
struct Subscribed {
    socket: Socket,
    /// What came before the server said so.
    early: VecDeque<Event>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    errors: Vec<GraphqlError>,
}

#[derive(Debug, Deserialize)]
struct GraphqlError {
    message: String,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Debug, Default, Deserialize)]
struct Extensions {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    violations: Vec<Violation>,
}

impl GraphqlError {
    fn failure(self) -> Failure {
        let code = self.extensions.code.as_deref().and_then(Code::from_name);
        Failure {
            code: code.unwrap_or(Code::Unknown),
            message: self.message,
            violations: self.extensions.violations,
        }
    }
}

impl Answer {
    fn field<A: DeserializeOwned>(self, field: &str) -> Result<A, Failure> {
        if let Some(error) = self.errors.into_iter().next() {
            return Err(error.failure());
        }
        let mut data = self.data.unwrap_or_default();
        let value = data.get_mut(field).map(Value::take);
        serde_json::from_value(value.unwrap_or_default()).map_err(Failure::strange)
    }
}

/// A message of the subprotocol.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    payload: Value,
}

impl Event {
    /// What an `error` says.
    fn failure(self) -> Failure {
        let errors: Vec<GraphqlError> = serde_json::from_value(self.payload).unwrap_or_default();
        let first = errors.into_iter().next().map(GraphqlError::failure);
        first.unwrap_or_else(|| Failure::strange("an error without words"))
    }
}

fn socket(error: &tungstenite::Error) -> Failure {
    if let tungstenite::Error::Http(response) = error {
        let body = response.body().as_deref().unwrap_or_default();
        let answer = serde_json::from_slice::<Answer>(body).ok();
        let said = answer.and_then(|answer| answer.errors.into_iter().next());
        let code = match response.status() {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            _ => Code::Unavailable,
        };
        let words = format!("the server answered {}", response.status());
        return said.map_or_else(|| Failure::new(code, words), GraphqlError::failure);
    }
    Failure::new(Code::Unavailable, shared::telemetry::chain(error))
}

async fn send(socket: &mut Socket, message: &Value) -> Result<(), Failure> {
    let sent = socket.send(Message::text(message.to_string())).await;
    sent.map_err(|error| self::socket(&error))
}

/// The next message of the subprotocol; `None` when the server has closed.
async fn receive(socket: &mut Socket) -> Option<Result<Event, Failure>> {
    loop {
        return Some(match socket.next().await? {
            Ok(Message::Text(text)) => serde_json::from_str(&text).map_err(Failure::strange),
            // 1001: the server goes away.
            Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1001 => {
                Err(Failure::new(Code::Unavailable, "the server is stopping"))
            }
            // 4403: it is not let in, or not any more.
            Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 4403 => {
                Err(Failure::new(Code::Unauthenticated, frame.reason.as_str()))
            }
            Ok(Message::Close(Some(frame))) if u16::from(frame.code) != 1000 => {
                let words = format!("the server hung up: {}", frame.reason);
                Err(Failure::new(Code::Unavailable, words))
            }
            Ok(Message::Close(_)) => return None,
            Ok(_) => continue,
            Err(error) => Err(self::socket(&error)),
        });
    }
}

/// The next answer of the subscription; `None` after the last.
async fn next<A: DeserializeOwned>(
    subscribed: &mut Subscribed,
    field: &str,
) -> Option<Result<A, Failure>> {
    let Subscribed { socket, early } = subscribed;
    loop {
        let event = match early.pop_front() {
            Some(event) => event,
            None => match receive(socket).await? {
                Ok(event) => event,
                Err(failure) => return Some(Err(failure)),
            },
        };
        return Some(match event.kind.as_str() {
            "next" => serde_json::from_value::<Answer>(event.payload)
                .map_err(Failure::strange)
                .and_then(|answer| answer.field(field)),
            "error" => Err(event.failure()),
            "complete" => return None,
            "ping" => match send(socket, &json!({ "type": "pong" })).await {
                Ok(()) => continue,
                Err(failure) => Err(failure),
            },
            _ => continue,
        });
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    users: Vec<UserAnswer>,
    next: Option<i32>,
}

#[async_trait]
impl Client for GraphqlClient {
    fn over(&self) -> Over {
        Over::Graphql
    }

    async fn get_user(&self, id: i32) -> Result<UserAnswer, Failure> {
        let query = format!("query($id: Int!) {{ user(id: $id) {{ {USER} }} }}");
        self.run(&query, json!({ "id": id }), "user").await
    }

    async fn create_user(&self, user: Draft) -> Result<UserAnswer, Failure> {
        let query = format!(
            "mutation($input: CreateUserInput!) {{ createUser(input: $input) {{ {USER} }} }}"
        );
        let variables = json!({ "input": draft_json(&user) });
        self.run(&query, variables, "createUser").await
    }

    async fn list_users(
        &self,
        after: i32,
        limit: Option<i32>,
        follow: bool,
    ) -> Result<Answers<UserAnswer>, Failure> {
        let limit = limit.filter(|limit| *limit > 0);
        if follow {
            let query = format!(
                "subscription($after: Int, $limit: Int) {{ users(after: $after, limit: $limit) {{ {USER} }} }}"
            );
            let variables = json!({ "after": after, "limit": limit });
            let subscribed = self.subscribe(&query, variables).await?;
            let users = stream::unfold(subscribed, |mut subscribed| async {
                Some((next(&mut subscribed, "users").await?, subscribed))
            });
            return Ok(users.boxed());
        }
        // Page by page; the first one now, so that what is wrong is told at once.
        let page = self.page(after, limit).await?;
        let begin = (self.clone(), limit, Some(page));
        let pages = stream::try_unfold(begin, |(client, limit, page)| async move {
            let Some(page) = page else {
                return Ok(None);
            };
            let taken = i32::try_from(page.users.len()).map_err(Failure::strange)?;
            let left = limit.map(|limit| limit - taken);
            let next = match page.next {
                Some(after) if left != Some(0) => Some(client.page(after, left).await?),
                _ => None,
            };
            let users = page.users.into_iter().map(Ok::<_, Failure>);
            Ok::<_, Failure>(Some((stream::iter(users), (client, left, next))))
        });
        Ok(futures_util::TryStreamExt::try_flatten(pages).boxed())
    }

    async fn batch_create_users(&self, users: Vec<Draft>) -> Result<BatchAnswer, Failure> {
        let query = "mutation($inputs: [CreateUserInput!]!) { \
                     createUsers(inputs: $inputs) { usersCreated userIds } }";
        let inputs: Vec<Value> = users.iter().map(draft_json).collect();
        self.run(query, json!({ "inputs": inputs }), "createUsers")
            .await
    }

    async fn stream_users(
        &self,
        users: BoxStream<'static, Draft>,
        after_all: bool,
    ) -> Result<Answers<StreamAnswer>, Failure> {
        // GraphQL has no stream of requests: each user is a mutation of its own.
        let client = self.clone();
        let answers = users.enumerate().then(move |(index, user)| {
            let client = client.clone();
            async move {
                let result = match client.create_user(user).await {
                    Ok(user) => StreamResult::Created(user),
                    Err(failure)
                        if matches!(failure.code, Code::Unavailable | Code::DeadlineExceeded) =>
                    {
                        return Err(failure);
                    }
                    Err(failure) => StreamResult::Refused(failure),
                };
                let sequence = index as u64 + 1;
                Ok(StreamAnswer { sequence, result })
            }
        });
        if after_all {
            let answers: Vec<_> = answers.collect().await;
            return Ok(stream::iter(answers).boxed());
        }
        Ok(answers.boxed())
    }

    async fn chat(&self) -> Result<Chat, Failure> {
        let query = "subscription { chat { user text sequence sentAt } }";
        let subscribed = self.subscribe(query, json!({})).await?;
        let heard = stream::unfold(subscribed, |mut subscribed| async {
            Some((next(&mut subscribed, "chat").await?, subscribed))
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
        let query = "query($payload: [String!]!, $delay: Int, $code: Int) { \
                     echo(payload: $payload, delayMs: $delay, code: $code) }";
        let delay = delay
            .map(|delay| i32::try_from(delay.as_millis()))
            .transpose();
        let delay = delay.map_err(|_| Failure::usage("the delay is too long"))?;
        let variables = json!({ "payload": payload, "delay": delay, "code": code });
        self.run(query, variables, "echo").await
    }
}

impl GraphqlClient {
    async fn page(&self, after: i32, limit: Option<i32>) -> Result<Page, Failure> {
        let query = format!(
            "query($after: Int, $limit: Int) {{ \
             users(after: $after, limit: $limit) {{ users {{ {USER} }} next }} }}"
        );
        let limit = limit.map_or(PAGE, |limit| limit.min(PAGE));
        self.run(&query, json!({ "after": after, "limit": limit }), "users")
            .await
    }
}

#[async_trait]
impl ChatVoice for GraphqlClient {
    async fn say(&self, user: &str, text: &str) -> Result<(), Failure> {
        let query = "mutation($user: String!, $text: String!) { say(user: $user, text: $text) }";
        let variables = json!({ "user": user, "text": text });
        let said: Result<u64, _> = self.run(query, variables, "say").await;
        said.map(drop)
    }
}
