//! Two thousand connections that say next to nothing, and some that reset what they have just asked: an
//! honest transmitter does not notice.
//!
//! Quiet times and times with the crowd take turns. Each time with the crowd is compared with the slower of the quiet
//! ones before and after it, and the median of these ratios counts: a machine that stands still for a moment (others
//! run on it, too) is no work of the crowd, and hits one of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Keys, Receiver};
use crate::console;
use crate::e2e::{Site, stations, tools};

/// Connections that say next to nothing, and those that reset.
const SLOW: usize = 2_000;
const RESETTING: usize = 8;
/// Times with the crowd; there is a quiet one before each and after the last.
const ROUNDS: usize = 5;
/// Images of an honest transmitter each time, and how many of them come each second.
const IMAGES: usize = 160;
const RATE: usize = 40;
/// Time for those.
const LIMIT: Duration = Duration::from_secs(90);
/// Fewest that stand about at a time, and resets in all: otherwise it was no crowd.
const LEAST_OPEN: u64 = SLOW as u64 / 2;
const LEAST_RESETS: u64 = 1_000;
/// Time after which whoever was put out comes again.
const AGAIN: Duration = Duration::from_secs(1);
/// Most that the slowest hundredth may take, as a multiple of the quiet value.
const MOST: f64 = 2.0;

pub(super) fn run(site: &Site, keys: &Keys) -> Result<()> {
    more_files()?;
    let (asks, shows) = (keys.receiver()?, keys.transmitter("e2e")?);
    // In the clear the resets get as far as HTTP/2.
    let token = site.folder("crowd-token")?.join("token");
    std::fs::write(
        &token,
        keys.call(&["token", "--subject", "e2e", "--scope", "upload"])?,
    )?;
    let asks_token = ["--token-key-file".to_owned(), keys.file("token.pub")?];
    let shows_token = ["--token-file".to_owned(), tools::text(&token)?.to_owned()];
    for (name, asks, shows, transport) in [
        ("grpc over TLS", &asks[..], &shows[..], "grpc"),
        ("rest over TLS", &asks[..], &shows[..], "rest"),
        (
            "grpc with a token, in the clear",
            &asks_token,
            &shows_token,
            "grpc",
        ),
    ] {
        let case = Case {
            site,
            name,
            asks,
            shows,
            transport,
        };
        case.run().with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// One way to deliver.
struct Case<'a> {
    site: &'a Site,
    name: &'a str,
    /// Flags of a receiver that asks who comes, and of the transmitter that says so.
    asks: &'a [String],
    shows: &'a [String],
    transport: &'a str,
}

impl Case<'_> {
    fn run(&self) -> Result<()> {
        let folder = self.site.folder(&format!("crowd-{}", self.label()))?;
        let mut flags = self.asks.to_vec();
        // The disk of this machine is not what is looked at.
        flags.extend(["--durability", "written"].map(str::to_owned));
        let receiver = Receiver::start(self.site, &folder, &flags)?;
        let mut quiet = vec![self.deliver(&receiver, "quiet-0")?];
        let mut besieged = Vec::new();
        let (mut open, mut resets) = (u64::MAX, 0);
        for round in 1..=ROUNDS {
            let crowd = Crowd::gather(&[&receiver.grpc, &receiver.http])?;
            besieged.push(self.deliver(&receiver, &format!("besieged-{round}"))?);
            let was = crowd.leave()?;
            (open, resets) = (open.min(was.0), resets + was.1);
            quiet.push(self.deliver(&receiver, &format!("quiet-{round}"))?);
        }
        let ratio = median(&ratios(&besieged, &quiet));
        console::passed(format_args!(
            "{}: at least {open} slow connections at a time, {resets} resets; p99 of {ROUNDS} rounds {}, quiet {}: \
             {ratio:.2} times",
            self.name,
            Times(&besieged),
            Times(&quiet),
        ));
        ensure!(
            open >= LEAST_OPEN && resets >= LEAST_RESETS,
            "{open} slow connections at a time and {resets} resets are no crowd"
        );
        ensure!(
            ratio <= MOST,
            "p99 of delivery is {ratio:.2} times the quiet value"
        );
        receiver.stop()
    }

    fn label(&self) -> String {
        self.name.replace([' ', ','], "-")
    }

    /// Time of delivery that one image in a hundred exceeds, in milliseconds.
    fn deliver(&self, receiver: &Receiver, label: &str) -> Result<f64> {
        let folder = self
            .site
            .folder(&format!("crowd-{}-{label}", self.label()))?;
        let report = folder.join("report.json");
        let mut flags = self.shows.to_vec();
        let destinations = if self.asks.iter().any(|flag| flag == "--tls-cert") {
            receiver.destinations()
        } else {
            format!("grpc=http://{}", receiver.grpc)
        };
        let (count, rate) = (IMAGES.to_string(), format!("{RATE}/s"));
        flags.extend(
            [
                "--pattern",
                "640x480",
                "--count",
                &count,
                "--rate",
                &rate,
                "--transport",
                self.transport,
                // The disk of this machine is not what is looked at here either.
                "--outbox",
                "memory",
                "--to",
                &destinations,
                "--report",
            ]
            .map(str::to_owned),
        );
        flags.push(report.display().to_string());
        stations::transmitter(self.site, &folder, None, flags)?.succeed(LIMIT)?;
        let reports = stations::written_reports(&report)?;
        let p99 = reports
            .first()
            .and_then(|report| report["delivery"]["p99"].as_f64());
        Ok(p99.context("the report has no p99 of delivery")? / 1e6)
    }
}

