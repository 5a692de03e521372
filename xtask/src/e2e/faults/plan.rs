//! What a seed means: everything that is decided before anything runs.

use std::time::Duration;

use fastrand::Rng;

use super::images::Shape;
use super::medium::Kind;

/// Rounds over the same pair of disks.
pub(crate) const EPISODE: u32 = 10;

const TRANSPORTS: [&str; 3] = ["grpc", "websocket", "rest"];

/// One of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Station {
    Transmitter,
    Receiver,
}

impl Station {
    pub(crate) const BOTH: [Self; 2] = [Self::Transmitter, Self::Receiver];
}

/// Where images come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A folder on the transmitter's disk or elsewhere, whose files come into the outbox so.
    Folder {
        on_disk: bool,
        files: &'static str,
        after: &'static str,
    },
    /// A command that gives so many images at each start.
    Command { images: u32 },
    /// The generator.
    Pattern { images: u32 },
}

/// Rounds over one pair of disks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Episode {
    pub(crate) number: u32,
    pub(crate) transmitter: Kind,
    pub(crate) receiver: Kind,
    pub(crate) source: Source,
    pub(crate) outbox_durability: &'static str,
    pub(crate) outbox_limit: &'static str,
    pub(crate) when_full: &'static str,
    pub(crate) digest: &'static str,
    pub(crate) verify: &'static str,
    pub(crate) rounds: Vec<Round>,
}

/// One round.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Round {
    pub(crate) number: u32,
    pub(crate) transport: &'static str,
    pub(crate) order: &'static str,
    /// Seed of the link.
    pub(crate) link: u64,
    /// In the order of their times.
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) length: Duration,
    /// How each station stops at the end, the transmitter first.
    pub(crate) stops: [Stop; 2],
    /// The receiver stops before the transmitter.
    pub(crate) receiver_first: bool,
    /// Seed of contents and of what a power cut leaves.
    pub(crate) seed: u64,
}

/// Something that happens in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A new image, where the source is a folder.
    Image { shape: Shape, size: usize },
    /// The program dies and is started again at once.
    Kill(Station),
    /// The program's disk has so many bytes left.
    Fill(Station, u64),
    /// The program's disk has space again.
    Release(Station),
    /// The whole link breaks.
    Break,
}

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
    /// SIGKILL, and its disk loses power.
    Cut,
}

impl Episode {
    /// Episode `number` of `seed`, over one transport if it is given.
    pub(crate) fn of(seed: u64, number: u32, transport: Option<&'static str>) -> Self {
        let mut random =
            Rng::with_seed(seed ^ (u64::from(number) + 1).wrapping_mul(0xD1B5_4A32_D192_ED03));
        // Draws before, so that neighbouring seeds have nothing in common.
        random.u64(..);
        let kind = |random: &mut Rng| pick(random, &[Kind::Tmpfs, Kind::Power]);
        let (transmitter, receiver) = (kind(&mut random), kind(&mut random));
        let source = source(&mut random);
        let outbox_durability = match transmitter {
            // What was not synced may be lost with the power, and nobody would know its name.
            Kind::Power => "synced",
            Kind::Tmpfs => pick(&mut random, &["synced", "written"]),
        };
        let (outbox_limit, when_full) = pick(
            &mut random,
            &[
                ("64MiB", "block"),
                ("64MiB", "block"),
                ("4MiB", "block"),
                ("4MiB", "drop-oldest"),
                ("4MiB", "drop-newest"),
                ("4MiB", "thin:3"),
            ],
        );
        let rounds = (0..EPISODE)
            .map(|round| {
                let number = number * EPISODE + round;
                let chosen = pick(&mut random, &TRANSPORTS);
                let transport = transport.unwrap_or(chosen);
                Round::draw(number, transport, [transmitter, receiver], &mut random)
            })
            .collect();
        Self {
            number,
            transmitter,
            receiver,
            source,
            outbox_durability,
            outbox_limit,
            when_full,
            digest: pick(&mut random, &["xxh3-128", "xxh3-128", "blake3"]),
            verify: pick(&mut random, &["header", "full"]),
            rounds,
        }
    }
}

