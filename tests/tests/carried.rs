//! What a transmitter left in its outbox, and the next one that opens it.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::net::SocketAddr;
use std::path::Path;

use pantelegraph_tests::http::get;
use pantelegraph_tests::pictures::{jpeg, large, png, write_file};
use pantelegraph_tests::process::{Process, run};
use pantelegraph_tests::proxy::Proxy;
use pantelegraph_tests::route::{NAME, Route, transmit};
use pantelegraph_tests::station::{Station, files_below};
use pantelegraph_tests::within;
use pantelegraph_transmitter::run::{RunOutcome, Summary};
use rustix::process::Signal;
use serde_json::Value;
use shared::report::Report;
use tempfile::TempDir;

const TRANSMITTER: &str = env!("CARGO_BIN_EXE_transmitter-under-test");

/// Ways of a transmitter that dials.
const DIALLED: [Route; 4] = [Route::Exchange, Route::Put, Route::WebSocket, Route::Rest];

/// A device: its disk, and a line to a receiver that can be dead.
struct Device {
    disk: TempDir,
    line: Proxy,
    route: Route,
}

impl Device {
    async fn new(route: Route) -> Self {
        let disk = tempfile::tempdir().unwrap();
        std::fs::create_dir(disk.path().join("pictures")).unwrap();
        Self {
            disk,
            line: Proxy::start(None).await,
            route,
        }
    }

    fn path(&self, name: &str) -> String {
        self.disk.path().join(name).to_str().unwrap().to_owned()
    }

    fn reach(&self, station: &Station) {
        self.line.redirect(Some(self.route.address(station)));
    }

    /// Runs a transmitter to its end.
    async fn run(&self, flags: &[&str]) -> Summary {
        let outbox = self.path("outbox");
        let flags = [&["--outbox", &outbox], flags].concat();
        transmit(&self.route.config(self.line.address, &flags), None).await
    }

    /// Captures so many images with nobody to be reached, and is stopped.
    async fn run_in_vain(&self, images: u64, flags: &[&str]) -> Report {
        let fixed = [
            "--name",
            NAME,
            "--outbox",
            "outbox",
            "--status-listen",
            "127.0.0.1:0",
            "--grace",
            "100ms",
            "--report",
            "report.json",
        ];
        let fixed = fixed.iter().chain(flags).map(|flag| (*flag).to_owned());
        let args: Vec<String> = self
            .route
            .flags(self.line.address)
            .into_iter()
            .chain(fixed)
            .collect();
        let mut process = Process::start(TRANSMITTER, self.disk.path(), &args);
        let ready = process.line().await;
        let address = ready
            .strip_prefix("ready: status ")
            .unwrap()
            .parse()
            .unwrap();
        within("capture", async {
            while kept_or_lost(address).await < images {
                tokio::task::yield_now().await;
            }
        })
        .await;
        process.signal(Signal::TERM);
        let finished = process.end().await;
        assert!([0, 65].contains(&finished.code()), "{finished:?}");
        assert!(
            finished.stderr.contains("images stay in the outbox outbox"),
            "{finished:?}"
        );
        let text = std::fs::read(self.path("report.json")).unwrap();
        let report: Value = serde_json::from_slice(&text).unwrap();
        serde_json::from_value(report["reports"][0].clone()).unwrap()
    }

    /// The pictures that are in the folder now, once.
    async fn send_folder(&self, flags: &[&str]) -> Summary {
        let folder = self.path("pictures");
        self.run(&[&["--folder", &folder, "--once"], flags].concat())
            .await
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        write_file(&self.disk.path().join("pictures").join(name), bytes);
    }
}

