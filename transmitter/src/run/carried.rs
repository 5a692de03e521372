//! Series of earlier processes: images of theirs that are owed still, and what the receiver is to be
//! told of them.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::json;
use shared::clock::UnixNanos;
use shared::image::{ImageMeta, Transport};
use shared::report::{ImageAccount, RunAccount};

use super::untold::{self, Untold};
use crate::delivery::{Settled, Settlement};
use crate::outbox::{Counts, Outbox, SeriesKey};

/// What became in this process of the images of an earlier series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedSeries {
    /// Label of the run.
    pub run: String,
    /// The transport that it was captured for.
    pub transport: Transport,
    /// Stored.
    pub delivered: u64,
    /// Kept apart by the receiver.
    pub quarantined: u64,
    /// Will never arrive.
    pub lost: u64,
    /// Owed still.
    pub owed: u64,
}

impl CarriedSeries {
    /// A few lines for people.
    pub(super) fn block(&self) -> String {
        let Self { run, transport, .. } = self;
        let images = self.delivered + self.quarantined + self.lost + self.owed;
        format!(
            "=== carried over from {run} ({transport}): {images} images ===\n\
             Delivered: {}, quarantined: {}, lost: {}, still owed: {}\n",
            self.delivered, self.quarantined, self.lost, self.owed
        )
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "run": self.run,
            "transport": self.transport.key(),
            "delivered": self.delivered,
            "quarantined": self.quarantined,
            "lost": self.lost,
            "owed": self.owed,
        })
    }
}

/// All series of which images are owed, or were at the start.
#[derive(Debug, Default)]
pub(super) struct Carried {
    series: Mutex<BTreeMap<SeriesKey, Earlier>>,
}

#[derive(Debug, Default)]
struct Earlier {
    /// What had happened to it before.
    before: Counts,
    account: Option<RunAccount>,
    /// What happened to its images since.
    since: Counts,
    retries: u64,
    untold: Untold,
    /// The counts that the receiver was told last.
    told: Option<Counts>,
    /// It is of this process, which has a report of it.
    reported: bool,
}

impl Earlier {
    fn counts(&self) -> Counts {
        add(self.before, self.since)
    }

    fn owed(&self) -> u64 {
        self.counts().owed()
    }
}

fn add(one: Counts, other: Counts) -> Counts {
    let answered =
        |counts: Counts| counts.delivered + counts.duplicates + counts.quarantined + counts.lost;
    Counts {
        // More answers than images would be a series whose beginning is not known.
        captured: (one.captured + other.captured).max(answered(one) + answered(other)),
        delivered: one.delivered + other.delivered,
        duplicates: one.duplicates + other.duplicates,
        quarantined: one.quarantined + other.quarantined,
        lost: one.lost + other.lost,
    }
}

/// Something to tell the receiver of an earlier series.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) key: SeriesKey,
    pub(super) account: RunAccount,
    counts: Counts,
}

impl Carried {
    /// What an earlier process left in the outbox.
    pub(super) async fn load(outbox: &dyn Outbox) -> Self {
        let series = outbox.series().await.into_iter();
        let series = series.map(|(key, before, account)| {
            let earlier = Earlier {
                before,
                account,
                ..Earlier::default()
            };
            (key, earlier)
        });
        Self {
            series: Mutex::new(series.collect()),
        }
    }

    /// A series of this process has ended with images that are owed still: a later one may go on
    /// with them.
    pub(super) fn adopt(&self, key: SeriesKey, account: RunAccount) {
        let before = Counts {
            captured: account.captured,
            delivered: account.delivered,
            duplicates: account.duplicates,
            quarantined: account.quarantined,
            lost: account.lost,
        };
        let earlier = Earlier {
            before,
            account: Some(account),
            told: Some(before),
            reported: true,
            ..Earlier::default()
        };
        self.series.lock().insert(key, earlier);
    }

