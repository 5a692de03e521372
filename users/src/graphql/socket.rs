//! Operations over WebSocket: the subprotocol `graphql-transport-ws`
//! (<https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md>), with its close codes.
//!
//! One task serves a connection: it reads, runs the operations and writes. While a client does not
//! read, nothing is run for it, so a slow one costs no more than what is on its way; after
//! [`SocketOptions::patience`] it is let go.
//!
//! An operation has begun when the next message is read: a `pong` that comes after a `subscribe`
//! says that the subscription is there.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::ServerError;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use shared::security::access::Unknown;
use shared::trace::TraceContext;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::StreamMap;

use crate::admission::RATE;
use crate::metrics::Face::Graphql;
use crate::observe::{SocketOperation, kind};
use crate::refusal::{Code, Refusal};

use super::error::{outcome, refused, whole};
use super::gate::{Answer, Call, Event};
use super::guest::Guest;
use super::{Face, json};

/// Its name in `sec-websocket-protocol`.
pub(super) const PROTOCOL: &str = "graphql-transport-ws";
/// Most bytes of the id of an operation.
const MAX_ID: usize = 256;
/// The code for those who are not let in.
const FORBIDDEN: u16 = 4403;
/// Answers that are written before they are flushed, when as many are there already.
const BURST: usize = 64;

/// Bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct SocketOptions {
    /// The client must introduce itself within this time.
    pub(super) init_timeout: Duration,
    /// Operations that run at a time.
    pub(super) max_operations: usize,
    /// A client that takes nothing for this time is let go.
    pub(super) patience: Duration,
    /// Whether a client is still there is asked at these intervals; one that is not heard for two of
    /// them is let go.
    pub(super) keep_alive: Duration,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            init_timeout: Duration::from_secs(10),
            max_operations: 32,
            patience: Duration::from_secs(10),
            keep_alive: Duration::from_secs(30),
        }
    }
}

/// A message of the client. Its parts are the same for all kinds, so that it is read in one pass.
#[derive(Deserialize)]
struct Incoming {
    #[serde(rename = "type")]
    kind: Kind,
    id: Option<String>,
    payload: Option<Payload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    ConnectionInit,
    Ping,
    Pong,
    Subscribe,
    Complete,
}

/// A request, or what a client introduces itself with.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    query: Option<String>,
    operation_name: Option<String>,
    variables: Option<async_graphql::Variables>,
    #[serde(alias = "Authorization")]
    authorization: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Outgoing<'a> {
    ConnectionAck,
    Pong,
    Next {
        id: &'a str,
        payload: &'a Answer,
    },
    Error {
        id: &'a str,
        payload: &'a [ServerError],
    },
    Complete {
        id: &'a str,
    },
}

/// Why a connection ends.
enum End {
    /// With this code and these words.
    Close(u16, String),
    /// It is gone already, or takes nothing.
    Gone,
}

struct Connection {
    face: Arc<Face>,
    socket: WebSocket,
    guest: Guest,
    /// Where it was asked for.
    context: Option<TraceContext>,
    has_introduced_itself: bool,
    operations: StreamMap<String, BoxStream<'static, Event>>,
    heard_at: Instant,
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    socket: WebSocket,
    face: Arc<Face>,
    guest: Guest,
    context: Option<TraceContext>,
) {
    let _open = face.service.observer.metrics.socket();
    let mut connection = Connection {
        face,
        socket,
        guest,
        context,
        has_introduced_itself: false,
        operations: StreamMap::new(),
        heard_at: Instant::now(),
    };
    let Err(end) = connection.run().await;
    if let End::Close(code, reason) = end {
        connection.close(code, reason).await;
    }
}

