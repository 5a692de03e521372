//! Who may call what, for all that this receiver serves: asked once for each request, before anything
//! is done for it.

pub(super) mod often;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, Method, Request, StatusCode, header};
use shared::door::{InFlight, Peer};
use shared::security::access::{Caller, Denied, Scope};
use shared::security::live::LivePolicy;
use shared::security::rate::{Pace, Rates};
use tonic::Status;
use tonic::server::NamedService as _;

use super::Place;
use super::grpc::TransferService;
use super::rest::body;
use crate::problem::Problem;
use often::Often;

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing: programs that watch over this one ask.
    Nothing,
    /// To be known.
    Known,
    /// To be known and to have a scope.
    Scope(Scope),
}

/// What a request of HTTP needs. What is not named here needs the scope to read, so that a route which
/// is added and forgotten here is not open.
fn need_of_http(method: &Method, path: &str, open_metrics: bool) -> Need {
    let read = method == Method::GET || method == Method::HEAD;
    match path {
        "/healthz" | "/readyz" if read => Need::Nothing,
        "/metrics" if read && open_metrics => Need::Nothing,
        // Both sides of the offset ask it.
        "/v1/clock" if read => Need::Known,
        shared::wire::WEBSOCKET_PATH => Need::Scope(Scope::Upload),
        _ if path == "/v1/uploads" || path.starts_with("/v1/uploads/") => {
            Need::Scope(Scope::Upload)
        }
        _ if read => Need::Scope(Scope::Read),
        _ => Need::Scope(Scope::Upload),
    }
}

/// What a call of gRPC needs.
fn need_of_grpc(path: &str) -> Need {
    match path.rsplit('/').next() {
        Some("Watch") => Need::Scope(Scope::Read),
        Some("Put" | "Upload" | "Exchange") => Need::Scope(Scope::Upload),
        // There is no such call, which is told to those who are known.
        _ => Need::Known,
    }
}

