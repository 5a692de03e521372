//! Begins a session as a transmitter does, so that the receiver leaves no trace of it but a line in its log.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TE, UPGRADE, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use shared::clock::{ClockFilter, ClockSample, UnixNanos};
use shared::image::Transport;
use shared::telemetry::chain;
use shared::wire::framing::{Deframer, Frame as Framed, prefixed_head};
use shared::wire::{
    ClientMessage, EXCHANGE_PATH, Hello, PROTOCOL_VERSION, ServerMessage, WEBSOCKET_SUBPROTOCOL,
    decode_server, encode_client,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::noting::Noting;
use super::{Reached, Session, Shown, Target};

/// Looks at the other clock: as many as the filter keeps.
const LOOKS: usize = ClockFilter::DEPTH;

/// Longest answer that is read.
const LONGEST: usize = 1 << 20;

/// Program and version, for the receiver's log.
const AGENT: &str = concat!("pantelegraph-doctor/", env!("CARGO_PKG_VERSION"));

/// Any key is as good as any other where nothing is sent behind it (RFC 6455, section 4.1).
const KEY: &str = "cGFudGVsZWdyYXBoIDE4NjU=";

/// Speaks the transport of the target.
pub(super) async fn talk(
    target: &Target,
    shown: &Shown,
    stream: Noting,
    reached: &mut Reached,
) -> Session {
    let talked = match target.transport {
        Transport::Grpc => exchange(target, shown, stream, reached).await,
        Transport::WebSocket | Transport::Rest => requests(target, shown, stream, reached).await,
    };
    talked.unwrap_or_else(Session::Lost)
}

fn authorization(shown: &Shown) -> Result<Option<HeaderValue>, String> {
    let header = shown.token.clone().transpose();
    header.map_err(|problem| format!("the token cannot be shown: {problem}"))
}

/// gRPC: hello, and pings until the clock is known.
async fn exchange(
    target: &Target,
    shown: &Shown,
    stream: Noting,
    reached: &mut Reached,
) -> Result<Session, String> {
    let words = |error: hyper::Error| chain(&error);
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(words)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let (outgoing, messages) = mpsc::channel::<Bytes>(LOOKS);
    let frames = ReceiverStream::new(messages).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    let mut url = target.url.clone();
    url.set_path(EXCHANGE_PATH);
    let mut request = Request::post(url.as_str())
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT);
    if let Some(token) = authorization(shown)? {
        request = request.header(AUTHORIZATION, token);
    }
    let request = request
        .body(StreamBody::new(frames))
        .map_err(|error| error.to_string())?;
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        transmitter: shown.name.clone(),
        agent: AGENT.to_owned(),
        // No outbox is named, which the receiver would remember.
        ..Hello::default()
    };
    for message in [ClientMessage::Hello(hello), ping(0)] {
        // There is room for it.
        let _ = outgoing.try_send(prefixed_head(&encode_client(message)));
    }
    let response = sender.send_request(request).await.map_err(words)?;
    let status = response.status();
    if let Some(denied) = denied_by(status, response.headers(), b"") {
        return Ok(denied);
    }
    if let Some(status) = tonic::Status::from_header_map(response.headers()) {
        return Ok(denied_by_call(&status));
    }
    if status != StatusCode::OK {
        return Ok(Session::Foreign(format!(
            "HTTP status {status} to a call of gRPC"
        )));
    }
    let mut body = response.into_body();
    let mut deframer = Deframer::new(LONGEST);
    let (mut filter, mut looks) = (ClockFilter::default(), 0);
    let mut welcome = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(words)?.into_data() {
            Ok(data) => deframer.push(data),
            Err(frame) => {
                let status = frame
                    .trailers_ref()
                    .and_then(tonic::Status::from_header_map);
                return Ok(match (status, welcome) {
                    (Some(status), None) => denied_by_call(&status),
                    (None, None) => Session::Lost("it ended the session at once".to_owned()),
                    (_, Some(welcome)) => welcome,
                });
            }
        }
        while let Some(framed) = deframer.next_frame() {
            let unreadable = || "it sent a message that cannot be read".to_owned();
            let Framed::Message(message) = framed else {
                return Err(unreadable());
            };
            match decode_server(message).map_err(|_| unreadable())? {
                Some(ServerMessage::Welcome(said)) => {
                    let words = format!(
                        "{}, which promises durability {}",
                        said.receiver, said.durability
                    );
                    let largest = said.limits.max_message_bytes;
                    welcome = Some(Session::Welcomed(words, Some(largest).filter(|it| *it > 0)));
                }
                Some(ServerMessage::ClockPong { t1, t2, t3, .. }) => {
                    let t4 = UnixNanos::now();
                    filter.add(ClockSample { t1, t2, t3, t4 });
                    looks += 1;
                    let message = prefixed_head(&encode_client(ping(looks as u64)));
                    let _ = outgoing.try_send(message);
                }
                Some(ServerMessage::Reject(reject)) => {
                    return Ok(Session::Denied {
                        known: true,
                        words: reject.message,
                    });
                }
                _ => {}
            }
        }
        if looks >= LOOKS
            && let Some(welcome) = welcome
        {
            reached.clock = filter.estimate();
            return Ok(welcome);
        }
    }
    Ok(welcome.unwrap_or_else(|| Session::Lost("it ended the session at once".to_owned())))
}

fn ping(id: u64) -> ClientMessage {
    ClientMessage::ClockPing {
        id,
        t1: UnixNanos::now(),
    }
}

