//! A receiver that answers what the test wants, at the other end of a pipe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio_util::sync::CancellationToken;

use crate::link::Identity;
use crate::link::rest::connection::RestConnection;
use crate::link::rest::pieces::Pieces;

pub(super) const CHUNK: u32 = 1 << 10;
pub(super) const WINDOW: u64 = 4 << 10;

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Method and, of a `PATCH`, the offset.
    pub(super) fn summary(&self) -> String {
        match self.method.as_str() {
            "PATCH" => format!("PATCH {}+{}", self.header("upload-offset"), self.body.len()),
            method => method.to_owned(),
        }
    }
}

/// An answer; its body is a problem document unless the status is one of success.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) reason: Option<&'static str>,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            reason: None,
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(super) fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    fn text(&self, head: bool) -> String {
        let body = self.reason.map_or_else(String::new, |reason| {
            format!(r#"{{"reason":"{reason}","retryable":true,"detail":"said so"}}"#)
        });
        let mut text = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.status != 204 {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        if !head {
            text.push_str(&body);
        }
        text
    }
}

/// What came so far.
#[derive(Clone, Default)]
pub(super) struct Came(Arc<Mutex<Vec<Request>>>);

impl Came {
    pub(super) fn all(&self) -> Vec<Request> {
        self.0.lock().clone()
    }

    pub(super) fn summaries(&self) -> Vec<String> {
        self.0.lock().iter().map(Request::summary).collect()
    }
}

/// A connection to a receiver that answers by `script`; it closes the connection where that gives
/// no answer.
pub(super) async fn connect(
    identity: Identity,
    mut script: impl FnMut(&Request) -> Option<Reply> + Send + 'static,
) -> (RestConnection, Came) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let came = Came::default();
    let log = came.clone();
    tokio::spawn(async move {
        let mut stream = BufReader::new(theirs);
        while let Some(request) = read(&mut stream).await {
            log.0.lock().push(request.clone());
            let Some(reply) = script(&request) else {
                return;
            };
            let text = reply.text(request.method == "HEAD");
            if stream.get_mut().write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .handshake(TokioIo::new(ours))
        .await
        .expect("a pipe shakes hands");
    let lost = CancellationToken::new();
    let gone = lost.clone();
    tokio::spawn(async move {
        // How it ended is seen by whoever waits for an answer.
        let _ = connection.await;
        gone.cancel();
    });
    let connection = RestConnection {
        sender: tokio::sync::Mutex::new(sender),
        authorization: None,
        refusal: Default::default(),
        base: String::new(),
        host: "receiver".to_owned(),
        address: "http://receiver".to_owned(),
        chunk_size: CHUNK,
        window: WINDOW,
        pieces: Pieces::new(CHUNK.into(), WINDOW),
        identity,
        idle_timeout: Duration::from_secs(30),
        lost,
    };
    (connection, came)
}

async fn read(stream: &mut BufReader<DuplexStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines.first()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .and_then(|len| len.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request {
        method,
        path,
        headers,
        body,
    })
}
