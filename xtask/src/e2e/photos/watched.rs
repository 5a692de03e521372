//! A folder that is watched while it is being filled.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::LIMIT;
use crate::console;
use crate::e2e::stations::{STOP, Station, transmitter, written_reports};
use crate::e2e::{Site, check, photograph};

const RUN: &str = "watched";
/// Pause of the slow writers. Their files take longer than the second after which a file that
/// rests counts as finished, and never rest that long.
const PAUSE: Duration = Duration::from_millis(200);
const PIECES: usize = 12;
/// Time between two looks at the receiver.
const LOOK: Duration = Duration::from_millis(50);

/// Fills a folder in all the ways that programs have, while it is watched; then SIGTERM.
pub(super) fn run(site: &Site, transport: &str) -> Result<()> {
    let folder = site.folder(&format!("watched-{transport}"))?;
    let (inbox, aside) = (folder.join("inbox"), folder.join("aside"));
    for made in [&inbox, &aside] {
        fs::create_dir(made).with_context(|| format!("making {}", made.display()))?;
    }
    let station = Station::start(site, &folder, &[])?;
    let report = folder.join("report.json");
    let mut sent = BTreeMap::new();
    let mut expect = |name: &str| -> Result<(PathBuf, Vec<u8>)> {
        let bytes = photograph::jpeg(1_280, 960, sent.len() as u64 + 100)?;
        let path = inbox.join(name);
        sent.insert(name.to_owned(), path.clone());
        Ok((path, bytes))
    };
    let (path, bytes) = expect("there before.jpg")?;
    fs::write(&path, bytes)?;
    // Under way when the watch begins: only a scan can find it, and it must wait for its end.
    let (path, bytes) = expect("slow from before.jpg")?;
    let begun = SlowWriter::begin(&path, bytes)?;
    let args = [
        "--recursive",
        "--run",
        RUN,
        "--transport",
        transport,
        "--rescan",
        "1s",
    ];
    let mut args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
    args.extend(["--folder".as_ref(), inbox.as_os_str()]);
    args.extend(["--report".as_ref(), report.as_os_str()]);
    let sender = transmitter(site, &folder, Some(&station), args)?;
    let first = thread::spawn(move || begun.finish());
    wait_for(&station, 1)?;

    let (path, bytes) = expect("slow.jpg")?;
    let second = SlowWriter::begin(&path, bytes)?;
    let second = thread::spawn(move || second.finish());
    let (path, bytes) = expect("renamed into.jpg")?;
    rename_in(&aside.join("x.jpg"), &path, &bytes)?;
    let (path, bytes) = expect("renamed within.jpg")?;
    rename_in(&inbox.join("upload.jpg.part"), &path, &bytes)?;
    let (path, bytes) = expect("new folder/deep/in it.jpg")?;
    fs::create_dir_all(path.parent().context("it lies in a folder")?)?;
    fs::write(&path, bytes)?;
    for writer in [first, second] {
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("a writer panicked"))??;
    }
    wait_for(&station, sent.len())?;

    sender.terminate(STOP)?;
    check::stored(&station, RUN, &sent)?;
    check::nothing_else(&station, sent.len())?;
    let expected = check::Expected::of(&sent)?;
    for own in written_reports(&report)? {
        check::report(&own, expected).context("the transmitter's report")?;
    }
    let received = station.json(&format!("/v1/report?run={RUN}"))?;
    check::report(&received, expected).context("the receiver's report")?;
    station.stop()?;
    console::passed(format_args!(
        "{transport}: a folder that is written into while it is watched; SIGTERM ends with 0"
    ));
    Ok(())
}

/// A program that writes a file piece by piece.
struct SlowWriter {
    file: File,
    rest: Vec<u8>,
}

impl SlowWriter {
    /// Writes the first piece.
    fn begin(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(&bytes[..bytes.len() / PIECES])?;
        let rest = bytes[bytes.len() / PIECES..].to_vec();
        Ok(Self { file, rest })
    }

    /// Writes the other pieces and closes the file.
    fn finish(mut self) -> Result<()> {
        for piece in self.rest.chunks(self.rest.len().div_ceil(PIECES - 1)) {
            thread::sleep(PAUSE);
            self.file.write_all(piece)?;
        }
        Ok(())
    }
}

fn rename_in(from: &Path, to: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(from, bytes)?;
    fs::rename(from, to).with_context(|| format!("renaming to {}", to.display()))
}

/// Waits until the receiver has that many images of the run, or more.
fn wait_for(station: &Station, images: usize) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = station.images(RUN)?.len();
        if found >= images {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{found} of {images} images came within {LIMIT:?}");
        }
        thread::sleep(LOOK);
    }
}
