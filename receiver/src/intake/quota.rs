//! How much each transmitter may bring in within a period that goes along with the time.
//!
//! What is stored counts, once, as long as it is younger than the period; so does what is announced and
//! still on its way. The sums are kept in memory, in slots of a sixtieth of the period, and made from the
//! catalogue when the receiver starts. A slot counts until all of it is older than the period: nobody
//! ever brings in more than the quota within any period, and gets room back a slot later at most.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::clock::UnixNanos;
use shared::settings::units::{ByteSize, format_duration};

use crate::catalog::StoredSum;
use crate::config::Quota;

/// Slots of a period.
const SLOTS: u64 = 60;

/// Transmitters that are told apart. Where nobody is asked who it is, anybody can make up names: beyond
/// this number, those that are new have one quota together.
const MOST_ACCOUNTS: usize = 1 << 16;

/// The name of all who came when there were too many. No transmitter can have it.
const OTHERS: &str = "\0others";

/// Images, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    images: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.images = self.images.saturating_add(other.images);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn take(&mut self, other: Self) {
        self.images = self.images.saturating_sub(other.images);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What one transmitter has brought in.
#[derive(Debug, Default)]
struct Account {
    /// By the number of the slot, oldest first; only those with something in them.
    slots: VecDeque<(i64, Sum)>,
    stored: Sum,
    /// Announced, and on its way.
    reserved: Sum,
}

impl Account {
    /// Forgets the slots before `first`.
    fn forget(&mut self, first: i64) {
        while let Some((_, sum)) = self.slots.pop_front_if(|(number, _)| *number < first) {
            self.stored.take(sum);
        }
    }

    /// Forgets the slots before `first`. What is told to be later than `now`, because the clock was set
    /// back, came now at the latest: otherwise it would count until that time comes again, and so would
    /// all that came since.
    fn keep(&mut self, first: i64, now: i64) {
        self.forget(first);
        let mut later = Sum::default();
        while let Some((_, sum)) = self.slots.pop_back_if(|(number, _)| *number > now) {
            later.add(sum);
        }
        if later != Sum::default() {
            match self.slots.back_mut() {
                Some((last, there)) if *last == now => there.add(later),
                _ => self.slots.push_back((now, later)),
            }
        }
    }

    fn store(&mut self, number: i64, sum: Sum) {
        self.stored.add(sum);
        match self.slots.back_mut() {
            Some((last, there)) if *last >= number => there.add(sum),
            _ => self.slots.push_back((number, sum)),
        }
    }

    fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.reserved == Sum::default()
    }
}

/// The quotas of all transmitters.
#[derive(Debug)]
pub(crate) struct Quotas {
    quota: Quota,
    slot_ns: i64,
    most_accounts: usize,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    by_name: HashMap<Arc<str>, Account>,
    /// Accounts at which the idle ones are looked for.
    next_look: usize,
}

/// An image is more than its transmitter may bring in now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// What is used up, with its figures.
    pub(crate) message: String,
    /// When there is room again, if that is known.
    pub(crate) after: Option<Duration>,
}

impl Quotas {
    /// Keeps this quota; `None` where there is none.
    pub(crate) fn new(quota: Quota) -> Option<Arc<Self>> {
        (quota.bytes.is_some() || quota.images.is_some())
            .then(|| Arc::new(Self::with_accounts(quota, MOST_ACCOUNTS)))
    }

    fn with_accounts(quota: Quota, most_accounts: usize) -> Self {
        let slot = quota.period.as_nanos().div_ceil(u128::from(SLOTS));
        Self {
            slot_ns: i64::try_from(slot).unwrap_or(i64::MAX).max(1),
            quota,
            most_accounts,
            accounts: Mutex::default(),
        }
    }

    /// Nanoseconds of a slot.
    pub(crate) fn slot_ns(&self) -> i64 {
        self.slot_ns
    }

    fn slot_of(&self, time: UnixNanos) -> i64 {
        time.0.div_euclid(self.slot_ns)
    }

    /// The first slot that counts at this time: some of it is younger than the period.
    pub(crate) fn first_slot(&self, now: UnixNanos) -> i64 {
        let slots = i64::try_from(SLOTS).unwrap_or(i64::MAX);
        self.slot_of(now).saturating_sub(slots)
    }

