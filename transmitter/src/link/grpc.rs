//! gRPC: the session over `Exchange`, or one `Put` an image.

mod put;

pub use put::PutLink;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use shared::image::{ImageId, Transport};
use shared::telemetry::{Counted, chain};
use shared::wire::framing::{Deframer, Frame};
use shared::wire::{EXCHANGE_PATH, decode_server};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;
use url::Url;

use super::body::MessageBody;
use super::session::{Session, SessionConnection, queue_length};
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
        let channel = channel(&self.url, &self.options, &self.identity).await?;
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
        tokio::spawn(converse(channel, body, Arc::clone(&session)));
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

async fn channel(
    url: &Url,
    options: &LinkOptions,
    identity: &Identity,
) -> Result<Channel, LinkError> {
    let unreachable = |problem: String| LinkError::Unreachable {
        address: url.to_string(),
        problem,
    };
    let endpoint = Endpoint::from_shared(url.to_string())
        .map_err(|error| unreachable(error.to_string()))?
        .user_agent(AGENT)
        .map_err(|error| unreachable(error.to_string()))?
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.idle_timeout / 2)
        .keep_alive_timeout(options.idle_timeout / 2)
        .keep_alive_while_idle(true);
    let wire = identity.wire.clone();
    let connector = tower::service_fn(move |uri: Uri| {
        let wire = wire.clone();
        async move {
            let host = uri.host().unwrap_or_default();
            let host = host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned();
            let port = uri.port_u16().unwrap_or(80);
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(Counted::new(stream, wire)))
        }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| unreachable(chain(&error)))
}

/// Runs the call: the request's body is sent by the connection's own task; here the answers come.
async fn converse(channel: Channel, body: Body, session: Arc<Session>) {
    let called = tokio::select! {
        called = call(channel, body, &session) => called,
        // Leaving the call resets it, lest it stays open for what nobody sends any more.
        () = session.lost.cancelled() => return,
    };
    let reason = match called {
        Ok(()) => "the receiver ended the session".to_owned(),
        Err(problem) => problem,
    };
    session.lose(reason);
}

async fn call(channel: Channel, body: Body, session: &Session) -> Result<(), String> {
    let mut request = Request::post(EXCHANGE_PATH)
        .body(body)
        .map_err(|e| e.to_string())?;
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let response = channel
        .oneshot(request)
        .await
        .map_err(|error| chain(&error))?;
    if response.status() != http::StatusCode::OK {
        return Err(format!("HTTP status {}", response.status()));
    }
    if let Some(status) = tonic::Status::from_header_map(response.headers())
        && status.code() != tonic::Code::Ok
    {
        return Err(words(&status));
    }
    let mut body = response.into_body();
    let mut deframer = Deframer::new(MAX_REPLY);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|status| words(&status))?;
        match frame.into_data() {
            Ok(data) => deframer.push(data),
            Err(frame) => {
                let status = frame
                    .trailers_ref()
                    .and_then(tonic::Status::from_header_map);
                return match status {
                    Some(status) if status.code() != tonic::Code::Ok => Err(words(&status)),
                    _ => Ok(()),
                };
            }
        }
        while let Some(frame) = deframer.next_frame() {
            let Frame::Message(message) = frame else {
                return Err("the receiver sent a message that cannot be read".to_owned());
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
