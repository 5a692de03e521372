//! A plain HTTP client, and one that writes what it likes.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::within;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: http::HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A header as text, empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// `GET` over a connection of its own.
///
/// # Panics
/// When there is no answer.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let exchange = async {
        let stream = TcpStream::connect(address)
            .await
            .expect("the receiver accepts");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1 begins");
        tokio::spawn(connection);
        let request = http::Request::get(path)
            .header("host", address.to_string())
            .body(Full::<Bytes>::default())
            .expect("a proper request");
        let response = sender.send_request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    };
    within(path, exchange).await
}

/// A gRPC call with `body`, which holds its messages with their prefixes. The status is among the
/// headers, wherever it came.
///
/// # Panics
/// When there is no answer.
pub async fn post_grpc(address: SocketAddr, path: &str, body: Bytes) -> Answer {
    let exchange = async {
        let stream = TcpStream::connect(address)
            .await
            .expect("the receiver accepts");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2 begins");
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://{address}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body))
            .expect("a proper request");
        let response = sender.send_request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body");
        let mut headers = parts.headers;
        headers.extend(body.trailers().cloned().unwrap_or_default());
        Answer {
            status: parts.status.as_u16(),
            headers,
            body: body.to_bytes(),
        }
    };
    within(path, exchange).await
}

/// A connection on which anything can be written.
#[derive(Debug)]
pub struct RawHttp {
    stream: BufReader<TcpStream>,
}

impl RawHttp {
    /// Connects.
    ///
    /// # Panics
    /// When nobody accepts.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .expect("the receiver accepts");
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Writes `bytes` as they are.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let written = self.stream.get_mut().write_all(bytes.as_ref());
        within("writing", written)
            .await
            .expect("the connection is open");
    }

    /// Writes the head of a `PUT` of an image, `headers` included, each of which ends in CR LF.
    pub async fn write_put(&mut self, id: &str, headers: &str) {
        self.write(format!(
            "PUT /v1/images/{id} HTTP/1.1\r\nHost: station\r\n{headers}\r\n"
        ))
        .await;
    }

    /// Nothing more will be written.
    pub async fn end(&mut self) {
        // Fails only when the other side was quicker.
        let _ = self.stream.get_mut().shutdown().await;
    }

    /// Whether the connection ends without a byte that is an answer.
    pub async fn gone(&mut self) -> bool {
        let mut bytes = Vec::new();
        let read = within("the end", self.stream.read_to_end(&mut bytes)).await;
        read.is_err() || !bytes.starts_with(b"HTTP/")
    }

    /// The next answer; `None` when the connection ends before one begins.
    ///
    /// # Panics
    /// When it is no HTTP answer with a length.
    pub async fn answer(&mut self) -> Option<Answer> {
        within("an answer", self.read_answer()).await
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let mut line = String::new();
        // A reset connection has ended, too.
        if self.stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return None;
        }
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        let mut headers = http::HeaderMap::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).await.expect("headers");
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            let name: http::HeaderName = name.parse().expect("the name of a header");
            headers.append(name, value.trim().parse().expect("the value of a header"));
        }
        let length = headers
            .get("content-length")
            .and_then(|value| value.to_str().ok());
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.stream
            .read_exact(&mut body)
            .await
            .expect("a whole body");
        Some(Answer {
            status,
            headers,
            body: body.into(),
        })
    }
}
