//! What only one of the transports can do wrong.

use bytes::{BufMut, Bytes, BytesMut};
use pantelegraph_tests::http::{RawHttp, get};
use pantelegraph_tests::pictures::{jpeg, png};
use pantelegraph_tests::raw::{End, RawSession, begin, chunk, joined};
use pantelegraph_tests::station::Station;
use pantelegraph_tests::within;
use shared::receipt::RejectReason;
use shared::wire::encode_client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn a_text_frame_closes_the_websocket_with_1003() {
    let station = Station::start(&[]).await;
    let mut session = RawSession::websocket(station.http()).await;
    session.hello().await;
    session
        .send_websocket(Message::text("{\"hello\": true}"))
        .await;
    match session.next().await {
        Err(End::Closed { code: 1003, reason }) => {
            assert!(reason.contains("binary"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let mut session = RawSession::websocket(station.http()).await;
    session.hello().await;
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
}

#[tokio::test]
async fn a_message_far_above_the_limit_closes_the_websocket_with_1009() {
    let station = Station::start(&["--max-message-size", "64KiB"]).await;
    let mut session = RawSession::websocket(station.http()).await;
    session.hello().await;
    session
        .send_websocket(Message::binary(vec![1; 8 << 20]))
        .await;
    match session.next().await {
        Err(End::Closed { code: 1009, reason }) => {
            assert!(reason.contains("RECEIVER_MAX_MESSAGE_SIZE"), "{reason}");
            assert!(reason.contains("64KiB"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let mut session = RawSession::websocket(station.http()).await;
    session.hello().await;
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
}

#[tokio::test]
async fn pings_of_websocket_are_answered_and_change_nothing() {
    let station = Station::start(&[]).await;
    let mut session = RawSession::websocket(station.http()).await;
    session.hello().await;
    session
        .send_websocket(Message::Ping(Bytes::from_static(b"alive?")))
        .await;
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
}

#[tokio::test]
async fn another_subprotocol_is_refused() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    raw.write(
        "GET /v1/stream HTTP/1.1\r\nHost: station\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: chat\r\n\r\n",
    )
    .await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains("pantelegraph.v1")
    );
    let plain = get(station.http(), "/v1/stream").await;
    assert_eq!((plain.status, plain.header("upgrade")), (426, "websocket"));
}

#[tokio::test]
async fn a_grpc_message_many_times_the_limit_is_skipped_and_the_stream_goes_on() {
    let station = Station::start(&["--max-message-size", "64KiB"]).await;
    let mut session = RawSession::grpc(station.grpc()).await;
    session.hello().await;
    session.send_bytes(vec![9; 8 << 20]).await;
    let reject = session.reject().await;
    assert_eq!(reject.reason, RejectReason::Limit);
    assert!(
        reject.message.contains("RECEIVER_MAX_MESSAGE_SIZE"),
        "{reject}"
    );
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
}

#[tokio::test]
async fn a_compressed_grpc_message_is_refused_and_the_stream_goes_on() {
    let station = Station::start(&[]).await;
    let mut session = RawSession::grpc(station.grpc()).await;
    session.hello().await;
    session.send_unframed(&[1, 0, 0, 0, 3, 7, 7, 7][..]).await;
    let reject = session.reject().await;
    assert_eq!(reject.reason, RejectReason::Invalid);
    assert!(reject.message.contains("compressed"), "{reject}");
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
}

#[tokio::test]
async fn a_grpc_stream_that_ends_inside_a_message_leaves_nothing() {
    let station = Station::start(&[]).await;
    let mut session = RawSession::grpc(station.grpc()).await;
    session.hello().await;
    let good = session.deliver(&png(1)).await;
    let picture = jpeg(1);
    let (id, begin) = begin(&picture);
    session.send(begin).await;
    let message = joined(encode_client(chunk(id, 0, &picture.bytes)));
    let mut cut = BytesMut::new();
    cut.put_u8(0);
    cut.put_u32(u32::try_from(message.len()).unwrap());
    cut.extend_from_slice(&message[..message.len() / 2]);
    session.send_unframed(cut).await;
    assert_eq!(session.finish().await, End::Stream);
    station.shows_only(&[good.image_id]).await;
}

#[tokio::test]
async fn a_grpc_call_that_does_not_exist_is_refused_by_name() {
    let station = Station::start(&[]).await;
    let answer = pantelegraph_tests::http::post_grpc(
        station.grpc(),
        "/pantelegraph.transfer.v1.TransferService/Teleport",
        Bytes::new(),
    )
    .await;
    assert_eq!(answer.header("grpc-status"), "12", "unimplemented");
    assert!(
        answer.header("grpc-message").contains("Teleport"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn noise_instead_of_http2_is_cut_off_and_others_are_served() {
    let station = Station::start(&[]).await;
    let mut noise = RawHttp::connect(station.grpc()).await;
    noise.write([0x55; 4_096]).await;
    noise.end().await;
    let mut session = RawSession::grpc(station.grpc()).await;
    session.hello().await;
    let good = session.deliver(&png(1)).await;
    station.shows_only(&[good.image_id]).await;
}

#[tokio::test]
async fn a_connection_that_never_says_what_it_speaks_is_closed() {
    let station = Station::start(&["--idle-timeout", "100ms"]).await;
    for address in [station.grpc(), station.http()] {
        for beginning in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
            let mut silent = TcpStream::connect(address).await.unwrap();
            silent.write_all(beginning).await.unwrap();
            // What is said in parting does not matter; a reset is a way to close, too.
            let mut said = Vec::new();
            let _ = within(
                "the end of a silent connection",
                silent.read_to_end(&mut said),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn a_websocket_keeps_its_place_among_the_connections_that_are_allowed() {
    let station = Station::start(&["--max-connections", "1"]).await;
    let mut session = RawSession::websocket(station.http()).await;
    session.hello().await;
    let mut waiting = RawHttp::connect(station.http()).await;
    waiting
        .write("GET /healthz HTTP/1.1\r\nHost: station\r\nConnection: close\r\n\r\n")
        .await;
    let mut answer = std::pin::pin!(waiting.answer());
    // Time enough for the other to be answered, if it were let in.
    for _ in 0..20 {
        let picture = png(1);
        tokio::select! {
            biased;
            _ = &mut answer => panic!("two connections where one is allowed"),
            _ = session.deliver(&picture) => {}
        }
    }
    session.finish().await;
    let answer = within("the other's turn", answer).await.unwrap();
    assert_eq!(answer.status, 200);
}
