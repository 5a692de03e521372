//! Connections to servers, encrypted or not.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::either::Either;
use tower::Service;

use crate::security::identity::Role;
use crate::security::tls::{ClientStream, ClientTls};

/// Whose certificates servers may show: their own, or those of proxies before them.
const SERVERS: [Role; 2] = [Role::Receiver, Role::Gateway];

/// Makes connections that speak one protocol.
#[derive(Debug, Clone)]
pub struct Connector {
    tls: Option<Arc<ClientTls>>,
    protocol: &'static [u8],
    within: Duration,
    /// Whom certificates have to be for, where that is not the address that is dialled.
    name: Option<Arc<str>>,
}

impl Connector {
    /// Makes connections within this time, encrypted ones with `tls`.
    pub fn new(tls: Option<Arc<ClientTls>>, protocol: &'static [u8], within: Duration) -> Self {
        Self {
            tls,
            protocol,
            within,
            name: None,
        }
    }

    /// To servers whose certificates are for this name.
    #[must_use]
    pub fn of(mut self, name: &str) -> Self {
        self.name = Some(bare(name).into());
        self
    }

    /// A connection to a port of a host, a name or an address.
    ///
    /// # Errors
    /// When nobody listens there in time, or it is not who it should be.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<Connected> {
        let host = bare(host);
        let connecting = async {
            let stream = TcpStream::connect((host, port)).await?;
            // Only latency suffers where it cannot be set.
            let _ = stream.set_nodelay(true);
            let Some(tls) = &self.tls else {
                return Ok(Connected(Either::Left(stream)));
            };
            let name = self.name.as_deref().unwrap_or(host);
            let connected = tls.connect(name, stream, self.protocol, &SERVERS);
            let (stream, _) = connected.await?;
            Ok(Connected(Either::Right(Box::new(stream))))
        };
        let connected = tokio::time::timeout(self.within, connecting).await;
        connected.map_err(|_| {
            let words = format!("no connection within {:?}", self.within);
            io::Error::new(io::ErrorKind::TimedOut, words)
        })?
    }
}

/// An address of IPv6 without its brackets.
fn bare(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connected>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Connected>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
            let usual = if this.tls.is_some() { 443 } else { 80 };
            let port = uri.port_u16().unwrap_or(usual);
            Ok(TokioIo::new(this.connect(host, port).await?))
        })
    }
}

/// The bytes of a connection.
#[derive(Debug)]
pub struct Connected(Either<TcpStream, Box<ClientStream<TcpStream>>>);

impl connect::Connection for Connected {
    fn connected(&self) -> connect::Connected {
        connect::Connected::new()
    }
}

impl AsyncRead for Connected {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connected {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
