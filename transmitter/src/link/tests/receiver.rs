//! A small receiver behind TLS, for all transports.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use shared::clock::UnixNanos;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{Durability, Receipt, ReceiptStatus, ReceiverTimeline};
use shared::security::tls::{Accepted, ServerTls};
use shared::wire::framing::{Deframer, Frame};
use shared::wire::{
    ClientMessage, EXCHANGE_PATH, Encoded, Limits, PROTOCOL_VERSION, ServerMessage,
    WEBSOCKET_SUBPROTOCOL, Welcome, decode_client, encode_server,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server as upgrade;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::link::body::MessageBody;

/// What came, and whether more may.
#[derive(Default)]
pub(super) struct Door {
    /// What was shown as `authorization`, and the number of the certificate, each time.
    shown: Mutex<Vec<(String, String)>>,
    /// Why nobody gets in any more.
    closed: Mutex<Option<&'static str>>,
}

impl Door {
    /// From now on everybody is turned away with these words.
    pub(super) fn close(&self, words: &'static str) {
        *self.closed.lock() = Some(words);
    }

    /// What was shown last.
    pub(super) fn last_shown(&self) -> (String, String) {
        self.shown.lock().last().cloned().unwrap_or_default()
    }

    fn admit(&self, headers: &HeaderMap, serial: &str) -> Result<(), &'static str> {
        let token = headers.get(header::AUTHORIZATION);
        let token = token.map_or("", |value| value.to_str().unwrap());
        self.shown
            .lock()
            .push((token.to_owned(), serial.to_owned()));
        self.closed.lock().map_or(Ok(()), Err)
    }
}

pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    pub(super) door: Arc<Door>,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    pub(super) async fn start(transport: Transport, tls: Arc<ServerTls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Arc::new(Door::default());
        let guard = Arc::clone(&door);
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, door) = (Arc::clone(&tls), Arc::clone(&guard));
                tokio::spawn(async move {
                    let within = std::time::Duration::from_secs(30);
                    // Whoever is refused is told so by the handshake.
                    if let Ok(accepted) = tls.accept(stream, within, CancellationToken::new()).await
                    {
                        serve(transport, accepted, door).await;
                    }
                });
            }
        });
        Self {
            address,
            door,
            _serving: AbortOnDropHandle::new(serving),
        }
    }
}

