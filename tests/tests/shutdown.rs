//! The daemons as processes: how they stop, in the midst of things too, and with which exit codes.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::Path;
use std::time::{Duration, Instant};

use pantelegraph_tests::http::RawHttp;
use pantelegraph_tests::pictures::{Picture, jpeg, large, png, write_file};
use pantelegraph_tests::process::{Finished, Process, addresses, run};
use pantelegraph_tests::proxy::Proxy;
use pantelegraph_tests::raw::{End, RawSession, begin, chunk, end};
use pantelegraph_tests::route::Route;
use pantelegraph_tests::station::{Station, files_below};
use pantelegraph_tests::within;
use rustix::process::Signal;
use shared::clock::UnixNanos;
use shared::image::ImageId;
use shared::report::Report;
use shared::wire::{ClientMessage, ServerMessage};
use tempfile::TempDir;

const RECEIVER: &str = env!("CARGO_BIN_EXE_receiver-under-test");
const TRANSMITTER: &str = env!("CARGO_BIN_EXE_transmitter-under-test");

/// Ways of a transmitter that dials.
const DIALLED: [Route; 4] = [Route::Exchange, Route::Put, Route::WebSocket, Route::Rest];

/// A receiver's process on free ports, with its folder.
struct Daemon {
    process: Process,
    grpc: std::net::SocketAddr,
    http: std::net::SocketAddr,
}

const PORTS: [&str; 4] = [
    "--grpc-listen",
    "127.0.0.1:0",
    "--http-listen",
    "127.0.0.1:0",
];

