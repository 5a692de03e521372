//! The promise under attack: whatever clients send, leave unfinished or do not read, the receiver
//! stays within its setting, and a good transmitter gets through. Each kind by itself, so that none
//! hides behind another, with a small setting; then a thousand of all kinds together, with the
//! default.

mod kinds;
mod wire;

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::oneshot;

use self::kinds::Kind;
use super::mebibytes;
use crate::console;
use crate::e2e::photograph::{self, Encoding};
use crate::e2e::stations::{Station, transmitter, written_reports};
use crate::e2e::{Site, check};

/// What the receiver is told to keep to among clients of one kind.
const SMALL: u64 = 128 << 20;

/// What it keeps to among all of them, by default.
const USUAL: u64 = 256 << 20;

/// Clients of all kinds together.
const TOGETHER: usize = 1_000;

/// Images of the good transmitter.
const IMAGES: u64 = 60;

/// Time for the crowd to have come.
const CROWD: Duration = Duration::from_secs(5);

/// Time for the good transmitter's images.
const LIMIT: Duration = Duration::from_secs(240);

/// Time between two tries of a client.
const AGAIN: Duration = Duration::from_millis(200);

/// Runs it. All kinds are measured before it fails, so that all figures are seen.
pub(super) fn run(site: &Site) -> Result<()> {
    let folder = site.folder("good")?;
    let bytes = make_images(&folder)?;
    console::note(
        "kind                           clients   receiver      setting   good: images  seconds",
    );
    let mut wrong = Vec::new();
    for kind in Kind::ALL {
        let crowd = vec![kind; kind.clients()];
        let done = measure(site, &folder, bytes, kind.name(), &crowd, "grpc", SMALL);
        wrong.extend(
            done.err()
                .map(|error| format!("{}: {error:#}", kind.name())),
        );
    }
    let crowd = mixed();
    for transport in ["grpc", "websocket", "rest"] {
        let name = format!("all of them, good over {transport}");
        let done = measure(site, &folder, bytes, &name, &crowd, transport, USUAL);
        wrong.extend(done.err().map(|error| format!("{name}: {error:#}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// All kinds: those that keep the processor busy as many as by themselves, and as many of each of
/// the others as make a thousand.
fn mixed() -> Vec<Kind> {
    let (busy, slow): (Vec<Kind>, Vec<Kind>) =
        Kind::ALL.into_iter().partition(|kind| kind.is_busy());
    let busy = busy.into_iter().flat_map(|kind| vec![kind; kind.clients()]);
    let mut crowd: Vec<Kind> = busy.collect();
    crowd.extend(slow.into_iter().cycle().take(TOGETHER - crowd.len()));
    crowd
}

fn make_images(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for seed in 1..=IMAGES {
        let path = folder.join(format!("{seed:03}.jpg"));
        photograph::write(&path, Encoding::Jpeg(90), 900, 600, seed)?;
        bytes += std::fs::metadata(&path)?.len();
    }
    Ok(bytes)
}

fn measure(
    site: &Site,
    images: &Path,
    bytes: u64,
    name: &str,
    crowd: &[Kind],
    transport: &str,
    setting: u64,
) -> Result<()> {
    let folder = site.folder(&name.replace(|letter: char| !letter.is_alphanumeric(), "-"))?;
    let mut station = Station::start(site, &folder, &["--max-memory", &setting.to_string()])?;
    let crowded = Crowd::gather(crowd, &station)?;
    std::thread::sleep(CROWD);
    let report: PathBuf = folder.join("report.json");
    let args = [
        "--folder".as_ref(),
        images.as_os_str(),
        "--once".as_ref(),
        "--transport".as_ref(),
        transport.as_ref(),
        "--run".as_ref(),
        "good".as_ref(),
        "--report".as_ref(),
        report.as_os_str(),
    ];
    let start = Instant::now();
    let delivered = transmitter(site, &folder, Some(&station), args)?.succeed(LIMIT);
    let seconds = start.elapsed().as_secs_f64();
    let peak = station.peak_memory();
    crowded.leave();
    let said = if delivered.is_ok() { IMAGES } else { 0 };
    console::note(format_args!(
        "{name:<30} {:>7} {:>6.1} MiB {:>6.1} MiB {said:>9} {seconds:>13.1}",
        crowd.len(),
        mebibytes(peak),
        mebibytes(setting),
    ));
    delivered.context("the good transmitter")?;
    let written = written_reports(&report)?;
    let own = written.first().context("the transmitter wrote no report")?;
    let expected = check::Expected {
        images: IMAGES,
        bytes,
    };
    check::report(own, expected).context("the good transmitter's report")?;
    ensure!(
        peak <= setting,
        "{:.1} MiB of {:.1}",
        mebibytes(peak),
        mebibytes(setting)
    );
    station.stop()?;
    Ok(())
}

/// Clients in a thread of their own, until they are told to leave.
struct Crowd {
    leave: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Crowd {
    fn gather(kinds: &[Kind], station: &Station) -> Result<Self> {
        let (leave, left) = oneshot::channel();
        let (grpc, http) = (station.grpc.clone(), station.http.clone());
        let kinds = kinds.to_vec();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("crowd".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let mut clients = tokio::task::JoinSet::new();
                    for kind in kinds {
                        let (grpc, http) = (grpc.clone(), http.clone());
                        clients.spawn(async move {
                            loop {
                                // However it ended, that is no success of it.
                                let _ = kind.once(&grpc, &http).await;
                                tokio::time::sleep(AGAIN).await;
                            }
                        });
                    }
                    // An error means that nobody is left to tell.
                    let _ = left.await;
                });
            })?;
        Ok(Self { leave, thread })
    }

    fn leave(self) {
        // Both fail only when the thread panicked, which its output tells.
        let _ = self.leave.send(());
        let _ = self.thread.join();
    }
}
