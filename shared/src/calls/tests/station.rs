//! A server of gRPC that can be killed and started again at its address, and tells what it saw.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::body::Body;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};
use tower::{Layer as _, Service as _};

use crate::calls::HonourDeadlineLayer;

/// What a server is to do with a call.
#[derive(Clone)]
pub(super) enum Answer {
    /// Say "done".
    Done,
    /// Fail, in the head.
    Fail(Status),
    /// Fail, and push back.
    PushBack(Status, &'static str),
    /// Send a head, and then fail in trailers.
    FailLate(Status),
    /// Never end; the token is cancelled when the handler is dropped.
    Hold(CancellationToken),
    /// Send a head and a message, then never end; the token as above.
    HoldLate(CancellationToken),
    /// Break the connection off.
    Break,
    /// Break the call off, and nothing else.
    Reset,
}

/// A call as the server saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) said: String,
    pub(super) headers: HeaderMap,
}

type Script = dyn Fn(&Seen) -> Answer + Send + Sync;

pub(super) struct Station {
    pub(super) address: SocketAddr,
    /// Keeps the port from being given to others while the server is down.
    _reserved: TcpSocket,
    state: Arc<State>,
    running: Option<Running>,
}

struct State {
    script: Box<Script>,
    seen: Mutex<Vec<Seen>>,
    count: watch::Sender<usize>,
    health: Option<HealthReporter>,
}

struct Running {
    stop: Option<oneshot::Sender<()>>,
    drain: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn socket(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket
        .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .unwrap();
    socket
}

impl Station {
    /// A server that answers by `script`, and that is `SERVING`.
    pub(super) async fn start(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::with(Some(HealthReporter::new()), script).await
    }

    pub(super) async fn with(
        health: Option<HealthReporter>,
        script: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let reserved = socket(0);
        let mut station = Self {
            address: reserved.local_addr().unwrap(),
            _reserved: reserved,
            state: Arc::new(State {
                script: Box::new(script),
                seen: Mutex::default(),
                count: watch::Sender::new(0),
                health,
            }),
            running: None,
        };
        station.revive();
        station
    }

    /// Listens at its address, again.
    pub(super) fn revive(&mut self) {
        let listener = socket(self.address.port()).listen(64).unwrap();
        let (stop, stopped) = oneshot::channel();
        let drain = CancellationToken::new();
        let state = Arc::clone(&self.state);
        let task = tokio::spawn(serve(listener, state, stopped, drain.clone()));
        self.running = Some(Running {
            stop: Some(stop),
            drain,
            task,
        });
    }

    /// As a process that is killed: its sockets are closed, whatever goes on.
    pub(super) async fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            drop(running.stop.take());
            running.task.await.unwrap();
        }
    }

    /// As a process that stops in order: it accepts nothing new, and ends when all calls have.
    pub(super) async fn drain(&mut self) {
        if let Some(running) = self.running.take() {
            running.drain.cancel();
            running.task.await.unwrap();
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it says of itself.
    pub(super) async fn report(&self, status: ServingStatus) {
        let health = self.state.health.as_ref().unwrap();
        health.set_service_status("", status).await;
    }

    /// The calls that came.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }

    /// Waits until so many calls have come.
    pub(super) async fn until_seen(&self, calls: usize) {
        let mut count = self.state.count.subscribe();
        count.wait_for(|count| *count >= calls).await.unwrap();
    }
}

async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    mut stopped: oneshot::Receiver<()>,
    drain: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.cancelled() => break,
            _ = &mut stopped => break,
        };
        let (stream, _) = accepted.unwrap();
        let (broken, breaking) = mpsc::channel(1);
        let handler = Handler {
            state: Arc::clone(&state),
            broken,
        };
        connections.spawn(connection(stream, handler, breaking, drain.clone()));
    }
    drop(listener);
    if drain.is_cancelled() {
        connections.join_all().await;
    } else {
        connections.shutdown().await;
    }
}

async fn connection(
    stream: tokio::net::TcpStream,
    handler: Handler,
    mut breaking: mpsc::Receiver<()>,
    drain: CancellationToken,
) {
    let service = HonourDeadlineLayer.layer(tower::service_fn(move |request| {
        handler.clone().handle(request)
    }));
    let service = hyper::service::service_fn(move |request| service.clone().call(request));
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        _ = &mut serving => return,
        _ = breaking.recv() => return,
        () = drain.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

#[derive(Clone)]
struct Handler {
    state: Arc<State>,
    broken: mpsc::Sender<()>,
}

impl Handler {
    async fn handle(self, request: http::Request<Incoming>) -> io::Result<http::Response<Body>> {
        if request.uri().path().starts_with("/grpc.health.") {
            let Some(health) = self.state.health.clone() else {
                return Ok(Status::unimplemented("no health service").into_http());
            };
            let reported = health_server(health).call(request).await;
            return Ok(reported.unwrap_or_else(|never| match never {}));
        }
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return Ok(Status::cancelled("").into_http());
        };
        let seen = Seen {
            path: head.uri.path().to_owned(),
            said: String::decode(body.to_bytes().slice(5..)).unwrap(),
            headers: head.headers,
        };
        let answer = (self.state.script)(&seen);
        self.state.seen.lock().push(seen);
        self.state.count.send_modify(|count| *count += 1);
        self.answer(answer).await
    }

    async fn answer(self, answer: Answer) -> io::Result<http::Response<Body>> {
        Ok(match answer {
            Answer::Done => {
                let ok = Status::new(tonic::Code::Ok, "");
                response(vec![message("done"), trailers(&ok)], None)
            }
            Answer::Fail(status) => status.into_http(),
            Answer::PushBack(status, delay) => {
                let mut response = status.into_http();
                let delay = HeaderValue::from_static(delay);
                response
                    .headers_mut()
                    .insert("grpc-retry-pushback-ms", delay);
                response
            }
            Answer::FailLate(status) => response(vec![trailers(&status)], None),
            Answer::Hold(dropped) => {
                let _guard = dropped.drop_guard();
                std::future::pending().await
            }
            Answer::HoldLate(dropped) => {
                response(vec![message("first")], Some(dropped.drop_guard()))
            }
            Answer::Break => {
                let _ = self.broken.send(()).await;
                std::future::pending().await
            }
            Answer::Reset => return Err(io::Error::other("broken off")),
        })
    }
}

fn health_server(health: HealthReporter) -> HealthServer<impl Health> {
    HealthServer::new(HealthService::from_health_reporter(health))
}

fn message(text: &str) -> Frame<Bytes> {
    let encoded = text.to_owned().encode_to_vec();
    let mut data = BytesMut::new();
    data.put_u8(0);
    data.put_u32(u32::try_from(encoded.len()).unwrap());
    data.put_slice(&encoded);
    Frame::data(data.freeze())
}

fn trailers(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).unwrap();
    Frame::trailers(trailers)
}

/// A response of these frames, which does not end if there is a guard to hold.
fn response(frames: Vec<Frame<Bytes>>, hold: Option<DropGuard>) -> http::Response<Body> {
    let frames = frames.into_iter();
    let mut response = http::Response::new(Body::new(Frames { frames, hold }));
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    response
}

struct Frames {
    frames: std::vec::IntoIter<Frame<Bytes>>,
    hold: Option<DropGuard>,
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.frames.next() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.hold.is_some() => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}
