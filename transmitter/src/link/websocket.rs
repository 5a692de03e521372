//! WebSocket: the session as binary frames, one message each.
//!
//! Reading is tungstenite's. Data frames are written here: a payload goes from the image to the
//! socket's buffer in one pass that copies and masks together, or not at all when this side is the
//! server and does not mask. tungstenite would copy it twice and mask in a third pass.

mod frame;
mod halves;
mod listen;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, header};
use shared::image::{ImageId, Transport};
use shared::security::tls::{Ended, HTTP_1_1};
use shared::wire::{Encoded, WEBSOCKET_SUBPROTOCOL, decode_server};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use url::Url;

use super::dial::{Denial, words_of};
use super::session::{Session, SessionConnection, queue_length};
use super::stream::Stream;
use super::{AGENT, Connection, Identity, Link, LinkError};
use crate::config::LinkOptions;
use frame::FrameWriter;
use halves::{Halves, SocketWriter};

pub use listen::ListenLink;

/// Largest message that is taken from a receiver.
const MAX_REPLY: usize = 1 << 20;

/// Control frames that may wait to be written.
const MAX_CONTROLS: usize = 16;

/// Makes sessions by dialling a receiver.
pub struct WebSocketLink {
    url: Url,
    options: LinkOptions,
    identity: Identity,
}

impl WebSocketLink {
    /// A link to `url`.
    pub fn new(url: Url, options: LinkOptions, identity: Identity) -> Self {
        Self {
            url,
            options,
            identity,
        }
    }

    async fn dial(&self) -> Result<WebSocketStream<Halves>, LinkError> {
        let address = self.url.to_string();
        let unreachable = |problem: String| LinkError::Unreachable {
            address: address.clone(),
            problem,
        };
        let dialler = &self.identity.dialler;
        let authorization = dialler.authorization().await.map_err(unreachable)?;
        let mut request = self
            .url
            .as_str()
            .into_client_request()
            .map_err(|error| unreachable(error.to_string()))?;
        let headers = request.headers_mut();
        let protocol = HeaderValue::from_static(WEBSOCKET_SUBPROTOCOL);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        headers.extend(authorization.map(|value| (header::AUTHORIZATION, value)));
        let stream = dialler
            .connect(&self.url, HTTP_1_1, &self.identity.wire)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let refusal = stream.refusal();
        let upgraded = client_async_with_config(request, split(stream), Some(config())).await;
        match upgraded {
            Ok((socket, _)) => Ok(socket),
            Err(error) => Err(match self.denied(&error, refusal.get()) {
                Some(problem) => LinkError::Refused { address, problem },
                None => LinkError::Protocol {
                    address,
                    problem: refusal.explain(handshake_problem(&error)),
                },
            }),
        }
    }

    /// Why the receiver does not let this side in, if the upgrade failed because of that.
    fn denied(&self, error: &Error, noted: Option<&str>) -> Option<String> {
        let Error::Http(response) = error else {
            return noted.map(str::to_owned);
        };
        let (status, headers) = (response.status(), response.headers());
        let body = response.body().as_deref().unwrap_or_default();
        let words = words_of(status, headers, body);
        Some(self.identity.dialler.advise(Denial::of(status)?, &words))
    }
}

fn handshake_problem(error: &Error) -> String {
    match error {
        Error::Http(response) => format!("HTTP status {}", response.status()),
        other => other.to_string(),
    }
}

fn split(stream: Stream) -> Halves {
    let (read, write) = tokio::io::split(stream);
    Halves::new(read, write)
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_REPLY))
        .max_frame_size(Some(MAX_REPLY))
}

#[async_trait]
impl Link for WebSocketLink {
    fn transport(&self) -> Transport {
        Transport::WebSocket
    }

    async fn connect(&self) -> Result<Arc<dyn Connection>, LinkError> {
        let timeout = self.options.connect_timeout;
        let socket = tokio::time::timeout(timeout, self.dial())
            .await
            .map_err(|_| LinkError::Unreachable {
                address: self.url.to_string(),
                problem: format!("no connection within {timeout:?}"),
            })??;
        start(
            socket,
            self.url.as_ref(),
            true,
            None,
            &self.options,
            &self.identity,
        )
        .await
    }

    fn forget(&self, id: ImageId) {
        self.identity.unfinished.end(id);
    }
}