    /// What the catalogue knows of.
    pub(crate) fn load(&self, sums: Vec<StoredSum>) {
        let mut accounts = self.accounts.lock();
        for sum in sums {
            let account = accounts.of(&sum.transmitter, self.most_accounts);
            let StoredSum { images, bytes, .. } = sum;
            account.store(sum.slot, Sum { images, bytes });
        }
    }

    /// Sets an image of `bytes` aside for the transmitter of this name.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        name: &str,
        bytes: u64,
        now: UnixNanos,
    ) -> Result<Reservation, Exceeded> {
        let wanted = Sum { images: 1, bytes };
        self.try_reserve(name, wanted, wanted, now)?;
        Ok(Reservation {
            quotas: Arc::clone(self),
            name: name.into(),
            held: wanted,
        })
    }

    /// `more` on top of what is there, for an image that comes to `whole`.
    fn try_reserve(
        &self,
        name: &str,
        more: Sum,
        whole: Sum,
        now: UnixNanos,
    ) -> Result<(), Exceeded> {
        let first = self.first_slot(now);
        let mut accounts = self.accounts.lock();
        accounts.sweep(first, self.most_accounts);
        let account = accounts.of(name, self.most_accounts);
        account.keep(first, self.slot_of(now));
        let mut used = account.stored;
        used.add(account.reserved);
        if let Some(message) = self.excess(used, more, whole) {
            let after = self.room_after(account, more, now);
            return Err(Exceeded { message, after });
        }
        account.reserved.add(more);
        Ok(())
    }

    /// What speaks against `more` beside what is `used`.
    fn excess(&self, used: Sum, more: Sum, whole: Sum) -> Option<String> {
        let Quota {
            bytes,
            images,
            period,
        } = self.quota;
        let period = format_duration(period);
        if let Some(most) = bytes
            && used.bytes.saturating_add(more.bytes) > most.0
        {
            let (used, size) = (ByteSize(used.bytes), whole.bytes);
            return Some(format!(
                "{used} of the {most} that a transmitter may bring in within {period} are used up, and \
                 the image has {size} bytes; it can come later, or raise RECEIVER_QUOTA_BYTES"
            ));
        }
        let most = images.filter(|most| used.images.saturating_add(more.images) > *most)?;
        Some(format!(
            "the {most} images that a transmitter may bring in within {period} have come; this one can \
             come later, or raise RECEIVER_QUOTA_IMAGES"
        ))
    }

    /// When enough will have become older than the period.
    fn room_after(&self, account: &Account, more: Sum, now: UnixNanos) -> Option<Duration> {
        let mut used = account.stored;
        used.add(account.reserved);
        let slots = i64::try_from(SLOTS).unwrap_or(i64::MAX);
        for (number, sum) in &account.slots {
            used.take(*sum);
            if self.excess(used, more, more).is_none() {
                // That slot is before the first one then.
                let then = number
                    .saturating_add(slots + 1)
                    .saturating_mul(self.slot_ns);
                let left = u64::try_from(then.saturating_sub(now.0)).unwrap_or(0);
                return Some(Duration::from_nanos(left));
            }
        }
        // It is too large for any time, or waits for others that are on their way.
        None
    }

    /// An image was stored for which nothing was set aside, or other than it came to.
    fn settle(&self, name: &str, reserved: Sum, bytes: u64, now: UnixNanos) {
        let mut accounts = self.accounts.lock();
        let account = accounts.of(name, self.most_accounts);
        account.reserved.take(reserved);
        account.keep(self.first_slot(now), self.slot_of(now));
        account.store(self.slot_of(now), Sum { images: 1, bytes });
    }

    /// The same for one for which nothing was.
    pub(crate) fn stored(&self, name: &str, bytes: u64, now: UnixNanos) {
        self.settle(name, Sum::default(), bytes, now);
    }

    fn give_back(&self, name: &str, sum: Sum) {
        let mut accounts = self.accounts.lock();
        accounts.of(name, self.most_accounts).reserved.take(sum);
    }
}

impl Accounts {
    fn of(&mut self, name: &str, most: usize) -> &mut Account {
        let is_known = self.by_name.contains_key(name);
        let name = if is_known || self.by_name.len() < most {
            name
        } else {
            OTHERS
        };
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.into(), Account::default());
        }
        self.by_name
            .get_mut(name)
            .expect("it was put in if it was not there")
    }

    /// Forgets those who have brought in nothing for a period, when there are twice as many as there
    /// were the last time.
    fn sweep(&mut self, first: i64, most: usize) {
        const FEW: usize = 64;
        if self.by_name.len() < self.next_look.max(FEW) {
            return;
        }
        self.by_name.retain(|_, account| {
            account.forget(first);
            !account.is_idle()
        });
        self.next_look = (self.by_name.len() * 2).min(most);
    }
}

