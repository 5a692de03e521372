//! A million small images while no receiver is there: memory stays flat, the program is back within
//! two seconds after it was killed, and what it owes is delivered in order, with memory flat on both
//! sides.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::Site;
use super::process::{Process, Usage};
use super::stations::{STOP, Station, transmitter_to};
use crate::console;

/// What memory of a transmitter that queues may be above that after [`FILLED`] images.
const MORE: f64 = 1.05;
/// The same for two programs that work: what allocators keep for their threads comes and goes.
const MORE_AT_WORK: f64 = 1.15;
/// Images after which caches, which have a bound, are full. Runs of fewer than twice as many have the
/// ceiling alone.
const FILLED: u64 = 100_000;
/// What memory never exceeds, MiB.
const CEILING: f64 = 32.0;
const CEILING_AT_WORK: f64 = 48.0;
/// Longest time from the start to the first image on its way.
const BACK: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// Time without any progress.
const STUCK: Duration = Duration::from_secs(60);

/// Settings of this suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Images
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    images: u64,
    /// Deliver so many of them, and the rest only if it is fewer
    #[arg(long, value_name = "N", default_value_t = u64::MAX)]
    deliver: u64,
    /// How firmly the outbox keeps them
    #[arg(long, value_parser = ["written", "synced"], default_value = "written")]
    durability: String,
}

/// Memory of a program, MiB.
struct Memory {
    /// After so many images its caches are full.
    filled_at: u64,
    /// The most before that, in the half before that, and from then on.
    parts: [f64; 3],
}

impl Memory {
    fn new(images: u64) -> Self {
        Self {
            filled_at: FILLED.min(images / 2),
            parts: [0.0; 3],
        }
    }

    fn note(&mut self, images: u64, usage: Usage) {
        let memory = usage.memory as f64 / f64::from(1 << 20);
        // What opening takes and gives back is not what later growth is to be compared with.
        let part = match images {
            _ if images >= self.filled_at => 2,
            _ if images >= self.filled_at / 2 => 1,
            _ => 0,
        };
        self.parts[part] = self.parts[part].max(memory);
    }

    fn check(&self, what: &str, ceiling: f64, more: f64) -> Result<()> {
        let [first, filled, after] = self.parts;
        let (most, at) = (first.max(filled).max(after), self.filled_at);
        ensure!(after > 0.0, "memory of the {what} was never seen");
        ensure!(
            most <= ceiling,
            "memory of the {what} was at {most:.1} MiB, more than {ceiling:.0}"
        );
        ensure!(
            at < FILLED || after <= filled * more,
            "memory of the {what} grows: {filled:.1} MiB at most from {} to {at} images, \
             {after:.1} MiB from then on",
            at / 2
        );
        console::passed(format_args!(
            "memory of the {what}: {filled:.1} MiB at most before {at} images, {after:.1} MiB from \
             then on"
        ));
        Ok(())
    }
}

/// Runs the suite.
pub(crate) fn run(site: &Site, options: &Options) -> Result<()> {
    ensure!(options.images >= 1_000, "at least 1000 images are needed");
    let folder = site.folder("backlog")?;
    fill(site, &folder, options)?.check("transmitter that queues", CEILING, MORE)?;
    deliver(site, &folder, options)
}

/// A bar that counts to `images`.
fn bar(images: u64) -> Result<ProgressBar> {
    let form =
        ProgressStyle::with_template("   {bar:40} {pos}/{len} images, {per_sec}, {eta} left");
    Ok(ProgressBar::new(images).with_style(form.context("the form of the bar")?))
}

/// Queues all images.
fn fill(site: &Site, folder: &Path, options: &Options) -> Result<Memory> {
    let nobody = "grpc=http://127.0.0.1:9";
    let count = options.images.to_string();
    let args = [
        "--transport",
        "grpc",
        "--run",
        "backlog",
        "--pattern",
        "8x8",
        "--count",
        &count,
        "--outbox-limit",
        "64GiB",
        "--outbox-min-free",
        "0",
        "--outbox-durability",
        &options.durability,
        "--grace",
        "1s",
    ];
    let mut process = transmitter_to(site, folder, nobody, args)?;
    let bar = bar(options.images)?;
    let (mut owed, mut moved) = (0, Instant::now());
    let mut memory = Memory::new(options.images);
    while owed < options.images {
        std::thread::sleep(LOOK);
        if let Some(status) = process.ended()? {
            bail!("the transmitter ended with {status}: {}", process.log());
        }
        let now = queued(&folder.join("outbox"), owed)?;
        memory.note(now, process.usage()?);
        if now > owed {
            (owed, moved) = (now, Instant::now());
        }
        ensure!(moved.elapsed() < STUCK, "stuck after {owed} images");
        bar.set_position(owed);
    }
    bar.finish_and_clear();
    // Without a word: back within the time also when nothing was put in order.
    process.kill()?;
    Ok(memory)
}

