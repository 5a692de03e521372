//! The promise: fifty images of 50 MB keep the transmitter under 32 MiB of resident memory and
//! the receiver under 64 MiB, over each transport, whatever the durability. And a thousand clients
//! that want nothing but its memory do not get more than its setting ([`hostile`]).

mod hostile;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::photograph::{self, Encoding};
use super::stations::{Station, transmitter, written_reports};
use super::{Site, check};
use crate::console;

const IMAGES: u64 = 50;
/// Smallest size that counts as 50 MB.
const IMAGE_BYTES: u64 = 50_000_000;
const MAX_TRANSMITTER: u64 = 32 << 20;
const MAX_RECEIVER: u64 = 64 << 20;
/// Time for the 2.5 GB of one transport, on a slow medium.
const LIMIT: Duration = Duration::from_secs(600);

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Images of 50 MB
    Large,
    /// Clients that waste memory
    Hostile,
}

/// Runs the suite, or a part of it.
pub(crate) fn run(site: &Site, part: Option<Part>) -> Result<()> {
    if part != Some(Part::Hostile) {
        large(site)?;
    }
    if part != Some(Part::Large) {
        hostile::run(site)?;
    }
    Ok(())
}

/// All transports are measured before it fails, so that all figures are seen.
fn large(site: &Site) -> Result<()> {
    let folder = site.folder("images")?;
    let bytes = make_images(&folder)?;
    console::note("transport  durability  transmitter  receiver   seconds   MB/s");
    let mut above = Vec::new();
    for durability in ["synced", "memory"] {
        for transport in ["grpc", "websocket", "rest"] {
            let peaks = measure(site, &folder, bytes, transport, durability)
                .with_context(|| format!("{transport}, durability {durability}"))?;
            for (station, peak, limit) in [
                ("transmitter", peaks.transmitter, MAX_TRANSMITTER),
                ("receiver", peaks.receiver, MAX_RECEIVER),
            ] {
                if peak >= limit {
                    let (peak, limit) = (mebibytes(peak), mebibytes(limit));
                    above.push(format!(
                        "{station} at {peak:.1} MiB of {limit} over {transport}, {durability}"
                    ));
                }
            }
        }
    }
    ensure!(above.is_empty(), "above the limit: {}", above.join("; "));
    Ok(())
}

/// Fifty files in `folder`: five pictures of different formats, ten times each as hard links,
/// which are as good for memory as fifty different ones. Their size in all.
fn make_images(folder: &Path) -> Result<u64> {
    console::begin("drawing images of 50 MB");
    // Without compression the size follows from the pixels; JPEG and PNG lie above it.
    let pictures = [
        ("a.bmp", Encoding::Bmp, 4_100, 4_100),
        ("b.tiff", Encoding::Tiff, 4_100, 4_100),
        ("c.png", Encoding::Png, 6_000, 5_000),
        ("d.jpg", Encoding::Jpeg(100), 7_000, 6_000),
        ("e.webp", Encoding::WebP, 6_000, 5_000),
    ];
    let mut total = 0;
    for (seed, (name, encoding, width, height)) in (1..).zip(pictures) {
        let first = folder.join(format!("00-{name}"));
        photograph::write(&first, encoding, width, height, seed)?;
        let size = fs::metadata(&first)?.len();
        ensure!(
            size >= IMAGE_BYTES,
            "{name} has {size} bytes only: draw more pixels"
        );
        let copies = IMAGES / pictures.len() as u64;
        for copy in 1..copies {
            let link = folder.join(format!("{copy:02}-{name}"));
            fs::hard_link(&first, &link).with_context(|| format!("linking {}", link.display()))?;
        }
        total += size * copies;
    }
    let files = check::files_below(folder)?.len() as u64;
    ensure!(files == IMAGES, "{files} images were made, not {IMAGES}");
    Ok(total)
}

struct Peaks {
    transmitter: u64,
    receiver: u64,
}

fn measure(
    site: &Site,
    images: &Path,
    bytes: u64,
    transport: &str,
    durability: &str,
) -> Result<Peaks> {
    let folder = site.folder(&format!("{transport}-{durability}"))?;
    let mut station = Station::start(site, &folder, &["--durability", durability])?;
    let report: PathBuf = folder.join("report.json");
    let args = [
        "--folder".as_ref(),
        images.as_os_str(),
        "--once".as_ref(),
        "--transport".as_ref(),
        transport.as_ref(),
        "--run".as_ref(),
        "memory".as_ref(),
        "--report".as_ref(),
        report.as_os_str(),
    ];
    let start = Instant::now();
    let ended = transmitter(site, &folder, Some(&station), args)?.succeed(LIMIT)?;
    let seconds = start.elapsed().as_secs_f64();
    let expected = check::Expected {
        images: IMAGES,
        bytes,
    };
    let written = written_reports(&report)?;
    let own = written.first().context("the transmitter wrote no report")?;
    check::report(own, expected).context("the transmitter's report")?;
    let received = station.json("/v1/report?run=memory")?;
    check::report(&received, expected).context("the receiver's report")?;
    // What the transmitter says of itself covers the moments after the last look at it.
    let said = own["usage"]["transmitter"]["peak_memory_bytes"].as_u64();
    let peaks = Peaks {
        transmitter: ended
            .peak_memory
            .max(said.context("no peak memory in the report")?),
        receiver: station.peak_memory(),
    };
    ensure!(
        peaks.receiver > 0,
        "the receiver's memory cannot be read from /proc"
    );
    console::note(format_args!(
        "{transport:<9}  {durability:<10}  {:>7.1} MiB  {:>7.1} MiB  {seconds:>7.1}  {:>6.0}",
        mebibytes(peaks.transmitter),
        mebibytes(peaks.receiver),
        bytes as f64 / 1e6 / seconds,
    ));
    station.stop()?;
    // Each transport fills several gigabytes.
    fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    Ok(peaks)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
