use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, header};
use shared::security::Secret;
use shared::security::tokens::{NewToken, TokenKey};
use shared::settings::Setting;

use super::*;
use crate::access::Access;
use crate::cli::{PROGRAM, read_again};

const KEYS: [&str; 2] = [
    "0123456789abcdef0123456789abcdef",
    "fedcba9876543210fedcba9876543210",
];

/// A server's controls without a server.
struct Bench {
    folder: tempfile::TempDir,
    access: Access,
    live: Live,
    filter: Arc<Mutex<String>>,
}

/// KEYS in the flags stands for the folder with the keys.
fn config(folder: &Path, flags: &[&str]) -> Config {
    let folder = folder.to_str().unwrap();
    let flags = flags.iter().map(|flag| flag.replace("KEYS", folder).into());
    let args = std::iter::once(OsString::from("x")).chain(flags);
    read_again(args, &BTreeMap::new(), None).unwrap().0
}

impl Bench {
    fn new(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, key) in ["one", "two"].into_iter().zip(KEYS) {
            fs::write(folder.path().join(name), key).unwrap();
        }
        let start = config(folder.path(), flags);
        let access = Access::new(&start.security, start.anonymous);
        let controls = Controls {
            policy: access.policy().clone(),
            tls: None,
            stopping: Arc::new(Mutex::new(start.stopping)),
        };
        let filter = Arc::new(Mutex::new(start.log.clone()));
        let set = Arc::clone(&filter);
        let log = move |text: &str| {
            text.clone_into(&mut set.lock());
            Ok(())
        };
        let unread = || unreachable!("tests read by themselves");
        Self {
            folder,
            access,
            live: Live::new(start, controls, Box::new(unread), Box::new(log)),
            filter,
        }
    }

    fn apply(&mut self, flags: &[&str]) -> Applied {
        let config = config(self.folder.path(), flags);
        self.live.apply(&config).unwrap()
    }

    /// Whether a token gets in that this key has signed.
    fn admits(&self, key: &str, audience: Option<&str>) -> bool {
        let key = TokenKey::from_secret(Secret::new(key.into())).unwrap();
        let token = key.sign(&NewToken {
            subject: "ada",
            audience,
            scope: "read",
            not_before: None,
            issued: None,
            expires: 4_000_000_000,
        });
        let value = format!("Bearer {}", token.unwrap()).parse().unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        self.access.admit(&headers, None).is_ok()
    }
}

/// Certificates are tried with TLS itself, in the crate `shared`; a key that is no file comes the way that one
/// in a file does.
const ELSEWHERE: [&str; 7] = [
    "config",
    "tls-cert",
    "tls-key",
    "tls-client-ca",
    "tls-client-auth",
    "tls-crl",
    "token-key",
];

const ONE: [&str; 2] = ["--token-key-file", "KEYS/one"];

#[test]
fn every_setting_that_is_marked_is_taken_over() {
    for Setting { key, .. } in PROGRAM.settings().filter(|setting| setting.reloadable) {
        let mut bench = Bench::new(&ONE);
        let mut apply = |more: &[&str]| bench.apply(&[&ONE, more].concat());
        let seconds = Duration::from_secs;
        match *key {
            "log" => {
                apply(&["--log", "debug"]);
                assert_eq!(*bench.filter.lock(), "debug");
            }
            "grace" => {
                apply(&["--grace", "3s"]);
                assert_eq!(bench.live.controls.stopping.lock().grace, seconds(3));
            }
            "drain-delay" => {
                apply(&["--drain-delay", "4s"]);
                assert_eq!(bench.live.controls.stopping.lock().drain_delay, seconds(4));
            }
            "token-key-file" => {
                assert!(bench.admits(KEYS[0], None) && !bench.admits(KEYS[1], None));
                bench.apply(&["--token-key-file", "KEYS/two"]);
                assert!(!bench.admits(KEYS[0], None) && bench.admits(KEYS[1], None));
            }
            "token-audience" => {
                apply(&["--token-audience", "north"]);
                assert!(!bench.admits(KEYS[0], None) && bench.admits(KEYS[0], Some("north")));
            }
            other => assert!(ELSEWHERE.contains(&other), "nobody has tried {other}"),
        }
    }
}

#[test]
fn a_server_that_asks_does_not_become_open() {
    let mut bench = Bench::new(&ONE);
    for flags in [
        &[][..],
        &["--token-key-file", "KEYS/two", "--allow-anonymous"],
    ] {
        let applied = bench.apply(flags);
        let held = applied.held.iter().map(|(key, _)| *key);
        assert!(
            held.into_iter().any(|key| key == "token-key-file"),
            "{flags:?}"
        );
        assert!(bench.admits(KEYS[0], None), "as it was");
        assert!(bench.access.admit(&HeaderMap::new(), None).is_err());
    }
}

#[test]
fn the_operations_page_names_what_is_marked() {
    let marked = PROGRAM.settings().filter(|setting| setting.reloadable);
    let keys: Vec<_> = marked.map(|setting| format!("`{}`", setting.key)).collect();
    let row = format!("| users | {} |", keys.join(", "));
    let page = include_str!("../../../docs/operations.md");
    assert!(page.contains(&row), "not in docs/operations.md:\n{row}");
}
