//! Adds up a report, image by image, in memory that does not grow with their number.

use super::model::{Ledger, Report, SCHEMA, Sizes, Totals, Usage, UsageOfBoth, Wire};
use super::times::Times;
use super::{ImageRow, Outcome, RunAccount};
use crate::clock::{ClockEstimate, UnixNanos};
use crate::image::Transport;

/// Rows that a report carries by default.
const KEEP_ROWS: usize = 10_000;

/// What a report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Label of the run.
    pub run: String,
    /// How its images travelled.
    pub transport: Transport,
    /// Who sent them.
    pub transmitter: String,
    /// Who received them.
    pub receiver: Option<String>,
    /// When the report is made.
    pub generated_at: UnixNanos,
}

/// Adds up a [`Report`].
///
/// Takes every image of the series once, in any order, and the accounts of its transmitters. Where
/// there is an account it settles the counts, as only the transmitter knows what it captured.
#[derive(Debug)]
pub struct ReportBuilder {
    header: Header,
    keep_rows: usize,
    rows: Vec<ImageRow>,
    counts: Counts,
    transmission: Times,
    delivery: Times,
    /// Of the receiver's clock.
    first: Option<UnixNanos>,
    last: Option<UnixNanos>,
    /// One for each transmitter, without images.
    accounts: Vec<RunAccount>,
    duplicates: u64,
    rejected: u64,
    receiver_usage: Option<Usage>,
    ledger: Option<Ledger>,
}

/// What the rows add up to.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    delivered: u64,
    duplicates: u64,
    quarantined: u64,
    lost: u64,
    owed: u64,
    retries: u64,
    /// Bytes of delivered images.
    bytes: u64,
    /// Bytes of all images that arrived.
    arrived_bytes: u64,
    smallest: u64,
    largest: u64,
}

impl Counts {
    fn rows(&self) -> u64 {
        self.delivered + self.duplicates + self.quarantined + self.lost + self.owed
    }
}

impl ReportBuilder {
    /// An empty report.
    pub fn new(header: Header) -> Self {
        Self {
            header,
            keep_rows: KEEP_ROWS,
            rows: Vec::new(),
            counts: Counts::default(),
            transmission: Times::new(),
            delivery: Times::new(),
            first: None,
            last: None,
            accounts: Vec::new(),
            duplicates: 0,
            rejected: 0,
            receiver_usage: None,
            ledger: None,
        }
    }

    /// Sets how many rows the report carries; the others are only counted.
    pub fn keep_rows(&mut self, rows: usize) -> &mut Self {
        self.keep_rows = rows;
        self
    }

    /// Takes an image.
    pub fn add(&mut self, row: &ImageRow) -> &mut Self {
        let counts = &mut self.counts;
        match row.outcome {
            Outcome::Delivered => {
                counts.smallest = if counts.delivered == 0 {
                    row.size
                } else {
                    counts.smallest.min(row.size)
                };
                counts.largest = counts.largest.max(row.size);
                counts.bytes = counts.bytes.saturating_add(row.size);
                counts.delivered += 1;
            }
            Outcome::Duplicate => counts.duplicates += 1,
            Outcome::Quarantined => counts.quarantined += 1,
            Outcome::Lost => counts.lost += 1,
            Outcome::Owed => counts.owed += 1,
        }
        if row.has_arrived() {
            counts.arrived_bytes = counts.arrived_bytes.saturating_add(row.size);
        }
        counts.retries += u64::from(row.attempts.saturating_sub(1));
        if matches!(row.outcome, Outcome::Delivered | Outcome::Duplicate) {
            self.transmission.record(row.transmission_ns);
            self.delivery.record(row.delivery_ns);
        }
        self.first = [self.first, row.first_byte.or(row.send_started)]
            .into_iter()
            .flatten()
            .min();
        self.last = [self.last, row.end()].into_iter().flatten().max();
        if self.rows.len() < self.keep_rows {
            self.rows.push(row.clone());
        }
        self
    }

    /// Takes what a transmitter told; a later account of the same transmitter replaces its earlier
    /// one.
    pub fn account(&mut self, account: &RunAccount) -> &mut Self {
        self.accounts
            .retain(|known| known.transmitter != account.transmitter);
        // The images in it are the receiver's to merge, and may be many.
        let totals = RunAccount {
            run: account.run.clone(),
            transmitter: account.transmitter.clone(),
            images: Vec::new(),
            ..*account
        };
        self.accounts.push(totals);
        self
    }

