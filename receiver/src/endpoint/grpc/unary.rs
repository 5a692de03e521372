//! The calls with small messages.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use shared::chunk::Segments;
use shared::image::Transport;
use shared::receipt::{Reject, RejectReason};
use shared::security::access::Caller;
use shared::settings::units::ByteSize;
use shared::trace::{self, TraceContext};
use shared::wire::{begin_from_proto, event_to_proto, proto, receipt_to_proto};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Request, Response, Status};

use crate::budget::Holder;
use crate::endpoint::{EXPIRED, expiry};
use crate::intake::{Begun, Intake, Origin};

type Reply<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// One image in one message.
pub(super) struct Put(pub(super) Arc<Intake>, pub(super) Holder, pub(super) Caller);

impl tonic::server::UnaryService<proto::PutRequest> for Put {
    type Response = proto::PutResponse;
    type Future = Reply<proto::PutResponse>;

    fn call(&mut self, request: Request<proto::PutRequest>) -> Self::Future {
        let (intake, caller) = (Arc::clone(&self.0), self.2.clone());
        // From here on it is this side that takes its time.
        self.1.serve();
        Box::pin(async move {
            let trace = trace::context_of(request.metadata().as_ref());
            match put(&intake, request.into_inner(), &caller, trace).await {
                Ok(response) => Ok(Response::new(response)),
                Err(reject) => Err(status_of(&reject)),
            }
        })
    }
}

async fn put(
    intake: &Arc<Intake>,
    request: proto::PutRequest,
    caller: &Caller,
    trace: Option<TraceContext>,
) -> Result<proto::PutResponse, Reject> {
    let begin = request.begin.unwrap_or_default();
    let mut begin = begin_from_proto(begin)?;
    // Those who do not write traceparent into the message have programs that write it beside.
    begin.meta.trace = begin.meta.trace.or(trace);
    let limit = intake.limits().max_message_size.as_usize();
    if request.data.len() > limit {
        return Err(message_too_large(limit));
    }
    let outbox = match request.outbox.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error| {
            let message = format!("outbox: {error}");
            Reject::new(begin.meta.id, RejectReason::Invalid, message)
        })?),
    };
    let origin = Origin::new(Transport::Grpc, &request.transmitter, caller).with_outbox(outbox);
    if begin.offset > 0 {
        // Before it takes what is held of the image from anybody.
        let message = format!(
            "put carries whole images, but begin.offset is {}; send the image from byte 0, or the \
             rest of it by Exchange",
            begin.offset
        );
        let reject = Reject::new(begin.meta.id, RejectReason::Offset, message);
        return Err(intake.turn_down(&begin.meta, &origin, reject));
    }
    let receipt = match intake.begin(begin, &origin).await? {
        Begun::Present(receipt) => receipt,
        Begun::Upload(mut upload) => {
            upload
                .push(0, request.crc32c, Segments::from(request.data))
                .await?;
            upload.finish(None).await?
        }
    };
    Ok(proto::PutResponse {
        receipt: Some(receipt_to_proto(&receipt)),
    })
}

/// tonic answers a message above its limit by `OUT_OF_RANGE` and two numbers. This says what to do,
/// and in the same words as the other calls.
pub(super) fn name_the_limit(response: http::Response<Body>, limit: usize) -> http::Response<Body> {
    let code = response.headers().get(Status::GRPC_STATUS);
    if code.is_none_or(|code| Code::from_bytes(code.as_bytes()) != Code::OutOfRange) {
        return response;
    }
    status_of(&message_too_large(limit)).into_http()
}

fn message_too_large(limit: usize) -> Reject {
    let limit = ByteSize(limit as u64);
    let message = format!(
        "message exceeds the receiver's limit of {limit}; raise RECEIVER_MAX_MESSAGE_SIZE, or send \
         the image in chunks by Exchange (TRANSMITTER_GRPC_CALL=exchange)"
    );
    Reject::new(None, RejectReason::Limit, message)
}

