//! One simulation: both stations, what happens to them, and what must hold afterwards.

use std::collections::{BTreeMap, BTreeSet};

use pantelegraph_receiver::catalog::{Entry, Verdict};
use shared::image::OutboxId;

use crate::disk::{Disk, Disks};
use crate::network::{Network, Weather};
use crate::random::Random;
use crate::receiver::Receiver;
use crate::scene::Evidence;
use crate::trace::Trace;
use crate::transmitter::{Keeping, Manner, Transmitter};

/// Milliseconds until everything must be settled once nothing goes wrong any more.
const HEALED_WITHIN: u64 = 60_000;

/// Milliseconds until a receiver that could not start is started again.
const RESTART: u64 = 50;

/// What happens at some moment.
#[derive(Debug, Clone, Copy)]
enum Event {
    CutAny,
    KillTransmitter {
        power_loss: bool,
    },
    StartTransmitter,
    KillReceiver {
        power_loss: bool,
    },
    /// The receiver's machine is about to stop.
    LosePower,
    StopReceiver,
    StartReceiver,
    Fill,
    Free,
    Heal,
}

enum Station<Runs, Left> {
    Up(Runs),
    Down(Left),
    /// Only for the moment between the two.
    Between,
}

/// What a simulation comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Sum over the trace, and number of its events.
    pub(crate) sum: (u64, u64),
    /// Milliseconds that passed.
    pub(crate) took: u64,
    /// Stored images, images on the ledger, images kept apart.
    pub(crate) stored: usize,
    pub(crate) lost: usize,
    pub(crate) quarantined: usize,
    /// What should not be.
    pub(crate) problem: Option<String>,
}

/// Both stations and what is between them.
struct World {
    disks: Disks,
    now: u64,
    random: Random,
    folder: tempfile::TempDir,
    network: Network,
    evidence: Evidence,
    trace: Trace,
    manner: Manner,
    transmitter: Station<Transmitter, Keeping>,
    receiver: Station<Receiver, Disk>,
    events: BTreeMap<u64, Vec<Event>>,
    healed_at: u64,
}

/// Runs the simulation of `seed`.
pub(crate) fn run(seed: u64, disks: Disks, trace: &Trace) -> Outcome {
    fastrand::seed(seed);
    let mut world = World::new(seed, disks, trace.clone());
    let problem = loop {
        if let Some(violation) = world.evidence.first_violation() {
            break Some(violation);
        }
        if world.is_settled() {
            break world.check().err();
        }
        if world.now > world.healed_at + HEALED_WITHIN {
            break Some(world.why_unsettled());
        }
        world.tick();
    };
    world.finish(problem)
}

impl World {
    fn new(seed: u64, disks: Disks, trace: Trace) -> Self {
        let mut random = Random::new(seed);
        let count = random.between(5, 40);
        let evidence = Evidence::new(&mut random, usize::try_from(count).unwrap_or(5));
        let manner = Manner {
            connections: usize::try_from(random.between(1, 3)).unwrap_or(1),
            attempts: random.chance(1_500).then_some(4),
            interval: random.between(0, 60),
        };
        let network = Network::new(random.fork(), trace.clone());
        network.set_weather(Weather {
            latency: random.below(30),
            jitter: random.below(30),
            cut: random.below(150),
            stall: random.below(40),
            flip: random.below(200),
        });
        let outbox = OutboxId::from_u128(u128::from(random.next()) + 1).unwrap();
        let keeping = Keeping::new(disks, outbox, random.fork());
        let disk = Disk::new(disks, random.fork());
        let mut world = Self {
            disks,
            now: 0,
            folder: tempfile::tempdir().unwrap(),
            network,
            evidence,
            trace,
            manner,
            transmitter: Station::Down(keeping),
            receiver: Station::Down(disk),
            events: BTreeMap::new(),
            healed_at: random.between(500, 2_500),
            random,
        };
        world.plan();
        world
    }

    fn at(&mut self, when: u64, event: Event) {
        self.events.entry(when).or_default().push(event);
    }

