//! Users created, words said, and what is wrong with requests.

use super::*;

#[tokio::test]
async fn a_created_user_is_where_its_location_says() {
    let server = Server::new();
    let answer = server.post("/users", &ada()).await;
    let location = header(&answer, "location").to_owned();
    let user = json_of(answer, 201).await;
    assert_eq!(location, "/users/6");
    assert_eq!(json_of(server.get(&location).await, 200).await, user);
    let mut unknown = ada();
    unknown["later"] = json!({"a": [1, 2]});
    unknown["age"] = json!(36.0);
    json_of(server.post("/users", &unknown).await, 201).await;
}

#[tokio::test]
async fn all_wrong_fields_are_named_whether_by_type_or_by_value() {
    let server = Server::new();
    let wrong = json!({"name": " ", "age": "old", "roles": ["A", 3, "ok", "ok"]});
    let answer = problem(server.post("/users", &wrong).await, 422).await;
    assert_eq!(
        fields(&answer),
        ["name", "email", "age", "roles[1]", "roles[0]", "roles[3]"]
    );
    for (age, words) in [
        ("1e99", "age must be a whole number"),
        ("1.5", "age must be a whole number"),
        ("null", "age must be a whole number, not null"),
        ("151", "age must be 0 to 150, not 151"),
        ("36,\"age\":36", "age is there twice"),
    ] {
        let body = format!(r#"{{"name":"A","email":"a@b","age":{age}}}"#);
        let answer = server.post_text("/users", "application/json", body).await;
        assert_eq!(detail(answer, 422).await, words);
    }
    for body in ["[]", "1", "null", "\"x\"", r#"["A","a@b",1]"#] {
        let answer = server.post_text("/users", "application/json", body).await;
        assert_eq!(fields(&problem(answer, 422).await), ["body"]);
    }
    assert_eq!(server.service.directory.len(), 5);
}

#[tokio::test]
async fn what_is_not_json_is_malformed() {
    let server = Server::new();
    for body in [&b"{"[..], b"", b"{}x", b"{\"name\":\"\xff\"}"] {
        let answer = server.post_text("/users", "application/json", body).await;
        problem(answer, 400).await;
    }
    for kind in [
        "text/plain",
        "application/x-ndjson",
        "",
        "application/jsonx",
    ] {
        let answer = server.post_text("/users", kind, ada().to_string()).await;
        problem(answer, 415).await;
    }
    let none = request("POST", "/users", &[], ada().to_string().into());
    problem(server.ask(none).await, 415).await;
    let kind = "Application/JSON; charset=utf-8";
    let answer = server.post_text("/users", kind, ada().to_string()).await;
    json_of(answer, 201).await;
}

#[tokio::test]
async fn a_large_body_is_refused_without_being_read() {
    let server = Server::new();
    for path in ["/users", "/users:batch", "/chat", "/echo"] {
        let headers = [
            ("content-type", "application/json"),
            ("content-length", "104857600"),
        ];
        let answer = server
            .ask(request("POST", path, &headers, untouchable()))
            .await;
        assert!(detail(answer, 413).await.contains("--max-message-size"));
        let headers = [("content-type", "application/json")];
        // Endless: who reads on never answers.
        let endless =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 400]));
        let endless = Body::from_stream(endless);
        let answer = server.ask(request("POST", path, &headers, endless)).await;
        problem(answer, 413).await;
    }
}

#[tokio::test]
async fn the_role_admin_needs_a_token() {
    let server = Server::new();
    let mut admin = ada();
    admin["roles"] = json!(["admin"]);
    let ask = async |authorization: Option<String>| {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(
            authorization
                .as_deref()
                .map(|value| ("authorization", value)),
        );
        let request = request("POST", "/users", &headers, admin.to_string().into());
        server.ask(request).await
    };
    let answer = ask(None).await;
    assert_eq!(
        header(&answer, "www-authenticate"),
        "Bearer realm=\"pantelegraph\""
    );
    problem(answer, 401).await;
    problem(ask(Some("Basic x".to_owned())).await, 401).await;
    problem(ask(Some(token("read"))).await, 403).await;
    json_of(ask(Some(token("admin"))).await, 201).await;
}

