//! gRPC: the session over `Exchange`, or one `Put` an image.

mod put;

pub use put::PutLink;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use shared::image::{ImageId, Transport};
use shared::security::tls::H2;
use shared::telemetry::chain;
use shared::wire::framing::{Deframer, Frame};
use shared::wire::{EXCHANGE_PATH, decode_server};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;
use url::Url;

use super::body::MessageBody;
use super::dial::{Denial, words_of};
use super::session::{Session, SessionConnection, queue_length};
use super::stream::Refusal;
use super::{AGENT, Connection, Identity, Link, LinkError};
use crate::config::LinkOptions;

/// Largest message that is taken from a receiver.
const MAX_REPLY: usize = 1 << 20;

/// Makes `Exchange` sessions.
pub struct ExchangeLink {
    url: Url,
    options: LinkOptions,
    identity: Identity,
}

impl ExchangeLink {
    /// A link to `url`.
    pub fn new(url: Url, options: LinkOptions, identity: Identity) -> Self {
        Self {
            url,
            options,
            identity,
        }
    }
}

#[async_trait]
impl Link for ExchangeLink {
    fn transport(&self) -> Transport {
        Transport::Grpc
    }

    async fn connect(&self) -> Result<Arc<dyn Connection>, LinkError> {
        let called = dial(&self.url, &self.options, &self.identity).await?;
        let (outgoing, messages) = mpsc::channel(queue_length(&self.options));
        let session = Session::new(
            outgoing,
            self.url.to_string(),
            &self.options,
            &self.identity,
        );
        let frame_size = self.options.http2_frame_size.as_usize();
        let (goodbye, lost) = (session.goodbye.clone(), session.lost.clone());
        let body = Body::new(Ending {
            body: MessageBody::new(messages, frame_size),
            goodbye: Box::pin(async move {
                tokio::select! {
                    () = goodbye.cancelled() => {}
                    () = lost.cancelled() => {}
                }
            }),
        });
        tokio::spawn(converse(called, body, Arc::clone(&session)));
        session.greet().await?;
        Ok(Arc::new(SessionConnection(session)))
    }

    fn forget(&self, id: ImageId) {
        self.identity.unfinished.end(id);
    }
}

pin_project_lite::pin_project! {
    /// A body that ends when goodbye was said, or the session was lost, and everything before has
    /// been sent.
    struct Ending {
        #[pin]
        body: MessageBody,
        goodbye: Pin<Box<dyn Future<Output = ()> + Send>>,
    }
}

impl http_body::Body for Ending {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        use std::task::Poll;
        let this = self.project();
        match this.body.poll_frame(context) {
            Poll::Pending => std::task::ready!(this.goodbye.as_mut().poll(context)),
            ready => return ready,
        }
        Poll::Ready(None)
    }
}

/// A receiver that was dialled.
struct Dialled {
    channel: Channel,
    /// What is shown with each call.
    shown: HeaderMap,
    /// Where it stands that this side's certificate was turned down.
    refusal: Refusal,
}

async fn dial(url: &Url, options: &LinkOptions, identity: &Identity) -> Result<Dialled, LinkError> {
    let unreachable = |problem: String| LinkError::Unreachable {
        address: url.to_string(),
        problem,
    };
    let timeout = options.connect_timeout;
    let authorization = tokio::time::timeout(timeout, identity.dialler.authorization());
    let authorization = authorization
        .await
        .unwrap_or_else(|_| Err(format!("the token was not read within {timeout:?}")))
        .map_err(unreachable)?;
    let shown = authorization.map(|value| (header::AUTHORIZATION, value));
    let origin: Uri = url
        .as_str()
        .parse()
        .map_err(|error: http::uri::InvalidUri| unreachable(error.to_string()))?;
    // The encryption is not tonic's: the dialler below takes the address from elsewhere.
    let endpoint = Endpoint::from_static("http://receiver")
        .origin(origin)
        .user_agent(AGENT)
        .map_err(|error| unreachable(error.to_string()))?
        .connect_timeout(timeout)
        .http2_keep_alive_interval(options.idle_timeout / 2)
        .keep_alive_timeout(options.idle_timeout / 2)
        .keep_alive_while_idle(true);
    let refusal = Refusal::default();
    let (url, identity, noted) = (url.clone(), identity.clone(), refusal.clone());
    let address = url.to_string();
    let connector = tower::service_fn(move |_: Uri| {
        let (url, identity, noted) = (url.clone(), identity.clone(), noted.clone());
        async move {
            let stream = identity.dialler.connect(&url, H2, &identity.wire).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream.noting(noted)))
        }
    });
    let channel =
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| match refusal.get() {
                Some(words) => LinkError::Refused {
                    address,
                    problem: words.to_owned(),
                },
                None => LinkError::Unreachable {
                    address,
                    problem: refusal.explain(chain(&error)),
                },
            })?;
    Ok(Dialled {
        channel,
        shown: shown.into_iter().collect(),
        refusal,
    })
}