fn denied_by_call(status: &tonic::Status) -> Session {
    let words = status.message().to_owned();
    match status.code() {
        tonic::Code::Unauthenticated => Session::Denied {
            known: false,
            words,
        },
        tonic::Code::PermissionDenied => Session::Denied { known: true, words },
        tonic::Code::Unimplemented => {
            Session::Foreign("gRPC, but without Pantelegraph's service".to_owned())
        }
        code => Session::Lost(format!("{code:?}: {words}")),
    }
}

/// A connection of HTTP/1.1, one request after another.
struct Http {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
    authorization: Option<HeaderValue>,
}

impl Http {
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        more: &HeaderMap,
    ) -> Result<Answer, String> {
        let words = |error: hyper::Error| chain(&error);
        self.sender.ready().await.map_err(words)?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(USER_AGENT, AGENT);
        if let Some(token) = &self.authorization {
            request = request.header(AUTHORIZATION, token);
        }
        let mut request = request
            .body(Full::default())
            .map_err(|error| error.to_string())?;
        request.headers_mut().extend(more.clone());
        let response = self.sender.send_request(request).await.map_err(words)?;
        let arrived = UnixNanos::now();
        let (head, body) = response.into_parts();
        let body = match head.status {
            StatusCode::SWITCHING_PROTOCOLS => Bytes::new(),
            _ => read(body).await?,
        };
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            arrived,
        })
    }
}

async fn read(body: Incoming) -> Result<Bytes, String> {
    let read = Limited::new(body, LONGEST).collect().await;
    Ok(read.map_err(|error| error.to_string())?.to_bytes())
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    arrived: UnixNanos,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn denied(&self) -> Option<Session> {
        denied_by(self.status, &self.headers, &self.body)
    }
}

/// REST and WebSocket: the clock, readiness, and whether images would get in.
async fn requests(
    target: &Target,
    shown: &Shown,
    stream: Noting,
    reached: &mut Reached,
) -> Result<Session, String> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| chain(&error))?;
    let connection = async move {
        let _ = connection.with_upgrades().await;
    };
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let host = target.url.host_str().unwrap_or_default();
    let mut http = Http {
        sender,
        host: format!("{host}:{}", target.port()),
        authorization: authorization(shown)?,
    };
    let none = HeaderMap::new();
    // Asked first, since everybody may: whoever is turned away should hear of this too.
    let answer = http.ask(Method::GET, "/readyz", &none).await?;
    let (ready, status) = (answer.json(), answer.status);
    let is_receiver = ready["checks"].is_object();
    reached.ready = is_receiver.then_some(ready);
    let mut filter = ClockFilter::default();
    for _ in 0..LOOKS {
        let t1 = UnixNanos::now();
        let answer = match http.ask(Method::GET, "/v1/clock", &none).await {
            // Simple servers hang up after each answer.
            Err(_) if !is_receiver => {
                return Ok(Session::Foreign(format!(
                    "HTTP status {status} to GET /readyz"
                )));
            }
            answer => answer?,
        };
        if let Some(denied) = answer.denied() {
            return Ok(denied);
        }
        let (times, t4) = (answer.json(), answer.arrived);
        let (Some(t2), Some(t3)) = (times["t2_unix_ns"].as_i64(), times["t3_unix_ns"].as_i64())
        else {
            let status = answer.status;
            return Ok(Session::Foreign(format!(
                "HTTP status {status} to GET /v1/clock"
            )));
        };
        let (t2, t3) = (UnixNanos(t2), UnixNanos(t3));
        filter.add(ClockSample { t1, t2, t3, t4 });
    }
    reached.clock = filter.estimate();
    // What needs the scope to upload, and changes nothing.
    let answer = match target.transport {
        Transport::WebSocket => http.ask(Method::GET, target.url.path(), &upgrade()).await?,
        _ => http.ask(Method::OPTIONS, "/v1/uploads", &none).await?,
    };
    if let Some(denied) = answer.denied() {
        return Ok(denied);
    }
    let welcome = match target.transport {
        Transport::WebSocket => answer.status == StatusCode::SWITCHING_PROTOCOLS,
        _ => answer.status.is_success(),
    };
    Ok(match welcome {
        true => Session::Welcomed("the receiver".to_owned(), None),
        false => Session::Foreign(format!("HTTP status {} to a transmitter", answer.status)),
    })
}

fn upgrade() -> HeaderMap {
    let headers = [
        (CONNECTION, "Upgrade"),
        (UPGRADE, "websocket"),
        (SEC_WEBSOCKET_VERSION, "13"),
        (SEC_WEBSOCKET_KEY, KEY),
        (SEC_WEBSOCKET_PROTOCOL, WEBSOCKET_SUBPROTOCOL),
    ];
    let headers = headers.into_iter();
    headers
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
        .collect()
}

/// Whether an answer of HTTP turns this side away, and in which words.
fn denied_by(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Session> {
    let known = match status {
        StatusCode::UNAUTHORIZED => false,
        StatusCode::FORBIDDEN => true,
        _ => return None,
    };
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let challenge = headers
        .get(WWW_AUTHENTICATE)
        .and_then(|value| value.to_str().ok());
    let described = challenge.and_then(|challenge| {
        let (_, rest) = challenge.split_once("error_description=\"")?;
        rest.split('"').next()
    });
    let words = document["detail"].as_str().or(described);
    let words = words.map_or_else(|| format!("HTTP status {status}"), str::to_owned);
    Some(Session::Denied { known, words })
}

/// The answer to one request over a connection of its own, as a document.
///
/// # Errors
/// When there is none.
pub(crate) async fn get(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    host: &str,
    path: &str,
) -> Result<(StatusCode, Bytes), String> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| chain(&error))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| chain(&error))?;
    let status = response.status();
    Ok((status, read(response.into_body()).await?))
}
