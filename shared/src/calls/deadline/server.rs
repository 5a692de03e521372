//! The server's half: work stops when its client has stopped waiting.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::asked;
use super::body::{AtExpiry, Bounded};

/// Puts [`HonourDeadline`] around a service.
#[derive(Debug, Clone, Copy, Default)]
pub struct HonourDeadlineLayer;

impl<S> Layer<S> for HonourDeadlineLayer {
    type Service = HonourDeadline<S>;

    fn layer(&self, inner: S) -> HonourDeadline<S> {
        HonourDeadline { inner }
    }
}

/// Ends the handling of a gRPC request when the time in its `grpc-timeout` is up.
///
/// The handler is dropped, at whatever it awaits, and so is the stream of its answers. The client
/// gets `DEADLINE_EXCEEDED`: as the whole response when no head was sent yet, as trailers after
/// that. A header that is malformed is answered with `INVALID_ARGUMENT`, as it is the client's
/// mistake (grpc-go says `INTERNAL`; the specification says only that it is an error). Requests
/// without the header, and those that are no gRPC, pass unchanged.
///
/// The time runs from here, so this is to be the outermost layer, but within that of gRPC-Web,
/// which puts trailers into the body.
#[derive(Debug, Clone)]
pub struct HonourDeadline<S> {
    inner: S,
}

impl<S, Asked, Answered> Service<http::Request<Asked>> for HonourDeadline<S>
where
    S: Service<http::Request<Asked>, Response = http::Response<Answered>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Answered: http_body::Body<Data = Bytes> + Send + 'static,
    Answered::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = std::pin::Pin<
        Box<dyn Future<Output = Result<http::Response<Body>, S::Error>> + Send + 'static>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Asked>) -> Self::Future {
        let timeout = match timeout(request.headers()) {
            Ok(timeout) => timeout,
            Err(status) => return Box::pin(async { Ok(status.into_http()) }),
        };
        if let Some(Duration::ZERO) = timeout {
            // Not even begun.
            return Box::pin(async { Ok(exceeded(Duration::ZERO).into_http()) });
        }
        let expiry = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let call = self.inner.call(request);
        let (Some(timeout), Some(expiry)) = (timeout, expiry) else {
            return Box::pin(async { Ok(call.await?.map(Body::new)) });
        };
        Box::pin(async move {
            let Ok(outcome) = tokio::time::timeout_at(expiry, call).await else {
                return Ok(exceeded(timeout).into_http());
            };
            Ok(outcome?.map(|body| {
                let body = Body::new(body);
                let status = exceeded(timeout);
                Body::new(Bounded::new(body, expiry, status, AtExpiry::Trailers))
            }))
        })
    }
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let grpc = headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !grpc {
        return Ok(None);
    }
    asked(headers).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))
}

fn exceeded(timeout: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "the call's {timeout:?} were up before it was done, and the work was stopped; give it more time"
    ))
}
