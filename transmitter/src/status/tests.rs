use http::{Method, StatusCode};
use http_body_util::BodyExt;
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::config::{BandwidthOptions, Order};
use crate::delivery::LossKind;
use crate::outbox::Owed;
use crate::outbox::memory::MemoryOutbox;
use crate::payload::Payload;

async fn status(receipts: Option<Arc<ReceiptLog>>) -> Arc<Status> {
    let outbox = MemoryOutbox::new(10_000, Order::OldestFirst);
    let image = Owed {
        meta: ImageMeta::new(ImageId::new(), 3),
        payload: Payload::Memory(bytes::Bytes::from_static(b"abc")),
        source_file: None,
        source_mark: None,
        carried: false,
    };
    outbox.push(image).await.expect("room");
    let options = BandwidthOptions {
        base: Some("8kbit/s".parse().expect("a bandwidth")),
        schedule: Vec::new(),
    };
    let limiter = Limiter::with_time_of_day(options, || 0);
    Status::new(
        Arc::new(outbox),
        receipts,
        limiter,
        CancellationToken::new(),
    )
}

async fn text(status: &Status, path: &str) -> (StatusCode, String) {
    let response = serve::answer(status, &Method::GET, path).await;
    let code = response.status();
    let body = response.into_body().collect().await.expect("it is whole");
    let text = String::from_utf8(body.to_bytes().to_vec()).expect("text");
    (code, text)
}

#[tokio::test]
async fn a_transmitter_is_alive_before_it_is_ready_and_says_what_is_missing() {
    let log = ReceiptLog::open(std::path::Path::new("/dev/null"), OutboxId::new());
    let status = status(Some(Arc::new(log.expect("a device")))).await;
    assert_eq!(text(&status, "/healthz").await.0, StatusCode::OK);
    let (code, problems) = text(&status, "/readyz").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    let document: serde_json::Value = serde_json::from_str(&problems).expect("JSON");
    let expected = serde_json::json!({
        "ready": false,
        "checks": {
            "outbox": { "state": "ok" },
            "receiver": { "state": "fails", "problem": "no receiver was reached yet" },
            "receipts": { "state": "ok" },
            "drain": { "state": "ok" },
        },
    });
    assert_eq!(document, expected);
    status.draining.cancel();
    let (_, problems) = text(&status, "/readyz").await;
    assert!(
        problems.contains("the transmitter is stopping"),
        "{problems}"
    );
    assert_eq!(
        text(&status, "/healthz").await.0,
        StatusCode::OK,
        "it lives"
    );
    assert_eq!(status.words(), "1 images owed; no receiver is reached");
    let names: Vec<_> = status.parts().iter().map(|part| part.name).collect();
    assert_eq!(names, ["outbox", "receiver", "receipts"]);
    assert_eq!(text(&status, "/else").await.0, StatusCode::NOT_FOUND);
    let refused = serve::answer(&status, &Method::POST, "/healthz").await;
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused.headers()["allow"], "GET, HEAD");
}

#[tokio::test]
async fn metrics_are_proper_and_tell_backlog_losses_and_health() {
    let status = status(None).await;
    let tally = Arc::new(Tally::new(Transport::Rest, None, None));
    tally.capture();
    tally.lose(true, LossKind::Evicted);
    tally.lose(false, LossKind::Evicted);
    status.series.lock().push(Seen {
        tally,
        wire: WireCount::default(),
        delivery: Weak::new(),
    });
    let (code, page) = text(&status, "/metrics").await;
    assert_eq!(code, StatusCode::OK);
    for line in [
        "images_captured_total{transport=\"rest\"} 1",
        "images_lost_total{transport=\"rest\",reason=\"evicted\"} 2",
        "images_lost_total{transport=\"rest\",reason=\"abandoned\"} 0",
        "backlog_images 1",
        "backlog_bytes 3",
        "outbox_limit_bytes 10000",
        "connections 0",
        "bandwidth_cap_bytes_per_second 1000",
        "healthy{reason=\"outbox\"} 1",
        "healthy{reason=\"receiver\"} 0",
    ] {
        let line = format!("pantelegraph_transmitter_{line}\n");
        assert!(page.contains(&line), "{line} is not in {page}");
    }
    let mut families = std::collections::HashSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().expect("a name");
            assert!(families.insert(name.to_owned()), "{name} comes twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().expect("a name");
            assert!(families.contains(name), "{line} has no type");
        }
    }
}

#[tokio::test]
async fn idlers_beyond_the_places_are_turned_away_and_no_request_waits_behind_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let status = status(None).await;
    let _server = AbortOnDropHandle::new(tokio::spawn(serve(listener, status)));
    let ask = async || {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut answer = Vec::new();
        // One that is turned away may be cut at any point.
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(ask().await.starts_with("HTTP/1.1 200 OK"));
    let mut idlers = Vec::new();
    for _ in 0..16 {
        idlers.push(TcpStream::connect(address).await.expect("it listens"));
    }
    assert_eq!(ask().await, "", "all places are taken");
    drop(idlers);
    // Places are free as soon as it is noticed that their holders have gone.
    loop {
        if ask().await.starts_with("HTTP/1.1 200 OK") {
            break;
        }
        tokio::task::yield_now().await;
    }
}
