//! The daemons as processes: SIGHUP, and what they tell their service manager.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use pantelegraph_tests::authority::{Authority, Validity};
use pantelegraph_tests::caller::Caller;
use pantelegraph_tests::http::get;
use pantelegraph_tests::pictures::{jpeg, png, write_file};
use pantelegraph_tests::process::{Process, addresses};
use pantelegraph_tests::raw::RawSession;
use pantelegraph_tests::station::Station;
use pantelegraph_tests::within;
use rustix::process::Signal;
use shared::security::Secret;
use shared::security::identity::Role;
use shared::security::tokens::TokenKey;
use tempfile::TempDir;
use tokio::net::UnixDatagram;

const RECEIVER: &str = env!("CARGO_BIN_EXE_receiver-under-test");
const TRANSMITTER: &str = env!("CARGO_BIN_EXE_transmitter-under-test");

const PORTS: [&str; 6] = [
    "--grpc-listen",
    "127.0.0.1:0",
    "--http-listen",
    "127.0.0.1:0",
    "--config",
    "station.toml",
];

/// How a reload of settings ends, in the log.
const SAME: &str = "nothing changed";

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A key as it stands in `.env`.
fn key(byte: char) -> String {
    std::iter::repeat_n(byte, 32).collect()
}

/// A token of cam-1 that this key has signed.
fn bearer(key: &str) -> Caller {
    let key = TokenKey::from_secret(Secret::new(key.into())).unwrap();
    let token = key.token("cam-1", "upload read", 4_000_000_000).unwrap();
    Caller::default().bearing(&token)
}

async fn status(caller: &Caller, address: SocketAddr) -> u16 {
    let answer = within("an answer", caller.get(address, "/v1/images")).await;
    answer.unwrap().status
}

