//! All faces on one port.

use super::authority::Authority;
use super::*;
use shared::security::tls::{ClientFiles, ServerFiles};

async fn on_one_port(tls: Option<ServerFiles>) -> Server {
    let config = Config {
        grpc_listen: None,
        http_listen: None,
        listen_all: Some(([127, 0, 0, 1], 0).into()),
        security: ServerSettings {
            tls,
            ..ServerSettings::default()
        },
        origins: vec!["https://app.example".parse().unwrap()],
        ..Config::default()
    };
    let listeners = Listeners::open(&config).await.unwrap();
    let server = Server::start(config, listeners).await.unwrap();
    assert_eq!((server.grpc_address, server.http_address), (None, None));
    server
}

#[tokio::test]
async fn every_face_is_there_on_one_port_in_the_clear_and_encrypted() {
    let authority = Authority::new();
    for tls in [None, Some(authority.server(None))] {
        let (scheme, trusted) = match &tls {
            Some(_) => ("https:", authority.client(None)),
            None => ("http:", ClientFiles::default()),
        };
        let server = on_one_port(tls).await;
        for over in FACES {
            let options = CallOptions {
                deadline: LIMIT,
                security: ClientSettings {
                    tls: trusted.clone(),
                    token: None,
                },
            };
            let address = address(&server, over).replace("http:", scheme);
            let client = client(over, &address, options).unwrap();
            let created = client.create_user(draft("Ada", "user")).await.unwrap();
            assert_eq!(client.get_user(created.user_id).await.unwrap(), created);
            // Streams, and what comes over a WebSocket.
            let mut seat = client.chat().await.unwrap();
            seat.voice.say("Ada", "hello").await.unwrap();
            let heard = seat.heard.next().await.unwrap().unwrap();
            assert_eq!(heard.text, "hello", "{over} {scheme}");
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn on_one_port_each_request_comes_to_its_face() {
    let server = on_one_port(None).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", server.all_address.unwrap());
    let service = wire::SERVICE;
    let of_grpc = |answer: &reqwest::Response| {
        let exposed = answer.headers().get("grpc-status");
        exposed.map(|status| status.to_str().unwrap().to_owned())
    };
    let call = |path: String| {
        let ask = http.post(url(&path));
        ask.header("content-type", "application/grpc-web+proto")
            .body(vec![0; 5])
            .send()
    };
    let unknown = call(format!("/{service}/Nothing")).await.unwrap();
    assert_eq!(of_grpc(&unknown).as_deref(), Some("12"), "{unknown:?}");
    let elsewhere = call("/users/1".to_owned()).await.unwrap();
    assert_eq!(of_grpc(&elsewhere).as_deref(), Some("12"), "{elsewhere:?}");
    // A browser asks about a call before it makes one, without saying what kind of content comes.
    let ask = http.request(Method::OPTIONS, url(&format!("/{service}/GetUser")));
    let ask = ask.header("origin", "https://app.example");
    let ask = ask.header("access-control-request-method", "POST");
    let answer = ask.send().await.unwrap();
    let allowed = &answer.headers()["access-control-allow-origin"];
    assert_eq!(allowed, "https://app.example");
    for (path, status) in [
        ("/users/1", 200),
        ("/healthz", 200),
        ("/metrics", 200),
        ("/openapi.json", 200),
        ("/nothing.here", 404),
    ] {
        let answer = http.get(url(path)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(of_grpc(&answer), None, "{path}");
    }
    server.stop().await;
}
