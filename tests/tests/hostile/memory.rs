//! Clients that send much, finish nothing and stay: they share the memory that the setting allows,
//! and a good client still gets through. Each kind by itself, so that none hides behind another.

use std::net::SocketAddr;

use pantelegraph_tests::http::{RawHttp, get};
use pantelegraph_tests::pictures::{large, png};
use pantelegraph_tests::raw::{RawSession, begin, chunk};
use pantelegraph_tests::station::Station;
use pantelegraph_tests::within;
use shared::image::ImageId;
use shared::wire::ClientMessage;
use tokio::task::JoinSet;

/// Clients of a kind.
const CLIENTS: usize = 60;

/// What each of them leaves in memory.
const STALLED: usize = 900_000;

/// What all of them may take: of the 18 MiB that the program leaves of the setting, seven tenths are not
/// the allocator's, and a quarter of those is for windows. Together they send more than five times that.
const MOST: u64 = (18 << 20) / 10 * 7 / 4 * 3;

const FLAGS: [&str; 8] = [
    "--max-memory",
    "24MiB",
    "--credit",
    "2MiB",
    "--max-message-size",
    "1MiB",
    "--max-connections",
    "200",
];

/// A figure of the receiver.
async fn figure(station: &Station, name: &str) -> u64 {
    let text = get(station.http(), "/metrics").await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse::<f64>().unwrap() as u64
}

/// Half a message of `Exchange`.
async fn half_a_grpc_message(station: (SocketAddr, SocketAddr)) -> RawSession {
    let mut session = RawSession::grpc(station.0).await;
    session.hello().await;
    let mut half = vec![0];
    half.extend_from_slice(&1_000_000_u32.to_be_bytes());
    half.resize(STALLED, 1);
    session.send_unframed(half).await;
    session
}

const HANDSHAKE: &str = "GET /v1/stream HTTP/1.1\r\nHost: station\r\nUpgrade: websocket\r\n\
     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A binary frame of `length` bytes, of which `sent` come, masked with zeros.
fn frame(flags: u8, length: u64, sent: usize) -> Vec<u8> {
    let mut frame = vec![flags, 0x80 | 127];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.resize(frame.len() + sent, 1);
    frame
}

async fn shaken(station: (SocketAddr, SocketAddr)) -> RawHttp {
    let mut raw = RawHttp::connect(station.1).await;
    raw.write(HANDSHAKE).await;
    raw
}

/// Half a frame.
async fn half_a_frame(station: (SocketAddr, SocketAddr)) -> RawHttp {
    let mut raw = shaken(station).await;
    raw.write(frame(0x82, 1_000_000, STALLED)).await;
    raw
}

/// Fragments of a message that does not end, with a ping between any two.
async fn fragments(station: (SocketAddr, SocketAddr)) -> RawHttp {
    let mut raw = shaken(station).await;
    for part in 0..9 {
        let first = if part == 0 { 0x02 } else { 0x00 };
        raw.write(frame(first, 100_000, STALLED / 9)).await;
        raw.write([0x89, 0x80, 0, 0, 0, 0]).await;
    }
    raw
}

/// Images that are begun, of which as much comes as is gathered before it is written.
async fn begun_images(station: (SocketAddr, SocketAddr)) -> RawSession {
    let mut session = RawSession::grpc(station.0).await;
    session.hello().await;
    let picture = large(400_000, 1);
    for _ in 0..9 {
        let (id, begin) = begin(&picture);
        session.send(begin).await;
        session
            .send(chunk(id, 0, &picture.bytes[..STALLED / 9]))
            .await;
    }
    session
}

/// Images that are begun, of which nothing comes but long names.
async fn long_names(station: (SocketAddr, SocketAddr)) -> RawSession {
    let mut session = RawSession::websocket(station.1).await;
    session.hello().await;
    let picture = large(400_000, 1);
    for _ in 0..50 {
        let (_, mut message) = begin(&picture);
        if let ClientMessage::Begin(begin) = &mut message {
            begin.meta.name = Some("n".repeat(15_000));
        }
        session.send(message).await;
    }
    session
}

/// Half a report of losses.
async fn half_a_report(station: (SocketAddr, SocketAddr)) -> RawHttp {
    let mut raw = RawHttp::connect(station.1).await;
    raw.write("POST /v1/losses HTTP/1.1\r\nHost: station\r\nContent-Length: 1000000\r\n\r\n")
        .await;
    raw.write(vec![1; STALLED]).await;
    raw
}

/// Half of an image that is too small to be written before its end.
async fn half_an_image(station: (SocketAddr, SocketAddr)) -> RawHttp {
    let mut raw = RawHttp::connect(station.1).await;
    let id = ImageId::new().to_string();
    raw.write_put(&id, "Content-Length: 1000000\r\n").await;
    raw.write(vec![1; STALLED]).await;
    raw
}

/// Lets many clients stall, and a good one deliver over each transport. Connections have to give way
/// for it where what came cannot go to disk.
async fn survives<T, F>(stall: impl Fn((SocketAddr, SocketAddr)) -> F, gives_way: bool)
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let station = Station::start(&FLAGS).await;
    let addresses = (station.grpc(), station.http());
    let mut stalled = JoinSet::new();
    for _ in 0..CLIENTS {
        let stalling = stall(addresses);
        stalled.spawn(async move {
            let client = stalling.await;
            // Stays until the test is over.
            std::future::pending::<()>().await;
            drop(client);
        });
    }
    let crowded = async {
        while figure(&station, "pantelegraph_memory_leased_peak_bytes").await < MOST * 3 / 4 {}
    };
    within("a crowd", crowded).await;
    let mut good = RawSession::grpc(station.grpc()).await;
    good.hello().await;
    let first = good.deliver(&large(800_000, 7)).await;
    let mut good = RawSession::websocket(station.http()).await;
    good.hello().await;
    let second = good.deliver(&png(8)).await;
    // What the others began may stay, to be gone on with.
    let stored = station.listed("stored").await;
    let ids: Vec<&str> = stored
        .iter()
        .filter_map(|image| image["image_id"].as_str())
        .collect();
    assert_eq!(
        ids,
        [first.image_id, second.image_id].map(|id| id.to_string())
    );

    // All that is too much gave way in the end.
    let peak = figure(&station, "pantelegraph_memory_leased_peak_bytes").await;
    assert!(peak <= MOST, "{peak} bytes were leased");
    let revoked = figure(&station, "pantelegraph_memory_revoked_total").await;
    assert!(revoked > 0 || !gives_way, "nobody gave way");
    drop(stalled);
    let calm = async { while figure(&station, "pantelegraph_memory_leased_bytes").await > 0 {} };
    within("everything to be given back", calm).await;
}

#[tokio::test]
async fn half_messages_over_grpc_leave_room_for_a_good_client() {
    survives(half_a_grpc_message, true).await;
}

#[tokio::test]
async fn half_frames_leave_room_for_a_good_client() {
    survives(half_a_frame, true).await;
}

#[tokio::test]
async fn fragments_without_an_end_leave_room_for_a_good_client() {
    survives(fragments, true).await;
}

#[tokio::test]
async fn images_without_an_end_leave_room_for_a_good_client() {
    survives(begun_images, false).await;
}

#[tokio::test]
async fn long_names_leave_room_for_a_good_client() {
    survives(long_names, true).await;
}

#[tokio::test]
async fn half_reports_leave_room_for_a_good_client() {
    survives(half_a_report, true).await;
}

#[tokio::test]
async fn half_images_over_rest_leave_room_for_a_good_client() {
    survives(half_an_image, false).await;
}