/// A receiver with its settings in files.
struct Receiver {
    folder: TempDir,
    process: Process,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Receiver {
    async fn start(settings: &str, dotenv: &str) -> Self {
        let folder = folder();
        fs::write(folder.path().join("station.toml"), settings).unwrap();
        fs::write(folder.path().join(".env"), dotenv).unwrap();
        let mut process = Process::start(RECEIVER, folder.path(), &PORTS);
        let (grpc, http) = addresses(&process.line().await);
        Self {
            folder,
            process,
            grpc,
            http,
        }
    }

    /// Reads its settings again, after which its log has these words.
    async fn reload(&mut self, words: &str) {
        self.process.signal(Signal::HUP);
        self.process.logged(words).await;
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    async fn stop(self) {
        self.process.signal(Signal::TERM);
        let finished = self.process.end().await;
        assert_eq!(finished.code(), 0, "{finished:?}");
    }
}

#[tokio::test]
async fn a_receiver_takes_over_new_keys_and_a_new_filter_and_keeps_its_connections() {
    let (old, new) = (key('a'), key('b'));
    let env = |key: &str| format!("RECEIVER_TOKEN_KEY={key}\n");
    let mut receiver = Receiver::start("max-chunks = 5\n", &env(&old)).await;
    let (http, grpc) = (receiver.http, receiver.grpc);
    let (by_old, by_new) = (bearer(&old), bearer(&new));
    let mut session = RawSession::grpc_as(&by_old, grpc).await;
    session.hello_as("cam-1").await;
    assert_eq!(status(&by_old, http).await, 200);
    assert_eq!(status(&by_new, http).await, 401);
    receiver.reload(SAME).await;

    receiver.write("station.toml", "max-chunks = 5\nlog = \"debug\"\n");
    receiver.write(".env", &env(&new));
    receiver
        .reload("in force now: log = \"debug\", token-key changed")
        .await;
    assert_eq!(status(&by_old, http).await, 401, "it counts no more");
    receiver.process.logged("connected").await;
    assert_eq!(status(&by_new, http).await, 200);
    session.deliver(&png(1)).await;

    // What is wrong changes nothing, also not what is right beside it.
    receiver.write(".env", &env(&old));
    receiver.write("station.toml", "max-chunks = \"many\"\n");
    receiver.reload("max-chunks").await;
    receiver.process.logged("settings stay as they were").await;
    assert_eq!(status(&by_new, http).await, 200);
    assert_eq!(status(&by_old, http).await, 401);

    // What cannot be changed is named, and the rest is changed.
    receiver.write("station.toml", "max-chunks = 7\nlog = \"debug\"\n");
    receiver.reload("in force now: token-key changed").await;
    receiver
        .process
        .logged("restart to change max-chunks = 7")
        .await;
    assert_eq!(status(&by_old, http).await, 200);
    session.deliver(&png(2)).await;

    // As many as come: what is to be said is said once more, and it goes on.
    for _ in 0..20 {
        receiver.process.signal(Signal::HUP);
    }
    receiver.process.logged("restart to change").await;
    session.deliver(&png(3)).await;
    drop(session);
    receiver.stop().await;
}

#[tokio::test]
async fn a_receiver_changes_its_certificates_and_whom_it_trusts() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    for authority in [&ours, &theirs] {
        authority.issue(Role::Receiver, "gw");
        authority.issue(Role::Reader, "ada");
    }
    ours.revoke(&[]);
    let settings = |of: &Authority, more: &str| {
        format!(
            "tls-cert = {:?}\ntls-key = {:?}\ntls-client-ca = {:?}\n{more}",
            of.file("gw.pem"),
            of.file("gw.key"),
            of.file("ca.pem")
        )
    };
    let mut receiver = Receiver::start(&settings(&ours, ""), "").await;
    let http = receiver.http;
    let of = |authority: &Authority| Caller::encrypted(authority.client(Some("ada")));
    assert_eq!(status(&of(&ours), http).await, 200);
    assert!(of(&theirs).get(http, "/v1/images").await.is_err());
    receiver.write("station.toml", &settings(&theirs, ""));
    receiver.reload("in force now: tls-cert = ").await;
    assert_eq!(status(&of(&theirs), http).await, 200);
    assert!(of(&ours).get(http, "/v1/images").await.is_err());
    // A key that does not go with its certificate is noticed before anything changes.
    let half = settings(&theirs, "").replace(&theirs.file("gw.key"), &ours.file("gw.key"));
    receiver.write("station.toml", &half);
    receiver.reload("does not go with").await;
    receiver.process.logged("settings stay as they were").await;
    assert_eq!(status(&of(&theirs), http).await, 200);
    // Whom to ask for a certificate at all is settled at the start.
    let open = settings(&theirs, "").replace("tls-client-ca", "#");
    receiver.write("station.toml", &open);
    receiver.reload("restart to change tls-client-ca").await;
    let nobody = Caller::encrypted(theirs.client(None));
    assert!(nobody.get(http, "/v1/images").await.is_err());
    // A list of revoked certificates is new, and names one that was let in.
    ours.issue_as(Role::Reader, "ada", "ada", Validity::Now, 9);
    ours.revoke(&[9]);
    let listed = format!("tls-crl = {:?}\n", ours.file("revoked.pem"));
    receiver.write("station.toml", &settings(&ours, &listed));
    receiver.reload("in force now: tls-cert = ").await;
    assert!(of(&ours).get(http, "/v1/images").await.is_err());
    // Without one, a token has to be shown; here nobody takes any.
    let optional = "tls-client-auth = \"optional\"\n";
    receiver.write("station.toml", &settings(&ours, optional));
    receiver.reload("in force now: tls-client-auth = ").await;
    assert_eq!(status(&of(&ours), http).await, 200);
    let nobody = Caller::encrypted(ours.client(None));
    assert_eq!(status(&nobody, http).await, 401);
    receiver.stop().await;
}

#[tokio::test]
async fn a_hang_up_before_it_is_ready_does_not_end_a_daemon() {
    for program in [RECEIVER, TRANSMITTER] {
        let folder = folder();
        let dotenv = folder.path().join(".env");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &dotenv, mode).unwrap();
        let process = Process::start(program, folder.path(), &["--log", "info"]);
        // Opening it comes to an end when the daemon reads its settings.
        let opening = tokio::task::spawn_blocking(move || {
            fs::OpenOptions::new().write(true).open(dotenv).unwrap()
        });
        let opened = within("the reading of .env", opening).await.unwrap();
        process.signal(Signal::HUP);
        drop(opened);
        let finished = process.end().await;
        assert_eq!(
            finished.code(),
            2,
            "the pipe is the only problem: {finished:?}"
        );
        assert!(
            finished.stderr.contains("not a regular file"),
            "{finished:?}"
        );
    }
}

