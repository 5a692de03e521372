use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use shared::settings::Setting;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cli::{Invocation, PROGRAM, parse};
use crate::config::Order;
use crate::outbox::memory::MemoryOutbox;

/// What every one of them is started with.
const BASE: [&str; 4] = ["--file", "x.jpg", "--to", "https://north.test"];

fn config(flags: &[&str]) -> Config {
    let args = [&["x"], flags].concat();
    let args = args.into_iter().map(Into::into);
    match parse(args, &BTreeMap::new(), None).unwrap() {
        Invocation::Run(config, _) => *config,
        other => panic!("{other:?}"),
    }
}

/// A run's controls without a run.
struct Bench {
    start: Vec<String>,
    live: Live,
    filter: Arc<Mutex<String>>,
}

impl Bench {
    fn new(flags: &[&str]) -> Self {
        let flags = [&BASE, flags].concat();
        let start = config(&flags);
        let outbox = MemoryOutbox::new(1_000, Order::OldestFirst);
        let limiter = Limiter::new(start.link.bandwidth.clone());
        let stop = CancellationToken::new();
        let status = Status::new(Arc::new(outbox), None, limiter.clone(), stop);
        let controls = Controls {
            dialler: Dialler::new(None, start.security.token.clone()),
            tls: Tls::None,
            waits: Arc::new(Mutex::new(Waits::of(&start.pace))),
            limiter,
            status,
        };
        let filter = Arc::new(Mutex::new(start.log.clone()));
        let set = Arc::clone(&filter);
        let log = move |text: &str| {
            text.clone_into(&mut set.lock());
            Ok(())
        };
        let unread = || unreachable!("tests read by themselves");
        Self {
            start: flags.into_iter().map(str::to_owned).collect(),
            live: Live::new(start, controls, Box::new(unread), Box::new(log)),
            filter,
        }
    }

    /// With these flags more.
    fn apply(&mut self, more: &[&str]) -> Applied {
        let start: Vec<&str> = self.start.iter().map(String::as_str).collect();
        self.live.apply(&config(&[&start, more].concat())).unwrap()
    }

    async fn shown(&self) -> String {
        let shown = self.live.controls.dialler.authorization().await.unwrap();
        shown.map_or_else(String::new, |shown| shown.to_str().unwrap().to_owned())
    }
}

fn held(applied: &Applied) -> Vec<&str> {
    applied.held.iter().map(|(key, _)| *key).collect()
}

/// Certificates are tried with TLS itself, in the crate `shared`; a token that is no file comes the way that
/// one in a file does.
const ELSEWHERE: [&str; 6] = [
    "config", "tls-ca", "tls-cert", "tls-key", "tls-crl", "token",
];

#[tokio::test]
async fn every_setting_that_is_marked_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "aaa.bbb.ccc").unwrap();
    for Setting { key, .. } in PROGRAM.settings().filter(|setting| setting.reloadable) {
        let mut bench = Bench::new(&[]);
        let controls = bench.live.controls.clone();
        match *key {
            "log" => {
                bench.apply(&["--log", "debug"]);
                assert_eq!(*bench.filter.lock(), "debug");
            }
            "delay" => {
                bench.apply(&["--delay", "3s"]);
                assert_eq!(controls.waits.lock().delay, Duration::from_secs(3));
            }
            "jitter" => {
                bench.apply(&["--delay", "3s", "--jitter", "1s"]);
                assert_eq!(controls.waits.lock().jitter, Duration::from_secs(1));
            }
            "bandwidth" => {
                bench.apply(&["--bandwidth", "500kB/s"]);
                assert_eq!(controls.limiter.cap(), Some(500_000));
            }
            "bandwidth-schedule" => {
                bench.apply(&[
                    "--bandwidth-schedule",
                    "00:00-12:00=1MB/s,12:00-00:00=1MB/s",
                ]);
                assert_eq!(controls.limiter.cap(), Some(1_000_000));
            }
            "token-file" => {
                assert_eq!(bench.shown().await, "");
                bench.apply(&["--token-file", token.to_str().unwrap()]);
                assert_eq!(bench.shown().await, "Bearer aaa.bbb.ccc");
            }
            other => assert!(ELSEWHERE.contains(&other), "nobody has tried {other}"),
        }
    }
}

#[tokio::test]
async fn what_belongs_to_another_address_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "aaa.bbb.ccc").unwrap();
    let mut bench = Bench::new(&[]);
    bench.start[3] = "https://south.test".to_owned();
    let applied = bench.apply(&["--token-file", token.to_str().unwrap(), "--log", "warn"]);
    assert_eq!(held(&applied), [TLS, TOKEN].concat());
    assert_eq!(bench.shown().await, "");
    assert_eq!(*bench.filter.lock(), "warn", "the rest is taken over");
}

#[tokio::test]
async fn a_timetable_does_not_become_a_flood() {
    let mut bench = Bench::new(&["--delay", "1s"]);
    bench.start.truncate(4);
    let applied = bench.apply(&["--rate", "1/s"]);
    assert_eq!(held(&applied), WAITS);
    let waits = *bench.live.controls.waits.lock();
    assert_eq!(waits.delay, Duration::from_secs(1));
}

#[tokio::test]
async fn a_cap_under_which_a_chunk_stands_still_waits_for_a_restart() {
    let mut bench = Bench::new(&[]);
    let applied = bench.apply(&["--bandwidth", "10kB/s"]);
    assert_eq!(held(&applied), BANDWIDTH);
    assert_eq!(bench.live.controls.limiter.cap(), None);
    // Smaller chunks, or chunks that were cut for it at the start, pass.
    let mut small = Bench::new(&["--chunk-size", "16KiB"]);
    assert!(small.apply(&["--bandwidth", "10kB/s"]).held.is_empty());
    let mut slow = Bench::new(&["--bandwidth", "10kB/s"]);
    slow.start.truncate(4);
    assert!(slow.apply(&["--bandwidth", "9kB/s"]).held.is_empty());
}

#[test]
fn the_operations_page_names_what_is_marked() {
    let marked = PROGRAM.settings().filter(|setting| setting.reloadable);
    let keys: Vec<_> = marked.map(|setting| format!("`{}`", setting.key)).collect();
    let row = format!("| transmitter | {} |", keys.join(", "));
    let page = include_str!("../../../docs/operations.md");
    assert!(page.contains(&row), "not in docs/operations.md:\n{row}");
}
