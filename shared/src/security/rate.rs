//! How often one caller may ask: as many requests a second as the operator sets, and at once no more than
//! a second's worth.
//!
//! Who is counted is whoever has proved who it is, by its name; where nobody is asked it is the address,
//! with IPv6 the network of 64 bits, which one machine has for itself.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::door::network;
use crate::settings::units::number_within;

/// Callers that are told apart at a time. Those who have not asked for as long as their burst needs to
/// come back are forgotten, which is a second at most; beyond this number all that are new share one
/// allowance, so that a crowd with ever changing addresses takes no more memory.
const MOST_KEYS: usize = 1 << 16;

/// Callers from which on those are forgotten that need not be known.
const FEW_KEYS: usize = 1 << 10;

/// Milliseconds between two looks for old callers.
const LOOK_MS: u64 = 100;

/// Whoever waits looks again after this time at the earliest: many who wait for the same allowance would
/// wake each other for every single request otherwise. The burst makes good what passes meanwhile.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// Reads a setting of so many requests a second.
///
/// # Errors
/// When it is none.
pub fn read(text: &str) -> Result<NonZeroU32, String> {
    let number = number_within(1..=1_000_000)(text.trim())?;
    let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
    number.ok_or_else(|| format!("{text:?} is out of range"))
}

/// Who is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Name(Arc<str>),
    Network(IpAddr),
    /// All who came when there were too many.
    Others,
}

/// The clock of timers, from when the rates were made.
#[derive(Debug, Clone)]
struct Timer(Instant);

impl Clock for Timer {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.elapsed())
    }
}

type Limiter = RateLimiter<Key, HashMapStateStore<Key>, Timer, NoOpMiddleware<Nanos>>;

struct Limited {
    limiter: Limiter,
    clock: Timer,
    most_keys: usize,
    /// Keys at which the old ones are looked for, and the milliseconds when they were the last time.
    next_look: AtomicUsize,
    looked: AtomicU64,
}

/// The rates of all callers. Clones are the same.
#[derive(Clone, Default)]
pub struct Rates(Option<Arc<Limited>>);

impl Rates {
    /// Lets each caller make so many requests a second; without a number, any.
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        Self::with_keys(per_second, MOST_KEYS)
    }

    fn with_keys(per_second: Option<NonZeroU32>, most_keys: usize) -> Self {
        Self(per_second.map(|number| {
            let clock = Timer(Instant::now());
            Arc::new(Limited {
                limiter: Limiter::hashmap_with_clock(Quota::per_second(number), clock.clone()),
                clock,
                most_keys,
                next_look: AtomicUsize::new(FEW_KEYS.min(most_keys)),
                looked: AtomicU64::new(0),
            })
        }))
    }

    /// What the caller of this name may do; of one without a name, its address counts.
    pub fn of(&self, name: Option<&str>, address: IpAddr) -> Pace {
        Pace(self.0.as_ref().map(|limited| {
            let key = match name {
                Some(name) => Key::Name(name.into()),
                None => Key::Network(network(address)),
            };
            (Arc::clone(limited), key)
        }))
    }
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.as_ref().map(|limited| limited.limiter.len());
        f.debug_struct("Rates").field("keys", &keys).finish()
    }
}

/// The allowance of one caller. The default has no end.
#[derive(Clone, Default)]
pub struct Pace(Option<(Arc<Limited>, Key)>);

impl Pace {
    /// One request more.
    ///
    /// # Errors
    /// The time after which there may be another one, when there is none now.
    pub fn take(&self) -> Result<(), Duration> {
        match &self.0 {
            Some((limited, key)) => limited.take(key),
            None => Ok(()),
        }
    }

    /// The same, as soon as there may be one, for `most` at the longest.
    ///
    /// # Errors
    /// As for [`Self::take`], when it took too long.
    pub async fn wait(&self, most: Duration) -> Result<(), Duration> {
        let end = Instant::now() + most;
        loop {
            let Err(time) = self.take() else {
                return Ok(());
            };
            let now = Instant::now();
            if now >= end {
                return Err(time);
            }
            tokio::time::sleep_until(end.min(now + time.max(SHORTEST_WAIT))).await;
        }
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.0.as_ref().map(|(_, key)| key);
        f.debug_tuple("Pace").field(&key).finish()
    }
}