    /// Images sent again that have no row; counts unless an account does.
    pub fn duplicates(&mut self, images: u64) -> &mut Self {
        self.duplicates = images;
        self
    }

    /// Attempts that the receiver turned down.
    pub fn rejected(&mut self, attempts: u64) -> &mut Self {
        self.rejected = attempts;
        self
    }

    /// What the receiver's process used.
    pub fn receiver_usage(&mut self, usage: Usage) -> &mut Self {
        self.receiver_usage = Some(usage);
        self
    }

    /// What did not arrive. What is missing without a word keeps the counts from adding up.
    pub fn ledger(&mut self, ledger: Ledger) -> &mut Self {
        self.ledger = Some(ledger);
        self
    }

    /// The report.
    pub fn finish(mut self) -> Report {
        // Stable: images of clients that do not count stay in the order of their arrival.
        self.rows.sort_by_key(|row| row.sequence);
        let mut totals = self.totals();
        let ledger = self.ledger.as_ref();
        totals.reconciles &= ledger.is_none_or(|ledger| ledger.missing == 0 && ledger.reused == 0);
        let clock = self.clock();
        let (started, ended) = self.span(clock);
        let total_time_ns = match (started, ended) {
            (Some(started), Some(ended)) => u64::try_from(ended.since(started)).unwrap_or(0),
            _ => 0,
        };
        let delay_ns = self
            .accounts
            .iter()
            .map(|account| account.delay_ns)
            .max()
            .unwrap_or(0);
        let busy_ns = busy_time(
            total_time_ns,
            delay_ns,
            totals.captured,
            self.transmission.sum(),
        );
        let counts = self.counts;
        Report {
            schema: SCHEMA.to_owned(),
            delay_ns,
            total_time_ns,
            sum_transmission_ns: self.transmission.sum(),
            throughput_bytes_per_second: (busy_ns > 0 && totals.bytes > 0)
                .then(|| totals.bytes as f64 / (busy_ns as f64 / 1e9)),
            transmission: self.transmission.distribution(),
            delivery: self.delivery.distribution(),
            sizes: (counts.delivered > 0).then(|| Sizes {
                min: counts.smallest,
                mean: counts.bytes / counts.delivered,
                max: counts.largest,
            }),
            wire: self.wire(),
            clock,
            usage: self.usage(),
            rows_omitted: counts.rows() - self.rows.len() as u64,
            images: self.rows,
            ledger: self.ledger,
            totals,
            started,
            ended,
            run: self.header.run,
            transport: self.header.transport,
            transmitter: self.header.transmitter,
            receiver: self.header.receiver,
            generated_at: self.header.generated_at,
        }
    }

    fn sum(&self, figure: impl Fn(&RunAccount) -> u64) -> u64 {
        self.accounts
            .iter()
            .map(figure)
            .fold(0, u64::saturating_add)
    }

    fn totals(&self) -> Totals {
        let rows = &self.counts;
        let common = Totals {
            rejected: self.rejected,
            bytes: rows.bytes,
            ..Totals::default()
        };
        if self.accounts.is_empty() {
            return Totals {
                captured: rows.rows() + self.duplicates,
                delivered: rows.delivered,
                duplicates: rows.duplicates + self.duplicates,
                quarantined: rows.quarantined,
                lost: rows.lost,
                owed: rows.owed,
                retries: rows.retries,
                reconciles: true,
                ..common
            };
        }
        let captured = self.sum(|account| account.captured);
        let delivered = self.sum(|account| account.delivered);
        let quarantined = self.sum(|account| account.quarantined);
        // While a run goes on, rows are ahead of the latest account. Afterwards each answer has its
        // row, and rows beyond the answers are those of images whose receipt got lost: the account
        // has them as duplicates or owed.
        let rows_agree = !self.accounts.iter().all(|account| account.finished)
            || (rows.delivered + rows.duplicates >= delivered
                && rows.quarantined >= quarantined
                && rows.rows() <= captured);
        Totals {
            captured,
            delivered,
            duplicates: self.sum(|account| account.duplicates),
            quarantined,
            lost: self.sum(|account| account.lost),
            owed: self.sum(|account| account.owed),
            retries: self.sum(|account| account.retries),
            reconciles: rows_agree && self.accounts.iter().all(RunAccount::reconciles),
            ..common
        }
    }

