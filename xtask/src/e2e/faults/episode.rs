//! Rounds over one pair of disks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fastrand::Rng;

use super::checker::{self, Disks, Expect, History, Known, Summary};
use super::images::Shape;
use super::medium::Medium;
use super::plan::{self, Event, Round, Station, Stop};
use super::proxy::{Link, Proxy};
use super::source::Source;
use super::stations::Side;
use super::{Found, fresh};
use crate::e2e::{RECEIVER, Site, TRANSMITTER};

/// Size of each disk.
const DISK: u64 = 192 << 20;
/// Time for a fresh image to get through once everything is well. Connections that died silently
/// are given up after two seconds, and there may be a backlog of megabytes before it.
const FRESH: Duration = Duration::from_secs(30);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(10);
/// A policy that drops images may drop the fresh one; another is offered then.
const ANOTHER: Duration = Duration::from_millis(700);
/// Time to deliver everything at the end.
const DRAIN: Duration = Duration::from_secs(60);
/// Exit codes of a transmitter that owes nothing: all delivered, some quarantined, some lost.
const DRAINED: [i32; 3] = [0, 64, 65];

/// What is the same for all episodes.
pub(crate) struct Stage<'a> {
    site: &'a Site,
    sabotage: Option<&'static str>,
}

/// What became of an episode.
pub(crate) struct Outcome {
    pub(crate) summary: Summary,
    pub(crate) rounds: u32,
    pub(crate) kills: u32,
    pub(crate) cuts: u32,
    pub(crate) full: u32,
    pub(crate) faults: Vec<(&'static str, u64)>,
}

/// An episode in a few words.
pub(crate) fn words(plan: &plan::Episode) -> String {
    let source = match plan.source {
        plan::Source::Folder {
            on_disk,
            files,
            after,
        } => {
            let place = if on_disk { "own" } else { "other" };
            format!("folder on {place} disk, {files}, {after}")
        }
        plan::Source::Command { .. } => "command".to_owned(),
        plan::Source::Pattern { .. } => "pattern".to_owned(),
    };
    format!(
        "{source}; {} {}, {}; {:?} to {:?}",
        plan.when_full, plan.outbox_limit, plan.outbox_durability, plan.transmitter, plan.receiver
    )
}

impl<'a> Stage<'a> {
    pub(crate) fn new(site: &'a Site, sabotage: Option<&'static str>) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("disks of their own have to be mounted: run this as root");
        }
        Ok(Self { site, sabotage })
    }

    /// The folder of an episode.
    pub(crate) fn folder(&self, plan: &plan::Episode) -> PathBuf {
        self.site.work.join(format!("episode-{}", plan.number))
    }

    /// Plays all rounds of an episode.
    pub(crate) fn play(&self, plan: &plan::Episode) -> Result<Outcome> {
        let folder = self.folder(plan);
        fresh(&folder)?;
        let mut scene = Scene::open(self, plan, folder.clone())?;
        match scene.play() {
            Ok(outcome) => {
                drop(scene);
                crate::e2e::clear(&folder)?;
                Ok(outcome)
            }
            Err(error) => {
                if let Some(found) = error.downcast_ref::<Found>() {
                    std::fs::write(folder.join("findings.txt"), found.0.join("\n"))?;
                }
                scene.keep()?;
                Err(error)
            }
        }
    }
}

struct Scene<'a> {
    plan: &'a plan::Episode,
    folder: PathBuf,
    proxy: Proxy,
    receiver: Side,
    transmitter: Side,
    source: Source,
    history: History,
    summary: Summary,
    kills: u32,
    cuts: u32,
    full: u32,
}

impl<'a> Scene<'a> {
    fn open(stage: &Stage<'_>, plan: &'a plan::Episode, folder: PathBuf) -> Result<Self> {
        let medium = |kind, name: &str| Medium::mount(kind, &folder.join(name), DISK);
        let transmitter = medium(plan.transmitter, "transmitter")?;
        let receiver = medium(plan.receiver, "receiver")?;
        let offered = match plan.source {
            plan::Source::Folder { on_disk: true, .. } => transmitter.place().join("source"),
            _ => folder.join("source"),
        };
        let site = stage.site;
        let side = |name, binary, medium| Side::new(name, binary, stage.sabotage, &folder, medium);
        Ok(Self {
            plan,
            proxy: Proxy::start()?,
            receiver: side("receiver", &site.program(RECEIVER), receiver),
            transmitter: side("transmitter", &site.program(TRANSMITTER), transmitter),
            source: Source::new(plan.source, offered)?,
            folder,
            history: History::default(),
            summary: Summary::default(),
            kills: 0,
            cuts: 0,
            full: 0,
        })
    }

