//! What the session protocol refuses, over both transports that carry it.

use bytes::Bytes;
use pantelegraph_tests::pictures::{jpeg, png};
use pantelegraph_tests::raw::{RawSession, begin, chunk, end, joined};
use pantelegraph_tests::station::Station;
use prost::Message as _;
use shared::chunk::Segments;
use shared::digest::DigestAlgorithm;
use shared::image::ImageId;
use shared::receipt::{Reject, RejectReason};
use shared::wire::{
    Begin, Chunk, ClientMessage, Hello, PROTOCOL_VERSION, ServerMessage, encode_client, proto,
};

#[derive(Clone, Copy)]
enum Over {
    Grpc,
    WebSocket,
}

impl Over {
    async fn open(self, station: &Station) -> RawSession {
        match self {
            Self::Grpc => RawSession::grpc(station.grpc()).await,
            Self::WebSocket => RawSession::websocket(station.http()).await,
        }
    }

    async fn greeted(self, station: &Station) -> RawSession {
        let mut session = self.open(station).await;
        session.hello().await;
        session
    }
}

macro_rules! over_both {
    ($($test:ident)*) => {
        mod grpc {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(super::Over::Grpc).await;
                }
            )*
        }
        mod websocket {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(super::Over::WebSocket).await;
                }
            )*
        }
    };
}

over_both! {
    a_gigabyte_that_ends_after_ten_bytes_is_truncated
    a_gigabyte_whose_sender_goes_away_is_never_seen
    a_gigabyte_above_the_limit_is_refused_at_its_announcement
    a_flipped_byte_is_found_by_the_sum_of_its_chunk
    a_flipped_byte_without_a_sum_is_found_by_the_digest
    more_bytes_than_declared_are_refused
    a_chunk_at_the_wrong_place_is_refused
    a_chunk_of_nothing_begun_is_refused_once
    the_end_of_nothing_begun_is_refused
    a_message_above_the_limit_is_refused_and_the_session_goes_on
    an_unknown_message_kind_is_refused_by_number
    garbage_is_refused
    an_id_that_is_none_is_refused
    nothing_but_hello_may_come_first
    another_protocol_version_ends_the_session
    a_second_announcement_replaces_the_first
    too_much_metadata_is_refused_by_name
    too_many_chunks_are_refused_by_name
    too_many_unfinished_images_are_refused_by_name
    two_different_digests_are_refused
    an_offset_that_is_not_held_is_refused
    an_image_goes_on_where_another_session_left_it
    a_clock_ping_is_answered_before_any_image
}

/// Checks a rejection, and that a good image follows it.
async fn refused(
    station: &Station,
    session: &mut RawSession,
    reason: RejectReason,
    words: &[&str],
) -> Reject {
    let reject = session.reject().await;
    assert_eq!(reject.reason, reason, "{reject}");
    assert!(!reject.quarantined);
    for word in words {
        assert!(reject.message.contains(word), "{word:?} is not in {reject}");
    }
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
    reject
}

fn announce(
    picture: &pantelegraph_tests::pictures::Picture,
    size: u64,
) -> (ImageId, ClientMessage) {
    let (id, message) = begin(picture);
    let ClientMessage::Begin(mut begin) = message else {
        unreachable!("it is one")
    };
    begin.meta.size = size;
    (id, ClientMessage::Begin(begin))
}

const GIGABYTE: u64 = 1_000_000_000;

async fn a_gigabyte_that_ends_after_ten_bytes_is_truncated(over: Over) {
    let station = Station::start(&["--max-image-size", "2GiB"]).await;
    let mut session = over.greeted(&station).await;
    let (id, begin) = announce(&jpeg(1), GIGABYTE);
    session.send(begin).await;
    session.send(chunk(id, 0, &jpeg(1).bytes[..10])).await;
    session.send(end(id)).await;
    let figures = ["1000000000", "10"];
    let reject = refused(&station, &mut session, RejectReason::Truncated, &figures).await;
    assert_eq!(reject.image_id, Some(id));
    assert!(reject.retryable);
}

async fn a_gigabyte_whose_sender_goes_away_is_never_seen(over: Over) {
    let station = Station::start(&["--max-image-size", "2GiB"]).await;
    let mut session = over.greeted(&station).await;
    let (id, begin) = announce(&jpeg(1), GIGABYTE);
    session.send(begin).await;
    session.send(chunk(id, 0, &jpeg(1).bytes[..10])).await;
    drop(session);
    let mut session = over.greeted(&station).await;
    let good = session.deliver(&png(1)).await;
    let listed = station.listed("stored").await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["image_id"], good.image_id.to_string());
    assert_eq!(station.data().images().len(), 1);
    assert_eq!(station.get(&format!("/v1/images/{id}")).await.status, 404);
}

