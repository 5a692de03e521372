//! REST: one `PUT /v1/images/{id}` an image, over HTTP/1.1 with its length declared.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use shared::chunk::slices;
use shared::clock::{ClockEstimate, ClockSample, UnixNanos};
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::report::RunAccount;
use shared::telemetry::{Counted, chain};
use shared::wire::{Loss, Standing, encode_account};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    AGENT, Attempt, Connection, DeliveryError, Identity, Link, LinkError, SharedClock, unreadable,
};
use crate::config::LinkOptions;
use crate::outbox::Owed;
use crate::payload::Reader;

/// Sends images by `PUT`.
pub struct RestLink {
    url: Url,
    options: LinkOptions,
    identity: Identity,
}

/// Largest answer that is taken from a receiver.
const MAX_ANSWER: usize = 1 << 20;

/// Clock measurements at the start of a connection.
const FIRST_LOOKS: usize = 4;

impl RestLink {
    /// A link to `url`, whose path, if any, stands before `/v1`.
    pub fn new(url: Url, options: LinkOptions, identity: Identity) -> Self {
        Self {
            url,
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
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((name, port))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        stream
            .set_nodelay(true)
            .map_err(|error| unreachable(error.to_string()))?;
        let counted = Counted::new(stream, self.identity.wire.clone());
        let (sender, connection) = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(counted))
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
            base: self.url.path().trim_end_matches('/').to_owned(),
            host: authority,
            address,
            chunk_size: u32::try_from(self.options.chunk_size.0).unwrap_or(u32::MAX),
            transmitter: self.identity.transmitter.clone(),
            idle_timeout: self.options.idle_timeout,
            clock: self.identity.clock.clone(),
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
}

struct RestConnection {
    sender: tokio::sync::Mutex<SendRequest<ImageBody>>,
    base: String,
    host: String,
    address: String,
    chunk_size: u32,
    transmitter: String,
    idle_timeout: Duration,
    clock: SharedClock,
    lost: CancellationToken,
}

impl RestConnection {
    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, AGENT)
    }

    async fn exchange(
        &self,
        request: Request<ImageBody>,
        moved: Option<&Progress>,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut sender = self.sender.lock().await;
        sender.ready().await.map_err(|error| chain(&error))?;
        let answering = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| chain(&error))?;
            read_answer(response).await
        };
        let answer = match moved {
            Some(moved) => watched(answering, moved, self.idle_timeout).await,
            None => match tokio::time::timeout(self.idle_timeout, answering).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {:?}", self.idle_timeout)),
            },
        };
        if answer.is_err() {
            self.lost.cancel();
        }
        answer
    }

    async fn look_at_clock(&self) -> Result<(), LinkError> {
        let protocol = |problem: String| LinkError::Protocol {
            address: self.address.clone(),
            problem,
        };
        let request = self
            .request("GET", "/v1/clock")
            .body(ImageBody::empty())
            .map_err(|error| protocol(error.to_string()))?;
        let t1 = UnixNanos::now();
        let (status, body) = self
            .exchange(request, None)
            .await
            .map_err(LinkError::Lost)?;
        let t4 = UnixNanos::now();
        let times: Option<(i64, i64)> = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|body| Some((body["t2_unix_ns"].as_i64()?, body["t3_unix_ns"].as_i64()?)));
        match times {
            Some((t2, t3)) if status == StatusCode::OK => {
                let (t2, t3) = (UnixNanos(t2), UnixNanos(t3));
                self.clock.add(ClockSample { t1, t2, t3, t4 });
                Ok(())
            }
            _ => Err(protocol(format!(
                "GET /v1/clock was answered by HTTP status {status}"
            ))),
        }
    }

    fn put(&self, meta: &ImageMeta, body: ImageBody) -> Result<Request<ImageBody>, String> {
        let mut request = self.request("PUT", &format!("/v1/images/{}", meta.id));
        if let Some(digest) = &meta.digest {
            let value = STANDARD.encode(digest.as_bytes());
            request = request.header("repr-digest", format!("{}=:{value}:", digest.algorithm()));
        }
        let texts = [
            ("content-type", meta.content_type.as_deref()),
            ("pantelegraph-name", meta.name.as_deref()),
            ("pantelegraph-run", Some(meta.run.as_str())),
            ("pantelegraph-transmitter", Some(self.transmitter.as_str())),
        ];
        for (name, text) in texts {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                request = request.header(name, utf8_percent_encode(text, ESCAPED).to_string());
            }
        }
        let times = [
            ("pantelegraph-captured", meta.captured),
            ("pantelegraph-queued", meta.queued),
            ("pantelegraph-send-started", meta.send_started),
        ];
        for (name, time) in times {
            if let Some(time) = time {
                request = request.header(name, time.0);
            }
        }
        if let Some(clock) = &meta.clock {
            let value = format!(
                "offset={};error={};samples={}",
                clock.offset_ns, clock.error_ns, clock.samples
            );
            request = request.header("pantelegraph-clock", value);
        }
        request
            .header("pantelegraph-sequence", meta.sequence)
            .header("pantelegraph-attempt", meta.attempt)
            .body(body)
            .map_err(|error| error.to_string())
    }
}