impl Connection {
    async fn run(&mut self) -> Result<std::convert::Infallible, End> {
        let options = self.face.socket;
        let stop = self.face.service.stop.clone();
        let introduction = Instant::now() + options.init_timeout;
        let mut keep_alive = interval(options.keep_alive);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Subscriptions end by themselves when the server stops; what else runs may end.
            let is_stopping = stop.is_cancelled();
            if is_stopping && self.operations.is_empty() {
                return Err(End::Close(1001, "the server is stopping".to_owned()));
            }
            tokio::select! {
                Some((id, event)) = self.operations.next() => self.answer_all(id, event).await?,
                message = self.socket.next() => self.hear(message).await?,
                () = sleep_until(introduction), if !self.has_introduced_itself => {
                    let words = "Connection initialisation timeout";
                    return Err(End::Close(4408, words.to_owned()));
                }
                _ = keep_alive.tick() => {
                    if self.heard_at.elapsed() > options.keep_alive * 2 {
                        return Err(End::Gone);
                    }
                    self.write(Message::Ping(Bytes::new())).await?;
                    self.flush().await?;
                }
                () = sleep_until(self.guest.until.unwrap_or(introduction)), if self.guest.until.is_some() => {
                    // Its client may connect again, with another one.
                    return Err(End::Close(FORBIDDEN, Unknown::Expired.to_string()));
                }
                () = stop.cancelled(), if !is_stopping => {}
            }
        }
    }

    async fn hear(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.heard_at = Instant::now();
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Binary(_))) => {
                return Err(End::Close(4400, "Messages must be text".to_owned()));
            }
            Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
            Some(Err(error)) => return Err(broken(&error)),
        };
        let metrics = &self.face.service.observer.metrics;
        metrics.received(Graphql).increment(text.len() as u64);
        json::check(text.as_bytes(), self.face.service.limits.max_message_size)
            .map_err(|refusal| End::Close(1009, refusal.to_string()))?;
        let incoming: Incoming = serde_json::from_str(&text)
            .map_err(|error| End::Close(4400, format!("Invalid message: {error}")))?;
        drop(text);
        match (incoming.kind, incoming.id) {
            (Kind::ConnectionInit, _) => {
                self.introduce(incoming.payload.unwrap_or_default())?;
                self.send(&Outgoing::ConnectionAck).await
            }
            (Kind::Ping, _) => self.send(&Outgoing::Pong).await,
            (Kind::Pong, _) => Ok(()),
            (Kind::Subscribe, Some(id)) => {
                let payload = incoming.payload.unwrap_or_default();
                self.begin(id, payload).await
            }
            (Kind::Complete, Some(id)) => {
                self.operations.remove(&id);
                Ok(())
            }
            (Kind::Subscribe | Kind::Complete, None) => {
                Err(End::Close(4400, "Invalid message: it has no id".to_owned()))
            }
        }
    }

    fn introduce(&mut self, payload: Payload) -> Result<(), End> {
        if self.has_introduced_itself {
            let words = "Too many initialisation requests";
            return Err(End::Close(4429, words.to_owned()));
        }
        let authorization = payload.authorization.as_deref();
        self.guest
            .introduces_itself(&self.face.service.access, authorization)
            .map_err(|denied| {
                self.face.service.observer.metrics.refused(denied.key());
                End::Close(FORBIDDEN, denied.to_string())
            })?;
        self.has_introduced_itself = true;
        Ok(())
    }

    async fn begin(&mut self, id: String, payload: Payload) -> Result<(), End> {
        if !self.has_introduced_itself {
            return Err(End::Close(4401, "Unauthorized".to_owned()));
        }
        if id.is_empty() || id.len() > MAX_ID {
            let words = format!("Invalid message: an id has 1 to {MAX_ID} bytes");
            return Err(End::Close(4400, words));
        }
        if self.operations.contains_key(&id) {
            return Err(End::Close(
                4409,
                format!("Subscriber for {id} already exists"),
            ));
        }
        let mut operation = SocketOperation::begin(&self.face.service.observer, self.context);
        match self.stream(payload, &mut operation) {
            Ok(stream) => {
                // It ends with the stream, whoever lets go of that.
                let mut stream = stream
                    .inspect(move |event| tell(&mut operation, event))
                    .boxed();
                // It begins now, before another message is read.
                let first = stream.next().now_or_never();
                self.operations.insert(id.clone(), stream);
                match first {
                    Some(Some(event)) => self.answer_all(id, event).await,
                    _ => Ok(()),
                }
            }
            Err(error) => {
                let mut errors = Answer::refused(error).errors;
                operation.ends(outcome(&errors));
                let payload = errors.as_mut_slice();
                self.send(&Outgoing::Error { id: &id, payload }).await
            }
        }
    }

    fn stream(
        &self,
        payload: Payload,
        operation: &mut SocketOperation,
    ) -> Result<BoxStream<'static, Event>, ServerError> {
        if self.face.service.stop.is_cancelled() {
            return Err(whole(&Refusal::stopping()));
        }
        let most = self.face.socket.max_operations;
        if self.operations.len() >= most {
            let words = format!(
                "this connection runs {most} operations, its most; complete one or connect again"
            );
            return Err(refused(Code::ResourceExhausted, words));
        }
        let call = Call {
            query: payload.query,
            operation_name: payload.operation_name,
            variables: payload.variables,
        };
        let Some(requester) = self.guest.requester.clone() else {
            // Whoever has introduced itself is known, or need not be.
            return Err(whole(&Refusal::Internal));
        };
        self.guest
            .pace(&self.face.service.access)
            .take()
            .map_err(|time| {
                self.face.service.observer.metrics.refused(RATE);
                whole(&Refusal::TooOften(time))
            })?;
        let prepared = self.face.gate.prepare(call, requester.clone())?;
        operation.is(kind(prepared.kind()));
        requester
            .may(prepared.needs())
            .map_err(|refusal| whole(&refusal))?;
        Ok(self.face.gate.stream(prepared))
    }

    /// Writes an event and those that are there already, then flushes once.
    async fn answer_all(&mut self, id: String, event: Event) -> Result<(), End> {
        self.answer(&id, event).await?;
        for _ in 1..BURST {
            let Some(Some((id, event))) = self.operations.next().now_or_never() else {
                break;
            };
            self.answer(&id, event).await?;
        }
        self.flush().await
    }

    async fn answer(&mut self, id: &str, event: Event) -> Result<(), End> {
        match event {
            Event::Next(answer) => {
                let payload = &answer;
                self.put(&Outgoing::Next { id, payload }).await
            }
            Event::Error(errors) => {
                self.operations.remove(id);
                let payload = &errors;
                self.put(&Outgoing::Error { id, payload }).await
            }
            Event::Complete => {
                self.operations.remove(id);
                self.put(&Outgoing::Complete { id }).await
            }
        }
    }

    async fn send(&mut self, outgoing: &Outgoing<'_>) -> Result<(), End> {
        self.put(outgoing).await?;
        self.flush().await
    }

    async fn put(&mut self, outgoing: &Outgoing<'_>) -> Result<(), End> {
        let text = serde_json::to_string(outgoing).map_err(|error| {
            let refusal = Refusal::internal(&error);
            End::Close(1011, refusal.to_string())
        })?;
        let metrics = &self.face.service.observer.metrics;
        metrics.sent(Graphql).increment(text.len() as u64);
        self.write(Message::Text(text.into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        let patience = self.face.socket.patience;
        let written = timeout(patience, self.socket.feed(message)).await;
        written.map_err(|_| End::Gone)?.map_err(|_| End::Gone)
    }

    async fn flush(&mut self) -> Result<(), End> {
        let patience = self.face.socket.patience;
        let written = timeout(patience, self.socket.flush()).await;
        written.map_err(|_| End::Gone)?.map_err(|_| End::Gone)
    }

    /// Says goodbye, and waits for the client's: closing at once could take the words away that are
    /// on their way.
    async fn close(&mut self, code: u16, mut reason: String) {
        self.operations.clear();
        // Most bytes that a close frame has room for (RFC 6455, section 5.5).
        reason.truncate(reason.floor_char_boundary(123));
        let reason = reason.into();
        let goodbye = async {
            let frame = Message::Close(Some(CloseFrame { code, reason }));
            if self.socket.send(frame).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        // Whoever does not answer is left.
        let _ = timeout(Duration::from_secs(1), goodbye).await;
    }
}

/// Notes how an operation goes.
fn tell(operation: &mut SocketOperation, event: &Event) {
    match event {
        Event::Next(answer) if answer.errors.is_empty() => {}
        Event::Next(answer) => operation.ends(answer.outcome()),
        Event::Error(errors) => operation.ends(outcome(errors)),
        Event::Complete => operation.ends(outcome(&[])),
    }
}

/// What to say to a client whose messages cannot be read.
fn broken(error: &axum::Error) -> End {
    tracing::debug!(error = shared::telemetry::chain(error), "a WebSocket broke");
    // The library tells messages that are too long apart only in words.
    if error.to_string().contains("too long") {
        return End::Close(
            1009,
            "the message is too long; raise --max-message-size".to_owned(),
        );
    }
    End::Gone
}