/// Images that are in the outbox or on its ledger.
async fn kept_or_lost(address: SocketAddr) -> u64 {
    let page = get(address, "/metrics").await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let figures = page.lines().filter(|line| {
        line.starts_with("pantelegraph_transmitter_backlog_images ")
            || line.starts_with("pantelegraph_transmitter_images_lost_total{")
    });
    figures
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

const PATTERN: [&str; 4] = ["--pattern", "64x48", "--count", "5"];

fn totals(report: &Report) -> (u64, u64, u64, u64) {
    let sum = &report.totals;
    assert!(sum.reconciles, "{sum:?}");
    (sum.captured, sum.delivered, sum.lost, sum.owed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_owed_is_delivered_by_the_next_start_whose_own_source_has_nothing() {
    for route in DIALLED {
        let device = Device::new(route).await;
        let first = device
            .run_in_vain(5, &[&PATTERN[..], &["--run", "first"]].concat())
            .await;
        assert_eq!(totals(&first), (5, 0, 0, 5));

        let station = Station::start(&[]).await;
        device.reach(&station);
        let second = device.send_folder(&["--run", "second"]).await;
        assert_eq!(second.outcome, RunOutcome::Delivered, "{route:?}");
        assert_eq!(second.left, None);
        assert_eq!(totals(&second.reports[0]), (0, 0, 0, 0));
        let [carried] = &second.carried[..] else {
            panic!("one series: {:?}", second.carried);
        };
        assert_eq!(
            (&*carried.run, carried.delivered, carried.owed),
            ("first", 5, 0)
        );
        assert!(second.text().contains("carried over from first"));

        assert_eq!(station.data().images().len(), 5);
        let told = station.report("first").await;
        assert_eq!(totals(&told), (5, 5, 0, 0), "{route:?}");
        assert!(told.ended.is_some(), "its end was told");

        // Nothing is left to do, and nothing is told again.
        let third = device.send_folder(&["--run", "third"]).await;
        assert_eq!(
            (third.outcome, third.carried),
            (RunOutcome::Delivered, vec![])
        );
        assert_eq!(station.data().images().len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_goes_on_under_its_label_has_one_account_of_all_its_parts() {
    let device = Device::new(Route::Exchange).await;
    device
        .run_in_vain(5, &[&PATTERN[..], &["--run", "camera"]].concat())
        .await;
    let station = Station::start(&[]).await;
    device.reach(&station);
    let second = device
        .run(&[&PATTERN[..], &["--run", "camera", "--seed", "2"]].concat())
        .await;
    assert_eq!(second.outcome, RunOutcome::Delivered);
    // What this process captured, and apart from it what it found.
    assert_eq!(totals(&second.reports[0]), (5, 5, 0, 0));
    assert_eq!(second.carried[0].delivered, 5);
    let told = station.report("camera").await;
    assert_eq!(totals(&told), (10, 10, 0, 0));
    assert_eq!(told.delivery.map(|delivery| delivery.count), Some(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_were_captured_before_are_skipped_unless_they_are_asked_for_or_new() {
    let device = Device::new(Route::Rest).await;
    let station = Station::start(&[]).await;
    device.reach(&station);
    device.write("a.jpg", &jpeg(1).bytes);
    device.write("b.png", &png(1).bytes);
    for (recapture, captured, stored) in [(false, 2, 2), (false, 0, 2), (true, 2, 4), (false, 0, 4)]
    {
        let flags: &[&str] = if recapture {
            &["--folder-recapture"]
        } else {
            &[]
        };
        let summary = device.send_folder(flags).await;
        assert_eq!(summary.outcome, RunOutcome::Delivered);
        assert_eq!(totals(&summary.reports[0]).0, captured);
        assert_eq!(station.data().images().len(), stored);
    }
    // A file with new content is a new image.
    device.write("a.jpg", &jpeg(2).bytes);
    let summary = device.send_folder(&[]).await;
    assert_eq!(totals(&summary.reports[0]), (1, 1, 0, 0));
    // Skipped files count for nothing: the number asked for is of new ones.
    device.write("c.jpg", &jpeg(3).bytes);
    let summary = device.send_folder(&["--count", "1"]).await;
    assert_eq!(totals(&summary.reports[0]), (1, 1, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_archived_after_their_receipt_also_by_a_later_start() {
    for files in ["link", "copy", "reference"] {
        let device = Device::new(Route::WebSocket).await;
        let archive = device.path("archive");
        let settle = format!("archive:{archive}");
        let flags = ["--after-delivery", &settle, "--outbox-files", files];
        device.write("a.jpg", &jpeg(1).bytes);
        let folder = device.path("pictures");
        let source = ["--folder", &folder, "--once"];
        let flags_too = [&source[..], &flags].concat();
        device.run_in_vain(1, &flags_too).await;
        assert_eq!(files_below(Path::new(&folder)).len(), 1, "no receipt yet");
        let station = Station::start(&[]).await;
        device.reach(&station);
        device.write("b.jpg", &jpeg(2).bytes);
        let summary = device.send_folder(&flags).await;
        assert_eq!(summary.outcome, RunOutcome::Delivered, "{files}");
        assert_eq!(station.data().images().len(), 2, "{files}");
        assert_eq!(files_below(Path::new(&folder)).len(), 0, "{files}");
        assert_eq!(files_below(Path::new(&archive)).len(), 2, "{files}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_outbox_drops_is_on_the_receivers_ledger_and_in_both_reports() {
    for (policy, first_stored) in [("drop-oldest", false), ("drop-newest", true)] {
        let device = Device::new(Route::Exchange).await;
        for seed in 0..40 {
            device.write(&format!("{seed:02}.png"), &large(60_000, seed).bytes);
        }
        let folder = device.path("pictures");
        let flags = [
            "--folder",
            &folder,
            "--once",
            "--run",
            "full",
            "--outbox-limit",
            "1MiB",
            "--when-full",
            policy,
        ];
        let first = device.run_in_vain(40, &flags).await;
        let (captured, _, lost, owed) = totals(&first);
        assert!(lost > 0 && owed > 0, "{:?}", first.totals);
        assert_eq!((captured, lost + owed), (40, 40));
        let station = Station::start(&[]).await;
        device.reach(&station);
        let second = device.send_folder(&[]).await;
        assert_eq!(
            second.outcome,
            RunOutcome::Delivered,
            "nothing more was lost"
        );
        assert_eq!(station.data().images().len() as u64, owed);
        let told = station.report("full").await;
        assert_eq!(totals(&told), (40, owed, lost, 0), "{policy}");
        let ledger = get(station.http(), "/v1/losses?limit=1000").await.json();
        let entries = ledger["losses"].as_array().unwrap();
        assert_eq!(entries.len() as u64, lost, "{ledger}");
        let has_first = entries.iter().any(|entry| entry["sequence"] == 1);
        assert_eq!(has_first, !first_stored, "{policy}");
    }
}

fn receipts(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_are_written_for_all_and_images_stay_owed_while_they_cannot_be() {
    let device = Device::new(Route::Exchange).await;
    let station = Station::start(&[]).await;
    device.reach(&station);
    let file = device.path("receipts");
    let mut events = station.receiver().intake().watch();
    let full = Process::start(
        TRANSMITTER,
        device.disk.path(),
        &[
            &device.route.flags(device.line.address)[..],
            &[
                "--pattern",
                "64x48",
                "--count",
                "3",
                "--receipts",
                "/dev/full",
            ]
            .map(str::to_owned),
            &["--grace", "500ms"].map(str::to_owned),
        ]
        .concat(),
    );
    for _ in 0..3 {
        let event = within("an image", events.recv()).await.unwrap();
        assert!(event.outcome.is_ok());
    }
    full.signal(Signal::TERM);
    let finished = full.end().await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(
        finished.stderr.contains("3 images stay in the outbox"),
        "{finished:?}"
    );
    let said = finished.stderr.matches("receipts cannot be written");
    assert_eq!(said.count(), 1, "{finished:?}");
    let summary = device.send_folder(&["--receipts", &file]).await;
    assert_eq!(summary.outcome, RunOutcome::Delivered);
    let lines = receipts(&file);
    assert_eq!(lines.len(), 3);
    for line in &lines {
        // The receiver's word: the earlier process had sent it.
        assert_eq!(line["status"], "duplicate");
        let id = line["image_id"].as_str().unwrap();
        let answer = get(station.http(), &format!("/v1/images/{id}/receipt")).await;
        assert_eq!(answer.json()["digest"], line["digest"]);
    }
    assert_eq!(station.data().images().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transmitter_that_is_killed_again_and_again_delivers_everything_once() {
    let device = Device::new(Route::WebSocket).await;
    let station = Station::start(&[]).await;
    device.reach(&station);
    let mut events = station.receiver().intake().watch();
    let args = [
        &device.route.flags(device.line.address)[..],
        &[
            "--pattern",
            "64x48",
            "--run",
            "killed",
            "--name",
            NAME,
            "--receipts",
            "receipts",
        ]
        .map(str::to_owned),
    ]
    .concat();
    for _ in 0..3 {
        let process = Process::start(TRANSMITTER, device.disk.path(), &args);
        for _ in 0..5 {
            within("an image", events.recv()).await.unwrap();
        }
        process.signal(Signal::KILL);
        process.end().await;
    }
    let summary = device.send_folder(&["--run", "after"]).await;
    assert_eq!(summary.outcome, RunOutcome::Delivered);
    let told = station.report("killed").await;
    let stored = station.listed("stored").await;
    let of = |run: &str| stored.iter().filter(|image| image["run"] == run).count();
    // A file that was complete when the index did not know of it yet has lost its run.
    assert_eq!(of("killed") + of("recovered"), stored.len());
    assert!(of("recovered") <= 3, "one for each kill");
    let of_run = of("killed") as u64;
    assert_eq!(totals(&told), (of_run, of_run, 0, 0));
    let mut sequences: Vec<u64> = stored
        .iter()
        .filter_map(|image| image["sequence"].as_u64())
        .collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=stored.len() as u64).collect::<Vec<_>>());
    let ids: std::collections::HashSet<_> = stored
        .iter()
        .map(|image| image["image_id"].to_string())
        .collect();
    for line in std::fs::read_to_string(device.path("receipts"))
        .unwrap()
        .lines()
    {
        // A line that a kill has cut short stands alone.
        if let Ok(line) = serde_json::from_str::<Value>(line) {
            assert!(ids.contains(&line["image_id"].to_string()), "{line}");
        }
    }
}

#[tokio::test]
async fn a_second_transmitter_on_an_outbox_ends_with_74_and_the_flag_that_helps() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--listen", "127.0.0.1:0", "--pattern", "32x32"];
    let mut first = Process::start(TRANSMITTER, folder.path(), &args);
    assert!(first.line().await.starts_with("ready: "));
    first.logged("progress").await;
    let second = run(TRANSMITTER, folder.path(), &args).await;
    assert_eq!(second.code(), 74, "{second:?}");
    assert!(second.stderr.contains("--outbox"), "{second:?}");
    assert!(second.stderr.contains("./outbox"), "{second:?}");
    first.signal(Signal::TERM);
    first.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_says_what_is_missing_until_a_receiver_is_there() {
    let device = Device::new(Route::Exchange).await;
    let args = [
        &device.route.flags(device.line.address)[..],
        &[
            "--pattern",
            "64x48",
            "--rate",
            "20/s",
            "--status-listen",
            "127.0.0.1:0",
        ]
        .map(str::to_owned),
        &["--retry-max", "100ms"].map(str::to_owned),
    ]
    .concat();
    let mut process = Process::start(TRANSMITTER, device.disk.path(), &args);
    let ready = process.line().await;
    let address = ready
        .strip_prefix("ready: status ")
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(get(address, "/healthz").await.status, 200);
    let answer = get(address, "/readyz").await;
    assert_eq!(answer.status, 503);
    let checks = &answer.json()["checks"];
    assert_eq!(checks["receiver"]["state"], "fails", "{checks}");
    assert_eq!(checks["outbox"]["state"], "ok", "{checks}");
    let station = Station::start(&[]).await;
    let mut events = station.receiver().intake().watch();
    device.reach(&station);
    within("an image", events.recv()).await.unwrap();
    assert_eq!(get(address, "/readyz").await.status, 200);
    let page = get(address, "/metrics").await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    assert!(
        page.contains("pantelegraph_transmitter_healthy{reason=\"receiver\"} 1\n"),
        "{page}"
    );
    assert!(
        page.contains("images_captured_total{transport=\"grpc\"} "),
        "{page}"
    );
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.code(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_captured_first_is_sent_first() {
    // Calls of their own, as in `Put`, have no order among each other.
    for route in [Route::Exchange, Route::WebSocket, Route::Rest] {
        let device = Device::new(route).await;
        device
            .run_in_vain(200, &["--pattern", "16x16", "--count", "200"])
            .await;
        let station = Station::start(&[]).await;
        device.reach(&station);
        let summary = device.send_folder(&["--connections", "1"]).await;
        assert_eq!(summary.outcome, RunOutcome::Delivered, "{route:?}");
        let mut images: Vec<(u64, u64)> = Vec::new();
        for image in station.listed("stored").await {
            let id = image["image_id"].as_str().unwrap();
            let facts = station.get(&format!("/v1/images/{id}/timeline")).await;
            let facts = facts.json();
            let begun = &facts["timeline"]["first_byte"]["ns"];
            images.push((facts["sequence"].as_u64().unwrap(), begun.as_u64().unwrap()));
        }
        images.sort_unstable();
        assert_eq!(images.len(), 200);
        let overtook = images.windows(2).filter(|two| two[1].1 < two[0].1).count();
        assert_eq!(overtook, 0, "{route:?}");
    }
}