/// What is percent-encoded in a header: everything but visible ASCII, and `%` itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b' ').add(b',').add(b'"');

async fn read_answer(response: Response<Incoming>) -> Result<(StatusCode, Bytes), String> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    Ok((status, body.to_bytes()))
}

/// Waits for an answer as long as bytes keep moving.
async fn watched<T>(
    answering: impl Future<Output = Result<T, String>>,
    moved: &Progress,
    idle: Duration,
) -> Result<T, String> {
    tokio::pin!(answering);
    let mut before = moved.0.load(std::sync::atomic::Ordering::Relaxed);
    loop {
        if let Ok(answer) = tokio::time::timeout(idle, answering.as_mut()).await {
            return answer;
        }
        let now = moved.0.load(std::sync::atomic::Ordering::Relaxed);
        if now == before {
            return Err(format!("nothing moved for {idle:?}"));
        }
        before = now;
    }
}

/// Slices handed to the connection so far.
#[derive(Debug, Clone, Default)]
struct Progress(Arc<std::sync::atomic::AtomicU64>);

#[async_trait]
impl Connection for RestConnection {
    async fn deliver(&self, image: &Owed, attempt: Attempt) -> Result<Receipt, DeliveryError> {
        let reader = image.payload.open().await.map_err(unreadable)?;
        let mut meta = image.meta.clone();
        let moved = Progress::default();
        let problem = Arc::new(Mutex::new(None));
        let body = ImageBody::start(
            reader,
            image.payload.size(),
            self.chunk_size,
            moved.clone(),
            Arc::clone(&problem),
        );
        meta.attempt = attempt.number;
        meta.clock = self.clock.estimate();
        meta.send_started = Some(attempt.started);
        let request = self.put(&meta, body).map_err(DeliveryError::Lost)?;
        let exchanged = self.exchange(request, Some(&moved)).await;
        if let Some(problem) = problem.lock().take() {
            self.lost.cancel();
            return Err(unreadable(problem));
        }
        let (status, answer) = exchanged.map_err(DeliveryError::Lost)?;
        verdict(meta.id, status, &answer)
    }

    fn parallel(&self) -> usize {
        1
    }

    fn clock(&self) -> Option<ClockEstimate> {
        self.clock.estimate()
    }

    async fn account(&self, account: RunAccount) -> Result<(), LinkError> {
        let request = self
            .request("POST", "/v1/runs/account")
            .header(header::CONTENT_TYPE, "application/protobuf")
            .body(ImageBody::whole(encode_account(account)))
            .map_err(|error| LinkError::Lost(error.to_string()))?;
        let (status, _) = self
            .exchange(request, None)
            .await
            .map_err(LinkError::Lost)?;
        if status.is_success() {
            return Ok(());
        }
        Err(LinkError::Protocol {
            address: self.address.clone(),
            problem: format!("POST /v1/runs/account was answered by HTTP status {status}"),
        })
    }

