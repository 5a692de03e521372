//! A client that shows what it is told to: a certificate, a token, or nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use shared::security::identity::Role;
use shared::security::tls::{ClientTls, H2, HTTP_1_1};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::http::Answer;
use crate::within;

/// The bytes of a connection, encrypted or not.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Who calls, and how.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Encrypts, and shows a certificate if it has one.
    pub tls: Option<Arc<ClientTls>>,
    /// Headers of each request.
    pub headers: HeaderMap,
}

impl Caller {
    /// One that shows what `tls` has.
    pub fn encrypted(tls: Arc<ClientTls>) -> Self {
        Self {
            tls: Some(tls),
            headers: HeaderMap::new(),
        }
    }

    /// The same with another header.
    ///
    /// # Panics
    /// When it cannot be one.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("the value of a header");
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    /// The same with a token.
    #[must_use]
    pub fn bearing(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    /// A connection on which `protocol` is spoken.
    ///
    /// # Errors
    /// When the other side does not shake hands.
    pub async fn connect(
        &self,
        address: SocketAddr,
        protocol: &[u8],
    ) -> Result<Box<dyn Io>, String> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let shaken = tls.connect("127.0.0.1", stream, protocol, &Role::ALL).await;
        let (stream, _) = shaken.map_err(|error| error.to_string())?;
        Ok(Box::new(stream))
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// A request of HTTP/1.1.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn ask(
        &self,
        address: SocketAddr,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let body = Full::new(body.into());
        let exchange = async {
            let io = TokioIo::new(self.connect(address, HTTP_1_1).await?);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
                .await
                .map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            let mut request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", address.to_string())
                .body(body)
                .map_err(|error| error.to_string())?;
            request.headers_mut().extend(self.headers.clone());
            answer(sender.send_request(request).await).await
        };
        within(path, exchange).await
    }

    /// `GET`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<Answer, String> {
        self.ask(address, Method::GET, path, Bytes::new()).await
    }

    /// A gRPC call with these messages, which have their prefixes. The status is among the headers,
    /// wherever it came.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call(
        &self,
        address: SocketAddr,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let request = Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        self.ask_http2(address, request, Full::new(body.into()))
            .await
    }

    /// A request of HTTP/2, whose URI is a path.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn ask_http2<B>(
        &self,
        address: SocketAddr,
        request: http::request::Builder,
        body: B,
    ) -> Result<Answer, String>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = request.body(body);
        let mut request = request.map_err(|error| error.to_string())?;
        let path = request.uri().path().to_owned();
        let whole = format!("{}://{address}{}", self.scheme(), request.uri());
        *request.uri_mut() = whole.parse().map_err(|error| format!("{error}"))?;
        request.headers_mut().extend(self.headers.clone());
        let exchange = async {
            let io = TokioIo::new(self.connect(address, H2).await?);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            answer(sender.send_request(request).await).await
        };
        within(&path, exchange).await
    }
}

async fn answer(
    response: hyper::Result<http::Response<hyper::body::Incoming>>,
) -> Result<Answer, String> {
    let (parts, body) = response.map_err(|error| format!("{error:?}"))?.into_parts();
    let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
    let mut headers = parts.headers;
    headers.extend(body.trailers().cloned().unwrap_or_default());
    Ok(Answer {
        status: parts.status.as_u16(),
        headers,
        body: body.to_bytes(),
    })
}
