//! The client's half: a deadline for each call, in its header and by its own clock.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::body::{AtExpiry, Bounded};
use super::{TIMEOUT_HEADER, asked, format_timeout};
use crate::calls::{Call, Method, Methods, Outcome, Request};

/// The time for a unary call that was given none.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// When a call ends, in its request's extensions, for the layers below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(pub Instant);

impl Expiry {
    /// When the call with this request ends, if it has a deadline.
    pub(crate) fn of(request: &Request) -> Option<Instant> {
        request.extensions().get::<Self>().map(|expiry| expiry.0)
    }
}

/// Gives unary calls a deadline if they have none, and ends calls at their deadlines with
/// `DEADLINE_EXCEEDED`, also while their responses are read.
///
/// A call that streams gets a deadline only by [`tonic::Request::set_timeout`], as a chat or a
/// watch is meant to last; so does a call that is not in the contract.
#[derive(Debug, Clone)]
pub struct Deadlines<S> {
    inner: S,
    methods: Methods,
    default: Duration,
}

impl<S> Deadlines<S> {
    /// Unary calls over `inner` have this time.
    pub fn new(inner: S, methods: Methods, default: Duration) -> Self {
        Self {
            inner,
            methods,
            default,
        }
    }

    fn timeout(&self, request: &Request) -> Result<Option<Duration>, Status> {
        let asked = asked(request.headers())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let unary = || {
            let method = self.methods.method(request.uri().path());
            method.is_some_and(Method::is_unary)
        };
        Ok(asked.or_else(|| unary().then_some(self.default)))
    }
}

impl<S> Service<Request> for Deadlines<S>
where
    S: Service<Request, Response = http::Response<Body>, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Call;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Call {
        let timeout = match self.timeout(&request) {
            Ok(Some(timeout)) => timeout,
            Ok(None) => return Box::pin(self.inner.call(request)),
            Err(status) => return Box::pin(async { Err(status) }),
        };
        // What no clock can reach is no deadline.
        let Some(expiry) = Instant::now().checked_add(timeout) else {
            return Box::pin(self.inner.call(request));
        };
        request
            .headers_mut()
            .insert(TIMEOUT_HEADER, format_timeout(timeout));
        request.extensions_mut().insert(Expiry(expiry));
        Box::pin(bounded(self.inner.call(request), expiry, timeout))
    }
}

async fn bounded(
    call: impl Future<Output = Outcome>,
    expiry: Instant,
    timeout: Duration,
) -> Outcome {
    // The call is asked before the clock: at the last moment it knows better what it waits for.
    let Ok(outcome) = tokio::time::timeout_at(expiry, call).await else {
        return Err(exceeded(timeout));
    };
    Ok(outcome?.map(|body| {
        let body = Bounded::new(body, expiry, exceeded(timeout), AtExpiry::Fail);
        Body::new(body)
    }))
}

fn exceeded(timeout: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "no complete answer within {timeout:?}; give the call more time or look at what the server is busy with"
    ))
}
