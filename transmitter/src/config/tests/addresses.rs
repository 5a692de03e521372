use super::*;

fn addresses(args: &[&str]) -> Vec<(Transport, String)> {
    config(args)
        .to
        .into_iter()
        .map(|(transport, url)| (transport, url.to_string()))
        .collect()
}

fn to(transport: Transport, url: &str) -> (Transport, String) {
    (transport, url.to_owned())
}

#[test]
fn a_url_belongs_to_the_transport_it_fits() {
    let transports = |list| ["--transport", list];
    for (list, written, expected) in [
        ("grpc", "http://h:1", vec![to(Grpc, "http://h:1/")]),
        ("grpc", "http://h", vec![to(Grpc, "http://h:50051/")]),
        ("grpc", "http://h:80", vec![to(Grpc, "http://h/")]),
        ("rest", "http://[::1]", vec![to(Rest, "http://[::1]:8080/")]),
        (
            "websocket",
            "http://h:1",
            vec![to(WebSocket, "ws://h:1/v1/stream")],
        ),
        (
            "websocket",
            "ws://h",
            vec![to(WebSocket, "ws://h:8080/v1/stream")],
        ),
        (
            "ws",
            "ws://h:1/own/path?x=1",
            vec![to(WebSocket, "ws://h:1/own/path?x=1")],
        ),
        (
            "rest",
            "websocket=ws://h:1,http://h:2",
            vec![to(WebSocket, "ws://h:1/v1/stream"), to(Rest, "http://h:2/")],
        ),
        (
            "grpc,websocket,rest",
            "http://h",
            vec![
                to(Grpc, "http://h:50051/"),
                to(WebSocket, "ws://h:8080/v1/stream"),
                to(Rest, "http://h:8080/"),
            ],
        ),
        (
            "grpc,websocket",
            "grpc=http://g:1,ws://w:2",
            vec![to(Grpc, "http://g:1/"), to(WebSocket, "ws://w:2/v1/stream")],
        ),
        (
            "grpc,websocket,rest",
            "https://h",
            vec![
                to(Grpc, "https://h:50051/"),
                to(WebSocket, "wss://h:8080/v1/stream"),
                to(Rest, "https://h:8080/"),
            ],
        ),
        (
            "grpc,websocket,rest",
            "wss://w:443,grpc=http://g,rest=https://r:443",
            vec![
                to(Grpc, "http://g:50051/"),
                to(WebSocket, "wss://w/v1/stream"),
                to(Rest, "https://r/"),
            ],
        ),
        (
            "grpc,rest",
            "rest=http://r:1",
            vec![to(Grpc, "http://127.0.0.1:50051/"), to(Rest, "http://r:1/")],
        ),
    ] {
        let args = [&transports(list)[..], &["--to", written]].concat();
        let mut expected = expected;
        expected.sort();
        assert_eq!(addresses(&args), expected, "{list} {written}");
    }
}

#[test]
fn addresses_that_fit_nothing_say_what_to_write() {
    for (list, written, advice) in [
        (
            "grpc,rest",
            "http://h:1",
            "grpc=http://h:1 or rest=http://h:1",
        ),
        ("grpc", "ws://h", "add --transport websocket"),
        ("grpc", "wss://h", "add --transport websocket"),
        ("grpc", "h:50051", "begin with http://"),
        (
            "grpc",
            "grpc=ws://h",
            "needs an http:// or https:// address",
        ),
        (
            "rest",
            "rest=wss://h",
            "needs an http:// or https:// address",
        ),
        ("rest", "http://h:1/v1", "without one"),
        ("rest", "soap=http://h:1", "unknown transport \"soap\""),
        ("rest", "http://h:1,rest=http://h:2", "two addresses"),
        ("rest", "http://u:p@h:1", "not supported; remove them"),
    ] {
        let text = mistake(&["--transport", list, "--to", written]);
        assert!(text.contains(advice), "{list} {written}: {text}");
    }
}

#[test]
fn listening_is_for_websocket_and_needs_no_address() {
    let listening = config(&["--listen", "127.0.0.1:0"]);
    assert_eq!(listening.transports, [WebSocket]);
    assert!(listening.to.is_empty());
    assert!(mistake(&["--listen", "[::1]:1", "--transport", "rest"]).contains("WebSocket only"));
    assert!(mistake(&["--listen", "[::1]:1", "--to", "ws://h"]).contains("remove it or --to"));
    assert!(mistake(&["--listen", "8081"]).contains("write 127.0.0.1:8081"));
    let variables = [("TRANSMITTER_TO", "grpc=http://h:1")];
    assert!(read(&["--file", "x", "--listen", "[::1]:1"], &variables).is_ok());
}

#[test]
fn all_transports_may_have_one_port() {
    let list = ["--transport", "grpc,websocket,rest", "--to"];
    for (written, scheme) in [("all=https://h:1", "s"), ("ALL = http://h:1", "")] {
        assert_eq!(
            addresses(&[&list[..], &[written]].concat()),
            [
                to(Grpc, &format!("http{scheme}://h:1/")),
                to(WebSocket, &format!("ws{scheme}://h:1/v1/stream")),
                to(Rest, &format!("http{scheme}://h:1/")),
            ]
        );
    }
    let one = ["--transport", "rest", "--to", "all=https://h:1"];
    assert_eq!(addresses(&one), [to(Rest, "https://h:1/")]);
    for (written, words) in [
        ("https://h:1", "all=https://h:1"),
        ("all=https://h", "write all=https://HOST:PORT"),
        ("all=wss://h:1", "http:// or https://"),
        ("all=https://h:1,rest=https://h:2", "rest has two addresses"),
    ] {
        let problem = mistake(&[&list[..], &[written]].concat());
        assert!(problem.contains(words), "{written}: {problem}");
    }
    // What is proposed is understood.
    let problem = mistake(&[&list[..], &["https://h:1"]].concat());
    let proposed = problem
        .split_whitespace()
        .find(|word| word.starts_with("all="));
    assert_eq!(
        addresses(&[&list[..], &[proposed.unwrap()]].concat()).len(),
        3
    );
}
