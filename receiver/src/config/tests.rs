use std::collections::BTreeMap;

use super::*;
use crate::cli::{CliError, Invocation, parse};

fn read(args: &[&str]) -> Result<Config, CliError> {
    let args = ["pantelegraph-receiver"].iter().chain(args).map(Into::into);
    match parse(args, &BTreeMap::new(), None)? {
        Invocation::Run(config, _) => Ok(*config),
        Invocation::Print(text) => panic!("{text}"),
    }
}

fn mistake(args: &[&str]) -> String {
    let mistakes: Vec<String> = read(args).unwrap_err().mistakes().collect();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    mistakes.into_iter().next().unwrap()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = read(&[]).unwrap();
    assert!(!config.name.is_empty());
    assert_eq!(config.grpc_listen, Some(([127, 0, 0, 1], 50051).into()));
    assert_eq!(config.http_listen, Some(([127, 0, 0, 1], 8080).into()));
    assert_eq!(config.data, PathBuf::from("./data"));
    assert_eq!(config.durability, Durability::Synced);
    assert_eq!(config.verify, Verify::Header);
    assert_eq!(config.limits.max_image_size, ByteSize::mib(512));
    assert_eq!(config.limits.max_chunks, 1_000_000);
    assert_eq!(config.limits.partial_ttl, Duration::from_secs(86_400));
    assert_eq!(config.link.credit, ByteSize::mib(8));
}

#[test]
fn at_least_one_way_in_is_needed() {
    let off = ["--grpc-listen", "off", "--http-listen", "OFF"];
    assert!(mistake(&off).contains("nothing to receive from"));
    let pull = read(&[&off[..], &["--pull", "ws://device:8081"]].concat()).unwrap();
    assert_eq!((pull.grpc_listen, pull.http_listen), (None, None));
}

#[test]
fn transmitters_to_dial_become_websocket_addresses() {
    let dialled = "http://a:1, ws://b:80, https://d:4,wss://e:443";
    let config = read(&["--pull", dialled, "--pull", "ws://c:3/own"]).unwrap();
    let urls: Vec<&str> = config.pull.iter().map(Url::as_str).collect();
    assert_eq!(
        urls,
        [
            "ws://a:1/v1/stream",
            "ws://b/v1/stream",
            "wss://d:4/v1/stream",
            "wss://e/v1/stream",
            "ws://c:3/own"
        ]
    );
    for (url, advice) in [
        ("ws://a", "lacks the port"),
        ("a:1", "begin with http://"),
        ("ws://a:1,http://a:1/v1/stream", "named twice"),
    ] {
        assert!(mistake(&["--pull", url]).contains(advice), "{url}");
    }
}

#[test]
fn two_listeners_cannot_share_a_port() {
    for (grpc, http, good) in [
        ("127.0.0.1:1", "127.0.0.1:1", false),
        ("127.0.0.1:1", "0.0.0.0:1", false),
        ("127.0.0.1:1", "127.0.0.2:1", true),
        ("127.0.0.1:0", "127.0.0.1:0", true),
    ] {
        let read = read(&["--grpc-listen", grpc, "--http-listen", http]);
        assert_eq!(read.is_ok(), good, "{grpc} {http}");
    }
    assert!(mistake(&["--http-listen", "8080"]).contains("write 127.0.0.1:8080"));
    assert!(mistake(&["--http-listen", "host:8080"]).ends_with("or off"));
}

#[test]
fn a_listener_that_is_open_to_everybody_has_to_be_meant() {
    for (flags, good) in [
        (&["--http-listen", "0.0.0.0:1"][..], false),
        (&["--grpc-listen", "[::]:1"], false),
        (&["--listen-all", "192.0.2.1:1"], false),
        (&["--http-listen", "0.0.0.0:1", "--insecure"], true),
        (&["--http-listen", "127.0.0.9:1"], true),
        (
            &[
                "--http-listen",
                "0.0.0.0:1",
                "--tls-cert",
                "c",
                "--tls-key",
                "k",
            ],
            true,
        ),
    ] {
        assert_eq!(read(flags).is_ok(), good, "{flags:?}");
        if !good {
            let words = mistake(flags);
            assert!(
                words.contains("--tls-cert") && words.contains("--insecure"),
                "{words}"
            );
        }
    }
    assert!(mistake(&["--tls-cert", "c"]).contains("--tls-key"));
    assert!(mistake(&["--tls-client-ca", "c"]).contains("--tls-cert"));
    let command_line = mistake(&["--token-key", "x"]);
    assert!(
        command_line.contains("RECEIVER_TOKEN_KEY"),
        "{command_line}"
    );
}

#[test]
fn values_out_of_range_are_mistakes() {
    for args in [
        ["--max-message-size", "63KiB"],
        ["--max-image-size", "0"],
        ["--max-chunks", "0"],
        ["--max-metadata", "2MiB"],
        ["--max-connections", "0"],
        ["--max-unfinished", "0"],
        ["--max-pixels", "0"],
        ["--idle-timeout", "0"],
        ["--partial-ttl", "24"],
        ["--http2-frame-size", "16MiB"],
        ["--http2-window", "2GiB"],
        ["--credit", "2MiB"],
        ["--max-memory", "4MiB"],
        ["--durability", "paper"],
        ["--verify", "half"],
        ["--log-format", "xml"],
    ] {
        let text = mistake(&args);
        assert!(text.starts_with(&args.join(" ")), "{text}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let error = read(&[
        "--max-chunks=x",
        "--credit=1",
        "--datta",
        "/x",
        "--verify",
        "half",
    ]);
    let mistakes: Vec<String> = error.unwrap_err().mistakes().collect();
    assert_eq!(mistakes.len(), 4, "{mistakes:?}");
    assert!(mistakes[0].contains("did you mean --data?"), "{mistakes:?}");
}
