//! The proof: both programs as real processes, a bad link between them, disks that fill up and
//! lose power, and sudden death. After every round an independent checker reads both disks, and
//! then a fresh image must get through (docs/proof.md).

pub(crate) mod checker;
pub(crate) mod episode;
pub(crate) mod images;
pub(crate) mod medium;
pub(crate) mod plan;
mod power;
pub(crate) mod proxy;
mod source;
pub(crate) mod stations;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::Site;
use crate::console;
use episode::{Outcome, Stage};
use plan::EPISODE;

/// Settings of this suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What everything is drawn from [default: another one each time, which is printed]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Rounds; ten of them share a pair of disks
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) rounds: u32,
    /// One transport only [default: all]
    #[arg(long, value_enum)]
    pub(crate) transport: Option<Transport>,
    /// Only these ten rounds, counted from 0: what a failure names
    #[arg(long, value_name = "N")]
    pub(crate) episode: Option<u32>,
    /// Break this promise on purpose; the programs are built so that they can
    #[arg(long, value_name = "KEY", value_parser = super::sabotage::key)]
    pub(crate) sabotage: Option<&'static str>,
}

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Grpc,
    Websocket,
    Rest,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Websocket => "websocket",
            Self::Rest => "rest",
        }
    }
}

/// Runs all rounds.
pub(crate) fn run(site: &Site, options: &Options) -> Result<()> {
    let seed = options
        .seed
        .unwrap_or_else(|| fastrand::u64(1..1_000_000_000));
    console::note(format_args!("seed {seed}"));
    let stage = Stage::new(site, options.sabotage)?;
    let start = Instant::now();
    let mut totals = Totals::default();
    let episodes = match options.episode {
        Some(only) => only..only + 1,
        None => 0..options.rounds.div_ceil(EPISODE),
    };
    for number in episodes {
        let mut plan = plan::Episode::of(seed, number, options.transport.map(Transport::name));
        if options.episode.is_none() {
            let left = options.rounds.saturating_sub(number * EPISODE);
            plan.rounds.truncate(left as usize);
        }
        let began = Instant::now();
        let outcome = stage.play(&plan).with_context(|| {
            format!(
                "what was left lies in {}; replay with: cargo xtask e2e faults --seed {seed} \
                 --episode {number}{}{}",
                stage.folder(&plan).display(),
                options.transport.map_or(String::new(), |transport| {
                    format!(" --transport {}", transport.name())
                }),
                options
                    .sabotage
                    .map_or(String::new(), |key| format!(" --sabotage {key}")),
            )
        })?;
        console::passed(format_args!(
            "rounds {}-{} ({}): {} ({:.0?})",
            number * EPISODE,
            number * EPISODE + plan.rounds.len() as u32 - 1,
            episode::words(&plan),
            outcome.summary,
            began.elapsed()
        ));
        totals.add(&outcome);
    }
    totals.print(start.elapsed());
    Ok(())
}

/// What happened in all rounds.
#[derive(Default)]
struct Totals {
    rounds: u32,
    images: usize,
    kills: u32,
    cuts: u32,
    full: u32,
    faults: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.rounds += outcome.rounds;
        self.images += outcome.summary.stored + outcome.summary.quarantined + outcome.summary.lost;
        self.kills += outcome.kills;
        self.cuts += outcome.cuts;
        self.full += outcome.full;
        for (fault, count) in &outcome.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }

    fn print(&self, elapsed: std::time::Duration) {
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(fault, count)| format!("{count} {fault}"))
            .collect();
        console::note(format_args!(
            "{} rounds in {elapsed:.0?}: {} images, {} kills, {} power cuts, {} full disks; on the \
             link: {}",
            self.rounds,
            self.images,
            self.kills,
            self.cuts,
            self.full,
            faults.join(", ")
        ));
    }
}

/// What the checker found to be wrong.
#[derive(Debug)]
pub(crate) struct Found(pub(crate) Vec<String>);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the checker found: {}",
            self.0.first().map_or("nothing", String::as_str)
        )?;
        match self.0.len().saturating_sub(1) {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for Found {}

/// Makes a folder empty.
pub(crate) fn fresh(folder: &Path) -> Result<()> {
    super::clear(folder)?;
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}
