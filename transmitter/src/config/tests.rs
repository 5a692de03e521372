use std::collections::BTreeMap;

use shared::image::Transport::{Grpc, Rest, WebSocket};
use shared::settings::units::ByteSize;

use super::*;
use crate::cli::{CliError, Invocation, parse};

mod addresses;
mod security;

fn read(args: &[&str], variables: &[(&str, &str)]) -> Result<Config, CliError> {
    let args = ["pantelegraph-transmitter"]
        .iter()
        .chain(args)
        .map(Into::into);
    let environment: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    match parse(args, &environment, None)? {
        Invocation::Run(config, _) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

/// With a source that ends.
fn config(args: &[&str]) -> Config {
    read(&[&["--file", "x"], args].concat(), &[]).unwrap()
}

fn mistakes(args: &[&str]) -> Vec<String> {
    read(args, &[]).unwrap_err().mistakes().collect()
}

/// The one mistake of settings with a source.
fn mistake(args: &[&str]) -> String {
    let mistakes = mistakes(&[&["--file", "x"], args].concat());
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    mistakes.into_iter().next().unwrap()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = config(&[]);
    assert!(!config.name.is_empty());
    assert!(matches!(
        config.source,
        SourceOptions::File { repeat: 1, .. }
    ));
    assert_eq!(config.transports, [Grpc]);
    assert_eq!(config.to[&Grpc].as_str(), "http://127.0.0.1:50051/");
    assert_eq!(config.link.chunk_size, ByteSize::kib(256));
    assert_eq!(config.link.window, ByteSize::mib(4));
    assert_eq!(config.pace.delay, Duration::ZERO);
    assert_eq!(config.retry.initial, Duration::from_millis(100));
    assert_eq!(config.retry.attempts, None);
    assert_eq!(config.outbox.memory, ByteSize::mib(256));
    assert_eq!(config.digest, DigestAlgorithm::Xxh3);
}

#[test]
fn exactly_one_source_is_needed() {
    let none = mistakes(&[]);
    assert_eq!(none.len(), 1);
    for part in [
        "--file",
        "--folder",
        "--pattern",
        "--snapshot-url",
        "--command",
        "for example",
    ] {
        assert!(none[0].contains(part), "{none:?}");
    }
    assert_eq!(
        mistakes(&["--file", "x", "--pattern", "1x1", "--command", "y"]),
        [
            "--pattern 1x1 (command line): a second source beside file; give exactly one",
            "--command y (command line): a second source beside file; give exactly one",
        ]
    );
}

#[test]
fn a_source_on_the_command_line_replaces_one_from_the_environment() {
    let config = read(&["--pattern", "8x4"], &[("TRANSMITTER_FOLDER", "/photos")]).unwrap();
    assert!(matches!(
        config.source,
        SourceOptions::Pattern(PatternOptions {
            width: 8,
            height: 4,
            ..
        })
    ));
    let both = [("TRANSMITTER_FOLDER", "/photos"), ("TRANSMITTER_FILE", "x")];
    let error = read(&[], &both).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("TRANSMITTER_FOLDER=/photos (environment): a second source")
    );
}

#[test]
fn details_of_another_source_are_mistakes_on_the_command_line_only() {
    for (detail, value) in [
        ("--recursive", None),
        ("--include", Some("*.jpg")),
        ("--once", None),
        ("--rescan", Some("1s")),
        ("--after-delivery", Some("delete")),
        ("--format", Some("png")),
        ("--seed", Some("2")),
        ("--snapshot-timeout", Some("1s")),
    ] {
        let args: Vec<&str> = [detail].into_iter().chain(value).collect();
        let text = mistake(&args);
        assert!(
            text.contains("means nothing with --file; it goes with --"),
            "{text}"
        );
    }
    assert!(mistakes(&["--pattern", "1x1", "--repeat", "2"])[0].contains("goes with --file"));
    assert!(mistake(&["--schedule", "poisson"]).contains("means nothing without --rate"));
    let variables = [("TRANSMITTER_SEED", "2"), ("TRANSMITTER_ONCE", "true")];
    assert!(read(&["--file", "x"], &variables).is_ok());
}

#[test]
fn several_transports_need_a_source_that_ends() {
    let several = ["--transport", "grpc,rest"];
    for endless in [
        &["--pattern", "1x1"][..],
        &["--folder", "x"],
        &["--command", "x"],
        &["--snapshot-url", "http://x"],
    ] {
        let all = mistakes(&[endless, &several].concat());
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(
            all[0].contains("need a source that ends; add --count or --for"),
            "{all:?}"
        );
        for end in [["--count", "1"], ["--for", "1m"]] {
            assert!(
                read(&[endless, &several, &end].concat(), &[]).is_ok(),
                "{endless:?} {end:?}"
            );
        }
    }
    assert!(
        read(
            &["--folder", "x", "--once", "--transport=rest,websocket"],
            &[]
        )
        .is_ok()
    );
    assert!(mistake(&["--transport", "grpc,rest,grpc"]).contains("grpc is named twice"));
}

#[test]
fn rate_and_delay_exclude_each_other() {
    assert_eq!(config(&["--rate", "30/m"]).pace.rate, Some(0.5));
    assert!(mistake(&["--rate", "5/s", "--delay", "1s"]).contains("no room for --delay"));
    assert!(
        config(&["--rate", "5/s", "--delay", "0"])
            .pace
            .rate
            .is_some()
    );
    let pace = |args: &[&str], variable| {
        read(&[&["--file", "x"], args].concat(), &[variable])
            .unwrap()
            .pace
    };
    // The command line overrides the environment in both directions.
    let both = pace(&["--rate", "5/s"], ("TRANSMITTER_DELAY", "1s"));
    assert_eq!((both.rate, both.delay), (Some(5.0), Duration::ZERO));
    assert_eq!(
        pace(&["--delay", "0"], ("TRANSMITTER_RATE", "5/s")).rate,
        None
    );
    let zero = [("TRANSMITTER_RATE", "5/s"), ("TRANSMITTER_DELAY", "0s")];
    assert_eq!(read(&["--file", "x"], &zero).unwrap().pace.rate, Some(5.0));
}

#[test]
fn values_out_of_range_are_mistakes() {
    for args in [
        ["--chunk-size", "1023"],
        ["--chunk-size", "17MiB"],
        ["--window", "128KiB"],
        ["--connections", "0"],
        ["--connections", "65"],
        ["--http2-frame-size", "16MiB"],
        ["--http2-frame-size", "15KiB"],
        ["--count", "0"],
        ["--count", "-1"],
        ["--repeat", "0"],
        ["--for", "0"],
        ["--delay", "10"],
        ["--connect-timeout", "0"],
        ["--idle-timeout", "10s"],
        ["--retry-max", "99ms"],
        ["--retry-attempts", "0"],
        ["--digest", "md5"],
        ["--grpc-call", "watch"],
        ["--log", "a=b=c"],
        ["--name", "a\tb"],
        ["--progress", "perhaps"],
    ] {
        let text = mistake(&[&args.join("=")]);
        assert!(text.starts_with(args[0]), "{text}");
    }
    for dimensions in ["0x1", "1x0", "16385x1", "1x16385"] {
        assert_eq!(
            mistakes(&["--pattern", dimensions]).len(),
            1,
            "{dimensions}"
        );
    }
    assert!(mistakes(&["--command", "ffmpeg 'x"])[0].contains("a quote is not closed"));
    assert!(mistakes(&["--folder", "x", "--include", "[a"])[0].contains("not a pattern"));
    assert!(mistakes(&["--snapshot-url", "https://x"])[0].contains("TLS is not supported"));
}

#[test]
fn a_limit_that_cannot_be_read_causes_no_second_mistake() {
    assert!(mistake(&["--chunk-size", "8XB", "--window", "64KiB"]).contains("is not a size"));
    assert!(mistakes(&["--pattren", "1x1"])[0].contains("did you mean --pattern?"));
    assert_eq!(mistakes(&["--pattren", "1x1"]).len(), 1);
    assert_eq!(
        mistakes(&["--file"]),
        ["--file (command line): needs a value"]
    );
    assert_eq!(
        mistakes(&["--file", "x", "--transport", "grpcc", "--to", "http://h:1"]).len(),
        1
    );
}

#[test]
fn an_archive_is_not_searched_for_images() {
    let archive = |args: &[&str], folder: &str| {
        read(
            &[
                &[
                    "--folder",
                    "/in",
                    "--after-delivery",
                    &format!("archive:{folder}"),
                ],
                args,
            ]
            .concat(),
            &[],
        )
    };
    assert!(archive(&[], "/in/sent").is_ok());
    assert!(archive(&["--recursive"], "/out").is_ok());
    assert!(archive(&["--recursive"], "/in/sent").is_err());
    assert!(archive(&[], "/in").is_err());
    assert!(archive(&[], "").is_err());
    let delete = read(&["--folder", "/in", "--after-delivery", "delete"], &[]).unwrap();
    assert!(matches!(
        delete.source,
        SourceOptions::Folder(FolderOptions {
            after_delivery: AfterDelivery::Delete,
            ..
        })
    ));
}

#[test]
fn a_camera_password_is_used_but_never_shown() {
    let url = "http://admin:hunter2@camera/shot.jpg";
    let config = read(&["--snapshot-url", url], &[]).unwrap();
    let SourceOptions::Snapshot { url: read_url, .. } = config.source else {
        panic!("no snapshot")
    };
    assert_eq!(read_url.password(), Some("hunter2"));
    let wrong = mistakes(&["--snapshot-url", &url.replace("http", "ftp")]).join("\n")
        + &mistakes(&["--snapshot-url", "admin:hunter2@camera"]).join("\n")
        + &mistakes(&["--snapshot-url", "http://admin:hunter2/x@camera"]).join("\n");
    assert!(
        wrong.contains("admin:***@") && !wrong.contains("hunter2"),
        "{wrong}"
    );
}
