//! How often a station may ask, and how much it may bring in.

use pantelegraph_tests::raw::{RawSession, begin, end};
use pantelegraph_tests::route::{Route, listener, tokio_listener, transmit};
use pantelegraph_tests::within;
use pantelegraph_transmitter::run::RunOutcome;
use shared::receipt::RejectReason;

use super::*;

const SLOW: [&str; 2] = ["--max-requests-per-second", "1"];

#[tokio::test]
async fn whoever_asks_too_often_is_told_when_to_come_again_and_the_others_are_served() {
    let mut flags = SLOW.to_vec();
    flags.extend(["--listen-all", "127.0.0.1:0"]);
    let site = Site::start(&flags).await;
    let station = &site.station;
    let (one, two) = (site.caller("cam-1"), site.caller("cam-2"));
    for (name, caller) in [("cam-1", &one), ("cam-2", &two)] {
        for address in [station.grpc(), station.all()] {
            within("a refusal of gRPC", async {
                loop {
                    let put = put_by_grpc(caller, address, name).await.unwrap();
                    if code(&put) == "0" {
                        continue;
                    }
                    assert_eq!(code(&put), "8", "{put:?}");
                    assert_eq!(put.header("pantelegraph-reason"), "rate");
                    assert_eq!(put.header("pantelegraph-retryable"), "true");
                    let pushback: u64 = put.header("grpc-retry-pushback-ms").parse().unwrap();
                    assert!((1..=1_000).contains(&pushback), "{pushback}");
                    break;
                }
            })
            .await;
        }
        for address in [station.http(), station.all()] {
            within("a refusal of HTTP", async {
                loop {
                    let put = put_by_rest(caller, address, name).await.unwrap();
                    if put.status == 201 {
                        continue;
                    }
                    assert_eq!(put.status, 429, "{put:?}");
                    assert_eq!(put.header("retry-after"), "1");
                    let problem = put.json();
                    assert_eq!(problem["type"], "urn:pantelegraph:problem:rate");
                    assert_eq!(
                        (&problem["retryable"], &problem["status"]),
                        (&true.into(), &429.into())
                    );
                    break;
                }
            })
            .await;
        }
        within("a refusal of WebSocket", async {
            while upgrade(caller, station.http()).await.unwrap().status != 429 {}
        })
        .await;
    }
    // Nobody who watches over it is turned away, and nobody else pays for those two.
    for _ in 0..20 {
        let health = one.get(station.http(), "/healthz").await.unwrap();
        assert_eq!(health.status, 200);
    }
    let turned_away = within("the figures", async {
        loop {
            let figures = site.admin.get(station.http(), "/metrics").await.unwrap();
            if figures.status == 200 {
                break String::from_utf8(figures.body.to_vec()).unwrap();
            }
        }
    })
    .await;
    let line = "pantelegraph_refused_total{reason=\"rate\"} ";
    let count = turned_away
        .lines()
        .find_map(|found| found.strip_prefix(line));
    assert!(count.unwrap().parse::<u32>().unwrap() >= 10, "{count:?}");
}

#[tokio::test]
async fn where_nobody_is_asked_an_address_is_one_caller() {
    let station = Station::start(&SLOW).await;
    let nobody = Caller::default();
    within("a refusal", async {
        // Another name does not help.
        for number in 0.. {
            let name = format!("cam-{number}");
            let put = put_by_rest(&nobody, station.http(), &name).await.unwrap();
            if put.status == 429 {
                break;
            }
        }
    })
    .await;
}

/// By every route more images come than there may be requests in a second, and all of them come through,
/// each with its only attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transmitter_that_is_limited_takes_longer_and_loses_nothing() {
    for route in Route::ALL {
        let waiting = (route == Route::Listen).then(listener);
        let url = waiting
            .as_ref()
            .map(|listener| format!("ws://{}", listener.local_addr().unwrap()));
        let mut flags = vec!["--max-requests-per-second", "6"];
        if let Some(url) = &url {
            flags.extend(["--pull", url]);
        }
        let station = Station::start(&flags).await;
        let address = match &waiting {
            Some(listener) => listener.local_addr().unwrap(),
            None => route.address(&station),
        };
        let config = route.config(
            address,
            &[
                "--pattern",
                "64x48",
                "--count",
                "18",
                "--retry-attempts",
                "1",
            ],
        );
        let begun = std::time::Instant::now();
        let transmitting = transmit(&config, waiting.as_ref().map(tokio_listener));
        let what = format!("the images of {route:?}");
        let summary = within(&what, transmitting).await;
        assert!(
            matches!(summary.outcome, RunOutcome::Delivered),
            "{route:?}: {:?}",
            summary.outcome
        );
        assert_eq!(stored(&station), 18, "{route:?}");
        // A second's worth at once, and as much in each of the next.
        assert!(
            begun.elapsed().as_millis() >= 1_900,
            "{route:?}: {:?}",
            begun.elapsed()
        );
        station.stop().await;
    }
}

