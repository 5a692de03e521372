//! Receivers that go away and connections that break, in the midst of a run: every image arrives,
//! is stored once, and both reports say what it took.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use pantelegraph_tests::pictures::{jpeg, large, png, write_file};
use pantelegraph_tests::proxy::Proxy;
use pantelegraph_tests::raw::{RawSession, begin, chunk};
use pantelegraph_tests::route::{Route, listener, tokio_listener, transmit};
use pantelegraph_tests::station::{Data, Station};
use pantelegraph_tests::within;
use pantelegraph_transmitter::run::{RunOutcome, Summary};
use shared::report::Report;
use shared::wire::Event;
use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

macro_rules! over_all {
    ($($test:ident)*) => {
        over_all!(@route exchange Exchange $($test)*);
        over_all!(@route put Put $($test)*);
        over_all!(@route websocket WebSocket $($test)*);
        over_all!(@route listen Listen $($test)*);
        over_all!(@route rest Rest $($test)*);
    };
    (@route $name:ident $route:ident $($test:ident)*) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(pantelegraph_tests::route::Route::$route).await;
                }
            )*
        }
    };
}

over_all! {
    a_receiver_that_restarts_in_the_midst_of_a_run_gets_every_image_once
    a_connection_cut_in_the_midst_of_an_image_is_made_again
    an_image_whose_receipt_was_lost_is_sent_again_and_stored_once
}

/// A transmitter with a folder of its own, and a line to a receiver that can be spoiled.
struct Line {
    route: Route,
    proxy: Proxy,
    folder: TempDir,
    /// Where the transmitter waits, if it does.
    listener: Option<std::net::TcpListener>,
}

