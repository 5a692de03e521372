//! The layer that tries again.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Service, ServiceExt as _};

use super::keep::{Kept, Pieces, keep};
use super::{RetryOptions, Throttle};
use crate::calls::deadline::{Expiry, TIMEOUT_HEADER, format_timeout};
use crate::calls::{Call, Methods, Outcome, Request};

/// Tells a server how many attempts there were before this one; absent in the first.
pub const PREVIOUS_ATTEMPTS_HEADER: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");

/// With it a server says in how many milliseconds to come again; a negative number, or none at
/// all, for never.
pub const PUSHBACK_HEADER: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Source of a status: no byte of the request left this process, so any method may be tried again
/// (A6's "transparent retries"; here they count as attempts, so that they end).
#[derive(Debug, thiserror::Error)]
#[error("the request was never sent")]
pub(crate) struct NeverSent;

/// Source of a status: whoever gave it has waited already, so another attempt makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("waiting longer was of no use")]
pub(crate) struct Final;

/// Tries calls again, as [`RetryOptions`] say.
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    methods: Methods,
    options: Arc<RetryOptions>,
    throttle: Option<Arc<Mutex<Throttle>>>,
    figures: Arc<Figures>,
}

/// What was counted; a call that goes on is counted already.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) calls: AtomicU64,
    pub(crate) attempts: AtomicU64,
}

/// Whether a failed attempt may be followed by another.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It may not, or did not fail.
    Done,
    /// After the usual time, or after this one, which the server asked for.
    Again(Option<Duration>),
}

impl<S> Retry<S> {
    /// Calls over `inner` are tried again if the contract allows it.
    pub fn new(inner: S, methods: Methods, options: RetryOptions) -> Self {
        let throttle = options.throttle.clone();
        Self {
            inner,
            methods,
            options: Arc::new(options),
            throttle: throttle.map(|throttle| Arc::new(Mutex::new(throttle))),
            figures: Arc::default(),
        }
    }

    pub(crate) fn figures(&self) -> Arc<Figures> {
        Arc::clone(&self.figures)
    }

    /// Whether another attempt is allowed after this one's outcome, but for the deadline.
    fn verdict(&self, idempotent: bool, outcome: &Outcome) -> Verdict {
        let (failed, never_sent, pushback) = match outcome {
            Ok(response) => (
                is_unavailable(response),
                false,
                response.headers().get(PUSHBACK_HEADER),
            ),
            Err(status) if has_source::<Final>(status) => return Verdict::Done,
            Err(status) => (
                status.code() == Code::Unavailable,
                has_source::<NeverSent>(status),
                None,
            ),
        };
        let mut throttle = self.throttle.as_ref().map(|throttle| throttle.lock());
        if !failed {
            if let Some(throttle) = &mut throttle {
                throttle.success();
            }
            return Verdict::Done;
        }
        let allowed = throttle.is_none_or(|mut throttle| throttle.failure());
        if !allowed || !(idempotent || never_sent) {
            return Verdict::Done;
        }
        match pushback.map(pushed_back) {
            None => Verdict::Again(None),
            Some(Some(delay)) => Verdict::Again(Some(delay)),
            Some(None) => Verdict::Done,
        }
    }
}

impl<S> Service<Request> for Retry<S>
where
    S: Service<Request, Response = http::Response<Body>, Error = Status>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Call;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Call {
        self.figures.calls.fetch_add(1, Ordering::Relaxed);
        let method = self.methods.method(request.uri().path());
        match method {
            Some(method) if !method.client_streaming => {
                // The one that was found ready stays with this call.
                let inner = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, inner);
                let this = Self {
                    inner: ready,
                    ..self.clone()
                };
                Box::pin(this.run(request, method.idempotent))
            }
            _ => {
                self.figures.attempts.fetch_add(1, Ordering::Relaxed);
                Box::pin(self.inner.call(request))
            }
        }
    }
}

impl<S> Retry<S>
where
    S: Service<Request, Response = http::Response<Body>, Error = Status> + Clone + Send,
{
    async fn run(mut self, request: Request, idempotent: bool) -> Outcome {
        let expiry = Expiry::of(&request);
        let (head, body) = request.into_parts();
        let pieces = match keep(body, self.options.max_kept_bytes).await? {
            Kept::Whole(pieces) => pieces,
            Kept::TooLarge(body) => {
                self.figures.attempts.fetch_add(1, Ordering::Relaxed);
                return self.inner.call(Request::from_parts(head, body)).await;
            }
        };
        let mut previous = 0;
        loop {
            self.figures.attempts.fetch_add(1, Ordering::Relaxed);
            let request = attempt(&head, &pieces, previous, expiry);
            let outcome = self.inner.ready().await?.call(request).await;
            previous += 1;
            let Verdict::Again(delay) = self.verdict(idempotent, &outcome) else {
                return outcome;
            };
            let delay =
                delay.unwrap_or_else(|| self.options.backoff.delay(previous, fastrand::f64()));
            let next = Instant::now() + delay;
            if previous >= self.options.attempts || expiry.is_some_and(|expiry| next >= expiry) {
                return outcome;
            }
            // What is left of the failed attempt is not held while waiting.
            drop(outcome);
            tracing::debug!(path = %head.uri.path(), previous, ?delay, "trying a call again");
            tokio::time::sleep_until(next).await;
        }
    }
}

fn attempt(
    head: &http::request::Parts,
    pieces: &Pieces,
    previous: u32,
    expiry: Option<Instant>,
) -> Request {
    let mut request = Request::from_parts(head.clone(), pieces.to_body());
    if previous > 0 {
        let headers = request.headers_mut();
        headers.insert(PREVIOUS_ATTEMPTS_HEADER, HeaderValue::from(previous));
        if let Some(expiry) = expiry {
            let left = expiry.saturating_duration_since(Instant::now());
            headers.insert(TIMEOUT_HEADER, format_timeout(left));
        }
    }
    request
}

/// Whether a response says `UNAVAILABLE` in its head, and so is nothing but that. Without a status
/// of gRPC, as a proxy answers, that of HTTP counts
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
fn is_unavailable(response: &http::Response<Body>) -> bool {
    match code(response.headers()) {
        Some(code) => code == Code::Unavailable,
        None => matches!(
            response.status(),
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        ),
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

fn pushed_back(value: &HeaderValue) -> Option<Duration> {
    let millis = value.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

fn has_source<E: Error + 'static>(status: &Status) -> bool {
    status.source().is_some_and(<dyn Error>::is::<E>)
}