    async fn losses(&self, _losses: Vec<Loss>, _standing: Standing) -> Result<(), LinkError> {
        Ok(())
    }

    async fn closed(&self) -> String {
        self.lost.cancelled().await;
        "the connection was closed".to_owned()
    }

    async fn close(&self) {}
}

/// The receipt or the rejection in an answer.
fn verdict(id: ImageId, status: StatusCode, answer: &[u8]) -> Result<Receipt, DeliveryError> {
    if status.is_success() {
        return serde_json::from_slice(answer)
            .map_err(|error| later(id, format!("the receipt cannot be read: {error}")));
    }
    let problem: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("no details given");
    let reason = problem["reason"]
        .as_str()
        .and_then(|reason| reason.parse().ok());
    let Some(reason) = reason else {
        // Not this project's receiver, or a proxy in front of it.
        return Err(later(id, format!("HTTP status {status}: {detail}")));
    };
    let mut reject = Reject::new(id, reason, detail);
    reject.retryable = problem["retryable"].as_bool().unwrap_or(false);
    reject.quarantined = problem["quarantined"].as_bool().unwrap_or(false);
    debug_assert!(
        reason != RejectReason::UnknownMessage,
        "REST has no message kinds"
    );
    Err(reject.into())
}

/// The connection is good but the answer is not: the image waits before it is tried again, and the
/// others need not.
fn later(id: ImageId, problem: String) -> DeliveryError {
    Reject::new(id, RejectReason::Unavailable, problem).into()
}

/// An image as a request's body, in slices.
enum ImageBody {
    /// In one piece.
    Whole(Option<Bytes>),
    /// In memory: sliced here.
    Memory {
        bytes: Bytes,
        slice: usize,
        moved: Progress,
    },
    /// From a file, read ahead by a task.
    File {
        slices: mpsc::Receiver<Bytes>,
        left: u64,
        moved: Progress,
    },
}

impl ImageBody {
    fn empty() -> Self {
        Self::Whole(None)
    }

    fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }

    fn start(
        reader: Reader,
        size: u64,
        slice: u32,
        moved: Progress,
        problem: Arc<Mutex<Option<std::io::Error>>>,
    ) -> Self {
        if let Reader::Memory(bytes) = reader {
            return Self::Memory {
                bytes,
                slice: slice as usize,
                moved,
            };
        }
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            for (offset, len) in slices(size, 0, slice) {
                match reader.read(offset, len).await {
                    Ok(bytes) => {
                        if sender.send(bytes).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        *problem.lock() = Some(error);
                        return;
                    }
                }
            }
        });
        Self::File {
            slices: receiver,
            left: size,
            moved,
        }
    }
}

impl Body for ImageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Memory {
                bytes,
                slice,
                moved,
            } => {
                moved.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                (!bytes.is_empty()).then(|| bytes.split_to((*slice).min(bytes.len())))
            }
            Self::File {
                slices,
                left,
                moved,
            } => {
                let piece = std::task::ready!(slices.poll_recv(context));
                moved.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                *left -= piece
                    .as_ref()
                    .map_or(0, |piece| piece.len() as u64)
                    .min(*left);
                piece
            }
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Memory { bytes, .. } => bytes.is_empty(),
            Self::File { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Memory { bytes, .. } => bytes.len() as u64,
            Self::File { left, .. } => *left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_somebody_else_makes_the_image_wait_and_not_the_connection() {
        let id = ImageId::new();
        for (status, answer) in [
            (StatusCode::BAD_GATEWAY, &b"<html>502</html>"[..]),
            (StatusCode::PAYLOAD_TOO_LARGE, b"{}"),
            (StatusCode::OK, b"welcome to the captive portal"),
        ] {
            match verdict(id, status, answer) {
                Err(DeliveryError::Rejected(reject)) => {
                    assert!(
                        reject.retryable && reject.image_id == Some(id),
                        "{reject:?}"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