/// Hears of those who are turned away: who, a word for figures, and why.
pub type Refusals = dyn Fn(&Peer, &'static str, &dyn fmt::Display) + Send + Sync;

/// The word for pages of other origins.
const FOREIGN: &str = "foreign-origin";

/// Lets requests in, or turns them away.
#[derive(Clone)]
pub struct Gate {
    policy: LivePolicy,
    /// Whether figures are for everybody.
    open_metrics: Arc<AtomicBool>,
    rates: Rates,
    refusals: Arc<Refusals>,
}

/// Who was let in, and how often it may ask.
struct Admitted {
    caller: Caller,
    pace: Pace,
}

/// Why a request is not let in.
enum TurnedAway {
    Denied(Denied),
    Often(Often),
}

impl Gate {
    /// A gate for those whom `policy` admits when they come, and who do not come more often than `rates`
    /// allow.
    pub fn new(
        policy: LivePolicy,
        open_metrics: Arc<AtomicBool>,
        rates: Rates,
        refusals: Arc<Refusals>,
    ) -> Self {
        Self {
            policy,
            open_metrics,
            rates,
            refusals,
        }
    }

    fn admit<B>(
        &self,
        request: &Request<B>,
        peer: &Peer,
        need: Need,
    ) -> Result<Admitted, TurnedAway> {
        if need == Need::Nothing {
            // Those who watch over this program may do so however often others ask.
            let (caller, pace) = (Caller::Anyone, Pace::default());
            return Ok(Admitted { caller, pace });
        }
        let admitted = self
            .policy
            .now()
            .admit(request.headers(), peer.certificate.as_ref());
        let admitted = admitted.and_then(|caller| match need {
            Need::Scope(scope) => caller.may(scope).map(|()| caller),
            Need::Known | Need::Nothing => Ok(caller),
        });
        let caller = admitted.map_err(|denied| {
            (self.refusals)(peer, denied.key(), &denied);
            TurnedAway::Denied(denied)
        })?;
        let pace = self.rates.of(caller.name(), peer.address.ip());
        match pace.take() {
            Ok(()) => Ok(Admitted { caller, pace }),
            Err(time) => {
                let often = Often(time);
                (self.refusals)(peer, often::KEY, &often);
                Err(TurnedAway::Often(often))
            }
        }
    }

    fn tell_of_page(&self, peer: &Peer) {
        (self.refusals)(peer, FOREIGN, &"a page of another origin asks");
    }
}

/// What is served behind a gate, on one listener.
#[derive(Clone)]
pub struct Served {
    gate: Gate,
    grpc: Option<TransferService>,
    http: Option<axum::Router>,
}

/// Where every call of the service begins.
fn is_call(path: &str) -> bool {
    let call = path.strip_prefix('/').unwrap_or(path);
    call.strip_prefix(TransferService::NAME)
        .is_some_and(|rest| rest.starts_with('/'))
}

impl Served {
    /// gRPC, HTTP, or both on one port.
    pub fn new(gate: Gate, grpc: Option<TransferService>, http: Option<axum::Router>) -> Self {
        Self { gate, grpc, http }
    }

    /// Whether nothing but HTTP/2 is spoken.
    pub fn is_grpc_only(&self) -> bool {
        self.http.is_none()
    }

    /// Answers a request of `peer`, whose connection has this place.
    pub async fn answer<B>(
        self,
        request: Request<B>,
        peer: Arc<Peer>,
        place: Place,
    ) -> Response<Attended>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let is_head = request.method() == Method::HEAD;
        let response = self.answer_whole(request, peer, place).await;
        if is_head {
            without_body(response)
        } else {
            response
        }
    }

    async fn answer_whole<B>(
        self,
        mut request: Request<B>,
        peer: Arc<Peer>,
        place: Place,
    ) -> Response<Attended>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if is_foreign(&request) {
            self.gate.tell_of_page(&peer);
            return attended(refuse_page(request.map(Body::new)).await, None);
        }
        let path = request.uri().path();
        match (self.grpc, self.http) {
            (Some(grpc), http) if http.is_none() || is_call(path) => {
                match self.gate.admit(&request, &peer, need_of_grpc(path)) {
                    Ok(Admitted { caller, pace }) => {
                        let busy = place.begin();
                        request.extensions_mut().insert(caller);
                        request.extensions_mut().insert(pace);
                        let request = request.map(tonic::body::Body::new);
                        attended(grpc.serve(request).await.map(Body::new), Some(busy))
                    }
                    Err(TurnedAway::Denied(denied)) => {
                        let status = status_of(&denied).into_http::<Body>();
                        attended(status, None)
                    }
                    Err(TurnedAway::Often(often)) => attended(often.into_grpc(), None),
                }
            }
            (_, Some(router)) => {
                let need = need_of_http(
                    request.method(),
                    path,
                    self.gate.open_metrics.load(Ordering::Relaxed),
                );
                match self.gate.admit(&request, &peer, need) {
                    Ok(Admitted { caller, pace }) => {
                        // Whoever may come without a name stays a newcomer, who gives way to others.
                        let busy = (need != Need::Nothing).then(|| place.begin());
                        request.extensions_mut().insert(caller);
                        request.extensions_mut().insert(pace);
                        request.extensions_mut().insert(place);
                        let answered = tower::ServiceExt::oneshot(router, request.map(Body::new));
                        // A router does not fail.
                        let answered = answered.await.unwrap_or_else(|never| match never {});
                        attended(answered, busy)
                    }
                    Err(TurnedAway::Denied(denied)) => {
                        attended(refuse(&denied, request.map(Body::new)).await, None)
                    }
                    Err(TurnedAway::Often(often)) => {
                        let response = often.into_http(path);
                        attended(turn_down(request.map(Body::new), response).await, None)
                    }
                }
            }
            (_, None) => attended(StatusCode::NOT_FOUND.into_response(), None),
        }
    }
}

/// Whether a page of somebody else's asks. Browsers send it without asking first what this side thinks
/// of that: WebSockets, and POST with plain text.
fn is_foreign<B>(request: &Request<B>) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        return false;
    };
    let host = request.uri().authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    let page = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    match (page, host) {
        (Some((_, page)), Some(host)) => !page.eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// gRPC's word for it.
fn status_of(denied: &Denied) -> Status {
    match denied {
        Denied::Unknown(_) => Status::unauthenticated(denied.to_string()),
        Denied::Scope { .. } | Denied::Other { .. } => {
            Status::permission_denied(denied.to_string())
        }
    }
}

/// The problem that a client of HTTP is told.
pub fn problem_of(denied: &Denied) -> Problem {
    match denied {
        Denied::Unknown(_) => Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "the caller is not known",
            denied.to_string(),
        ),
        Denied::Scope { .. } | Denied::Other { .. } => Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "the caller may not do this",
            denied.to_string(),
        ),
    }
    .with("reason", denied.key())
}