impl Line {
    async fn new(route: Route) -> Self {
        let listener = (route == Route::Listen).then(listener);
        let target = listener
            .as_ref()
            .map(|listener| listener.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        Self {
            route,
            proxy: Proxy::start(target).await,
            folder,
            listener,
        }
    }

    /// A receiver at the other end of the line.
    async fn station(&self, data: Data) -> Station {
        if self.listener.is_none() {
            let station = Station::start_on(data, &[]).await;
            self.proxy.redirect(Some(self.route.address(&station)));
            return station;
        }
        let pull = format!("ws://{}", self.proxy.address);
        Station::start_on(data, &["--pull", &pull]).await
    }

    fn address(&self) -> SocketAddr {
        match &self.listener {
            Some(listener) => listener.local_addr().unwrap(),
            None => self.proxy.address,
        }
    }

    /// Starts to send what the folder holds and what comes into it.
    fn transmit(&self, flags: &[&str]) -> JoinHandle<Summary> {
        let folder = self.folder.path().to_str().unwrap();
        let source = [
            "--folder",
            folder,
            "--run",
            "outage",
            "--chunk-size",
            "64KiB",
        ];
        let config = self
            .route
            .config(self.address(), &[&source[..], flags].concat());
        let listener = self.listener.as_ref().map(tokio_listener);
        tokio::spawn(async move { transmit(&config, listener).await })
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        write_file(&self.folder.path().join(name), bytes);
    }
}

/// Waits until `count` images are stored.
async fn stored(events: &mut broadcast::Receiver<Arc<Event>>, count: usize) {
    for _ in 0..count {
        let event = within("an image", events.recv()).await.unwrap();
        assert!(event.outcome.is_ok(), "{event:?}");
    }
}

/// All files of `folder` are stored, once each, and both reports say so.
async fn arrived(folder: &Path, station: &Station, summary: &Summary) -> Report {
    assert_eq!(summary.outcome, RunOutcome::Delivered);
    let mut sent: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    sent.sort();
    let count = sent.len() as u64;
    let receiver = station.report("outage").await;
    let [transmitter] = &summary.reports[..] else {
        panic!("one report")
    };
    for report in [&receiver, transmitter] {
        let sum = &report.totals;
        assert_eq!((sum.captured, sum.delivered), (count, count), "{sum:?}");
        assert_eq!((sum.lost, sum.owed, sum.quarantined), (0, 0, 0), "{sum:?}");
        assert!(sum.reconciles, "{sum:?}");
        let retries: u64 = report
            .images
            .iter()
            .map(|row| u64::from(row.attempts) - 1)
            .sum();
        assert_eq!(retries, sum.retries, "of {report:?}");
    }
    let told = receiver.delivery.map(|delivery| delivery.count);
    assert_eq!(
        told,
        Some(count),
        "the transmitter has told of every delivery"
    );
    assert_eq!(receiver.totals.retries, transmitter.totals.retries);
    assert_eq!(station.data().images().len(), sent.len());
    for file in sent {
        let name = file.file_name().unwrap().to_str().unwrap();
        let rows: Vec<_> = receiver
            .images
            .iter()
            .filter(|row| row.name.as_deref() == Some(name))
            .collect();
        let [row] = rows[..] else {
            panic!("{name} is there once, not {rows:?}")
        };
        let stored = station.get(&format!("/v1/images/{}", row.image_id)).await;
        assert!(
            stored.body == std::fs::read(&file).unwrap(),
            "{name} is what was sent"
        );
    }
    transmitter.clone()
}

async fn a_receiver_that_restarts_in_the_midst_of_a_run_gets_every_image_once(route: Route) {
    let line = Line::new(route).await;
    for seed in 0..5 {
        line.write(&format!("before-{seed}.png"), &png(seed).bytes);
    }
    let station = line.station(Data::default()).await;
    let mut events = station.receiver().intake().watch();
    let running = line.transmit(&["--count", "15"]);
    stored(&mut events, 5).await;
    let data = station.stop().await;
    if route != Route::Listen {
        line.proxy.redirect(None);
    }
    for seed in 5..15 {
        line.write(&format!("while-{seed}.jpg"), &jpeg(seed).bytes);
    }
    let station = line.station(data).await;
    let summary = running.await.unwrap();
    arrived(line.folder.path(), &station, &summary).await;
}

async fn a_connection_cut_in_the_midst_of_an_image_is_made_again(route: Route) {
    let line = Line::new(route).await;
    for seed in 0..3 {
        line.write(&format!("{seed}.png"), &large(700_000, seed).bytes);
    }
    line.proxy.cut_after(&[300_000; 3]);
    let station = line.station(Data::default()).await;
    // A second connection could deliver everything while the first is made again.
    let flags = ["--once", "--connections", "1"];
    let summary = line.transmit(&flags).await.unwrap();
    let report = arrived(line.folder.path(), &station, &summary).await;
    // `Put` has a second connection, for clock and accounts, which meets no limit.
    let least = if route == Route::Put { 1 } else { 3 };
    assert!(line.proxy.cuts() >= least, "{} cuts", line.proxy.cuts());
    assert!(report.totals.retries >= least as u64, "{:?}", report.totals);
}

async fn an_image_whose_receipt_was_lost_is_sent_again_and_stored_once(route: Route) {
    let line = Line::new(route).await;
    let station = line.station(Data::default()).await;
    let mut events = station.receiver().intake().watch();
    let archive = tempfile::tempdir().unwrap();
    let settle = format!("archive:{}", archive.path().display());
    line.write("first.png", &png(1).bytes);
    let running = line.transmit(&["--count", "2", "--after-delivery", &settle]);
    stored(&mut events, 1).await;
    within("the receipt of the first image", async {
        while !archive.path().join("first.png").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // A receiver that dials is the near side, and its answers come from there.
    match route {
        Route::Listen => line.proxy.hold_requests(true),
        _ => line.proxy.hold_answers(true),
    }
    line.write("second.png", &png(2).bytes);
    stored(&mut events, 1).await;
    let target = line
        .listener
        .as_ref()
        .map(|listener| listener.local_addr().unwrap());
    line.proxy
        .redirect(target.or(Some(route.address(&station))));
    line.proxy.hold_answers(false);
    line.proxy.hold_requests(false);
    let summary = running.await.unwrap();
    let report = arrived(archive.path(), &station, &summary).await;
    assert!(report.totals.retries >= 1, "{:?}", report.totals);
    assert_eq!(
        report.totals.duplicates, 0,
        "an image of this run is no duplicate of itself"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_account_of_a_run_survives_a_cut_connection() {
    let line = Line::new(Route::Rest).await;
    line.write("only.png", &png(1).bytes);
    line.proxy.cut_on(b"POST /v1/runs/account");
    let station = line.station(Data::default()).await;
    let summary = line.transmit(&["--once"]).await.unwrap();
    assert_eq!(line.proxy.cuts(), 1);
    arrived(line.folder.path(), &station, &summary).await;
}

#[tokio::test]
async fn a_stopped_receiver_leaves_unfinished_uploads_to_the_next_one() {
    let station = Station::start(&[]).await;
    let picture = large(200_000, 7);
    let mut ids = Vec::new();
    for mut session in [
        RawSession::grpc(station.grpc()).await,
        RawSession::websocket(station.http()).await,
    ] {
        session.hello().await;
        let (id, begin) = begin(&picture);
        session.send(begin).await;
        session.send(chunk(id, 0, &picture.bytes[..1_000])).await;
        // Ends the session in order, so the upload is kept for the next one.
        session.finish().await;
        ids.push(id);
    }
    let data = station.stop().await;
    let station = Station::start_on(data, &[]).await;
    assert_eq!(station.listed("stored").await.len(), 0);
    assert!(station.data().images().is_empty());
    for id in ids {
        assert_eq!(station.receiver().intake().held(id).await, Some(1_000));
    }
}
