//! The calls that carry chunks.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame as BodyFrame;
use http_body_util::BodyExt;
use prost::Message;
use shared::image::Transport;
use shared::receipt::{ReceiptStatus, Reject, RejectReason};
use shared::security::access::Caller;
use shared::security::rate::Pace;
use shared::wire::framing::{Deframer, Frame, prefixed_head};
use shared::wire::{
    Encoded, ServerMessage, encode_server, proto, receipt_to_proto, reject_to_proto,
};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

use super::TransferService;
use crate::budget::{Holder, REVOKED};
use crate::endpoint::session::{MAX_WAITING_REPLIES, Patience, Session, too_large};
use crate::endpoint::{EXPIRED, expiry};
use crate::intake::Origin;

/// The long-lived session.
pub(super) fn exchange(
    service: TransferService,
    request: Request<Body>,
    caller: &Caller,
) -> Response<Body> {
    let origin = Origin::new(Transport::Grpc, "", caller);
    let pace = pace(&request);
    let (replies, waiting) = mpsc::channel(MAX_WAITING_REPLIES);
    let tasks = service.options.tasks.clone();
    tasks.spawn(async move {
        let credit = service.options.credit;
        let intake = service.intake.clone();
        let patience = patience(&service);
        let memory = intake.budget().holder();
        let mut session = Session::new(
            intake,
            origin,
            credit,
            replies.clone(),
            patience.clone(),
            memory.clone(),
            true,
        )
        .paced(pace);
        let end = converse(&service, &mut session, request.into_body(), memory).await;
        session.close().await;
        if let Some(reason) = end {
            let goodbye = ServerMessage::Goodbye { reason };
            patience.send(&replies, goodbye).await;
        }
    });
    let mut response = Response::new(Body::new(ReplyBody {
        waiting,
        ended: false,
    }));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
}

/// How often the caller may begin an image.
fn pace(request: &Request<Body>) -> Pace {
    let pace = request.extensions().get::<Pace>();
    pace.cloned().unwrap_or_default()
}

fn patience(service: &TransferService) -> Patience {
    Patience {
        idle_timeout: service.options.idle_timeout,
        stop: service.stop.clone(),
    }
}

/// Feeds the request's messages to the session until it ends; the reason when this side ends it.
async fn converse(
    service: &TransferService,
    session: &mut Session,
    mut body: Body,
    memory: Holder,
) -> Option<String> {
    let limit = service.intake.limits().max_message_size.as_usize();
    let mut deframer = Deframer::new(limit + shared::wire::CHUNK_OVERHEAD);
    let mut is_leased = false;
    let caller = session.caller().clone();
    let expired = expiry(&caller);
    tokio::pin!(expired);
    loop {
        while let Some(frame) = deframer.next_frame() {
            let flow = match frame {
                Frame::Message(message) => session.receive(message).await,
                Frame::TooLarge { len } => session.handle(Err(too_large(len, limit))).await,
                Frame::Compressed => {
                    let text = "compressed messages are not taken; images are compressed already";
                    let reject = Reject::new(None, RejectReason::Invalid, text);
                    session.handle(Err(reject)).await
                }
            };
            if let ControlFlow::Break(_) = flow {
                return session.is_revoked().then(|| REVOKED.to_owned());
            }
            is_leased = false;
        }
        if let Some(len) = deframer.awaited().filter(|_| !is_leased) {
            is_leased = true;
            let len = len as u64;
            if !memory.try_lease(len) {
                // Nobody waits for memory while holding some.
                session.flush().await;
                if let Err(revoked) = memory.lease(len).await {
                    return Some(revoked.to_string());
                }
            }
        }
        let piece = tokio::select! {
            biased;
            // These first: there may always be another piece.
            () = memory.revoked() => return Some(REVOKED.to_owned()),
            () = service.stop.cancelled() => return Some("the receiver is stopping".to_owned()),
            () = &mut expired => return Some(EXPIRED.to_owned()),
            () = memory.pressed() => {
                session.flush().await;
                continue;
            }
            piece = body.frame() => piece,
            () = tokio::time::sleep(service.options.idle_timeout) => {
                return Some(format!(
                    "no message for {:?}; RECEIVER_IDLE_TIMEOUT", service.options.idle_timeout
                ));
            }
        };
        match piece {
            Some(Ok(piece)) => {
                if let Ok(data) = piece.into_data() {
                    deframer.push(data);
                }
            }
            Some(Err(error)) => {
                tracing::debug!(
                    transmitter = session.transmitter(),
                    "connection lost: {error}"
                );
                return None;
            }
            None => {
                if deframer.is_mid_message() {
                    tracing::debug!(
                        transmitter = session.transmitter(),
                        "ended inside a message"
                    );
                }
                return None;
            }
        }
    }
}