/// Sequence numbers that have a file, of which `known` are: files come in the order of numbers,
/// in folders of 1024.
fn queued(outbox: &Path, known: u64) -> Result<u64> {
    let mut number = known;
    loop {
        let folder = outbox.join(format!("images/{:03x}", (number + 1) / 1024 % 1024));
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return Ok(number);
        };
        let mut highest = number;
        for entry in entries {
            let name = entry?.file_name();
            let digits = name.to_string_lossy().get(..20).map(str::to_owned);
            if let Some(sequence) = digits.and_then(|digits| digits.parse::<u64>().ok()) {
                highest = highest.max(sequence);
            }
        }
        if highest == number {
            return Ok(number);
        }
        number = highest;
    }
}

fn deliver(site: &Site, folder: &Path, options: &Options) -> Result<()> {
    let station = Station::start(site, folder, &["--durability", &options.durability])?;
    let nothing = site.folder("nothing")?;
    let start = Instant::now();
    let args = [
        "--transport".as_ref(),
        "grpc".as_ref(),
        "--run".as_ref(),
        "backlog".as_ref(),
        "--connections".as_ref(),
        "1".as_ref(),
        "--outbox-limit".as_ref(),
        "64GiB".as_ref(),
        "--outbox-min-free".as_ref(),
        "0".as_ref(),
        "--outbox-durability".as_ref(),
        options.durability.as_ref(),
        "--grace".as_ref(),
        "1s".as_ref(),
        "--once".as_ref(),
        "--folder".as_ref(),
        nothing.as_os_str(),
    ];
    let mut process = transmitter_to(site, folder, &station.destinations(), args)?;
    wait_for(&station, &mut process, 1)?;
    let back = start.elapsed();
    console::passed(format_args!(
        "back after {back:.2?}: the first image is stored"
    ));
    ensure!(
        back <= BACK,
        "it took {back:?} to be back, more than {BACK:?}"
    );
    let wanted = options.deliver.min(options.images);
    let bar = bar(wanted)?;
    let (mut arrived, mut moved) = (0, Instant::now());
    let [mut transmitter, mut receiver] = [(); 2].map(|()| Memory::new(wanted));
    while arrived < wanted {
        std::thread::sleep(LOOK);
        let now = station.received()?;
        // It ends by itself when nothing is owed any more.
        if let Ok(usage) = process.usage() {
            transmitter.note(now, usage);
        }
        receiver.note(now, station.usage()?);
        if now > arrived {
            (arrived, moved) = (now, Instant::now());
        }
        bar.set_position(arrived);
        ensure!(moved.elapsed() < STUCK, "stuck after {arrived} images");
    }
    bar.finish_and_clear();
    let rate = arrived as f64 / start.elapsed().as_secs_f64();
    process.stop(STOP)?;
    let data = station.data.clone();
    station.stop()?;
    in_order(&data, wanted)?;
    console::passed(format_args!(
        "{arrived} images in order, {rate:.0} a second"
    ));
    for (what, memory) in [
        ("transmitter that delivers", transmitter),
        ("receiver", receiver),
    ] {
        memory.check(what, CEILING_AT_WORK, MORE_AT_WORK)?;
    }
    Ok(())
}

fn wait_for(station: &Station, process: &mut Process, images: u64) -> Result<()> {
    let start = Instant::now();
    while station.received()? < images {
        ensure!(start.elapsed() < STUCK, "no image came within {STUCK:?}");
        if let Some(status) = process.ended()? {
            ensure!(status.success(), "the transmitter ended with {status}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Checks that bytes came in the order of capture, from the first number on without a gap.
fn in_order(data: &Path, at_least: u64) -> Result<()> {
    let catalogue = rusqlite::Connection::open(data.join("catalog.sqlite"))?;
    let mut statement =
        catalogue.prepare("SELECT sequence, first_byte FROM images ORDER BY sequence")?;
    let mut rows = statement.query([])?;
    let (mut number, mut latest) = (0_i64, i64::MIN);
    while let Some(row) = rows.next()? {
        let (sequence, first_byte): (i64, i64) = (row.get(0)?, row.get(1)?);
        // The last ones may have overtaken each other when everything was stopped.
        if number as u64 >= at_least {
            break;
        }
        number += 1;
        ensure!(
            sequence == number,
            "number {number} is missing, {sequence} came"
        );
        ensure!(
            first_byte >= latest,
            "image {sequence} came {} ms before the one that was captured before it",
            (latest - first_byte) / 1_000_000
        );
        latest = first_byte;
    }
    ensure!(number as u64 >= at_least, "{number} images are catalogued");
    Ok(())
}
