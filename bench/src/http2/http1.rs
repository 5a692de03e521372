//! One connection of HTTP/1.1, on which one request waits for the other.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use shared::telemetry::chain;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// The body of a request.
pub(super) type Body = BoxBody<Bytes, std::convert::Infallible>;

/// A connection.
pub(super) struct Connection {
    /// Who holds it has the connection; others queue, first come first served.
    sender: Mutex<http1::SendRequest<Body>>,
    server: SocketAddr,
}

impl Connection {
    pub(super) async fn open(server: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(server).await.map_err(|e| chain(&e))?;
        stream.set_nodelay(true).map_err(|e| chain(&e))?;
        let (sender, connection) =
            (http1::handshake(TokioIo::new(stream)).await).map_err(|e| chain(&e))?;
        // Ends with the connection, whose errors are those of its requests.
        tokio::spawn(connection);
        Ok(Self {
            sender: Mutex::new(sender),
            server,
        })
    }

    /// A request that is yet to get its body.
    pub(super) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        (Request::builder().method(method).uri(path)).header(header::HOST, self.server.to_string())
    }

    /// Sends a request when the connection is free; `begun` is told when it is. Returns when the
    /// whole answer has come.
    pub(super) async fn exchange(
        &self,
        request: Request<Body>,
        begun: impl FnOnce(),
    ) -> Result<Response<Bytes>, String> {
        let mut sender = self.sender.lock().await;
        begun();
        let (head, body) = send(&mut sender, request).await?.into_parts();
        let body = body.collect().await.map_err(|e| chain(&e))?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// Sends a request and returns when the answer begins.
    pub(super) async fn begin(&self, request: Request<Body>) -> Result<Incoming, String> {
        let mut sender = self.sender.lock().await;
        Ok(send(&mut sender, request).await?.into_body())
    }
}

async fn send(
    sender: &mut http1::SendRequest<Body>,
    request: Request<Body>,
) -> Result<Response<Incoming>, String> {
    sender.ready().await.map_err(|e| chain(&e))?;
    let response = sender.send_request(request).await.map_err(|e| chain(&e))?;
    match response.status() {
        status if status.is_success() => Ok(response),
        status => Err(format!("the server answered {status}")),
    }
}

/// A body that is there at once.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}
