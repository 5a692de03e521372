//! Subscriptions, over real connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::super::routes_with;
use super::super::socket::SocketOptions;
use super::{FAR, input, service, service_with};
use crate::access::{Anonymous, Nobody, Requester};
use crate::chat::{RoomOptions, Saying};
use crate::service::{Limits, Service};
use crate::user::Draft;

struct Client(WebSocketStream<TcpStream>);

/// What a client hears.
#[derive(Debug, PartialEq)]
enum Heard {
    Message(Value),
    Close(u16, String),
}

async fn serve(service: Arc<Service>, options: SocketOptions) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = routes_with(service, options);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn open(address: std::net::SocketAddr, protocol: &str) -> Result<Client, tungstenite::Error> {
    let url = format!("ws://{address}/graphql");
    let mut request = url.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", protocol.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (stream, response) = client_async(request, stream).await?;
    assert_eq!(
        response.headers()["sec-websocket-protocol"],
        "graphql-transport-ws"
    );
    Ok(Client(stream))
}

impl Client {
    /// Not introduced yet.
    async fn raw(service: Arc<Service>, options: SocketOptions) -> Self {
        open(serve(service, options).await, "graphql-transport-ws")
            .await
            .unwrap()
    }

    async fn new(service: Arc<Service>) -> Self {
        let mut client = Self::raw(service, SocketOptions::default()).await;
        client.introduce(json!({})).await;
        client
    }

    async fn introduce(&mut self, payload: Value) {
        self.send(json!({ "type": "connection_init", "payload": payload }))
            .await;
        assert_eq!(self.message().await, json!({ "type": "connection_ack" }));
    }