    /// Decides what will happen.
    fn plan(&mut self) {
        let end = self.healed_at;
        let start = self.random.below(100);
        self.at(start, Event::StartTransmitter);
        let start = self.random.below(100);
        self.at(start, Event::StartReceiver);
        for _ in 0..self.random.below(7) {
            let when = self.random.below(end);
            let later = (when + self.random.between(1, 600)).min(end);
            let power_loss = self.random.chance(5_000);
            match self.random.below(6) {
                0 | 1 => self.at(when, Event::CutAny),
                2 => {
                    self.at(when, Event::KillTransmitter { power_loss });
                    self.at(later, Event::StartTransmitter);
                }
                3 => {
                    if power_loss {
                        self.at(when.saturating_sub(4), Event::LosePower);
                    }
                    self.at(when, Event::KillReceiver { power_loss });
                    self.at(later, Event::StartReceiver);
                }
                4 => {
                    self.at(when, Event::StopReceiver);
                    self.at(later, Event::KillReceiver { power_loss: false });
                    self.at(later, Event::StartReceiver);
                }
                _ => {
                    self.at(when, Event::Fill);
                    self.at(later, Event::Free);
                }
            }
        }
        for event in [
            Event::StartTransmitter,
            Event::StartReceiver,
            Event::Free,
            Event::Heal,
        ] {
            self.at(end, event);
        }
    }

    fn tick(&mut self) {
        for event in self.events.remove(&self.now).unwrap_or_default() {
            self.happens(event);
        }
        self.now += 1;
        self.network.tick();
        if let Station::Up(transmitter) = &self.transmitter {
            transmitter.tick();
        }
        if let Station::Up(receiver) = &self.receiver {
            receiver.tick();
        }
    }

    fn happens(&mut self, event: Event) {
        self.trace.note(self.now, &format!("{event:?}"));
        match event {
            Event::CutAny => self.network.cut_any(),
            Event::Heal => self.network.set_weather(Weather {
                latency: 5,
                ..Weather::default()
            }),
            Event::StartTransmitter => {
                self.transmitter = match std::mem::replace(&mut self.transmitter, Station::Between)
                {
                    Station::Down(disk) => Station::Up(Transmitter::start(
                        disk,
                        self.network.clone(),
                        self.evidence.clone(),
                        self.manner,
                        self.random.fork(),
                    )),
                    up => up,
                };
            }
            Event::KillTransmitter { power_loss } => {
                self.transmitter = match std::mem::replace(&mut self.transmitter, Station::Between)
                {
                    Station::Up(transmitter) => Station::Down(transmitter.crash(power_loss)),
                    down => down,
                };
            }
            Event::StartReceiver => {
                let receiver = match std::mem::replace(&mut self.receiver, Station::Between) {
                    Station::Down(disk) => Receiver::start(
                        self.folder.path(),
                        disk,
                        self.network.clone(),
                        self.evidence.clone(),
                        self.random.fork(),
                    ),
                    Station::Up(receiver) => Ok(receiver),
                    Station::Between => return,
                };
                self.receiver = match receiver {
                    Ok(receiver) => Station::Up(receiver),
                    // Whoever watches over it tries again.
                    Err(disk) => {
                        self.at(self.now + RESTART, Event::StartReceiver);
                        Station::Down(disk)
                    }
                };
            }
            Event::LosePower => {
                if let Station::Up(receiver) = &self.receiver {
                    receiver.disk().lose_power();
                }
            }
            Event::StopReceiver => {
                if let Station::Up(receiver) = &self.receiver {
                    receiver.ask_to_stop();
                }
            }
            Event::KillReceiver { power_loss } => {
                self.receiver = match std::mem::replace(&mut self.receiver, Station::Between) {
                    Station::Up(receiver) => Station::Down(receiver.crash(power_loss)),
                    down => down,
                };
            }
            Event::Fill => self.set_full(true),
            Event::Free => self.set_full(false),
        }
    }

    fn set_full(&self, full: bool) {
        match &self.receiver {
            Station::Up(receiver) => receiver.disk().set_full(full),
            Station::Down(disk) => disk.set_full(full),
            Station::Between => {}
        }
    }

    fn is_settled(&self) -> bool {
        let drained = match &self.transmitter {
            Station::Up(transmitter) => transmitter.is_drained(),
            _ => false,
        };
        drained && self.now > self.healed_at
    }

    fn why_unsettled(&self) -> String {
        match &self.transmitter {
            Station::Up(transmitter) => format!(
                "{} images are still owed {HEALED_WITHIN} ms after everything was well",
                transmitter.owed()
            ),
            _ => "the transmitter is not there".to_owned(),
        }
    }

