//! What a connection reads and writes at a time.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::budget::{Budget, Holder, Window};
use crate::endpoint::metered::MeteredStream;

/// A message above the limit is refused and the session goes on, up to this many times the limit;
/// beyond, the connection is closed (code 1009) before the message is read.
const SKIPPABLE: usize = 4;

/// Largest message that is read.
fn largest(max_message: usize) -> usize {
    (max_message + shared::wire::CHUNK_OVERHEAD).saturating_mul(SKIPPABLE)
}

/// The buffers of a connection. tungstenite's grows to the largest frame that comes and stays so;
/// behind one that is much larger than what is read at a time, it is made anew.
#[derive(Clone, Copy)]
pub(super) struct Buffers {
    role: Role,
    pub(super) config: WebSocketConfig,
    largest: u64,
    /// Frames above this are large.
    apart: u64,
}

impl Buffers {
    /// What they may take: twice what is read at a time, as a frame may begin anywhere in it.
    pub(super) fn window(budget: &Arc<Budget>) -> Window {
        budget.window(2 * LEAST_READ, 2 * READ_BUFFER)
    }

    pub(super) fn new(max_message: usize, window: &Window, role: Role) -> Self {
        Self {
            role,
            config: config(max_message, window.bytes() / 2),
            largest: largest(max_message) as u64,
            apart: window.bytes(),
        }
    }

    pub(super) fn metered<S>(
        &self,
        stream: S,
        memory: Holder,
        handshake: bool,
    ) -> MeteredStream<S> {
        MeteredStream::new(stream, memory, self.largest, self.apart, handshake)
    }

    pub(super) async fn socket<S>(
        &self,
        stream: MeteredStream<S>,
    ) -> WebSocketStream<MeteredStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        WebSocketStream::from_raw_socket(stream, self.role, Some(self.config)).await
    }

    /// Whether the buffer is given up behind this message. It came to its end with the last byte
    /// that was read, so nothing gets lost.
    pub(super) fn is_spent(&self, message: Option<&Result<Message, Error>>) -> bool {
        let Some(Ok(Message::Binary(data))) = message else {
            return false;
        };
        data.len() as u64 > self.apart
    }
}

/// How frames are read and written. The read buffer is what one read from the socket takes.
pub(super) fn config(max_message: usize, read_buffer: u64) -> WebSocketConfig {
    let largest = largest(max_message);
    WebSocketConfig::default()
        .read_buffer_size(usize::try_from(read_buffer).unwrap_or(usize::MAX))
        .write_buffer_size(0)
        // Pongs to a client that pings and does not read would pile up otherwise.
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_message_size(Some(largest))
        .max_frame_size(Some(largest))
}

/// One message of the default chunk size, and what is left when there are very many connections.
pub(super) const READ_BUFFER: u64 = 256 << 10;
const LEAST_READ: u64 = 16 << 10;

/// More than the largest answer, a welcome that lists all uploads that can be held.
const MAX_WRITE_BUFFER: usize = 1 << 20;
