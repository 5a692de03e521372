//! Tells of every call, of whatever face: who called what, how it ended, how long it took and how
//! much it moved.
//!
//! A call has an id: the caller's `x-request-id`, or a new one. It is in the answer's headers, in the
//! line that tells of the call, and in the span around everything that is logged for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::Body;
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use shared::door::Peer;
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::refusal::Code;

/// Header with the id of a call.
pub const CALL_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name of a call's caller, once somebody knows it: among the extensions of its request.
#[derive(Debug, Clone, Default)]
pub struct Caller(Arc<OnceLock<String>>);

impl Caller {
    /// It is this one.
    pub fn is(&self, name: &str) {
        // Who was let in stays who it is.
        let _ = self.0.set(name.to_owned());
    }

    /// Its name, if it is known.
    pub fn name(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// Most bytes of an id that a caller may choose.
const MAX_ID: usize = 64;

/// Puts [`Observed`] around a service.
#[derive(Debug, Clone, Copy, Default)]
pub struct ObserveLayer;

impl<S> Layer<S> for ObserveLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observed { inner }
    }
}

/// A service whose calls are told of.
#[derive(Debug, Clone)]
pub struct Observed<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let id = call_id(request.headers());
        let mut call = Call::begin(&request, id.clone());
        let received = Arc::clone(&call.received);
        let mut request = request.map(|body| {
            Body::new(Counted {
                body,
                count: received,
            })
        });
        request.extensions_mut().insert(call.caller.clone());
        let span = tracing::info_span!("call", id = text(&id));
        let future = self.inner.call(request);
        let answer = async move {
            let mut response = future.await?;
            call.answered(&response);
            // Nobody asks such a body for anything.
            call.is_complete = response.body().is_end_stream();
            response.headers_mut().insert(CALL_ID, id);
            Ok(response.map(|body| Body::new(Told { body, call })))
        };
        Box::pin(answer.instrument(span))
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// The caller's id for the call, if it is a good one, or a new one.
fn call_id(headers: &HeaderMap) -> HeaderValue {
    let is_good = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=MAX_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    if let Some(id) = headers.get(CALL_ID).filter(is_good) {
        return id.clone();
    }
    let id = uuid::Uuid::now_v7().simple().to_string();
    HeaderValue::from_str(&id).expect("it consists of hexadecimal digits")
}

/// A call from its begin to its end, which is told when this is dropped.
#[derive(Debug)]
struct Call {
    id: HeaderValue,
    method: http::Method,
    path: String,
    peer: Option<SocketAddr>,
    caller: Caller,
    begin: Instant,
    received: Arc<AtomicU64>,
    sent: u64,
    is_grpc: bool,
    /// Status of HTTP, once there is an answer.
    status: Option<StatusCode>,
    /// Status of gRPC, once it is there.
    grpc_status: Option<i32>,
    is_complete: bool,
}

impl Call {
    fn begin(request: &Request<Body>, id: HeaderValue) -> Self {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let peer = request.extensions().get::<Arc<Peer>>();
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        Self {
            id,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            peer: peer.map(|peer| peer.address),
            caller: Caller::default(),
            begin: Instant::now(),
            received: Arc::default(),
            sent: 0,
            is_grpc,
            status: None,
            grpc_status: None,
            is_complete: false,
        }
    }

    fn answered(&mut self, response: &Response<Body>) {
        self.status = Some(response.status());
        self.told(response.headers());
    }

    /// Headers or trailers of the answer.
    fn told(&mut self, headers: &HeaderMap) {
        let status = headers
            .get("grpc-status")
            .and_then(|status| status.to_str().ok());
        if let Some(status) = status.and_then(|status| status.parse().ok()) {
            self.grpc_status = Some(status);
        }
    }

    /// How it ended, in a word.
    fn outcome(&self) -> String {
        let name = |number| Code::from_number(number).map_or("OK", Code::name);
        match (self.is_grpc, self.grpc_status, self.status) {
            (true, Some(number), _) => name(number).to_owned(),
            (_, _, Some(status)) if self.is_complete => status.as_u16().to_string(),
            (false, _, Some(status)) => format!("{} cut off", status.as_u16()),
            // Whoever drops a call before its end has gone or lost patience.
            _ => Code::Cancelled.name().to_owned(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let method = match self.is_grpc {
            true => String::new(),
            false => format!("{} ", self.method),
        };
        tracing::info!(
            // Escaped: a path may hold what terminals obey.
            call = %format_args!("{method}{}", self.path.escape_debug()),
            status = self.outcome(),
            peer = self.peer.map(tracing::field::display),
            // Escaped: whoever signs tokens chooses names.
            caller = self.caller.name().map(|name| tracing::field::display(name.escape_debug())),
            ms = self.begin.elapsed().as_secs_f64() * 1_000.0,
            received = self.received.load(Ordering::Relaxed),
            sent = self.sent,
            id = text(&self.id),
            "called"
        );
    }
}

pin_project_lite::pin_project! {
    /// The body of a request, whose bytes are counted.
    struct Counted<B> {
        #[pin]
        body: B,
        count: Arc<AtomicU64>,
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
            this.count
                .fetch_add(data.remaining() as u64, Ordering::Relaxed);
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
    struct Told<B> {
        #[pin]
        body: B,
        call: Call,
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
                    this.call.sent += data.remaining() as u64;
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
