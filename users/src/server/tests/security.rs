//! Who gets in, over every face, and what they may do.

use super::authority::Authority;
use super::*;
use shared::security::identity::Role;
use shared::security::tls::{ClientFiles, ServerFiles};
use shared::security::tokens::NewToken;
use tokio::io::AsyncReadExt as _;

const FAR: u64 = 4_000_000_000;

async fn guarded(tls: Option<ServerFiles>, tokens: bool) -> Server {
    guarded_with(tls, tokens, |_| {}).await
}

/// A server that asks everybody who it is.
async fn guarded_with(
    tls: Option<ServerFiles>,
    tokens: bool,
    change: impl FnOnce(&mut Config),
) -> Server {
    let mut config = Config {
        security: ServerSettings {
            tls,
            tokens: tokens.then(|| Tokens::new(vec![key()], None)),
            insecure: false,
        },
        ..Config::default()
    };
    change(&mut config);
    let listeners = Listeners::open(&config).await.unwrap();
    Server::start(config, listeners).await.unwrap()
}

/// A client that shows this over an encrypted connection.
fn encrypted(
    server: &Server,
    over: Over,
    tls: ClientFiles,
    token: Option<String>,
) -> Box<dyn Client> {
    let options = CallOptions {
        deadline: LIMIT,
        security: ClientSettings {
            tls,
            token: token.map(bearer),
        },
    };
    let address = address(server, over).replace("http:", "https:");
    client(over, &address, options).unwrap()
}

/// How a call ended: `ok`, or the code and the words.
fn ended<T>(answer: Result<T, Failure>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(failure) => failure.to_string(),
    }
}

fn token(scope: &str) -> Option<String> {
    Some(key().token("ada", scope, FAR).unwrap())
}

