//! Just enough protobuf, WebSocket and HTTP/2 to be a nuisance.

use std::io;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The beginning of a gRPC message of this length.
pub(super) fn prefix(length: usize) -> Vec<u8> {
    let mut prefix = vec![0];
    prefix.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    prefix
}

/// A whole gRPC message.
pub(super) fn prefixed(message: &[u8]) -> Vec<u8> {
    [&prefix(message.len()), message].concat()
}

/// A protobuf field with bytes in it.
pub(super) fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = varint(u64::from(number << 3 | 2));
    field.extend(varint(bytes.len() as u64));
    field.extend_from_slice(bytes);
    field
}

/// A protobuf field with a number in it.
pub(super) fn number(field: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(field << 3)), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn id() -> String {
    uuid::Uuid::from_u128(fastrand::u128(1..)).to_string()
}

pub(super) fn hello(transmitter: &str) -> Vec<u8> {
    let hello = [number(1, 1), field(2, transmitter.as_bytes())].concat();
    field(1, &hello)
}

pub(super) fn ping() -> Vec<u8> {
    field(6, &number(1, 7))
}

/// Announces an image of 10 MB; its id and the message.
pub(super) fn begin(name: &str) -> (String, Vec<u8>) {
    let id = id();
    let begin = [
        field(1, id.as_bytes()),
        number(2, 10_000_000),
        field(5, name.as_bytes()),
    ];
    let message = field(2, &begin.concat());
    (id, message)
}

pub(super) fn chunk(id: &str, offset: u64, data: &[u8]) -> Vec<u8> {
    let chunk = [field(1, id.as_bytes()), number(2, offset), field(4, data)];
    field(3, &chunk.concat())
}

/// The end of an image that was never begun.
pub(super) fn end_of_nothing() -> Vec<u8> {
    field(4, &field(1, id().as_bytes()))
}

/// Announces an image under a name for its run that is made up.
pub(super) fn begin_of_nothing() -> Vec<u8> {
    let begin = [
        field(1, id().as_bytes()),
        number(2, u64::MAX >> 1),
        field(6, id().repeat(10).as_bytes()),
    ];
    field(2, &begin.concat())
}

/// The head of a masked binary frame.
pub(super) fn frame_head(length: usize) -> Vec<u8> {
    let mut head = vec![0x82, 0x80 | 127];
    head.extend_from_slice(&(length as u64).to_be_bytes());
    // Masked with zeros.
    head.extend_from_slice(&[0; 4]);
    head
}

/// A binary frame.
pub(super) fn frame(message: &[u8]) -> Vec<u8> {
    [&frame_head(message.len()), message].concat()
}

/// A connection on which the WebSocket handshake is done.
pub(super) async fn websocket(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let request = "GET /v1/stream HTTP/1.1\r\nHost: station\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 101"), "no handshake");
    Ok(stream)
}

/// Reads and forgets, until the connection ends.
pub(super) async fn read_on(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut bytes = vec![0; 16 << 10];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

/// A call of `Exchange` over HTTP/2 (RFC 9113) whose sender heeds the receiver's windows.
pub(super) struct Call {
    stream: TcpStream,
    /// What may yet be sent: on the connection, on the stream.
    windows: [i64; 2],
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// Settings.
const INITIAL_WINDOW_SIZE: u16 = 4;
/// Window before anything is said of it.
const FIRST_WINDOW: i64 = 65_535;

impl Call {
    /// A call whose answers have room for `window` bytes.
    pub(super) async fn open(address: &str, window: u32) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await?;
        let mut call = Self {
            stream,
            windows: [FIRST_WINDOW; 2],
        };
        let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        setting.extend_from_slice(&window.to_be_bytes());
        call.send_frame(SETTINGS, 0, 0, &setting).await?;
        call.send_frame(HEADERS, END_HEADERS, 1, &headers()).await?;
        Ok(call)
    }

    /// Sends bytes of the request, as the windows allow.
    pub(super) async fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.windows[0].min(self.windows[1]);
            let Some(room) = usize::try_from(room).ok().filter(|room| *room > 0) else {
                self.read_frame().await?;
                continue;
            };
            let (now, later) = bytes.split_at(bytes.len().min(room).min(16 << 10));
            self.send_frame(DATA, 0, 1, now).await?;
            for window in &mut self.windows {
                *window -= now.len() as i64;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Answers pings, and nothing else, until the connection ends.
    pub(super) async fn stay(&mut self) {
        while self.read_frame().await.is_ok() {}
    }

    async fn send_frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        body: &[u8],
    ) -> io::Result<()> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(body);
        self.stream.write_all(&frame).await
    }

    async fn read_frame(&mut self) -> Result<()> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut body = vec![0; length as usize];
        self.stream.read_exact(&mut body).await?;
        let number = |bytes: &[u8]| {
            let bytes = bytes.get(..4).and_then(|bytes| bytes.try_into().ok());
            bytes
                .map(u32::from_be_bytes)
                .context("a frame is too short")
        };
        let is_ack = head[4] & ACK > 0;
        match head[3] {
            SETTINGS if !is_ack => {
                for setting in body.chunks_exact(6) {
                    if setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                        self.windows[1] += i64::from(number(&setting[2..])?) - FIRST_WINDOW;
                    }
                }
                self.send_frame(SETTINGS, ACK, 0, &[]).await?;
            }
            PING if !is_ack => self.send_frame(PING, ACK, 0, &body).await?,
            WINDOW_UPDATE => {
                let window = usize::from(head[5..] != [0; 4]);
                self.windows[window] += i64::from(number(&body)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The request's head, in HPACK (RFC 7541) without compression.
fn headers() -> Vec<u8> {
    // `:method: POST` and `:scheme: http` are in the static table, and so are the names of the next
    // three.
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    literal(
        &[0x04],
        "/pantelegraph.transfer.v1.TransferService/Exchange",
    );
    literal(&[0x01], "station");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(b"\x00\x02te", "trailers");
    block
}
