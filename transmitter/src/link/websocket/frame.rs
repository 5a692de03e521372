//! Writes WebSocket frames (RFC 6455, section 5.2).

use std::io::{self, IoSlice};

use bytes::Buf;
use shared::wire::Encoded;
use tokio::io::AsyncWriteExt;

use super::Sink;

const FIN_BINARY: u8 = 0x82;
const FIN_CLOSE: u8 = 0x88;
const MASKED: u8 = 0x80;
/// Close code 1000: the purpose is fulfilled.
const NORMAL: [u8; 2] = 1_000_u16.to_be_bytes();

/// Writes whole messages as single binary frames.
pub(super) struct FrameWriter {
    mask: bool,
    buffer: Vec<u8>,
}

impl FrameWriter {
    /// Clients mask (`mask`), servers do not.
    pub(super) fn new(mask: bool) -> Self {
        Self {
            mask,
            buffer: Vec::new(),
        }
    }

    /// Writes a message as one binary frame.
    pub(super) async fn write(
        &mut self,
        writer: &mut impl Sink,
        message: Encoded,
    ) -> io::Result<()> {
        self.buffer.clear();
        if self.mask {
            let key = fastrand::u32(..).to_ne_bytes();
            self.header(FIN_BINARY, message.len(), Some(key));
            let mut position = 0;
            self.append_masked(&message.head, key, &mut position);
            for piece in message.payload.pieces() {
                self.append_masked(piece, key, &mut position);
            }
            writer.write_all(&self.buffer).await?;
            return writer.flush().await;
        }
        self.header(FIN_BINARY, message.len(), None);
        self.buffer.extend_from_slice(&message.head);
        write_both(writer, &self.buffer, message.payload).await?;
        // Encryption keeps back what the socket did not take at once.
        writer.flush().await
    }

    /// Writes a close frame.
    pub(super) async fn write_close(&mut self, writer: &mut impl Sink) -> io::Result<()> {
        self.buffer.clear();
        let key = self.mask.then(|| fastrand::u32(..).to_ne_bytes());
        self.header(FIN_CLOSE, NORMAL.len(), key);
        self.append_masked(&NORMAL, key.unwrap_or_default(), &mut 0);
        writer.write_all(&self.buffer).await?;
        writer.flush().await
    }

    fn header(&mut self, first: u8, len: usize, key: Option<[u8; 4]>) {
        let masked = if key.is_some() { MASKED } else { 0 };
        self.buffer.push(first);
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(short @ 0..=125), _) => self.buffer.push(masked | short),
            (_, Ok(medium)) => {
                self.buffer.push(masked | 126);
                self.buffer.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                self.buffer.push(masked | 127);
                self.buffer.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        self.buffer
            .extend_from_slice(&key.unwrap_or_default()[..if key.is_some() { 4 } else { 0 }]);
    }

    /// Appends `data` masked in the same pass. `position` is the number of payload bytes so far,
    /// which decides with which byte of the key the masking goes on.
    fn append_masked(&mut self, data: &[u8], key: [u8; 4], position: &mut usize) {
        let turned: [u8; 4] = std::array::from_fn(|i| key[(*position + i) % 4]);
        *position += data.len();
        let start = self.buffer.len();
        self.buffer.extend_from_slice(data);
        // In words, over bytes that the line above has just brought into the cache: the compiler
        // makes vector code of this.
        let word = u64::from_ne_bytes([
            turned[0], turned[1], turned[2], turned[3], turned[0], turned[1], turned[2], turned[3],
        ]);
        let (words, rest) = self.buffer[start..].as_chunks_mut::<8>();
        for bytes in words {
            *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
        }
        for (i, byte) in rest.iter_mut().enumerate() {
            *byte ^= turned[i % 4];
        }
    }
}

/// Writes `head` and `payload` with vectored writes, without joining them.
async fn write_both(
    writer: &mut impl Sink,
    mut head: &[u8],
    mut payload: shared::chunk::Segments,
) -> io::Result<()> {
    while !head.is_empty() || payload.has_remaining() {
        let slices = [IoSlice::new(head), IoSlice::new(payload.chunk())];
        let written = writer.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_head = written.min(head.len());
        head = &head[of_head..];
        payload.advance(written - of_head);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use shared::chunk::Segments;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    fn message(head: usize, payload: &[usize]) -> Encoded {
        let byte = |i: usize| u8::try_from(i * 7 % 251).expect("below 251");
        let mut pieces = Segments::new();
        for len in payload {
            pieces.push((0..*len).map(byte).collect::<Vec<u8>>().into());
        }
        Encoded {
            head: (0..head).map(byte).collect::<Vec<u8>>().into(),
            payload: pieces,
        }
    }

    /// tungstenite, as the other side, must read what we write.
    async fn reads_back(mask: bool, head: usize, payload: &[usize]) {
        use futures_util::StreamExt;
        let message = message(head, payload);
        let mut expected = message.head.to_vec();
        for piece in message.payload.pieces() {
            expected.extend_from_slice(piece);
        }
        let (mut ours, theirs) = tokio::io::duplex(100);
        let writing = tokio::spawn(async move {
            let mut frames = FrameWriter::new(mask);
            frames.write(&mut ours, message).await.expect("written");
            frames.write_close(&mut ours).await.expect("written");
            ours
        });
        let role = if mask { Role::Server } else { Role::Client };
        let mut socket = WebSocketStream::from_raw_socket(theirs, role, None).await;
        let read = socket
            .next()
            .await
            .expect("a message")
            .expect("a valid frame");
        assert_eq!(read, Message::Binary(Bytes::from(expected)));
        let close = socket
            .next()
            .await
            .expect("a message")
            .expect("a valid frame");
        assert!(matches!(close, Message::Close(Some(frame)) if u16::from(frame.code) == 1_000));
        drop(writing.await.expect("no panic"));
    }

    #[tokio::test]
    async fn frames_of_all_header_sizes_and_any_pieces_read_back() {
        for mask in [true, false] {
            for (head, payload) in [
                (1, &[][..]),
                (125, &[]),
                (126, &[]),
                (3, &[1, 2, 3, 4, 5]),
                (60, &[65_536 - 60 - 1]),
                (61, &[65_536 - 60]),
                (61, &[100_000, 7, 50_001]),
            ] {
                reads_back(mask, head, payload).await;
            }
        }
    }
}