impl Limited {
    fn take(&self, key: &Key) -> Result<(), Duration> {
        if self.limiter.len() >= self.next_look.load(Ordering::Relaxed) {
            self.forget();
        }
        // Whether this one is known already cannot be asked; it is for a second at most.
        let is_crowded = self.limiter.len() >= self.most_keys;
        let key = if is_crowded { &Key::Others } else { key };
        self.limiter.check_key(key).map_err(|refused| {
            let wait = refused.wait_time_from(self.clock.now());
            wait.max(Duration::from_millis(1))
        })
    }

    /// Forgets those whose whole burst is there again. Twice as many as are left are not looked
    /// through once more, so that this costs little for each request.
    fn forget(&self) {
        let now = u64::try_from(self.clock.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.looked.load(Ordering::Relaxed)) < LOOK_MS {
            // Of a full table few have become old since, and looking costs.
            return;
        }
        self.looked.store(now, Ordering::Relaxed);
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
        let next = (self.limiter.len() * 2).clamp(FEW_KEYS.min(self.most_keys), self.most_keys);
        self.next_look.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn per_second(number: u32) -> Option<NonZeroU32> {
        NonZeroU32::new(number)
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    /// Requests that are let in at once.
    fn at_once(pace: &Pace) -> u32 {
        (0..1_000).map_while(|_| pace.take().ok()).count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_s_worth_comes_at_once_and_then_as_many_as_are_set() {
        let rates = Rates::new(per_second(10));
        let pace = rates.of(Some("cam-1"), v4(1));
        assert_eq!(at_once(&pace), 10);
        assert_eq!(pace.take(), Err(Duration::from_millis(100)));
        tokio::time::advance(Duration::from_millis(350)).await;
        assert_eq!(at_once(&pace), 3);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(at_once(&pace), 10, "nothing is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn names_count_wherever_they_are_and_strangers_by_their_network() {
        let rates = Rates::new(per_second(4));
        assert_eq!(at_once(&rates.of(Some("cam-1"), v4(1))), 4);
        assert_eq!(at_once(&rates.of(Some("cam-1"), v4(2))), 0);
        assert_eq!(at_once(&rates.of(Some("cam-2"), v4(1))), 4);
        assert_eq!(at_once(&rates.of(None, v4(1))), 4);
        let v6 = |text: &str| IpAddr::V6(text.parse::<Ipv6Addr>().unwrap());
        assert_eq!(at_once(&rates.of(None, v6("2001:db8::1"))), 4);
        assert_eq!(at_once(&rates.of(None, v6("2001:db8::2:1"))), 0);
        assert_eq!(at_once(&rates.of(None, v6("2001:db8:0:1::1"))), 4);
        assert_eq!(at_once(&Rates::new(None).of(None, v4(1))), 1_000);
        assert_eq!(at_once(&Pace::default()), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_forgotten_and_takes_no_memory_beyond_a_bound() {
        let rates = Rates::with_keys(per_second(5), 3_000);
        let known = || rates.0.as_ref().unwrap().limiter.len();
        let ask = |from: u32, count: u32| {
            let asked = (from..from + count).map(|one| rates.of(None, v4(one)).take().is_ok());
            asked.filter(|passed| *passed).count()
        };
        // At the bound, all who are new have one allowance together.
        assert_eq!(ask(0, 10_000), 3_000 + 5);
        assert_eq!(known(), 3_001);
        for second in 1..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(ask(second * 10_000, 2_000) >= 2_000);
            assert!(known() <= 3_001, "{}", known());
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        // Those who come now find the others gone.
        ask(200_000, 1_200);
        tokio::time::advance(Duration::from_secs(1)).await;
        ask(300_000, 1_024);
        assert!(known() <= 2_224, "{}", known());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_gets_its_turn_and_no_more_than_its_share() {
        let rates = Rates::new(per_second(100));
        let began = Instant::now();
        let waiting = (0..4).map(|_| {
            let pace = rates.of(Some("cam-1"), v4(1));
            tokio::spawn(async move {
                for _ in 0..100 {
                    pace.wait(Duration::from_secs(60)).await.unwrap();
                }
            })
        });
        for one in waiting.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        // A hundred at once, and three hundred more.
        let took = began.elapsed();
        let right = Duration::from_millis(2_990)..Duration::from_millis(3_200);
        assert!(right.contains(&took), "{took:?}");
        let busy = rates.of(Some("cam-1"), v4(1));
        at_once(&busy);
        assert!(busy.wait(Duration::from_millis(2)).await.is_err());
    }
}
