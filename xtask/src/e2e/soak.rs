//! Many images through both programs: what one costs at the end, it cost at the start.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::process::Usage;
use super::stations::{Station, transmitter_to};
use super::{Build, site};
use crate::console;

/// Parts into which the images are divided; the first is warm-up.
const PARTS: u64 = 10;
/// Parts that are compared at each end.
const ENDS: usize = 3;
/// What the end may be above the start.
const MORE: f64 = 1.10;
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(100);
/// Time without any progress.
const STUCK: Duration = Duration::from_secs(60);

/// Settings of the soak.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Images
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    images: u64,
    /// Picture: 48x48 is about 2 KB
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "48x48")]
    pattern: String,
    /// Transport
    #[arg(long, value_enum, default_value = "grpc")]
    transport: super::faults::Transport,
    /// How firmly both sides keep images: what they are slowed down by
    #[arg(long, value_parser = ["written", "synced"], default_value = "synced")]
    durability: String,
    /// Take the release programs as they are, instead of building them
    #[arg(long)]
    no_build: bool,
}

/// What one part was like.
struct Part {
    images: u64,
    seconds: f64,
    sides: [Cost; 2],
}

/// What one program took in one part.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cost {
    cpu_us_per_image: f64,
    memory: f64,
    files: u64,
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        options.images >= 10 * PARTS,
        "at least {} images are needed",
        10 * PARTS
    );
    let site = site("soak", Build::Release, options.no_build)?;
    console::title("soak");
    let folder = site.folder("soak")?;
    let parts = measure(&site, &folder, options)?;
    print(&parts);
    let (first, last) = (&parts[1..=ENDS], &parts[parts.len() - ENDS..]);
    let mut above = Vec::new();
    for (side, name) in SIDES.iter().enumerate() {
        let [before, after] = [first, last].map(|parts| at_an_end(parts, side));
        above.extend(compare(name, &before, &after));
    }
    ensure!(above.is_empty(), "{}", above.join("; "));
    super::clear(&site.work)?;
    console::passed("soak: the last images cost no more than the first");
    Ok(())
}

const SIDES: [&str; 2] = ["transmitter", "receiver"];

/// What a program took in the parts at one end: the least time, because whatever else runs only adds
/// to it and by as much as a third, and the most of what stays.
fn at_an_end(parts: &[Part], side: usize) -> Cost {
    let costs = parts.iter().map(|part| part.sides[side]);
    let together = costs.reduce(|one, two| Cost {
        cpu_us_per_image: one.cpu_us_per_image.min(two.cpu_us_per_image),
        memory: one.memory.max(two.memory),
        files: one.files.max(two.files),
    });
    together.unwrap_or(Cost {
        cpu_us_per_image: 0.0,
        memory: 0.0,
        files: 0,
    })
}

/// What is more than a tenth above what it was. Two files more are no leak of one each image.
fn compare(name: &str, before: &Cost, after: &Cost) -> Vec<String> {
    let mut above = Vec::new();
    for (what, before, after) in [
        (
            "CPU time per image",
            before.cpu_us_per_image,
            after.cpu_us_per_image,
        ),
        ("memory", before.memory, after.memory),
        ("open files", before.files as f64 + 2.0, after.files as f64),
    ] {
        if after > before * MORE {
            above.push(format!(
                "{name}: {what} went from {before:.1} to {after:.1}"
            ));
        }
    }
    above
}

