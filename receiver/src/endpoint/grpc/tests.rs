//! Calls that break off, and calls that ask for what cannot be.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use shared::chunk::Segments;
use shared::image::ImageMeta;
use shared::security::access::Caller;
use shared::wire::framing::prefixed_head;
use shared::wire::{Begin, Chunk, ClientMessage, begin_to_proto, encode_client, proto};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::UnaryService;

use super::{Options, TransferService, stream, unary};
use crate::intake::sample::{Rig, meta, picture, push};

type Pieces = mpsc::Sender<Result<Frame<Bytes>, tonic::Status>>;

/// A request whose body is still to come.
fn open() -> (Pieces, Request<Body>) {
    let (pieces, body) = mpsc::channel(16);
    let body = Body::new(StreamBody::new(ReceiverStream::new(body)));
    (pieces, Request::new(body))
}

async fn send(pieces: &Pieces, message: ClientMessage) {
    let encoded = encode_client(message);
    let head = prefixed_head(&encoded);
    for piece in [head, encoded.payload.into_bytes()] {
        pieces.send(Ok(Frame::data(piece))).await.unwrap();
    }
}

async fn begin(pieces: &Pieces, meta: ImageMeta, bytes: &[u8]) {
    let image_id = meta.id;
    send(pieces, ClientMessage::Begin(Begin { meta, offset: 0 })).await;
    let data = Segments::from(bytes.to_vec());
    let chunk = Chunk {
        image_id,
        offset: 0,
        crc32c: None,
        data,
    };
    send(pieces, ClientMessage::Chunk(chunk)).await;
}

#[tokio::test]
async fn what_came_by_an_upload_call_that_is_reset_is_kept() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let options = Options {
        credit: 1 << 20,
        idle_timeout: Duration::from_secs(60),
        tasks: TaskTracker::new(),
    };
    let tasks = options.tasks.clone();
    let stop = CancellationToken::new();
    let service = TransferService::new(rig.intake.clone(), options, stop);
    let (pieces, request) = open();
    begin(&pieces, meta.clone(), &bytes[..300]).await;
    let mut call = Box::pin(stream::upload(service, request, &Caller::Anyone));
    assert!(futures_util::poll!(&mut call).is_pending());
    // Until all of it has been taken.
    pieces.reserve_many(pieces.max_capacity()).await.unwrap();
    drop(call);
    drop(pieces);
    tasks.close();
    tasks.wait().await;
    assert_eq!(rig.intake.held(meta.id).await, Some(300));
    assert!(!rig.intake.is_busy(meta.id));
}

#[tokio::test]
async fn put_that_begins_in_the_middle_is_refused_and_takes_nothing() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    rig.intake.park(upload).await;
    let id = meta.id;
    let begin = Begin { meta, offset: 300 };
    let request = proto::PutRequest {
        begin: Some(begin_to_proto(&begin)),
        data: bytes[300..].to_vec().into(),
        ..Default::default()
    };
    let holder = rig.intake.budget().holder();
    let mut put = unary::Put(rig.intake.clone(), holder, Caller::Anyone);
    let status = put.call(tonic::Request::new(request)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DataLoss, "{status}");
    assert!(status.message().contains("Exchange"), "{status}");
    assert_eq!(rig.intake.held(id).await, Some(300));
}
