//! Rows of the report.

use shared::clock::UnixNanos;
use shared::image::ImageMeta;
use shared::report::{Header, ImageRow, Outcome, RunAccount};

use crate::delivery::{Settled, Settlement};

pub(super) fn header_of(account: &RunAccount) -> Header {
    Header {
        run: account.run.clone(),
        transport: account.transport,
        transmitter: account.transmitter.clone(),
        receiver: None,
        generated_at: UnixNanos::now(),
    }
}

pub(super) fn row_of(
    meta: &ImageMeta,
    outcome: Outcome,
    reason: Option<String>,
    attempts: u32,
) -> ImageRow {
    ImageRow {
        sequence: meta.sequence,
        image_id: meta.id,
        name: meta.name.clone(),
        size: meta.size,
        outcome,
        reason,
        attempts,
        captured: meta.captured,
        queued: meta.queued,
        send_started: None,
        first_byte: None,
        last_byte: None,
        verified: None,
        durable: None,
        transmission_ns: None,
        transmission_error_ns: None,
        delivery_ns: None,
    }
}

pub(super) fn settled_row(settled: &Settled) -> ImageRow {
    let meta = &settled.image.meta;
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (outcome, reason) = match &settled.settlement {
        Settlement::Receipt(_) if settled.is_duplicate() => (Outcome::Duplicate, None),
        Settlement::Receipt(_) => (Outcome::Delivered, None),
        Settlement::Quarantined(reject) => (
            Outcome::Quarantined,
            Some(format!("{}: {reject}", reject.reason)),
        ),
        Settlement::Lost(_, reason) => (Outcome::Lost, Some(reason.clone())),
    };
    let mut row = row_of(meta, outcome, reason, settled.attempts);
    row.send_started = Some(settled.started);
    if let Settlement::Receipt(receipt) = &settled.settlement {
        row.delivery_ns = Some(nanos(settled.delivery));
        let times = receipt.timeline;
        row.first_byte = Some(times.first_byte);
        row.last_byte = Some(times.last_byte);
        row.verified = Some(times.verified);
        row.durable = Some(times.durable);
        // A duplicate's times are those of another attempt.
        if receipt.status == shared::receipt::ReceiptStatus::Stored {
            row.transmission_ns = Some(nanos(match settled.clock {
                Some(clock) => clock.one_way(settled.started, times.last_byte),
                None => std::time::Duration::from_nanos(
                    times.last_byte.since(settled.started).max(0).unsigned_abs(),
                ),
            }));
            row.transmission_error_ns = settled.clock.map(|clock| clock.error_ns);
        }
    }
    row
}