    async fn send(&mut self, message: Value) {
        self.0
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    async fn subscribe(&mut self, id: &str, query: &str) {
        let payload = json!({ "query": query });
        self.send(json!({ "id": id, "type": "subscribe", "payload": payload }))
            .await;
    }

    /// Waits until everything before has begun.
    async fn settle(&mut self) {
        self.send(json!({ "type": "ping" })).await;
        assert_eq!(self.message().await, json!({ "type": "pong" }));
    }

    async fn hear(&mut self) -> Heard {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                Message::Text(text) => return Heard::Message(serde_json::from_str(&text).unwrap()),
                Message::Close(frame) => {
                    let frame = frame.unwrap();
                    return Heard::Close(frame.code.into(), frame.reason.to_string());
                }
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Value {
        match self.hear().await {
            Heard::Message(message) => message,
            closed => panic!("{closed:?}"),
        }
    }

    async fn closed(&mut self) -> u16 {
        match self.hear().await {
            Heard::Close(code, _) => code,
            message => panic!("{message:?}"),
        }
    }
}

async fn create(service: &Service, name: &str) {
    let draft = Draft {
        name: name.to_owned(),
        email: "x@example.com".to_owned(),
        ..Draft::default()
    };
    let nobody = Requester::Nobody(Nobody::ShowedInVain);
    service.create(&nobody, draft).await.unwrap();
}

fn next(id: &str, data: Value) -> Value {
    json!({ "type": "next", "id": id, "payload": { "data": data } })
}

fn complete(id: &str) -> Value {
    json!({ "type": "complete", "id": id })
}

#[tokio::test]
async fn a_user_created_later_is_seen() {
    let service = service();
    let mut client = Client::new(Arc::clone(&service)).await;
    client
        .subscribe("a", "subscription { users { userId name } }")
        .await;
    client.settle().await;
    create(&service, "Ada").await;
    let ada = json!({ "users": { "userId": 6, "name": "Ada" } });
    assert_eq!(client.message().await, next("a", ada));
    client.send(complete("a")).await;
    client.settle().await;
    create(&service, "Bob").await;
    client.settle().await;
}

#[tokio::test]
async fn users_that_are_there_come_first_and_a_limit_ends() {
    let service = service();
    let mut client = Client::new(Arc::clone(&service)).await;
    let query = "subscription { users(after: 3, limit: 3) { userId } }";
    client.subscribe("a", query).await;
    for id in [4, 5] {
        assert_eq!(
            client.message().await,
            next("a", json!({ "users": { "userId": id } }))
        );
    }
    create(&service, "Ada").await;
    assert_eq!(
        client.message().await,
        next("a", json!({ "users": { "userId": 6 } }))
    );
    assert_eq!(client.message().await, complete("a"));
    // The id is free again.
    client.subscribe("a", "{ userCount }").await;
    assert_eq!(client.message().await, next("a", json!({ "userCount": 6 })));
    assert_eq!(client.message().await, complete("a"));
}

#[tokio::test]
async fn what_is_said_is_heard_exactly_once() {
    let service = service();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::new(Arc::clone(&service)).await;
        client
            .subscribe("c", "subscription { chat { user text sequence } }")
            .await;
        client.settle().await;
        clients.push(client);
    }
    for i in 1..=200 {
        let saying = Saying::check("Ada".to_owned(), format!("text {i}")).unwrap();
        service.room.say(saying).await;
    }
    for client in &mut clients {
        for i in 1..=200 {
            let chat = json!({ "user": "Ada", "text": format!("text {i}"), "sequence": i });
            assert_eq!(client.message().await, next("c", json!({ "chat": chat })));
        }
        client.settle().await;
    }
    assert_eq!(service.room.readers(), 3);
    clients[0].send(complete("c")).await;
    clients[0].settle().await;
    assert_eq!(service.room.readers(), 2);
}

#[tokio::test]
async fn the_end_of_the_server_ends_subscriptions_and_closes() {
    let service = service();
    let mut client = Client::new(Arc::clone(&service)).await;
    client
        .subscribe("a", "subscription { users { userId } }")
        .await;
    client
        .subscribe("b", "subscription { chat { text } }")
        .await;
    client.settle().await;
    service.stop.cancel();
    let mut ended = HashMap::new();
    for _ in 0..2 {
        let message = client.message().await;
        assert_eq!(message["type"], "error", "{message}");
        let code = message["payload"][0]["extensions"]["code"].clone();
        ended.insert(message["id"].to_string(), code);
    }
    assert_eq!(ended.len(), 2);
    assert!(
        ended.values().all(|code| code == "UNAVAILABLE"),
        "{ended:?}"
    );
    let words = "the server is stopping".to_owned();
    assert_eq!(client.hear().await, Heard::Close(1001, words));
}

#[tokio::test]
async fn mutations_use_the_token_of_the_introduction() {
    let query = "mutation ($input: CreateUserInput!) { createUser(input: $input) { userId } }";
    let payload = json!({ "query": query, "variables": { "input": input("Ada", &["admin"]) } });
    let subscribe = json!({ "id": "m", "type": "subscribe", "payload": payload });
    let token = super::key().token("ada", "admin", FAR).unwrap();
    for name in ["authorization", "Authorization"] {
        let mut client = Client::raw(service(), SocketOptions::default()).await;
        client
            .introduce(json!({ name: format!("Bearer {token}") }))
            .await;
        client.send(subscribe.clone()).await;
        let created = json!({ "createUser": { "userId": 6 } });
        assert_eq!(client.message().await, next("m", created));
        assert_eq!(client.message().await, complete("m"));
    }
    let mut client = Client::new(service()).await;
    client.send(subscribe).await;
    let answer = client.message().await;
    let code = &answer["payload"]["errors"][0]["extensions"]["code"];
    assert_eq!(code, "UNAUTHENTICATED");
}

#[tokio::test]
async fn who_proves_nothing_is_not_let_in() {
    let guarded = || {
        super::service_of(
            Limits::default(),
            RoomOptions::default(),
            10,
            Anonymous::Refused,
        )
    };
    let expired = super::key().token("ada", "admin", 1).unwrap();
    for (payload, words) in [
        (json!({}), "Missing token"),
        (
            json!({ "authorization": "Basic x" }),
            "authorization must be Bearer and a token",
        ),
        (
            json!({ "authorization": format!("Bearer {expired}") }),
            "Token expired",
        ),
    ] {
        let mut client = Client::raw(guarded(), SocketOptions::default()).await;
        client
            .send(json!({ "type": "connection_init", "payload": payload }))
            .await;
        assert_eq!(client.hear().await, Heard::Close(4403, words.to_owned()));
    }
    let reader = super::key().token("ada", "read", FAR).unwrap();
    let mut client = Client::raw(guarded(), SocketOptions::default()).await;
    client
        .introduce(json!({ "authorization": format!("Bearer {reader}") }))
        .await;
    client.subscribe("r", "{ userCount }").await;
    assert_eq!(client.message().await, next("r", json!({ "userCount": 5 })));
    assert_eq!(client.message().await, complete("r"));
    client
        .subscribe("w", "mutation { say(user: \"Ada\", text: \"hello\") }")
        .await;
    let answer = client.message().await;
    assert_eq!(answer["type"], "error");
    let code = &answer["payload"][0]["extensions"]["code"];
    assert_eq!(code, "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_socket_ends_when_the_token_of_its_client_does() {
    let until = std::time::SystemTime::now() + Duration::from_secs(3_600);
    let until = until.duration_since(std::time::UNIX_EPOCH).unwrap();
    let token = super::key().token("ada", "read", until.as_secs()).unwrap();
    let options = SocketOptions {
        keep_alive: Duration::from_secs(36_000),
        ..SocketOptions::default()
    };
    let mut client = Client::raw(service(), options).await;
    client
        .introduce(json!({ "authorization": format!("Bearer {token}") }))
        .await;
    client
        .subscribe("u", "subscription { users { userId } }")
        .await;
    client.settle().await;
    // From here on time is that of the test: it goes on when everybody waits.
    tokio::time::pause();
    let end = Heard::Close(4403, "Token expired".to_owned());
    assert_eq!(client.hear().await, end);
}

#[tokio::test]
async fn refusals_are_errors_of_the_operation() {
    let room = RoomOptions {
        max_readers: 0,
        ..RoomOptions::default()
    };
    let mut client = Client::new(service_with(Limits::default(), room, 10)).await;
    for (query, code) in [
        ("subscription { chat { text } }", "RESOURCE_EXHAUSTED"),
        (
            "subscription { users(limit: 0) { userId } }",
            "INVALID_ARGUMENT",
        ),
        ("subscription { nothing }", "INVALID_ARGUMENT"),
        ("subscription {", "INVALID_ARGUMENT"),
    ] {
        client.subscribe("a", query).await;
        let answer = client.message().await;
        assert_eq!(answer["type"], "error", "{answer}");
        assert_eq!(answer["payload"][0]["extensions"]["code"], code, "{answer}");
    }
    client.settle().await;
}

#[tokio::test]
async fn a_connection_runs_so_many_operations_and_no_more() {
    let options = SocketOptions {
        max_operations: 2,
        ..SocketOptions::default()
    };
    let mut client = Client::raw(service(), options).await;
    client.introduce(json!({})).await;
    for id in ["a", "b", "c"] {
        client.subscribe(id, "subscription { chat { text } }").await;
    }
    let answer = client.message().await;
    assert_eq!(
        (&answer["type"], &answer["id"]),
        (&json!("error"), &json!("c"))
    );
    assert_eq!(
        answer["payload"][0]["extensions"]["code"],
        "RESOURCE_EXHAUSTED"
    );
    client.send(complete("a")).await;
    client
        .subscribe("c", "subscription { chat { text } }")
        .await;
    client.settle().await;
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_told_by_the_code() {
    let chat = json!({ "query": "subscription { chat { text } }" });
    let subscribe = json!({ "id": "a", "type": "subscribe", "payload": chat });
    let init = json!({ "type": "connection_init" });
    for (messages, code) in [
        (vec![subscribe.clone()], 4401),
        (vec![init.clone(), init.clone()], 4429),
        (
            vec![init.clone(), subscribe.clone(), subscribe.clone()],
            4409,
        ),
        (vec![json!({ "type": "start", "id": "a" })], 4400),
        (vec![json!({ "type": "complete" })], 4400),
        (vec![json!(5)], 4400),
    ] {
        let mut client = Client::raw(service(), SocketOptions::default()).await;
        for message in &messages {
            client.send(message.clone()).await;
        }
        if messages[0] == init {
            assert_eq!(client.message().await, json!({ "type": "connection_ack" }));
        }
        assert_eq!(client.closed().await, code, "{messages:?}");
    }
}

#[tokio::test]
async fn whoever_does_not_introduce_itself_is_let_go() {
    let options = SocketOptions {
        init_timeout: Duration::from_millis(1),
        ..SocketOptions::default()
    };
    assert_eq!(Client::raw(service(), options).await.closed().await, 4408);
}

#[tokio::test]
async fn whoever_is_not_heard_is_let_go() {
    let options = SocketOptions {
        // Room for a machine that has others to serve first: the ping must be sent before it is over.
        keep_alive: Duration::from_millis(100),
        ..SocketOptions::default()
    };
    let client = Client::raw(service(), options).await;
    // Without what answers pings.
    let mut stream = client.0.into_inner();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert!(heard.starts_with(&[0x89, 0]), "a ping came first");
}

#[tokio::test]
async fn messages_that_are_too_long_are_refused() {
    let limits = Limits {
        max_message_size: 1_000,
        ..Limits::default()
    };
    let service = service_with(limits, RoomOptions::default(), 10);
    let mut client = Client::new(service).await;
    client.subscribe("a", &" ".repeat(2_000)).await;
    assert_eq!(client.closed().await, 1009);
}

#[tokio::test]
async fn other_subprotocols_are_refused() {
    let address = serve(service(), SocketOptions::default()).await;
    let Err(tungstenite::Error::Http(response)) = open(address, "graphql-ws").await else {
        panic!("it was not refused");
    };
    assert_eq!(response.status(), 400);
    let body = String::from_utf8(response.into_body().unwrap()).unwrap();
    assert!(body.contains("graphql-transport-ws"), "{body}");
    assert!(
        open(address, "graphql-ws, graphql-transport-ws")
            .await
            .is_ok()
    );
}
