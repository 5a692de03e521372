//! Per-image and total metrics of a run, as both stations and the `pantelegraph` command show them.

use serde::{Deserialize, Serialize};

use crate::clock::{ClockEstimate, UnixNanos};
use crate::image::{ImageId, Transport};

mod align;
mod build;
mod comparison;
pub mod csv;
pub mod format;
mod model;
mod text;
mod times;

pub use build::{Header, ReportBuilder};
pub use comparison::comparison;
pub use model::{
    Distribution, Ledger, LossReason, Report, SCHEMA, Sizes, Totals, Usage, UsageOfBoth, Wire,
};

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Stored, with a receipt.
    Delivered,
    /// The receiver had stored it before.
    Duplicate,
    /// Kept apart by the receiver, because it is not a whole image of the declared kind.
    Quarantined,
    /// Will never arrive; the loss ledger says why.
    Lost,
    /// Not answered yet.
    Owed,
}

/// One image of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRow {
    /// Counted from 1 at the transmitter; 0 when the client does not count.
    pub sequence: u64,
    /// Identity.
    pub image_id: ImageId,
    /// Name at the source.
    pub name: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, when it was not delivered.
    pub reason: Option<String>,
    /// Times it was sent.
    pub attempts: u32,
    /// Captured, transmitter's clock.
    pub captured: Option<UnixNanos>,
    /// Entered the outbox, transmitter's clock.
    pub queued: Option<UnixNanos>,
    /// Last attempt to send it began, transmitter's clock.
    pub send_started: Option<UnixNanos>,
    /// First byte arrived, receiver's clock.
    pub first_byte: Option<UnixNanos>,
    /// Last byte arrived, receiver's clock.
    pub last_byte: Option<UnixNanos>,
    /// Found right, receiver's clock.
    pub verified: Option<UnixNanos>,
    /// Stored with the receipt's durability, receiver's clock.
    pub durable: Option<UnixNanos>,
    /// One way: send start to last byte, corrected by the clocks' offset, nanoseconds.
    pub transmission_ns: Option<u64>,
    /// The true transmission time lies within plus or minus this much.
    pub transmission_error_ns: Option<u64>,
    /// Send start to receipt on the transmitter's monotonic clock, nanoseconds.
    pub delivery_ns: Option<u64>,
}

/// What the transmitter knows of a run and the receiver cannot see. Numbers are totals so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunAccount {
    /// Label of the run.
    pub run: String,
    /// Transport of this series.
    pub transport: Transport,
    /// Identity of the transmitter.
    pub transmitter: String,
    /// Images taken from the source.
    pub captured: u64,
    /// Images with a receipt `stored`.
    pub delivered: u64,
    /// Images with a receipt `duplicate`.
    pub duplicates: u64,
    /// Images that the receiver quarantined.
    pub quarantined: u64,
    /// Images not answered yet.
    pub owed: u64,
    /// Images that will never arrive.
    pub lost: u64,
    /// Times that images were sent again.
    pub retries: u64,
    /// Bytes written to sockets, framing included.
    pub wire_bytes_sent: u64,
    /// Bytes read from sockets, framing included.
    pub wire_bytes_received: u64,
    /// Bytes of images, without framing, that were handed to the transport, those sent more than
    /// once included.
    #[serde(default)]
    pub image_bytes_sent: u64,
    /// How many of them had been sent before.
    #[serde(default)]
    pub image_bytes_resent: u64,
    /// CPU time, user and system, of the transmitter's process during the run.
    pub cpu_seconds: f64,
    /// Highest resident memory of the transmitter's process so far, bytes.
    pub peak_memory_bytes: u64,
    /// Delay between images by setting, nanoseconds.
    pub delay_ns: u64,
    /// Start of the run, transmitter's clock.
    pub started: UnixNanos,
    /// End of the run, transmitter's clock.
    pub ended: Option<UnixNanos>,
    /// The receiver's clock as the transmitter estimates it.
    pub clock: Option<ClockEstimate>,
    /// Answered images not yet reported.
    pub images: Vec<ImageAccount>,
    /// No more images will come.
    pub finished: bool,
    /// Both stations run in one process, so CPU and memory are those of both.
    pub shared_process: bool,
}

impl RunAccount {
    /// Whether every captured image is accounted for.
    pub fn reconciles(&self) -> bool {
        // Told by somebody else, so that no sum of it may be relied on to fit.
        let answered = [self.delivered, self.duplicates, self.quarantined, self.lost];
        let sum: u128 = answered.into_iter().map(u128::from).sum();
        u128::from(self.captured) == sum + u128::from(self.owed)
    }
}

/// What the transmitter knows of one answered image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageAccount {
    /// The image.
    pub image_id: ImageId,
    /// Send start to receipt on the transmitter's monotonic clock, nanoseconds.
    pub delivery_ns: u64,
    /// Times it was sent.
    pub attempts: u32,
}

#[cfg(test)]
mod tests;
