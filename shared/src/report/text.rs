//! Reports as people read them in a terminal or a pipe, 80 columns wide.

use std::fmt::Write as _;

use super::align::{Column, Side, align};
use super::model::{Distribution, Ledger, LossReason, Report, Usage, Wire};
use super::{ImageRow, Outcome, format};

/// Images that the block shows one by one.
const BLOCK_IMAGES: usize = 1_000;

/// Longest reason in a line, in characters.
const REASON_SHOWN: usize = 160;

/// Longest reason of a loss in the table, in characters.
const LOSS_SHOWN: usize = 32;

/// Longest name in a line, in characters.
const NAME_SHOWN: usize = 40;

impl Report {
    /// The report in short: one line an image and the sums.
    pub fn block(&self) -> String {
        let mut text = format!(
            "=== {} performance test: {} images transfer ===\n",
            self.transport, self.totals.captured
        );
        for (at, row) in self.images.iter().take(BLOCK_IMAGES).enumerate() {
            text.push_str(&image_line(at + 1, row));
            text.push('\n');
        }
        let hidden = self.images.len().saturating_sub(BLOCK_IMAGES) as u64 + self.rows_omitted;
        if hidden > 0 {
            line(&mut text, format_args!("... and {hidden} more"));
        }
        if let Some(unseen) = self.unseen() {
            line(&mut text, format_args!("Images not in this list: {unseen}"));
        }
        line(
            &mut text,
            format_args!(
                "Total transfer time (including {} delays): {}",
                format::delay(self.delay_ns),
                format::millis(self.total_time_ns)
            ),
        );
        line(
            &mut text,
            format_args!(
                "Sum of transmission times: {}",
                format::millis(self.sum_transmission_ns)
            ),
        );
        text
    }

    /// Lost and owed images that have no row, because the receiver has never seen them.
    fn unseen(&self) -> Option<String> {
        let rows = |outcome| {
            self.images
                .iter()
                .filter(|row| row.outcome == outcome)
                .count() as u64
        };
        let missing: Vec<String> = [
            (Outcome::Lost, self.totals.lost),
            (Outcome::Owed, self.totals.owed),
        ]
        .into_iter()
        .map(|(outcome, total)| (outcome, total.saturating_sub(rows(outcome))))
        .filter(|(_, count)| *count > 0)
        .map(|(outcome, count)| format!("{count} {}", outcome.key()))
        .collect();
        // Among rows left out there may be such images too, and then they cannot be told apart.
        (self.rows_omitted == 0 && !missing.is_empty()).then(|| missing.join(", "))
    }

    /// Everything the report says in total.
    pub fn table(&self) -> String {
        let label = Column {
            side: Side::Left,
            most: 24,
        };
        let value = Column {
            side: Side::Left,
            most: 54,
        };
        let mut text = format!("{}\n", self.title());
        text.push_str(&align(&[label, value], &self.lines()));
        if self.transmission.is_some() || self.delivery.is_some() {
            text.push('\n');
            text.push_str(&self.distributions());
        }
        text
    }

    fn title(&self) -> String {
        let shown = |name: &str| format::printable(name, NAME_SHOWN);
        let mut title = format!("{} transfer", self.transport);
        if !self.run.is_empty() {
            title = format!("{title}, run {}", shown(&self.run));
        }
        if !self.transmitter.is_empty() {
            title = format!("{title}\nfrom {}", shown(&self.transmitter));
            if let Some(receiver) = &self.receiver {
                title = format!("{title} to {}", shown(receiver));
            }
        }
        title
    }

    fn lines(&self) -> Vec<Vec<String>> {
        let totals = &self.totals;
        let mut lines = Lines::default();
        lines.rule();
        lines.add("Images captured", totals.captured.to_string());
        lines.add("  delivered", totals.delivered.to_string());
        lines.add("  duplicates", totals.duplicates.to_string());
        lines.add("  quarantined", totals.quarantined.to_string());
        lines.add("  lost", totals.lost.to_string());
        lines.add("  owed", totals.owed.to_string());
        let adds_up = if totals.reconciles {
            "yes"
        } else {
            "NO: see the figures above"
        };
        lines.add("  adds up", adds_up.to_owned());
        lines.add("Retries", totals.retries.to_string());
        lines.add("Attempts rejected", totals.rejected.to_string());
        if let Some(ledger) = &self.ledger {
            ledger_lines(ledger, &mut lines);
        }
        lines.rule();
        lines.add("Bytes delivered", format::bytes(totals.bytes));
        lines.optional(
            "Image sizes",
            self.sizes.map(|sizes| {
                let [min, mean, max] = [sizes.min, sizes.mean, sizes.max].map(format::bytes);
                format!("min {min}, mean {mean}, max {max}")
            }),
        );
        let delays = match self.delay_ns {
            0 => String::new(),
            delay => format!(" (including {} delays)", format::delay(delay)),
        };
        lines.add(
            "Total time",
            format!("{}{delays}", format::millis(self.total_time_ns)),
        );
        lines.add(
            "Sum of transmissions",
            format::millis(self.sum_transmission_ns),
        );
        lines.optional(
            "Throughput",
            self.throughput_bytes_per_second.map(format::rate),
        );
        lines.optional(
            "On the wire",
            self.wire.map(|wire| {
                let (sent, received) = (format::bytes(wire.sent), format::bytes(wire.received));
                let overhead = wire
                    .overhead_percent
                    .map(|percent| format!(", overhead {}", format::percent(percent)))
                    .unwrap_or_default();
                format!("{sent} sent, {received} received{overhead}")
            }),
        );
        lines.optional(
            "Image bytes sent",
            self.wire
                .filter(|wire| wire.image_bytes_resent > 0)
                .map(|wire| {
                    let [sent, again] =
                        [wire.image_bytes_sent, wire.image_bytes_resent].map(format::bytes);
                    format!("{sent}, of which {again} again")
                }),
        );
        lines.optional(
            "Clock offset",
            self.clock.map(|clock| {
                let (offset, error) = (
                    format::signed_duration(clock.offset_ns),
                    format::duration(clock.error_ns),
                );
                format!("{offset} ± {error} ({} samples)", clock.samples)
            }),
        );
        self.usage_lines(&mut lines);
        lines.rows
    }

