//! Bodies whose bytes are counted, and whose end is that of their call.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use metrics::Counter;

use super::Call;

pin_project_lite::pin_project! {
    /// The body of a request, whose bytes are counted.
    pub(super) struct Counted<B> {
        #[pin]
        pub(super) body: B,
        pub(super) count: Arc<AtomicU64>,
        // Of all calls of the face.
        pub(super) total: Counter,
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let read = data.remaining() as u64;
            this.count.fetch_add(read, Ordering::Relaxed);
            this.total.increment(read);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project_lite::pin_project! {
    /// The body of an answer; the call is told of when it is dropped.
    pub(super) struct Told<B> {
        #[pin]
        pub(super) body: B,
        pub(super) call: Call,
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Told<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(context));
        match &frame {
            None => this.call.is_complete = true,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.call.has_sent(data.remaining() as u64);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    this.call.told(trailers);
                }
                // Nobody asks again then.
                this.call.is_complete = this.body.is_end_stream();
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
