//! Bytes on their way in, counted against the budget before anybody keeps them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use shared::receipt::{Reject, RejectReason};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::{Holder, REVOKED, Revoked};
use crate::intake::Intake;
use crate::problem::Problem;

type Leasing = Pin<Box<dyn Future<Output = Result<(), Revoked>> + Send>>;

/// Leases in polled form.
struct Meter {
    holder: Holder,
    leasing: Option<Leasing>,
}

impl Meter {
    fn new(holder: Holder) -> Self {
        Self {
            holder,
            leasing: None,
        }
    }

    fn lease(&mut self, bytes: u64) {
        if !self.holder.try_lease(bytes) {
            let holder = self.holder.clone();
            self.leasing = Some(Box::pin(async move { holder.lease(bytes).await }));
        }
    }

    /// Ready when what was to be leased is.
    fn poll_leased(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Revoked>> {
        let Some(leasing) = &mut self.leasing else {
            return Poll::Ready(Ok(()));
        };
        let leased = ready!(leasing.as_mut().poll(context));
        self.leasing = None;
        Poll::Ready(leased)
    }
}

/// A stream of WebSocket frames. A message that does not come whole at once is leased when the heads
/// of its frames have come, and read on when it is. While it arrives that lease is the stream's, and
/// then the session's, which gives it back.
///
/// Who reads takes a buffer for a whole frame as soon as it sees its head, so it does not see it
/// before there is a lease.
pub(super) struct MeteredStream<S> {
    stream: S,
    meter: Meter,
    /// Frames above this are read to their end and no further, so that the buffer can be given up
    /// behind them.
    apart: u64,
    /// From the end of such a head on.
    withheld: Bytes,
    is_revoked: bool,
    /// Leased for the message that is arriving, and what is to be leased.
    leased: u64,
    asked: u64,
    frames: Frames,
}

impl<S> MeteredStream<S> {
    /// For frames of at most `largest` bytes: longer ones are refused by their heads. Those above
    /// `apart` are read by themselves. With `handshake` an HTTP answer comes before the first frame.
    pub(super) fn new(
        stream: S,
        holder: Holder,
        largest: u64,
        apart: u64,
        handshake: bool,
    ) -> Self {
        Self {
            stream,
            meter: Meter::new(holder),
            apart,
            withheld: Bytes::new(),
            is_revoked: false,
            leased: 0,
            asked: 0,
            frames: Frames {
                handshake,
                largest,
                ..Frames::default()
            },
        }
    }

