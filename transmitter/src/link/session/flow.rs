//! How many bytes may be on their way. No I/O, no clock.
//!
//! Two bounds hold. *Credit* is the receiver's: so many chunk bytes may be sent in all. The *limit*
//! is this side's: so many bytes may be in flight, that is, sent and not known to be taken. It is
//! what a break can make to be sent again, and it never exceeds the window.
//!
//! Taken is what the receiver has worked off in order. Credit does not tell it: how much of a grant
//! is new and how much was taken only the receiver knows, and its steps may be larger than the
//! window. So there are probes: a clock ping is answered only after the chunks in front of it, hence
//! its answer says that those were taken. This holds for every receiver there ever was.
//!
//! Below the window the limit follows the time that bytes take to be taken. On a slow line a whole
//! window in front of every ping would make a living connection look dead, and clocks look wrong.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes in flight before anything is known of the line, and at least.
const INITIAL: u64 = 512 << 10;
const LEAST: u64 = 16 << 10;

/// State of the bytes of one session.
#[derive(Debug)]
pub(super) struct Flow {
    window: u64,
    limit: u64,
    /// Bytes may take so long to be taken before the limit shrinks.
    calm: Duration,
    allowed: u64,
    /// Bytes that are sent or about to be, and those that were handed to the transport.
    reserved: u64,
    queued: u64,
    taken: u64,
    /// Probes without an answer, with the positions that they stand behind; there is one for each
    /// quarter of the limit, more or less.
    open_probes: VecDeque<(u64, u64)>,
    probes: u64,
    /// When bytes up to a position were handed to the transport.
    times: VecDeque<(u64, Instant)>,
}

impl Flow {
    /// Nothing was sent. Bytes should be taken within `calm`.
    pub(super) fn new(window: u64, calm: Duration) -> Self {
        Self {
            window,
            limit: window.min(INITIAL),
            calm,
            allowed: 0,
            reserved: 0,
            queued: 0,
            taken: 0,
            open_probes: VecDeque::new(),
            probes: 0,
            times: VecDeque::new(),
        }
    }

    /// Counts `len` bytes as on their way, if they may be sent now. What is larger than all that may
    /// be in flight goes when nothing else is.
    pub(super) fn reserve(&mut self, len: u64) -> bool {
        let in_flight = self.reserved - self.taken;
        let fits = in_flight == 0 || in_flight + len <= self.limit;
        let may = self.reserved < self.allowed && fits;
        if may {
            self.reserved += len;
        }
        may
    }

    /// Bytes that were reserved will not be sent.
    pub(super) fn give_back(&mut self, len: u64) {
        self.reserved -= len;
    }

    /// Bytes that were reserved are handed to the transport.
    pub(super) fn queue(&mut self, len: u64, now: Instant) {
        self.queued += len;
        let step = self.limit / 16;
        let last = self
            .times
            .back()
            .map_or(self.taken, |(position, _)| *position);
        // Few of them, however small the chunks are. The first chunk is always one.
        if self.times.is_empty() || self.queued - last >= step {
            self.times.push_back((self.queued, now));
        }
    }

    /// So many bytes may be sent in all.
    pub(super) fn grant(&mut self, total: u64) {
        self.allowed = self.allowed.max(total);
    }

    /// Whether a probe is needed: enough has gone out since the last one or, when somebody is
    /// `blocked` and no answer is to come, anything.
    pub(super) fn wants_probe(&self, blocked: bool) -> bool {
        let last = self.open_probes.back().map_or(self.taken, |(_, at)| *at);
        let enough = match blocked && self.open_probes.is_empty() {
            true => 1,
            false => (self.limit / 4).max(1),
        };
        self.queued - last >= enough
    }

    /// The id of a probe, if one is needed, that is to be sent right behind what was queued.
    pub(super) fn probe(&mut self, blocked: bool) -> Option<u64> {
        if !self.wants_probe(blocked) {
            return None;
        }
        self.probes += 1;
        self.open_probes.push_back((self.probes, self.queued));
        Some(self.probes)
    }

    /// A probe was answered.
    pub(super) fn pong(&mut self, id: u64, now: Instant) {
        // Answers come in order; one that was not asked for says nothing.
        if !self.open_probes.iter().any(|(open, _)| *open == id) {
            return;
        }
        while let Some((_, position)) = self.open_probes.pop_front_if(|(open, _)| *open <= id) {
            self.take(position, now);
        }
    }