async fn a_gigabyte_above_the_limit_is_refused_at_its_announcement(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let (id, begin) = announce(&jpeg(1), GIGABYTE);
    session.send(begin).await;
    // What was under way when the refusal came is swallowed.
    session.send(chunk(id, 0, &jpeg(1).bytes)).await;
    session.send(end(id)).await;
    let words = ["RECEIVER_MAX_IMAGE_SIZE", "512MiB", "1000000000"];
    let reject = refused(&station, &mut session, RejectReason::Limit, &words).await;
    assert!(!reject.retryable);
}

async fn a_flipped_byte_is_found_by_the_sum_of_its_chunk(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let picture = jpeg(2);
    let (id, begin) = begin(&picture);
    session.send(begin).await;
    let (first, second) = picture.bytes.split_at(100);
    session.send(chunk(id, 0, first)).await;
    let message = joined(encode_client(chunk(id, 100, second)));
    let mut flipped = message.to_vec();
    *flipped.last_mut().unwrap() ^= 0x10;
    session.send_bytes(flipped).await;
    session.send(end(id)).await;
    let reject = refused(
        &station,
        &mut session,
        RejectReason::ChunkChecksum,
        &["100"],
    )
    .await;
    assert!(reject.retryable && reject.image_id == Some(id));
}

async fn a_flipped_byte_without_a_sum_is_found_by_the_digest(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let picture = jpeg(3);
    let (id, begin) = begin(&picture);
    session.send(begin).await;
    let mut flipped = picture.bytes.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let data = Segments::from(flipped);
    let chunk = Chunk {
        image_id: id,
        offset: 0,
        crc32c: None,
        data,
    };
    session.send(ClientMessage::Chunk(chunk)).await;
    session.send(end(id)).await;
    refused(
        &station,
        &mut session,
        RejectReason::DigestMismatch,
        &["xxh3-128"],
    )
    .await;
}

async fn more_bytes_than_declared_are_refused(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let (id, begin) = announce(&jpeg(4), 50);
    session.send(begin).await;
    session.send(chunk(id, 0, &jpeg(4).bytes)).await;
    session.send(end(id)).await;
    refused(&station, &mut session, RejectReason::Overflow, &["50"]).await;
}

async fn a_chunk_at_the_wrong_place_is_refused(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    for offset in [5, 200, u64::MAX] {
        let picture = jpeg(5);
        let (id, begin) = begin(&picture);
        session.send(begin).await;
        session.send(chunk(id, 0, &picture.bytes[..100])).await;
        session.send(chunk(id, offset, &picture.bytes[100..])).await;
        session.send(end(id)).await;
        let reject = session.reject().await;
        assert_eq!(reject.reason, RejectReason::Offset, "{reject}");
    }
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
}

async fn a_chunk_of_nothing_begun_is_refused_once(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let id = ImageId::new();
    for offset in [0, 3, 6] {
        session.send(chunk(id, offset, b"abc")).await;
    }
    let id_text = id.to_string();
    refused(
        &station,
        &mut session,
        RejectReason::UnknownImage,
        &[&id_text],
    )
    .await;
}

async fn the_end_of_nothing_begun_is_refused(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    session.send(end(ImageId::new())).await;
    refused(&station, &mut session, RejectReason::UnknownImage, &[]).await;
}

async fn a_message_above_the_limit_is_refused_and_the_session_goes_on(over: Over) {
    let station = Station::start(&["--max-message-size", "64KiB"]).await;
    let mut session = over.greeted(&station).await;
    let (id, _) = begin(&jpeg(6));
    session.send(chunk(id, 0, &vec![7; 200 << 10])).await;
    let words = [
        "64KiB",
        "RECEIVER_MAX_MESSAGE_SIZE",
        "TRANSMITTER_CHUNK_SIZE",
    ];
    refused(&station, &mut session, RejectReason::Limit, &words).await;
}

