//! A disk that fills up on either side: the program says so in its log, its figures and its health,
//! shows nothing that is incomplete, and goes on by itself when there is space again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::faults::images::{Maker, Shape};
use super::faults::medium::{Kind, Medium};
use super::stations::{Answer, Station, get, transmitter_to};
use super::{Site, check};
use crate::console;

/// Size of the small disk.
const DISK: u64 = 64 << 20;
/// Time for anything to be noticed or to go on.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
const IMAGE: usize = 400_000;

/// Runs the suite.
pub(crate) fn run(site: &Site) -> Result<()> {
    for transport in ["grpc", "websocket", "rest"] {
        receiver(site, transport).with_context(|| format!("the receiver's disk, {transport}"))?;
        console::passed(format_args!(
            "the receiver's disk is full, {transport}: log, figures and health say so; then it \
             goes on"
        ));
    }
    transmitter(site).context("the transmitter's disk")?;
    console::passed(
        "the transmitter's disk is full: log, figures and health say so; then it goes on",
    );
    Ok(())
}

/// A folder of images that are all different.
struct Images {
    folder: PathBuf,
    maker: Maker,
    random: fastrand::Rng,
    all: BTreeMap<String, PathBuf>,
}

impl Images {
    fn new(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            maker: Maker::new()?,
            random: fastrand::Rng::with_seed(1),
            all: BTreeMap::new(),
        })
    }

    /// One more, visible when it is complete.
    fn add(&mut self) -> Result<()> {
        let bytes = self.maker.make(Shape::Bmp, IMAGE, &mut self.random);
        let name = format!("{:02}.bmp", self.all.len());
        let (draft, path) = (self.folder.with_extension("draft"), self.folder.join(&name));
        std::fs::write(&draft, bytes)?;
        std::fs::rename(&draft, &path)?;
        self.all.insert(name, path);
        Ok(())
    }
}

/// Waits until `holds`; `what` is said when it never does.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !holds()? {
        if start.elapsed() > LIMIT {
            bail!("{what}: not within {LIMIT:?}");
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether an answer of `/readyz` says that there is no space.
fn is_full(answer: &Answer) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    answer.status == 503 && says_full(&text)
}

/// Whether a log or an answer names what is wrong.
fn says_full(text: &str) -> bool {
    ["disk is full", "no space", "No space"]
        .iter()
        .any(|words| text.contains(words))
}

/// The value of a figure, all its labels together, of those lines that have `label`; nothing when
/// there is none.
fn figure(metrics: &[u8], name: &str, label: &str) -> Option<f64> {
    let text = String::from_utf8_lossy(metrics);
    let values: Vec<f64> = text
        .lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        })
        .filter(|line| line.contains(label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn settings<'a>(transport: &'a str, images: &'a Path) -> Result<Vec<&'a str>> {
    let folder = images
        .to_str()
        .context("the working folder has a name in UTF-8")?;
    Ok(vec![
        "--transport",
        transport,
        "--run",
        "full",
        "--retry-initial",
        "20ms",
        "--retry-max",
        "200ms",
        "--rescan",
        "300ms",
        "--outbox-min-free",
        "0",
        "--folder",
        folder,
    ])
}

fn receiver(site: &Site, transport: &str) -> Result<()> {
    let folder = site.folder(&format!("receiver-{transport}"))?;
    let disk = Medium::mount(Kind::Tmpfs, &folder.join("data"), DISK)?;
    let mut images = Images::new(folder.join("images"))?;
    images.add()?;
    let station = Station::start(site, &folder, &["--min-free", "0"])?;
    let args = settings(transport, &images.folder)?;
    let process = transmitter_to(site, &folder, &station.destinations(), &args)?;
    let stored = |count: usize| -> Result<bool> { Ok(station.images("full")?.len() == count) };
    until("the first image", || stored(1))?;
    disk.fill(0)?;
    images.add()?;
    until("/readyz says that there is no space", || {
        Ok(is_full(&station.get("/readyz")?))
    })?;
    until("the figures say so and count what was refused", || {
        let metrics = station.body("/metrics")?;
        let is_full = figure(&metrics, "pantelegraph_store_full", "") == Some(1.0);
        Ok(is_full && figure(&metrics, "pantelegraph_rejects_total", "unavailable") > Some(0.0))
    })?;
    until("the log says that there is no space", || {
        Ok(says_full(&station.log()))
    })?;
    let visible = check::files_below(&station.data.join("images"))?.len();
    ensure!(
        visible == 1,
        "{visible} files are visible, and one image is stored"
    );
    disk.release()?;
    until("the second image", || stored(2))?;
    until("/readyz is well again", || {
        Ok(station.get("/readyz")?.status == 200)
    })?;
    process.terminate(super::stations::STOP)?;
    check::stored(&station, "full", &images.all)?;
    station.stop()?;
    Ok(())
}

fn transmitter(site: &Site) -> Result<()> {
    let folder = site.folder("transmitter")?;
    let disk = Medium::mount(Kind::Tmpfs, &folder.join("outbox"), DISK)?;
    let mut images = Images::new(folder.join("images"))?;
    images.add()?;
    let station = Station::start(site, &folder, &["--min-free", "0"])?;
    let mut args = settings("grpc", &images.folder)?;
    args.extend(["--outbox-files", "copy", "--status-listen", "127.0.0.1:0"]);
    let mut process = transmitter_to(site, &folder, &station.destinations(), &args)?;
    let status = process.ready()?;
    let status = status
        .strip_prefix("status ")
        .with_context(|| format!("the transmitter says {status:?}, which names no status"))?
        .to_owned();
    let stored = |count: usize| -> Result<bool> { Ok(station.images("full")?.len() == count) };
    until("the first image", || stored(1))?;
    until("/readyz is well", || {
        Ok(get(&status, "/readyz")?.status == 200)
    })?;
    disk.fill(0)?;
    images.add()?;
    until("/readyz says that there is no space", || {
        Ok(is_full(&get(&status, "/readyz")?))
    })?;
    until("the figures say that the outbox is not well", || {
        let metrics = get(&status, "/metrics")?.body;
        Ok(figure(&metrics, "pantelegraph_transmitter_healthy", "\"outbox\"") == Some(0.0))
    })?;
    until("the log says that there is no space", || {
        Ok(says_full(&process.log()))
    })?;
    ensure!(stored(1)?, "an image came that had no place");
    // The first image may still be there: that it has left cannot be written either.
    for file in check::files_below(&disk.place().join("images"))? {
        let bytes = std::fs::read(&file)?;
        let is_whole = images
            .all
            .values()
            .any(|image| std::fs::read(image).is_ok_and(|expected| expected == bytes));
        ensure!(is_whole, "{} is visible and incomplete", file.display());
    }
    disk.release()?;
    until("the second image", || stored(2))?;
    until("/readyz is well again", || {
        Ok(get(&status, "/readyz")?.status == 200)
    })?;
    process.terminate(super::stations::STOP)?;
    check::stored(&station, "full", &images.all)?;
    station.stop()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_sum_of_its_lines() {
        let text =
            b"# HELP a_total What.\na_total{b=\"x\"} 2\na_total{b=\"y\"} 3\na_total_more 9\n";
        assert_eq!(figure(text, "a_total", ""), Some(5.0));
        assert_eq!(figure(text, "a_total", "\"y\""), Some(3.0));
        assert_eq!(figure(text, "c_total", ""), None);
    }
}
