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
use shared::telemetry::{Counted, WireCount};
use shared::wire::{Encoded, WEBSOCKET_SUBPROTOCOL, decode_server};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use url::Url;

use super::session::{Session, SessionConnection, queue_length};
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
        let host = self.url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let mut request = self
            .url
            .as_str()
            .into_client_request()
            .map_err(|error| unreachable(error.to_string()))?;
        let headers = request.headers_mut();
        let protocol = HeaderValue::from_static(WEBSOCKET_SUBPROTOCOL);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        let halves = split(stream, &self.identity.wire);
        let (socket, _) = client_async_with_config(request, halves, Some(config()))
            .await
            .map_err(|error| LinkError::Protocol {
                address: address.clone(),
                problem: handshake_problem(&error),
            })?;
        Ok(socket)
    }
}

fn handshake_problem(error: &Error) -> String {
    match error {
        Error::Http(response) => format!("HTTP status {}", response.status()),
        other => other.to_string(),
    }
}

fn split(stream: TcpStream, wire: &WireCount) -> Halves {
    // Only latency suffers where it cannot be set.
    let _ = stream.set_nodelay(true);
    let (read, write) = tokio::io::split(Counted::new(stream, wire.clone()));
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
            &self.options,
            &self.identity,
        )
        .await
    }

    fn forget(&self, id: ImageId) {
        self.identity.unfinished.end(id);
    }
}

/// Runs a session over a socket whose handshake is done.
async fn start(
    mut socket: WebSocketStream<Halves>,
    address: &str,
    mask: bool,
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
    session.greet().await?;
    Ok(Arc::new(SessionConnection(session)))
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
                    Some(control) => writer.write_all(&control).await?,
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
    let _ = writer.shutdown().await;
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

/// Where frames go.
trait Sink: AsyncWrite + Unpin + Send {}
impl<T: AsyncWrite + Unpin + Send> Sink for T {}