    /// Ready when what was asked for is leased; never, when it is not any more. The session hears of
    /// that by itself, and ends.
    fn poll_leased(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_revoked {
            return Poll::Pending;
        }
        if ready!(self.meter.poll_leased(context)).is_err() {
            self.is_revoked = true;
            return Poll::Pending;
        }
        self.leased += std::mem::take(&mut self.asked);
        self.meter.holder.set_arriving(self.leased);
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> MeteredStream<S> {
    fn poll_bytes(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = usize::try_from(self.frames.left).unwrap_or(usize::MAX);
        if left == 0 || left >= buffer.remaining() || self.frames.length <= self.apart {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(left));
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_leased(context));
        let before = buffer.filled().len();
        if !this.withheld.is_empty() {
            let now = this.withheld.len().min(buffer.remaining());
            buffer.put_slice(&this.withheld.split_to(now));
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_bytes(context, buffer))?;
        if this.frames.take(&buffer.filled()[before..]) {
            // Of a message that is whole: the session's from now on.
            this.leased = 0;
            this.meter.holder.set_arriving(0);
        }
        this.asked = this.frames.message.saturating_sub(this.leased);
        if this.asked == 0 {
            return Poll::Ready(Ok(()));
        }
        this.meter.lease(this.asked);
        if this.poll_leased(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if this.frames.left > 0 && this.frames.is_data {
            let seen = before + this.frames.body_at.saturating_sub(1);
            this.withheld = Bytes::copy_from_slice(&buffer.filled()[seen..]);
            buffer.set_filled(seen);
            if seen == before {
                // Nothing read would mean the end of the stream.
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Finds the heads of frames (RFC 6455, section 5.2).
#[derive(Default)]
struct Frames {
    /// The HTTP answer has not ended.
    handshake: bool,
    largest: u64,
    /// The last bytes of it, or those of a head that is not whole.
    head: [u8; 14],
    filled: usize,
    /// Bytes of the present frame, and those of them that are yet to come.
    length: u64,
    left: u64,
    /// It has data that counts, and it is the last of its message.
    is_data: bool,
    is_last: bool,
    /// Bytes of data of the message that is arriving, by the heads of its frames so far; 0 between
    /// messages.
    message: u64,
    /// Where in the bytes that were taken last the data of the present frame begin; 0 when its head
    /// came earlier.
    body_at: usize,
}

impl Frames {
    /// Goes over bytes that have come; whether a message came to its end in them.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        let taken = bytes.len();
        self.body_at = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX);
                let step = step.min(bytes.len());
                self.left -= step as u64;
                bytes = &bytes[step..];
                ended |= self.end_frame();
                continue;
            }
            self.head[self.filled] = bytes[0];
            self.filled += 1;
            bytes = &bytes[1..];
            if self.handshake {
                self.answer();
            } else if let Some(length) = self.read_length() {
                self.filled = 0;
                self.length = length;
                self.left = length;
                self.body_at = taken - bytes.len();
                let is_control = self.head[0] & 0x08 > 0;
                // One that is too long is refused by its head.
                self.is_data = !is_control && length <= self.largest;
                self.is_last = self.head[0] & 0x80 > 0;
                if self.is_data {
                    self.message = self.message.saturating_add(length);
                }
                ended |= self.end_frame();
            }
        }
        ended
    }

    /// Whether a message ends here.
    fn end_frame(&mut self) -> bool {
        let ends = self.left == 0 && self.is_data && self.is_last;
        if ends {
            self.message = 0;
        }
        ends
    }

    /// A byte of the HTTP answer, which ends with an empty line.
    fn answer(&mut self) {
        if self.head[..self.filled].ends_with(b"\r\n\r\n") {
            self.handshake = false;
            self.filled = 0;
        } else if self.filled == self.head.len() {
            self.head.copy_within(11.., 0);
            self.filled = 3;
        }
    }

    /// Length of the frame's data, once its head is whole.
    fn read_length(&self) -> Option<u64> {
        let head = &self.head[..self.filled];
        let second = *head.get(1)?;
        let (size, mask) = (second & 0x7f, usize::from(second >> 7) * 4);
        let extended = match size {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if head.len() < 2 + extended + mask {
            return None;
        }
        Some(match extended {
            0 => u64::from(size),
            _ => head[2..2 + extended]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A body that is taken as a whole. It is leased when it begins, and stays so until the last clone
/// of its holder is gone.
pub(super) struct MeteredBody<B> {
    body: B,
    meter: Meter,
    /// Bytes of it at most; `None` once they are leased.
    length: Option<u64>,
}

impl<B> MeteredBody<B> {
    pub(super) fn new(body: B, holder: Holder, length: u64) -> Self {
        Self {
            body,
            meter: Meter::new(holder),
            length: Some(length),
        }
    }
}

/// Why a metered body breaks off.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl<B> HttpBody for MeteredBody<B>
where
    B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Err(revoked) = ready!(this.meter.poll_leased(context)) {
            return Poll::Ready(Some(Err(revoked.into())));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if matches!(frame, Some(Ok(_)))
            && let Some(length) = this.length.take()
        {
            this.meter.lease(length);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Largest body that is taken as a whole.
pub(super) const WHOLE_BODY: usize = 4 << 20;

/// Counts the body of a request that is taken as a whole, until it is answered.
pub(super) async fn whole_body(
    State(intake): State<Arc<Intake>>,
    request: Request,
    next: Next,
) -> Response {
    let holder = intake.budget().holder();
    let most = WHOLE_BODY as u64;
    let length = length_of(request.headers()).map_or(most, |length| length.min(most));
    let body = holder.clone();
    let mut request = request.map(|inner| Body::new(MeteredBody::new(inner, body, length)));
    // For what it unpacks to.
    request.extensions_mut().insert(holder.clone());
    let response = tokio::select! {
        response = next.run(request) => response,
        () = holder.revoked() => revoked(),
    };
    drop(holder);
    response
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

fn revoked() -> Response {
    let reject = Reject::new(None, RejectReason::Unavailable, REVOKED);
    let mut response = Problem::from(reject).into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of `length` bytes with this first byte, masked or not.
    fn frame(first: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = match length {
            0..=125 => vec![first, mask | length as u8],
            126..=65_535 => vec![first, mask | 126, (length >> 8) as u8, length as u8],
            _ => {
                let mut head = vec![first, mask | 127];
                head.extend_from_slice(&(length as u64).to_be_bytes());
                head
            }
        };
        frame.resize(frame.len() + length + if masked { 4 } else { 0 }, 0xff);
        frame
    }

    fn frames(handshake: bool) -> Frames {
        Frames {
            handshake,
            largest: 1 << 20,
            ..Frames::default()
        }
    }

    #[test]
    fn each_message_counts_while_it_arrives_however_it_is_cut() {
        for masked in [false, true] {
            for length in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
                let bytes = frame(0x82, length, masked);
                let mut at_once = frames(false);
                assert!(at_once.take(&bytes));
                assert_eq!(at_once.message, 0, "it is whole");
                for piece in [1, 2, 3, 13, 14, 15, 1_000] {
                    let mut frames = frames(false);
                    let twice = [bytes.clone(), bytes.clone()].concat();
                    let mut ends = 0;
                    for part in twice.chunks(piece) {
                        ends += u32::from(frames.take(part));
                        assert!([0, length as u64].contains(&frames.message));
                    }
                    assert!(ends == 2 || piece >= bytes.len(), "{length} by {piece}");
                    assert_eq!((frames.left, frames.filled, frames.message), (0, 0, 0));
                }
            }
        }
    }

    #[test]
    fn fragments_stay_until_the_last_and_what_is_between_them_does_not() {
        let mut frames = frames(false);
        for (part, stays) in [
            (frame(0x02, 100, true), 100),
            (frame(0x89, 5, true), 100),
            (frame(0x00, 1_000, true), 1_100),
        ] {
            assert!(!frames.take(&part));
            assert_eq!(frames.message, stays);
        }
        assert!(frames.take(&frame(0x80, 10, true)));
        assert_eq!(frames.message, 0);
    }

    #[test]
    fn a_frame_that_will_be_refused_is_not_leased() {
        let mut head = vec![0x82, 0xff];
        head.extend_from_slice(&u64::MAX.to_be_bytes());
        let mut frames = frames(false);
        frames.take(&head);
        frames.take(&[0; 1_000]);
        assert_eq!(frames.message, 0);
    }

    #[test]
    fn frames_begin_after_the_answer_to_the_handshake() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
        let mut frames = frames(true);
        for byte in answer {
            assert!(!frames.take(&[*byte]));
        }
        assert!(!frames.take(&frame(0x82, 1_000, false)[..500]));
        assert_eq!(frames.message, 1_000);
    }

    #[tokio::test]
    async fn a_large_frame_is_read_to_its_end_and_no_further() {
        use crate::budget::Budget;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let budget = Budget::new(4 << 20);
        let (mut client, server) = tokio::io::duplex(4 << 20);
        let mut stream = MeteredStream::new(server, budget.holder(), 1 << 20, 10_000, false);
        let large = frame(0x82, 50_000, false);
        let both = [large.clone(), frame(0x82, 100, false)].concat();
        client.write_all(&both).await.expect("there is room");
        let mut read = vec![0; 1 << 20];
        let mut got = 0;
        while got < large.len() {
            let most = if got == 0 { 20_000 } else { read.len() };
            let more = stream.read(&mut read[..most]).await;
            got += more.expect("it is there");
        }
        assert_eq!(got, large.len());
        let rest = stream.read(&mut read).await.expect("it is there");
        assert_eq!(got + rest, both.len());
    }

    #[tokio::test]
    async fn the_head_of_a_frame_is_not_seen_before_its_lease() {
        use crate::budget::Budget;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let budget = Budget::new(4 << 20);
        let other = budget.holder();
        assert!(other.try_lease(budget.usage().capacity));
        let (mut client, server) = tokio::io::duplex(4 << 20);
        let mut stream = MeteredStream::new(server, budget.holder(), 1 << 20, 1 << 20, false);
        let both = [frame(0x89, 4, false), frame(0x82, 1_000_000, false)].concat();
        client
            .write_all(&both[..500_000])
            .await
            .expect("there is room");
        let mut read = vec![0; both.len()];
        let first = stream.read(&mut read).await.expect("the ping is there");
        assert_eq!(first, 6 + 9, "and all of the head but its last byte");
        let mut rest = vec![0; both.len() - first];
        {
            let reading = stream.read_exact(&mut rest);
            tokio::pin!(reading);
            assert!(futures_util::poll!(reading.as_mut()).is_pending());
            other.clear();
            assert!(futures_util::poll!(reading.as_mut()).is_pending());
            assert_eq!(budget.usage().leased, 1_000_000);
            client
                .write_all(&both[500_000..])
                .await
                .expect("there is room");
            reading.await.expect("it is there");
        }
        read.truncate(first);
        read.extend(rest);
        assert_eq!(read, both);
    }

    #[tokio::test]
    async fn the_lease_of_a_frame_is_not_given_back_by_the_message_before_it() {
        use crate::budget::Budget;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let budget = Budget::new(4 << 20);
        let holder = budget.holder();
        let (mut client, server) = tokio::io::duplex(4 << 20);
        let mut stream = MeteredStream::new(server, holder.clone(), 1 << 20, 1 << 20, false);
        let large = frame(0x82, 1_000_000, false);
        let first = [frame(0x82, 100, false), large[..500].to_vec()].concat();
        client.write_all(&first).await.expect("there is room");
        let mut read = vec![0; first.len()];
        stream.read_exact(&mut read).await.expect("it is there");
        assert_eq!(budget.usage().leased, 1_000_000);
        // The first message is handled.
        assert!(holder.keep(300));
        assert_eq!(budget.usage().leased, 1_000_300);
        client
            .write_all(&large[500..])
            .await
            .expect("there is room");
        let mut read = vec![0; large.len() - 500];
        stream.read_exact(&mut read).await.expect("it is there");
        assert_eq!(budget.usage().leased, 1_000_300, "it is not handled yet");
        assert!(holder.keep(0));
        assert_eq!(budget.usage().leased, 0);
    }
}
