//! A transmitter and a receiver at work, and what each of their parts took.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Options, STUCK};
use crate::e2e::Site;
use crate::e2e::process::{Process, Usage};
use crate::e2e::stations::{Station, transmitter_to};

/// Both programs.
pub(super) struct Pair {
    name: &'static str,
    station: Station,
    process: Process,
    images: u64,
    each: u64,
    seen: Seen,
    moved: Instant,
    watch: Watch,
    parts: Vec<Part>,
}

/// What was seen of both sides at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) images: u64,
    pub(super) sides: [Usage; 2],
}

/// What one part was like.
pub(super) struct Part {
    pub(super) images: u64,
    pub(super) seconds: f64,
    pub(super) sides: [Cost; 2],
}

/// Time of processors that a program took for an image, microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Times {
    /// In the program itself.
    pub(super) user: f64,
    /// That of the kernel for it included.
    pub(super) with_kernel: f64,
}

/// One of them.
pub(super) type Time = fn(Times) -> f64;

/// What one program took in one part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    pub(super) times: Times,
    pub(super) memory: f64,
    pub(super) files: u64,
}

impl Pair {
    /// Starts both in a folder of their own, for so many images in parts of `each`.
    pub(super) fn start(
        name: &'static str,
        site: &Site,
        options: &Options,
        (images, each): (u64, u64),
    ) -> Result<Self> {
        let folder = site.folder(name)?;
        let station = Station::start(site, &folder, &["--durability", &options.durability])?;
        let process = transmitter(site, &folder, &station, options, images)?;
        let seen = Seen {
            images: 0,
            sides: [process.usage()?, station.usage()?],
        };
        Ok(Self {
            name,
            station,
            process,
            images,
            each,
            seen,
            moved: Instant::now(),
            watch: Watch::begin(seen),
            parts: Vec::new(),
        })
    }

    /// Looks at both.
    pub(super) fn look(&mut self) -> Result<Seen> {
        let before = self.seen.images;
        match self.process.ended()? {
            // It ends after its last image, and what it took until then stays what it took.
            Some(status) => ensure!(
                status.success(),
                "the {} transmitter ended with {status}: {}",
                self.name,
                self.process.log()
            ),
            None => {
                if let Ok(usage) = self.process.usage() {
                    self.seen.sides[0] = usage;
                }
            }
        }
        self.seen.images = self.station.received()?;
        self.seen.sides[1] = self.station.usage()?;
        self.watch.look(&self.seen.sides);
        if self.seen.images > before {
            self.moved = Instant::now();
        }
        ensure!(
            self.is_done() || self.moved.elapsed() < STUCK,
            "the {} programs are stuck after {} images",
            self.name,
            self.seen.images
        );
        while self.seen.images >= self.each * (self.parts.len() as u64 + 1) {
            self.parts.push(self.watch.end(self.seen));
            self.watch = Watch::begin(self.seen);
        }
        Ok(self.seen)
    }

    pub(super) fn is_done(&self) -> bool {
        self.seen.images >= self.images
    }

    /// Ends both, and says what the parts were like.
    pub(super) fn end(self) -> Result<Vec<Part>> {
        let ended = self.process.wait(STUCK)?;
        ensure!(
            ended.status.success(),
            "the {} transmitter ended with {}",
            self.name,
            ended.status
        );
        let received = self.station.received()?;
        ensure!(received == self.images, "{received} images arrived");
        self.station.stop()?;
        Ok(self.parts)
    }
}

fn transmitter(
    site: &Site,
    folder: &Path,
    station: &Station,
    options: &Options,
    images: u64,
) -> Result<Process> {
    let count = images.to_string();
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
    transmitter_to(site, folder, &station.destinations(), args)
}

/// One part while it lasts.
struct Watch {
    start: Instant,
    from: Seen,
    memory: [f64; 2],
    files: [u64; 2],
    looks: f64,
}

impl Watch {
    fn begin(from: Seen) -> Self {
        Self {
            start: Instant::now(),
            from,
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

    fn end(&self, now: Seen) -> Part {
        let cost = |side: usize| Cost {
            times: us_per_image(&self.from, &now, side),
            memory: self.memory[side] / self.looks.max(1.0),
            files: self.files[side],
        };
        Part {
            images: now.images - self.from.images,
            seconds: self.start.elapsed().as_secs_f64(),
            sides: [cost(0), cost(1)],
        }
    }
}

/// What one side took for an image between two looks.
pub(super) fn us_per_image(from: &Seen, to: &Seen, side: usize) -> Times {
    let images = to.images.saturating_sub(from.images).max(1);
    let time = |of: fn(&Usage) -> Duration| {
        let taken = of(&to.sides[side]).saturating_sub(of(&from.sides[side]));
        taken.as_secs_f64() * 1e6 / images as f64
    };
    Times {
        user: time(|usage| usage.user),
        with_kernel: time(|usage| usage.cpu),
    }
}

/// Usage of which only times count: each side's own, and with the kernel's.
#[cfg(test)]
pub(super) fn seen(images: u64, times: [[Duration; 2]; 2]) -> Seen {
    let usage = |[user, cpu]: [Duration; 2]| Usage {
        memory: 0,
        files: 0,
        user,
        cpu,
    };
    Seen {
        images,
        sides: times.map(usage),
    }
}
