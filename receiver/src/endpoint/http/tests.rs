use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use shared::chunk::Segments;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, Transport};
use shared::receipt::{Durability, Receipt, Reject, RejectReason};
use shared::report::Report;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{ReadState, Readiness, SharedReadiness, reading_routes, with_problems};
use crate::catalog::sample::{account, entry, quarantined};
use crate::catalog::sqlite::SqliteCatalog;
use crate::catalog::{Catalog, Entry, Verdict};
use crate::metrics::ReceiverMetrics;
use crate::store::files::FileStore;
use crate::store::{Area, ImageStore, Placement};

struct Receiver {
    folder: TempDir,
    catalog: Arc<SqliteCatalog>,
    store: Arc<FileStore>,
    metrics: ReceiverMetrics,
    readiness: SharedReadiness,
    draining: CancellationToken,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The problem document, whose status is that of the answer.
    #[track_caller]
    fn problem(&self, status: u16, key: &str) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(self.status, status, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:pantelegraph:problem:{key}"));
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        problem
    }
}

impl Receiver {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("catalogue.sqlite");
        Self {
            catalog: Arc::new(SqliteCatalog::open(&database, Durability::Written).unwrap()),
            store: Arc::new(FileStore::open(folder.path(), Durability::Written, 0).unwrap()),
            metrics: ReceiverMetrics::new("0.0.0"),
            // Each question is asked anew.
            readiness: Arc::new(Readiness::lasting(Duration::ZERO)),
            draining: CancellationToken::new(),
            folder,
        }
    }

    fn router(&self) -> Router {
        with_problems(reading_routes(ReadState {
            catalog: self.catalog.clone(),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            budget: crate::budget::Budget::new(1 << 20),
            readiness: Arc::clone(&self.readiness),
            draining: self.draining.clone(),
            name: "receiver under test".into(),
            load: Arc::new(String::new),
        }))
    }

    /// Stores `bytes` as the image of `entry`.
    async fn keep(&self, mut entry: Entry, bytes: &[u8]) -> Entry {
        let about = crate::store::About {
            meta: Arc::new(entry.meta.clone()),
            transmitter: entry.transmitter.as_str().into(),
            outbox: None,
            transport: entry.transport,
            algorithm: entry.digest.algorithm(),
        };
        let mut writer = self.store.create(about).await.unwrap();
        writer
            .write(Segments::from(bytes.to_vec()), entry.digest)
            .await
            .unwrap();
        let area = match entry.verdict {
            Verdict::Stored => Area::Images,
            Verdict::Quarantined { .. } => Area::Quarantine,
        };
        let placement = Placement {
            id: entry.meta.id,
            area,
            extension: "jpg",
            received: entry.timeline.last_byte,
        };
        entry.location = writer.commit(placement).await.unwrap();
        entry.meta.size = bytes.len() as u64;
        entry.digest = DigestAlgorithm::Xxh3.digest(bytes);
        self.catalog.insert(entry.clone()).await.unwrap();
        entry
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }
}

fn noise(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

#[tokio::test]
async fn the_stored_bytes_come_back_with_what_was_found() {
    let receiver = Receiver::new();
    // Several slices and a rest.
    let bytes = noise((600 << 10) + 7);
    let mut named = entry(1);
    named.meta.name = Some("../../etc/pässwd.jpg".to_owned());
    // What the sender declares is not what is served.
    named.meta.content_type = Some("text/html".to_owned());
    let kept = receiver.keep(named, &bytes).await;
    let path = format!("/v1/images/{}", kept.meta.id);

    let answer = receiver.get(&path).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body == bytes);
    assert_eq!(answer.header("content-type"), "image/jpeg");
    assert_eq!(answer.header("content-length"), bytes.len().to_string());
    assert_eq!(answer.header("accept-ranges"), "bytes");
    assert_eq!(answer.header("etag"), format!("\"{}\"", kept.digest));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let disposition = "inline; filename=\"p_sswd.jpg\"; filename*=UTF-8''p%C3%A4sswd.jpg";
    assert_eq!(answer.header("content-disposition"), disposition);

    let head = receiver.ask("HEAD", &path, &[("range", "bytes=0-1")]).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!(head.header("content-length"), bytes.len().to_string());
}