#[tokio::test]
async fn a_transmitter_takes_over_its_cap_and_its_token() {
    let key = tempfile::NamedTempFile::new().unwrap();
    fs::write(key.path(), self::key('a')).unwrap();
    let flags = ["--token-key-file", key.path().to_str().unwrap()];
    let station = Station::start(&flags).await;
    let mut events = station.receiver().intake().watch();
    let device = folder();
    let file = device.path().join("station.toml");
    fs::write(&file, "bandwidth = \"1MB/s\"\n").unwrap();
    let to = format!("http://{}", station.grpc());
    let args = [
        "--config",
        "station.toml",
        "--pattern",
        "16x16",
        "--count",
        "2",
        "--delay",
        "1h",
        "--name",
        "cam-1",
        "--to",
        &to,
        "--status-listen",
        "127.0.0.1:0",
        "--retry-initial",
        "10ms",
        "--retry-max",
        "50ms",
        "--progress",
        "never",
    ];
    let mut process = Process::start(TRANSMITTER, device.path(), &args);
    let ready = process.line().await;
    let address: SocketAddr = ready
        .strip_prefix("ready: status ")
        .unwrap()
        .parse()
        .unwrap();
    process.logged("--token-file").await;
    let cap = async || {
        let page = get(address, "/metrics").await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        let name = "pantelegraph_transmitter_bandwidth_cap_bytes_per_second ";
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned)
    };
    assert_eq!(cap().await.as_deref(), Some("1000000"));
    let token = TokenKey::read(key.path()).unwrap();
    let token = token.token("cam-1", "upload", 4_000_000_000).unwrap();
    fs::write(
        device.path().join(".env"),
        format!("TRANSMITTER_TOKEN={token}\n"),
    )
    .unwrap();
    fs::write(&file, "bandwidth = \"2MB/s\"\nidle-timeout = \"1m\"\n").unwrap();
    process.signal(Signal::HUP);
    process
        .logged("in force now: bandwidth = \"2MB/s\", token changed")
        .await;
    process.logged("restart to change idle-timeout").await;
    within("its image", events.recv()).await.unwrap();
    process.signal(Signal::TERM);
    let finished = process.end().await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(!finished.stderr.contains(&token), "{finished:?}");
    station.stop().await;
}

/// What a service manager hears.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = folder();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { folder, socket }
    }

    /// Starts a daemon that is watched over.
    fn start(&self, program: &str, folder: &Path, args: &[&str]) -> Process {
        let path = self.folder.path().join("notify");
        let variables = [
            ("NOTIFY_SOCKET", path.as_os_str()),
            ("WATCHDOG_USEC", OsStr::new("100000")),
        ];
        Process::start_with(program, folder, args, &variables)
    }

    /// Waits until it has heard this; what is not of interest is passed over.
    async fn hears(&self, words: &str) -> String {
        let mut buffer = [0; 1_024];
        loop {
            let length = within(words, self.socket.recv(&mut buffer)).await.unwrap();
            let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if heard.contains(words) {
                return heard;
            }
            let ready = heard.contains("READY=1") || heard.contains("STOPPING=1");
            assert!(!ready, "{heard:?} instead of {words:?}");
        }
    }
}

#[tokio::test]
async fn a_receivers_service_manager_hears_how_it_goes() {
    let (folder, manager) = (folder(), Manager::new());
    fs::write(folder.path().join("station.toml"), "").unwrap();
    let mut process = manager.start(RECEIVER, folder.path(), &PORTS);
    manager.hears("READY=1").await;
    let (grpc, _) = addresses(&process.line().await);
    manager
        .hears("STATUS=0 images stored since the start")
        .await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    let mut session = RawSession::grpc(grpc).await;
    session.hello().await;
    session.deliver(&png(1)).await;
    drop(session);
    process.signal(Signal::HUP);
    let reloading = manager.hears("RELOADING=1").await;
    let since = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(since.unwrap().parse::<u64>().unwrap() > 0);
    manager.hears("READY=1").await;
    process.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    assert_eq!(process.end().await.code(), 0);
}

#[tokio::test]
async fn a_transmitters_service_manager_is_not_its_childrens() {
    let (device, manager) = (folder(), Manager::new());
    let station = Station::start(&[]).await;
    let picture = jpeg(1);
    write_file(&device.path().join("one.jpg"), &picture.bytes);
    let to = format!("http://{}", station.grpc());
    let command = "/bin/sh -c '/usr/bin/env > seen; /bin/cat one.jpg; read forever < pipe'";
    let pipe = device.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    let args = ["--command", command, "--to", &to, "--progress", "never"];
    let mut events = station.receiver().intake().watch();
    let process = manager.start(TRANSMITTER, device.path(), &args);
    manager.hears("READY=1").await;
    manager.hears("STATUS=").await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    within("its image", events.recv()).await.unwrap();
    let seen = fs::read_to_string(device.path().join("seen")).unwrap();
    assert!(
        !seen.contains("NOTIFY_SOCKET") && !seen.contains("WATCHDOG"),
        "{seen}"
    );
    process.signal(Signal::HUP);
    manager.hears("RELOADING=1").await;
    manager.hears("READY=1").await;
    process.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    assert_eq!(process.end().await.code(), 0);
    station.stop().await;
}

#[tokio::test]
async fn nothing_is_said_where_nobody_asks() {
    let folder = folder();
    fs::write(folder.path().join("station.toml"), "").unwrap();
    let mut process = Process::start(RECEIVER, folder.path(), &PORTS);
    process.line().await;
    process.signal(Signal::HUP);
    process.logged(SAME).await;
    process.signal(Signal::TERM);
    let finished = process.end().await;
    assert_eq!(finished.code(), 0);
    assert!(!finished.stderr.contains("service manager"), "{finished:?}");
}