    fn play(&mut self) -> Result<Outcome> {
        for round in &self.plan.rounds {
            let mut random = Rng::with_seed(round.seed);
            let label = format!(
                "{}; round {}, {}",
                words(self.plan),
                round.number,
                round.transport
            );
            self.round(round, &mut random).with_context(|| label)?;
        }
        self.drain().context("delivering everything at the end")?;
        Ok(Outcome {
            summary: self.summary,
            rounds: self.plan.rounds.len() as u32,
            kills: self.kills,
            cuts: self.cuts,
            full: self.full,
            faults: self.proxy.happened(),
        })
    }

    fn round(&mut self, round: &Round, random: &mut Rng) -> Result<()> {
        self.proxy.spoil(Link::bad(round.link));
        self.start_receiver()?;
        self.start_transmitter(round, random)?;
        let start = Instant::now();
        for (at, event) in &round.events {
            sleep(at.saturating_sub(start.elapsed()));
            self.happens(*event, round, random)
                .with_context(|| format!("{event:?} at {at:?}"))?;
        }
        sleep(round.length.saturating_sub(start.elapsed()));
        let in_order = self.stop(round, random)?;
        self.check(Expect {
            receiver_stopped: in_order,
            drained: false,
            gives_way: self.plan.when_full != "block",
        })
        .context("after the faults")?;
        self.heal()?;
        self.start_receiver()?;
        self.start_transmitter(round, random)?;
        self.fresh_image(round, random)
    }

    fn happens(&mut self, event: Event, round: &Round, random: &mut Rng) -> Result<()> {
        match event {
            Event::Image { shape, size } if self.source.is_folder() => {
                self.source.offer(round.transport, shape, size, random)?;
            }
            // The others give images by themselves.
            Event::Image { .. } => {}
            Event::Kill(station) => {
                self.kills += 1;
                self.side(station).stop(Stop::Kill, random)?;
                match station {
                    Station::Receiver => self.start_receiver()?,
                    Station::Transmitter => self.start_transmitter(round, random)?,
                }
            }
            Event::Fill(station, _) => {
                self.full += 1;
                self.side(station).disk(event)?;
            }
            Event::Release(station) => self.side(station).disk(event)?,
            Event::Break => self.proxy.break_all(),
        }
        Ok(())
    }

    fn side(&mut self, station: Station) -> &mut Side {
        match station {
            Station::Transmitter => &mut self.transmitter,
            Station::Receiver => &mut self.receiver,
        }
    }

    /// Everything is well from now on.
    fn heal(&mut self) -> Result<()> {
        self.proxy.heal();
        for station in Station::BOTH {
            self.side(station).disk(Event::Release(station))?;
        }
        self.source.offer_postponed()
    }

    fn start_receiver(&mut self) -> Result<()> {
        if self.receiver.is_running()? {
            return Ok(());
        }
        let args = [
            "--durability",
            "synced",
            "--min-free",
            "0",
            "--verify",
            self.plan.verify,
        ];
        let addresses: Option<(SocketAddr, SocketAddr)> =
            self.receiver.start_receiver(&args.map(str::to_owned))?;
        self.proxy.lead_to(addresses);
        Ok(())
    }

    fn start_transmitter(&mut self, round: &Round, random: &mut Rng) -> Result<()> {
        if self.transmitter.is_running()? {
            return Ok(());
        }
        let source = self.source.args(round.transport, random)?;
        self.transmit(round.transport, round.order, source)
    }

    fn transmit(&mut self, transport: &str, order: &str, source: Vec<String>) -> Result<()> {
        let outbox = self.transmitter.medium.place().join("outbox");
        let plan = self.plan;
        let (outbox, receipts) = (outbox.display().to_string(), self.receipts());
        let receipts = receipts.display().to_string();
        let destinations = self.proxy.destinations();
        let run = format!("faults-{}", plan.number);
        let args = [
            ("--name", "faults"),
            ("--run", run.as_str()),
            ("--transport", transport),
            ("--to", destinations.as_str()),
            ("--order", order),
            ("--outbox", outbox.as_str()),
            ("--outbox-limit", plan.outbox_limit),
            ("--outbox-durability", plan.outbox_durability),
            ("--when-full", plan.when_full),
            ("--digest", plan.digest),
            ("--receipts", receipts.as_str()),
        ];
        let mut all: Vec<String> = args
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
            .collect();
        all.extend(source);
        self.transmitter.start_transmitter(&all)
    }

