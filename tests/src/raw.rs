//! A client of the session protocol that does what it is told, right or wrong.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use shared::chunk::{Segments, crc32c};
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta};
use shared::receipt::{Receipt, Reject};
use shared::security::tls::{H2, HTTP_1_1};
use shared::wire::framing::{Deframer, Frame, prefixed_head};
use shared::wire::{
    Begin, Chunk, ClientMessage, EXCHANGE_PATH, Encoded, Hello, PROTOCOL_VERSION, ServerMessage,
    WEBSOCKET_PATH, Welcome, decode_server, encode_client,
};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::caller::{Caller, Io};
use crate::pictures::Picture;
use crate::within;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// gRPC: the answer's body ended, in order or not.
    Stream,
    /// WebSocket: closed with this code and reason.
    Closed {
        /// Close code.
        code: u16,
        /// Reason.
        reason: String,
    },
    /// The connection broke.
    Broken,
}

/// A session, message by message.
pub struct RawSession {
    pipe: Pipe,
}

enum Pipe {
    Grpc {
        up: Sender<Bytes>,
        down: Incoming,
        deframer: Deframer,
    },
    WebSocket(Box<WebSocketStream<Box<dyn Io>>>),
}

/// The whole message in one piece.
pub fn joined(message: Encoded) -> Bytes {
    let mut pieces = Segments::from(message.head);
    for piece in message.payload.pieces() {
        pieces.push(piece.clone());
    }
    pieces.into_bytes()
}

/// A chunk with its sum.
pub fn chunk(image_id: ImageId, offset: u64, data: &[u8]) -> ClientMessage {
    let crc32c = Some(crc32c(data));
    let data = Segments::from(Bytes::copy_from_slice(data));
    ClientMessage::Chunk(Chunk {
        image_id,
        offset,
        crc32c,
        data,
    })
}

/// The end of an image, its digest being known from its beginning.
pub fn end(image_id: ImageId) -> ClientMessage {
    ClientMessage::End {
        image_id,
        digest: None,
    }
}

/// The announcement of `picture`, from its first byte on.
pub fn begin(picture: &Picture) -> (ImageId, ClientMessage) {
    let mut meta = ImageMeta::new(ImageId::new(), picture.bytes.len() as u64);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(&picture.bytes));
    meta.content_type = Some(picture.media_type.to_owned());
    (meta.id, ClientMessage::Begin(Begin { meta, offset: 0 }))
}

impl RawSession {
    /// A gRPC `Exchange` that has said nothing yet.
    ///
    /// # Panics
    /// When the receiver does not accept it.
    pub async fn grpc(address: SocketAddr) -> Self {
        Self::grpc_as(&Caller::default(), address).await
    }

