mod authority;
mod collector;
mod evolution;
mod one_port;
mod security;
mod telemetry;

use std::collections::HashSet;

use futures_util::{StreamExt as _, stream};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Serving;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::access::Anonymous;
use crate::client::{CallOptions, Client, Failure, Over, StreamResult, client};
use crate::refusal::Code;
use crate::user::Draft;
use crate::wire::SERVICE;
use shared::security::Secret;
use shared::security::bearer::Bearer;
use shared::security::settings::{ClientSettings, ServerSettings};
use shared::security::tokens::{TokenKey, Tokens};

/// Far more than anything here takes; only a test that hangs ends by it.
const LIMIT: Duration = Duration::from_secs(120);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

fn key() -> TokenKey {
    TokenKey::from_secret(Secret::new(vec![7; 32])).unwrap()
}

async fn start(config: Config) -> Server {
    let config = Config {
        security: ServerSettings {
            tokens: Some(Tokens::new(vec![key()], None)),
            ..ServerSettings::default()
        },
        anonymous: Anonymous::Admitted,
        ..config
    };
    let listeners = Listeners::open(&config).await.unwrap();
    Server::start(config, listeners).await.unwrap()
}

fn bearer(token: String) -> Bearer {
    Bearer::value(Secret::new(token.into_bytes())).unwrap()
}

fn address(server: &Server, over: Over) -> String {
    let address = match over {
        Over::Grpc => server.grpc_address,
        Over::Rest | Over::Graphql => server.http_address,
    };
    let address = address.or(server.all_address).unwrap();
    format!("http://{address}")
}

fn caller(server: &Server, over: Over, token: Option<String>) -> Box<dyn Client> {
    let options = CallOptions {
        deadline: LIMIT,
        security: ClientSettings {
            token: token.map(bearer),
            ..ClientSettings::default()
        },
    };
    client(over, &address(server, over), options).unwrap()
}

fn draft(name: &str, role: &str) -> Draft {
    Draft {
        name: name.to_owned(),
        email: "someone@example.com".to_owned(),
        age: 30,
        roles: vec![role.to_owned()],
    }
}

const FACES: [Over; 3] = [Over::Grpc, Over::Rest, Over::Graphql];

#[tokio::test]
async fn all_faces_tell_the_same_of_the_same_users() {
    let server = start(Config::default()).await;
    let mut told = Vec::new();
    for over in FACES {
        let client = caller(&server, over, None);
        let created = client
            .create_user(draft(&format!("{over}"), "user"))
            .await
            .unwrap();
        assert_eq!(client.get_user(created.user_id).await.unwrap(), created);
        let wrong = client.create_user(draft("", "NO")).await.unwrap_err();
        let fields: Vec<_> = wrong.violations.iter().map(|v| v.field.clone()).collect();
        assert_eq!(fields, ["name", "roles[0]"], "{over}: {wrong:?}");
    }
    for over in FACES {
        let client = caller(&server, over, None);
        let users = client.list_users(0, None, false).await.unwrap();
        let users: Vec<_> = users.map(Result::unwrap).collect().await;
        assert_eq!(users.len(), 8);
        assert_eq!(users[0].name, "Alice Johnson");
        let some = client.list_users(2, Some(3), false).await.unwrap();
        let some: Vec<_> = some.map(|user| user.unwrap().user_id).collect().await;
        assert_eq!(some, [3, 4, 5], "{over}");
        told.push(users);
    }
    assert!(told.iter().all(|users| *users == told[0]));
    server.stop().await;
}

#[tokio::test]
async fn a_thousand_users_go_in_and_come_out_over_every_face() {
    let server = start(Config::default()).await;
    for over in FACES {
        let client = caller(&server, over, None);
        let users = (0..1_000).map(|_| draft("Ada", "user")).collect();
        let answer = client.batch_create_users(users).await.unwrap();
        assert_eq!(
            (answer.users_created, answer.user_ids.len()),
            (1_000, 1_000)
        );
        let first = answer.user_ids[0];
        let users = client
            .list_users(first - 1, Some(1_000), false)
            .await
            .unwrap();
        let ids: Vec<_> = users.map(|user| user.unwrap().user_id).collect().await;
        assert_eq!(ids, answer.user_ids, "{over}");
    }
    server.stop().await;
}

