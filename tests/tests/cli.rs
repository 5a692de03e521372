//! The command lines of the daemons, as processes, and what they write.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use pantelegraph_tests::pictures::{jpeg, png, webp, write_file};
use pantelegraph_tests::process::{Finished, run};
use pantelegraph_tests::station::Station;
use serde_json::Value;

const RECEIVER: &str = env!("CARGO_BIN_EXE_receiver-under-test");
const TRANSMITTER: &str = env!("CARGO_BIN_EXE_transmitter-under-test");

/// Program, its name, and the beginning of its variables.
const DAEMONS: [(&str, &str, &str); 2] = [
    (RECEIVER, "pantelegraph-receiver", "RECEIVER"),
    (TRANSMITTER, "pantelegraph-transmitter", "TRANSMITTER"),
];

async fn printed(program: &str, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let finished = run(program, folder.path(), args).await;
    assert_eq!((finished.code(), &*finished.stderr), (0, ""), "{args:?}");
    finished.stdout
}

#[tokio::test]
async fn the_help_is_complete_and_plain_in_a_pipe() {
    for (program, name, prefix) in DAEMONS {
        let help = printed(program, &["--help"]).await;
        plain(&help);
        for word in [
            "Usage:",
            "Examples:",
            "Exit codes:",
            "--config",
            "--print-config",
            name,
        ] {
            assert!(help.contains(word), "{word:?} is not in the help of {name}");
        }
        assert!(
            help.contains(&format!("{prefix}_LOG")),
            "variables are explained"
        );
        let short = printed(program, &["-h"]).await;
        assert!(short.contains("Usage:") && short.len() <= help.len());
    }
}

#[tokio::test]
async fn the_version_is_the_packages() {
    for (program, name, _) in DAEMONS {
        let version = printed(program, &["--version"]).await;
        assert_eq!(version, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[tokio::test]
async fn the_printed_configuration_says_where_each_setting_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "RECEIVER_MAX_CHUNKS=77\n").unwrap();
    std::fs::write(folder.path().join("station.toml"), "max-unfinished = 9\n").unwrap();
    let flags = [
        "--config",
        "station.toml",
        "--credit",
        "16MiB",
        "--print-config",
    ];
    let finished = run(RECEIVER, folder.path(), &flags).await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    plain(&finished.stdout);
    let line = |key: &str| {
        let mut lines = finished.stdout.lines();
        let found = lines.find(|line| line.trim_start_matches("# ").starts_with(key));
        found
            .unwrap_or_else(|| panic!("{key} is not in {}", finished.stdout))
            .to_owned()
    };
    for (key, value, source) in [
        ("max-chunks", "77", ".env"),
        ("max-unfinished", "9", "station.toml"),
        ("credit", "16MiB", "command line"),
        ("grace", "10s", "default"),
    ] {
        let line = line(key);
        assert!(line.contains(value), "{line}");
        assert!(line.contains(source), "{line}");
    }
    assert!(
        !folder.path().join("data").exists(),
        "printing touches nothing"
    );
}

#[tokio::test]
async fn a_printed_configuration_reads_back_as_a_configuration_file() {
    let folder = tempfile::tempdir().unwrap();
    let flags = [
        "--pattern",
        "40x30",
        "--count",
        "3",
        "--window",
        "2MiB",
        "--name",
        "odd \"name\"",
    ];
    let first = run(
        TRANSMITTER,
        folder.path(),
        &[&flags[..], &["--print-config"]].concat(),
    )
    .await;
    assert_eq!(first.code(), 0, "{first:?}");
    std::fs::write(folder.path().join("again.toml"), &first.stdout).unwrap();
    let second = run(
        TRANSMITTER,
        folder.path(),
        &["--config", "again.toml", "--print-config"],
    )
    .await;
    assert_eq!(second.code(), 0, "{second:?}");
    let settings = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| {
                line.split(" #")
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            })
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect()
    };
    let (first, second) = (settings(&first.stdout), settings(&second.stdout));
    assert!(first.iter().any(|line| line.contains("40x30")), "{first:?}");
    assert_eq!(first, second);
}