impl Daemon {
    async fn start(folder: &Path, flags: &[&str]) -> Self {
        let mut process = Process::start(RECEIVER, folder, &[&PORTS[..], flags].concat());
        let ready = process.line().await;
        assert!(ready.starts_with("ready: "), "{ready}");
        let (grpc, http) = addresses(&ready);
        Self {
            process,
            grpc,
            http,
        }
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Everything that a receiver in `folder` would show.
fn visible(folder: &Path) -> usize {
    files_below(&folder.join("data/images")).len()
}

/// Half of an image, which the receiver has taken when this returns.
async fn send_half(session: &mut RawSession, picture: &Picture) -> ImageId {
    session.hello().await;
    let (id, begin) = begin(picture);
    session.send(begin).await;
    session
        .send(chunk(id, 0, &picture.bytes[..picture.bytes.len() / 2]))
        .await;
    // Messages are taken in order, so the answer to this one comes after the half is taken.
    session
        .send(ClientMessage::ClockPing {
            id: 1,
            t1: UnixNanos::now(),
        })
        .await;
    loop {
        match session.next().await {
            Ok(ServerMessage::ClockPong { .. }) => return id,
            Ok(ServerMessage::Credit { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_receiver_stopped_in_mid_transfer_shows_no_partial_image() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = folder();
        let daemon = Daemon::start(folder.path(), &["--grace", "30s"]).await;
        let picture = large(1_000_000, 1);
        let mut grpc = RawSession::grpc(daemon.grpc).await;
        let mut websocket = RawSession::websocket(daemon.http).await;
        send_half(&mut grpc, &picture).await;
        send_half(&mut websocket, &picture).await;
        let begun = Instant::now();
        daemon.process.signal(signal);
        match grpc.next().await {
            Ok(ServerMessage::Goodbye { reason }) => assert!(reason.contains("stopping")),
            other => panic!("{other:?} instead of goodbye"),
        }
        match websocket.next().await {
            Err(End::Closed { code: 1001, reason }) => assert!(reason.contains("stopping")),
            other => panic!("{other:?} instead of a close frame"),
        }
        // Lets the closing handshake take its course.
        let closed = tokio::spawn(websocket.finish());
        let finished = daemon.process.end().await;
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "nobody held it up"
        );
        assert_eq!(finished.code(), 0, "{finished:?}");
        closed.await.unwrap();
        assert_eq!(visible(folder.path()), 0);
        nothing_shown_after_restart(folder.path()).await;
    }
}

/// The next receiver on the folder shows nothing of what was unfinished, which it keeps for its
/// sender to go on with, and works.
async fn nothing_shown_after_restart(folder: &Path) {
    let daemon = Daemon::start(folder, &[]).await;
    let list = pantelegraph_tests::http::get(daemon.http, "/v1/images")
        .await
        .json();
    assert_eq!(list["images"].as_array().unwrap().len(), 0, "{list}");
    assert_eq!(visible(folder), 0);
    let mut session = RawSession::grpc(daemon.grpc).await;
    session.hello().await;
    session.deliver(&png(1)).await;
    assert_eq!(visible(folder), 1);
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.process.end().await.code(), 0);
}

#[tokio::test]
async fn stations_whose_log_nobody_reads_work_and_stop() {
    let (folder, device) = (folder(), folder());
    let flags = [&PORTS[..], &["--log", "debug"]].concat();
    let mut receiver = Process::start_unheard(RECEIVER, folder.path(), &flags);
    let (grpc, http) = addresses(&receiver.line().await);
    let to = format!("grpc=http://{grpc},websocket=ws://{http},rest=http://{http}");
    let args = ["--pattern", "16x16", "--count", "2", "--delay", "0s"];
    let args = [&args[..], &["--transport", "grpc,websocket,rest"]].concat();
    let unread = ["--log", "debug", "--to", to.as_str()];
    let transmitter =
        Process::start_unheard(TRANSMITTER, device.path(), &[&args[..], &unread].concat());
    assert_eq!(transmitter.end().await.code(), 0);
    assert_eq!(visible(folder.path()), 6);
    let lost = [
        "--transport",
        "grpc",
        "--give-up-after",
        "300ms",
        "--pattern",
        "16x16",
    ];
    let lost = [
        &lost[..],
        &["--count", "1", "--to", "grpc=http://127.0.0.1:1"],
    ]
    .concat();
    let transmitter = Process::start_unheard(TRANSMITTER, device.path(), &lost);
    assert_eq!(transmitter.end().await.code(), 66);
    receiver.signal(Signal::TERM);
    assert_eq!(receiver.end().await.code(), 0);
}

#[tokio::test]
async fn an_upload_that_stands_still_is_cut_off_after_the_grace_period() {
    let folder = folder();
    let daemon = Daemon::start(folder.path(), &["--grace", "300ms"]).await;
    let mut raw = RawHttp::connect(daemon.http).await;
    let headers = "Content-Length: 100000\r\nExpect: 100-continue\r\n";
    raw.write_put(&ImageId::new().to_string(), headers).await;
    assert_eq!(
        raw.answer().await.unwrap().status,
        100,
        "the body is awaited"
    );
    raw.write(&large(60_000, 2).bytes[..50_000]).await;
    daemon.process.signal(Signal::TERM);
    let finished = daemon.process.end().await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(
        finished.stderr.contains("after the grace period"),
        "{finished:?}"
    );
    assert_eq!(visible(folder.path()), 0);
    nothing_shown_after_restart(folder.path()).await;
}

#[tokio::test]
async fn a_request_in_flight_is_finished_within_the_grace_period() {
    let folder = folder();
    let mut daemon = Daemon::start(folder.path(), &["--grace", "30s"]).await;
    let picture = large(100_000, 3);
    let mut raw = RawHttp::connect(daemon.http).await;
    let length = picture.bytes.len();
    let headers = format!("Content-Length: {length}\r\nExpect: 100-continue\r\n");
    let id = ImageId::new().to_string();
    raw.write_put(&id, &headers).await;
    assert_eq!(
        raw.answer().await.unwrap().status,
        100,
        "the body is awaited"
    );
    let (first, second) = picture.bytes.split_at(length / 2);
    raw.write(first).await;
    daemon.process.signal(Signal::TERM);
    daemon.process.logged("stopping").await;
    raw.write(second).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["durability"], "synced");
    assert_eq!(daemon.process.end().await.code(), 0);
    let files = files_below(&folder.path().join("data/images"));
    assert_eq!(files.len(), 1);
    assert_eq!(std::fs::read(&files[0]).unwrap(), picture.bytes);
}

#[tokio::test]
async fn a_receiver_that_is_killed_leaves_no_partial_image() {
    let folder = folder();
    let daemon = Daemon::start(folder.path(), &[]).await;
    let mut session = RawSession::websocket(daemon.http).await;
    session.hello().await;
    let whole = session.deliver(&jpeg(1)).await;
    let mut other = RawSession::grpc(daemon.grpc).await;
    send_half(&mut other, &large(1_000_000, 4)).await;
    daemon.process.signal(Signal::KILL);
    assert_eq!(
        daemon.process.end().await.status.code(),
        None,
        "it was killed"
    );

    let daemon = Daemon::start(folder.path(), &[]).await;
    let list = pantelegraph_tests::http::get(daemon.http, "/v1/images")
        .await
        .json();
    let images = list["images"].as_array().unwrap();
    assert_eq!(
        images.len(),
        1,
        "what has a receipt is there, and nothing else: {list}"
    );
    assert_eq!(images[0]["image_id"], whole.image_id.to_string());
    assert_eq!(visible(folder.path()), 1);
    assert_eq!(files_below(&folder.path().join("data/incoming")).len(), 0);
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.process.end().await.code(), 0);
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let folder = folder();
    let daemon = Daemon::start(folder.path(), &["--grace", "30s"]).await;
    let mut grpc = RawSession::grpc(daemon.grpc).await;
    grpc.hello().await;
    let mut kept = RawHttp::connect(daemon.http).await;
    kept.write("GET /healthz HTTP/1.1\r\nHost: station\r\n\r\n")
        .await;
    assert_eq!(kept.answer().await.unwrap().status, 200);
    let silent = RawHttp::connect(daemon.http).await;
    let begun = Instant::now();
    daemon.process.signal(Signal::TERM);
    let finished = daemon.process.end().await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    drop((grpc, kept, silent));
}

#[tokio::test]
async fn a_second_signal_ends_a_receiver_at_once() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let folder = folder();
        let mut daemon = Daemon::start(folder.path(), &["--grace", "10m"]).await;
        let mut raw = RawHttp::connect(daemon.http).await;
        let headers = "Content-Length: 100000\r\nExpect: 100-continue\r\n";
        raw.write_put(&ImageId::new().to_string(), headers).await;
        assert_eq!(
            raw.answer().await.unwrap().status,
            100,
            "the body is awaited"
        );
        daemon.process.signal(signal);
        daemon.process.logged("a second signal stops at once").await;
        daemon.process.signal(signal);
        assert_eq!(daemon.process.end().await.code(), code);
        assert_eq!(visible(folder.path()), 0);
    }
}