    /// The same for somebody who is known.
    ///
    /// # Panics
    /// When the receiver does not accept it.
    pub async fn grpc_as(caller: &Caller, address: SocketAddr) -> Self {
        let stream = caller.connect(address, H2).await;
        let stream = TokioIo::new(stream.expect("the receiver accepts"));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .expect("HTTP/2 begins");
        tokio::spawn(connection);
        let (up, body) = Channel::<Bytes>::new(8);
        let mut request = http::Request::post(format!("http://{address}{EXCHANGE_PATH}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .expect("a proper request");
        request.headers_mut().extend(caller.headers.clone());
        let response = within("the call", sender.send_request(request))
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200);
        let pipe = Pipe::Grpc {
            up,
            down: response.into_body(),
            deframer: Deframer::new(1 << 20),
        };
        Self { pipe }
    }

    /// A WebSocket that has said nothing yet.
    ///
    /// # Panics
    /// When the receiver does not accept it.
    pub async fn websocket(address: SocketAddr) -> Self {
        Self::websocket_as(&Caller::default(), address).await
    }

    /// The same for somebody who is known.
    ///
    /// # Panics
    /// When the receiver does not accept it.
    pub async fn websocket_as(caller: &Caller, address: SocketAddr) -> Self {
        let stream = caller.connect(address, HTTP_1_1).await;
        let stream = stream.expect("the receiver accepts");
        let url = format!("ws://{address}{WEBSOCKET_PATH}");
        let mut request = url.into_client_request().expect("a URL");
        request.headers_mut().extend(caller.headers.clone());
        let connecting = tokio_tungstenite::client_async(request, stream);
        let (socket, _) = within("the handshake", connecting)
            .await
            .expect("a WebSocket");
        Self {
            pipe: Pipe::WebSocket(Box::new(socket)),
        }
    }

    /// Sends bytes as one message, whether they are one or not.
    ///
    /// # Panics
    /// When the session has ended.
    pub async fn send_bytes(&mut self, message: impl Into<Bytes>) {
        let message = message.into();
        let sending = async {
            match &mut self.pipe {
                Pipe::Grpc { up, .. } => {
                    let message = Encoded::from(message);
                    up.send_data(prefixed_head(&message))
                        .await
                        .expect("the call is open");
                }
                Pipe::WebSocket(socket) => {
                    let sent = socket.send(Message::Binary(message)).await;
                    sent.expect("the WebSocket is open");
                }
            }
        };
        within("sending", sending).await;
    }

    /// Sends bytes below the level of messages: in the body of the gRPC call.
    ///
    /// # Panics
    /// On a WebSocket.
    pub async fn send_unframed(&mut self, bytes: impl Into<Bytes>) {
        let Pipe::Grpc { up, .. } = &mut self.pipe else {
            panic!("only gRPC has a body")
        };
        within("sending", up.send_data(bytes.into()))
            .await
            .expect("the call is open");
    }

    /// Sends a message of WebSocket, whatever it is. The connection may break while it goes out.
    ///
    /// # Panics
    /// On gRPC.
    pub async fn send_websocket(&mut self, message: Message) {
        let Pipe::WebSocket(socket) = &mut self.pipe else {
            panic!("only WebSocket has those")
        };
        let _ = within("sending", socket.send(message)).await;
    }

    /// Sends a message.
    pub async fn send(&mut self, message: ClientMessage) {
        self.send_bytes(joined(encode_client(message))).await;
    }

    /// Says hello, and is welcomed.
    ///
    /// # Panics
    /// When it is not.
    pub async fn hello(&mut self) -> Welcome {
        self.hello_as("raw").await
    }

    /// The same under a name.
    ///
    /// # Panics
    /// When it is not welcomed.
    pub async fn hello_as(&mut self, transmitter: &str) -> Welcome {
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            transmitter: transmitter.to_owned(),
            ..Hello::default()
        };
        self.send(ClientMessage::Hello(hello)).await;
        match self.next().await {
            Ok(ServerMessage::Welcome(welcome)) => welcome,
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// How the session ended.
    pub async fn next(&mut self) -> Result<ServerMessage, End> {
        within("a message", self.read()).await
    }

    async fn read(&mut self) -> Result<ServerMessage, End> {
        match &mut self.pipe {
            Pipe::Grpc { down, deframer, .. } => loop {
                if let Some(frame) = deframer.next_frame() {
                    let Frame::Message(message) = frame else {
                        panic!("{frame:?}")
                    };
                    let message = decode_server(message).expect("the receiver speaks properly");
                    return Ok(message.expect("of a known kind"));
                }
                match down.frame().await {
                    Some(Ok(frame)) => {
                        let Ok(data) = frame.into_data() else {
                            return Err(End::Stream);
                        };
                        deframer.push(data);
                    }
                    Some(Err(_)) => return Err(End::Broken),
                    None => return Err(End::Stream),
                }
            },
            Pipe::WebSocket(socket) => loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(message))) => {
                        let message = decode_server(message).expect("the receiver speaks properly");
                        return Ok(message.expect("of a known kind"));
                    }
                    Some(Ok(Message::Close(Some(frame)))) => {
                        let (code, reason) = (frame.code.into(), frame.reason.to_string());
                        return Err(End::Closed { code, reason });
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(End::Broken),
                }
            },
        }
    }

    /// The next receipt or rejection; credit and clock are let pass.
    ///
    /// # Panics
    /// When the session ends before.
    pub async fn answer(&mut self) -> Result<Receipt, Reject> {
        loop {
            match self.next().await {
                Ok(ServerMessage::Receipt(receipt)) => return Ok(receipt),
                Ok(ServerMessage::Reject(reject)) => return Err(reject),
                Ok(ServerMessage::Credit { .. } | ServerMessage::ClockPong { .. }) => {}
                other => panic!("{other:?} instead of an answer"),
            }
        }
    }

    /// The next rejection.
    ///
    /// # Panics
    /// When there is a receipt instead.
    pub async fn reject(&mut self) -> Reject {
        match self.answer().await {
            Err(reject) => reject,
            Ok(receipt) => panic!("a receipt instead of a rejection: {receipt:?}"),
        }
    }

    /// Sends a proper image; its receipt.
    ///
    /// # Panics
    /// When it is not stored.
    pub async fn deliver(&mut self, picture: &Picture) -> Receipt {
        let (id, begin) = begin(picture);
        self.send(begin).await;
        self.send(chunk(id, 0, &picture.bytes)).await;
        self.send(end(id)).await;
        match self.answer().await {
            Ok(receipt) => {
                assert_eq!(receipt.image_id, id);
                receipt
            }
            Err(reject) => panic!("a good image was rejected: {reject:?}"),
        }
    }

    /// Sends nothing more, and reads on until the session has ended.
    pub async fn finish(mut self) -> End {
        match self.pipe {
            Pipe::Grpc { up, down, deframer } => {
                drop(up);
                let (closed, _) = Channel::<Bytes>::new(1);
                self.pipe = Pipe::Grpc {
                    up: closed,
                    down,
                    deframer,
                };
            }
            Pipe::WebSocket(ref mut socket) => {
                // The receiver may have closed before.
                let _ = within("closing", socket.as_mut().close(None)).await;
            }
        }
        loop {
            if let Err(end) = self.next().await {
                return end;
            }
        }
    }
}
