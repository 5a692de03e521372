//! The architecture, checked by reading the sources (docs/ARCHITECTURE.md, *Invariants*).

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A source file without comments.
struct Source {
    /// Path from the root of the repository, with slashes.
    path: String,
    /// Lines with their numbers, counted from 1; those without code are left out.
    code: Vec<(usize, String)>,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let code = (1..)
            .zip(text.lines())
            .map(|(number, line)| (number, without_comment(line).trim_end().to_owned()))
            .filter(|(_, line)| !line.is_empty())
            .collect();
        let path = path
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .replace('\\', "/");
        Self { path, code }
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// The code before the tests that stand in the same file.
    fn product(&self) -> &[(usize, String)] {
        let tests = self.code.windows(2).position(|lines| {
            let opens = lines[1..].iter().any(|(_, line)| line.ends_with('{'));
            lines[0].1 == "#[cfg(test)]" && lines[1].1.starts_with("mod ") && opens
        });
        &self.code[..tests.unwrap_or(self.code.len())]
    }

    fn is_below(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| {
            let rest = self.path.strip_prefix(folder);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
        })
    }
}

/// The part of a line before `//`, unless that is part of a URL.
fn without_comment(line: &str) -> &str {
    let mut from = 0;
    while let Some(found) = line[from..].find("//") {
        let at = from + found;
        if !line[..at].ends_with(':') {
            return &line[..at];
        }
        from = at + 2;
    }
    line
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                rust_files(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// All Rust files below these folders of the repository.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    for folder in folders {
        rust_files(&root().join(folder), &mut files);
    }
    assert!(!files.is_empty());
    files.sort();
    files.iter().map(|file| Source::read(file)).collect()
}

/// Whether `word` stands in `line` as a word of its own. A word that ends in a sign, such as
/// `print!`, has its end.
fn mentions(line: &str, word: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(at, _)| {
        let rest = &line[at + word.len()..];
        let ends = !word.ends_with(is_part) || !rest.starts_with(is_part);
        ends && !line[..at].ends_with(is_part)
    })
}