    /// Both disks, when everything is settled.
    fn check(&self) -> Result<(), String> {
        let (Station::Up(transmitter), Station::Up(receiver)) = (&self.transmitter, &self.receiver)
        else {
            return Err("a station is not there".to_owned());
        };
        let disk = receiver.disk();
        let entries: BTreeMap<usize, Entry> = receiver
            .entries()
            .into_iter()
            .map(|entry| (self.evidence.number(entry.meta.id), entry))
            .collect();
        // What is kept apart is none of the real store's images.
        let counts =
            |entry: &&Entry| self.disks == Disks::Model || entry.verdict == Verdict::Stored;
        let (files, expected) = (disk.files(), entries.values().filter(counts).count());
        if files != expected {
            return Err(format!("{files} files are stored for {expected} entries"));
        }
        let lost: BTreeSet<usize> = transmitter
            .lost()
            .into_iter()
            .map(|id| self.evidence.number(id))
            .collect();
        let lost = self.check_ledger(lost, transmitter, receiver)?;
        let receipts = self.evidence.all_receipts();
        for (number, image) in self.evidence.images().iter().enumerate() {
            let synced = disk.synced(image.meta.id);
            let entry = entries.get(&number);
            if synced.len() > 1 || synced.iter().any(|bytes| image.bytes != *bytes) {
                return Err(format!(
                    "image {number} is stored {} times or changed",
                    synced.len()
                ));
            }
            if synced.len() != usize::from(entry.filter(|entry| counts(entry)).is_some()) {
                return Err(format!("file and catalogue disagree about image {number}"));
            }
            let stored = entry.is_some_and(|entry| entry.verdict == Verdict::Stored);
            let quarantined = entry.is_some() && !stored;
            if quarantined != (entry.is_some() && image.broken) {
                return Err(format!("image {number} is judged wrongly"));
            }
            if receipts.contains(&number) && !stored {
                return Err(format!("image {number} has a receipt and is not stored"));
            }
            if entry.is_none()
                && !lost.contains(&number)
                && self.evidence.all_kept().contains(&number)
            {
                return Err(format!(
                    "image {number} is neither stored nor on the ledger"
                ));
            }
            let may_be_lost = image.no_room || self.manner.attempts.is_some();
            if lost.contains(&number) && !may_be_lost {
                return Err(format!("image {number} is lost without need"));
            }
        }
        Ok(())
    }

    /// Both ledgers; all images that are on one of them.
    fn check_ledger(
        &self,
        lost: BTreeSet<usize>,
        transmitter: &Transmitter,
        receiver: &Receiver,
    ) -> Result<BTreeSet<usize>, String> {
        let (integrity, told) = receiver.ledger();
        if integrity.missing + integrity.reused > 0 {
            return Err(format!("sequence numbers are not in order: {integrity:?}"));
        }
        let told = told.values().map(|id| self.evidence.number(*id));
        let told: BTreeSet<usize> = told.collect();
        // Whatever broke after the last image was settled: the next process tells.
        let untold = transmitter.untold().into_iter();
        let untold: BTreeSet<usize> = untold.map(|id| self.evidence.number(id)).collect();
        let promised = lost
            .iter()
            .find(|number| !told.contains(number) && !untold.contains(number));
        if let Some(number) = promised {
            return Err(format!(
                "image {number} is lost, and the receiver is not told"
            ));
        }
        // A loss may be on the disk of an outbox that died before it said so.
        let may_be_lost = |number: &&usize| {
            self.manner.attempts.is_some() || self.evidence.images()[**number].no_room
        };
        let named: BTreeSet<usize> = told.union(&untold).copied().collect();
        match named.iter().find(|number| !may_be_lost(number)) {
            Some(number) => Err(format!("image {number} is lost without need")),
            None => Ok(named),
        }
    }

    fn finish(mut self, problem: Option<String>) -> Outcome {
        let mut outcome = Outcome {
            sum: self.trace.sum(),
            took: self.now,
            stored: 0,
            lost: 0,
            quarantined: 0,
            problem,
        };
        if let Station::Up(receiver) = &self.receiver {
            for entry in receiver.entries() {
                match entry.verdict {
                    Verdict::Stored => outcome.stored += 1,
                    Verdict::Quarantined { .. } => outcome.quarantined += 1,
                }
            }
        }
        if let Station::Up(transmitter) = &self.transmitter {
            outcome.lost = transmitter.lost().len();
        }
        // The catalogue is closed before its folder goes.
        self.happens(Event::KillTransmitter { power_loss: false });
        self.happens(Event::KillReceiver { power_loss: false });
        outcome
    }
}
