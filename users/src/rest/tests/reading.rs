//! Users, read.

use super::*;

#[tokio::test]
async fn a_user_is_read_by_its_id() {
    let server = Server::new();
    let alice = json_of(server.get("/users/1").await, 200).await;
    let expected = json!({
        "user_id": 1,
        "name": "Alice Johnson",
        "email": "alice@example.com",
        "age": 28,
        "created_at": "2026-01-01T09:00:00Z",
        "roles": ["admin", "user"],
    });
    assert_eq!(alice, expected);
}

#[tokio::test]
async fn ids_that_are_none_are_refused_and_say_why() {
    let server = Server::new();
    for id in ["0", "-1", "-99999999999999999999"] {
        let answer = server.get(&format!("/users/{id}")).await;
        assert_eq!(detail(answer, 400).await, "ID must be positive");
    }
    for id in ["x", "1.5", "+1", "%FF", "1%2F2", "2147483648", "%20"] {
        problem(server.get(&format!("/users/{id}")).await, 400).await;
    }
    let answer = server.get("/users/77").await;
    assert_eq!(detail(answer, 404).await, "User 77 not found");
}

#[tokio::test]
async fn pages_lead_to_the_next_one_until_the_last() {
    let server = Server::new();
    let mut path = "/users?limit=2".to_owned();
    let mut ids = Vec::new();
    loop {
        let answer = server.get(&path).await;
        let link = header(&answer, "link").to_owned();
        let page = json_of(answer, 200).await;
        let users = page["users"].as_array().unwrap();
        ids.extend(users.iter().map(|user| user["user_id"].as_i64().unwrap()));
        let Some(next) = page["next"].as_str() else {
            assert_eq!(link, "");
            break;
        };
        assert_eq!(link, format!("<{next}>; rel=\"next\""));
        path = next.to_owned();
    }
    assert_eq!(ids, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_page_has_bounds() {
    let server = Server::new();
    for query in [
        "",
        "?limit=0",
        "?limit=-5",
        "?limit=2147483647",
        "?after=-1",
        "?follow=true",
    ] {
        let page = json_of(server.get(&format!("/users{query}")).await, 200).await;
        assert_eq!(page["users"].as_array().unwrap().len(), 5, "{query}");
        assert_eq!(page["next"], Value::Null);
    }
    for query in [
        "limit=x",
        "limit=",
        "limit=2147483648",
        "after=1&after=2",
        "follow=maybe",
    ] {
        let problem = problem(server.get(&format!("/users?{query}")).await, 400).await;
        let name = query.split('=').next().unwrap();
        assert_eq!(fields(&problem), [name]);
    }
}

#[tokio::test]
async fn accept_decides_between_a_page_and_lines() {
    let server = Server::new();
    let json = "application/json";
    let lines = "application/x-ndjson";
    for (accept, expected) in [
        ("*/*", json),
        ("application/*", json),
        ("text/html, */*;q=0.1", json),
        ("application/x-ndjson", lines),
        ("APPLICATION/X-NDJSON", lines),
        ("application/json;q=0.5, application/x-ndjson", lines),
        ("application/json;q=0, */*", lines),
        ("application/x-ndjson;q=0.2, application/*;q=0.1", lines),
        ("application/x-ndjson;q=0.1, */*;q=0.2", json),
    ] {
        let headers = [("accept", accept)];
        let answer = server
            .ask(request("GET", "/users", &headers, Body::empty()))
            .await;
        assert_eq!(header(&answer, "content-type"), expected, "{accept}");
        assert_eq!(header(&answer, "vary"), "accept");
    }
    for accept in ["text/html", "application/json;q=0", "image/*"] {
        let headers = [("accept", accept)];
        let answer = server
            .ask(request("GET", "/users", &headers, Body::empty()))
            .await;
        problem(answer, 406).await;
    }
}

#[tokio::test]
async fn lines_are_users_and_limited_if_asked() {
    let server = Server::new();
    let headers = [("accept", "application/x-ndjson")];
    for (query, count) in [("", 5), ("?limit=0", 5), ("?limit=2", 2), ("?after=4", 1)] {
        let path = format!("/users{query}");
        let answer = server
            .ask(request("GET", &path, &headers, Body::empty()))
            .await;
        let text = text(answer).await;
        let users: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(users.len(), count, "{query}");
        assert!(text.ends_with('\n'));
    }
}
