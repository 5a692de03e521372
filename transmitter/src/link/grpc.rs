//! gRPC: the session over `Exchange`, or one `Put` an image.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use shared::chunk::crc32c;
use shared::clock::ClockEstimate;
use shared::image::Transport;
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::report::RunAccount;
use shared::telemetry::{Counted, chain};
use shared::wire::framing::{Deframer, Frame};
use shared::wire::{
    Begin, EXCHANGE_PATH, begin_to_proto, decode_server, proto, receipt_from_proto,
};
use shared::wire::{Loss, Standing};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;
use url::Url;

use super::body::MessageBody;
use super::session::{Session, SessionConnection, queue_length};
use super::{AGENT, Attempt, Connection, DeliveryError, Identity, Link, LinkError, unreadable};
use crate::config::LinkOptions;
use crate::outbox::Owed;

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
        session
            .greet(&self.identity, self.options.connect_timeout)
            .await?;
        Ok(Arc::new(SessionConnection(session)))
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
        return Err(status.message().to_owned());
    }
    let mut body = response.into_body();
    let mut deframer = Deframer::new(MAX_REPLY);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|status| chain(&status))?;
        match frame.into_data() {
            Ok(data) => deframer.push(data),
            Err(frame) => {
                let status = frame
                    .trailers_ref()
                    .and_then(tonic::Status::from_header_map);
                return match status {
                    Some(status) if status.code() != tonic::Code::Ok => {
                        Err(format!("{:?}: {}", status.code(), status.message()))
                    }
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

/// Sends each image by one unary `Put`.
pub struct PutLink {
    url: Url,
    options: LinkOptions,
    identity: Identity,
}

impl PutLink {
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
impl Link for PutLink {
    fn transport(&self) -> Transport {
        Transport::Grpc
    }

    async fn connect(&self) -> Result<Arc<dyn Connection>, LinkError> {
        // The clock and the accounts go over a session; the images do not.
        let exchange = ExchangeLink::new(
            self.url.clone(),
            self.options.clone(),
            self.identity.clone(),
        );
        let side = exchange.connect().await?;
        let channel = channel(&self.url, &self.options, &self.identity).await?;
        Ok(Arc::new(PutConnection {
            channel,
            side,
            limit: self.options.message_size.0,
            transmitter: self.identity.transmitter.clone(),
            lost: CancellationToken::new(),
            why: Mutex::default(),
        }))
    }
}

struct PutConnection {
    channel: Channel,
    side: Arc<dyn Connection>,
    limit: u64,
    transmitter: String,
    lost: CancellationToken,
    why: Mutex<String>,
}

impl PutConnection {
    fn lose(&self, reason: &str) -> DeliveryError {
        reason.clone_into(&mut self.why.lock());
        self.lost.cancel();
        DeliveryError::Lost(reason.to_owned())
    }
}

#[async_trait]
impl Connection for PutConnection {
    async fn deliver(&self, image: &Owed, attempt: Attempt) -> Result<Receipt, DeliveryError> {
        let size = image.payload.size();
        if size > self.limit {
            let message = format!(
                "image of {size} bytes does not go into one message of {} bytes; raise \
                 TRANSMITTER_MESSAGE_SIZE and RECEIVER_MAX_MESSAGE_SIZE, or use \
                 TRANSMITTER_GRPC_CALL=exchange",
                self.limit
            );
            return Err(Reject::new(image.meta.id, RejectReason::Limit, message).into());
        }
        let reader = image.payload.open().await.map_err(unreadable)?;
        let len = u32::try_from(size).unwrap_or(u32::MAX);
        let data = reader.read(0, len).await.map_err(unreadable)?;
        let mut meta = image.meta.clone();
        meta.attempt = attempt.number;
        meta.clock = self.side.clock();
        meta.send_started = Some(attempt.started);
        let request = proto::PutRequest {
            outbox: String::new(),
            begin: Some(begin_to_proto(&Begin { meta, offset: 0 })),
            crc32c: Some(crc32c(&data)),
            data,
            transmitter: self.transmitter.clone(),
        };
        let mut client =
            proto::transfer_service_client::TransferServiceClient::new(self.channel.clone());
        match client.put(request).await {
            Ok(response) => {
                let receipt = response.into_inner().receipt.unwrap_or_default();
                receipt_from_proto(receipt).map_err(|error| self.lose(&error.to_string()))
            }
            Err(status) => Err(self.failed(image, &status)),
        }
    }

    fn parallel(&self) -> usize {
        8
    }

    fn clock(&self) -> Option<ClockEstimate> {
        self.side.clock()
    }

    async fn account(&self, account: RunAccount) -> Result<(), LinkError> {
        self.side.account(account).await
    }

    async fn losses(&self, _losses: Vec<Loss>, _standing: Standing) -> Result<(), LinkError> {
        Ok(())
    }

    async fn closed(&self) -> String {
        tokio::select! {
            reason = self.side.closed() => reason,
            () = self.lost.cancelled() => self.why.lock().clone(),
        }
    }

    async fn close(&self) {
        self.side.close().await;
    }
}

impl PutConnection {
    /// The receiver's rejections carry their reason in the metadata; anything else is the
    /// transport's.
    fn failed(&self, image: &Owed, status: &tonic::Status) -> DeliveryError {
        let text = |key| {
            status
                .metadata()
                .get(key)
                .and_then(|value| value.to_str().ok())
        };
        let reason = text("pantelegraph-reason").and_then(|reason| reason.parse().ok());
        let Some(reason) = reason else {
            if status.code() == tonic::Code::OutOfRange
                || status.code() == tonic::Code::ResourceExhausted
            {
                let message = format!(
                    "{}; lower TRANSMITTER_MESSAGE_SIZE or raise RECEIVER_MAX_MESSAGE_SIZE",
                    status.message()
                );
                return Reject::new(image.meta.id, RejectReason::Limit, message).into();
            }
            return self.lose(&chain(status));
        };
        let mut reject = Reject::new(image.meta.id, reason, status.message());
        reject.retryable = text("pantelegraph-retryable") == Some("true");
        reject.quarantined = text("pantelegraph-quarantined") == Some("true");
        reject.into()
    }
}