#[tokio::test]
async fn ranges_and_conditions_are_kept() {
    let receiver = Receiver::new();
    let bytes = noise(1_000_000);
    let kept = receiver.keep(entry(1), &bytes).await;
    let path = format!("/v1/images/{}", kept.meta.id);
    let etag = format!("\"{}\"", kept.digest);

    let cases = [
        ("bytes=0-0", 0..1),
        ("bytes=262143-262144", 262_143..262_145),
        ("bytes=999999-", 999_999..1_000_000),
        ("bytes=-300000", 700_000..1_000_000),
        ("bytes=500000-9999999", 500_000..1_000_000),
    ];
    for (range, expected) in cases {
        let answer = receiver.ask("GET", &path, &[("range", range)]).await;
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.body == bytes[expected.clone()], "{range}");
        let declared = format!("bytes {}-{}/1000000", expected.start, expected.end - 1);
        assert_eq!(answer.header("content-range"), declared);
        assert_eq!(answer.header("content-length"), expected.len().to_string());
    }
    let several = receiver
        .ask("GET", &path, &[("range", "bytes=0-1,5-6")])
        .await;
    assert_eq!(
        (several.status, several.body.len()),
        (StatusCode::OK, 1_000_000)
    );

    let beyond = receiver
        .ask("GET", &path, &[("range", "bytes=1000000-")])
        .await;
    beyond.problem(416, "range");
    assert_eq!(beyond.header("content-range"), "bytes */1000000");

    let known = receiver
        .ask("GET", &path, &[("if-none-match", &etag)])
        .await;
    assert_eq!(
        (known.status, known.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    assert_eq!(known.header("etag"), etag);

    let headers = [("range", "bytes=0-1"), ("if-range", "\"another\"")];
    let changed = receiver.ask("GET", &path, &headers).await;
    assert_eq!(
        (changed.status, changed.body.len()),
        (StatusCode::OK, 1_000_000)
    );
}

#[tokio::test]
async fn an_image_without_bytes_is_served_empty() {
    let receiver = Receiver::new();
    let kept = receiver.keep(entry(1), b"").await;
    let path = format!("/v1/images/{}", kept.meta.id);
    let answer = receiver.get(&path).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
    assert_eq!(answer.header("content-length"), "0");
    receiver
        .ask("GET", &path, &[("range", "bytes=0-")])
        .await
        .problem(416, "range");
}

#[tokio::test]
async fn quarantined_bytes_come_only_when_asked_for_and_never_as_an_image() {
    let receiver = Receiver::new();
    let kept = receiver.keep(quarantined(1), b"<script>").await;
    let path = format!("/v1/images/{}", kept.meta.id);
    let problem = receiver.get(&path).await.problem(404, "quarantined");
    assert_eq!(problem["reason"], "truncated-image");
    receiver
        .get(&format!("{path}?quarantined=false"))
        .await
        .problem(404, "quarantined");

    let answer = receiver.get(&format!("{path}?quarantined=true")).await;
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::OK, &b"<script>"[..])
    );
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert!(
        answer
            .header("content-disposition")
            .starts_with("attachment; ")
    );
    receiver
        .get(&format!("{path}?quarantined=yes"))
        .await
        .problem(400, "parameter");
}

#[tokio::test]
async fn bytes_that_are_not_kept_or_gone_or_changed_are_told_apart() {
    let receiver = Receiver::new();
    let mut unkept = entry(1);
    unkept.location = String::new();
    unkept.durability = Durability::Memory;
    receiver.catalog.insert(unkept.clone()).await.unwrap();
    let answer = receiver
        .get(&format!("/v1/images/{}", unkept.meta.id))
        .await;
    let problem = answer.problem(410, "gone");
    assert!(problem["detail"].as_str().unwrap().contains("not kept"));

    let kept = receiver.keep(entry(2), b"image").await;
    let (path, file) = (
        format!("/v1/images/{}", kept.meta.id),
        receiver.folder.path().join(&kept.location),
    );
    std::fs::write(&file, b"imag").unwrap();
    receiver.get(&path).await.problem(500, "internal");
    std::fs::remove_file(&file).unwrap();
    receiver.get(&path).await.problem(410, "gone");
}

