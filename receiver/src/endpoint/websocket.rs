//! WebSocket: the session protocol as binary frames, one message each, at `/v1/stream`.
//!
//! The receiver is the server of transmitters that dial it, and the client of those that listen
//! (`--pull`); what follows the handshake is the same.

mod buffers;
mod handshake;

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use shared::chunk::Segments;
use shared::image::Transport;
use shared::security::access::Caller;
use shared::security::rate::Pace;
use shared::wire::{ServerMessage, WEBSOCKET_SUBPROTOCOL, encode_server};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::metered::MeteredStream;
use super::session::{MAX_WAITING_REPLIES, Patience, Session, too_large};
use super::{EXPIRED, Place, expiry};
use crate::budget::{Holder, REVOKED};
use crate::intake::{Intake, Origin};
use buffers::Buffers;

/// What the WebSocket endpoint works with.
#[derive(Clone)]
pub struct Endpoint {
    /// The core.
    pub intake: Arc<Intake>,
    /// Chunk bytes that a session may have under way.
    pub credit: u64,
    /// Time without a message after which a connection is closed.
    pub idle_timeout: Duration,
    /// Ends all sessions.
    pub stop: CancellationToken,
    /// Owns the tasks of all sessions.
    pub tasks: TaskTracker,
}

/// Serves a session on a connection that a client made and whose handshake is done.
///
/// It ends when its place does.
pub async fn serve_upgraded<S>(
    endpoint: Endpoint,
    stream: S,
    (caller, pace): (&Caller, Pace),
    place: Option<Place>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = endpoint.intake.limits().max_message_size.as_usize();
    let memory = endpoint.intake.budget().holder();
    let window = Buffers::window(endpoint.intake.budget());
    let buffers = Buffers::new(limit, &window, Role::Server);
    let stream = buffers.metered(stream, memory.clone(), false);
    let socket = buffers.socket(stream).await;
    let proof = Proof {
        caller,
        pace,
        place,
    };
    serve(endpoint, socket, buffers, memory, proof).await;
    drop(window);
}

/// Serves a session on a connection that this side made.
///
/// # Errors
/// When the other side does not shake hands, in words.
pub async fn dial<S>(
    endpoint: &Endpoint,
    request: Request<()>,
    stream: S,
    (caller, pace): (Caller, Pace),
) -> Result<impl Future<Output = ()> + use<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = endpoint.intake.limits().max_message_size.as_usize();
    let budget = endpoint.intake.budget();
    let (seat, memory) = (budget.seat(), budget.holder());
    let window = Buffers::window(budget);
    let buffers = Buffers::new(limit, &window, Role::Client);
    let stream = buffers.metered(stream, memory.clone(), true);
    let (socket, _) = client_async_with_config(request, stream, Some(buffers.config))
        .await
        .map_err(|error| error.to_string())?;
    let endpoint = endpoint.clone();
    Ok(async move {
        let proof = Proof {
            caller: &caller,
            pace,
            place: None,
        };
        serve(endpoint, socket, buffers, memory, proof).await;
        drop((window, seat));
    })
}

/// Answers the handshake, then runs the session.
pub async fn upgrade(endpoint: Endpoint, mut request: Request<axum::body::Body>) -> Response {
    let accept = match handshake::check(request.headers()) {
        Ok(accept) => accept,
        Err(problem) => {
            let mut response = problem.into_response();
            if response.status() == StatusCode::UPGRADE_REQUIRED {
                let headers = response.headers_mut();
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(
                    header::SEC_WEBSOCKET_VERSION,
                    HeaderValue::from_static("13"),
                );
            }
            return response;
        }
    };
    let offered = request
        .headers()
        .contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let upgraded = hyper::upgrade::on(&mut request);
    // Held until the session has ended.
    let place = request.extensions_mut().remove::<Place>();
    let busy = place.as_ref().map(Place::begin);
    let Some(caller) = request.extensions_mut().remove::<Caller>() else {
        // Whoever has not passed the gate is not let in.
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let pace = request.extensions_mut().remove::<Pace>();
    let pace = pace.unwrap_or_default();
    let tasks = endpoint.tasks.clone();
    tasks.spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let stream = TokioIo::new(upgraded);
                serve_upgraded(endpoint, stream, (&caller, pace), place).await;
            }
            Err(error) => tracing::debug!("websocket upgrade: {error}"),
        }
        drop(busy);
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if offered {
        let protocol = HeaderValue::from_static(WEBSOCKET_SUBPROTOCOL);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// Unauthorized, as the registry of close codes has it
/// (<https://www.iana.org/assignments/websocket/websocket.xhtml>).
const UNAUTHORIZED: CloseCode = CloseCode::Library(3000);

/// Who is at the other end, and as long as what.
struct Proof<'a> {
    caller: &'a Caller,
    /// How often it may begin an image.
    pace: Pace,
    /// Its place, if it has one: it ends when that does.
    place: Option<Place>,
}