impl Round {
    fn draw(number: u32, transport: &'static str, kinds: [Kind; 2], random: &mut Rng) -> Self {
        let length = Duration::from_millis(random.u64(500..1_100));
        let at = |random: &mut Rng| length.mul_f64(random.f64());
        let mut events = Vec::new();
        for _ in 0..random.usize(2..10) {
            let shape = pick(
                random,
                &[
                    Shape::Jpeg,
                    Shape::Jpeg,
                    Shape::Bmp,
                    Shape::Bmp,
                    Shape::Noise,
                    Shape::Torn,
                ],
            );
            let size = size(random);
            events.push((at(random), Event::Image { shape, size }));
        }
        for station in Station::BOTH {
            if random.u32(0..3) == 0 {
                events.push((at(random), Event::Kill(station)));
            }
            if random.u32(0..6) == 0 {
                let from = at(random);
                let left = pick(random, &[0, 0, 20_000, 200_000]);
                events.push((from, Event::Fill(station, left)));
                events.push((
                    from + (length - from).mul_f64(random.f64()),
                    Event::Release(station),
                ));
            }
        }
        if random.u32(0..3) == 0 {
            events.push((at(random), Event::Break));
        }
        events.sort_by_key(|(at, _)| *at);
        let stop = |kind: Kind, random: &mut Rng| match (random.u32(0..4), kind) {
            (0, _) => Stop::Terminate,
            (1 | 2, Kind::Power) => Stop::Cut,
            _ => Stop::Kill,
        };
        Self {
            number,
            transport,
            order: pick(random, &["oldest-first", "newest-first"]),
            link: random.u64(..),
            events,
            length,
            stops: [stop(kinds[0], random), stop(kinds[1], random)],
            receiver_first: random.bool(),
            seed: random.u64(..),
        }
    }
}

fn source(random: &mut Rng) -> Source {
    match random.u32(0..8) {
        0 => Source::Command {
            images: random.u32(2..8),
        },
        1 => Source::Pattern {
            images: random.u32(2..6),
        },
        _ => Source::Folder {
            on_disk: random.bool(),
            files: pick(random, &["link", "copy", "reference"]),
            after: pick(random, &["keep", "keep", "delete", "archive"]),
        },
    }
}

/// 0.1 KB to 3 MB, small ones more often.
fn size(random: &mut Rng) -> usize {
    let decades = random.f64() * 4.48;
    (100.0 * 10_f64.powf(decades)) as usize
}

fn pick<T: Copy>(random: &mut Rng, from: &[T]) -> T {
    from[random.usize(0..from.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_each_time_and_each_episode_is_another() {
        for number in 0..20 {
            assert_eq!(Episode::of(7, number, None), Episode::of(7, number, None));
            assert_ne!(
                Episode::of(7, number, None).rounds,
                Episode::of(8, number, None).rounds
            );
        }
    }

    #[test]
    fn five_hundred_rounds_have_everything_in_them() {
        let episodes: Vec<Episode> = (0..50).map(|number| Episode::of(1, number, None)).collect();
        let rounds: Vec<&Round> = episodes
            .iter()
            .flat_map(|episode| &episode.rounds)
            .collect();
        assert_eq!(rounds.len(), 500);
        assert_eq!(rounds[499].number, 499);
        for transport in TRANSPORTS {
            for order in ["oldest-first", "newest-first"] {
                let is = |round: &&&Round| round.transport == transport && round.order == order;
                assert!(rounds.iter().filter(is).count() > 40);
            }
        }
        for station in Station::BOTH {
            let has = |wanted: fn(Event, Station) -> bool| {
                let all = rounds.iter().flat_map(|round| &round.events);
                all.filter(|(_, event)| wanted(*event, station)).count()
            };
            assert!(has(|event, station| event == Event::Kill(station)) > 100);
            assert!(
                has(|event, of| matches!(event, Event::Fill(station, _) if station == of)) > 50
            );
            assert!(has(|event, station| event == Event::Release(station)) > 50);
        }
        for stop in [Stop::Terminate, Stop::Kill, Stop::Cut] {
            for station in [0, 1] {
                let stops = rounds.iter().filter(|round| round.stops[station] == stop);
                assert!(stops.count() > 50, "{stop:?}");
            }
        }
        for policy in ["block", "drop-oldest", "drop-newest", "thin:3"] {
            assert!(episodes.iter().any(|episode| episode.when_full == policy));
        }
        assert!(
            episodes
                .iter()
                .any(|of| matches!(of.source, Source::Command { .. }))
        );
        assert!(
            episodes
                .iter()
                .any(|of| matches!(of.source, Source::Pattern { .. }))
        );
    }

    #[test]
    fn power_is_cut_only_where_there_is_a_switch() {
        for number in 0..200 {
            let episode = Episode::of(3, number, Some("rest"));
            for round in &episode.rounds {
                assert_eq!(round.transport, "rest");
                for (stop, kind) in round
                    .stops
                    .iter()
                    .zip([episode.transmitter, episode.receiver])
                {
                    assert!(*stop != Stop::Cut || kind == Kind::Power);
                }
            }
            assert!(episode.transmitter == Kind::Tmpfs || episode.outbox_durability == "synced");
        }
    }
}