/// Fails with all places in the product of `folders`, those `allowed` left out, that mention one
/// of `words`.
fn forbid(folders: &[&str], words: &[&str], allowed: &[&str]) {
    let mut found = Vec::new();
    for source in sources(folders) {
        if source.is_test() || source.is_below(allowed) {
            continue;
        }
        for (number, line) in source.product() {
            for word in words {
                if mentions(line, word) {
                    found.push(format!("{}:{number}: {word}: {}", source.path, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "not here:\n{}", found.join("\n"));
}

const CRATES: [&str; 4] = ["shared/src", "transmitter/src", "receiver/src", "users/src"];

#[test]
fn transports_are_named_only_by_links_and_endpoints() {
    let libraries = [
        "tonic",
        "axum",
        "tungstenite",
        "tokio_tungstenite",
        "hyper",
        "hyper_util",
        "h2",
    ];
    let adapters = [
        "transmitter/src/link",
        // HTTP cameras are a source, and no transport of ours.
        "transmitter/src/capture/snapshot",
        // Health and metrics are asked for over HTTP, whatever the transport.
        "transmitter/src/status/serve",
        "receiver/src/endpoint",
        "receiver/src/server/accept",
        "receiver/src/server/pull",
        // Names the protocols of HTTP in handshakes, and speaks none.
        "shared/src/security/tls",
        // Brings the generated code in.
        "shared/src/wire",
        // What a client of gRPC does beside sending.
        "shared/src/calls",
        "shared/src/connect",
        // Speaks OTLP, which is no transport of images.
        "shared/src/telemetry/otlp",
        // The faces of the user service, what calls them, and what is around them.
        "users/src/grpc",
        "users/src/rest",
        "users/src/graphql",
        "users/src/client",
        "users/src/server",
        "users/src/observe",
        // Asked once, before every face.
        "users/src/admission",
        "users/src/wire",
    ];
    forbid(&CRATES, &libraries, &adapters);
}

#[test]
fn generated_types_stop_at_the_wire_and_grpc() {
    let grpc = [
        "shared/src/wire",
        "transmitter/src/link/grpc",
        "receiver/src/endpoint/grpc",
        "users/src/wire",
        "users/src/grpc",
        "users/src/client/grpc",
    ];
    forbid(&CRATES, &["proto::", "wire::proto"], &grpc);
}

#[test]
fn only_programs_print_exit_and_read_the_environment() {
    let words = [
        "println!",
        "eprintln!",
        "print!",
        "eprint!",
        "dbg!",
        "env::args",
        "env::args_os",
        "env::var",
        "env::var_os",
        "env::vars",
        "env::vars_os",
        "io::stdout",
        "process::exit",
    ];
    let allowed = [
        "transmitter/src/main",
        "transmitter/src/cli",
        "receiver/src/main",
        "receiver/src/cli",
        // The environment, behind the trait that stands for it.
        "shared/src/settings/environment",
        // The second signal.
        "shared/src/lifecycle",
    ];
    forbid(&CRATES, &words, &allowed);
}

#[test]
fn the_stations_do_not_know_each_other() {
    let transmitter = ["transmitter::", "pantelegraph_transmitter::"];
    let receiver = ["receiver::", "pantelegraph_receiver::"];
    forbid(&["transmitter/src"], &receiver, &[]);
    forbid(&["receiver/src"], &transmitter, &[]);
    forbid(&["shared/src"], &[transmitter, receiver].concat(), &[]);
    for (station, other) in [("transmitter", "receiver"), ("receiver", "transmitter")] {
        let manifest = std::fs::read_to_string(root().join(station).join("Cargo.toml")).unwrap();
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
        assert!(
            !dependencies.contains(other),
            "{station} depends on {other}"
        );
    }
}

#[test]
fn what_only_a_receiver_needs_is_not_in_a_transmitter() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "pantelegraph-transmitter",
            "--edges",
            "normal",
        ])
        .args([
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--offline",
            "--locked",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&tree.stdout);
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let crates: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(crates.contains(&"tonic"), "the tree is one: {text}");
    for heavy in [
        "pantelegraph-receiver",
        "pantelegraph-users",
        "async-graphql",
        "tonic-health",
        "reqwest",
        "jsonwebtoken",
        "rcgen",
        "rusqlite",
        "libsqlite3-sys",
        "axum",
        "axum-core",
        "matchit",
        "metrics",
        "metrics-exporter-prometheus",
        "comfy-table",
        "jsonschema",
        "openssl",
        "proptest",
    ] {
        assert!(
            !crates.contains(&heavy),
            "{heavy} is in the transmitter's tree"
        );
    }
}

#[test]
fn modules_are_files_of_their_own_name() {
    for source in sources(&["."]) {
        assert!(
            !source.path.ends_with("/mod.rs"),
            "{}: write x.rs and x/",
            source.path
        );
    }
}

#[test]
fn no_module_is_named_for_nothing() {
    for source in sources(&CRATES) {
        let file = Path::new(&source.path)
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap();
        let vague = ["util", "utils", "common", "helpers", "misc"];
        assert!(
            !vague.contains(&file),
            "{}: a thing lives with what it serves",
            source.path
        );
    }
}

#[test]
fn files_can_be_read_in_one_sitting() {
    const MOST: usize = 500;
    for source in sources(&["."]) {
        let lines = source.product().len();
        assert!(
            source.is_test() || lines < MOST,
            "{} has {lines} lines of code",
            source.path
        );
    }
}

/// What alerts and dashboards ask for is there, by its name.
#[test]
fn figures_that_are_watched_exist() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let own = read("receiver/src/metrics.rs") + &read("receiver/src/metrics/load.rs");
    let of_transmitter = read("transmitter/src/status/metrics.rs");
    let mut found = 0;
    for file in [
        "deploy/prometheus/alerts.yml",
        "deploy/prometheus/alerts.test.yml",
        "deploy/grafana/pantelegraph.json",
    ] {
        let text = read(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("pantelegraph_")) {
            let name = name.trim_end_matches("_bucket");
            let exists = match name.strip_prefix("pantelegraph_transmitter_") {
                Some(rest) => of_transmitter.contains(&format!("\"{rest}\"")),
                None => own.contains(&format!("\"{name}\"")),
            };
            assert!(exists, "{file} asks for {name}");
            found += 1;
        }
    }
    assert!(found > 40, "{found}");
}

#[test]
fn tests_do_not_sleep() {
    let sleeps = ["thread::sleep", "time::sleep"];
    let found: Vec<String> = sources(&["tests"])
        .iter()
        .filter(|source| !source.path.ends_with("/tidy.rs"))
        // There time passes only when the simulation says so.
        .filter(|source| !source.is_below(&["tests/tests/simulation"]))
        .flat_map(|source| {
            let lines = source
                .code
                .iter()
                .filter(|(_, line)| sleeps.iter().any(|sleep| line.contains(sleep)));
            lines
                .map(|(number, _)| format!("{}:{number}", source.path))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "wait for an event instead: {found:?}");
}

#[test]
fn the_reader_of_sources_sees_code_and_not_comments() {
    assert_eq!(without_comment("let a = 1; // tonic"), "let a = 1; ");
    assert_eq!(without_comment("/// axum"), "");
    assert_eq!(
        without_comment("let url = \"http://host\"; // hyper"),
        "let url = \"http://host\"; "
    );
    assert!(mentions("use hyper::body;", "hyper"));
    assert!(!mentions("use hyper_util::rt;", "hyper"));
    assert!(!mentions("self.hypers", "hyper"));
}