/// What is set aside for an image, until it is stored or this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    quotas: Arc<Quotas>,
    name: Arc<str>,
    held: Sum,
}

impl Reservation {
    /// Bytes that it is for.
    pub(crate) fn bytes(&self) -> u64 {
        self.held.bytes
    }

    /// Whether it is for the transmitter of this name.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        *self.name == *name
    }

    /// Is for `bytes` from now on. Fewer are always possible.
    pub(crate) fn resize(&mut self, bytes: u64, now: UnixNanos) -> Result<(), Exceeded> {
        let whole = Sum { images: 1, bytes };
        if bytes > self.held.bytes {
            let bytes = bytes - self.held.bytes;
            let more = Sum { images: 0, bytes };
            self.quotas.try_reserve(&self.name, more, whole, now)?;
        } else {
            let bytes = self.held.bytes - bytes;
            self.quotas.give_back(&self.name, Sum { images: 0, bytes });
        }
        self.held = whole;
        Ok(())
    }

    /// The image is stored, and has come to `bytes`.
    pub(crate) fn stored(mut self, bytes: u64, now: UnixNanos) {
        let held = std::mem::take(&mut self.held);
        self.quotas.settle(&self.name, held, bytes, now);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.held != Sum::default() {
            self.quotas.give_back(&self.name, self.held);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600 * 1_000_000_000;
    /// Of a slot.
    const MINUTE: i64 = HOUR / 60;

    fn quotas(bytes: Option<u64>, images: Option<u64>) -> Arc<Quotas> {
        Quotas::new(Quota {
            bytes: bytes.map(ByteSize),
            images,
            period: Duration::from_secs(3_600),
        })
        .unwrap()
    }

    fn at(ns: i64) -> UnixNanos {
        UnixNanos(1_000 * HOUR + ns)
    }

    fn bring(quotas: &Arc<Quotas>, name: &str, bytes: u64, now: i64) -> Result<(), Exceeded> {
        let reserved = quotas.reserve(name, bytes, at(now))?;
        reserved.stored(bytes, at(now));
        Ok(())
    }

    #[test]
    fn what_is_stored_and_what_is_on_its_way_do_not_go_beyond() {
        let quotas = quotas(Some(100), None);
        bring(&quotas, "cam-1", 40, 0).unwrap();
        let first = quotas.reserve("cam-1", 30, at(0)).unwrap();
        let second = quotas.reserve("cam-1", 30, at(0)).unwrap();
        let refused = quotas.reserve("cam-1", 1, at(0)).unwrap_err();
        assert!(
            refused.message.contains("RECEIVER_QUOTA_BYTES"),
            "{refused:?}"
        );
        assert!(refused.message.contains("100B"), "{refused:?}");
        bring(&quotas, "cam-2", 100, 0).unwrap();
        drop(first);
        second.stored(20, at(0));
        // It came to less than it was announced with.
        bring(&quotas, "cam-1", 40, 0).unwrap();
        assert!(bring(&quotas, "cam-1", 1, 0).is_err());
        assert!(bring(&quotas, "cam-3", 101, 0).unwrap_err().after.is_none());
    }

    #[test]
    fn images_are_counted_as_bytes_are() {
        let quotas = quotas(None, Some(2));
        bring(&quotas, "cam-1", 0, 0).unwrap();
        let held = quotas.reserve("cam-1", 1 << 40, at(0)).unwrap();
        let refused = bring(&quotas, "cam-1", 1, 0).unwrap_err();
        assert!(
            refused.message.contains("RECEIVER_QUOTA_IMAGES"),
            "{refused:?}"
        );
        drop(held);
        bring(&quotas, "cam-1", 1, 0).unwrap();
        let none = Quota {
            bytes: None,
            images: None,
            period: Duration::from_secs(1),
        };
        assert!(Quotas::new(none).is_none());
    }

    #[test]
    fn the_period_goes_along_with_the_time() {
        let quotas = quotas(Some(100), None);
        bring(&quotas, "cam-1", 60, 0).unwrap();
        bring(&quotas, "cam-1", 40, 30 * MINUTE).unwrap();
        let refused = bring(&quotas, "cam-1", 50, 31 * MINUTE).unwrap_err();
        // The first is older than an hour in half of one, and a slot has to pass as a whole.
        assert_eq!(refused.after, Some(Duration::from_secs(30 * 60)));
        assert!(bring(&quotas, "cam-1", 50, 60 * MINUTE).is_err());
        bring(&quotas, "cam-1", 50, 61 * MINUTE).unwrap();
        let refused = bring(&quotas, "cam-1", 50, 61 * MINUTE).unwrap_err();
        assert_eq!(refused.after, Some(Duration::from_secs(30 * 60)));
        // The clock is set back: nothing is forgotten, and nothing breaks.
        assert!(bring(&quotas, "cam-1", 50, 0).is_err());
        bring(&quotas, "cam-1", 100, 300 * MINUTE).unwrap();
    }

    #[test]
    fn what_came_while_the_clock_was_ahead_counts_for_one_period_and_not_until_that_time() {
        let year = 365 * 24 * 60 * MINUTE;
        let brought = quotas(Some(100), None);
        bring(&brought, "cam-1", 60, year).unwrap();
        // The same, as a start finds it in the catalogue.
        let loaded = quotas(Some(100), None);
        loaded.load(vec![StoredSum {
            transmitter: "cam-1".to_owned(),
            slot: loaded.slot_of(at(year)),
            images: 1,
            bytes: 60,
        }]);
        for quotas in [brought, loaded] {
            assert!(bring(&quotas, "cam-1", 50, 0).is_err());
            bring(&quotas, "cam-1", 40, MINUTE).unwrap();
            assert!(bring(&quotas, "cam-1", 50, 59 * MINUTE).is_err());
            bring(&quotas, "cam-1", 50, 63 * MINUTE).unwrap();
        }
    }

    #[test]
    fn a_reservation_grows_as_far_as_there_is_room_and_shrinks_at_any_time() {
        let quotas = quotas(Some(100), Some(3));
        let mut one = quotas.reserve("cam-1", 10, at(0)).unwrap();
        let mut two = quotas.reserve("cam-1", 50, at(0)).unwrap();
        one.resize(50, at(0)).unwrap();
        assert!(one.resize(51, at(0)).is_err());
        assert_eq!(one.bytes(), 50);
        two.resize(20, at(0)).unwrap();
        one.resize(80, at(0)).unwrap();
        drop((one, two));
        let whole = quotas.reserve("cam-1", 100, at(0)).unwrap();
        drop(whole);
        assert!(quotas.accounts.lock().by_name["cam-1"].is_idle());
    }

    #[test]
    fn what_the_catalogue_knows_counts() {
        let quotas = quotas(Some(100), None);
        let first = quotas.first_slot(at(0));
        let sum = |slot, bytes| StoredSum {
            transmitter: "cam-1".to_owned(),
            slot,
            images: 1,
            bytes,
        };
        quotas.load(vec![sum(first, 30), sum(first + 30, 60)]);
        assert!(bring(&quotas, "cam-1", 11, 0).is_err());
        bring(&quotas, "cam-1", 10, 0).unwrap();
        bring(&quotas, "cam-1", 30, MINUTE).unwrap();
        assert!(bring(&quotas, "cam-1", 1, MINUTE).is_err());
    }

    #[test]
    fn names_that_are_made_up_take_no_memory_beyond_a_bound() {
        let quota = Quota {
            bytes: Some(ByteSize(10)),
            images: None,
            period: Duration::from_secs(3_600),
        };
        let quotas = Arc::new(Quotas::with_accounts(quota, 1_000));
        let known = || quotas.accounts.lock().by_name.len();
        for number in 0..5_000 {
            drop(quotas.reserve(&format!("gone-{number}"), 1, at(0)).unwrap());
        }
        assert!(known() <= 1_000, "{}", known());
        let mut refused = 0;
        for number in 0..5_000 {
            let brought = bring(&quotas, &format!("cam-{number}"), 6, MINUTE);
            refused += u32::from(brought.is_err());
        }
        assert!(refused > 3_900, "{refused}: those beyond have one together");
        assert!(known() <= 1_001, "{}", known());
        bring(&quotas, "cam-9999", 6, 200 * MINUTE).unwrap();
        assert!(known() <= 2, "{}", known());
    }
}
