//! Messages as the body of an HTTP/2 request, without copying image bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::Frame;
use shared::chunk::Segments;
use shared::wire::Encoded;
use shared::wire::framing::prefixed_head;
use tokio::sync::mpsc;

/// Yields each message's prefix and head as one DATA frame and its payload, as it is, in frames
/// of at most `frame_size`. Ends when all senders are gone.
pub(super) struct MessageBody {
    messages: mpsc::Receiver<Encoded>,
    payload: Segments,
    frame_size: usize,
}

impl MessageBody {
    pub(super) fn new(messages: mpsc::Receiver<Encoded>, frame_size: usize) -> Self {
        Self {
            messages,
            payload: Segments::new(),
            frame_size,
        }
    }
}

impl http_body::Body for MessageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.payload.is_empty() {
            let len = self.payload.chunk().len().min(self.frame_size);
            let piece = self.payload.copy_to_bytes(len);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.messages.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(message)) => {
                let head = prefixed_head(&message);
                self.payload = message.payload;
                Poll::Ready(Some(Ok(Frame::data(head))))
            }
        }
    }
}
