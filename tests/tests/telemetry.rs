//! What an operator sees of an image: its trace over both daemons, and the figures, at a collector of
//! OpenTelemetry.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use pantelegraph_tests::authority::Authority;
use pantelegraph_tests::collector::{Collector, Manners, text};
use pantelegraph_tests::http::RawHttp;
use pantelegraph_tests::pictures::{jpeg, large, write_file};
use pantelegraph_tests::proxy::Proxy;
use pantelegraph_tests::route::{Pair, Route, transmit};
use pantelegraph_tests::station::{self, Station, receiver_config_in};
use pantelegraph_transmitter::run::RunOutcome;
use shared::security::identity::Role;
use shared::security::tls::{ClientAuth, H2, ServerFiles, ServerTls};

const TRANSMITTER: &str = "pantelegraph-transmitter";
const RECEIVER: &str = "pantelegraph-receiver";

fn endpoint(collector: &Collector) -> String {
    format!("http://{}", collector.address)
}

/// The spans of one trace by name, and who told of each.
fn by_name(spans: Vec<(String, Span)>) -> BTreeMap<String, (String, Span)> {
    let all = spans.len();
    let named: BTreeMap<_, _> = spans
        .into_iter()
        .map(|(service, span)| (span.name.clone(), (service, span)))
        .collect();
    assert_eq!(named.len(), all, "each span comes once");
    named
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_goes_from_capture_to_receipt_over_both_daemons_by_every_route() {
    for route in Route::ALL {
        let collector = Collector::start().await;
        let url = endpoint(&collector);
        let telemetry = ["--otel-exporter-otlp-endpoint", &url];
        let pair = Pair::start(route, &telemetry).await;
        let flags = ["--pattern", "64x48", "--count", "1"];
        let summary = pair.transmit(&[&telemetry[..], &flags[..]].concat()).await;
        assert_eq!(summary.outcome, RunOutcome::Delivered, "{route:?}");
        let stored = pair.station.listed("stored").await;
        pair.station.stop().await;
        let [image] = &stored[..] else {
            panic!("{route:?}: {stored:?}")
        };
        let image = image["image_id"].as_str().expect("an id").to_owned();
        let spans = by_name(collector.spans());
        let trace = u128::from_str_radix(&image.replace('-', ""), 16).expect("an id");
        for (service, span) in spans.values() {
            let id = span.trace_id.as_slice();
            assert_eq!(
                id,
                trace.to_be_bytes(),
                "{route:?}: {service} {}",
                span.name
            );
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
            assert!(span.status.is_none(), "{route:?}: {span:?}");
        }
        // Who stands below whom, and who tells of it.
        let tree = [
            ("image", TRANSMITTER, None, SpanKind::Internal),
            ("prepare", TRANSMITTER, Some("image"), SpanKind::Internal),
            ("wait", TRANSMITTER, Some("image"), SpanKind::Internal),
            ("deliver", TRANSMITTER, Some("image"), SpanKind::Client),
            ("receive", RECEIVER, Some("deliver"), SpanKind::Server),
            ("transfer", RECEIVER, Some("receive"), SpanKind::Internal),
            ("verify", RECEIVER, Some("receive"), SpanKind::Internal),
            ("store", RECEIVER, Some("receive"), SpanKind::Internal),
        ];
        assert_eq!(spans.len(), tree.len(), "{route:?}: {:?}", spans.keys());
        for (name, teller, parent, kind) in tree {
            let (service, span) = &spans[name];
            assert_eq!(service, teller, "{name}");
            assert_eq!(span.kind(), kind, "{name}");
            let above = parent.map(|parent| spans[parent].1.span_id.clone());
            assert_eq!(
                span.parent_span_id,
                above.unwrap_or_default(),
                "{route:?}: {name}"
            );
        }
        let received = &spans["receive"].1.attributes;
        let transport = route.transport().key().to_owned();
        assert_eq!(text(received, "pantelegraph.image.id"), Some(image));
        assert_eq!(text(received, "pantelegraph.transport"), Some(transport));
        assert_eq!(
            text(received, "pantelegraph.status").as_deref(),
            Some("stored")
        );
    }
}

fn numbers(metrics: &[(String, Metric)], service: &str, name: &str) -> Vec<NumberDataPoint> {
    let of = metrics.iter().rev();
    let mut of = of.filter(|(teller, metric)| teller == service && metric.name == name);
    match of.next().and_then(|(_, metric)| metric.data.clone()) {
        Some(Data::Sum(sum)) => sum.data_points,
        Some(Data::Gauge(gauge)) => gauge.data_points,
        other => panic!("{service} {name}: {other:?}"),
    }
}

fn total(metrics: &[(String, Metric)], service: &str, name: &str) -> f64 {
    let points = numbers(metrics, service, name);
    let value = |point: NumberDataPoint| match point.value {
        Some(Value::AsDouble(number)) => number,
        other => panic!("{name}: {other:?}"),
    };
    points.into_iter().map(value).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_of_both_daemons_arrive_compressed_and_encrypted_for_those_who_have_the_key() {
    let authority = Authority::default();
    authority.issue(Role::Gateway, "collector");
    authority.issue(Role::Receiver, "gw");
    let files = ServerFiles {
        certificate: authority.path("collector.pem"),
        key: authority.path("collector.key"),
        clients: Some(ClientAuth {
            ca: authority.path("ca.pem"),
            revoked: None,
            optional: false,
        }),
    };
    let tls = ServerTls::open(files, &[H2]).expect("the files are good");
    let manners = Manners {
        key: Some("open sesame"),
        busy: 1,
    };
    let collector = Collector::with(manners, Some(tls)).await;
    let url = format!("https://{}", collector.address);
    let file = |name: &str| authority.file(name);
    let (ca, cert, key) = (file("ca.pem"), file("gw.pem"), file("gw.key"));
    let telemetry = [
        "--otel-exporter-otlp-endpoint",
        &url,
        "--otel-exporter-otlp-compression",
        "gzip",
        "--otel-exporter-otlp-certificate",
        &ca,
        "--otel-exporter-otlp-client-certificate",
        &cert,
        "--otel-exporter-otlp-client-key",
        &key,
        "--otel-service-name",
        "gate",
    ];
    let headers = [("OTEL_EXPORTER_OTLP_HEADERS", "api-key=open%20sesame")];
    let data = station::Data::default();
    let config = receiver_config_in(&headers, data.path(), &telemetry);
    let station = Station::start_as(config, data).await;
    let route = Route::Put;
    let config = route.config(
        route.address(&station),
        &[&telemetry[..10], &["--pattern", "64x48", "--count", "7"]].concat(),
    );
    let summary = transmit(&config, None).await;
    assert_eq!(summary.outcome, RunOutcome::Delivered);
    station.stop().await;
    // The transmitter has no key. Its images passed all the same.
    assert!(collector.turned_away() > 0);
    let metrics = collector.metrics();
    assert!(metrics.iter().all(|(service, _)| service == "gate"));
    assert_eq!(
        total(&metrics, "gate", "pantelegraph_images_received_total"),
        7.0
    );
    let build = numbers(&metrics, "gate", "pantelegraph_build_info");
    let version = text(&build[0].attributes, "version");
    assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    let stored = metrics
        .iter()
        .find(|(_, metric)| metric.name == "pantelegraph_store_seconds");
    let Some(Data::Histogram(stored)) = stored.and_then(|(_, metric)| metric.data.clone()) else {
        panic!("no histogram")
    };
    let point = &stored.data_points[0];
    assert_eq!((point.count, point.bucket_counts.iter().sum()), (7, 7));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_of_a_transmitter_are_told_at_its_end() {
    let collector = Collector::start().await;
    let url = endpoint(&collector);
    let pair = Pair::start(Route::WebSocket, &[]).await;
    let flags = [
        "--otel-exporter-otlp-endpoint",
        &url,
        "--pattern",
        "64x48",
        "--count",
        "3",
    ];
    pair.transmit(&flags).await;
    pair.station.stop().await;
    let metrics = collector.metrics();
    let delivered = "pantelegraph_transmitter_images_delivered_total";
    assert_eq!(total(&metrics, TRANSMITTER, delivered), 3.0);
    // Its receiver tells nobody, and the attempts are told all the same.
    assert_eq!(collector.spans().len(), 3 * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_image_waits_for_a_collector_that_is_away() {
    let away = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("it is bound")
    };
    let url = format!("http://{away}");
    let telemetry = [
        "--otel-exporter-otlp-endpoint",
        &url,
        "--otel-bsp-max-queue-size",
        "10",
    ];
    let pair = Pair::start(Route::Exchange, &telemetry).await;
    let flags = ["--pattern", "64x48", "--count", "50"];
    let summary = pair.transmit(&[&telemetry[..], &flags[..]].concat()).await;
    assert_eq!(summary.outcome, RunOutcome::Delivered);
    assert_eq!(pair.station.listed("stored").await.len(), 50);
    pair.station.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_shows_as_attempts_and_the_receipt_belongs_to_the_last() {
    for route in [Route::Exchange, Route::WebSocket, Route::Rest] {
        let collector = Collector::start().await;
        let url = endpoint(&collector);
        let telemetry = ["--otel-exporter-otlp-endpoint", &url];
        let station = Station::start(&telemetry).await;
        let proxy = Proxy::start(Some(route.address(&station))).await;
        proxy.cut_after(&[1 << 20]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let picture = large(3 << 20, 1);
        let path = folder.path().join("large.png");
        write_file(&path, &picture.bytes);
        let file = path.to_str().expect("plain names");
        let config = route.config(
            proxy.address,
            &[&telemetry[..], &["--file", file, "--connections", "1"]].concat(),
        );
        let summary = transmit(&config, None).await;
        assert_eq!(summary.outcome, RunOutcome::Delivered, "{route:?}");
        station.stop().await;
        assert_eq!(proxy.cuts(), 1, "{route:?}: {} bytes", picture.bytes.len());
        let spans = collector.spans();
        let all = |name: &str| {
            let named = spans.iter().filter(|(_, span)| span.name == name);
            named.map(|(_, span)| span.clone()).collect::<Vec<_>>()
        };
        let mut attempts = all("deliver");
        attempts.sort_by_key(|span| span.start_time_unix_nano);
        let (last, broken) = attempts.split_last().expect("it was sent");
        assert!(!broken.is_empty(), "{route:?}");
        assert!(
            broken.iter().all(|span| span.status.is_some()),
            "{route:?}: {broken:?}"
        );
        assert!(last.status.is_none(), "{route:?}: {last:?}");
        // What came of an attempt that broke may be told as well, as what it is.
        let mut received = all("receive");
        received.retain(|span| span.status.is_none());
        let [received] = &received[..] else {
            panic!("{route:?}: {}", received.len())
        };
        assert_eq!(received.parent_span_id, last.span_id, "{route:?}");
        assert_eq!(all("image").len(), 1, "{route:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_a_trace_of_its_own_keeps_it_and_decides_whether_it_is_told() {
    let collector = Collector::start().await;
    let station = Station::start(&["--otel-exporter-otlp-endpoint", &endpoint(&collector)]).await;
    let picture = jpeg(1);
    for (number, traceparent) in [
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        "no traceparent at all",
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("01932f3e-0000-7000-8000-00000000000{number}");
        let mut client = RawHttp::connect(station.http()).await;
        let headers = format!(
            "traceparent: {traceparent}\r\ncontent-length: {}\r\n",
            picture.bytes.len()
        );
        client.write_put(&id, &headers).await;
        client.write(&picture.bytes).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    station.stop().await;
    let spans = collector.spans();
    let received = spans.iter().filter(|(_, span)| span.name == "receive");
    let received: Vec<_> = received.map(|(_, span)| span).collect();
    let [theirs, own] = &received[..] else {
        panic!("{received:?}")
    };
    assert_eq!(theirs.trace_id[..3], [0x0a, 0xf7, 0x65]);
    assert_eq!(
        theirs.parent_span_id,
        [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]
    );
    assert_eq!(own.trace_id[..4], [0x01, 0x93, 0x2f, 0x3e]);
    assert!(own.parent_span_id.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_image_waits_for_a_collector_that_says_nothing() {
    // It is connected to, and answers nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("it is bound"));
    let telemetry = [
        "--otel-exporter-otlp-endpoint",
        &url,
        "--otel-bsp-max-queue-size",
        "10",
    ];
    let pair = Pair::start(Route::Put, &telemetry).await;
    let flags = ["--pattern", "64x48", "--count", "50"];
    let summary = pair.transmit(&[&telemetry[..], &flags[..]].concat()).await;
    assert_eq!(summary.outcome, RunOutcome::Delivered);
    assert_eq!(pair.station.listed("stored").await.len(), 50);
    pair.station.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_limited_shows_how_much_of_it_is_in_use() {
    let station = Station::start(&["--max-connections", "100", "--credit", "8MiB"]).await;
    let text = String::from_utf8(station.get("/metrics").await.body.to_vec()).expect("text");
    for line in [
        "pantelegraph_connections{state=\"busy\"} 1",
        "pantelegraph_connections_limit 100",
        "pantelegraph_session_credit_bytes 8388608",
        "pantelegraph_pool_size{pool=\"decode\"} 2",
        "pantelegraph_pool_busy{pool=\"decode\"} 0",
        "pantelegraph_images_storing 0",
        "pantelegraph_images_unfinished{state=\"sent\"} 0",
        "pantelegraph_catalogue_waiting 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
    // What is half here is known as that.
    let mut client = RawHttp::connect(station.http()).await;
    let id = "01932f3e-0000-7000-8000-000000000001";
    client
        .write_put(id, "content-length: 100000\r\nexpect: 100-continue\r\n")
        .await;
    let asked = client.answer().await.expect("an answer");
    assert_eq!(asked.status, 100);
    let text = String::from_utf8(station.get("/metrics").await.body.to_vec()).expect("text");
    for line in [
        "pantelegraph_connections{state=\"busy\"} 2",
        "pantelegraph_images_unfinished{state=\"sent\"} 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
    station.stop().await;
}