fn measure(site: &super::Site, folder: &Path, options: &Options) -> Result<Vec<Part>> {
    let station = Station::start(site, folder, &["--durability", &options.durability])?;
    let count = options.images.to_string();
    let args = [
        "--transport",
        options.transport.name(),
        "--run",
        "soak",
        "--pattern",
        &options.pattern,
        "--count",
        &count,
        "--outbox-durability",
        &options.durability,
        "--outbox-min-free",
        "0",
    ];
    let mut process = transmitter_to(site, folder, &station.destinations(), args)?;
    let bar = ProgressBar::new(options.images).with_style(
        ProgressStyle::with_template("   {bar:40} {pos}/{len} images, {per_sec}, {eta} left")
            .context("the form of the bar")?,
    );
    let mut parts = Vec::new();
    let (mut arrived, mut moved) = (0, Instant::now());
    let mut watch = Watch::begin(0, [process.usage()?, station.usage()?]);
    while parts.len() < PARTS as usize {
        std::thread::sleep(LOOK);
        if process.ended()?.is_some() {
            // It ended after its last image, hence not before the last part.
            break;
        }
        let (now, usage) = (station.received()?, [process.usage()?, station.usage()?]);
        watch.look(&usage);
        bar.set_position(now);
        if now > arrived {
            (arrived, moved) = (now, Instant::now());
        }
        ensure!(moved.elapsed() < STUCK, "stuck after {arrived} images");
        if now * PARTS >= options.images * (parts.len() as u64 + 1) {
            parts.push(watch.end(now, &usage));
            watch = Watch::begin(now, usage);
        }
    }
    bar.finish_and_clear();
    let ended = process.wait(STUCK)?;
    ensure!(
        ended.status.success(),
        "the transmitter ended with {}",
        ended.status
    );
    ensure!(
        parts.len() as u64 + 1 >= PARTS,
        "{} parts were seen only: take more images",
        parts.len()
    );
    let received = station.received()?;
    ensure!(received == options.images, "{received} images arrived");
    station.stop()?;
    Ok(parts)
}

/// One part while it lasts.
struct Watch {
    from: u64,
    start: Instant,
    at_start: [Usage; 2],
    memory: [f64; 2],
    files: [u64; 2],
    looks: f64,
}

impl Watch {
    fn begin(from: u64, usage: [Usage; 2]) -> Self {
        Self {
            from,
            start: Instant::now(),
            at_start: usage,
            memory: [0.0; 2],
            files: [0; 2],
            looks: 0.0,
        }
    }

    fn look(&mut self, usage: &[Usage; 2]) {
        self.looks += 1.0;
        for (side, usage) in usage.iter().enumerate() {
            self.memory[side] += usage.memory as f64;
            self.files[side] = self.files[side].max(usage.files);
        }
    }

    fn end(&self, at: u64, usage: &[Usage; 2]) -> Part {
        let images = at - self.from;
        let cost = |side: usize| {
            let cpu = usage[side].cpu.saturating_sub(self.at_start[side].cpu);
            Cost {
                cpu_us_per_image: cpu.as_secs_f64() * 1e6 / images as f64,
                memory: self.memory[side] / self.looks,
                files: self.files[side],
            }
        };
        Part {
            images,
            seconds: self.start.elapsed().as_secs_f64(),
            sides: [cost(0), cost(1)],
        }
    }
}

fn print(parts: &[Part]) {
    console::note(
        "part  images   per s |  transmitter: us  MiB  files |  receiver: us  MiB  files",
    );
    for (number, part) in (1..).zip(parts) {
        let [own, other] = part.sides;
        let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        console::note(format_args!(
            "{number:>4}  {:>6}  {:>6.0} |  {:>15.0}  {:>4.1}  {:>4} |  {:>12.0}  {:>4.1}  {:>4}",
            part.images,
            part.images as f64 / part.seconds,
            own.cpu_us_per_image,
            mebibytes(own.memory),
            own.files,
            other.cpu_us_per_image,
            mebibytes(other.memory),
            other.files
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        cpu_us_per_image: 100.0,
        memory: 20e6,
        files: 30,
    };

    #[test]
    fn a_tenth_more_is_no_growth_and_more_than_that_is() {
        assert_eq!(compare("x", &COST, &COST), Vec::<String>::new());
        let little = Cost {
            memory: 21.9e6,
            cpu_us_per_image: 109.0,
            files: 34,
        };
        assert_eq!(compare("x", &COST, &little), Vec::<String>::new());
        for (much, what) in [
            (
                Cost {
                    memory: 22.1e6,
                    ..COST
                },
                "memory",
            ),
            (
                Cost {
                    cpu_us_per_image: 111.0,
                    ..COST
                },
                "CPU",
            ),
            (Cost { files: 36, ..COST }, "files"),
        ] {
            assert!(compare("x", &COST, &much)[0].contains(what));
        }
    }
}