    fn usage_lines(&self, lines: &mut Lines) {
        let usage = &self.usage;
        // The process also worked for images of earlier runs that it carried.
        let carried = |wire: &Wire| {
            wire.image_bytes_sent
                .saturating_sub(wire.image_bytes_resent)
        };
        let bytes = self.totals.bytes.max(self.wire.as_ref().map_or(0, carried));
        let time = |usage: Usage| cpu(usage.cpu_seconds, bytes);
        let memory = |usage: Usage| format::bytes(usage.peak_memory_bytes);
        if usage.shared_process {
            let both = usage.cpu_seconds().map(|seconds| cpu(seconds, bytes));
            lines.optional("CPU, both in one process", both);
            let peak = [usage.transmitter, usage.receiver].into_iter().flatten();
            let peak = peak.max_by_key(|usage| usage.peak_memory_bytes);
            lines.optional("Peak memory, both", peak.map(memory));
            return;
        }
        lines.optional("CPU, transmitter", usage.transmitter.map(time));
        lines.optional("CPU, receiver", usage.receiver.map(time));
        lines.optional("Peak memory, transmitter", usage.transmitter.map(memory));
        lines.optional("Peak memory, receiver", usage.receiver.map(memory));
    }

    fn distributions(&self) -> String {
        let both = [self.transmission, self.delivery];
        let row = |name: &str, cell: &dyn Fn(&Distribution) -> String| {
            let cells = both
                .iter()
                .map(|times| times.as_ref().map_or_else(|| "-".to_owned(), cell));
            std::iter::once(name.to_owned())
                .chain(cells)
                .collect::<Vec<_>>()
        };
        let mut rows = vec![
            ["Time", "Transmission", "Delivery"]
                .map(str::to_owned)
                .into(),
            Vec::new(),
            row("images", &|times| times.count.to_string()),
        ];
        for (at, name) in TIMES.into_iter().enumerate() {
            rows.push(row(name, &|times| format::millis(times.figures()[at])));
        }
        let columns = [Side::Left, Side::Right, Side::Right].map(|side| Column { side, most: 30 });
        align(&columns, &rows)
    }
}

/// Names of [`Distribution::figures`].
const TIMES: [&str; 9] = [
    "min", "mean", "p50", "p90", "p95", "p99", "p99.9", "max", "sum",
];

impl Distribution {
    fn figures(&self) -> [u64; 9] {
        let Self {
            count: _,
            min,
            mean,
            p50,
            p90,
            p95,
            p99,
            p99_9,
            max,
            sum,
        } = *self;
        [min, mean, p50, p90, p95, p99, p99_9, max, sum]
    }
}

/// What did not arrive.
fn ledger_lines(ledger: &Ledger, lines: &mut Lines) {
    let most = match ledger.reasons.first() {
        Some(LossReason { reason, images }) => {
            let reason = format::printable(reason, LOSS_SHOWN);
            format!(", {images} of them {reason}")
        }
        None => String::new(),
    };
    lines.add("Losses named", format!("{}{most}", ledger.named));
    lines.add("Missing without a word", ledger.missing.to_string());
    if ledger.reused > 0 {
        lines.add("Numbers given twice", ledger.reused.to_string());
    }
}

/// CPU time, in all and for each gigabyte.
fn cpu(seconds: f64, bytes: u64) -> String {
    let each = match bytes {
        0 => String::new(),
        _ => format!(" ({}/GB)", format::seconds(seconds / (bytes as f64 / 1e9))),
    };
    format!("{}{each}", format::seconds(seconds))
}

fn image_line(number: usize, row: &ImageRow) -> String {
    let outcome = row.outcome.key();
    match (row.outcome, row.transmission_ns) {
        (Outcome::Delivered | Outcome::Duplicate, Some(nanos)) => {
            format!(
                "Image {number} transmission time: {}",
                format::millis(nanos)
            )
        }
        (Outcome::Delivered | Outcome::Duplicate, None) => {
            format!("Image {number}: {outcome} (transmission time not known)")
        }
        _ => match &row.reason {
            Some(reason) => {
                format!(
                    "Image {number}: {outcome} ({})",
                    format::printable(reason, REASON_SHOWN)
                )
            }
            None => format!("Image {number}: {outcome}"),
        },
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into memory cannot fail.
    let _ = text.write_fmt(arguments);
    text.push('\n');
}

/// Lines of a name and a value.
#[derive(Default)]
struct Lines {
    rows: Vec<Vec<String>>,
}

impl Lines {
    fn rule(&mut self) {
        self.rows.push(Vec::new());
    }

    fn add(&mut self, name: &str, value: String) {
        self.rows.push(vec![name.to_owned(), value]);
    }

    fn optional(&mut self, name: &str, value: Option<String>) {
        self.add(name, value.unwrap_or_else(|| "-".to_owned()));
    }
}