/// Client streaming: everything up, then one summary down.
pub(super) async fn upload(
    service: TransferService,
    request: Request<Body>,
    caller: &Caller,
) -> Response<Body> {
    let origin = Origin::new(Transport::Grpc, "", caller);
    let pace = pace(&request);
    let (replies, mut waiting) = mpsc::channel(MAX_WAITING_REPLIES);
    let collector = tokio::spawn(async move {
        let mut summary = proto::UploadSummary::default();
        while let Some(reply) = waiting.recv().await {
            count(&mut summary, reply);
        }
        summary
    });
    // In a task of its own: when the stream is reset, and with it this call is dropped, what came is
    // kept to be gone on with.
    let tasks = service.options.tasks.clone();
    let conversation = tasks.spawn(async move {
        let credit = service.options.credit;
        let intake = service.intake.clone();
        let patience = patience(&service);
        let memory = intake.budget().holder();
        let mut session = Session::new(
            intake,
            origin,
            credit,
            replies,
            patience,
            memory.clone(),
            false,
        )
        .paced(pace);
        let end = converse(&service, &mut session, request.into_body(), memory).await;
        session.close().await;
        end
    });
    match conversation.await {
        Ok(None) => {}
        Ok(Some(reason)) if reason == EXPIRED => {
            return Status::unauthenticated(reason).into_http();
        }
        Ok(Some(reason)) => return Status::unavailable(reason).into_http(),
        Err(error) => return Status::internal(error.to_string()).into_http(),
    }
    match collector.await {
        Ok(summary) => {
            let message = Encoded::from(Bytes::from(summary.encode_to_vec()));
            let message = Some(prefixed_head(&message));
            let mut response = Response::new(Body::new(OneMessage {
                message,
                ended: false,
            }));
            let headers = response.headers_mut();
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            response
        }
        Err(error) => Status::internal(error.to_string()).into_http(),
    }
}

/// Receipts and rejections that a summary lists at most; beyond, it only counts.
const MAX_LISTED: usize = 10_000;

fn count(summary: &mut proto::UploadSummary, reply: ServerMessage) {
    match reply {
        ServerMessage::Receipt(receipt) => {
            match receipt.status {
                ReceiptStatus::Stored => {
                    summary.stored += 1;
                    summary.bytes += receipt.size;
                }
                ReceiptStatus::Duplicate => summary.duplicates += 1,
            }
            if summary.receipts.len() < MAX_LISTED {
                summary.receipts.push(receipt_to_proto(&receipt));
            }
        }
        ServerMessage::Reject(reject) => {
            summary.rejected += 1;
            if summary.rejects.len() < MAX_LISTED {
                summary.rejects.push(reject_to_proto(&reject));
            }
        }
        _ => {}
    }
}

fn trailers() -> BodyFrame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    BodyFrame::trailers(trailers)
}

/// Answers as they come, those that are ready together in one DATA frame, then the status.
struct ReplyBody {
    waiting: mpsc::Receiver<ServerMessage>,
    ended: bool,
}

/// Bytes of answers put into one frame at most.
const MAX_BATCH: usize = 16 << 10;

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut batch = BytesMut::new();
        while batch.len() < MAX_BATCH {
            match self.waiting.poll_recv(context) {
                Poll::Ready(Some(message)) => {
                    let encoded = Encoded::from(encode_server(&message));
                    batch.extend_from_slice(&prefixed_head(&encoded));
                }
                Poll::Ready(None) if batch.is_empty() => {
                    self.ended = true;
                    return Poll::Ready(Some(Ok(trailers())));
                }
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(BodyFrame::data(batch.freeze()))))
    }
}

/// One message, then the status.
struct OneMessage {
    message: Option<Bytes>,
    ended: bool,
}

impl http_body::Body for OneMessage {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(BodyFrame::data(message))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(trailers())))
    }
}