/// Runs a session over a socket whose handshake is done, until the certificate of the other side is good
/// no more.
async fn start(
    mut socket: WebSocketStream<Halves>,
    address: &str,
    mask: bool,
    ended: Option<Ended>,
    options: &LinkOptions,
    identity: &Identity,
) -> Result<Arc<dyn Connection>, LinkError> {
    let (outgoing, messages) = mpsc::channel(queue_length(options));
    let (control, controls) = mpsc::channel(MAX_CONTROLS);
    let lost = || LinkError::Lost("the handshake left no socket".to_owned());
    let writer = socket.get_mut().divert(control).ok_or_else(lost)?;
    let session = Session::new(outgoing, address.to_owned(), options, identity);
    tokio::spawn(write(
        writer,
        mask,
        messages,
        controls,
        Arc::clone(&session),
    ));
    tokio::spawn(read(socket, Arc::clone(&session), options.idle_timeout));
    if let Some(ended) = ended {
        tokio::spawn(end_with(ended, Arc::clone(&session)));
    }
    session.greet().await?;
    Ok(Arc::new(SessionConnection(session)))
}

async fn end_with(certificate: Ended, session: Arc<Session>) {
    tokio::select! {
        () = certificate.token().cancelled() => {
            session.lose("the receiver's certificate is good no more".to_owned());
        }
        () = session.lost.cancelled() => {}
    }
}

/// Writes messages, and between them the control frames that tungstenite makes.
async fn write(
    mut writer: SocketWriter,
    mask: bool,
    mut messages: mpsc::Receiver<Encoded>,
    mut controls: mpsc::Receiver<Vec<u8>>,
    session: Arc<Session>,
) {
    let mut frames = FrameWriter::new(mask);
    let mut said_goodbye = false;
    let writing = async {
        loop {
            tokio::select! {
                biased;
                control = controls.recv() => match control {
                    Some(control) => {
                        writer.write_all(&control).await?;
                        writer.flush().await?;
                    }
                    // The reading side is gone, and with it the connection.
                    None => return Ok(()),
                },
                message = messages.recv() => {
                    let Some(message) = message else { return Ok(()) };
                    frames.write(&mut writer, message).await?;
                }
                () = session.goodbye.cancelled(), if !said_goodbye => {
                    // Everything before goodbye, goodbye itself included, then the close frame.
                    said_goodbye = true;
                    while let Ok(message) = messages.try_recv() {
                        frames.write(&mut writer, message).await?;
                    }
                    frames.write_close(&mut writer).await?;
                }
            }
        }
    };
    let result: std::io::Result<()> = tokio::select! {
        result = writing => result,
        // A receiver that does not read must not keep the socket, and this task, for ever.
        () = async {
            session.lost.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        } => Ok(()),
    };
    if let Err(error) = result {
        session.lose(error.to_string());
    }
    // What is encrypted and has not gone out waits for a receiver that may never read.
    let _ = tokio::time::timeout(FAREWELL, writer.shutdown()).await;
}

/// Time for a close frame to go out over a connection that is given up.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);

async fn read(
    mut socket: WebSocketStream<Halves>,
    session: Arc<Session>,
    idle_timeout: std::time::Duration,
) {
    let reason = loop {
        let next = tokio::time::timeout(idle_timeout, socket.next());
        let message = tokio::select! {
            message = next => message,
            // Given up elsewhere, with the reason.
            () = session.lost.cancelled() => break String::new(),
        };
        let Ok(message) = message else {
            break format!("no sign of the receiver for {idle_timeout:?}");
        };
        match message {
            Some(Ok(Message::Binary(data))) => match decode_server(data) {
                Ok(Some(message)) => session.take(message),
                Ok(None) => {}
                Err(error) => break error.to_string(),
            },
            Some(Ok(Message::Close(Some(frame)))) if denial(frame.code).is_some() => {
                if let Some(denial) = denial(frame.code) {
                    session.refuse(session.advise(denial, &frame.reason));
                }
                break String::new();
            }
            Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
                break format!("closed by the receiver: {}", frame.reason);
            }
            Some(Ok(Message::Close(_))) | None => break "closed by the receiver".to_owned(),
            Some(Ok(_)) => {}
            Some(Err(error)) => break error.to_string(),
        }
    };
    session.lose(reason);
    // Sends the answer to a close frame, where one is due.
    let _ = socket.flush().await;
}

/// What a close code says of this side, if it is about that: 3000 and 3003 of IANA's registry.
fn denial(code: CloseCode) -> Option<Denial> {
    match u16::from(code) {
        3000 => Some(Denial::Unknown),
        3003 => Some(Denial::Forbidden),
        _ => None,
    }
}

/// Where frames go.
trait Sink: AsyncWrite + Unpin + Send {}
impl<T: AsyncWrite + Unpin + Send> Sink for T {}
