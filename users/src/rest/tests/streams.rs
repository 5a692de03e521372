//! Answers that come while the request still does, or after everything else.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// A body that is sent line by line.
fn open_body() -> (mpsc::Sender<Result<String, std::io::Error>>, Body) {
    let (lines, body) = mpsc::channel(16);
    (lines, Body::from_stream(ReceiverStream::new(body)))
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// Fields of an event.
fn event(text: &str) -> (String, String, Value) {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_default().trim().to_owned()
    };
    (field("event:"), field("id:"), parse(&field("data:")))
}

#[tokio::test]
async fn a_line_is_answered_while_others_are_still_to_be_sent() {
    let server = Server::new();
    let (lines, body) = open_body();
    let answer = server
        .post_text("/users:stream", "application/x-ndjson", body)
        .await;
    assert_eq!(header(&answer, "content-type"), "application/x-ndjson");
    let mut answers = Pieces::of(answer);
    // In two pieces, and the third line is none.
    let (begin, end) = (r#"{"name":"Ada","#, "\"email\":\"a@b\",\"age\":1}\n");
    for piece in [begin, end] {
        lines.send(Ok(piece.to_owned())).await.unwrap();
    }
    let first = parse(&answers.next().await.unwrap());
    assert_eq!(
        (&first["sequence"], &first["created"]["user_id"]),
        (&json!(1), &json!(6))
    );
    lines
        .send(Ok("\n{\"name\":\"\"}\n".to_owned()))
        .await
        .unwrap();
    let second = parse(&answers.next().await.unwrap());
    let refused = &second["refused"];
    assert_eq!(second["sequence"], 2);
    assert_eq!(
        (&refused["code"], &refused["status"]),
        (&json!("INVALID_ARGUMENT"), &json!(422))
    );
    assert_eq!(fields(refused), ["name", "email", "age"]);
    lines.send(Ok("nonsense\n".to_owned())).await.unwrap();
    let third = parse(&answers.next().await.unwrap());
    assert_eq!(
        (&third["sequence"], &third["refused"]["status"]),
        (&json!(3), &json!(400))
    );
    lines.send(Ok(ada().to_string())).await.unwrap();
    drop(lines);
    let last = parse(&answers.next().await.unwrap());
    assert_eq!(
        (&last["sequence"], &last["created"]["user_id"]),
        (&json!(4), &json!(7))
    );
    assert_eq!(answers.next().await, None);
}

#[tokio::test]
async fn answers_can_wait_for_the_end_but_not_without_limit() {
    let server = Server::new();
    let path = "/users:stream?answer=after-all";
    let (lines, body) = open_body();
    let answer = server.post_text(path, "application/x-ndjson", body).await;
    let mut answers = Pieces::of(answer);
    lines.send(Ok(format!("{}\n", ada()))).await.unwrap();
    lines.send(Ok(format!("{}\n", ada()))).await.unwrap();
    drop(lines);
    let all = answers.next().await.unwrap();
    assert_eq!(all.lines().count(), 2);
    assert_eq!(answers.next().await, None);
    let five = "{}\n".repeat(5);
    let answer = server.post_text(path, "application/x-ndjson", five).await;
    let text = text(answer).await;
    assert_eq!(text.lines().count(), 4);
    let last = parse(text.lines().last().unwrap());
    assert_eq!(last["refused"]["status"], 429);
    let answer = server
        .post_text("/users:stream?answer=x", "application/x-ndjson", "")
        .await;
    problem(answer, 400).await;
    problem(server.post_text("/users:stream", "text/csv", "").await, 415).await;
}

#[tokio::test]
async fn an_array_is_answered_item_by_item() {
    let server = Server::new();
    let text = text(server.post("/users:stream", &json!([ada(), {}])).await).await;
    let answers: Vec<Value> = text.lines().map(parse).collect();
    assert_eq!(answers[0]["created"]["user_id"], 6);
    assert_eq!(answers[1]["refused"]["status"], 422);
    let four = json!([{}, {}, {}, {}]);
    problem(server.post("/users:stream", &four).await, 429).await;
    problem(server.post("/users:stream", &ada()).await, 422).await;
    let answer = server
        .post_text("/users:stream", "application/json", "[")
        .await;
    problem(answer, 400).await;
}

#[tokio::test]
async fn a_line_that_is_too_long_ends_the_stream() {
    let server = Server::new();
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 400]));
    let body = Body::from_stream(endless);
    let answer = server
        .post_text("/users:stream", "application/x-ndjson", body)
        .await;
    let text = text(answer).await;
    assert_eq!(text.lines().count(), 1);
    assert_eq!(parse(&text)["refused"]["status"], 413);
}