    /// Outside of the small disk, so that it can be trusted whatever happens to that.
    fn receipts(&self) -> PathBuf {
        self.folder.join("receipts.jsonl")
    }

    /// Stops both; whether the receiver did in order.
    fn stop(&mut self, round: &Round, random: &mut Rng) -> Result<bool> {
        let mut in_order = false;
        let mut order = Station::BOTH;
        if round.receiver_first {
            order.reverse();
        }
        for station in order {
            let stop = match station {
                Station::Transmitter => round.stops[0],
                Station::Receiver => round.stops[1],
            };
            self.cuts += u32::from(stop == Stop::Cut);
            let stopped = self.side(station).stop(stop, random)?;
            if station == Station::Receiver {
                // A disk that was full may have kept it from putting things in order.
                in_order = stopped && !self.receiver.is_full;
                self.proxy.lead_to(None);
            }
        }
        Ok(in_order)
    }

    fn check(&mut self, expect: Expect) -> Result<()> {
        let (data, outbox) = (
            self.receiver.medium.place().join("data"),
            self.transmitter.medium.place().join("outbox"),
        );
        let (receipts, scratch) = (self.receipts(), self.folder.join("scratch"));
        let disks = Disks {
            data: &data,
            outbox: &outbox,
            receipts: &receipts,
            scratch: &scratch,
        };
        let truth = self.source.is_known().then_some(&self.source.truth);
        let (summary, findings) = checker::check(&disks, truth, expect, &mut self.history)?;
        self.summary = summary;
        if findings.is_empty() {
            return Ok(());
        }
        Err(Found(findings).into())
    }

    /// A new image gets its receipt within the bound.
    fn fresh_image(&mut self, round: &Round, random: &mut Rng) -> Result<()> {
        let before = self.receipt_lines().len();
        let start = Instant::now();
        let mut fresh: Vec<Known> = Vec::new();
        loop {
            let is_due = fresh.is_empty()
                || (self.plan.when_full != "block"
                    && start.elapsed() > ANOTHER * fresh.len() as u32);
            if self.source.is_folder() && is_due {
                let offered = self
                    .source
                    .offer(round.transport, Shape::Jpeg, 3_000, random)?;
                fresh.push(offered);
            }
            let lines = self.receipt_lines();
            let arrived = match self.source.is_folder() {
                true => fresh
                    .iter()
                    .any(|known| lines.iter().any(|line| known.is_named_in(line))),
                false => lines.len() > before,
            };
            if arrived {
                return Ok(());
            }
            if start.elapsed() > FRESH {
                bail!("no fresh image came through within {FRESH:?}");
            }
            if !self.transmitter.is_running()? {
                // A source that ends ends the program, once everything is delivered.
                match self.source.is_folder() {
                    true => bail!(
                        "the transmitter ended by itself: {}",
                        self.transmitter.last_words()
                    ),
                    false => self.start_transmitter(round, random)?,
                }
            }
            if !self.receiver.is_running()? {
                bail!(
                    "the receiver ended by itself: {}",
                    self.receiver.last_words()
                );
            }
            sleep(LOOK);
        }
    }

    fn receipt_lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.receipts()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Delivers everything; then nothing may be missing.
    fn drain(&mut self) -> Result<()> {
        let mut random = Rng::with_seed(u64::from(self.plan.number));
        self.transmitter.stop(Stop::Terminate, &mut random)?;
        let mut transports: Vec<&str> = self
            .plan
            .rounds
            .iter()
            .map(|round| round.transport)
            .collect();
        transports.sort_unstable();
        transports.dedup();
        for transport in transports {
            let args = self.source.last_args(transport, &mut random)?;
            self.transmit(transport, "oldest-first", args)?;
            self.transmitter
                .wait(DRAIN, &DRAINED)
                .with_context(|| format!("over {transport}"))?;
        }
        self.receiver.stop(Stop::Terminate, &mut random)?;
        self.check(Expect {
            receiver_stopped: true,
            drained: true,
            gives_way: self.plan.when_full != "block",
        })
    }

    /// Copies both disks to the episode's folder, which stays.
    fn keep(&mut self) -> Result<()> {
        let mut random = Rng::with_seed(0);
        for station in Station::BOTH {
            let kept = self.folder.join("kept");
            let side = self.side(station);
            side.stop(Stop::Kill, &mut random)?;
            side.medium.keep(&kept)?;
        }
        Ok(())
    }
}