/// Runs one session over a WebSocket, whichever side dialled.
async fn serve<S>(
    endpoint: Endpoint,
    mut socket: WebSocketStream<MeteredStream<S>>,
    buffers: Buffers,
    memory: Holder,
    Proof {
        caller,
        pace,
        place,
    }: Proof<'_>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (replies, mut waiting) = mpsc::channel(MAX_WAITING_REPLIES);
    let intake = Arc::clone(&endpoint.intake);
    let patience = Patience {
        idle_timeout: endpoint.idle_timeout,
        stop: endpoint.stop.clone(),
    };
    let mut session = Session::new(
        intake,
        Origin::new(Transport::WebSocket, "", caller),
        endpoint.credit,
        replies,
        patience.clone(),
        memory.clone(),
        true,
    )
    .paced(pace);
    let expired = expiry(caller);
    tokio::pin!(expired);
    let gone = place.as_ref().map(Place::gone).unwrap_or_default();
    let close = loop {
        let message = tokio::select! {
            biased;
            // These first: there may always be another message.
            () = memory.revoked() => {
                break Some(Ending::Close(CloseCode::Again, REVOKED.to_owned()));
            }
            () = &mut expired => {
                break Some(Ending::Close(UNAUTHORIZED, EXPIRED.to_owned()));
            }
            () = gone.cancelled() => {
                let has_given_way = place.as_ref().is_some_and(Place::has_given_way);
                let (code, reason) = match has_given_way {
                    true => (CloseCode::Again, "others need the connection's place"),
                    false => (UNAUTHORIZED, "the client certificate is good no more"),
                };
                break Some(Ending::Close(code, reason.to_owned()));
            }
            // Nobody waits for memory while holding some.
            () = memory.pressed() => {
                session.flush().await;
                continue;
            }
            reply = waiting.recv() => {
                // The session holds a sender, so there is always a next one.
                let Some(reply) = reply else { break None };
                match send_ready(&patience, &memory, &mut socket, reply, &mut waiting).await {
                    Ok(()) => continue,
                    Err(error) => break Some(Ending::Lost(error)),
                }
            }
            message = socket.next() => message,
            () = endpoint.stop.cancelled() => {
                break Some(Ending::Close(CloseCode::Away, "the receiver is stopping".to_owned()));
            }
            () = tokio::time::sleep(endpoint.idle_timeout) => {
                let reason = format!(
                    "no message for {:?}; RECEIVER_IDLE_TIMEOUT", endpoint.idle_timeout
                );
                break Some(Ending::Close(CloseCode::Policy, reason));
            }
        };
        if buffers.is_spent(message.as_ref()) {
            socket = buffers.socket(socket.into_inner()).await;
        }
        let mut lost = None;
        let taken = {
            let taking = take(&endpoint, &mut session, message);
            tokio::pin!(taking);
            loop {
                tokio::select! {
                    biased;
                    taken = &mut taking => break taken,
                    // The session waits for room among the answers, so they go out meanwhile.
                    Some(reply) = waiting.recv() => if lost.is_none() {
                        let sent =
                            send_ready(&patience, &memory, &mut socket, reply, &mut waiting);
                        lost = sent.await.err();
                    },
                }
            }
        };
        if let Some(error) = lost {
            break Some(Ending::Lost(error));
        }
        if let ControlFlow::Break(ending) = taken {
            break Some(ending);
        }
    };
    finish(socket, session, waiting, patience, &memory, close).await;
}

enum Ending {
    /// The other side closed, or said goodbye.
    Done,
    /// The connection broke.
    Lost(Error),
    /// This side closes.
    Close(CloseCode, String),
}

/// Sends a reply and those behind it that are ready, with one flush, to a client that reads. One
/// that does not keeps what it has in memory only as long as nobody else needs it.
async fn send_ready<S>(
    patience: &Patience,
    memory: &Holder,
    socket: &mut WebSocketStream<S>,
    first: ServerMessage,
    waiting: &mut mpsc::Receiver<ServerMessage>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sending = memory.for_client(send_all(patience, socket, first, waiting));
    sending.await.unwrap_or_else(|_| Err(unread()))
}

/// The same for one that has nothing in memory, or has been told to give it back.
async fn send_all<S>(
    patience: &Patience,
    socket: &mut WebSocketStream<S>,
    first: ServerMessage,
    waiting: &mut mpsc::Receiver<ServerMessage>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sending = async {
        socket.feed(Message::Binary(encode_server(&first))).await?;
        while let Ok(next) = waiting.try_recv() {
            socket.feed(Message::Binary(encode_server(&next))).await?;
        }
        socket.flush().await
    };
    tokio::select! {
        biased;
        sent = sending => sent,
        () = patience.end() => Err(unread()),
    }
}

fn unread() -> Error {
    Error::Io(std::io::ErrorKind::TimedOut.into())
}