async fn refuse(denied: &Denied, request: Request<Body>) -> Response {
    let problem = problem_of(denied).about(request.uri().path());
    let mut response = problem.into_response();
    if let Ok(challenge) = HeaderValue::try_from(denied.challenge()) {
        let headers = response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    turn_down(request, response).await
}

async fn refuse_page(request: Request<Body>) -> Response {
    let status = StatusCode::FORBIDDEN;
    let detail = "pages of other origins are not let in";
    let problem = Problem::new(status, FOREIGN, "a page of another origin", detail);
    let response = problem.about(request.uri().path()).into_response();
    turn_down(request, response).await
}

/// What HEAD is told (RFC 9110, section 9.3.2): how long the body would be, and not the body, which over
/// HTTP/2 would be an error of the protocol.
fn without_body(response: Response<Attended>) -> Response<Attended> {
    let (mut parts, mut attended) = response.into_parts();
    if let Some(length) = http_body::Body::size_hint(&attended).exact()
        && length > 0
    {
        let length = HeaderValue::from(length);
        parts
            .headers
            .entry(header::CONTENT_LENGTH)
            .or_insert(length);
    }
    attended.body = Body::empty();
    Response::from_parts(parts, attended)
}

/// Sees to the rest of a request that is not let in, or asks for nothing that there is.
pub(super) async fn turn_down(request: Request<Body>, mut response: Response) -> Response {
    let (parts, mut body) = request.into_parts();
    if parts.headers.contains_key(header::EXPECT) {
        body::close(&mut response);
    } else {
        // A station that is sending an image would find the connection reset before it reads why. Its
        // connection is a newcomer's meanwhile, and gives way to others.
        if !body::discard(&mut body, MAX_DISCARDED).await {
            body::close(&mut response);
        }
    }
    response
}

/// Bytes of a request that is refused that are read at most.
const MAX_DISCARDED: u64 = 8 << 20;

fn attended(response: Response, busy: Option<Busy>) -> Response<Attended> {
    response.map(|body| Attended { body, _busy: busy })
}

/// A request that is being served, for as long as its connection is not to give way for it.
pub type Busy = InFlight;

/// The body of an answer; its connection is busy until it has gone out.
#[derive(Debug)]
pub struct Attended {
    body: Body,
    _busy: Option<Busy>,
}

impl http_body::Body for Attended {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_thought_of_is_not_open() {
        let need = |method: Method, path: &str| need_of_http(&method, path, true);
        let (read, upload) = (Need::Scope(Scope::Read), Need::Scope(Scope::Upload));
        for (method, path, expected) in [
            (Method::GET, "/healthz", Need::Nothing),
            (Method::HEAD, "/readyz", Need::Nothing),
            (Method::GET, "/metrics", Need::Nothing),
            (Method::POST, "/metrics", upload),
            (Method::GET, "/metrics/", read),
            (Method::GET, "//healthz", read),
            (Method::GET, "/healthz/../v1/images", read),
            (Method::GET, "/v1/clock", Need::Known),
            (Method::GET, "/v1/stream", upload),
            (Method::GET, "/v1/images", read),
            (Method::PUT, "/v1/images/1", upload),
            (Method::HEAD, "/v1/uploads/1", upload),
            (Method::OPTIONS, "/v1/uploads", upload),
            (Method::GET, "/v1/uploads-of-others", read),
            (Method::DELETE, "/v1/images/1", upload),
            (Method::GET, "/v2/new", read),
        ] {
            assert_eq!(need(method.clone(), path), expected, "{method} {path}");
        }
        assert_eq!(need_of_http(&Method::GET, "/metrics", false), read);
        assert_eq!(need_of_grpc("/x/Watch"), read);
        assert_eq!(need_of_grpc("/x/Exchange"), upload);
        assert_eq!(need_of_grpc("/x/Delete"), Need::Known);
    }

    #[test]
    fn pages_of_others_are_foreign() {
        let foreign = |origin: Option<&str>| {
            let request = Request::get("/v1/stream").header("host", "Cam.example:8080");
            let request = match origin {
                Some(origin) => request.header("origin", origin),
                None => request,
            };
            is_foreign(&request.body(()).unwrap())
        };
        assert!(!foreign(None) && !foreign(Some("http://cam.example:8080")));
        for origin in [
            "http://evil.example",
            "http://cam.example",
            "http://cam.example:8080.evil.example",
            "null",
            "",
        ] {
            assert!(foreign(Some(origin)), "{origin}");
        }
    }

    #[test]
    fn only_whole_names_are_calls() {
        assert!(is_call("/pantelegraph.transfer.v1.TransferService/Put"));
        assert!(!is_call("/pantelegraph.transfer.v1.TransferServices/Put"));
        assert!(!is_call("/v1/images"));
    }
}