async fn an_unknown_message_kind_is_refused_by_number(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    // Field 99, length-delimited, three bytes.
    session.send_bytes(&[0x9a, 0x06, 3, 1, 2, 3][..]).await;
    refused(
        &station,
        &mut session,
        RejectReason::UnknownMessage,
        &["99"],
    )
    .await;
    session.send_bytes(Bytes::new()).await;
    assert_eq!(session.reject().await.reason, RejectReason::UnknownMessage);
    session.deliver(&png(2)).await;
}

async fn garbage_is_refused(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    // A tag that never ends; a length beyond the message; begins, chunks and a hello of noise.
    let garbage: [&[u8]; 6] = [
        &[0xff; 20],
        &[0x1a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1],
        &[0x12, 4, 0xff, 0xff, 0xff, 0xff],
        &[0x1a, 5, 0x0a, 3, 0xff, 0xfe, 0xfd],
        &[0x1a, 2, 0x1d, 1],
        &[0x0a, 3, 0x12, 9, 9],
    ];
    for message in garbage {
        session.send_bytes(message).await;
        let reject = session.reject().await;
        assert_eq!(
            reject.reason,
            RejectReason::Invalid,
            "{message:?}: {reject}"
        );
    }
    session.send_bytes(garbage[0]).await;
    refused(
        &station,
        &mut session,
        RejectReason::Invalid,
        &["pantelegraph.transfer.v1"],
    )
    .await;
}

async fn an_id_that_is_none_is_refused(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let ids = [
        "",
        "../../../../etc/cron.d/x",
        "00000000-0000-0000-0000-000000000000",
    ];
    for id in ids {
        let begin = proto::Begin {
            image_id: id.to_owned(),
            size: 4,
            ..Default::default()
        };
        let kind = proto::client_message::Kind::Begin(begin);
        let message = proto::ClientMessage {
            kind: Some(kind),
            crc32c: None,
        };
        session.send_bytes(message.encode_to_vec()).await;
        let reject = session.reject().await;
        assert_eq!(reject.reason, RejectReason::Invalid, "{id:?}: {reject}");
        assert!(reject.message.contains("image_id"), "{reject}");
    }
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
}

async fn nothing_but_hello_may_come_first(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.open(&station).await;
    let picture = jpeg(7);
    let (id, begin) = begin(&picture);
    for message in [begin, chunk(id, 0, &picture.bytes), end(id)] {
        session.send(message).await;
        let reject = session.reject().await;
        assert_eq!(reject.reason, RejectReason::Protocol);
        assert!(reject.message.contains("hello"), "{reject}");
    }
    session.hello().await;
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
}

async fn another_protocol_version_ends_the_session(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.open(&station).await;
    let hello = Hello {
        protocol_version: 9,
        ..Hello::default()
    };
    session.send(ClientMessage::Hello(hello)).await;
    let reject = session.reject().await;
    assert_eq!(reject.reason, RejectReason::Protocol);
    assert!(reject.message.contains('9'), "{reject}");
    assert!(
        reject.message.contains(&PROTOCOL_VERSION.to_string()),
        "{reject}"
    );
    let next = session.next().await;
    assert!(next.is_err(), "{next:?} after the end");
    over.greeted(&station).await.deliver(&png(1)).await;
}

async fn a_second_announcement_replaces_the_first(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let picture = jpeg(8);
    let (id, message) = begin(&picture);
    let ClientMessage::Begin(again) = message.clone() else {
        unreachable!("it is one")
    };
    session.send(message).await;
    session.send(chunk(id, 0, &picture.bytes[..100])).await;
    session.send(ClientMessage::Begin(again)).await;
    session.send(chunk(id, 0, &picture.bytes)).await;
    session.send(end(id)).await;
    let receipt = session.answer().await.unwrap();
    assert_eq!(receipt.digest, DigestAlgorithm::Xxh3.digest(&picture.bytes));
    station.shows_only(&[id]).await;
}

async fn too_much_metadata_is_refused_by_name(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let (id, message) = begin(&jpeg(9));
    let ClientMessage::Begin(mut begin) = message else {
        unreachable!("it is one")
    };
    begin.meta.name = Some("n".repeat(20_000));
    session.send(ClientMessage::Begin(begin)).await;
    session.send(end(id)).await;
    let words = ["RECEIVER_MAX_METADATA", "16KiB"];
    refused(&station, &mut session, RejectReason::Limit, &words).await;
}

