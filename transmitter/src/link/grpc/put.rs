//! gRPC `Put`: one image in one message.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::chunk::crc32c;
use shared::clock::ClockEstimate;
use shared::image::{ImageId, Transport};
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::report::RunAccount;
use shared::trace;
use shared::wire::{Begin, Loss, Standing, begin_to_proto, proto, receipt_from_proto};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use url::Url;

use super::{Denial, Dialled, ExchangeLink, denial, dial, words};
use crate::config::LinkOptions;
use crate::link::stream::Refusal;
use crate::link::{Attempt, Connection, DeliveryError, Identity, Link, LinkError, unreadable};
use crate::outbox::Owed;

/// Sends each image by one unary `Put`; an image that is larger than one message, or than the
/// window, goes over the session beside, because a broken `Put` begins at the first byte again.
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
        let dialled = dial(&self.url, &self.options, &self.identity).await?;
        Ok(Arc::new(PutConnection {
            dialled,
            side,
            address: self.url.to_string(),
            limit: self.options.message_size.0.min(self.options.window.0),
            identity: self.identity.clone(),
            lost: CancellationToken::new(),
            why: Mutex::default(),
            refusal: Refusal::default(),
        }))
    }

    fn forget(&self, id: ImageId) {
        self.identity.unfinished.end(id);
    }
}

struct PutConnection {
    dialled: Dialled,
    side: Arc<dyn Connection>,
    address: String,
    /// Largest image that goes in one message.
    limit: u64,
    identity: Identity,
    lost: CancellationToken,
    why: Mutex<String>,
    /// That is because the receiver does not let this station in.
    refusal: Refusal,
}

impl PutConnection {
    fn lose(&self, reason: &str) -> DeliveryError {
        reason.clone_into(&mut self.why.lock());
        self.lost.cancel();
        DeliveryError::Lost(reason.to_owned())
    }

    /// The receiver does not let this station in: neither this image nor another.
    fn refuse(&self, problem: String) -> DeliveryError {
        let refused = LinkError::Refused {
            address: self.address.clone(),
            problem,
        };
        let reason = refused.to_string();
        // Known before the others hear that the connection is gone.
        self.refusal.set(reason.clone());
        self.lose(&reason);
        DeliveryError::Refused(reason)
    }

    async fn put(&self, image: &Owed, attempt: Attempt<'_>) -> Result<Receipt, DeliveryError> {
        let (id, size) = (image.meta.id, image.payload.size());
        if size > self.limit {
            return self.side.deliver(image, attempt).await;
        }
        let reader = image.payload.open().await.map_err(unreadable)?;
        let len = u32::try_from(size).unwrap_or(u32::MAX);
        let data = reader.read(0, len).await.map_err(unreadable)?;
        attempt.come().await;
        attempt.pass();
        let meta = attempt.meta(image, self.side.clock());
        let request = proto::PutRequest {
            outbox: self.identity.outbox.to_string(),
            begin: Some(begin_to_proto(&Begin { meta, offset: 0 })),
            crc32c: Some(crc32c(&data)),
            data,
            transmitter: self.identity.transmitter.clone(),
        };
        self.identity.unfinished.begin(id);
        self.identity.limiter.take(size).await;
        let again = self.identity.unfinished.sent(id, 0, size);
        self.identity.wire.add_image_bytes(size, again);
        let mut client = proto::transfer_service_client::TransferServiceClient::new(
            self.dialled.channel.clone(),
        );
        let mut shown = self.dialled.shown.clone();
        trace::show(attempt.trace, &mut shown);
        let shown = MetadataMap::from_headers(shown);
        let request = tonic::Request::from_parts(shown, Default::default(), request);
        let called = tokio::select! {
            biased;
            called = client.put(request) => called,
            // A call has no end of its own when nobody answers any more.
            why = self.closed() => return Err(DeliveryError::Lost(why)),
        };
        let answer = match called {
            Ok(response) => {
                let receipt = response.into_inner().receipt.unwrap_or_default();
                receipt_from_proto(receipt).map_err(|error| self.lose(&error.to_string()))
            }
            Err(status) => Err(self.failed(id, &status)),
        };
        let retried = matches!(
            &answer,
            Err(DeliveryError::Lost(_) | DeliveryError::Refused(_))
        ) || matches!(&answer, Err(DeliveryError::Rejected(reject)) if reject.retryable);
        if !retried {
            self.identity.unfinished.end(id);
        }
        answer
    }
}