#[tokio::test]
async fn what_follows_sees_later_users_and_ends_with_the_server() {
    let server = Server::new();
    let headers = [("accept", "application/x-ndjson")];
    let path = "/users?follow=true&after=4";
    let mut users = Pieces::of(
        server
            .ask(request("GET", path, &headers, Body::empty()))
            .await,
    );
    assert_eq!(parse(&users.next().await.unwrap())["user_id"], 5);
    server.post("/users", &ada()).await;
    assert_eq!(parse(&users.next().await.unwrap())["user_id"], 6);
    server.service.stop.cancel();
    // Broken off, not ended: there may have been more.
    users.breaks().await;
    let answer = server
        .ask(request("GET", path, &headers, Body::empty()))
        .await;
    problem(answer, 503).await;
}

#[tokio::test]
async fn what_follows_ends_at_its_limit() {
    let server = Server::new();
    let headers = [("accept", "application/x-ndjson")];
    let path = "/users?follow=true&after=4&limit=2";
    let mut users = Pieces::of(
        server
            .ask(request("GET", path, &headers, Body::empty()))
            .await,
    );
    users.next().await.unwrap();
    server.post("/users", &ada()).await;
    users.next().await.unwrap();
    assert_eq!(users.next().await, None);
}

#[tokio::test]
async fn events_of_users_begin_where_the_client_says() {
    let server = Server::new();
    let mut news = Pieces::of(server.get("/users/events").await);
    let mut after = Pieces::of(server.get("/users/events?after=4").await);
    let headers = [("last-event-id", "3")];
    let seen = request("GET", "/users/events?after=1", &headers, Body::empty());
    let mut seen = Pieces::of(server.ask(seen).await);
    let (kind, id, user) = event(&after.next().await.unwrap());
    assert_eq!(
        (kind.as_str(), id.as_str(), &user["name"]),
        ("user", "5", &json!("Eve Davis"))
    );
    assert_eq!(event(&seen.next().await.unwrap()).1, "4");
    server.post("/users", &ada()).await;
    let (_, id, user) = event(&news.next().await.unwrap());
    assert_eq!((id.as_str(), &user["user_id"]), ("6", &json!(6)));
    server.service.stop.cancel();
    stopping(&mut news).await;
    problem(server.get("/users/events").await, 503).await;
    problem(server.get("/users/events?after=x").await, 400).await;
    let bad = request(
        "GET",
        "/users/events",
        &[("last-event-id", "x")],
        Body::empty(),
    );
    problem(server.ask(bad).await, 400).await;
}

#[tokio::test]
async fn everybody_hears_what_is_said() {
    let server = Server::new();
    let answer = server.get("/chat/events").await;
    assert_eq!(header(&answer, "content-type"), "text/event-stream");
    let mut one = Pieces::of(answer);
    let mut two = Pieces::of(server.get("/chat/events").await);
    problem(server.get("/chat/events").await, 429).await;
    server
        .post("/chat", &json!({"user": "Ada", "text": "a\nb"}))
        .await;
    for ear in [&mut one, &mut two] {
        let (kind, id, message) = event(&ear.next().await.unwrap());
        assert_eq!((kind.as_str(), id.as_str()), ("message", "1"));
        assert_eq!(
            (&message["user"], &message["text"]),
            (&json!("Ada"), &json!("a\nb"))
        );
        assert!(message["sent_at"].as_str().unwrap().ends_with('Z'));
    }
    drop(one);
    let mut three = Pieces::of(server.get("/chat/events").await);
    server.service.stop.cancel();
    stopping(&mut two).await;
    stopping(&mut three).await;
}

/// The server says that it stops, and nothing more.
async fn stopping(events: &mut Pieces) {
    let last = events.next().await.unwrap();
    assert!(last.starts_with("event: error\n"), "{last}");
    assert!(last.contains("UNAVAILABLE"), "{last}");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn who_does_not_listen_is_cut_off_and_told_so() {
    let mut service = Arc::into_inner(service()).unwrap();
    service.room = Arc::new(Room::new(RoomOptions {
        messages: 2,
        patience: Duration::ZERO,
        ..RoomOptions::default()
    }));
    let router = crate::rest::routes(Arc::new(service));
    let ask = async |request| router.clone().oneshot(request).await.unwrap();
    let ear = request("GET", "/chat/events", &[], Body::empty());
    let mut ear = Pieces::of(ask(ear).await);
    for _ in 0..3 {
        let headers = [("content-type", "application/json")];
        let saying = json!({"user": "Ada", "text": "hi"}).to_string();
        let said = ask(request("POST", "/chat", &headers, saying.into())).await;
        json_of(said, 202).await;
    }
    let (kind, _, problem) = event(&ear.next().await.unwrap());
    assert_eq!(
        (kind.as_str(), &problem["code"]),
        ("error", &json!("RESOURCE_EXHAUSTED"))
    );
    assert_eq!(ear.next().await, None);
}

#[tokio::test]
async fn a_batch_that_is_not_complete_ends_with_the_server() {
    let server = Server::new();
    let (lines, body) = open_body();
    lines.send(Ok(format!("{}\n", ada()))).await.unwrap();
    server.service.stop.cancel();
    let answer = server
        .post_text("/users:batch", "application/x-ndjson", body)
        .await;
    problem(answer, 503).await;
    assert_eq!(server.service.directory.len(), 5);
}
