//! A receiver whose disk has less free than it is to leave.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use pantelegraph_tests::pictures::png;
use pantelegraph_tests::raw::{RawSession, begin, chunk, end};
use pantelegraph_tests::station::Station;
use pantelegraph_tests::within;
use shared::receipt::RejectReason;

#[tokio::test]
async fn without_room_images_are_turned_down_and_everybody_is_told_why() {
    // More than any machine of a test has.
    let station = Station::start(&["--min-free", "1048576MiB"]).await;
    let ready = station.get("/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    let disk = &ready.json()["checks"]["disk"];
    assert_eq!(disk["state"], "low", "{disk}");
    assert!(disk["free_bytes"].as_u64() < disk["floor_bytes"].as_u64());
    let problem = disk["problem"].as_str().unwrap();
    assert!(problem.contains("RECEIVER_MIN_FREE"), "{disk}");
    let mut session = RawSession::grpc(station.grpc()).await;
    session.hello().await;
    let picture = png(1);
    let (id, begin) = begin(&picture);
    session.send(begin).await;
    session.send(chunk(id, 0, &picture.bytes)).await;
    session.send(end(id)).await;
    let reject = session.answer().await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Unavailable);
    assert!(reject.retryable && reject.message.contains("no space"));
    within("the figure", async {
        loop {
            let figures = station.get("/metrics").await;
            let text = String::from_utf8(figures.body.to_vec()).unwrap();
            if text.lines().any(|line| line == "pantelegraph_store_full 1") {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(session);
    assert!(station.data().images().is_empty());
    // What was stored before is still there, and healthy is not the same as ready.
    assert_eq!(station.get("/healthz").await.status, 200);
    station.stop().await;
}
