//! System checks that need more than Rust, or more time than a test may take.
//!
//! The programs are run as the README runs them, release builds where something is measured; all listen on port 0 and are
//! found by the line `ready:`. Each suite works in a folder of its own below `target/e2e`, which
//! is removed when everything holds.

mod backlog;
mod breaks;
mod check;
mod disk_full;
mod envoy;
mod faults;
mod memory;
mod peers;
mod photograph;
mod photos;
mod process;
mod sabotage;
mod security;
pub(crate) mod soak;
mod sources;
mod stations;
mod telemetry;
mod tools;
mod users;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::console;

/// Settings of the checks.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to check
    #[command(subcommand)]
    suite: Suite,
    /// Take the programs as they are, instead of building them
    #[arg(long, global = true)]
    no_build: bool,
    /// Leave the working folder, also when everything holds
    #[arg(long, global = true)]
    keep: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Suite {
    /// Clients that nobody here wrote deliver over every transport and get the same receipt
    Peers,
    /// Folders of photographs of many formats, sizes and names arrive byte for byte
    Photos {
        /// A folder with nothing but photographs, to send beside the generated ones
        #[arg(long, value_name = "DIR")]
        photographs: Option<PathBuf>,
    },
    /// Fifty images of 50 MB, and a thousand hostile clients, stay within the memory that is promised
    Memory {
        /// Only this part
        #[arg(long)]
        part: Option<memory::Part>,
    },
    /// Commands, cameras and receivers that dial the device
    Sources,
    /// The proof: a bad link, sudden death, disks that fill up and lose power (as root)
    Faults(faults::Options),
    /// Breaks five promises on purpose; the proof must find each (as root)
    Sabotage,
    /// A disk that fills up on either side: said clearly, and over by itself (as root)
    DiskFull,
    /// A large image over a link that breaks every second goes on where it was
    Breaks,
    /// A million small images while no receiver is there
    Backlog(backlog::Options),
    /// Clients that nobody here wrote, a browser among them, get the same users from one server
    Users,
    /// Envoy spreads calls over two servers of users; none fails when one dies or drains
    Envoy,
    /// Programs of others get in, or not; certificates are renewed; a crowd is in the way
    Security,
    /// Prometheus reads both daemons, and what is made for it and for Grafana
    Telemetry,
    /// Peers, photos, sources, users, envoy, security, telemetry and memory
    All,
}

/// How the programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Build {
    /// As they are shipped, for what is measured.
    Release,
    /// With assertions and overflow checks, for what is broken.
    Checked,
    /// As [`Self::Checked`], able to break their promises.
    Sabotaged,
}

/// The programs, which are called like their packages.
const RECEIVER: &str = "pantelegraph-receiver";
const TRANSMITTER: &str = "pantelegraph-transmitter";
const PANTELEGRAPH: &str = "pantelegraph";
/// Those that images go through.
const STATIONS: &[&str] = &[RECEIVER, TRANSMITTER];

impl Suite {
    const EACH: [Self; 8] = [
        Self::Peers,
        Self::Photos { photographs: None },
        Self::Sources,
        Self::Users,
        Self::Envoy,
        Self::Security,
        Self::Telemetry,
        Self::Memory { part: None },
    ];