#[async_trait]
impl Connection for PutConnection {
    async fn deliver(&self, image: &Owed, attempt: Attempt<'_>) -> Result<Receipt, DeliveryError> {
        match self.put(image, attempt).await {
            // Another image, or the session beside, was turned down, and this one got no answer.
            Err(DeliveryError::Lost(_)) if self.is_refused() => {
                Err(DeliveryError::Refused(self.closed().await))
            }
            delivered => delivered,
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

    async fn losses(&self, losses: Vec<Loss>, standing: Standing) -> Result<(), LinkError> {
        self.side.losses(losses, standing).await
    }

    async fn closed(&self) -> String {
        let reason = tokio::select! {
            reason = self.side.closed() => reason,
            () = self.lost.cancelled() => self.why.lock().clone(),
        };
        self.refusal.get().map_or(reason, str::to_owned)
    }

    fn is_refused(&self) -> bool {
        self.refusal.get().is_some() || self.side.is_refused()
    }

    async fn close(&self) {
        self.side.close().await;
    }
}

impl PutConnection {
    /// The receiver's rejections carry their reason in the metadata; anything else is the
    /// transport's.
    fn failed(&self, id: ImageId, status: &tonic::Status) -> DeliveryError {
        if let Some(words) = self.dialled.refusal.get() {
            return self.refuse(words.to_owned());
        }
        let text = |key| {
            status
                .metadata()
                .get(key)
                .and_then(|value| value.to_str().ok())
        };
        let reason = text("pantelegraph-reason").and_then(|reason| reason.parse().ok());
        // A status with that reason is about this image; whoever is not let in gets one without.
        let is_of_image = reason == Some(RejectReason::Forbidden);
        if let Some(denial) = denial(status)
            && !(is_of_image && denial == Denial::Forbidden)
        {
            let dialler = &self.identity.dialler;
            return self.refuse(dialler.advise(denial, status.message()));
        }
        let Some(reason) = reason else {
            return match too_much(id, status) {
                Some(reject) => reject.into(),
                None => self.lose(&self.dialled.refusal.explain(words(status))),
            };
        };
        let mut reject = Reject::new(id, reason, status.message());
        reject.retryable = is_of_image || text("pantelegraph-retryable") == Some("true");
        reject.quarantined = text("pantelegraph-quarantined") == Some("true");
        let pushback = text("grpc-retry-pushback-ms");
        reject.retry_after_ms = pushback.and_then(|time| time.parse().ok());
        reject.into()
    }
}

/// What a status without the receiver's words says of the image, if it is not the connection's end.
fn too_much(id: ImageId, status: &tonic::Status) -> Option<Reject> {
    let reason = match status.code() {
        tonic::Code::OutOfRange => RejectReason::Limit,
        // Of a receiver's library, or of something between that is busy, which passes.
        tonic::Code::ResourceExhausted => RejectReason::Unavailable,
        _ => return None,
    };
    let message = format!(
        "{}; if it is too large, lower TRANSMITTER_MESSAGE_SIZE or raise RECEIVER_MAX_MESSAGE_SIZE",
        status.message()
    );
    Some(Reject::new(id, reason, message))
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;
    use crate::config::GrpcCall;
    use crate::link::session::{Session, SessionConnection};
    use crate::link::tests::secured::{deliver, identity, options};

    #[test]
    fn something_between_that_is_busy_loses_no_image() {
        let asked = |status| too_much(ImageId::new(), &status).map(|reject| reject.retryable);
        assert_eq!(asked(tonic::Status::resource_exhausted("busy")), Some(true));
        assert_eq!(asked(tonic::Status::out_of_range("large")), Some(false));
        assert_eq!(asked(tonic::Status::unavailable("gone")), None);
    }

    /// One to a receiver that never answers.
    fn connection() -> (Arc<PutConnection>, Arc<Session>) {
        let (options, identity) = (options(GrpcCall::Put), identity(Default::default()));
        let (outgoing, _) = tokio::sync::mpsc::channel(1);
        let address = "http://receiver".to_owned();
        let side = Session::new(outgoing, address.clone(), &options, &identity);
        type Never = std::io::Result<hyper_util::rt::TokioIo<tokio::io::DuplexStream>>;
        let connector = tower::service_fn(|_: http::Uri| std::future::pending::<Never>());
        let endpoint = tonic::transport::Endpoint::from_static("http://receiver");
        let connection = PutConnection {
            dialled: Dialled {
                channel: endpoint.connect_with_connector_lazy(connector),
                shown: Default::default(),
                refusal: Refusal::default(),
            },
            side: Arc::new(SessionConnection(Arc::clone(&side))),
            address,
            limit: 1 << 20,
            identity,
            lost: CancellationToken::new(),
            why: Mutex::default(),
            refusal: Refusal::default(),
        };
        (Arc::new(connection), side)
    }

    #[tokio::test]
    async fn images_beside_one_that_is_turned_down_were_not_attempted() {
        for by_side in [false, true] {
            let (connection, side) = connection();
            let refuse = async {
                tokio::task::yield_now().await;
                match by_side {
                    true => side.refuse("Token expired".to_owned()),
                    false => {
                        let status = tonic::Status::unauthenticated("Token expired");
                        let failed = connection.failed(ImageId::new(), &status);
                        assert!(matches!(failed, DeliveryError::Refused(_)), "{failed:?}");
                    }
                }
            };
            let (delivered, ()) = tokio::join!(deliver(&*connection, 1 << 10), refuse);
            match delivered {
                Err(DeliveryError::Refused(words)) => {
                    assert!(
                        words.contains("let this station in: Token expired"),
                        "{words}"
                    );
                }
                other => panic!("{other:?}"),
            }
            assert!(connection.is_refused());
        }
        let (connection, side) = connection();
        side.lose("the line broke".to_owned());
        let delivered = deliver(&*connection, 1 << 10).await;
        assert!(
            matches!(delivered, Err(DeliveryError::Lost(_))),
            "{delivered:?}"
        );
        assert!(!connection.is_refused());
    }

    #[tokio::test]
    async fn an_image_of_somebody_else_does_not_end_the_connection() {
        let (connection, _side) = connection();
        let id = ImageId::new();
        let mut status = tonic::Status::permission_denied("it is cam-2's");
        let reason = MetadataValue::from_static("forbidden");
        status.metadata_mut().insert("pantelegraph-reason", reason);
        match connection.failed(id, &status) {
            DeliveryError::Rejected(reject) => {
                assert_eq!(reject.image_id, Some(id));
                assert_eq!(reject.reason, RejectReason::Forbidden);
                assert!(reject.retryable);
            }
            other => panic!("{other:?}"),
        }
        assert!(!connection.is_refused() && !connection.lost.is_cancelled());
        let gate = tonic::Status::permission_denied("cam-1 lacks the scope upload");
        let failed = connection.failed(id, &gate);
        assert!(matches!(failed, DeliveryError::Refused(_)), "{failed:?}");
        assert!(connection.is_refused() && connection.lost.is_cancelled());
    }
}
