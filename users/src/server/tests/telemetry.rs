//! What an operator sees of calls: figures, traces, and the log.

use std::collections::BTreeSet;

use futures_util::SinkExt as _;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use shared::clock::UnixNanos;
use tokio_tungstenite::tungstenite::Message;

use super::collector::{Collector, number, text};
use super::*;
use crate::wire::proto::user_service_client::UserServiceClient;
use crate::wire::proto::{EchoRequest, GetUserRequest};

/// The figures of now, as somebody who may read them sees them.
async fn scrape(server: &Server) -> String {
    let token = key().token("prometheus", "read", 4_000_000_000).unwrap();
    let url = format!("http://{}/metrics", server.http_address.unwrap());
    let ask = reqwest::Client::new().get(url).bearer_auth(token);
    let answer = ask.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let kind = &answer.headers()["content-type"];
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    answer.text().await.unwrap()
}

/// The figures once these lines are among them: a call is counted when its answer has gone out, which is
/// a moment after its client has it.
async fn scraped(server: &Server, lines: &[&str]) -> String {
    let mut page = String::new();
    let there = async {
        loop {
            page = scrape(server).await;
            let is_there = |line: &&str| page.lines().any(|found| found == *line);
            if lines.iter().all(is_there) {
                break;
            }
        }
    };
    if tokio::time::timeout(LIMIT / 4, there).await.is_err() {
        let found: Vec<_> = page.lines().collect();
        let missing = lines.iter().filter(|line| !found.contains(line));
        let (missing, mut found) = (missing.collect::<Vec<_>>(), found.clone());
        found.retain(|line| !line.starts_with('#') && !line.contains("_bucket"));
        panic!("{missing:#?} are not in {found:#?}");
    }
    page
}

fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    let line = line.unwrap_or_else(|| panic!("{series} is not in\n{page}"));
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn calls_of_all_faces_are_counted_by_what_was_called_and_how_it_ended() {
    let server = start(Config::default()).await;
    let mut open = Vec::new();
    for over in FACES {
        let client = caller(&server, over, None);
        client.get_user(1).await.unwrap();
        client.get_user(2).await.unwrap();
        client.get_user(99).await.unwrap_err();
        client.create_user(draft("Ada", "user")).await.unwrap();
        client.echo(Vec::new(), None, 13).await.unwrap_err();
        let mut users = client.list_users(4, None, true).await.unwrap();
        assert_eq!(users.next().await.unwrap().unwrap().user_id, 5);
        let seat = client.chat().await.unwrap();
        open.push((client, users, seat));
    }
    let page = scraped(
        &server,
        &[
            r#"pantelegraph_users_calls_total{face="grpc",method="user.v1.UserService/GetUser",code="OK"} 2"#,
            r#"pantelegraph_users_calls_total{face="grpc",method="user.v1.UserService/GetUser",code="NOT_FOUND"} 1"#,
            r#"pantelegraph_users_calls_total{face="grpc",method="user.v1.UserService/CreateUser",code="OK"} 1"#,
            r#"pantelegraph_users_calls_total{face="grpc",method="user.v1.UserService/Echo",code="INTERNAL"} 1"#,
            r#"pantelegraph_users_calls_total{face="rest",method="GET /users/{id}",code="200"} 2"#,
            r#"pantelegraph_users_calls_total{face="rest",method="GET /users/{id}",code="404"} 1"#,
            r#"pantelegraph_users_calls_total{face="rest",method="POST /users",code="201"} 1"#,
            r#"pantelegraph_users_calls_total{face="rest",method="POST /echo",code="500"} 1"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="query",code="OK"} 2"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="query",code="NOT_FOUND"} 1"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="query",code="INTERNAL"} 1"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="mutation",code="OK"} 1"#,
            r#"pantelegraph_users_call_seconds_count{face="grpc",kind="unary"} 5"#,
            // Its client watches health, too.
            r#"pantelegraph_users_calls_in_flight{face="grpc"} 3"#,
            // These figures are a call themselves.
            r#"pantelegraph_users_calls_in_flight{face="rest"} 3"#,
            r#"pantelegraph_users_calls_in_flight{face="graphql"} 2"#,
            "pantelegraph_users_websockets 2",
            "pantelegraph_users_known 8",
            "pantelegraph_users_known_limit 1000000",
            "pantelegraph_users_lists 3",
            "pantelegraph_users_chat_seats 3",
            "pantelegraph_users_chat_seats_limit 1024",
            "pantelegraph_users_chat_unread 0",
            r#"pantelegraph_users_connections{listener="grpc"} 1"#,
            r#"pantelegraph_users_connections_limit{listener="http"} 1024"#,
            concat!(
                r#"pantelegraph_build_info{version=""#,
                env!("CARGO_PKG_VERSION"),
                r#""} 1"#
            ),
        ],
    )
    .await;
    assert!(
        !page.contains(r#"method="user.v1.UserService/Chat""#),
        "{page}"
    );
    for face in ["grpc", "rest", "graphql"] {
        for way in ["received", "sent"] {
            let series = format!("pantelegraph_users_{way}_bytes_total{{face=\"{face}\"}}");
            assert!(value(&page, &series) > 10.0, "{series}\n{page}");
        }
    }
    drop(open);
    scraped(
        &server,
        &[
            r#"pantelegraph_users_calls_total{face="grpc",method="user.v1.UserService/Chat",code="CANCELLED"} 1"#,
            r#"pantelegraph_users_calls_total{face="grpc",method="user.v1.UserService/ListUsers",code="CANCELLED"} 1"#,
            r#"pantelegraph_users_calls_total{face="rest",method="GET /chat/events",code="499"} 1"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="subscription",code="CANCELLED"} 2"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="socket",code="OK"} 2"#,
            r#"pantelegraph_users_calls_total{face="grpc",method="grpc.health.v1.Health/Watch",code="CANCELLED"} 1"#,
            r#"pantelegraph_users_call_seconds_count{face="grpc",kind="stream"} 3"#,
            r#"pantelegraph_users_calls_in_flight{face="graphql"} 0"#,
            "pantelegraph_users_websockets 0",
            "pantelegraph_users_chat_seats 0",
            "pantelegraph_users_lists 0",
        ],
    )
    .await;
    server.stop().await;
}

/// What is counted apart, without the counts.
fn series(page: &str) -> BTreeSet<&str> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| Some(line.rsplit_once(' ')?.0))
        .collect()
}

