//! REST over HTTP/1.1: one `PUT /v1/images/{id}` an image, with its length declared; images that are
//! larger than the window by tus at `/v1/uploads`, which goes on where a break left off.

mod answer;
mod body;
mod connection;
mod pieces;
mod put;
#[cfg(test)]
mod tests;
mod tus;

use std::sync::Arc;

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use shared::image::{ImageId, Transport};
use shared::security::tls::HTTP_1_1;
use shared::telemetry::chain;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Connection, Identity, Link, LinkError};
use crate::config::LinkOptions;
use connection::RestConnection;
use pieces::Pieces;

/// Sends images by `PUT` and tus.
pub struct RestLink {
    url: Url,
    options: LinkOptions,
    identity: Identity,
    pieces: Pieces,
}

/// Clock measurements at the start of a connection.
const FIRST_LOOKS: usize = 4;

impl RestLink {
    /// A link to `url`, whose path, if any, stands before `/v1`.
    pub fn new(url: Url, options: LinkOptions, identity: Identity) -> Self {
        Self {
            url,
            pieces: Pieces::new(options.chunk_size.0, options.window.0),
            options,
            identity,
        }
    }

    async fn dial(&self) -> Result<RestConnection, LinkError> {
        let address = self.url.to_string();
        let unreachable = |problem: String| LinkError::Unreachable {
            address: address.clone(),
            problem,
        };
        let host = self.url.host_str().unwrap_or_default();
        let dialler = &self.identity.dialler;
        let authorization = dialler.authorization().await.map_err(unreachable)?;
        let stream = dialler
            .connect(&self.url, HTTP_1_1, &self.identity.wire)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let refusal = stream.refusal();
        let (sender, connection) = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(chain(&error)))?;
        let lost = CancellationToken::new();
        let gone = lost.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("connection ended: {}", chain(&error));
            }
            gone.cancel();
        });
        let authority = match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(RestConnection {
            sender: tokio::sync::Mutex::new(sender),
            authorization,
            refusal,
            base: self.url.path().trim_end_matches('/').to_owned(),
            host: authority,
            address,
            chunk_size: u32::try_from(self.options.chunk_size.0).unwrap_or(u32::MAX),
            window: self.options.window.0,
            pieces: self.pieces.clone(),
            identity: self.identity.clone(),
            idle_timeout: self.options.idle_timeout,
            lost,
        })
    }
}

#[async_trait]
impl Link for RestLink {
    fn transport(&self) -> Transport {
        Transport::Rest
    }

    fn is_lazy(&self) -> bool {
        true
    }

    async fn connect(&self) -> Result<Arc<dyn Connection>, LinkError> {
        let timeout = self.options.connect_timeout;
        let connecting = async {
            let connection = self.dial().await?;
            for _ in 0..FIRST_LOOKS {
                connection.look_at_clock().await?;
            }
            connection.be_let_in().await?;
            Ok(connection)
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connection) => Ok(Arc::new(connection?)),
            Err(_) => Err(LinkError::Unreachable {
                address: self.url.to_string(),
                problem: format!("no answer within {timeout:?}"),
            }),
        }
    }

    fn forget(&self, id: ImageId) {
        self.identity.unfinished.end(id);
    }
}