/// Each time with the crowd as a multiple of the slower quiet one beside it.
fn ratios(besieged: &[f64], quiet: &[f64]) -> Vec<f64> {
    let beside = quiet.windows(2).map(|pair| pair[0].max(pair[1]));
    let pairs = besieged.iter().zip(beside);
    pairs.map(|(besieged, quiet)| besieged / quiet).collect()
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds in a line: the median, the least and the most.
struct Times<'a>(&'a [f64]);

impl std::fmt::Display for Times<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(0.0, f64::max);
        write!(f, "{:.1} ms ({least:.1} to {most:.1})", median(self.0))
    }
}

/// Allows this process, and those that it starts, as many open files as the system does.
fn more_files() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")?;
    if limit.current.is_some_and(|most| most < 3 * SLOW as u64) {
        bail!(
            "this user may open {:?} files; raise `ulimit -Hn`",
            limit.current
        );
    }
    Ok(())
}

/// Those who are in the way, on a thread of their own.
struct Crowd {
    stop: Arc<AtomicBool>,
    open: Arc<AtomicU64>,
    resets: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Result<u64>>,
}

impl Crowd {
    fn gather(addresses: &[&str]) -> Result<Self> {
        let addresses = addresses
            .iter()
            .map(|address| address.parse::<SocketAddr>().context("an address"))
            .collect::<Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (open, resets) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, open, resets) = (stop.clone(), open.clone(), resets.clone());
            std::thread::spawn(move || crowd(&addresses, &stop, &open, &resets))
        };
        let crowd = Self {
            stop,
            open,
            resets,
            thread,
        };
        // As many as the receiver lets stand about.
        for _ in 0..200 {
            if crowd.open.load(Ordering::Relaxed) > 400 {
                return Ok(crowd);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        crowd.leave()?;
        bail!("the crowd does not come together")
    }

    /// Goes away; how many were there at a time, and how many requests were reset.
    fn leave(self) -> Result<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let most = self
            .thread
            .join()
            .map_err(|_| anyhow::anyhow!("the crowd failed"))??;
        Ok((most, self.resets.load(Ordering::Relaxed)))
    }
}

fn crowd(
    addresses: &[SocketAddr],
    stop: &Arc<AtomicBool>,
    open: &Arc<AtomicU64>,
    resets: &Arc<AtomicU64>,
) -> Result<u64> {
    // These come from other machines. Here they take only what the pair leaves of the processors; what they make the
    // receiver do counts in full.
    rustix::process::nice(19).context("giving way to the pair")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for (number, address) in (0..SLOW).zip(addresses.iter().cycle()) {
            let (address, open) = (*address, open.clone());
            tokio::spawn(async move {
                // Not all in the same moment.
                tokio::time::sleep(AGAIN * (number as u32 % 100) / 100).await;
                loop {
                    let _ = slow(address, number, &open).await;
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        for address in addresses.iter().cycle().take(RESETTING) {
            let (address, resets) = (*address, resets.clone());
            tokio::spawn(async move {
                loop {
                    let _ = reset(address, &resets).await;
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        let mut most = 0;
        while !stop.load(Ordering::Relaxed) {
            most = most.max(open.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(most)
    })
}

/// Begins something, a byte each second, and never ends it.
async fn slow(address: SocketAddr, number: usize, open: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    open.fetch_add(1, Ordering::Relaxed);
    // A handshake of TLS, a head of HTTP, or nothing.
    let words: &[u8] = match number % 3 {
        0 => &[
            0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
        ],
        1 => b"GET /v1/images HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        _ => b"",
    };
    let said = say(&mut stream, words).await;
    open.fetch_sub(1, Ordering::Relaxed);
    said
}

async fn say(stream: &mut TcpStream, words: &[u8]) -> std::io::Result<()> {
    if words.is_empty() {
        return stream.read(&mut [0]).await.map(|_| ());
    }
    for byte in words.iter().chain(std::iter::repeat(&b'a')) {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Asks and takes it back, as fast as it can (CVE-2023-44487).
async fn reset(address: SocketAddr, resets: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await?;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    // :method GET, :scheme http, :path / of the static table, :authority x.
    let block = [0x82, 0x86, 0x84, 0x41, 0x01, b'x'];
    for stream_id in (1_u32..).step_by(2).take(100_000) {
        let id = stream_id.to_be_bytes();
        let mut frames = vec![0, 0, block.len() as u8, 1, 5];
        frames.extend(id);
        frames.extend(block);
        frames.extend([0, 0, 4, 3, 0]);
        frames.extend(id);
        frames.extend([0, 0, 0, 8]);
        stream.write_all(&frames).await?;
        resets.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slower_each_time_is_found_and_what_is_noise_is_not() {
        let ratio = |besieged: &[f64], quiet: &[f64]| median(&ratios(besieged, quiet));
        let quiet = [9.0, 8.5, 10.0, 9.2, 8.8, 9.4];
        assert!(ratio(&[23.0, 22.0, 25.0, 24.0, 23.5], &quiet) > MOST);
        assert!(ratio(&[18.0, 17.0, 19.0, 18.5, 17.5], &quiet) <= MOST);
        // The machine stood still twice.
        assert!(ratio(&[9.0, 870.0, 11.0, 400.0, 9.5], &quiet) <= MOST);
        assert!(ratio(&[9.0, 870.0, 300.0, 400.0, 9.5], &quiet) > MOST);
    }
}