#[tokio::test]
async fn names_that_clients_make_up_are_counted_together() {
    let server = start(Config::default()).await;
    let (grpc, http) = (server.grpc_address.unwrap(), server.http_address.unwrap());
    let client = reqwest::Client::new();
    let ask = async |number: u32| {
        let path = match number % 10 {
            0 => format!("http://{http}/no/such/path/{number}"),
            1 => format!("http://{http}/users/made-up-{number}"),
            2 => format!("http://{http}/users"),
            3 => format!("http://{http}/users?made-up-{number}={number}"),
            4 => format!("http://{grpc}/user.v1.UserService/MadeUp{number}"),
            5 => format!("http://{grpc}/made.up.Service{number}/GetUser"),
            6 => format!("http://{http}/docs/{number}"),
            7 => format!("http://{http}/graphql/{number}"),
            _ => format!("http://{http}/graphql"),
        };
        let method = match number % 10 {
            2 => format!("MADEUP{number}"),
            0 | 1 | 3 | 6 | 7 => "GET".to_owned(),
            _ => "POST".to_owned(),
        };
        let request = client.request(method.parse().unwrap(), path);
        let request = request.header("x-request-id", format!("made-up-{number}"));
        let request = match number % 10 {
            4 | 5 => request.header("content-type", "application/grpc-web+proto"),
            8 => request.json(&serde_json::json!({
                "query": format!("query MadeUp{number} {{ made{number}: userCount }}"),
                "operationName": format!("MadeUp{number}"),
            })),
            9 => request.json(&serde_json::json!({
                "query": "query Known { userCount }",
                "operationName": format!("MadeUp{number}"),
            })),
            _ => request,
        };
        request.send().await.unwrap().bytes().await.unwrap();
    };
    for number in 0..10 {
        ask(number).await;
    }
    // Its own series is there from the second time on.
    scrape(&server).await;
    let first = scraped(
        &server,
        &[
            r#"pantelegraph_users_calls_total{face="rest",method="other",code="404"} 2"#,
            r#"pantelegraph_users_calls_total{face="rest",method="other",code="405"} 1"#,
            r#"pantelegraph_users_calls_total{face="grpc",method="other",code="UNIMPLEMENTED"} 2"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="query",code="OK"} 1"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="other",code="INVALID_ARGUMENT"} 1"#,
            r#"pantelegraph_users_calls_total{face="rest",method="GET /docs/{*file}",code="404"} 1"#,
        ],
    )
    .await;
    for number in 10..1_010 {
        ask(number).await;
    }
    let last = scraped(
        &server,
        &[
            r#"pantelegraph_users_calls_total{face="rest",method="other",code="404"} 202"#,
            r#"pantelegraph_users_calls_total{face="rest",method="other",code="405"} 101"#,
            r#"pantelegraph_users_calls_total{face="grpc",method="other",code="UNIMPLEMENTED"} 202"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="query",code="OK"} 101"#,
        ],
    )
    .await;
    assert_eq!(series(&first), series(&last));
    server.stop().await;
}