#[tokio::test]
async fn signals_that_follow_each_other_at_once_are_one_request() {
    let folder = folder();
    let daemon = Daemon::start(folder.path(), &[]).await;
    for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
        daemon.process.signal(signal);
    }
    assert_eq!(daemon.process.end().await.code(), 0);
}

/// A receiver, and a transmitter in `folder` whose process is in the midst of an image, which
/// stands still.
struct Stalled {
    station: Station,
    proxy: Proxy,
    folder: TempDir,
}

async fn stalled(route: Route, grace: &str, flags: &[&str]) -> (Process, Stalled) {
    let station = Station::start(&[]).await;
    let proxy = Proxy::start(Some(route.address(&station))).await;
    // More than any transmitter makes: no image gets through, whichever of them it takes.
    proxy.stall_after(&[300_000; 16]);
    let folder = folder();
    write_file(&folder.path().join("big.png"), &large(600_000, 5).bytes);
    let mut args = route.flags(proxy.address);
    let source = ["--file", "big.png", "--repeat", "1000000", "--delay", "1ms"];
    let output = [
        "--grace",
        grace,
        "--run",
        "stopped",
        "--report",
        "report.json",
    ];
    let flags = flags.iter().copied();
    args.extend(
        source
            .into_iter()
            .chain(output)
            .chain(flags)
            .map(str::to_owned),
    );
    let process = Process::start(TRANSMITTER, folder.path(), &args);
    proxy.stalled().await;
    (
        process,
        Stalled {
            station,
            proxy,
            folder,
        },
    )
}

