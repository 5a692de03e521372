//! A response's body that ends when its time is up.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

/// How a body says that its time is up.
#[derive(Debug, Clone, Copy)]
pub(super) enum AtExpiry {
    /// The reader gets an error: at the client, which reads.
    Fail,
    /// The reader gets trailers with the status: at the server, whose reader is the client.
    Trailers,
}

/// A body with a deadline. At the deadline the inner body is dropped, and with it the work behind
/// it: at the client the stream is reset, at the server the handler's stream ends.
#[derive(Debug)]
pub(super) struct Bounded {
    /// None after the deadline.
    inner: Option<Body>,
    sleep: Pin<Box<Sleep>>,
    status: Option<Status>,
    at_expiry: AtExpiry,
}

impl Bounded {
    pub(super) fn new(inner: Body, expiry: Instant, status: Status, at_expiry: AtExpiry) -> Self {
        Self {
            inner: Some(inner),
            sleep: Box::pin(tokio::time::sleep_until(expiry)),
            status: Some(status),
            at_expiry,
        }
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        // The clock first: a stream that always has something to say must end too.
        if this.sleep.as_mut().poll(context).is_pending() {
            return Pin::new(inner).poll_frame(context);
        }
        this.inner = None;
        let Some(status) = this.status.take() else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(match this.at_expiry {
            AtExpiry::Fail => Err(status),
            AtExpiry::Trailers => {
                let mut trailers = HeaderMap::new();
                status
                    .add_header(&mut trailers)
                    .map(|()| Frame::trailers(trailers))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }
}
