//! Lets requests in: the same way before every face, which only says no in its own words.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use shared::door::{InFlight, Peer};
use shared::security::access::{Denied, Unknown};
use tokio::time::{Instant, Sleep};

use crate::connection::Connection;
use crate::observe::Caller;
use crate::refusal::Refusal;
use crate::service::Service;

/// What a face has its own way for.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Whether this request needs no caller, although it showed nothing or, as this says, nothing good.
    pub is_open: fn(&Request<Body>, &Denied) -> bool,
    /// The answer to a request with these headers that is refused.
    pub refuse: fn(&Refusal, &HeaderMap) -> Response<Body>,
    /// How an answer with these headers ends that is broken off.
    pub ending: fn(&Refusal, &HeaderMap) -> Ending,
}

/// The end of an answer that has begun already.
#[derive(Debug)]
pub enum Ending {
    /// With these trailers.
    Trailers(HeaderMap),
    /// With these bytes.
    Data(Bytes),
    /// So that the client can tell that there should be more.
    Broken,
}

/// The word for those who ask too often, in the figures.
pub(crate) const RATE: &str = "rate";

/// What [`admit`] needs to know.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Knows who gets in.
    pub service: Arc<Service>,
    /// The face's.
    pub manners: Manners,
}

/// Lets a request in whose caller is known, or need not be, and puts that [`Requester`](crate::access::Requester) among its
/// extensions. When the caller's token expires, the call ends.
pub async fn admit(
    State(Admission { service, manners }): State<Admission>,
    mut request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let peer = request.extensions().get::<Arc<Peer>>();
    let certificate = peer.and_then(|peer| peer.certificate.as_ref());
    let requester = match service.access.admit(request.headers(), certificate) {
        Ok(requester) => requester,
        Err(denied) if (manners.is_open)(&request, &denied) => return next.run(request).await,
        Err(denied) => {
            service.observer.metrics.refused(denied.key());
            tracing::debug!(why = denied.key(), "turned away: {denied}");
            return (manners.refuse)(&denied.into(), request.headers());
        }
    };
    let pace = service.access.pace(&requester, peer.map(AsRef::as_ref));
    // What is open to those who show nothing is there however often others ask.
    let is_free = (manners.is_open)(&request, &Unknown::MissingToken.into());
    if !is_free && let Err(time) = pace.take() {
        service.observer.metrics.refused(RATE);
        tracing::debug!(why = RATE, "turned away");
        return (manners.refuse)(&Refusal::TooOften(time), request.headers());
    }
    // From here on it does not have to give way to others.
    let busy = request.extensions().get().map(Connection::begin);
    if let (Some(name), Some(caller)) = (requester.name(), request.extensions().get::<Caller>()) {
        caller.is(name);
    }
    let until = requester.until().map(instant);
    request.extensions_mut().insert(requester);
    request.extensions_mut().insert(pace);
    let Some(until) = until else {
        let response = next.run(request).await;
        return response.map(|body| {
            Body::new(Admitted {
                body,
                busy,
                expiry: None,
            })
        });
    };
    let headers = request.headers().clone();
    let answer = tokio::time::timeout_at(until, next.run(request)).await;
    let expired = Refusal::from(Unknown::Expired);
    let response = answer.unwrap_or_else(|_| (manners.refuse)(&expired, &headers));
    let (parts, body) = response.into_parts();
    // What is complete already is not made less by time.
    let is_stream = body.size_hint().exact().is_none();
    let expiry = is_stream.then(|| Expiry {
        sleep: Box::pin(tokio::time::sleep_until(until)),
        ending: Some((manners.ending)(&expired, &parts.headers)),
    });
    let body = Body::new(Admitted { body, busy, expiry });
    Response::from_parts(parts, body)
}

/// The moment on the clock that timers have.
pub fn instant(time: SystemTime) -> Instant {
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    let now = Instant::now();
    // Centuries ahead is as good as never.
    now.checked_add(left)
        .unwrap_or_else(|| now + std::time::Duration::from_secs(1 << 30))
}

/// When a caller's time is up, and how its answer ends then.
struct Expiry {
    sleep: Pin<Box<Sleep>>,
    /// `None` once it has been sent.
    ending: Option<Ending>,
}

impl Expiry {
    /// Whether the time is up.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(context)
    }
}

pin_project_lite::pin_project! {
    /// The body of an answer to a request that was let in.
    struct Admitted<B> {
        #[pin]
        body: B,
        // Until the end, the connection has something to do.
        busy: Option<InFlight>,
        expiry: Option<Expiry>,
    }
}

impl<B> HttpBody for Admitted<B>
where
    B: HttpBody<Data = Bytes, Error = axum::Error>,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        if let Some(expiry) = this.expiry {
            if expiry.ending.is_none() {
                return Poll::Ready(None);
            }
            if expiry.poll(context).is_ready() {
                *this.busy = None;
                return Poll::Ready(match expiry.ending.take() {
                    Some(Ending::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                    Some(Ending::Data(bytes)) => Some(Ok(Frame::data(bytes))),
                    Some(Ending::Broken) => Some(Err(axum::Error::new(Unknown::Expired))),
                    None => None,
                });
            }
        }
        let frame = ready!(this.body.poll_frame(context));
        if frame.is_none() {
            *this.busy = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.expiry {
            Some(Expiry { ending: None, .. }) => true,
            _ => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
