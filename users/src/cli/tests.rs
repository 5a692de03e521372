use std::collections::BTreeMap;
use std::fs;

use super::*;

fn invoke(args: &[&str]) -> Result<Invocation, CliError> {
    let args = ["pantelegraph users serve"].iter().chain(args);
    parse(args.map(OsString::from), &BTreeMap::new(), None)
}

fn config(args: &[&str]) -> Config {
    match invoke(args).unwrap() {
        Invocation::Serve(config, _) => *config,
        Invocation::Print(text) => panic!("{text}"),
    }
}

fn printed(args: &[&str]) -> String {
    match invoke(args).unwrap() {
        Invocation::Print(text) => text,
        Invocation::Serve(config, _) => panic!("{config:?}"),
    }
}

#[test]
fn without_settings_only_this_machine_is_served() {
    let config = config(&[]);
    assert_eq!(config.grpc_listen.unwrap().to_string(), "127.0.0.1:50051");
    assert_eq!(config.http_listen.unwrap().to_string(), "127.0.0.1:8000");
    assert_eq!(config.listen_all, None);
    assert!(config.origins.is_empty(), "its own pages only");
    assert!(config.warnings().is_empty());
}

#[test]
fn all_mistakes_are_told_at_once() {
    let wrong = [
        "--grpc-listen",
        "nowhere",
        "--max-users",
        "0",
        "--cors-origin",
        "evil",
    ];
    let words = invoke(&wrong).unwrap_err().to_string();
    for flag in ["--grpc-listen", "--max-users", "--cors-origin"] {
        assert!(words.contains(flag), "{words}");
    }
}

#[test]
fn a_server_that_everybody_could_use_is_meant_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, "0123456789abcdef0123456789abcdef").unwrap();
    let key = file.to_str().unwrap();
    let open = ["--grpc-listen", "0.0.0.0:50051"];
    let with = |more: &[&'static str], has_key: bool| {
        let key = ["--token-key-file", key];
        let key = if has_key { &key[..] } else { &[] };
        invoke(&[&open, key, more].concat())
    };
    let warnings = |invocation: Result<Invocation, CliError>| match invocation.unwrap() {
        Invocation::Serve(config, _) => config.warnings().join("\n"),
        Invocation::Print(text) => panic!("{text}"),
    };
    let words = with(&[], false).unwrap_err().to_string();
    assert!(words.contains("--insecure"), "{words}");
    assert!(warnings(with(&["--insecure"], false)).contains("everybody"));
    assert!(!warnings(with(&[], true)).contains("everybody who"));
    let words = with(&["--allow-anonymous"], true).unwrap_err().to_string();
    assert!(words.contains("--allow-anonymous"), "{words}");
    let words = warnings(with(&["--allow-anonymous", "--insecure"], true));
    assert!(words.contains("--allow-anonymous"), "{words}");
}

#[test]
fn a_key_is_read_from_its_file_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let path = file.to_str().unwrap();
    fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    let shown = format!("{:?}", config(&["--token-key-file", path]));
    assert!(!shown.contains("0123456789"), "{shown}");
    fs::write(&file, "short\n").unwrap();
    let words = invoke(&["--token-key-file", path]).unwrap_err().to_string();
    assert!(
        words.contains("too short") && !words.contains("short\n"),
        "{words}"
    );
    assert!(invoke(&["--token-key-file", "/no/such/file"]).is_err());
}

#[test]
fn the_example_file_is_up_to_date_and_changes_nothing() {
    let part = printed(&["--print-env"]);
    let example = include_str!("../../../.env.example");
    assert!(
        example.ends_with(&part),
        ".env.example is out of date; regenerate it:\n  \
         {{ cargo run -qp pantelegraph-transmitter -- --print-env; echo; \
         cargo run -qp pantelegraph-receiver -- --print-env; echo; \
         cargo run -qp pantelegraph -- users serve --print-env; }} > .env.example"
    );
    let folder = tempfile::tempdir().unwrap();
    let dotenv = folder.path().join(".env");
    fs::write(&dotenv, example).unwrap();
    let args = || ["x"].iter().map(OsString::from);
    let environment = BTreeMap::new();
    let with = parse(args(), &environment, Some(&dotenv)).unwrap();
    let without = parse(args(), &environment, None).unwrap();
    assert_eq!(format!("{with:?}"), format!("{without:?}"));
}

#[test]
fn listeners_can_be_off_but_not_all_of_them() {
    let off = ["--grpc-listen", "off", "--http-listen", "off"];
    let one = config(&[&off[..], &["--listen-all", "127.0.0.1:0"]].concat());
    assert!(one.grpc_listen.is_none() && one.http_listen.is_none());
    assert!(one.listen_all.is_some());
    let words = invoke(&off).unwrap_err().to_string();
    assert!(words.contains("--listen-all are off"), "{words}");
    // It is as open as the others.
    let words = invoke(&["--listen-all", "0.0.0.0:8443"]).unwrap_err();
    assert!(words.to_string().contains("--listen-all"), "{words}");
}