#[tokio::test]
async fn a_full_directory_names_the_setting() {
    let server = Server::new();
    let three = json!([ada(), ada(), ada()]);
    let created = json_of(server.post("/users:batch", &three).await, 201).await;
    assert_eq!(created, json!({"users_created": 3, "user_ids": [6, 7, 8]}));
    let answer = server.post("/users", &ada()).await;
    assert!(detail(answer, 429).await.contains("--max-users"));
}

#[tokio::test]
async fn a_batch_is_created_as_a_whole_or_not_at_all() {
    let server = Server::new();
    let mut wrong = ada();
    wrong["email"] = json!("nobody");
    wrong["age"] = json!(-1);
    let lines = format!("{}\n\n{wrong}\n", ada());
    let array = json!([ada(), wrong]).to_string();
    for (kind, body) in [("application/x-ndjson", lines), ("application/json", array)] {
        let answer = server.post_text("/users:batch", kind, body).await;
        let answer = problem(answer, 422).await;
        assert_eq!(fields(&answer), ["users[1].email", "users[1].age"]);
    }
    let lines = format!("{}\n{{\n", ada());
    let answer = server
        .post_text("/users:batch", "application/x-ndjson", lines)
        .await;
    assert!(detail(answer, 400).await.starts_with("users[1]: "));
    let long = format!("{}\n{}", ada(), " ".repeat(1_001));
    let answer = server
        .post_text("/users:batch", "application/x-ndjson", long)
        .await;
    assert!(detail(answer, 413).await.contains("--max-message-size"));
    let four = format!("{}\n", ada()).repeat(4);
    let answer = server
        .post_text("/users:batch", "application/x-ndjson", four)
        .await;
    assert!(detail(answer, 429).await.contains("--max-batch"));
    for body in [json!({}), json!([1]), json!([[]])] {
        problem(server.post("/users:batch", &body).await, 422).await;
    }
    problem(server.post_text("/users:batch", "text/csv", "").await, 415).await;
    assert_eq!(server.service.directory.len(), 5);
    let two = format!("{}\r\n\n{}", ada(), ada());
    let answer = server
        .post_text("/users:batch", "application/x-ndjson", two)
        .await;
    let created = json_of(answer, 201).await;
    assert_eq!(created, json!({"users_created": 2, "user_ids": [6, 7]}));
    let none = json_of(server.post("/users:batch", &json!([])).await, 201).await;
    assert_eq!(none["users_created"], 0);
}

#[tokio::test]
async fn a_saying_is_checked_as_a_whole() {
    let server = Server::new();
    let said = server
        .post("/chat", &json!({"user": "Ada", "text": "hi"}))
        .await;
    assert_eq!(json_of(said, 202).await, json!({"sequence": 1}));
    let wrong = server.post("/chat", &json!({"user": "", "text": 5})).await;
    assert_eq!(fields(&problem(wrong, 422).await), ["user", "text"]);
}

#[tokio::test(start_paused = true)]
async fn an_echo_answers_as_it_was_asked_to() {
    let server = Server::new();
    let payload = json!({"payload": ["a", "b"]});
    let answer = server.post("/echo", &payload).await;
    assert_eq!(json_of(answer, 200).await, payload);
    let later = json!({"payload": [], "delay_ms": 20_000});
    let before = tokio::time::Instant::now();
    json_of(server.post("/echo", &later).await, 200).await;
    assert_eq!(before.elapsed(), Duration::from_secs(20));
    for (code, status) in [(1, 499), (5, 404), (13, 500), (14, 503), (16, 401)] {
        let body = json!({"payload": [], "code": code});
        problem(server.post("/echo", &body).await, status).await;
    }
    for (field, value) in [("delay_ms", 60_001), ("delay_ms", -1), ("code", 17)] {
        let mut body = json!({"payload": []});
        body[field] = json!(value);
        let answer = server.post("/echo", &body).await;
        assert_eq!(fields(&problem(answer, 422).await), [field]);
    }
    let wrong = json!({"payload": [1, "x", null], "code": "5"});
    let answer = problem(server.post("/echo", &wrong).await, 422).await;
    assert_eq!(fields(&answer), ["payload[0]", "payload[2]", "code"]);
}