#[tokio::test]
async fn there_are_completions_for_the_common_shells() {
    for (program, name, _) in DAEMONS {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = printed(program, &["--completions", shell]).await;
            assert!(script.contains(name), "{shell}");
            assert!(script.contains("print-config"), "{shell}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let finished = run(RECEIVER, folder.path(), &["--completions", "tcsh"]).await;
    assert_eq!(finished.code(), 2);
    assert!(
        finished.stderr.contains("bash"),
        "what there is: {finished:?}"
    );
}

/// Fails when `text` would mean something to a terminal.
fn plain(text: &str) {
    let odd = text
        .chars()
        .find(|letter| letter.is_control() && *letter != '\n');
    assert_eq!(odd, None, "in {text:?}");
}

fn valid(report: &Value) {
    const SCHEMA: &str = include_str!("../../docs/specs/report.schema.json");
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(report)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// A run over all transports in which something goes wrong, too.
async fn mixed_run(station: &Station, folder: &std::path::Path) -> Finished {
    let images = folder.join("images");
    std::fs::create_dir(&images).unwrap();
    write_file(&images.join("a.jpg"), &jpeg(1).bytes);
    write_file(&images.join("b c.png"), &png(2).bytes);
    write_file(&images.join("d\u{1b}[31m\n.webp"), &webp(3).bytes);
    write_file(&images.join("e.jpg"), b"no image at all");
    let (grpc, http) = (station.grpc(), station.http());
    let to = format!("grpc=http://{grpc},websocket=ws://{http},rest=http://{http}");
    let args = [
        "--folder",
        "images",
        "--once",
        "--transport",
        "websocket,grpc,rest",
        "--to",
        &to,
        "--run",
        "mixed",
        "--name",
        "camera",
        "--report",
        "report.json",
    ];
    run(TRANSMITTER, folder, &args).await
}

#[tokio::test]
async fn a_run_in_a_pipe_is_plain_text_and_its_reports_keep_to_the_schema() {
    let station = Station::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let finished = mixed_run(&station, folder.path()).await;
    assert_eq!(finished.code(), 64, "{finished:?}");
    plain(&finished.stdout);
    plain(&finished.stderr);
    for transport in ["WebSocket", "gRPC", "REST"] {
        let head = format!("=== {transport} performance test: 4 images transfer ===");
        assert!(finished.stdout.contains(&head), "{}", finished.stdout);
    }
    assert!(
        finished
            .stdout
            .contains("Total transfer time (including 0ms delays):")
            || finished
                .stdout
                .contains("Total transfer time (including 0s delays):"),
        "{}",
        finished.stdout
    );

    let written = std::fs::read(folder.path().join("report.json")).unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    let reports = written["reports"].as_array().unwrap();
    assert_eq!(reports.len(), 3);
    for report in reports {
        valid(report);
        let totals = &report["totals"];
        assert_eq!(totals["captured"], 4);
        assert_eq!(
            (&totals["delivered"], &totals["quarantined"]),
            (&3.into(), &1.into())
        );
        assert_eq!(totals["reconciles"], true);
    }

    for transport in ["websocket", "grpc", "rest"] {
        let path = format!("/v1/report?run=mixed&transport={transport}");
        let told = station.get(&path).await;
        assert_eq!(told.header("content-type"), "application/json");
        let told = told.json();
        valid(&told);
        assert_eq!(told["totals"]["reconciles"], true, "{}", told["totals"]);
        let same = |report: &&Value| report["transport"] == transport;
        let sent = reports.iter().find(same).unwrap();
        for count in ["captured", "delivered", "quarantined", "bytes"] {
            assert_eq!(
                told["totals"][count], sent["totals"][count],
                "{transport} {count}"
            );
        }
    }
    let all = station.get("/v1/report?run=mixed").await.json();
    assert_eq!(all["reports"].as_array().unwrap().len(), 3);
    all["reports"].as_array().unwrap().iter().for_each(valid);
    let text = station.get("/v1/report?run=mixed&format=text").await;
    plain(std::str::from_utf8(&text.body).unwrap());
    let table = station.get("/v1/report?run=mixed&format=csv").await;
    // A name may hold a line break, which CSV keeps in quotes.
    let lines = std::str::from_utf8(&table.body)
        .unwrap()
        .matches("camera")
        .count();
    assert_eq!(lines, 12, "four images over each of three transports");
}

#[tokio::test]
async fn a_report_that_cannot_be_written_is_said_and_is_no_success() {
    let station = Station::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let to = format!("http://{}", station.grpc());
    let args = [
        "--pattern",
        "16x16",
        "--count",
        "1",
        "--to",
        &to,
        "--report",
        "missing/report.json",
    ];
    let finished = run(TRANSMITTER, folder.path(), &args).await;
    assert_eq!(finished.code(), 70, "{finished:?}");
    assert!(
        finished.stderr.contains("missing/report.json"),
        "{finished:?}"
    );
    assert_eq!(
        station.data().images().len(),
        1,
        "the image arrived all the same"
    );
}

#[tokio::test]
async fn the_environment_and_its_file_are_weaker_than_flags() {
    let station = Station::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let lines = format!(
        "TRANSMITTER_TO=http://{}\nTRANSMITTER_PATTERN=16x16\nTRANSMITTER_COUNT=5\n",
        station.grpc()
    );
    std::fs::write(folder.path().join(".env"), lines).unwrap();
    let finished = run(
        TRANSMITTER,
        folder.path(),
        &["--count", "2", "--run", "weak"],
    )
    .await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_eq!(station.report("weak").await.totals.delivered, 2);
}