    fn name(&self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Photos { .. } => "photos",
            Self::Memory { .. } => "memory",
            Self::Sources => "sources",
            Self::Faults(_) => "faults",
            Self::Sabotage => "sabotage",
            Self::DiskFull => "disk-full",
            Self::Breaks => "breaks",
            Self::Backlog(_) => "backlog",
            Self::Users => "users",
            Self::Envoy => "envoy",
            Self::Security => "security",
            Self::Telemetry => "telemetry",
            Self::All => "all",
        }
    }

    fn build(&self) -> Build {
        match self {
            Self::Faults(faults::Options {
                sabotage: Some(_), ..
            })
            | Self::Sabotage => Build::Sabotaged,
            Self::Faults(_)
            | Self::DiskFull
            | Self::Breaks
            | Self::Memory {
                part: Some(memory::Part::Hostile),
            } => Build::Checked,
            _ => Build::Release,
        }
    }

    /// What it runs.
    fn programs(&self) -> &'static [&'static str] {
        match self {
            Self::Users | Self::Envoy => &[PANTELEGRAPH],
            Self::Security => &[RECEIVER, TRANSMITTER, PANTELEGRAPH],
            _ => STATIONS,
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
    /// The folder of the programs.
    programs: PathBuf,
}

impl Site {
    /// Path of a program that the suite has named.
    fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

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
    let suites = match &options.suite {
        Suite::All => Suite::EACH.iter().collect(),
        one => vec![one],
    };
    let mut failed = Vec::new();
    for suite in suites {
        let site = site(
            suite.name(),
            suite.build(),
            suite.programs(),
            options.no_build,
        )?;
        if let Err(error) = run_suite(suite, &site, options) {
            console::failure(&error.context(suite.name()));
            failed.push(suite.name());
        }
    }
    if !failed.is_empty() {
        bail!("{} (logs are in target/e2e)", failed.join(", "));
    }
    Ok(())
}

/// Builds the programs and makes the folder `name` for a suite.
fn site(name: &str, build: Build, programs: &[&str], no_build: bool) -> Result<Site> {
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
    if !no_build {
        build.run(&root, programs)?;
    }
    let cache = target.join("e2e");
    let built = target.join(build.folder());
    let folder = match build {
        // The next ordinary build would overwrite them.
        Build::Sabotaged => cache.join("sabotaged"),
        _ => built.clone(),
    };
    for program in programs {
        let path = folder.join(program);
        if build == Build::Sabotaged && !no_build {
            std::fs::create_dir_all(&folder)?;
            std::fs::copy(built.join(program), &path)
                .with_context(|| format!("copying {program}"))?;
        }
        ensure!(
            path.is_file(),
            "{} is missing; run without --no-build",
            path.display()
        );
    }
    let work = cache.join(name);
    clear(&work)?;
    std::fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    Ok(Site {
        root,
        cache,
        work,
        programs: folder,
    })
}

fn run_suite(suite: &Suite, site: &Site, options: &Options) -> Result<()> {
    let start = Instant::now();
    console::title(suite.name());
    match suite {
        Suite::Peers => peers::run(site)?,
        Suite::Photos { photographs } => photos::run(site, photographs.as_deref())?,
        Suite::Memory { part } => memory::run(site, *part)?,
        Suite::Sources => sources::run(site)?,
        Suite::Faults(options) => faults::run(site, options)?,
        Suite::Sabotage => sabotage::run(site)?,
        Suite::DiskFull => disk_full::run(site)?,
        Suite::Breaks => breaks::run(site)?,
        Suite::Backlog(options) => backlog::run(site, options)?,
        Suite::Users => users::run(site)?,
        Suite::Envoy => envoy::run(site)?,
        Suite::Security => security::run(site)?,
        Suite::Telemetry => telemetry::run(site)?,
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

impl Build {
    /// Where cargo puts the programs.
    fn folder(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Checked | Self::Sabotaged => "debug",
        }
    }

    fn run(self, root: &Path, programs: &[&str]) -> Result<()> {
        // Which features of a dependency are compiled depends on everything that is built with it. What is shipped
        // is built by itself. For the others cargo takes what it has made for the tests, and compiles no dependency
        // again, if it is asked for a test too: the smallest.
        let bins = programs.iter().map(|program| format!("--bin={program}"));
        let as_for_tests = ["--workspace", "--test=tidy"].map(str::to_owned);
        let as_for_tests: Vec<_> = as_for_tests.into_iter().chain(bins).collect();
        let (what, args) = match self {
            Self::Release => {
                let programs = programs
                    .iter()
                    .map(|program| format!("--package={program}"));
                let mut args = vec!["--release".to_owned()];
                args.extend(programs);
                ("release programs", args)
            }
            Self::Checked => ("programs with their assertions", as_for_tests),
            Self::Sabotaged => {
                let stations = programs.iter().map(|program| format!("{program}/sabotage"));
                let stations = stations.collect::<Vec<_>>().join(",");
                let mut args = as_for_tests;
                args.push(format!("--features={stations}"));
                ("programs that can break their promises", args)
            }
        };
        console::begin(format_args!("building the {what}"));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .current_dir(root)
            .args(["build", "--locked"])
            .args(args)
            .status()
            .context("cargo cannot be run")?;
        ensure!(status.success(), "the programs do not build");
        Ok(())
    }
}

fn clear(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