#[tokio::test]
async fn figures_are_for_those_who_may_read_unless_they_are_open() {
    let status = async |server: &Server, scope: Option<&str>| {
        let url = format!("http://{}/metrics", server.http_address.unwrap());
        let mut ask = reqwest::Client::new().get(url);
        if let Some(scope) = scope {
            ask = ask.bearer_auth(key().token("ada", scope, 4_000_000_000).unwrap());
        }
        ask.send().await.unwrap().status().as_u16()
    };
    let with = async |asks: bool, open_metrics| {
        let config = Config {
            security: ServerSettings {
                tokens: asks.then(|| Tokens::new(vec![key()], None)),
                ..ServerSettings::default()
            },
            open_metrics,
            ..Config::default()
        };
        let listeners = Listeners::open(&config).await.unwrap();
        Server::start(config, listeners).await.unwrap()
    };
    let guarded = with(true, false).await;
    for (scope, expected) in [
        (None, 401),
        (Some("upload"), 403),
        (Some("read"), 200),
        (Some("admin"), 200),
    ] {
        assert_eq!(status(&guarded, scope).await, expected, "{scope:?}");
    }
    scraped(
        &guarded,
        &[r#"pantelegraph_refused_total{reason="missing-token"} 1"#],
    )
    .await;
    guarded.stop().await;
    let open = with(true, true).await;
    assert_eq!(status(&open, None).await, 200);
    assert_eq!(status(&open, Some("upload")).await, 200);
    // Nothing else is.
    let users = caller(&open, Over::Rest, None).get_user(1).await;
    assert_eq!(users.unwrap_err().code, Code::Unauthenticated);
    open.stop().await;
    let of_all = with(false, false).await;
    assert_eq!(status(&of_all, None).await, 200);
    of_all.stop().await;
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: [u8; 16] = [
    0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c,
];
const PARENT_SPAN: [u8; 8] = [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];

async fn told(collector: &Collector) -> Server {
    let mut config = Config::default();
    config.telemetry.traces = Some(collector.url.clone());
    config.telemetry.metrics = Some(collector.url.clone());
    start(config).await
}

async fn grpc(server: &Server) -> UserServiceClient<tonic::transport::Channel> {
    let endpoint = tonic::transport::Endpoint::new(address(server, Over::Grpc)).unwrap();
    UserServiceClient::new(endpoint.connect().await.unwrap())
}

fn placed<T>(message: T, traceparent: &'static str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", traceparent.parse().unwrap());
    metadata.insert("x-request-id", "mine-grpc".parse().unwrap());
    request
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut named = spans.iter().filter(|span| span.name == name);
    match (named.next(), named.next()) {
        (Some(span), None) => span,
        _ => panic!("{name} is not there once: {spans:#?}"),
    }
}

#[tokio::test]
async fn a_call_of_each_face_is_a_span_below_its_callers() {
    let collector = Collector::start().await;
    let server = told(&collector).await;
    let mut client = grpc(&server).await;
    let user = GetUserRequest { user_id: 1 };
    client.get_user(placed(user, PARENT)).await.unwrap();
    let fails = EchoRequest {
        code: 13,
        ..EchoRequest::default()
    };
    client.echo(placed(fails, PARENT)).await.unwrap_err();
    let http = reqwest::Client::new();
    let token = key().token("secret-agent", "read", 4_000_000_000).unwrap();
    let url = |path: &str| format!("http://{}{path}", server.http_address.unwrap());
    let rest = http.get(url("/users/99?secret-word=1")).bearer_auth(token);
    let rest = rest
        .header("traceparent", PARENT)
        .header("x-request-id", "mine-rest");
    assert_eq!(rest.send().await.unwrap().status(), 404);
    let query = r#"{"query":"query SecretName { userCount }"}"#;
    let graphql = http.post(url("/graphql")).header("traceparent", PARENT);
    let graphql = graphql
        .header("content-type", "application/json")
        .body(query);
    assert_eq!(graphql.send().await.unwrap().status(), 200);
    server.stop().await;

    let spans = collector.spans();
    assert_eq!(spans.len(), 4, "{spans:#?}");
    assert!(
        collector
            .services()
            .iter()
            .all(|name| name == "pantelegraph-users")
    );
    for span in &spans {
        assert_eq!(span.trace_id, TRACE, "{span:?}");
        assert_eq!(span.parent_span_id, PARENT_SPAN, "{span:?}");
        assert_eq!(span.kind(), SpanKind::Server, "{span:?}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        assert!(text(&span.attributes, "pantelegraph.call.id").is_some());
        let shown = format!("{span:?}").to_lowercase();
        assert!(!shown.contains("secret"), "{shown}");
    }
    let span = named(&spans, "user.v1.UserService/GetUser");
    let get = |key: &str| text(&span.attributes, key).unwrap_or_default();
    assert_eq!(get("rpc.system"), "grpc");
    assert_eq!(get("rpc.service"), "user.v1.UserService");
    assert_eq!(get("rpc.method"), "GetUser");
    assert_eq!(get("pantelegraph.call.id"), "mine-grpc");
    assert_eq!(number(&span.attributes, "rpc.grpc.status_code"), Some(0));
    assert!(span.status.is_none());
    let span = named(&spans, "user.v1.UserService/Echo");
    assert_eq!(number(&span.attributes, "rpc.grpc.status_code"), Some(13));
    assert_eq!(span.status.as_ref().unwrap().message, "INTERNAL");
    let span = named(&spans, "GET /users/{id}");
    let get = |key: &str| text(&span.attributes, key).unwrap_or_default();
    assert_eq!(get("http.request.method"), "GET");
    assert_eq!(get("http.route"), "/users/{id}");
    assert_eq!(get("url.scheme"), "http");
    assert_eq!(get("pantelegraph.call.id"), "mine-rest");
    let status = number(&span.attributes, "http.response.status_code");
    assert_eq!(status, Some(404));
    assert!(span.status.is_none(), "that was its caller's fault");
    let span = named(&spans, "query");
    let get = |key: &str| text(&span.attributes, key).unwrap_or_default();
    assert_eq!(get("http.route"), "/graphql");
    assert_eq!(get("graphql.operation.type"), "query");

    // The last figures are told at the end, too.
    let metrics = collector.metrics();
    let calls = metrics
        .iter()
        .find(|metric| metric.name == "pantelegraph_users_calls_total");
    match calls.and_then(|metric| metric.data.clone()) {
        Some(Data::Sum(sum)) => assert_eq!(sum.data_points.len(), 4, "{sum:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_began_a_trace_decides_and_others_get_one_of_their_own() {
    let collector = Collector::start().await;
    let server = told(&collector).await;
    let http = reqwest::Client::new();
    let ask = async |path: &str, traceparent: &'static str| {
        let url = format!("http://{}{path}", server.http_address.unwrap());
        let ask = http.get(url).header("traceparent", traceparent);
        ask.send().await.unwrap().bytes().await.unwrap();
    };
    let unsampled = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    ask("/users/1", unsampled).await;
    ask("/healthz", "no traceparent at all").await;
    server.stop().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    let own = named(&spans, "GET /healthz");
    assert!(
        own.parent_span_id.is_empty() && own.trace_id != [0; 16],
        "{own:?}"
    );
}

#[tokio::test]
async fn the_span_of_a_stream_ends_with_its_last_byte() {
    let collector = Collector::start().await;
    let server = told(&collector).await;
    let url = format!(
        "http://{}/users/events?after=4",
        server.http_address.unwrap()
    );
    let ask = reqwest::Client::new()
        .get(url)
        .header("traceparent", PARENT);
    let mut events = ask.send().await.unwrap().bytes_stream();
    events.next().await.unwrap().unwrap();
    let page = scrape(&server).await;
    assert!(!page.contains(r#"method="GET /users/events""#), "{page}");
    let before = UnixNanos::now();
    drop(events);
    let counted =
        r#"pantelegraph_users_calls_total{face="rest",method="GET /users/events",code="499"} 1"#;
    scraped(&server, &[counted]).await;
    server.stop().await;
    let spans = collector.spans();
    let span = named(&spans, "GET /users/events");
    let end = i64::try_from(span.end_time_unix_nano).unwrap();
    assert!(end >= before.0, "{end} is before {}", before.0);
    assert!(span.status.is_none(), "{span:?}");
}

#[tokio::test]
async fn operations_on_a_websocket_stand_below_the_request_for_it() {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let collector = Collector::start().await;
    let server = told(&collector).await;
    let url = format!("ws://{}/graphql", server.http_address.unwrap());
    let mut request = url.into_client_request().unwrap();
    for (name, value) in [
        ("sec-websocket-protocol", "graphql-transport-ws"),
        ("traceparent", PARENT),
    ] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    let stream = tokio::net::TcpStream::connect(server.http_address.unwrap()).await;
    let socket = tokio_tungstenite::client_async(request, stream.unwrap()).await;
    let mut socket = socket.unwrap().0;
    for message in [
        r#"{"type":"connection_init"}"#,
        r#"{"type":"subscribe","id":"1","payload":{"query":"{ user(id: 99) { name } }"}}"#,
        r#"{"type":"subscribe","id":"2","payload":{"query":"{ nothing }"}}"#,
    ] {
        socket.send(Message::text(message)).await.unwrap();
    }
    let mut ended = 0;
    while ended < 2 {
        let message = within("an answer", socket.next()).await.unwrap().unwrap();
        if let Message::Text(text) = message {
            let ends = [r#""type":"complete""#, r#""type":"error""#];
            ended += usize::from(ends.iter().any(|end| text.contains(end)));
        }
    }
    scraped(
        &server,
        &[
            r#"pantelegraph_users_calls_total{face="graphql",method="query",code="NOT_FOUND"} 1"#,
            r#"pantelegraph_users_calls_total{face="graphql",method="query",code="INVALID_ARGUMENT"} 1"#,
        ],
    )
    .await;
    drop(socket);
    server.stop().await;
    let mut spans = collector.spans();
    spans.retain(|span| span.trace_id == TRACE);
    let above = named(&spans, "socket").clone();
    assert_eq!(above.parent_span_id, PARENT_SPAN);
    let queries: Vec<_> = spans.iter().filter(|span| span.name == "query").collect();
    assert_eq!(queries.len(), 2, "{spans:#?}");
    assert!(
        queries
            .iter()
            .all(|span| span.parent_span_id == above.span_id)
    );
}

/// Keeps what lines about calls say.
#[derive(Clone, Default)]
struct Lines(Arc<parking_lot::Mutex<Vec<String>>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = String::new();
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                line += &format!("{field}={value:?} ");
            },
        );
        self.0.lock().push(line);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn the_line_of_a_call_names_its_trace() {
    let lines = Lines::default();
    // While there is only one, `tracing` asks that of whatever thread logs first, and threads of other
    // tests have none.
    let _second = tracing::Dispatch::new(lines.clone());
    // Of this thread, which is the only one here.
    let _guard = tracing::subscriber::set_default(lines.clone());
    let server = start(Config::default()).await;
    let http = reqwest::Client::new();
    for traceparent in [Some(PARENT), None] {
        let mut ask = http.get(format!("http://{}/users/1", server.http_address.unwrap()));
        if let Some(traceparent) = traceparent {
            ask = ask.header("traceparent", traceparent);
        }
        ask.send().await.unwrap().bytes().await.unwrap();
    }
    server.stop().await;
    let lines = lines.0.lock();
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("call=GET /users/1 "))
        .collect();
    let has_trace = |line: &&&String| line.contains("trace=0af7651916cd43dd8448eb211c80319c ");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines.iter().filter(has_trace).count(), 1, "{lines:?}");
    assert_eq!(
        lines.iter().filter(|line| line.contains("trace=")).count(),
        1
    );
}
