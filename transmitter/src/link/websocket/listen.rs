//! The other way round: waits for a receiver to dial in. As the server this side need not mask.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::header;
use shared::image::{ImageId, Transport};
use shared::wire::{WEBSOCKET_PATH, WEBSOCKET_SUBPROTOCOL};
use tokio::net::TcpListener;
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::{config, split, start};
use crate::config::LinkOptions;
use crate::link::{Connection, Identity, Link, LinkError};

/// Makes sessions with receivers that dial in.
pub struct ListenLink {
    listener: TcpListener,
    options: LinkOptions,
    identity: Identity,
}

impl ListenLink {
    /// A link that takes connections from `listener`.
    pub fn new(listener: TcpListener, options: LinkOptions, identity: Identity) -> Self {
        Self {
            listener,
            options,
            identity,
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
            let halves = split(stream, &self.identity.wire);
            let handshake = accept_hdr_async_with_config(halves, check, Some(config()));
            let timeout = self.options.connect_timeout;
            match tokio::time::timeout(timeout, handshake).await {
                Ok(Ok(socket)) => {
                    let address = peer.to_string();
                    let session =
                        start(socket, &address, false, &self.options, &self.identity).await;
                    match session {
                        Ok(connection) => return Ok(connection),
                        Err(error) => tracing::warn!(%peer, "refused: {error}"),
                    }
                }
                Ok(Err(error)) => tracing::warn!(%peer, "handshake failed: {error}"),
                Err(_) => tracing::warn!(%peer, "handshake not finished within {timeout:?}"),
            }
        }
    }

    fn forget(&self, id: ImageId) {
        self.identity.unfinished.end(id);
    }
}

#[allow(
    clippy::result_large_err,
    reason = "tungstenite's callback wants the whole response"
)]
fn check(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status: http::StatusCode, text: &str| {
        let mut refusal = ErrorResponse::new(Some(text.to_owned()));
        *refusal.status_mut() = status;
        refusal
    };
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
