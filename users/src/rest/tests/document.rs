//! The OpenAPI document says what the router does.

use super::*;

/// Routes that are about the document, and so not in it.
const OTHERS: [&str; 3] = ["/", "/openapi.json", "/docs/"];

async fn document(server: &Server) -> Value {
    json_of(server.get("/openapi.json").await, 200).await
}

/// Paths with their items, those by hand included.
fn paths(document: &Value) -> Vec<(&String, &Value)> {
    let parts = ["paths", "x-by-hand"].into_iter();
    parts
        .flat_map(|part| document[part].as_object().unwrap())
        .collect()
}

#[tokio::test]
async fn every_route_is_in_the_document_with_its_methods() {
    let server = Server::new();
    let document = document(&server).await;
    assert_eq!(document["openapi"], "3.1.0");
    let listed: Vec<_> = paths(&document).into_iter().map(|(path, _)| path).collect();
    assert_eq!(listed.len(), 10, "{listed:?}");
    for (path, item) in paths(&document) {
        let path = path.replace("{id}", "1");
        let answer = server
            .ask(request("TRACE", &path, &[], Body::empty()))
            .await;
        let allow = header(&answer, "allow").to_lowercase();
        let mut allow: Vec<&str> = allow
            .split(',')
            .filter(|method| *method != "head")
            .collect();
        allow.sort_unstable();
        let methods: Vec<&String> = item.as_object().unwrap().keys().collect();
        assert_eq!(allow, methods, "{path}");
    }
    for path in OTHERS {
        assert_eq!(server.get(path).await.status(), StatusCode::OK);
        assert!(document["paths"].get(path).is_none());
    }
}

#[tokio::test]
async fn operations_have_names_of_their_own_and_problems_as_errors() {
    let server = Server::new();
    let document = document(&server).await;
    let mut names = std::collections::HashSet::new();
    for (path, item) in paths(&document) {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.as_str() >= "400" {
                    let schema = &response["content"]["application/problem+json"]["schema"];
                    let expected = "#/components/schemas/Problem";
                    assert_eq!(schema["$ref"], expected, "{method} {path} {status}");
                }
            }
        }
    }
}

/// Every reference leads somewhere.
#[tokio::test]
async fn references_are_there() {
    fn check(value: &Value, document: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref") {
                    let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{pointer}");
                }
                members.values().for_each(|value| check(value, document));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, document)),
            _ => {}
        }
    }
    let document = document(&Server::new()).await;
    check(&document, &document);
}

#[tokio::test]
async fn examples_of_bodies_are_accepted() {
    let server = Server::new();
    let document = document(&server).await;
    let schemas = &document["components"]["schemas"];
    for (path, schema) in [
        ("/users", "NewUser"),
        ("/chat", "NewMessage"),
        ("/echo", "EchoRequest"),
    ] {
        let example = &schemas[schema]["examples"][0];
        let answer = server.post(path, example).await;
        assert!(
            answer.status().is_success(),
            "{path}: {}",
            text(answer).await
        );
    }
    assert_eq!(schemas["NewUsers"]["maxItems"], limits().max_batch);
}

#[tokio::test]
async fn pages_show_the_document_and_ask_nobody_else() {
    let server = Server::new();
    let moved = server.get("/docs").await;
    assert_eq!(
        (moved.status().as_u16(), header(&moved, "location")),
        (303, "/docs/")
    );
    let page = server.get("/docs/").await;
    assert_eq!(header(&page, "content-type"), "text/html");
    assert!(header(&page, "content-security-policy").starts_with("default-src 'self';"));
    let page = text(page).await;
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "{page}"
    );
    let script = text(server.get("/docs/swagger-initializer.js").await).await;
    assert!(script.contains("\"url\": \"/openapi.json\""));
    assert!(script.contains("\"validatorUrl\": \"none\""));
}

#[tokio::test]
async fn the_root_lists_what_is_here() {
    let server = Server::new();
    let index = json_of(server.get("/").await, 200).await;
    assert_eq!(index["operations"]["POST /users"], "Creates a user");
    assert_eq!(index["operations"].as_object().unwrap().len(), 11);
}