    /// The estimate with the largest error, which then holds for all transmitters' times.
    fn clock(&self) -> Option<ClockEstimate> {
        self.accounts
            .iter()
            .filter_map(|account| account.clock)
            .max_by_key(|clock| clock.error_ns)
    }

    fn span(&self, clock: Option<ClockEstimate>) -> (Option<UnixNanos>, Option<UnixNanos>) {
        let Some(started) = self.accounts.iter().map(|account| account.started).min() else {
            return (self.first, self.last);
        };
        let ends: Option<Vec<UnixNanos>> =
            self.accounts.iter().map(|account| account.ended).collect();
        let ended = match ends.and_then(|ends| ends.into_iter().max()) {
            Some(ended) => Some(ended),
            // The run goes on: up to the last image, brought to the transmitter's clock.
            None => self.last.map(|last| {
                let offset = clock.map_or(0, |clock| clock.offset_ns);
                UnixNanos(last.0.saturating_sub(offset)).max(started)
            }),
        };
        (Some(started), ended)
    }

    fn wire(&self) -> Option<Wire> {
        let sent = self.sum(|account| account.wire_bytes_sent);
        let received = self.sum(|account| account.wire_bytes_received);
        let image_bytes_sent = self.sum(|account| account.image_bytes_sent);
        let image_bytes_resent = self.sum(|account| account.image_bytes_resent);
        // More than arrived in this run: images of earlier runs went over the same sockets.
        let first_time = image_bytes_sent.saturating_sub(image_bytes_resent);
        let images = self.counts.arrived_bytes.max(first_time);
        let overhead = sent.saturating_sub(images) as f64;
        (sent > 0 || received > 0).then(|| Wire {
            sent,
            received,
            image_bytes_sent,
            image_bytes_resent,
            overhead_percent: (images > 0).then(|| overhead / images as f64 * 100.0),
        })
    }

    fn usage(&self) -> UsageOfBoth {
        let finite = |seconds: f64| {
            if seconds.is_finite() {
                seconds.max(0.0)
            } else {
                0.0
            }
        };
        let transmitter = self.accounts.iter().map(|account| Usage {
            cpu_seconds: finite(account.cpu_seconds),
            peak_memory_bytes: account.peak_memory_bytes,
        });
        UsageOfBoth {
            transmitter: transmitter.reduce(|one, other| Usage {
                cpu_seconds: one.cpu_seconds + other.cpu_seconds,
                peak_memory_bytes: one.peak_memory_bytes.max(other.peak_memory_bytes),
            }),
            receiver: self.receiver_usage.map(|usage| Usage {
                cpu_seconds: finite(usage.cpu_seconds),
                ..usage
            }),
            shared_process: self.accounts.iter().any(|account| account.shared_process),
        }
    }
}

/// The part of the total time in which images were on their way: without the delays between them,
/// but not less than the transmissions took, as jitter makes delays shorter than set.
fn busy_time(total_ns: u64, delay_ns: u64, images: u64, sum_transmission_ns: u64) -> u64 {
    let delays = delay_ns.saturating_mul(images.saturating_sub(1));
    match delays {
        0 => total_ns,
        _ => total_ns
            .saturating_sub(delays)
            .max(sum_transmission_ns.min(total_ns)),
    }
}

impl ImageRow {
    /// Whether all of its bytes reached the receiver.
    fn has_arrived(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::Delivered | Outcome::Duplicate | Outcome::Quarantined
        )
    }

    /// When the receiver was done with it or, if only the transmitter's times are known, the
    /// receipt came.
    fn end(&self) -> Option<UnixNanos> {
        let receipt = self
            .send_started
            .zip(self.delivery_ns)
            .map(|(sent, delivery)| {
                UnixNanos(
                    sent.0
                        .saturating_add(i64::try_from(delivery).unwrap_or(i64::MAX)),
                )
            });
        self.durable.or(self.last_byte).or(receipt)
    }
}
