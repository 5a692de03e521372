//! Losses and standings that cannot be, and what the receiver makes of those that can.

use http::HeaderMap;
use pantelegraph_tests::http::RawHttp;
use pantelegraph_tests::pictures::png;
use pantelegraph_tests::raw::{RawSession, begin, chunk, end};
use pantelegraph_tests::station::Station;
use shared::clock::UnixNanos;
use shared::image::{ImageId, OutboxId};
use shared::receipt::RejectReason;
use shared::wire::{
    ClientMessage, Hello, Loss, LossReport, PROTOCOL_VERSION, ServerMessage, Standing,
    encode_losses, request_sum,
};

fn standing(outbox: OutboxId, first_owed: u64, next_sequence: u64) -> Option<Standing> {
    Some(Standing {
        outbox,
        first_owed,
        next_sequence,
    })
}

fn loss(sequence: u64) -> Loss {
    Loss {
        sequence,
        image_id: ImageId::new(),
        digest: None,
        reason: "evicted: full".to_owned(),
        at: UnixNanos(1),
        run: "run".to_owned(),
    }
}

fn hello(losses: Vec<Loss>, standing: Option<Standing>) -> ClientMessage {
    ClientMessage::Hello(Hello {
        protocol_version: PROTOCOL_VERSION,
        transmitter: "cam".to_owned(),
        losses,
        standing,
        ..Hello::default()
    })
}

fn report(id: u64, losses: Vec<Loss>, standing: Option<Standing>) -> LossReport {
    LossReport {
        id,
        standing,
        losses,
        transmitter: "cam".to_owned(),
    }
}

async fn store(session: &mut RawSession, sequence: u64) {
    let picture = png(u32::try_from(sequence).unwrap());
    let (id, mut announced) = begin(&picture);
    if let ClientMessage::Begin(begin) = &mut announced {
        begin.meta.sequence = sequence;
        begin.meta.run = "run".to_owned();
    }
    session.send(announced).await;
    session.send(chunk(id, 0, &picture.bytes)).await;
    session.send(end(id)).await;
    session.answer().await.unwrap();
}

async fn known(station: &Station) -> (usize, u64) {
    let page = station.get("/v1/losses").await.json();
    let gaps = page["gaps"].as_array().unwrap();
    let missing = gaps.iter().map(|gap| gap["missing"].as_u64().unwrap());
    (page["losses"].as_array().unwrap().len(), missing.sum())
}

#[tokio::test]
async fn losses_of_a_session_are_kept_when_they_are_answered_and_gaps_are_found() {
    let station = Station::start(&[]).await;
    let outbox = OutboxId::new();
    let mut session = RawSession::grpc(station.grpc()).await;
    session
        .send(hello(vec![loss(1)], standing(outbox, 2, 2)))
        .await;
    assert!(matches!(
        session.next().await,
        Ok(ServerMessage::Welcome(_))
    ));
    assert_eq!(known(&station).await, (1, 0));
    store(&mut session, 2).await;
    store(&mut session, 5).await;
    let told = report(77, vec![loss(3)], standing(outbox, 6, 9));
    session.send(ClientMessage::Losses(told)).await;
    assert_eq!(
        session.next().await,
        Ok(ServerMessage::LossesKept { id: 77 })
    );
    assert_eq!(known(&station).await, (2, 1), "4 is missing");
    let report = station.report("run").await;
    let ledger = report.ledger.unwrap();
    assert_eq!((ledger.named, ledger.missing), (2, 1));
    assert!(!report.totals.reconciles);
    assert_eq!(station.get("/readyz").await.status, 200);
    store(&mut session, 4).await;
    assert_eq!(known(&station).await, (2, 0), "it came late");
    // Another image under a number that is taken.
    store(&mut session, 2).await;
    let metrics = String::from_utf8(station.get("/metrics").await.body.to_vec()).unwrap();
    for line in [
        "pantelegraph_sequence_reused_total 1",
        "pantelegraph_sequence_gaps 0",
        "pantelegraph_sequence_floor_lag 3",
        "pantelegraph_losses_total{reason=\"evicted\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}");
    }
}

#[tokio::test]
async fn a_standing_that_cannot_be_is_refused_and_the_session_goes_on() {
    let station = Station::start(&[]).await;
    let outbox = OutboxId::new();
    let mut session = RawSession::websocket(station.http()).await;
    session.hello().await;
    for told in [
        report(1, Vec::new(), standing(outbox, 3, 2)),
        report(2, Vec::new(), standing(outbox, 1, u64::MAX)),
        report(3, vec![loss(u64::MAX)], standing(outbox, 1, 1)),
    ] {
        session.send(ClientMessage::Losses(told)).await;
        assert_eq!(session.reject().await.reason, RejectReason::Invalid);
    }
    let mut long = loss(1);
    long.run = "r".repeat(600);
    let told = report(4, vec![long], standing(outbox, 1, 1));
    session.send(ClientMessage::Losses(told)).await;
    assert_eq!(session.reject().await.reason, RejectReason::Limit);
    assert_eq!(known(&station).await, (0, 0));
    session.deliver(&png(1)).await;
}

#[tokio::test]
async fn a_hello_whose_losses_are_not_kept_is_not_welcomed() {
    let station = Station::start(&[]).await;
    let mut session = RawSession::grpc(station.grpc()).await;
    session
        .send(hello(vec![loss(1)], standing(OutboxId::new(), 3, 2)))
        .await;
    assert_eq!(session.reject().await.reason, RejectReason::Invalid);
    assert!(session.next().await.is_err(), "the session is over");
}

#[tokio::test]
async fn losses_over_rest_are_kept_once_and_listed_in_pages() {
    let station = Station::start(&[]).await;
    let outbox = OutboxId::new();
    let losses: Vec<Loss> = (1..=5).map(loss).collect();
    let mut raw = RawHttp::connect(station.http()).await;
    for _ in 0..2 {
        let told = report(0, losses.clone(), standing(outbox, 6, 6));
        let body = encode_losses(told);
        raw.write(format!(
            "POST /v1/losses HTTP/1.1\r\nHost: station\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
        raw.write(body).await;
        assert_eq!(raw.answer().await.unwrap().status, 204);
    }
    // With the sum of another body: nothing of it is taken.
    let body = encode_losses(report(0, vec![loss(6)], standing(outbox, 7, 7)));
    for (of, status) in [(&b"another"[..], 400), (&body[..], 204)] {
        let sum = request_sum("POST", "/v1/losses", &HeaderMap::new(), of);
        raw.write(format!(
            "POST /v1/losses HTTP/1.1\r\nHost: station\r\nPantelegraph-Sum: {sum:08X}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
        raw.write(body.clone()).await;
        assert_eq!(raw.answer().await.unwrap().status, status);
    }
    let mut sequences = Vec::new();
    let mut path = "/v1/losses?limit=2&transmitter=cam".to_owned();
    loop {
        let page = station.get(&path).await.json();
        let losses = page["losses"].as_array().unwrap();
        sequences.extend(losses.iter().map(|loss| loss["sequence"].as_u64().unwrap()));
        let Some(next) = page["next"].as_i64() else {
            break;
        };
        path = format!("/v1/losses?limit=2&transmitter=cam&cursor={next}");
    }
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6]);
    for (query, status) in [
        ("since=tomorrow", 400),
        ("outbox=none", 400),
        ("limit=0", 400),
        ("limit=1001", 400),
        ("nonsense=1", 400),
        ("since=2026-01-02T03:04:05Z", 200),
    ] {
        let answer = station.get(&format!("/v1/losses?{query}")).await;
        assert_eq!(answer.status, status, "{query}");
    }
}