#[tokio::test]
async fn every_face_is_there_over_encrypted_connections() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = guarded(Some(authority.server(None)), false).await;
    for over in FACES {
        let client = encrypted(&server, over, authority.client(None), None);
        let created = client.create_user(draft("Ada", "user")).await.unwrap();
        assert_eq!(client.get_user(created.user_id).await.unwrap(), created);
        let mut users = client.list_users(4, None, true).await.unwrap();
        assert_eq!(users.next().await.unwrap().unwrap().user_id, 5, "{over}");
        let mut seat = client.chat().await.unwrap();
        seat.voice.say("Ada", "hello").await.unwrap();
        assert_eq!(seat.heard.next().await.unwrap().unwrap().text, "hello");
        let stranger = encrypted(&server, over, other.client(None), None);
        let refused = ended(stranger.get_user(1).await);
        assert!(refused.starts_with("UNAVAILABLE: "), "{over}: {refused}");
        assert!(
            refused.contains("is not signed by the CA"),
            "{over}: {refused}"
        );
        let plain = ended(caller(&server, over, None).get_user(1).await);
        assert!(plain.starts_with("UNAVAILABLE: "), "{over}: {plain}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_says_who_calls_and_what_it_may_do() {
    let authority = Authority::new();
    for (name, role) in [
        ("eye", Some(Role::Reader)),
        ("cam", Some(Role::Transmitter)),
        ("root", Some(Role::Admin)),
        ("gateway", Some(Role::Gateway)),
        ("nobody", None),
    ] {
        authority.sign(name, role);
    }
    let server = guarded(Some(authority.server(Some(false))), false).await;
    for over in FACES {
        let with = |name| encrypted(&server, over, authority.client(name), None);
        let lacks = |name, scope| format!("PERMISSION_DENIED: {name} lacks the scope {scope}");
        for (name, reads, creates) in [
            ("eye", "ok".to_owned(), lacks("eye", "upload")),
            ("cam", lacks("cam", "read"), "ok".to_owned()),
            ("root", "ok".to_owned(), "ok".to_owned()),
            (
                "gateway",
                lacks("gateway", "read"),
                lacks("gateway", "upload"),
            ),
        ] {
            let client = with(Some(name));
            assert_eq!(ended(client.get_user(1).await), reads, "{over}: {name}");
            let created = client.create_user(draft("Ada", "user")).await;
            assert_eq!(ended(created), creates, "{over}: {name}");
        }
        let admin = with(Some("root")).create_user(draft("Root", "admin")).await;
        assert_eq!(ended(admin), "ok", "{over}");
        let admin = ended(with(Some("cam")).create_user(draft("Root", "admin")).await);
        assert!(
            admin.contains("who have the scope admin"),
            "{over}: {admin}"
        );
        let nameless = ended(with(Some("nobody")).get_user(1).await);
        assert!(
            nameless.starts_with("UNAUTHENTICATED: The client certificate names no station"),
            "{over}: {nameless}"
        );
        let without = ended(with(None).get_user(1).await);
        assert!(without.starts_with("UNAVAILABLE: "), "{over}: {without}");
    }
    server.stop().await;
}

#[tokio::test]
async fn where_certificates_are_optional_a_token_does_too() {
    let authority = Authority::new();
    authority.sign("cam", Some(Role::Transmitter));
    let server = guarded(Some(authority.server(Some(true))), true).await;
    for over in FACES {
        let with = |name, token| encrypted(&server, over, authority.client(name), token);
        let answer = ended(with(None, token("read")).get_user(1).await);
        assert_eq!(answer, "ok", "{over}");
        let answer = ended(with(None, None).get_user(1).await);
        assert_eq!(answer, "UNAUTHENTICATED: Missing token", "{over}");
        let camera = with(Some("cam"), None);
        let created = camera.create_user(draft("Ada", "user")).await;
        assert_eq!(ended(created), "ok", "{over}");
        let other = ended(with(Some("cam"), token("read")).get_user(1).await);
        let words = "UNAUTHENTICATED: Token is of another station than the client certificate";
        assert_eq!(other, words, "{over}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_face_has_the_same_words_for_what_is_wrong_with_a_token() {
    let server = guarded(None, true).await;
    let sign = |change: fn(&mut NewToken<'static>)| {
        let mut claims = NewToken {
            subject: "ada",
            audience: None,
            scope: "admin",
            not_before: None,
            issued: None,
            expires: FAR,
        };
        change(&mut claims);
        Some(key().sign(&claims).unwrap())
    };
    let stranger = TokenKey::from_secret(Secret::new(vec![8; 32])).unwrap();
    // {"alg":"none"}.{"sub":"ada","exp":4000000000,"scope":"admin"}.
    let unsigned =
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEiLCJleHAiOjQwMDAwMDAwMDAsInNjb3BlIjoiYWRtaW4ifQ.";
    let table = [
        (None, "Missing token"),
        (sign(|it| it.expires = 1), "Token expired"),
        (
            sign(|it| it.not_before = Some(FAR - 1)),
            "Token is not valid yet",
        ),
        (
            sign(|it| it.audience = Some("somebody")),
            "Token is for another audience",
        ),
        (
            sign(|it| it.subject = ""),
            "Token must have a subject (sub)",
        ),
        (
            Some(stranger.token("ada", "admin", FAR).unwrap()),
            "Token signature is wrong",
        ),
        (Some(unsigned.to_owned()), "Token must be signed with HS256"),
        (Some("nonsense".to_owned()), "Token cannot be read"),
    ];
    for (token, words) in table {
        for over in FACES {
            let client = caller(&server, over, token.clone());
            let expected = format!("UNAUTHENTICATED: {words}");
            assert_eq!(ended(client.get_user(1).await), expected, "{over}");
            let created = client.create_user(draft("Ada", "user")).await;
            assert_eq!(ended(created), expected, "{over}");
            let seat = client.chat().await.map(drop);
            assert_eq!(ended(seat), expected, "{over}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn scopes_count_for_every_call() {
    let server = guarded(None, true).await;
    let batch = async |client: &dyn Client| {
        let users = vec![draft("Ada", "user")];
        ended(client.batch_create_users(users).await)
    };
    for over in FACES {
        let reader = caller(&server, over, token("read openid"));
        let denied = "PERMISSION_DENIED: ada lacks the scope upload";
        assert_eq!(ended(reader.get_user(1).await), "ok", "{over}");
        assert_eq!(ended(reader.list_users(0, None, false).await), "ok");
        assert_eq!(ended(reader.list_users(0, None, true).await), "ok");
        assert_eq!(ended(reader.echo(Vec::new(), None, 0).await), "ok");
        let created = reader.create_user(draft("", "NO")).await;
        assert_eq!(ended(created), denied, "{over}");
        assert_eq!(batch(reader.as_ref()).await, denied, "{over}");
        // Over GraphQL each user is a call of its own.
        let users = stream::iter([draft("Ada", "user")]).boxed();
        match reader.stream_users(users, false).await {
            Err(failure) => assert_eq!(failure.to_string(), denied, "{over}"),
            Ok(mut answers) => match answers.next().await.unwrap().map(|answer| answer.result) {
                Err(failure) | Ok(StreamResult::Refused(failure)) => {
                    assert_eq!(failure.to_string(), denied, "{over}");
                }
                Ok(StreamResult::Created(user)) => panic!("{over}: {user:?}"),
            },
        }
        let mut seat = reader.chat().await.unwrap();
        // gRPC says it where the answers come.
        let said = match seat.voice.say("Ada", "hello").await {
            Ok(()) => ended(seat.heard.next().await.unwrap()),
            said => ended(said),
        };
        assert_eq!(said, denied, "{over}");

        let writer = caller(&server, over, token("upload"));
        let denied = "PERMISSION_DENIED: ada lacks the scope read";
        assert_eq!(batch(writer.as_ref()).await, "ok", "{over}");
        assert_eq!(ended(writer.get_user(1).await), denied, "{over}");
        assert_eq!(
            ended(writer.list_users(0, None, false).await.map(drop)),
            denied
        );
        assert_eq!(
            ended(writer.list_users(0, None, true).await.map(drop)),
            denied
        );
        assert_eq!(ended(writer.chat().await.map(drop)), denied, "{over}");
    }
    server.stop().await;
}

#[tokio::test]
async fn statuses_and_challenges_of_http_tell_clients_what_to_show() {
    let server = guarded(None, true).await;
    let http = reqwest::Client::new();
    let user = r#"{"name":"Ada","email":"ada@example.com","age":36}"#;
    let mutation = r#"{"query":"mutation { say(user: \"Ada\", text: \"hello\") }"}"#;
    for (path, body) in [("/users", user), ("/graphql", mutation)] {
        let url = format!("http://{}{path}", server.http_address.unwrap());
        let ask = |token: &str| {
            let request = http.post(&url).header("content-type", "application/json");
            let request = request.header("authorization", format!("Bearer {token}"));
            request.body(body).send()
        };
        let expired = key().token("ada", "admin", 1).unwrap();
        let reader = token("read").unwrap();
        for (token, status, challenge) in [
            (
                expired,
                401,
                "error=\"invalid_token\", error_description=\"Token expired\"",
            ),
            (
                reader,
                403,
                "error=\"insufficient_scope\", scope=\"upload\"",
            ),
        ] {
            let answer = ask(&token).await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            let expected = format!("Bearer realm=\"pantelegraph\", {challenge}");
            assert_eq!(answer.headers()["www-authenticate"], expected, "{path}");
        }
        let missing = http.post(&url).header("content-type", "application/json");
        let missing = missing.body(body).send().await.unwrap();
        assert_eq!(missing.status(), 401, "{path}");
        let challenge = &missing.headers()["www-authenticate"];
        assert_eq!(challenge, "Bearer realm=\"pantelegraph\"");
    }
    server.stop().await;
}

#[tokio::test]
async fn health_and_what_is_the_same_for_all_need_no_caller() {
    let server = guarded(None, true).await;
    let http = reqwest::Client::new();
    let status = async |path: &str, accept: &str| {
        let url = format!("http://{}{path}", server.http_address.unwrap());
        let answer = http.get(url).header("accept", accept).send().await;
        answer.unwrap().status().as_u16()
    };
    for path in [
        "/healthz",
        "/readyz",
        "/",
        "/openapi.json",
        "/docs/",
        "/graphql/schema",
    ] {
        assert_eq!(status(path, "*/*").await, 200, "{path}");
    }
    assert_eq!(status("/graphql", "text/html").await, 200);
    for path in [
        "/users",
        "/users/1",
        "/users/events",
        "/chat/events",
        "/no/such/path",
        "/graphql",
        "/graphql?query={userCount}",
    ] {
        assert_eq!(status(path, "*/*").await, 401, "{path}");
    }
    let endpoint = tonic::transport::Endpoint::new(address(&server, Over::Grpc)).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let request = HealthCheckRequest {
        service: SERVICE.to_owned(),
    };
    let answer = health.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), Serving::Serving);
    server.stop().await;
}

#[tokio::test]
async fn grpc_web_is_refused_in_its_own_words() {
    let server = guarded(None, true).await;
    let url = format!(
        "{}/user.v1.UserService/GetUser",
        address(&server, Over::Grpc)
    );
    let request = reqwest::Client::new().post(url);
    let request = request.header("content-type", "application/grpc-web+proto");
    let answer = request
        .body(vec![0, 0, 0, 0, 2, 8, 1])
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-type"],
        "application/grpc-web+proto"
    );
    assert_eq!(answer.headers()["grpc-status"], "16");
    assert_eq!(answer.headers()["grpc-message"], "Missing%20token");
    server.stop().await;
}

#[tokio::test]
async fn where_anonymous_callers_are_let_in_a_bad_token_is_not() {
    let server = start(Config::default()).await;
    for over in FACES {
        let nobody = caller(&server, over, None);
        assert_eq!(ended(nobody.get_user(1).await), "ok", "{over}");
        let expired = Some(key().token("ada", "admin", 1).unwrap());
        let expired = caller(&server, over, expired).get_user(1).await;
        assert_eq!(ended(expired), "UNAUTHENTICATED: Token expired", "{over}");
    }
    server.stop().await;
}

#[tokio::test]
async fn no_page_of_elsewhere_is_let_in_unless_that_is_set() {
    let server = start(Config::default()).await;
    let origin = "http://localhost:5173";
    let http = reqwest::Client::new();
    for address in [server.grpc_address.unwrap(), server.http_address.unwrap()] {
        let url = format!("http://{address}/users");
        let ask = http.request(Method::OPTIONS, url).header("origin", origin);
        let ask = ask.header("access-control-request-method", "POST");
        let answer = ask.send().await.unwrap();
        let allowed = answer.headers().get("access-control-allow-origin");
        assert_eq!(allowed, None);
    }
    assert_eq!(open_socket(&server, origin).await.err(), Some(403));
    server.stop().await;
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let server = guarded_with(None, true, |config| {
        config.connections.max = 100;
        config.connections.max_per_peer = 100;
    })
    .await;
    for (over, address) in [
        (Over::Grpc, server.grpc_address.unwrap()),
        (Over::Rest, server.http_address.unwrap()),
    ] {
        let mut crowd = Vec::new();
        for _ in 0..200 {
            crowd.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let client = caller(&server, over, token("read"));
        let user = within("a place", client.get_user(1)).await;
        assert_eq!(user.unwrap().user_id, 1, "{over}");
        // The oldest had to go, and were told so.
        let mut byte = [0];
        let read = within("the end of the oldest", crowd[0].read(&mut byte)).await;
        assert!(
            read.is_err() || read.is_ok_and(|count| count == 0),
            "{over}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_websocket_that_proves_nothing_gives_way() {
    let server = guarded_with(None, true, |config| config.connections.max = 1).await;
    let own = format!("http://{}", server.http_address.unwrap());
    let mut silent = open_socket(&server, &own).await.unwrap();
    let client = caller(&server, Over::Rest, token("read"));
    let user = within("a place", client.get_user(1)).await.unwrap();
    assert_eq!(user.user_id, 1);
    within("the end of the socket", async {
        while let Some(Ok(_)) = silent.next().await {}
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let mut files = authority.server(None);
    files.key = files.certificate.clone();
    let config = Config {
        security: ServerSettings {
            tls: Some(files),
            ..ServerSettings::default()
        },
        ..Config::default()
    };
    let listeners = Listeners::open(&config).await.unwrap();
    match Server::start(config, listeners).await {
        Err(StartError::Tls(error)) => {
            assert!(error.to_string().contains("server.pem"), "{error}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it started"),
    }
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_when_to_come_again_over_every_face() {
    let config = Config {
        max_requests_per_second: std::num::NonZeroU32::new(1),
        ..Config::default()
    };
    let server = start(config).await;
    for over in FACES {
        let named = caller(&server, over, token("read"));
        let stranger = caller(&server, over, None);
        // Each comes through at some time, and the other is not asked for it.
        for client in [&named, &stranger] {
            within("a refusal", async {
                loop {
                    let Err(failure) = client.get_user(1).await else {
                        continue;
                    };
                    let words = failure.to_string();
                    assert!(words.starts_with("RESOURCE_EXHAUSTED: "), "{over}: {words}");
                    assert!(
                        words.contains("--max-requests-per-second"),
                        "{over}: {words}"
                    );
                    break;
                }
            })
            .await;
        }
    }
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", server.http_address.unwrap());
    let (limited, query) = (["/users/1", "/graphql?query=%7B__typename%7D"], "/healthz");
    for path in limited {
        within(path, async {
            loop {
                let answer = http.get(url(path)).send().await.unwrap();
                if answer.status() == 429 {
                    assert_eq!(answer.headers()["retry-after"], "1", "{path}");
                    break;
                }
            }
        })
        .await;
    }
    for _ in 0..20 {
        assert_eq!(http.get(url(query)).send().await.unwrap().status(), 200);
    }
    server.stop().await;
}