/// The status for a rejection, with its facts as metadata.
pub(in crate::endpoint) fn status_of(reject: &Reject) -> Status {
    let code = match reject.reason {
        RejectReason::Conflict => Code::AlreadyExists,
        RejectReason::Limit | RejectReason::Rate | RejectReason::Quota => Code::ResourceExhausted,
        RejectReason::Unavailable => Code::Unavailable,
        RejectReason::Internal => Code::Internal,
        RejectReason::Superseded => Code::Aborted,
        RejectReason::Forbidden => Code::PermissionDenied,
        RejectReason::UnknownMessage => Code::Unimplemented,
        RejectReason::Protocol | RejectReason::UnknownImage => Code::FailedPrecondition,
        RejectReason::Truncated
        | RejectReason::Overflow
        | RejectReason::ChunkChecksum
        | RejectReason::DigestMismatch
        | RejectReason::Offset => Code::DataLoss,
        RejectReason::NotAnImage
        | RejectReason::TruncatedImage
        | RejectReason::Mislabelled
        | RejectReason::CorruptImage
        | RejectReason::Empty
        | RejectReason::Invalid => Code::InvalidArgument,
    };
    let mut status = Status::new(code, reject.message.clone());
    let metadata = status.metadata_mut();
    metadata.insert("pantelegraph-reason", ascii(reject.reason.key()));
    metadata.insert(
        "pantelegraph-retryable",
        ascii(if reject.retryable { "true" } else { "false" }),
    );
    metadata.insert(
        "pantelegraph-quarantined",
        ascii(if reject.quarantined { "true" } else { "false" }),
    );
    if let Some(time) = reject.retry_after_ms {
        // Known to clients of gRPC (proposal A6).
        metadata.insert("grpc-retry-pushback-ms", time.into());
    }
    status
}

fn ascii(text: &'static str) -> tonic::metadata::AsciiMetadataValue {
    tonic::metadata::AsciiMetadataValue::from_static(text)
}

/// Live events.
pub(super) struct Watch(
    pub(super) Arc<Intake>,
    pub(super) CancellationToken,
    pub(super) Caller,
);

/// Events that may wait for a slow watcher.
const MAX_WAITING_EVENTS: usize = 64;

impl tonic::server::ServerStreamingService<proto::WatchRequest> for Watch {
    type Response = proto::Event;
    type ResponseStream = ReceiverStream<Result<proto::Event, Status>>;
    type Future = Reply<Self::ResponseStream>;

    fn call(&mut self, request: Request<proto::WatchRequest>) -> Self::Future {
        let (sender, receiver) = mpsc::channel(MAX_WAITING_EVENTS);
        tokio::spawn(forward(
            self.0.watch(),
            request.into_inner(),
            sender,
            self.1.clone(),
            self.2.clone(),
        ));
        Box::pin(async move { Ok(Response::new(ReceiverStream::new(receiver))) })
    }
}

async fn forward(
    mut events: broadcast::Receiver<Arc<shared::wire::Event>>,
    wanted: proto::WatchRequest,
    sender: mpsc::Sender<Result<proto::Event, Status>>,
    stop: CancellationToken,
    caller: Caller,
) {
    let expired = expiry(&caller);
    tokio::pin!(expired);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = sender.closed() => return,
            () = stop.cancelled() => return,
            () = &mut expired => {
                let _ = sender.try_send(Err(Status::unauthenticated(EXPIRED)));
                return;
            }
        };
        let event = match event {
            Ok(event) => {
                let other_run = !wanted.run.is_empty() && event.run != wanted.run;
                let other_transport =
                    !wanted.transport.is_empty() && event.transport.key() != wanted.transport;
                if other_run || other_transport {
                    continue;
                }
                event_to_proto(&event)
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => proto::Event {
                at_unix_ns: shared::clock::UnixNanos::now().0,
                kind: Some(proto::event::Kind::Missed(missed)),
                ..Default::default()
            },
            Err(broadcast::error::RecvError::Closed) => return,
        };
        tokio::select! {
            sent = sender.send(Ok(event)) => if sent.is_err() {
                return;
            },
            () = stop.cancelled() => return,
            // Who does not read is not told why.
            () = &mut expired => return,
        }
    }
}