/// Runs the call: the request's body is sent by the connection's own task; here the answers come.
async fn converse(dialled: Dialled, body: Body, session: Arc<Session>) {
    let refusal = dialled.refusal.clone();
    let called = tokio::select! {
        called = call(dialled, body, &session) => called,
        // Leaving the call resets it, lest it stays open for what nobody sends any more.
        () = session.lost.cancelled() => return,
    };
    match (called, refusal.get()) {
        (Ok(()), _) => session.lose("the receiver ended the session".to_owned()),
        (Err(_), Some(words)) => session.refuse(words.to_owned()),
        (Err(Failure::Lost(problem)), None) => session.lose(refusal.explain(problem)),
        (Err(Failure::Denied(denial, words)), None) => {
            session.refuse(session.advise(denial, &words));
        }
    }
}

/// Why a call failed.
enum Failure {
    Lost(String),
    Denied(Denial, String),
}

impl From<String> for Failure {
    fn from(problem: String) -> Self {
        Self::Lost(problem)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        match denial(&status) {
            Some(denial) => Self::Denied(denial, status.message().to_owned()),
            None => Self::Lost(words(&status)),
        }
    }
}

/// What a status says of this side, if it is about that.
fn denial(status: &tonic::Status) -> Option<Denial> {
    match status.code() {
        tonic::Code::Unauthenticated => Some(Denial::Unknown),
        tonic::Code::PermissionDenied => Some(Denial::Forbidden),
        _ => None,
    }
}

async fn call(dialled: Dialled, body: Body, session: &Session) -> Result<(), Failure> {
    let mut request = Request::post(EXCHANGE_PATH)
        .body(body)
        .map_err(|e| e.to_string())?;
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.extend(dialled.shown);
    let response = dialled
        .channel
        .oneshot(request)
        .await
        .map_err(|error| chain(&error))?;
    let status = response.status();
    if let Some(denial) = Denial::of(status) {
        let words = words_of(status, response.headers(), b"");
        return Err(Failure::Denied(denial, words));
    }
    if status != http::StatusCode::OK {
        return Err(format!("HTTP status {status}").into());
    }
    if let Some(status) = tonic::Status::from_header_map(response.headers())
        && status.code() != tonic::Code::Ok
    {
        return Err(status.into());
    }
    let mut body = response.into_body();
    let mut deframer = Deframer::new(MAX_REPLY);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => deframer.push(data),
            Err(frame) => {
                let status = frame
                    .trailers_ref()
                    .and_then(tonic::Status::from_header_map);
                return match status {
                    Some(status) if status.code() != tonic::Code::Ok => Err(status.into()),
                    _ => Ok(()),
                };
            }
        }
        while let Some(frame) = deframer.next_frame() {
            let Frame::Message(message) = frame else {
                let problem = "the receiver sent a message that cannot be read";
                return Err(problem.to_owned().into());
            };
            if let Some(message) = decode_server(message).map_err(|error| error.to_string())? {
                session.take(message);
            }
        }
    }
    Ok(())
}

/// What a status tells a person: of one that was made here because the connection failed, why it did.
fn words(status: &tonic::Status) -> String {
    let mut cause = std::error::Error::source(status);
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    match cause {
        Some(cause) => cause.to_string(),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}
