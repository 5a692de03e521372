use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::settings::{Group, Program, Request, Setting, read};

static PROGRAM: Program = Program {
    name: "probe",
    version: "1",
    prefix: "PROBE",
    about: "Probes",
    groups: &[Group {
        heading: "Things",
        settings: &[
            Setting::value("log", "FILTER", "A filter")
                .default("info")
                .reloadable(),
            Setting::value("token", "TOKEN", "A secret")
                .secret()
                .reloadable(),
            Setting::value("size", "N", "A number").default("1"),
            Setting::value("url", "URL", "An address").reloadable(),
        ],
    }],
    examples: "",
    exit_codes: &[],
};

/// The environment that is read, and what was applied.
#[derive(Clone, Default)]
struct Probe {
    environment: Arc<Mutex<BTreeMap<String, String>>>,
    applied: Arc<Mutex<Vec<u64>>>,
    answer: Arc<Mutex<Applied>>,
}

impl Probe {
    fn set(&self, name: &str, value: &str) {
        self.environment.lock().insert(name.into(), value.into());
    }
}

impl Reloadable for Probe {
    type Config = u64;

    fn read(&self) -> Result<(u64, Read), CliError> {
        let environment = self.environment.lock().clone();
        let args = ["probe".into()].into_iter();
        let mut values = match read(&PROGRAM, args, &environment, None)? {
            Request::Use(values) => values,
            other => panic!("{other:?}"),
        };
        let number = |text: &str| text.parse().map_err(|_| "no number".to_owned());
        let size = values.required("size", number);
        values.finish()?;
        Ok((size, values.told()))
    }

    fn apply(&mut self, config: &u64) -> Result<Applied, String> {
        if *config == 0 {
            return Err("nothing fits into 0".to_owned());
        }
        self.applied.lock().push(*config);
        Ok(self.answer.lock().clone())
    }
}

fn reloader() -> (Probe, Reloader<Probe>) {
    let probe = Probe::default();
    let (_, told) = probe.read().unwrap();
    (probe.clone(), Reloader::new(probe, told.in_force))
}

fn reload(reloader: &mut Reloader<Probe>) -> (Vec<String>, Vec<String>) {
    let outcome = reloader.try_to().unwrap();
    (outcome.changed, outcome.restart)
}

#[test]
fn what_can_be_changed_is_and_what_cannot_be_is_named_until_it_is_as_it_was() {
    let (probe, mut reloader) = reloader();
    assert_eq!(reload(&mut reloader), (vec![], vec![]));
    probe.set("PROBE_LOG", "debug");
    probe.set("PROBE_SIZE", "2");
    let size = || vec!["size = 2".to_owned()];
    let log = vec!["log = \"debug\"".to_owned()];
    assert_eq!(reload(&mut reloader), (log, size()));
    // The one is in force now, the other is not.
    assert_eq!(reload(&mut reloader), (vec![], size()));
    probe.set("PROBE_SIZE", "1");
    probe.set("PROBE_LOG", "");
    assert_eq!(reload(&mut reloader).0, ["log = \"info\""]);
    assert_eq!(*probe.applied.lock(), [1, 2, 2, 1], "applied each time");
}

#[test]
fn secrets_are_compared_and_never_shown() {
    let (probe, mut reloader) = reloader();
    probe.set("PROBE_TOKEN", "hunter2");
    probe.set("PROBE_URL", "http://ada:swordfish@host/");
    let (changed, _) = reload(&mut reloader);
    assert_eq!(changed, ["token changed", "url = \"http://ada:***@host/\""]);
    probe.set("PROBE_TOKEN", "hunter3");
    probe.set("PROBE_URL", "http://ada:sturgeon@host/");
    assert_eq!(reload(&mut reloader).0.len(), 2, "also what is not shown");
    assert!(reload(&mut reloader).0.is_empty());
    probe.set("PROBE_TOKEN", "");
    assert_eq!(reload(&mut reloader).0, ["token is not set any more"]);
    let shown = format!("{:?}", reloader.in_force);
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(!shown.contains("sturgeon"), "{shown}");
}

#[test]
fn mistakes_change_nothing_and_are_all_named() {
    let (probe, mut reloader) = reloader();
    probe.set("PROBE_LOG", "debug");
    probe.set("PROBE_SIZE", "many");
    let problems = reloader.try_to().unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("PROBE_SIZE"), "{problems:?}");
    probe.set("PROBE_SIZE", "0");
    let problems = reloader.try_to().unwrap_err();
    assert_eq!(problems, ["nothing fits into 0"]);
    assert!(probe.applied.lock().is_empty());
    probe.set("PROBE_SIZE", "1");
    assert_eq!(reload(&mut reloader).0, ["log = \"debug\""], "still new");
}

#[test]
fn what_is_held_back_this_time_is_named_with_the_reason() {
    let (probe, mut reloader) = reloader();
    probe.answer.lock().hold(&["log", "url"], "it rains");
    let contents = [("the token", &["token"][..]), ("the rain", &["log"])];
    probe.answer.lock().contents.extend(contents);
    probe.set("PROBE_LOG", "debug");
    let restart = vec!["log = \"debug\" (it rains)".to_owned()];
    let changed = vec!["the token".to_owned()];
    assert_eq!(reload(&mut reloader), (changed.clone(), restart.clone()));
    assert_eq!(
        reload(&mut reloader),
        (changed, restart),
        "as long as it is so"
    );
}
