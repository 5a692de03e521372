//! What a client sends although it has been answered already.
//!
//! HTTP/1 cannot tell a client to stop sending. If the connection were closed, the client would see
//! a broken pipe instead of the answer, for example that its body is too large. So the rest is read
//! and thrown away, within bounds (RFC 9112, section 9.6).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

/// Most bytes that are thrown away; who sends more is cut off.
const MOST: u64 = 128 << 20;
/// Time for them.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request whose body is read to its end, within bounds, although nobody asks for it.
pub(super) fn lingering(request: Request<Incoming>, tasks: &TaskTracker) -> Request<Body> {
    // HTTP/2 resets the stream; and who waits to be asked for the body does not send it before.
    let is_http1 = request.version() <= Version::HTTP_11;
    let waits = request.headers().contains_key(header::EXPECT);
    let has_body = !request.body().is_end_stream();
    request.map(|body| match is_http1 && has_body {
        true => Body::new(Lingering {
            body: Some(body),
            is_sent: !waits,
            tasks: tasks.clone(),
        }),
        false => Body::new(body),
    })
}

struct Lingering {
    /// Until its end.
    body: Option<Incoming>,
    /// Whether the client sends it, because it does so at once or has been asked to.
    is_sent: bool,
    tasks: TaskTracker,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.is_sent = true;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        if body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(HttpBody::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|_| self.is_sent) else {
            return;
        };
        // Without a runtime there is no connection either.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.tasks
                .spawn(tokio::time::timeout(PATIENCE, discard(body)));
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = MOST;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        left = left.saturating_sub(read as u64);
        if left == 0 {
            return;
        }
    }
}