async fn serve<S>(transport: Transport, accepted: Accepted<S>, door: Arc<Door>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Accepted {
        stream,
        certificate,
        ended: _ended,
    } = accepted;
    let serial = certificate.map_or_else(String::new, |certificate| certificate.serial);
    // How a connection ends is the client's to tell.
    match transport {
        Transport::WebSocket => {
            #[allow(
                clippy::result_large_err,
                reason = "tungstenite's callback wants the whole response"
            )]
            let check = |request: &upgrade::Request, response: upgrade::Response| match door
                .admit(request.headers(), &serial)
            {
                Ok(()) => Ok(with_protocol(response)),
                Err(words) => Err(denied(words).map(|_| None)),
            };
            if let Ok(socket) = accept_hdr_async(stream, check).await {
                converse(socket).await;
            }
        }
        Transport::Rest => {
            let service = service_fn(|request| rest(request, &door, &serial));
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
        Transport::Grpc => {
            let service = service_fn(move |request| {
                let answered = grpc(request, &door, &serial);
                async move { answered }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
    }
}

fn with_protocol(mut response: upgrade::Response) -> upgrade::Response {
    let protocol = http::HeaderValue::from_static(WEBSOCKET_SUBPROTOCOL);
    let headers = response.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    response
}

fn denied(words: &str) -> Response<Bytes> {
    let challenge = format!("Bearer realm=\"test\", error_description=\"{words}\"");
    Response::builder()
        .status(StatusCode::UNAUTHORIZED)
        .header(header::WWW_AUTHENTICATE, challenge)
        .body(Bytes::new())
        .unwrap()
}

/// Speaks the session protocol over a WebSocket, as the server or as the client.
pub(super) async fn converse<S>(mut socket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut begun = None;
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message
            && let Some(answer) = answer(decode_client(data.into()).unwrap(), &mut begun)
        {
            let answer = Message::Binary(encode_server(&answer));
            socket.send(answer).await.unwrap();
        }
    }
}

fn answer(message: ClientMessage, begun: &mut Option<ImageMeta>) -> Option<ServerMessage> {
    Some(match message {
        ClientMessage::Hello(_) => ServerMessage::Welcome(Welcome {
            protocol_version: PROTOCOL_VERSION,
            receiver: "test".to_owned(),
            limits: Limits::default(),
            credit: 1 << 40,
            held: Vec::new(),
            durability: Durability::Synced,
        }),
        ClientMessage::ClockPing { id, t1 } => ServerMessage::ClockPong {
            id,
            t1,
            t2: UnixNanos::now(),
            t3: UnixNanos::now(),
        },
        ClientMessage::Begin(begin) => {
            *begun = Some(begin.meta);
            return None;
        }
        ClientMessage::End { .. } => {
            let meta = begun.take().unwrap();
            ServerMessage::Receipt(receipt(meta.id, meta.size, meta.digest.unwrap()))
        }
        _ => return None,
    })
}

fn receipt(image_id: ImageId, size: u64, digest: shared::digest::Digest) -> Receipt {
    let now = UnixNanos::now();
    Receipt {
        image_id,
        status: ReceiptStatus::Stored,
        size,
        digest,
        durability: Durability::Synced,
        format: String::new(),
        width: 1,
        height: 1,
        timeline: ReceiverTimeline {
            first_byte: now,
            last_byte: now,
            verified: now,
            durable: now,
        },
        receiver: "test".to_owned(),
    }
}

async fn rest(
    request: Request<Incoming>,
    door: &Door,
    serial: &str,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Err(words) = door.admit(request.headers(), serial) {
        return Ok(denied(words).map(Full::new));
    }
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let answer = match path.strip_prefix("/v1/images/") {
        Some(id) => {
            let digest = DigestAlgorithm::Xxh3.digest(&body);
            let receipt = receipt(id.parse().unwrap(), body.len() as u64, digest);
            serde_json::to_vec(&receipt).unwrap()
        }
        None => br#"{"t2_unix_ns":1,"t3_unix_ns":1}"#.to_vec(),
    };
    Ok(Response::new(Full::new(answer.into())))
}

type Body = Either<Full<Bytes>, MessageBody>;

fn grpc(
    request: Request<Incoming>,
    door: &Door,
    serial: &str,
) -> Result<Response<Body>, Infallible> {
    let response = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
    if let Err(words) = door.admit(request.headers(), serial) {
        let status = tonic::Code::Unauthenticated as i32;
        let response = response
            .header("grpc-status", status)
            .header("grpc-message", words);
        return Ok(response.body(Either::Left(Full::default())).unwrap());
    }
    assert_eq!(request.uri().scheme_str(), Some("https"));
    assert_eq!(request.uri().path(), EXCHANGE_PATH);
    let (answers, body) = mpsc::channel::<Encoded>(64);
    let mut incoming = request.into_body();
    tokio::spawn(async move {
        let (mut deframer, mut begun) = (Deframer::new(1 << 20), None);
        while let Some(Ok(frame)) = incoming.frame().await {
            deframer.push(frame.into_data().unwrap_or_default());
            while let Some(Frame::Message(message)) = deframer.next_frame() {
                if let Some(answer) = answer(decode_client(message).unwrap(), &mut begun) {
                    answers.send(encode_server(&answer).into()).await.unwrap();
                }
            }
        }
    });
    let body = MessageBody::new(body, 16 << 10);
    Ok(response.body(Either::Right(body)).unwrap())
}
