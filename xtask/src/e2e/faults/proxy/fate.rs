//! What is going to happen to a connection.

use std::time::Duration;

use fastrand::Rng;

/// Something that happens to one direction of a connection when it comes to a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Both sides see an orderly end.
    Close,
    /// Both sides see a reset.
    Reset,
    /// This direction carries nothing any more; the sockets stay open.
    HalfOpen,
    /// Neither direction carries anything any more; the sockets stay open.
    Dead,
    /// One bit of the byte is flipped.
    Flip(u8),
    /// The bytes so far are followed by the end: what was on its way is cut off.
    Truncate,
    /// The last bytes, so many, come again.
    Repeat(usize),
    /// Nothing passes for a while.
    Stall(Duration),
    /// The next bytes, so many, come one by one.
    Dribble(usize),
}

impl Fault {
    /// The word for each kind, and `late` for connections that are held back behind others.
    pub(crate) const NAMES: [&'static str; 10] = [
        "close",
        "reset",
        "half-open",
        "dead",
        "flip",
        "truncate",
        "repeat",
        "stall",
        "dribble",
        "late",
    ];
    /// Place of `late`.
    pub(super) const LATE: usize = 9;

    /// Place in [`Self::NAMES`].
    pub(super) fn kind(self) -> usize {
        match self {
            Self::Close => 0,
            Self::Reset => 1,
            Self::HalfOpen => 2,
            Self::Dead => 3,
            Self::Flip(_) => 4,
            Self::Truncate => 5,
            Self::Repeat(_) => 6,
            Self::Stall(_) => 7,
            Self::Dribble(_) => 8,
        }
    }

    fn draw(random: &mut Rng) -> Self {
        match random.u32(0..11) {
            0 => Self::Close,
            1 | 2 => Self::Reset,
            3 => Self::HalfOpen,
            4 => Self::Dead,
            5 | 6 => Self::Flip(random.u8(0..8)),
            7 => Self::Truncate,
            8 => Self::Repeat(random.usize(1..=512)),
            9 => Self::Stall(Duration::from_millis(random.u64(20..400))),
            _ => Self::Dribble(random.usize(64..2_048)),
        }
    }
}

/// What will happen to one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fate {
    /// It is held back for so long before anything of it passes, so that later ones come first.
    pub(crate) late: Duration,
    /// By byte position, to the receiver.
    pub(crate) up: Vec<(u64, Fault)>,
    /// By byte position, to the transmitter.
    pub(crate) down: Vec<(u64, Fault)>,
}

/// A link on which every connection has its fate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Link {
    seed: u64,
    /// Part of the connections to which something happens.
    spoiled: f64,
    /// Faults lie about so far apart, bytes.
    distance: u64,
}

impl Link {
    /// One without faults.
    pub(crate) fn clean() -> Self {
        Self {
            seed: 0,
            spoiled: 0.0,
            distance: 1,
        }
    }

    /// One of which `seed` says what happens.
    pub(crate) fn bad(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        Self {
            seed,
            spoiled: *random.choice(&[0.3, 0.7, 1.0]).unwrap_or(&1.0),
            distance: *random.choice(&[600, 10_000, 150_000]).unwrap_or(&10_000),
        }
    }

    /// What happens to connection `number`.
    pub(crate) fn fate(&self, number: u64) -> Fate {
        let mut random = Rng::with_seed(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut fate = Fate {
            late: Duration::ZERO,
            up: Vec::new(),
            down: Vec::new(),
        };
        if random.f64() >= self.spoiled {
            return fate;
        }
        if random.u32(0..5) == 0 {
            fate.late = Duration::from_millis(random.u64(10..300));
        }
        // Answers are small, hence their faults are closer together.
        for (events, distance) in [
            (&mut fate.up, self.distance),
            (&mut fate.down, (self.distance / 20).max(200)),
        ] {
            let mut at = 0;
            for _ in 0..random.usize(1..4) {
                at += random.u64(0..distance * 2);
                events.push((at, Fault::draw(&mut random)));
            }
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_fates_and_all_kinds_of_them() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..20 {
            for number in 0..50 {
                let fate = Link::bad(seed).fate(number);
                assert_eq!(fate, Link::bad(seed).fate(number));
                assert!(fate.up.is_sorted_by_key(|(at, _)| *at));
                kinds.extend(
                    fate.up
                        .iter()
                        .chain(&fate.down)
                        .map(|(_, fault)| fault.kind()),
                );
                if !fate.late.is_zero() {
                    kinds.insert(Fault::LATE);
                }
            }
        }
        assert_eq!(kinds.len(), Fault::NAMES.len());
    }

    #[test]
    fn nothing_happens_on_a_clean_link() {
        for number in 0..100 {
            let fate = Link::clean().fate(number);
            assert!(fate.up.is_empty() && fate.down.is_empty() && fate.late.is_zero());
        }
    }
}