#[tokio::test]
async fn each_message_of_a_stream_is_answered_before_the_next_is_sent() {
    let server = start(Config::default()).await;
    for over in FACES {
        let client = caller(&server, over, None);
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let drafts = stream::unfold(receive, |mut receive| async {
            Some((receive.recv().await?, receive))
        });
        let mut answers = client.stream_users(drafts.boxed(), false).await.unwrap();
        for (number, name) in [(1, "Ada"), (2, ""), (3, "Claude")] {
            send.send(draft(name, "user")).await.unwrap();
            let answer = within("an answer", answers.next()).await.unwrap().unwrap();
            assert_eq!(answer.sequence, number);
            let is_created = matches!(answer.result, StreamResult::Created(_));
            assert_eq!(is_created, number != 2, "{over}");
        }
        drop(send);
        assert!(within("the end", answers.next()).await.is_none());
        let drafts = stream::iter([draft("Ada", "user"), draft("", "user")]);
        let answers = client.stream_users(drafts.boxed(), true).await.unwrap();
        assert_eq!(answers.count().await, 2, "{over}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_status_is_reached_over_every_face() {
    let server = start(Config::default()).await;
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for over in FACES {
        let client = caller(&server, over, None);
        let client_of = crate::client::client;
        let told = |answer: Result<_, Failure>| {
            let failure: Failure = answer.map(|_: crate::client::UserAnswer| ()).unwrap_err();
            (failure.code, failure.message)
        };
        let token = |scope: &str, expires| Some(key().token("test", scope, expires).unwrap());
        let with = |token| caller(&server, over, token);
        let admin = || draft("Root", "admin");
        assert!(client.get_user(1).await.is_ok());
        assert_eq!(
            told(client.get_user(0).await),
            (Code::InvalidArgument, "ID must be positive".to_owned()),
            "{over}"
        );
        assert_eq!(
            told(client.get_user(99).await),
            (Code::NotFound, "User 99 not found".to_owned()),
            "{over}"
        );
        assert_eq!(
            told(client.create_user(admin()).await),
            (Code::Unauthenticated, "Missing token".to_owned()),
            "{over}"
        );
        assert_eq!(
            told(with(token("admin", 1)).create_user(admin()).await),
            (Code::Unauthenticated, "Token expired".to_owned()),
            "{over}"
        );
        let denied = with(token("read", 4_000_000_000))
            .create_user(admin())
            .await;
        assert_eq!(told(denied).0, Code::PermissionDenied, "{over}");
        let created = with(token("admin", 4_000_000_000))
            .create_user(admin())
            .await;
        assert_eq!(created.unwrap().roles, ["admin"], "{over}");
        for code in [Code::Cancelled, Code::Internal, Code::Unavailable] {
            let answer = client.echo(Vec::new(), None, code.number()).await;
            assert_eq!(answer.unwrap_err().code, code, "{over}");
        }
        let large = client
            .echo(vec!["x".repeat(5 << 20)], None, 0)
            .await
            .unwrap_err();
        assert_eq!(large.code, Code::ResourceExhausted, "{over}: {large}");
        assert!(
            large.message.contains("--max-message-size"),
            "{over}: {large}"
        );
        let hasty = CallOptions {
            deadline: Duration::from_millis(20),
            ..CallOptions::default()
        };
        let hasty = client_of(over, &address(&server, over), hasty).unwrap();
        let late = hasty.echo(Vec::new(), Some(LIMIT / 3), 0).await;
        assert_eq!(late.unwrap_err().code, Code::DeadlineExceeded, "{over}");
        let lost = client_of(over, &format!("http://{nobody}"), CallOptions::default());
        assert_eq!(
            told(lost.unwrap().get_user(1).await).0,
            Code::Unavailable,
            "{over}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn those_who_follow_and_chat_are_told_when_the_server_stops() {
    let server = start(Config::default()).await;
    let mut live = Vec::new();
    let mut seats = Vec::new();
    for over in FACES {
        let client = caller(&server, over, None);
        let mut users = client.list_users(4, None, true).await.unwrap();
        assert_eq!(users.next().await.unwrap().unwrap().user_id, 5);
        live.push((over, users));
        seats.push((over, client.chat().await.unwrap()));
    }
    within("the stop", server.stop()).await;
    for (over, mut users) in live {
        let end = within("the end of the list", users.next()).await;
        if over == Over::Grpc {
            assert_eq!(end.unwrap().unwrap_err().code, Code::Unavailable);
        } else {
            assert!(end.is_none_or(|end| end.is_err()), "{over}");
        }
    }
    for (over, mut seat) in seats {
        let end = within("the end of the chat", seat.heard.next()).await;
        assert!(end.is_none_or(|end| end.is_err()), "{over}");
    }
}

#[tokio::test]
async fn watchers_of_health_are_told_before_the_listener_closes() {
    let server = start(Config {
        stopping: Stopping {
            drain_delay: Duration::from_millis(300),
            grace: Duration::from_secs(10),
        },
        ..Config::default()
    })
    .await;
    let address = server.grpc_address.unwrap();
    let channel = tonic::transport::Endpoint::new(format!("http://{address}")).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let request = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    for service in ["", SERVICE] {
        let answer = health.check(request(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), Serving::Serving, "{service:?}");
    }
    let unknown = health.check(request("no.such.Service")).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    let mut watch = health.watch(request(SERVICE)).await.unwrap().into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        Serving::Serving
    );
    let stopped = tokio::spawn(server.stop());
    let told = within("NOT_SERVING", watch.message()).await;
    assert_eq!(told.unwrap().unwrap().status(), Serving::NotServing);
    // Calls are still answered, also on new connections.
    let second = tonic::transport::Endpoint::new(format!("http://{address}")).unwrap();
    let second = second.connect().await.expect("the listener is still open");
    let mut users = crate::wire::proto::user_service_client::UserServiceClient::new(second);
    let request = crate::wire::proto::GetUserRequest { user_id: 1 };
    assert_eq!(
        users.get_user(request).await.unwrap().into_inner().user_id,
        1
    );
    within("the end of the watch", async {
        while let Ok(Some(_)) = watch.message().await {}
    })
    .await;
    within("the stop", stopped).await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_client_that_goes_leaves_its_seat() {
    let server = start(Config::default()).await;
    for over in FACES {
        let seat = caller(&server, over, None).chat().await.unwrap();
        assert_eq!(server.service().room.readers(), 1, "{over}");
        drop(seat);
        within("the seat to be free", async {
            while server.service().room.readers() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    server.stop().await;
}

/// Many clients on few connections, in a small room: who reads hears everything once, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_hears_every_message_exactly_once() {
    const CLIENTS: usize = 60;
    const EACH: usize = 20;
    let mut config = Config::default();
    config.chat.messages = 64;
    config.chat.patience = LIMIT;
    let server = start(config).await;
    // One connection for each of these, which many calls share.
    let connections: Vec<_> = (0..3).map(|_| caller(&server, Over::Grpc, None)).collect();
    let mut tasks = Vec::new();
    for number in 0..CLIENTS {
        let seat = connections[number % connections.len()]
            .chat()
            .await
            .unwrap();
        tasks.push((number, seat.voice, seat.heard));
    }
    let tasks = tasks.into_iter().map(|(number, voice, mut told)| {
        tokio::spawn(async move {
            let name = format!("client {number}");
            let mut heard = Vec::new();
            let speak = async {
                for _ in 0..EACH {
                    voice.say(&name, "hello").await.unwrap();
                }
            };
            let hear = async {
                while heard.len() < CLIENTS * EACH {
                    heard.push(told.next().await.unwrap().unwrap());
                }
            };
            tokio::join!(speak, hear);
            heard
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut first = None;
    for task in tasks {
        let heard = within("everything", task).await.unwrap();
        let numbers: HashSet<u64> = heard.iter().map(|message| message.sequence).collect();
        assert_eq!(numbers.len(), CLIENTS * EACH);
        assert_eq!(first.get_or_insert_with(|| heard.clone()), &heard);
    }
    server.stop().await;
}

async fn panicking() -> &'static str {
    panic!("on purpose")
}

#[tokio::test]
async fn a_call_that_panics_is_internal() {
    // There is none that does; so the layer is put around one.
    let router = Router::new()
        .route("/", axum::routing::get(panicking))
        .layer(CatchPanicLayer::custom(|panic| {
            assert_eq!(words(&panic), "on purpose");
            grpc::refused(&Refusal::Internal).into_http::<Body>()
        }));
    let request = http::Request::get("/").body(Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "13");
}

#[tokio::test]
async fn pages_of_other_places_are_not_let_in() {
    let server = start(Config {
        origins: vec!["http://localhost:*".parse().unwrap()],
        ..Config::default()
    })
    .await;
    let http = reqwest::Client::new();
    for address in [server.grpc_address.unwrap(), server.http_address.unwrap()] {
        let ask = |origin: &str| {
            http.request(
                Method::OPTIONS,
                format!("http://{address}/user.v1.UserService/GetUser"),
            )
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,x-grpc-web")
            .send()
        };
        let answer = ask("http://localhost:5173").await.unwrap();
        let allowed = &answer.headers()["access-control-allow-origin"];
        assert_eq!(allowed, "http://localhost:5173");
        let answer = ask("http://evil.example").await.unwrap();
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
    }
    server.stop().await;
}

#[tokio::test]
async fn calls_keep_the_ids_that_their_callers_give() {
    let server = start(Config::default()).await;
    let http = reqwest::Client::new();
    let url = format!("http://{}/users/1", server.http_address.unwrap());
    let answer = http
        .get(&url)
        .header("x-request-id", "mine-1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-request-id"], "mine-1");
    let long = "x".repeat(65);
    let answer = http
        .get(&url)
        .header("x-request-id", &long)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-request-id"].len(), 32);
    server.stop().await;
}

/// A body that nobody reads is taken all the same, or its sender would see a broken pipe.
#[tokio::test]
async fn a_body_that_is_too_large_is_answered_not_cut_off() {
    let server = start(Config::default()).await;
    for path in [
        "/users",
        "/echo",
        "/users:batch",
        "/graphql",
        "/no/such/path",
    ] {
        // Without a pool: each on a connection of its own, whose whole body is sent before reading.
        let mut stream = tokio::net::TcpStream::connect(server.http_address.unwrap())
            .await
            .unwrap();
        let size = 20 << 20;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
             content-length: {size}\r\nconnection: close\r\n\r\n"
        );
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        within("the body to be sent", async {
            stream.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..20 {
                stream.write_all(&[b' '; 1 << 20]).await.unwrap();
            }
        })
        .await;
        let mut answer = String::new();
        within("the answer", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        let expected = if path == "/no/such/path" {
            "404"
        } else {
            "413"
        };
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{path}: {answer}"
        );
    }
    server.stop().await;
}

/// Asks for a WebSocket as a page of `origin` would.
async fn open_socket(
    server: &Server,
    origin: &str,
) -> Result<tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>, u16> {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    use tokio_tungstenite::tungstenite::{Error, handshake::client::Request};
    let url = format!("ws://{}/graphql", server.http_address.unwrap());
    let mut request: Request = url.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("origin", origin.parse().unwrap());
    headers.insert(
        "sec-websocket-protocol",
        HeaderValue::from_static("graphql-transport-ws"),
    );
    let stream = tokio::net::TcpStream::connect(server.http_address.unwrap())
        .await
        .unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn foreign_pages_open_no_websocket() {
    let server = start(Config {
        origins: vec!["https://app.example".parse().unwrap()],
        ..Config::default()
    })
    .await;
    assert_eq!(
        open_socket(&server, "https://evil.example").await.err(),
        Some(403)
    );
    assert_eq!(open_socket(&server, "null").await.err(), Some(403));
    assert!(open_socket(&server, "https://app.example").await.is_ok());
    let own = format!("http://{}", server.http_address.unwrap());
    assert!(open_socket(&server, &own).await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn a_websocket_counts_as_a_connection_and_is_waited_for() {
    let mut config = Config::default();
    config.connections.max = 1;
    let server = start(config).await;
    let own = format!("http://{}", server.http_address.unwrap());
    let mut socket = open_socket(&server, &own).await.unwrap();
    // The only place is taken: the next one is let in when it is free.
    let http = reqwest::Client::new();
    let url = format!("{own}/healthz");
    let mut waiting = tokio::spawn(http.get(url).send());
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "a second connection was served");
    socket.close(None).await.unwrap();
    within("the end of the socket", async {
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    assert!(
        within("a place", waiting)
            .await
            .unwrap()
            .unwrap()
            .status()
            .is_success()
    );
    server.stop().await;
}

#[tokio::test]
async fn a_silent_connection_gives_its_place_up() {
    let mut config = Config::default();
    config.connections.max = 1;
    config.connections.head_timeout = Duration::from_millis(200);
    let server = start(config).await;
    for (address, over) in [
        (server.grpc_address.unwrap(), Over::Grpc),
        (server.http_address.unwrap(), Over::Rest),
    ] {
        let silent = tokio::net::TcpStream::connect(address).await.unwrap();
        let client = caller(&server, over, None);
        let user = within("a place", client.get_user(1)).await.unwrap();
        assert_eq!(user.user_id, 1);
        drop(silent);
    }
    server.stop().await;
}

#[tokio::test]
async fn answers_that_are_held_back_and_strings_of_an_echo_have_bounds() {
    let server = start(Config {
        limits: crate::service::Limits {
            max_message_size: 4_096,
            ..crate::service::Limits::default()
        },
        ..Config::default()
    })
    .await;
    let client = caller(&server, Over::Grpc, None);
    let strings = client
        .echo(vec![String::new(); 1_000], None, 0)
        .await
        .unwrap_err();
    assert_eq!(strings.code, Code::ResourceExhausted);
    for over in [Over::Grpc, Over::Rest] {
        let client = caller(&server, over, None);
        let drafts = stream::iter((0..2_000).map(|_| draft("", "NO")));
        let answers = client.stream_users(drafts.boxed(), true).await;
        let last = match answers {
            Err(failure) => failure.code,
            Ok(answers) => match answers.collect::<Vec<_>>().await.pop().unwrap() {
                Err(failure) => failure.code,
                Ok(answer) => match answer.result {
                    StreamResult::Refused(failure) => failure.code,
                    StreamResult::Created(user) => panic!("{user:?}"),
                },
            },
        };
        assert_eq!(last, Code::ResourceExhausted, "{over}");
    }
    server.stop().await;
}
