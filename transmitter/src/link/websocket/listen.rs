//! The other way round: waits for a receiver to dial in. As the server this side need not mask.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::header;
use shared::image::{ImageId, Transport};
use shared::security::identity::Role;
use shared::security::tls::{Accepted, Certificate, Ended, ServerTls};
use shared::telemetry::{Counted, chain};
use shared::wire::{WEBSOCKET_PATH, WEBSOCKET_SUBPROTOCOL};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::halves::Halves;
use super::{config, split, start};
use crate::config::LinkOptions;
use crate::link::stream::Stream;
use crate::link::{Connection, Identity, Link, LinkError};

/// Makes sessions with receivers that dial in.
pub struct ListenLink {
    listener: TcpListener,
    options: LinkOptions,
    identity: Identity,
    tls: Option<Tls>,
}

struct Tls {
    server: Arc<ServerTls>,
    /// Notices new certificates.
    _watching: AbortOnDropHandle<()>,
}

impl ListenLink {
    /// A link that takes connections from `listener`.
    pub fn new(listener: TcpListener, options: LinkOptions, identity: Identity) -> Self {
        Self {
            listener,
            options,
            identity,
            tls: None,
        }
    }

    /// The same, encrypted. Where certificates are asked for, only receivers may come. Is called within a
    /// runtime, which looks after the certificates.
    #[must_use]
    pub fn with_tls(self, server: Arc<ServerTls>) -> Self {
        let watching = tokio::spawn(Arc::clone(&server).watch(CancellationToken::new()));
        Self {
            tls: Some(Tls {
                server,
                _watching: AbortOnDropHandle::new(watching),
            }),
            ..self
        }
    }

    /// Where receivers can dial in.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[async_trait]
impl Link for ListenLink {
    fn transport(&self) -> Transport {
        Transport::WebSocket
    }

    /// Waits, without limit, for a receiver.
    async fn connect(&self) -> Result<Arc<dyn Connection>, LinkError> {
        loop {
            let (stream, peer) = self
                .listener
                .accept()
                .await
                .map_err(|error| LinkError::Lost(error.to_string()))?;
            let timeout = self.options.connect_timeout;
            match tokio::time::timeout(timeout, self.shake_hands(stream)).await {
                Ok(Ok((socket, ended))) => {
                    let address = peer.to_string();
                    let session = start(
                        socket,
                        &address,
                        false,
                        ended,
                        &self.options,
                        &self.identity,
                    );
                    match session.await {
                        Ok(connection) => return Ok(connection),
                        Err(error) => tracing::warn!(%peer, "refused: {error}"),
                    }
                }
                Ok(Err(problem)) => tracing::warn!(%peer, "handshake failed: {problem}"),
                Err(_) => tracing::warn!(%peer, "handshake not finished within {timeout:?}"),
            }
        }
    }

    fn forget(&self, id: ImageId) {
        self.identity.unfinished.end(id);
    }
}

impl ListenLink {
    /// Encrypts if that is asked for, and becomes a WebSocket.
    async fn shake_hands(
        &self,
        stream: TcpStream,
    ) -> Result<(WebSocketStream<Halves>, Option<Ended>), String> {
        // Only latency suffers where it cannot be set.
        let _ = stream.set_nodelay(true);
        let stream = Counted::new(stream, self.identity.wire.clone());
        let Some(Tls { server, .. }) = &self.tls else {
            return Ok((upgrade(Stream::plain(stream), None).await?, None));
        };
        let within = self.options.connect_timeout;
        let accepted = server
            .accept(stream, within, CancellationToken::new())
            .await;
        let Accepted {
            stream,
            certificate,
            ended,
        } = accepted.map_err(|refused| chain(&refused))?;
        let stranger = match server.asks_clients() {
            true => stranger(certificate.as_ref()),
            false => None,
        };
        let socket = upgrade(Stream::encrypted(stream), stranger).await?;
        Ok((socket, Some(ended)))
    }
}

/// Who somebody is that is no receiver: the same CA signs the certificates of cameras and of those who
/// look at the pictures.
fn stranger(certificate: Option<&Certificate>) -> Option<String> {
    let station = certificate.and_then(|certificate| certificate.station.as_ref());
    match station {
        Some(station) if station.role == Role::Receiver => None,
        Some(station) => Some(station.to_string()),
        None => Some("a certificate that names no station".to_owned()),
    }
}

/// Becomes a WebSocket, unless a `stranger` came.
async fn upgrade(
    stream: Stream,
    stranger: Option<String>,
) -> Result<WebSocketStream<Halves>, String> {
    #[allow(
        clippy::result_large_err,
        reason = "tungstenite's callback wants the whole response"
    )]
    let checked = |request: &Request, response: Response| match &stranger {
        Some(_) => Err(refuse(
            http::StatusCode::FORBIDDEN,
            "only receivers may take images here\n",
        )),
        None => check(request, response),
    };
    let upgraded = accept_hdr_async_with_config(split(stream), checked, Some(config())).await;
    upgraded.map_err(|error| match (&error, &stranger) {
        (Error::Http(_), Some(who)) => format!("{who} came, which is no receiver"),
        _ => error.to_string(),
    })
}

fn refuse(status: http::StatusCode, text: &str) -> ErrorResponse {
    let mut refusal = ErrorResponse::new(Some(text.to_owned()));
    *refusal.status_mut() = status;
    refusal
}

#[allow(
    clippy::result_large_err,
    reason = "tungstenite's callback wants the whole response"
)]
fn check(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() != WEBSOCKET_PATH {
        return Err(refuse(
            http::StatusCode::NOT_FOUND,
            "the session is at /v1/stream\n",
        ));
    }
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut offers = offered
        .iter()
        .filter_map(|value| value.to_str().ok())
        .peekable();
    if offers.peek().is_some() {
        let ours = |value: &str| {
            value
                .split(',')
                .any(|word| word.trim() == WEBSOCKET_SUBPROTOCOL)
        };
        if !offers.any(ours) {
            let text = "the subprotocol spoken here is pantelegraph.v1\n";
            return Err(refuse(http::StatusCode::BAD_REQUEST, text));
        }
        let protocol = http::HeaderValue::from_static(WEBSOCKET_SUBPROTOCOL);
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}