impl Stalled {
    /// The report that the transmitter wrote.
    fn report(&self) -> Report {
        let text = std::fs::read(self.folder.path().join("report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&text).unwrap();
        serde_json::from_value(report["reports"][0].clone()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transmitter_stopped_in_mid_transfer_still_owes_the_image_and_says_so() {
    // What is on disk goes on; what was in memory is gone, which is a failure.
    let places = [
        ("memory", 75, "still owed and are gone"),
        (
            "box",
            0,
            "1 images stay in the outbox box and go on at the next start",
        ),
    ];
    for route in DIALLED {
        for (place, code, words) in places {
            let (process, stalled) = stalled(route, "1s", &["--outbox", place]).await;
            let begun = Instant::now();
            process.signal(Signal::TERM);
            let finished = process.end().await;
            // Far less than the time that a transmitter allows a receiver to close a session.
            assert!(
                begun.elapsed() < Duration::from_secs(8),
                "{route:?}: {:?}",
                begun.elapsed()
            );
            assert_eq!(finished.code(), code, "{route:?}: {finished:?}");
            assert!(finished.stderr.contains(words), "{finished:?}");
            assert!(!finished.stdout.contains("carried over"), "{finished:?}");
            let totals = stalled.report().totals;
            assert_eq!((totals.captured, totals.owed), (1, 1), "{totals:?}");
            assert!(totals.reconciles);
            assert_eq!(stalled.station.data().images().len(), 0);
            assert_eq!(stalled.station.listed("stored").await.len(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transmitter_stopped_in_mid_transfer_finishes_what_it_can() {
    for route in DIALLED {
        let (mut process, stalled) = stalled(route, "30s", &[]).await;
        process.signal(Signal::TERM);
        process.logged("stopping").await;
        stalled.proxy.release();
        let finished = process.end().await;
        assert_eq!(finished.code(), 0, "{route:?}: {finished:?}");
        let report = stalled.report();
        assert_eq!(
            (report.totals.captured, report.totals.delivered),
            (1, 1),
            "{route:?}"
        );
        let told = stalled.station.report("stopped").await;
        assert_eq!(told.totals, report.totals, "both sides tell the same");
        let [image] = &stalled.station.data().images()[..] else {
            panic!("one image")
        };
        assert_eq!(std::fs::read(image).unwrap(), large(600_000, 5).bytes);
    }
}

#[tokio::test]
async fn a_second_signal_ends_a_transmitter_at_once() {
    let (mut process, stalled) = stalled(Route::Exchange, "10m", &[]).await;
    process.signal(Signal::INT);
    process.logged("a second signal stops at once").await;
    process.signal(Signal::INT);
    assert_eq!(process.end().await.code(), 130);
    assert_eq!(stalled.station.data().images().len(), 0);
}

#[tokio::test]
async fn a_transmitter_without_end_stops_with_everything_delivered() {
    let station = Station::start(&[]).await;
    let mut events = station.receiver().intake().watch();
    let folder = folder();
    let mut args = Route::WebSocket.flags(station.http());
    let source = ["--pattern", "64x48", "--delay", "1ms", "--run", "endless"];
    args.extend(source.map(str::to_owned));
    let process = Process::start(TRANSMITTER, folder.path(), &args);
    for _ in 0..3 {
        within("an image", events.recv()).await.unwrap();
    }
    process.signal(Signal::TERM);
    let finished = process.end().await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report = station.report("endless").await;
    assert!(
        report.totals.reconciles && report.totals.owed == 0,
        "{:?}",
        report.totals
    );
    assert_eq!(station.data().images().len() as u64, report.totals.captured);
}

/// Runs a receiver that cannot start.
async fn fails(folder: &Path, flags: &[&str]) -> Finished {
    let finished = run(RECEIVER, folder, flags).await;
    assert_eq!(finished.stdout, "", "it was never ready");
    finished
}

#[tokio::test]
async fn a_port_in_use_ends_a_receiver_with_69_and_the_name_of_the_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (grpc, http, flag) in [
        (&*address, free, "--grpc-listen"),
        (free, &*address, "--http-listen"),
    ] {
        let folder = folder();
        let flags = ["--grpc-listen", grpc, "--http-listen", http];
        let finished = fails(folder.path(), &flags).await;
        assert_eq!(finished.code(), 69, "{finished:?}");
        assert!(finished.stderr.contains(flag), "{finished:?}");
        assert!(finished.stderr.contains(&address), "{finished:?}");
        assert!(!folder.path().join("data").exists(), "nothing was touched");
    }
}

#[tokio::test]
async fn a_data_folder_in_use_ends_a_receiver_with_74_and_the_name_of_the_holder() {
    let folder = folder();
    let first = Daemon::start(folder.path(), &[]).await;
    for durability in ["synced", "memory"] {
        let flags = [&PORTS[..], &["--durability", durability]].concat();
        let finished = fails(folder.path(), &flags).await;
        assert_eq!(finished.code(), 74, "{finished:?}");
        assert!(finished.stderr.contains("RECEIVER_DATA"), "{finished:?}");
        let holder = format!("process {}", first.process.id());
        assert!(
            finished.stderr.contains(&holder),
            "{holder} is not in {finished:?}"
        );
    }
    let mut session = RawSession::grpc(first.grpc).await;
    session.hello().await;
    session.deliver(&png(1)).await;
}

#[tokio::test]
async fn a_data_folder_that_is_a_file_ends_a_receiver_with_74() {
    let folder = folder();
    std::fs::write(folder.path().join("data"), "not a folder").unwrap();
    let finished = fails(folder.path(), &PORTS).await;
    assert_eq!(finished.code(), 74, "{finished:?}");
    assert!(finished.stderr.contains("data"), "{finished:?}");
}

#[tokio::test]
async fn wrong_settings_end_both_daemons_with_2_and_all_mistakes_at_once() {
    let folder = folder();
    let flags = [
        "--grpc-listen",
        "nowhere",
        "--durability",
        "hopeful",
        "--max-chunks",
        "0",
    ];
    let finished = fails(folder.path(), &flags).await;
    assert_eq!(finished.code(), 2);
    for word in [
        "grpc-listen",
        "nowhere",
        "durability",
        "synced",
        "max-chunks",
    ] {
        assert!(
            finished.stderr.contains(word),
            "{word:?} is not in {}",
            finished.stderr
        );
    }
    let flags = [
        "--pattern",
        "0x0",
        "--transport",
        "pigeon",
        "--window",
        "much",
    ];
    let finished = run(TRANSMITTER, folder.path(), &flags).await;
    assert_eq!((finished.code(), &*finished.stdout), (2, ""));
    for word in ["pattern", "pigeon", "websocket", "window", "much"] {
        assert!(
            finished.stderr.contains(word),
            "{word:?} is not in {}",
            finished.stderr
        );
    }
    let finished = run(TRANSMITTER, folder.path(), &[""; 0]).await;
    assert_eq!(finished.code(), 2);
    assert!(
        finished.stderr.contains("--pattern 1920x1080"),
        "an example: {finished:?}"
    );
}

#[tokio::test]
async fn each_way_a_transmitter_can_fail_has_its_exit_code() {
    let station = Station::start(&["--max-image-size", "20KiB"]).await;
    let folder = folder();
    let whole = jpeg(1).bytes;
    write_file(&folder.path().join("half.jpg"), &whole[..whole.len() / 2]);
    write_file(&folder.path().join("large.png"), &large(50_000, 6).bytes);
    let to = Route::Rest.flags(station.http());
    // Bound, so that it is nobody else's, but not listening.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = nobody.local_addr().unwrap();
    let nowhere = Route::Rest.flags(gone);
    let impatient = [
        "--pattern",
        "8x8",
        "--count",
        "1",
        "--give-up-after",
        "50ms",
        "--retry-max",
        "100ms",
    ];
    let cases: [(&[String], &[&str], i32, &str); 5] = [
        (&to, &["--file", "half.jpg"], 64, "quarantined"),
        (&to, &["--file", "large.png"], 65, "RECEIVER_MAX_IMAGE_SIZE"),
        (&nowhere, &impatient, 66, "cannot be reached"),
        (&to, &["--file", "missing.jpg"], 67, "missing.jpg"),
        (&to, &["--command", "false"], 67, "false"),
    ];
    for (to, source, code, word) in cases {
        let args: Vec<String> = to
            .iter()
            .cloned()
            .chain(source.iter().copied().map(str::to_owned))
            .collect();
        let finished = run(TRANSMITTER, folder.path(), &args).await;
        assert_eq!(finished.code(), code, "{source:?}: {finished:?}");
        assert!(
            finished.stderr.contains(word),
            "{word:?} is not in {finished:?}"
        );
    }
}

#[tokio::test]
async fn a_transmitter_that_listens_waits_for_a_receiver_and_says_where() {
    let folder = folder();
    let args = [
        "--listen",
        "127.0.0.1:0",
        "--pattern",
        "32x32",
        "--count",
        "3",
        "--run",
        "listened",
    ];
    let mut transmitter = Process::start(TRANSMITTER, folder.path(), &args);
    let ready = transmitter.line().await;
    let address = ready
        .strip_prefix("ready: WebSocket ")
        .expect("the line that scripts wait for");
    let pull = format!("ws://{address}");
    let station = Station::start(&["--pull", &pull]).await;
    let finished = transmitter.end().await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report = station.report("listened").await;
    assert_eq!((report.totals.captured, report.totals.delivered), (3, 3));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["--listen", &address, "--pattern", "32x32", "--count", "1"];
    let finished = run(TRANSMITTER, folder.path(), &args).await;
    assert_eq!(finished.code(), 66, "{finished:?}");
    assert!(finished.stderr.contains("--listen"), "{finished:?}");
    assert!(finished.stderr.contains(&address), "{finished:?}");
}

#[tokio::test]
async fn images_that_were_answered_survive_the_receivers_end() {
    let folder = folder();
    let daemon = Daemon::start(folder.path(), &[]).await;
    let mut session = RawSession::grpc(daemon.grpc).await;
    session.hello().await;
    let picture = png(9);
    let (id, begin) = begin(&picture);
    session.send(begin).await;
    session.send(chunk(id, 0, &picture.bytes)).await;
    session.send(end(id)).await;
    session.answer().await.unwrap();
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.process.end().await.code(), 0);
    let daemon = Daemon::start(folder.path(), &[]).await;
    let path = format!("/v1/images/{id}");
    assert_eq!(
        pantelegraph_tests::http::get(daemon.http, &path).await.body,
        picture.bytes
    );
}