/// How many bytes three pictures of the tests have, and a bit.
fn room_for(pictures: u32) -> String {
    let bytes = pictures::jpeg(1).bytes.len() as u64 * u64::from(pictures);
    format!("{}B", bytes + 10)
}

#[tokio::test]
async fn a_quota_holds_over_all_transports_together_and_across_a_restart() {
    let quota = room_for(2);
    let flags = ["--quota-bytes", &quota, "--quota-period", "1h"];
    let station = Station::start(&flags).await;
    let nobody = Caller::default();
    let put = put_by_rest(&nobody, station.http(), "cam-1").await.unwrap();
    assert_eq!(put.status, 201);
    let mut session = RawSession::websocket(station.http()).await;
    session.hello_as("cam-1").await;
    session.deliver(&pictures::jpeg(2)).await;
    session.finish().await;
    let data = station.stop().await;
    let station = Station::start_on(data, &flags).await;

    let put = put_by_rest(&nobody, station.http(), "cam-1").await.unwrap();
    assert_eq!(put.status, 429, "{put:?}");
    let problem = put.json();
    assert_eq!(problem["type"], "urn:pantelegraph:problem:quota");
    assert_eq!(problem["retryable"], true);
    let seconds: u64 = put.header("retry-after").parse().unwrap();
    assert!((3_500..=3_660).contains(&seconds), "{seconds}");
    let put = put_by_grpc(&nobody, station.grpc(), "cam-1").await.unwrap();
    assert_eq!(code(&put), "8", "{put:?}");
    assert_eq!(put.header("pantelegraph-reason"), "quota");
    for mut session in [
        RawSession::grpc(station.grpc()).await,
        RawSession::websocket(station.http()).await,
    ] {
        session.hello_as("cam-1").await;
        // Before a byte of it has come.
        let (id, announced) = begin(&pictures::jpeg(3));
        session.send(announced).await;
        let reject = session.reject().await;
        assert_eq!(
            (reject.reason, reject.image_id),
            (RejectReason::Quota, Some(id))
        );
        assert!(
            reject.retryable && reject.retry_after_ms.is_some(),
            "{reject:?}"
        );
        session.send(end(id)).await;
        session.finish().await;
    }
    let tus = Caller::default()
        .with("tus-resumable", "1.0.0")
        .with("upload-length", "4000")
        // transmitter cam-1
        .with("upload-metadata", "transmitter Y2FtLTE=");
    let create = tus.ask(station.http(), Method::POST, "/v1/uploads", Bytes::new());
    assert_eq!(create.await.unwrap().status, 429);
    assert_eq!(stored(&station), 2);
    // Others have their own.
    let put = put_by_rest(&nobody, station.http(), "cam-2").await.unwrap();
    assert_eq!(put.status, 201);
    let figures = nobody.get(station.http(), "/metrics").await.unwrap();
    let text = String::from_utf8(figures.body.to_vec()).unwrap();
    for (transport, count) in [("grpc", 2), ("websocket", 1), ("rest", 2)] {
        let line = format!(
            "pantelegraph_rejects_total{{transport=\"{transport}\",reason=\"quota\"}} {count}"
        );
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn an_identity_has_one_quota_whatever_it_shows() {
    let site = Site::start(&["--quota-images", "1"]).await;
    let station = &site.station;
    let cam = site.caller("cam-1");
    assert_eq!(
        put_by_rest(&cam, station.http(), "").await.unwrap().status,
        201
    );
    let named = put_by_rest(&cam, station.http(), "cam-1").await.unwrap();
    assert_eq!(named.status, 429);
    let other = put_by_rest(&cam, station.http(), "cam-2").await.unwrap();
    assert_eq!(other.status, 403, "it does not get another's");
    let other = site.caller("cam-2");
    assert_eq!(
        put_by_rest(&other, station.http(), "")
            .await
            .unwrap()
            .status,
        201
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bomb_is_quarantined_while_others_are_served() {
    let station = Station::start(&["--verify", "full", "--decode-timeout", "1ms"]).await;
    let mut session = RawSession::grpc(station.grpc()).await;
    session.hello_as("cam-1").await;
    let bomb = pictures::blank(6_000);
    assert!(bomb.bytes.len() < 1 << 20, "{}", bomb.bytes.len());
    let (id, announced) = begin(&bomb);
    session.send(announced).await;
    for (at, piece) in bomb.bytes.chunks(64 << 10).enumerate() {
        let offset = (at * (64 << 10)) as u64;
        session
            .send(pantelegraph_tests::raw::chunk(id, offset, piece))
            .await;
    }
    session.send(end(id)).await;
    // Meanwhile, and it takes as long as it takes.
    let health = Caller::default()
        .get(station.http(), "/readyz")
        .await
        .unwrap();
    assert_eq!(health.status, 200);
    let reject = session.reject().await;
    assert_eq!(reject.reason, RejectReason::Limit, "{reject:?}");
    assert!(reject.quarantined && reject.message.contains("RECEIVER_DECODE_TIMEOUT"));
    session.finish().await;
    assert_eq!(station.data().quarantine().len(), 1, "its bytes are kept");
    station.stop().await;
}