#[tokio::test]
async fn what_is_no_image_id_is_refused() {
    let receiver = Receiver::new();
    let unknown = ImageId::new();
    let problem = receiver
        .get(&format!("/v1/images/{unknown}"))
        .await
        .problem(404, "not-found");
    assert_eq!(problem["image_id"], unknown.to_string());
    for path in [
        "/v1/images/passwd",
        "/v1/images/..%2F..%2Fetc%2Fpasswd",
        "/v1/images/%00",
        "/v1/images/%ff",
        "/v1/images/00000000-0000-0000-0000-000000000000",
        "/v1/images/x/timeline",
        "/v1/images/x/receipt",
    ] {
        receiver.get(path).await.problem(400, "image-id");
    }
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_problems_too() {
    let receiver = Receiver::new();
    for path in ["/", "/v1", "/v1/images/../../etc/passwd", "/v2/images"] {
        receiver.get(path).await.problem(404, "not-found");
    }
    let answer = receiver.ask("DELETE", "/v1/runs", &[]).await;
    answer.problem(405, "method");
    assert_eq!(answer.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn routes_with_another_method_can_be_merged_in() {
    use axum::routing::put;

    let receiver = Receiver::new();
    let writing = Router::new().route("/v1/images/{id}", put(|| async { "put" }));
    let router = with_problems(receiver.router().merge(writing));
    let ask = |method: &str| {
        let uri = format!("/v1/images/{}", ImageId::new());
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Body::empty())
            .unwrap();
        router.clone().oneshot(request)
    };
    assert_eq!(ask("PUT").await.unwrap().status(), 200);
    assert_eq!(ask("GET").await.unwrap().status(), 404);
    assert_eq!(ask("POST").await.unwrap().status(), 405);
}

#[tokio::test]
async fn parameters_that_cannot_be_read_are_named() {
    let receiver = Receiver::new();
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("limit=-1", "limit"),
        ("after=soon", "after"),
        ("after=99999999999999999999", "after"),
        ("status=lost", "status"),
        ("transport=pigeon", "transport"),
        ("trasport=grpc", "trasport"),
        ("run=a&run=b", "run"),
    ] {
        let answer = receiver.get(&format!("/v1/images?{query}")).await;
        let problem = answer.problem(400, "parameter");
        assert_eq!(problem["parameter"], parameter, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(parameter));
    }
    receiver
        .get("/v1/runs?limit=3")
        .await
        .problem(400, "parameter");
}

#[tokio::test]
async fn pages_of_images_end_where_the_images_end() {
    let receiver = Receiver::new();
    let mut ids = Vec::new();
    for sequence in 1..=6 {
        let mut entry = if sequence == 4 {
            quarantined(4)
        } else {
            entry(sequence)
        };
        entry.meta.run = "a run/ünïcode & more".to_owned();
        ids.push(entry.meta.id.to_string());
        receiver.catalog.insert(entry).await.unwrap();
    }
    let mut found = Vec::new();
    let mut after = 0;
    for _ in 0..3 {
        let path =
            format!("/v1/images?run=a+run%2F%C3%BCn%C3%AFcode%20%26%20more&limit=2&after={after}");
        let page = receiver.get(&path).await.json();
        let images = page["images"].as_array().unwrap();
        assert_eq!(images.len(), 2);
        found.extend(
            images
                .iter()
                .map(|image| image["image_id"].as_str().unwrap().to_owned()),
        );
        after = page["next"].as_i64().unwrap_or(-1);
    }
    assert_eq!(found, ids);
    assert_eq!(after, -1, "a full last page has no next");

    let page = receiver
        .get("/v1/images?status=quarantined&transport=GRPC")
        .await
        .json();
    let image = &page["images"][0];
    assert_eq!(image["image_id"], ids[3]);
    assert_eq!(image["reason"], "truncated-image");
    assert_eq!(image["received"]["time"], "2026-01-02T00:00:00.004012000Z");
    let page = receiver.get("/v1/images?status=stored").await.json();
    assert_eq!(page["images"].as_array().unwrap().len(), 5);
    assert_eq!(
        receiver.get("/v1/images?run=").await.json()["images"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn runs_tell_their_counts_and_account() {
    let receiver = Receiver::new();
    receiver.catalog.insert(entry(1)).await.unwrap();
    let mut other = entry(2);
    other.transport = Transport::Rest;
    receiver.catalog.insert(other).await.unwrap();
    receiver.catalog.account(account(Vec::new())).await.unwrap();
    let all = receiver.get("/v1/runs").await.json();
    assert_eq!(all["truncated"], false);
    assert_eq!(all["runs"].as_array().unwrap().len(), 2);
    let found = receiver.get("/v1/runs?transport=grpc&run=run").await.json();
    let run = &found["runs"][0];
    assert_eq!((&run["stored"], &run["bytes"]), (&1.into(), &1_000.into()));
    assert_eq!(run["first"]["time"], "2026-01-02T00:00:00.001012000Z");
    assert_eq!(run["account"]["captured"], 5);
}

#[tokio::test]
async fn a_timeline_has_every_station_and_its_error() {
    let receiver = Receiver::new();
    let kept = entry(1);
    receiver.catalog.insert(kept.clone()).await.unwrap();
    let facts = receiver
        .get(&format!("/v1/images/{}/timeline", kept.meta.id))
        .await
        .json();
    assert_eq!(
        facts["timeline"]["captured"]["ns"],
        1_767_312_000_001_000_000_i64
    );
    assert_eq!(
        facts["timeline"]["captured"]["time"],
        "2026-01-02T00:00:00.001000000Z"
    );
    assert_eq!(
        facts["timeline"]["durable"]["time"],
        "2026-01-02T00:00:00.001020000Z"
    );
    // 10,000 ns by the clocks, of which the receiver's is 500 ns behind.
    assert_eq!(
        facts["transmission"],
        serde_json::json!({ "ns": 10_500, "error_ns": 250 })
    );
    assert_eq!(facts["delivery"], Value::Null);
    assert_eq!(facts["status"], "stored");

    let mut bare = entry(2);
    bare.meta.captured = None;
    bare.meta.send_started = None;
    receiver.catalog.insert(bare.clone()).await.unwrap();
    let facts = receiver
        .get(&format!("/v1/images/{}/timeline", bare.meta.id))
        .await
        .json();
    assert_eq!(facts["timeline"]["captured"], Value::Null);
    assert_eq!(facts["transmission"], Value::Null);
}

#[tokio::test]
async fn receipts_read_back_as_what_the_sender_got() {
    let receiver = Receiver::new();
    let (good, bad) = (entry(1), quarantined(2));
    for entry in [&good, &bad] {
        receiver.catalog.insert(entry.clone()).await.unwrap();
    }
    let answer = receiver
        .get(&format!("/v1/images/{}/receipt", good.meta.id))
        .await;
    let receipt: Receipt = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (receipt.image_id, receipt.digest),
        (good.meta.id, good.digest)
    );
    assert_eq!(receipt.timeline, good.timeline);
    assert_eq!(receipt.receiver, "receiver under test");

    let answer = receiver
        .get(&format!("/v1/images/{}/receipt", bad.meta.id))
        .await;
    let reject: Reject = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(reject.reason, RejectReason::TruncatedImage);
    assert!(reject.quarantined && !reject.retryable);
}

#[tokio::test]
async fn figures_and_health_are_told() {
    let receiver = Receiver::new();
    receiver
        .metrics
        .image_stored(Transport::Rest, 9, None, Duration::from_millis(1));
    let answer = receiver.get("/metrics").await;
    assert_eq!(
        answer.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = std::str::from_utf8(&answer.body).unwrap();
    assert!(text.contains("pantelegraph_received_bytes_total{transport=\"rest\"} 9"));
    assert_eq!(receiver.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn readiness_ends_with_the_store_the_catalogue_or_the_stop_signal() {
    let receiver = Receiver::new();
    let ready = receiver.get("/readyz").await.json();
    assert_eq!(ready["ready"], true);
    let states = |document: &Value| {
        let checks = document["checks"].as_object().unwrap();
        let states = checks.iter().map(|(part, check)| {
            let state = check["state"].as_str().unwrap();
            assert_eq!(
                check["problem"].is_string(),
                !matches!(state, "ok" | "going-on")
            );
            format!("{part} {state}")
        });
        states.collect::<Vec<_>>().join(", ")
    };
    let all_well = "catalogue ok, disk ok, drain ok, settling ok, store ok";
    assert_eq!(states(&ready), all_well);
    let disk = &ready["checks"]["disk"];
    assert!(disk["free_bytes"].as_u64().unwrap() > 0 && disk["floor_bytes"] == 0);
    receiver.readiness.settle(true);
    let settling = receiver.get("/readyz").await;
    assert_eq!(settling.status, 200, "images are taken meanwhile");
    assert_eq!(settling.json()["checks"]["settling"]["state"], "going-on");
    receiver.readiness.settle(false);
    let incoming = receiver.folder.path().join("incoming");
    assert_eq!(
        std::fs::read_dir(&incoming).unwrap().count(),
        0,
        "the check leaves nothing"
    );

    std::fs::remove_dir(&incoming).unwrap();
    let answer = receiver.get("/readyz").await;
    let problem = answer.problem(503, "not-ready");
    assert_eq!(answer.header("retry-after"), "1");
    let path = receiver.folder.path().to_str().unwrap();
    assert!(!problem.to_string().contains(path), "{problem}");
    assert_eq!(
        states(&problem),
        all_well.replace("store ok", "store fails")
    );
    std::fs::create_dir(&incoming).unwrap();

    receiver.draining.cancel();
    let problem = receiver.get("/readyz").await.problem(503, "not-ready");
    assert_eq!(
        states(&problem),
        all_well.replace("drain ok", "drain draining")
    );
    assert_eq!(receiver.get("/healthz").await.status, 200, "it lives still");

    receiver.catalog.close().await;
    let problem = receiver.get("/readyz").await.problem(503, "not-ready");
    assert_eq!(problem["checks"]["catalogue"]["state"], "fails");
}

#[tokio::test]
async fn a_report_reconciles_with_what_the_catalogue_holds() {
    let receiver = Receiver::new();
    for sequence in 1..=3 {
        receiver.catalog.insert(entry(sequence)).await.unwrap();
    }
    receiver.catalog.insert(quarantined(4)).await.unwrap();
    receiver.catalog.account(account(Vec::new())).await.unwrap();
    let answer = receiver.get("/v1/report").await;
    let report: Report = serde_json::from_value(answer.json()).unwrap();
    assert_eq!(report.receiver.as_deref(), Some("receiver under test"));
    let totals = report.totals;
    assert!(totals.reconciles, "{totals:?}");
    assert_eq!(
        (totals.captured, totals.delivered, totals.quarantined),
        (5, 3, 1)
    );
    assert_eq!(report.images.len(), 4);
    assert!(report.usage.receiver.unwrap().peak_memory_bytes > 0);

    let text = receiver.get("/v1/report?format=text").await;
    assert_eq!(text.header("content-type"), "text/plain; charset=utf-8");
    let text = String::from_utf8(text.body.to_vec()).unwrap();
    assert!(text.contains("=== gRPC performance test: "), "{text}");
}

#[tokio::test]
async fn several_series_give_several_reports_in_the_order_they_ran() {
    let receiver = Receiver::new();
    for (sequence, transport) in (1..).zip(Transport::ALL) {
        let mut entry = entry(sequence);
        entry.transport = transport;
        receiver.catalog.insert(entry).await.unwrap();
    }
    let found = receiver.get("/v1/report?run=run").await.json();
    let transports: Vec<_> = found["reports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["transport"].clone())
        .collect();
    assert_eq!(transports, ["websocket", "grpc", "rest"]);
    let one = receiver.get("/v1/report?transport=rest").await.json();
    assert_eq!(one["transport"], "rest");
    receiver
        .get("/v1/report?run=absent")
        .await
        .problem(404, "not-found");
    receiver
        .get("/v1/report?format=xml")
        .await
        .problem(400, "parameter");
}

#[tokio::test]
async fn a_table_has_every_image_of_every_series() {
    let receiver = Receiver::new();
    let mut ids = Vec::new();
    for sequence in 1..=2_300 {
        let mut entry = entry(sequence);
        if sequence > 2_100 {
            entry.transport = Transport::Rest;
        }
        ids.push(entry.meta.id.to_string());
        receiver.catalog.insert_later(entry);
    }
    let answer = receiver
        .ask("GET", "/v1/report", &[("accept", "text/csv")])
        .await;
    assert!(answer.header("content-type").starts_with("text/csv"));
    let mut table = csv::Reader::from_reader(&answer.body[..]);
    let column = table
        .headers()
        .unwrap()
        .iter()
        .position(|name| name == "image_id")
        .unwrap();
    let found: Vec<String> = table
        .records()
        .map(|record| record.unwrap()[column].to_owned())
        .collect();
    assert_eq!(found, ids);
}

#[tokio::test]
async fn a_report_of_too_many_series_is_refused_with_a_way_out() {
    let receiver = Receiver::new();
    for sequence in 0..65 {
        let mut entry = entry(sequence);
        entry.meta.run = format!("run {sequence}");
        receiver.catalog.insert_later(entry);
    }
    let problem = receiver
        .get("/v1/report")
        .await
        .problem(400, "too-many-series");
    assert_eq!(problem["series"], 65);
    assert_eq!(receiver.get("/v1/report?format=csv").await.status, 200);
}
