//! System checks that need more than Rust, or more time than a test may take.
//!
//! The programs are release builds, run as the README runs them; all listen on port 0 and are
//! found by the line `ready:`. Each suite works in a folder of its own below `target/e2e`, which
//! is removed when everything holds.

mod check;
mod memory;
mod peers;
mod photograph;
mod photos;
mod process;
mod sources;
mod stations;
mod tools;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::console;

/// Settings of the checks.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to check
    suite: Suite,
    /// Take the release programs as they are, instead of building them
    #[arg(long)]
    no_build: bool,
    /// With photos: a folder with nothing but photographs, to send beside the generated ones
    #[arg(long, value_name = "DIR")]
    photographs: Option<PathBuf>,
    /// Leave the working folder, also when everything holds
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Clients that nobody here wrote deliver over every transport and get the same receipt
    Peers,
    /// Folders of photographs of many formats, sizes and names arrive byte for byte
    Photos,
    /// Fifty images of 50 MB stay within the memory that is promised
    Memory,
    /// Commands, cameras and receivers that dial the device
    Sources,
    /// Everything
    All,
}

impl Suite {
    const EACH: [Self; 4] = [Self::Peers, Self::Photos, Self::Sources, Self::Memory];

    fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Photos => "photos",
            Self::Memory => "memory",
            Self::Sources => "sources",
            Self::All => "all",
        }
    }
}

/// Where everything is.
pub(crate) struct Site {
    /// The repository.
    root: PathBuf,
    /// What is kept from one time to the next: virtual environment, node modules.
    cache: PathBuf,
    /// The suite's folder.
    work: PathBuf,
    receiver: PathBuf,
    transmitter: PathBuf,
}

impl Site {
    /// A new folder in the suite's.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.work.join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("making folder {}", folder.display()))?;
        Ok(folder)
    }
}

/// Runs the suites that were asked for; the error names those that failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        cfg!(target_os = "linux"),
        "the checks read /proc and send signals: run them on Linux"
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the repository")?
        .to_owned();
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => root.join(target),
        None => root.join("target"),
    };
    if !options.no_build {
        build(&root)?;
    }
    let program = |name: &str| {
        let path = target.join("release").join(name);
        ensure!(
            path.is_file(),
            "{} is missing; run without --no-build",
            path.display()
        );
        Ok(path)
    };
    let (receiver, transmitter) = (
        program("pantelegraph-receiver")?,
        program("pantelegraph-transmitter")?,
    );
    let suites = match options.suite {
        Suite::All => Suite::EACH.to_vec(),
        one => vec![one],
    };
    let mut failed = Vec::new();
    for suite in suites {
        let work = target.join("e2e").join(suite.name());
        clear(&work)?;
        let site = Site {
            root: root.clone(),
            cache: target.join("e2e"),
            work,
            receiver: receiver.clone(),
            transmitter: transmitter.clone(),
        };
        if let Err(error) = run_suite(suite, &site, options) {
            console::failure(&error.context(suite.name()));
            failed.push(suite.name());
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} (logs are in {})",
            failed.join(", "),
            target.join("e2e").display()
        );
    }
    Ok(())
}

fn run_suite(suite: Suite, site: &Site, options: &Options) -> Result<()> {
    let start = Instant::now();
    console::title(suite.name());
    match suite {
        Suite::Peers => peers::run(site)?,
        Suite::Photos => photos::run(site, options.photographs.as_deref())?,
        Suite::Memory => memory::run(site)?,
        Suite::Sources => sources::run(site)?,
        Suite::All => bail!("all is not a suite of its own"),
    }
    if !options.keep {
        clear(&site.work)?;
    }
    console::passed(format_args!(
        "{}: all holds ({:.0?})",
        suite.name(),
        start.elapsed()
    ));
    Ok(())
}

fn build(root: &Path) -> Result<()> {
    console::begin("building the release programs");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--release", "--locked"])
        .args([
            "--package",
            "pantelegraph-receiver",
            "--package",
            "pantelegraph-transmitter",
        ])
        .status()
        .context("cargo cannot be run")?;
    ensure!(status.success(), "the programs do not build");
    Ok(())
}

fn clear(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