    /// An image of an earlier series was settled over `present`.
    pub(super) fn settled(&self, settled: &Settled, present: Transport) {
        let mut all = self.series.lock();
        let earlier = series_of(&mut all, &settled.image.meta, present);
        earlier.retries += u64::from(settled.attempts.saturating_sub(1));
        match &settled.settlement {
            Settlement::Receipt(_) => {
                earlier.since.delivered += 1;
                earlier.untold.push(ImageAccount {
                    image_id: settled.image.meta.id,
                    delivery_ns: u64::try_from(settled.delivery.as_nanos()).unwrap_or(u64::MAX),
                    attempts: settled.attempts,
                });
            }
            Settlement::Quarantined(_) => earlier.since.quarantined += 1,
            Settlement::Lost(..) => earlier.since.lost += 1,
        }
        bound(&mut all);
    }

    /// An image of an earlier series was lost while it waited.
    pub(super) fn lost(&self, meta: &ImageMeta, present: Transport) {
        let mut all = self.series.lock();
        series_of(&mut all, meta, present).since.lost += 1;
    }

    /// What the account of a series of this process goes on from, when there was an earlier part of
    /// it: figures of both in one account.
    pub(super) fn continued(&self, key: &SeriesKey, now: RunAccount) -> RunAccount {
        let all = self.series.lock();
        let Some(earlier) = all.get(key) else {
            return now;
        };
        let counts = earlier.counts();
        let mut sum = RunAccount {
            captured: counts.captured + now.captured,
            delivered: counts.delivered + now.delivered,
            duplicates: counts.duplicates + now.duplicates,
            quarantined: counts.quarantined + now.quarantined,
            lost: counts.lost + now.lost,
            owed: counts.owed() + now.owed,
            retries: earlier.retries + now.retries,
            ..now
        };
        if let Some(account) = &earlier.account {
            sum.retries += account.retries;
            sum.wire_bytes_sent += account.wire_bytes_sent;
            sum.wire_bytes_received += account.wire_bytes_received;
            sum.image_bytes_sent += account.image_bytes_sent;
            sum.image_bytes_resent += account.image_bytes_resent;
            sum.cpu_seconds += account.cpu_seconds;
            sum.peak_memory_bytes = sum.peak_memory_bytes.max(account.peak_memory_bytes);
            sum.started = sum.started.min(account.started);
        }
        sum
    }

    /// Figures of images of the earlier part of a series that goes on.
    pub(super) fn take_untold(&self, key: &SeriesKey) -> Vec<ImageAccount> {
        let mut all = self.series.lock();
        all.get_mut(key)
            .map_or_else(Vec::new, |earlier| earlier.untold.take())
    }

    /// The next thing to tell of a series other than the present one.
    pub(super) fn message(&self, present: &SeriesKey, name: &str) -> Option<Message> {
        let mut all = self.series.lock();
        let (key, earlier) = all.iter_mut().find(|(key, earlier)| {
            *key != present
                && (earlier.told != Some(earlier.counts()) || !earlier.untold.is_empty())
        })?;
        let counts = earlier.counts();
        let images = earlier.untold.take();
        let finished = counts.owed() == 0 && earlier.untold.is_empty();
        let base = earlier.account.clone().unwrap_or_else(|| empty(key, name));
        let account = RunAccount {
            captured: counts.captured,
            delivered: counts.delivered,
            duplicates: counts.duplicates,
            quarantined: counts.quarantined,
            lost: counts.lost,
            owed: counts.owed(),
            retries: base.retries + earlier.retries,
            ended: finished.then(UnixNanos::now),
            finished,
            images,
            ..base
        };
        Some(Message {
            key: key.clone(),
            account,
            counts,
        })
    }

    /// The receiver was told.
    pub(super) fn told(&self, message: &Message) {
        if let Some(earlier) = self.series.lock().get_mut(&message.key) {
            earlier.told = Some(message.counts);
        }
    }

