use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use http::{HeaderMap, header};
use shared::security::Secret;
use shared::security::tokens::{NewToken, TokenKey};
use shared::settings::Setting;

use super::*;
use crate::cli::{Invocation, PROGRAM, parse};

const KEYS: [&str; 2] = [
    "0123456789abcdef0123456789abcdef",
    "fedcba9876543210fedcba9876543210",
];

/// A receiver's controls, with the file that its settings are in.
struct Bench {
    folder: tempfile::TempDir,
    controls: Controls,
    live: Live,
    filter: Arc<Mutex<String>>,
}

fn config(folder: &Path, lines: &str) -> Result<(Config, Read), CliError> {
    let file = folder.join("receiver.toml");
    fs::write(&file, lines).unwrap();
    let args = ["receiver".into(), "--config".into(), OsString::from(file)];
    match parse(args.into_iter(), &BTreeMap::new(), None)? {
        Invocation::Run(config, read) => Ok((*config, read)),
        Invocation::Print(text) => panic!("{text}"),
    }
}

impl Bench {
    fn new(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, key) in ["one.key", "two.key"].into_iter().zip(KEYS) {
            fs::write(folder.path().join(name), key).unwrap();
        }
        let (config, _) = config(folder.path(), &in_folder(folder.path(), lines)).unwrap();
        let controls = Controls::new(&config, None, None);
        let filter = Arc::new(Mutex::new(config.log.clone()));
        let set = Arc::clone(&filter);
        let log = move |text: &str| {
            text.clone_into(&mut set.lock());
            Ok(())
        };
        let unread = || unreachable!("tests read by themselves");
        let live = Live::new(&config, controls.clone(), Box::new(unread), Box::new(log));
        Self {
            folder,
            controls,
            live,
            filter,
        }
    }

    fn apply(&mut self, lines: &str) -> Applied {
        let lines = in_folder(self.folder.path(), lines);
        let (config, _) = config(self.folder.path(), &lines).unwrap();
        self.live.apply(&config).unwrap()
    }

    /// Whether a token gets in that this key has signed.
    fn admits(&self, key: &str, audience: Option<&str>) -> bool {
        let key = TokenKey::from_secret(Secret::new(key.into())).unwrap();
        let token = key.sign(&NewToken {
            subject: "cam-1",
            audience,
            scope: "upload",
            not_before: None,
            issued: None,
            expires: 4_000_000_000,
        });
        let value = format!("Bearer {}", token.unwrap()).parse().unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        self.controls.policy.now().admit(&headers, None).is_ok()
    }
}

/// Names of key files, in the folder.
fn in_folder(folder: &Path, lines: &str) -> String {
    lines.replace("KEYS", folder.to_str().unwrap())
}

/// Certificates are tried with TLS itself, in the crate `shared`; a token key itself, as its file, and from
/// a variable by the daemon's process.
const ELSEWHERE: [&str; 7] = [
    "config",
    "tls-cert",
    "tls-key",
    "tls-client-ca",
    "tls-client-auth",
    "tls-crl",
    "token-key",
];

#[test]
fn every_setting_that_is_marked_is_taken_over() {
    let before = "token-key-file = \"KEYS/one.key\"\n";
    for Setting { key, .. } in PROGRAM.settings().filter(|setting| setting.reloadable) {
        let mut bench = Bench::new(before);
        match *key {
            "log" => {
                bench.apply(&format!("{before}log = \"debug\""));
                assert_eq!(*bench.filter.lock(), "debug");
            }
            "open-metrics" => {
                bench.apply(&format!("{before}open-metrics = true"));
                assert!(bench.controls.open_metrics.load(Ordering::Relaxed));
            }
            "grace" => {
                bench.apply(&format!("{before}grace = \"3s\""));
                assert_eq!(*bench.controls.grace.lock(), Duration::from_secs(3));
            }
            "token-key-file" => {
                assert!(bench.admits(KEYS[0], None) && !bench.admits(KEYS[1], None));
                bench.apply("token-key-file = \"KEYS/two.key\"");
                assert!(!bench.admits(KEYS[0], None) && bench.admits(KEYS[1], None));
            }
            "token-audience" => {
                bench.apply(&format!("{before}token-audience = \"north\""));
                assert!(!bench.admits(KEYS[0], None) && bench.admits(KEYS[0], Some("north")));
            }
            other => assert!(ELSEWHERE.contains(&other), "nobody has tried {other}"),
        }
    }
}

#[test]
fn a_key_in_the_same_file_is_news_too() {
    let lines = "token-key-file = \"KEYS/one.key\"";
    let mut bench = Bench::new(lines);
    assert_eq!(bench.apply(lines), Applied::default());
    fs::write(bench.folder.path().join("one.key"), KEYS[1]).unwrap();
    let applied = bench.apply(lines);
    assert_eq!(applied.contents.len(), 1, "{applied:?}");
    assert!(!bench.admits(KEYS[0], None) && bench.admits(KEYS[1], None));
}

#[test]
fn a_receiver_that_asks_does_not_become_open_and_the_other_way_round() {
    let asking = "token-key-file = \"KEYS/one.key\"";
    let mut bench = Bench::new(asking);
    let applied = bench.apply("");
    assert!(applied.held.iter().any(|(key, _)| *key == "token-key-file"));
    assert!(!bench.controls.policy.now().is_open());
    assert!(bench.admits(KEYS[0], None), "as it was");
    let mut bench = Bench::new("");
    assert!(!bench.apply(asking).held.is_empty());
    assert!(bench.controls.policy.now().is_open());
}

#[test]
fn the_operations_page_names_what_is_marked() {
    let marked = PROGRAM.settings().filter(|setting| setting.reloadable);
    let keys: Vec<_> = marked.map(|setting| format!("`{}`", setting.key)).collect();
    let row = format!("| receiver | {} |", keys.join(", "));
    let page = include_str!("../../../docs/operations.md");
    assert!(page.contains(&row), "not in docs/operations.md:\n{row}");
}