async fn take(
    endpoint: &Endpoint,
    session: &mut Session,
    message: Option<Result<Message, Error>>,
) -> ControlFlow<Ending> {
    let limit = endpoint.intake.limits().max_message_size.as_usize();
    let message = match message {
        None | Some(Err(Error::ConnectionClosed)) => return ControlFlow::Break(Ending::Done),
        Some(Ok(message)) => message,
        Some(Err(Error::Capacity(CapacityError::MessageTooLong { size, .. }))) => {
            let reason = too_large(size as u64, limit).message;
            return ControlFlow::Break(Ending::Close(CloseCode::Size, reason));
        }
        Some(Err(Error::Protocol(error))) => {
            let reason = error.to_string();
            return ControlFlow::Break(Ending::Close(CloseCode::Protocol, reason));
        }
        Some(Err(Error::Utf8(_))) => return ControlFlow::Break(text_refused()),
        Some(Err(error)) => return ControlFlow::Break(Ending::Lost(error)),
    };
    let flow = match message {
        Message::Binary(data) => {
            if data.len() > limit + shared::wire::CHUNK_OVERHEAD {
                let reject = too_large(data.len() as u64, limit);
                session.handle(Err(reject)).await
            } else {
                session.receive(Segments::from(data)).await
            }
        }
        Message::Text(_) => return ControlFlow::Break(text_refused()),
        Message::Close(_) => return ControlFlow::Break(Ending::Done),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return ControlFlow::Continue(()),
    };
    match flow {
        ControlFlow::Continue(()) => ControlFlow::Continue(()),
        ControlFlow::Break(_) if session.is_revoked() => {
            ControlFlow::Break(Ending::Close(CloseCode::Again, REVOKED.to_owned()))
        }
        ControlFlow::Break(_) => ControlFlow::Break(Ending::Done),
    }
}

fn text_refused() -> Ending {
    let reason = format!("{WEBSOCKET_SUBPROTOCOL} is binary: send ClientMessage frames, not text");
    Ending::Close(CloseCode::Unsupported, reason)
}

/// Lets answers that are being made go out, then closes.
async fn finish<S>(
    mut socket: WebSocketStream<S>,
    mut session: Session,
    mut waiting: mpsc::Receiver<ServerMessage>,
    mut patience: Patience,
    memory: &Holder,
    ending: Option<Ending>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(Ending::Lost(error)) = &ending {
        tracing::debug!(
            transmitter = session.transmitter(),
            "connection lost: {error}"
        );
    }
    let mut lost = matches!(ending, Some(Ending::Lost(_)));
    let is_revoked = matches!(ending, Some(Ending::Close(CloseCode::Again, _)));
    if is_revoked {
        // Others wait for what it holds.
        patience.idle_timeout = CURT;
    }
    session.release().await;
    let closing = session.close();
    tokio::pin!(closing);
    // The channel ends when the session, which `closing` consumes, and its last answer are gone.
    let mut closed = false;
    loop {
        tokio::select! {
            () = &mut closing, if !closed => closed = true,
            reply = waiting.recv() => match reply {
                Some(reply) if !lost => {
                    // After goodbye a client may be gone; the images are stored all the same.
                    let sent = if is_revoked {
                        send_all(&patience, &mut socket, reply, &mut waiting).await
                    } else {
                        send_ready(&patience, memory, &mut socket, reply, &mut waiting).await
                    };
                    lost = sent.is_err();
                }
                Some(_) => {}
                None => break,
            },
        }
    }
    if lost {
        return;
    }
    let frame = match ending {
        Some(Ending::Close(code, reason)) => {
            tracing::info!(code = u16::from(code), "closing websocket: {reason}");
            CloseFrame {
                code,
                reason: shortened(reason).into(),
            }
        }
        _ => CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        },
    };
    if is_revoked {
        let _ = tokio::time::timeout(CURT, socket.close(Some(frame))).await;
        return;
    }
    let _ = tokio::time::timeout(CLOSING, async {
        let _ = socket.close(Some(frame)).await;
        // The other side's close frame; what else it still sends is not wanted.
        while let Some(Ok(_)) = socket.next().await {}
        // First, because the client waits for the server to close.
        let _ = socket.get_mut().shutdown().await;
        // A client in the middle of a message that is too large would find the connection reset,
        // and not the reason, if its bytes were left unread.
        let mut unread = [0; 16 << 10];
        while socket
            .get_mut()
            .read(&mut unread)
            .await
            .is_ok_and(|read| read > 0)
        {}
    })
    .await;
}

/// Time to tell a client whose connection is given up for others why.
const CURT: Duration = Duration::from_millis(100);

/// Time for the closing handshake.
const CLOSING: Duration = Duration::from_secs(2);

/// A close frame has room for 123 bytes of reason (RFC 6455, section 5.5).
fn shortened(mut reason: String) -> String {
    if reason.len() > 123 {
        let end = (0..=120)
            .rev()
            .find(|end| reason.is_char_boundary(*end))
            .unwrap_or(0);
        reason.truncate(end);
        reason.push_str("...");
    }
    reason
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