async fn too_many_chunks_are_refused_by_name(over: Over) {
    let station = Station::start(&["--max-chunks", "3"]).await;
    let mut session = over.greeted(&station).await;
    let picture = jpeg(10);
    let (id, begin) = begin(&picture);
    session.send(begin).await;
    for (offset, byte) in (0..).zip(&picture.bytes[..5]) {
        session.send(chunk(id, offset, &[*byte])).await;
    }
    session.send(end(id)).await;
    let words = ["RECEIVER_MAX_CHUNKS", "3"];
    refused(&station, &mut session, RejectReason::Limit, &words).await;
}

async fn too_many_unfinished_images_are_refused_by_name(over: Over) {
    let station = Station::start(&["--max-unfinished", "2"]).await;
    let mut session = over.greeted(&station).await;
    let mut ids = Vec::new();
    for seed in 0..3 {
        let (id, begin) = begin(&jpeg(seed));
        session.send(begin).await;
        ids.push(id);
    }
    let reject = session.reject().await;
    assert_eq!(
        (reject.reason, reject.image_id),
        (RejectReason::Limit, Some(ids[2]))
    );
    assert!(
        reject.message.contains("RECEIVER_MAX_UNFINISHED"),
        "{reject}"
    );
    assert!(
        reject.retryable,
        "there is room once another one is finished"
    );
    session.send(chunk(ids[0], 0, &jpeg(0).bytes)).await;
    session.send(end(ids[0])).await;
    assert_eq!(session.answer().await.unwrap().image_id, ids[0]);
    session.deliver(&png(1)).await;
}

async fn two_different_digests_are_refused(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let picture = jpeg(11);
    let (image_id, begin) = begin(&picture);
    session.send(begin).await;
    session.send(chunk(image_id, 0, &picture.bytes)).await;
    let digest = Some(DigestAlgorithm::Xxh3.digest(b"something else"));
    session.send(ClientMessage::End { image_id, digest }).await;
    refused(
        &station,
        &mut session,
        RejectReason::Invalid,
        &["begin", "end"],
    )
    .await;
}

async fn an_offset_that_is_not_held_is_refused(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let (id, message) = begin(&jpeg(12));
    let ClientMessage::Begin(mut begin) = message else {
        unreachable!("it is one")
    };
    begin.offset = 50;
    session.send(ClientMessage::Begin(begin)).await;
    session.send(chunk(id, 50, &jpeg(12).bytes[50..])).await;
    session.send(end(id)).await;
    refused(
        &station,
        &mut session,
        RejectReason::Offset,
        &["50", "0 bytes"],
    )
    .await;
}

async fn an_image_goes_on_where_another_session_left_it(over: Over) {
    let station = Station::start(&[]).await;
    let picture = jpeg(13);
    let (id, message) = begin(&picture);
    let ClientMessage::Begin(first) = message else {
        unreachable!("it is one")
    };
    let mut session = over.greeted(&station).await;
    session.send(ClientMessage::Begin(first.clone())).await;
    session.send(chunk(id, 0, &picture.bytes[..200])).await;
    session.finish().await;

    let mut session = over.open(&station).await;
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        unfinished: vec![id, ImageId::new()],
        ..Hello::default()
    };
    session.send(ClientMessage::Hello(hello)).await;
    let Ok(ServerMessage::Welcome(welcome)) = session.next().await else {
        panic!("no welcome")
    };
    assert_eq!(welcome.held, [(id, 200)]);
    session
        .send(ClientMessage::Begin(Begin {
            offset: 200,
            ..first
        }))
        .await;
    session.send(chunk(id, 200, &picture.bytes[200..])).await;
    session.send(end(id)).await;
    let receipt = session.answer().await.unwrap();
    assert_eq!(receipt.digest, DigestAlgorithm::Xxh3.digest(&picture.bytes));
    station.shows_only(&[id]).await;
    let stored = station.get(&format!("/v1/images/{id}")).await;
    assert_eq!(stored.body, picture.bytes);
}

async fn a_clock_ping_is_answered_before_any_image(over: Over) {
    let station = Station::start(&[]).await;
    let mut session = over.greeted(&station).await;
    let t1 = shared::clock::UnixNanos::now();
    session.send(ClientMessage::ClockPing { id: 77, t1 }).await;
    match session.next().await {
        Ok(ServerMessage::ClockPong {
            id: 77,
            t1: back,
            t2,
            t3,
        }) => {
            assert_eq!(back, t1);
            assert!(t1 <= t2 && t2 <= t3, "one machine, one clock");
        }
        other => panic!("{other:?}"),
    }
}