    /// All bytes up to `position` were taken.
    fn take(&mut self, position: u64, now: Instant) {
        let Some(progress) = position.checked_sub(self.taken).filter(|bytes| *bytes > 0) else {
            return;
        };
        self.taken = position;
        let mut sent = None;
        while let Some((_, at)) = self.times.pop_front_if(|(until, _)| *until <= position) {
            sent = Some(at);
        }
        let Some(sent) = sent else { return };
        let took = now.saturating_duration_since(sent);
        if took <= self.calm {
            self.limit = (self.limit + progress).min(self.window);
            return;
        }
        let shrunk = self.limit as f64 * (self.calm.as_secs_f64() / took.as_secs_f64());
        self.limit = (shrunk as u64).max(LEAST).min(self.window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const CALM: Duration = Duration::from_secs(1);

    /// Sends chunks of `len` until it may not; how many.
    fn fill(flow: &mut Flow, len: u64, now: Instant) -> u64 {
        let mut chunks = 0;
        while flow.reserve(len) {
            flow.queue(len, now);
            chunks += 1;
        }
        chunks
    }

    /// Everything so far is taken.
    fn take_all(flow: &mut Flow, now: Instant) {
        if let Some(id) = flow.probe(true) {
            flow.pong(id, now);
        } else if let Some((id, _)) = flow.open_probes.back().copied() {
            flow.pong(id, now);
        }
    }

    #[test]
    fn no_more_than_the_window_is_in_flight() {
        let now = Instant::now();
        let mut flow = Flow::new(10 * KIB, CALM);
        flow.grant(1_000 * KIB);
        assert!(flow.reserve(3 * KIB));
        flow.queue(3 * KIB, now);
        let first = flow.probe(false).expect("more than a quarter is out");
        assert_eq!(fill(&mut flow, 3 * KIB, now), 2);
        let rest = flow.probe(false).expect("another quarter is out");
        flow.grant(2_000 * KIB);
        assert_eq!(fill(&mut flow, 3 * KIB, now), 0, "a grant takes nothing");
        flow.pong(first, now);
        assert_eq!(fill(&mut flow, 3 * KIB, now), 1);
        flow.pong(rest, now);
        assert_eq!(fill(&mut flow, 3 * KIB, now), 2);
    }

    #[test]
    fn a_chunk_larger_than_the_window_goes_alone() {
        let now = Instant::now();
        let mut flow = Flow::new(4 * KIB, CALM);
        flow.grant(64 * KIB);
        assert_eq!(fill(&mut flow, 5 * KIB, now), 1);
        take_all(&mut flow, now);
        assert_eq!(fill(&mut flow, 5 * KIB, now), 1);
    }

    #[test]
    fn credit_holds_below_the_window() {
        let now = Instant::now();
        let mut flow = Flow::new(100 * KIB, CALM);
        flow.grant(2 * KIB);
        assert_eq!(fill(&mut flow, KIB, now), 2);
        flow.grant(3 * KIB);
        flow.grant(KIB);
        assert_eq!(fill(&mut flow, KIB, now), 1);
    }

    #[test]
    fn a_receiver_whose_grants_are_larger_than_the_window_blocks_nobody() {
        let now = Instant::now();
        let mut flow = Flow::new(8 * KIB, CALM);
        // Grants half of its credit at a time, which is four windows.
        let credit = 64 * KIB;
        let (mut granted, mut sent) = (credit, 0);
        flow.grant(granted);
        while sent < 1_000 {
            let chunks = fill(&mut flow, KIB, now);
            assert!((1..=8).contains(&chunks), "{chunks} after {sent}");
            sent += chunks;
            take_all(&mut flow, now);
            if sent * KIB + credit / 2 >= granted {
                granted = sent * KIB + credit;
                flow.grant(granted);
            }
        }
    }

    #[test]
    fn what_was_not_handed_to_the_transport_is_not_taken() {
        let mut flow = Flow::new(4 * KIB, CALM);
        flow.grant(1_000 * KIB);
        assert!(flow.reserve(4 * KIB));
        assert_eq!(flow.probe(true), None, "nothing is in front of it");
        assert!(!flow.reserve(KIB));
        flow.give_back(4 * KIB);
        assert!(flow.reserve(KIB));
    }

    #[test]
    fn probes_are_few_and_only_answers_to_them_count() {
        let now = Instant::now();
        let mut flow = Flow::new(8 * KIB, CALM);
        flow.grant(1_000 * KIB);
        assert!(flow.reserve(KIB));
        flow.queue(KIB, now);
        assert_eq!(flow.probe(false), None, "too little since the last one");
        assert_eq!(fill(&mut flow, KIB, now), 7);
        let probe = flow.probe(false).expect("a quarter of the window is out");
        assert_eq!(flow.probe(true), None, "an answer is to come");
        flow.pong(probe + 1, now);
        assert!(!flow.reserve(KIB));
        flow.pong(probe, now);
        flow.pong(probe, now);
        assert_eq!(fill(&mut flow, KIB, now), 8);
        assert!(flow.open_probes.is_empty());
    }

    #[test]
    fn on_a_slow_line_less_is_in_flight_and_on_a_fast_one_the_window() {
        let start = Instant::now();
        let window = 4 << 20;
        let mut flow = Flow::new(window, CALM);
        flow.grant(u64::MAX / 2);
        // 64 KiB a second.
        let (mut now, chunk) = (start, 64 * KIB);
        for _ in 0..30 {
            let chunks = fill(&mut flow, chunk, now);
            now += Duration::from_secs(chunks);
            let probe = flow.probe(true).expect("something is out");
            flow.pong(probe, now);
        }
        assert!(flow.limit <= 2 * chunk, "{}", flow.limit);
        assert!(flow.limit >= LEAST);
        for _ in 0..30 {
            let len = chunk.min(flow.limit);
            fill(&mut flow, len, now);
            now += Duration::from_millis(1);
            let probe = flow.probe(true).expect("something is out");
            flow.pong(probe, now);
        }
        assert_eq!(flow.limit, window);
        assert!(flow.times.len() <= 17, "{}", flow.times.len());
    }
}
