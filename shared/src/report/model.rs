//! The report as data. Its form as JSON is described in `docs/specs/report.schema.json`.

use serde::{Deserialize, Serialize};

use super::ImageRow;
use crate::clock::{ClockEstimate, UnixNanos};
use crate::image::Transport;

/// Value of [`Report::schema`].
pub const SCHEMA: &str = "pantelegraph.report.v1";

/// What one series of transfers did: a run over one transport.
///
/// Times of the transmitter (start, end, clock, delivery) are there when its account came; of a
/// client that sends none, everything is told from what the receiver saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name and version of this form: [`SCHEMA`].
    pub schema: String,
    /// Label of the run; empty when the images have none.
    pub run: String,
    /// How the images travelled.
    pub transport: Transport,
    /// Who sent them.
    pub transmitter: String,
    /// Who received them.
    pub receiver: Option<String>,
    /// When the report was made.
    pub generated_at: UnixNanos,
    /// Start: of the run on the transmitter's clock or, without an account, the first byte's
    /// arrival on the receiver's.
    pub started: Option<UnixNanos>,
    /// End, on the same clock as the start.
    pub ended: Option<UnixNanos>,
    /// Delay between images by setting, nanoseconds.
    pub delay_ns: u64,
    /// Counts of images and bytes.
    pub totals: Totals,
    /// Start to end, delays included, nanoseconds.
    pub total_time_ns: u64,
    /// Sum of the transmission times of all delivered images, nanoseconds.
    pub sum_transmission_ns: u64,
    /// Delivered bytes per second of the total time without the delays between images.
    pub throughput_bytes_per_second: Option<f64>,
    /// One-way times: send start to last byte, corrected by the clocks' offset.
    pub transmission: Option<Distribution>,
    /// Send start to receipt, on the transmitter's monotonic clock.
    pub delivery: Option<Distribution>,
    /// Sizes of delivered images.
    pub sizes: Option<Sizes>,
    /// Bytes that went through the transmitter's sockets.
    pub wire: Option<Wire>,
    /// Receiver's clock minus transmitter's.
    pub clock: Option<ClockEstimate>,
    /// What it cost.
    pub usage: UsageOfBoth,
    /// What did not arrive, by the receiver's ledger; `None` in a transmitter's own report.
    #[serde(default)]
    pub ledger: Option<Ledger>,
    /// The images, by sequence number.
    pub images: Vec<ImageRow>,
    /// Images that are counted above and have no row here.
    pub rows_omitted: u64,
}

/// Counts of images and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Images taken from the source: all of those below together.
    pub captured: u64,
    /// Stored, with a receipt.
    pub delivered: u64,
    /// Stored before.
    pub duplicates: u64,
    /// Kept apart by the receiver.
    pub quarantined: u64,
    /// Never to arrive.
    pub lost: u64,
    /// Not answered yet.
    pub owed: u64,
    /// Times that images were sent again.
    pub retries: u64,
    /// Attempts that the receiver turned down.
    pub rejected: u64,
    /// Bytes of delivered images.
    pub bytes: u64,
    /// Whether the counts add up, among themselves and with the images.
    pub reconciles: bool,
}

/// A distribution of times, nanoseconds. Percentiles are exact to three significant digits, all
/// else to the nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named by themselves")]
pub struct Distribution {
    pub count: u64,
    pub min: u64,
    pub mean: u64,
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub max: u64,
    pub sum: u64,
}

/// Sizes of images, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Of the smallest.
    pub min: u64,
    /// Of all together, divided by their number.
    pub mean: u64,
    /// Of the largest.
    pub max: u64,
}

/// Bytes that went through the transmitter's sockets, framing included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Wire {
    /// Written.
    pub sent: u64,
    /// Read.
    pub received: u64,
    /// Bytes of images that were handed to the transport, those sent more than once included; 0
    /// when the transmitter does not tell.
    #[serde(default)]
    pub image_bytes_sent: u64,
    /// How many of them had been sent before.
    #[serde(default)]
    pub image_bytes_resent: u64,
    /// Bytes written beyond those of the images that arrived, in percent of the latter: framing,
    /// metadata and what was sent more than once. Images of earlier runs that the same sockets
    /// carried count as images.
    pub overhead_percent: Option<f64>,
}

/// What did not arrive. Transmitters do not tell by which transport a lost image would have come, so
/// the losses of a run over several transports are in the report of each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Images whose loss the transmitter told.
    pub named: u64,
    /// The reasons most often told.
    pub reasons: Vec<LossReason>,
    /// Images that are missing without a word: numbers below those that are still owed which
    /// neither came nor were told as lost.
    pub missing: u64,
    /// Sequence numbers that several images had.
    pub reused: u64,
}

/// A reason for losses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossReason {
    /// As it was told.
    pub reason: String,
    /// Images lost for it.
    pub images: u64,
}

/// What a process used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time, user and system.
    pub cpu_seconds: f64,
    /// Highest resident memory.
    pub peak_memory_bytes: u64,
}

/// What both stations used.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct UsageOfBoth {
    /// The transmitter's process.
    pub transmitter: Option<Usage>,
    /// The receiver's process.
    pub receiver: Option<Usage>,
    /// Both are one process, so either figure is that of both stations.
    pub shared_process: bool,
}

impl UsageOfBoth {
    /// CPU time of both stations together, as far as it is known.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let transmitter = self.transmitter.map(|usage| usage.cpu_seconds);
        let receiver = self.receiver.map(|usage| usage.cpu_seconds);
        match (transmitter, receiver) {
            (Some(one), Some(other)) if self.shared_process => Some(one.max(other)),
            (Some(one), Some(other)) => Some(one + other),
            // Of a process that holds both stations, one figure is all there is to know.
            (Some(both), None) | (None, Some(both)) if self.shared_process => Some(both),
            _ => None,
        }
    }
}

impl Report {
    /// CPU time of both stations for each gigabyte (10^9 bytes) delivered.
    pub fn cpu_seconds_per_gigabyte(&self) -> Option<f64> {
        let seconds = self.usage.cpu_seconds()?;
        (self.totals.bytes > 0).then(|| seconds / (self.totals.bytes as f64 / 1e9))
    }
}
