//! Tells of every call, of whatever face: who called what, how it ended, how long it took and how
//! much it moved. In the log there is a line for each, in the figures ([`crate::metrics`]) they are
//! counted, and a span of each goes to whoever collects traces.
//!
//! A call has an id: the caller's `x-request-id`, or a new one. It is in the answer's headers, in the
//! line that tells of the call, and in the span around everything that is logged for it.

mod account;
mod body;
mod name;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::MatchedPath;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as _;
use metrics::Counter;
use shared::door::Peer;
use shared::telemetry::spans::Span;
use shared::trace::TraceContext;
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::metrics::{Ended, Face};
use crate::refusal::Code;
use account::Account;
pub use account::{Observer, SocketOperation};
use body::{Counted, Told};
use name::Name;
pub use name::{Operation, Outcome, kind};

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

/// Where a call stands in a trace, if anybody wants to know: among the extensions of its request.
#[derive(Debug, Clone, Copy)]
pub struct Below(pub Option<TraceContext>);

/// Puts [`Observed`] around a service.
#[derive(Debug, Clone)]
pub struct ObserveLayer {
    observer: Observer,
    is_grpc: bool,
}

impl ObserveLayer {
    /// For the listener for gRPC.
    pub fn grpc(observer: &Observer) -> Self {
        Self {
            observer: observer.clone(),
            is_grpc: true,
        }
    }

    /// For the listener for REST and GraphQL.
    pub fn http(observer: &Observer) -> Self {
        Self {
            observer: observer.clone(),
            is_grpc: false,
        }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let layer = self.clone();
        Observed { inner, layer }
    }
}

/// A service whose calls are told of.
#[derive(Debug, Clone)]
pub struct Observed<S> {
    inner: S,
    layer: ObserveLayer,
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
        let mut call = Call::begin(&self.layer, &request, id.clone());
        let received = Arc::clone(&call.received);
        let total = self.layer.observer.metrics.received(call.name.face);
        let mut request = request.map(|body| {
            Body::new(Counted {
                body,
                count: received,
                total,
            })
        });
        let extensions = request.extensions_mut();
        extensions.insert(call.caller.clone());
        extensions.insert(call.name.operation.clone());
        extensions.insert(Below(call.account.context()));
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
    name: Name,
    account: Account,
    peer: Option<Arc<Peer>>,
    caller: Caller,
    received: Arc<AtomicU64>,
    sent: u64,
    /// Of all calls of the face.
    sent_in_all: Counter,
    is_grpc: bool,
    /// Whether nobody knew how long the answer would be when it began.
    is_open_ended: bool,
    /// How a request of GraphQL ended.
    outcome: Option<Outcome>,
    /// Status of HTTP, once there is an answer.
    status: Option<StatusCode>,
    /// Status of gRPC, once it is there.
    grpc_status: Option<i32>,
    is_complete: bool,
}

impl Call {
    fn begin(layer: &ObserveLayer, request: &Request<Body>, id: HeaderValue) -> Self {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let peer = request.extensions().get::<Arc<Peer>>();
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let name = Name::of(request, layer.is_grpc);
        let parent = shared::trace::context_of(request.headers());
        Self {
            id,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            account: Account::begin(&layer.observer, name.face, parent),
            peer: peer.cloned(),
            caller: Caller::default(),
            received: Arc::default(),
            sent: 0,
            sent_in_all: layer.observer.metrics.sent(name.face),
            name,
            is_grpc,
            is_open_ended: false,
            outcome: None,
            status: None,
            grpc_status: None,
            is_complete: false,
        }
    }

    fn answered(&mut self, response: &Response<Body>) {
        self.status = Some(response.status());
        self.is_open_ended = response.body().size_hint().exact().is_none();
        self.outcome = response.extensions().get().copied();
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

    /// A part of the answer goes out.
    fn has_sent(&mut self, bytes: u64) {
        self.sent += bytes;
        self.sent_in_all.increment(bytes);
    }

    /// How it ended, in words of which there are few.
    fn ended(&self) -> Ended {
        let name = |number| Code::from_number(number).map_or("OK", Code::name);
        let gone = Code::Cancelled;
        let code = match (self.name.face, self.status.filter(|_| self.is_complete)) {
            (Face::Grpc, status) => match (self.grpc_status, status) {
                (Some(number), _) => name(number).into(),
                (None, Some(status)) => name::code_of(status).into(),
                (None, None) => gone.name().into(),
            },
            (Face::Graphql, Some(status)) => {
                let code = self.outcome.map(|Outcome(code)| code);
                code.unwrap_or_else(|| name::code_of(status)).into()
            }
            (Face::Rest, Some(status)) => status.as_str().to_owned().into(),
            (Face::Graphql, None) => gone.name().into(),
            (Face::Rest, None) => gone.http().as_str().to_owned().into(),
        };
        let streams = match self.name.face {
            Face::Grpc => self.name.grpc.is_some_and(|(_, streams)| *streams),
            Face::Rest | Face::Graphql => self.is_open_ended,
        };
        Ended {
            method: self.name.method(),
            code,
            streams,
        }
    }

    /// What else is said of it, by the conventions of OpenTelemetry. Nothing of who calls, and nothing
    /// that clients write but the call's id.
    fn describe(&self, ended: &Ended, span: Span) -> Span {
        let mut span = span.with("pantelegraph.call.id", text(&self.id));
        if self.name.face == Face::Grpc {
            let code = Code::from_name(&ended.code).map_or(0, Code::number);
            span = span
                .with("rpc.system", "grpc")
                .with("rpc.grpc.status_code", code.unsigned_abs());
            if let Some((service, method)) =
                self.name.grpc.and_then(|(name, _)| name.split_once('/'))
            {
                span = span.with("rpc.service", service).with("rpc.method", method);
            }
            return span;
        }
        span = span.with("http.request.method", self.name.http());
        if let Some(peer) = &self.peer {
            let scheme = if peer.encrypted { "https" } else { "http" };
            span = span.with("url.scheme", scheme);
        }
        if let Some(route) = self.name.route.as_ref().map(MatchedPath::as_str) {
            span = span.with("http.route", route);
        }
        if let Some(status) = self.status {
            span = span.with("http.response.status_code", u32::from(status.as_u16()));
        }
        if matches!(&*ended.method, "query" | "mutation" | "subscription") {
            span = span.with("graphql.operation.type", &*ended.method);
        }
        span
    }

    /// How it ended, in a word for the log.
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
            peer = self.peer.as_ref().map(|peer| tracing::field::display(peer.address)),
            // Escaped: whoever signs tokens chooses names.
            caller = self.caller.name().map(|name| tracing::field::display(name.escape_debug())),
            ms = self.account.elapsed().as_secs_f64() * 1_000.0,
            received = self.received.load(Ordering::Relaxed),
            sent = self.sent,
            id = text(&self.id),
            trace = self.account.trace().map(tracing::field::display),
            "called"
        );
        let ended = self.ended();
        self.account.end(&ended, |span| self.describe(&ended, span));
    }
}