    /// The receiver was not told.
    pub(super) fn tell_later(&self, message: Message) {
        let mut all = self.series.lock();
        if let Some(earlier) = all.get_mut(&message.key) {
            earlier.untold.put_back(message.account.images);
        }
        bound(&mut all);
    }

    /// What this process did for all of them.
    pub(super) fn summary(&self) -> Vec<CarriedSeries> {
        let all = self.series.lock();
        let touched = all.iter().filter(|(_, earlier)| {
            earlier.since != Counts::default() || (earlier.owed() > 0 && !earlier.reported)
        });
        touched
            .map(|(key, earlier)| CarriedSeries {
                run: key.run.clone(),
                transport: key.transport,
                delivered: earlier.since.delivered,
                quarantined: earlier.since.quarantined,
                lost: earlier.since.lost,
                owed: earlier.owed(),
            })
            .collect()
    }
}

/// Sees to it that figures of all series together stay within what those of one may take.
fn bound(all: &mut BTreeMap<SeriesKey, Earlier>) {
    let total: usize = all.values().map(|earlier| earlier.untold.len()).sum();
    for _ in untold::MOST..total {
        if let Some(most) = all.values_mut().max_by_key(|earlier| earlier.untold.len()) {
            most.untold.drop_oldest();
        }
    }
}

/// The series that an image is of. An image knows its run but not its transport; where the run had
/// several, those that owe images are filled up in turn, the present transport's first.
fn series_of<'a>(
    all: &'a mut BTreeMap<SeriesKey, Earlier>,
    meta: &ImageMeta,
    present: Transport,
) -> &'a mut Earlier {
    let mut candidates: Vec<&SeriesKey> = all
        .iter()
        .filter(|(key, earlier)| key.run == meta.run && earlier.owed() > 0)
        .map(|(key, _)| key)
        .collect();
    candidates.sort_by_key(|key| key.transport != present);
    let key = candidates.first().map_or_else(
        || SeriesKey {
            run: meta.run.clone(),
            transport: present,
        },
        |key| (*key).clone(),
    );
    all.entry(key).or_default()
}

fn empty(key: &SeriesKey, name: &str) -> RunAccount {
    RunAccount {
        run: key.run.clone(),
        transport: key.transport,
        transmitter: name.to_owned(),
        captured: 0,
        delivered: 0,
        duplicates: 0,
        quarantined: 0,
        owed: 0,
        lost: 0,
        retries: 0,
        wire_bytes_sent: 0,
        wire_bytes_received: 0,
        image_bytes_sent: 0,
        image_bytes_resent: 0,
        cpu_seconds: 0.0,
        peak_memory_bytes: 0,
        delay_ns: 0,
        started: UnixNanos::now(),
        ended: None,
        clock: None,
        images: Vec::new(),
        finished: false,
        shared_process: false,
    }
}

#[cfg(test)]
mod tests {
    use shared::image::ImageId;

    use super::*;

    #[test]
    fn figures_of_all_series_together_stay_within_those_of_one() {
        let mut all = BTreeMap::new();
        let parts = [("few", 100), ("many", 60_000), ("more", 50_000)];
        for (run, count) in parts {
            let key = SeriesKey {
                run: run.to_owned(),
                transport: Transport::Rest,
            };
            let earlier: &mut Earlier = all.entry(key).or_default();
            for number in 0..count {
                earlier.untold.push(ImageAccount {
                    image_id: ImageId::new(),
                    delivery_ns: number,
                    attempts: 1,
                });
            }
        }
        bound(&mut all);
        let left: Vec<usize> = all.values().map(|earlier| earlier.untold.len()).collect();
        assert_eq!(left[0], 100, "those with the most give way");
        assert_eq!(left.iter().sum::<usize>(), untold::MOST);
        let oldest = all
            .values_mut()
            .nth(1)
            .map(|many| many.untold.take()[0].delivery_ns);
        assert!(oldest > Some(0), "the oldest give way");
    }
}
