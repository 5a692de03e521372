//! Generated message types to domain types and back.

use std::fmt;

use super::proto;
use super::{Begin, Event, Loss, LossReport, Standing};
use crate::clock::{ClockEstimate, UnixNanos};
use crate::digest::{Digest, DigestAlgorithm};
use crate::image::{ImageId, ImageMeta, Transport};
use crate::receipt::{Durability, Receipt, ReceiptStatus, ReceiverTimeline, Reject, RejectReason};
use crate::report::{ImageAccount, RunAccount};

/// A field of a message is missing or malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidMessage {
    field: &'static str,
    problem: String,
}

impl InvalidMessage {
    pub(super) fn new(field: &'static str, problem: impl fmt::Display) -> Self {
        Self {
            field,
            problem: problem.to_string(),
        }
    }

    /// The answer to the sender, tied to an image.
    pub(super) fn reject(self, image_id: ImageId) -> Reject {
        Reject {
            image_id: Some(image_id),
            ..self.into()
        }
    }
}

impl From<InvalidMessage> for Reject {
    fn from(invalid: InvalidMessage) -> Self {
        Self::new(None, RejectReason::Invalid, invalid.to_string())
    }
}

pub(super) fn id_from_proto(field: &'static str, id: &str) -> Result<ImageId, InvalidMessage> {
    id.parse()
        .map_err(|error| InvalidMessage::new(field, error))
}

pub(super) fn digest_to_proto(digest: &Digest) -> proto::Digest {
    let algorithm = match digest.algorithm() {
        DigestAlgorithm::Xxh3 => proto::DigestAlgorithm::Xxh3128,
        DigestAlgorithm::Blake3 => proto::DigestAlgorithm::Blake3,
    };
    proto::Digest {
        algorithm: algorithm.into(),
        value: digest.to_bytes(),
    }
}

pub(super) fn digest_from_proto(
    field: &'static str,
    digest: Option<proto::Digest>,
) -> Result<Option<Digest>, InvalidMessage> {
    let Some(digest) = digest else {
        return Ok(None);
    };
    let algorithm = match digest.algorithm() {
        proto::DigestAlgorithm::Xxh3128 => DigestAlgorithm::Xxh3,
        proto::DigestAlgorithm::Blake3 => DigestAlgorithm::Blake3,
        proto::DigestAlgorithm::Unspecified => {
            let problem = format!(
                "algorithm {} is not known; use 1 (XXH3-128) or 2 (BLAKE3)",
                digest.algorithm
            );
            return Err(InvalidMessage::new(field, problem));
        }
    };
    match Digest::new(algorithm, &digest.value) {
        Some(digest) => Ok(Some(digest)),
        None => Err(InvalidMessage::new(
            field,
            format!(
                "{algorithm} has {} bytes, {} were sent",
                algorithm.length(),
                digest.value.len()
            ),
        )),
    }
}

fn estimate_to_proto(estimate: &ClockEstimate) -> proto::ClockEstimate {
    proto::ClockEstimate {
        offset_ns: estimate.offset_ns,
        error_ns: estimate.error_ns,
        samples: estimate.samples,
    }
}

fn estimate_from_proto(estimate: &proto::ClockEstimate) -> ClockEstimate {
    ClockEstimate {
        offset_ns: estimate.offset_ns,
        error_ns: estimate.error_ns,
        samples: estimate.samples,
    }
}

fn time_from_proto(nanos: i64) -> Option<UnixNanos> {
    (nanos != 0).then_some(UnixNanos(nanos))
}

fn time_to_proto(time: Option<UnixNanos>) -> i64 {
    time.map_or(0, |time| time.0)
}

fn text_from_proto(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A `Begin` for the wire.
pub fn begin_to_proto(begin: &Begin) -> proto::Begin {
    let meta = &begin.meta;
    proto::Begin {
        image_id: meta.id.to_string(),
        size: meta.size,
        digest: meta.digest.as_ref().map(digest_to_proto),
        content_type: meta.content_type.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        run: meta.run.clone(),
        sequence: meta.sequence,
        captured_unix_ns: time_to_proto(meta.captured),
        queued_unix_ns: time_to_proto(meta.queued),
        send_started_unix_ns: time_to_proto(meta.send_started),
        clock: meta.clock.as_ref().map(estimate_to_proto),
        attempt: meta.attempt,
        offset: begin.offset,
        traceparent: meta
            .trace
            .map(|trace| trace.to_string())
            .unwrap_or_default(),
    }
}

/// A `Begin` from the wire.
///
/// # Errors
/// When the id or the digest is malformed.
pub fn begin_from_proto(begin: proto::Begin) -> Result<Begin, Reject> {
    let id = id_from_proto("begin.image_id", &begin.image_id)?;
    let digest =
        digest_from_proto("begin.digest", begin.digest).map_err(|invalid| invalid.reject(id))?;
    Ok(Begin {
        meta: ImageMeta {
            id,
            size: begin.size,
            digest,
            content_type: text_from_proto(begin.content_type),
            name: text_from_proto(begin.name),
            run: begin.run,
            sequence: begin.sequence,
            captured: time_from_proto(begin.captured_unix_ns),
            queued: time_from_proto(begin.queued_unix_ns),
            send_started: time_from_proto(begin.send_started_unix_ns),
            clock: begin.clock.as_ref().map(estimate_from_proto),
            attempt: begin.attempt.max(1),
            // One that cannot be read is none.
            trace: begin.traceparent.parse().ok(),
        },
        offset: begin.offset,
    })
}

pub(super) fn loss_to_proto(loss: Loss) -> proto::Loss {
    proto::Loss {
        sequence: loss.sequence,
        image_id: loss.image_id.to_string(),
        digest: loss.digest.as_ref().map(digest_to_proto),
        reason: loss.reason,
        at_unix_ns: loss.at.0,
        run: loss.run,
    }
}

pub(super) fn loss_from_proto(loss: proto::Loss) -> Result<Loss, InvalidMessage> {
    Ok(Loss {
        sequence: loss.sequence,
        image_id: id_from_proto("loss.image_id", &loss.image_id)?,
        digest: digest_from_proto("loss.digest", loss.digest)?,
        reason: loss.reason,
        at: UnixNanos(loss.at_unix_ns),
        run: loss.run,
    })
}

pub(super) fn standing_to_proto(standing: &Standing) -> proto::Standing {
    proto::Standing {
        outbox: standing.outbox.to_string(),
        first_owed: standing.first_owed,
        next_sequence: standing.next_sequence,
    }
}

pub(super) fn standing_from_proto(standing: proto::Standing) -> Result<Standing, InvalidMessage> {
    let outbox = standing.outbox.parse();
    Ok(Standing {
        outbox: outbox.map_err(|error| InvalidMessage::new("standing.outbox", error))?,
        first_owed: standing.first_owed,
        next_sequence: standing.next_sequence,
    })
}

pub(super) fn loss_report_to_proto(report: LossReport) -> proto::LossReport {
    proto::LossReport {
        id: report.id,
        standing: report.standing.as_ref().map(standing_to_proto),
        losses: report.losses.into_iter().map(loss_to_proto).collect(),
        transmitter: report.transmitter,
    }
}

pub(super) fn loss_report_from_proto(
    report: proto::LossReport,
) -> Result<LossReport, InvalidMessage> {
    Ok(LossReport {
        id: report.id,
        standing: report.standing.map(standing_from_proto).transpose()?,
        losses: report
            .losses
            .into_iter()
            .map(loss_from_proto)
            .collect::<Result<_, _>>()?,
        transmitter: report.transmitter,
    })
}

impl From<Durability> for proto::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Memory => Self::Memory,
            Durability::Written => Self::Written,
            Durability::Synced => Self::Synced,
        }
    }
}

impl TryFrom<proto::Durability> for Durability {
    type Error = InvalidMessage;

    fn try_from(durability: proto::Durability) -> Result<Self, Self::Error> {
        match durability {
            proto::Durability::Memory => Ok(Self::Memory),
            proto::Durability::Written => Ok(Self::Written),
            proto::Durability::Synced => Ok(Self::Synced),
            proto::Durability::Unspecified => {
                Err(InvalidMessage::new("durability", "not one of a known kind"))
            }
        }
    }
}

/// A receipt for the wire.
pub fn receipt_to_proto(receipt: &Receipt) -> proto::Receipt {
    let status = match receipt.status {
        ReceiptStatus::Stored => proto::ReceiptStatus::Stored,
        ReceiptStatus::Duplicate => proto::ReceiptStatus::Duplicate,
    };
    proto::Receipt {
        image_id: receipt.image_id.to_string(),
        status: status.into(),
        size: receipt.size,
        digest: Some(digest_to_proto(&receipt.digest)),
        durability: proto::Durability::from(receipt.durability).into(),
        format: receipt.format.clone(),
        width: receipt.width,
        height: receipt.height,
        timeline: Some(proto::ReceiverTimeline {
            first_byte_unix_ns: receipt.timeline.first_byte.0,
            last_byte_unix_ns: receipt.timeline.last_byte.0,
            verified_unix_ns: receipt.timeline.verified.0,
            durable_unix_ns: receipt.timeline.durable.0,
        }),
        receiver: receipt.receiver.clone(),
    }
}

/// A receipt from the wire.
///
/// # Errors
/// When a field that a receipt must have is missing or malformed.
pub fn receipt_from_proto(receipt: proto::Receipt) -> Result<Receipt, InvalidMessage> {
    let status = match receipt.status() {
        proto::ReceiptStatus::Stored => ReceiptStatus::Stored,
        proto::ReceiptStatus::Duplicate => ReceiptStatus::Duplicate,
        proto::ReceiptStatus::Unspecified => {
            return Err(InvalidMessage::new(
                "receipt.status",
                "not one of a known kind",
            ));
        }
    };
    let durability = receipt.durability().try_into()?;
    let digest = digest_from_proto("receipt.digest", receipt.digest)?
        .ok_or_else(|| InvalidMessage::new("receipt.digest", "missing"))?;
    let timeline = receipt
        .timeline
        .ok_or_else(|| InvalidMessage::new("receipt.timeline", "missing"))?;
    Ok(Receipt {
        image_id: id_from_proto("receipt.image_id", &receipt.image_id)?,
        status,
        size: receipt.size,
        digest,
        durability,
        format: receipt.format,
        width: receipt.width,
        height: receipt.height,
        timeline: ReceiverTimeline {
            first_byte: UnixNanos(timeline.first_byte_unix_ns),
            last_byte: UnixNanos(timeline.last_byte_unix_ns),
            verified: UnixNanos(timeline.verified_unix_ns),
            durable: UnixNanos(timeline.durable_unix_ns),
        },
        receiver: receipt.receiver,
    })
}

/// A rejection for the wire.
pub fn reject_to_proto(reject: &Reject) -> proto::Reject {
    proto::Reject {
        image_id: reject.image_id.map(|id| id.to_string()).unwrap_or_default(),
        reason: reject.reason as i32,
        message: reject.message.clone(),
        retryable: reject.retryable,
        quarantined: reject.quarantined,
        held: reject.held,
        retry_after_ms: reject.retry_after_ms,
    }
}

/// A rejection from the wire. A reason of a later version is taken as `internal`; whether to try
/// again is said by the message itself.
///
/// # Errors
/// When the image id is malformed.
pub fn reject_from_proto(reject: proto::Reject) -> Result<Reject, InvalidMessage> {
    let image_id = match reject.image_id.as_str() {
        "" => None,
        id => Some(id_from_proto("reject.image_id", id)?),
    };
    let reason = RejectReason::ALL
        .into_iter()
        .find(|reason| *reason as i32 == reject.reason)
        .unwrap_or(RejectReason::Internal);
    Ok(Reject {
        image_id,
        reason,
        message: reject.message,
        retryable: reject.retryable,
        quarantined: reject.quarantined,
        held: reject.held,
        retry_after_ms: reject.retry_after_ms,
    })
}

pub(super) fn account_to_proto(account: RunAccount) -> proto::RunAccount {
    proto::RunAccount {
        run: account.run,
        transport: account.transport.key().to_owned(),
        transmitter: account.transmitter,
        captured: account.captured,
        delivered: account.delivered,
        duplicates: account.duplicates,
        quarantined: account.quarantined,
        owed: account.owed,
        lost: account.lost,
        retries: account.retries,
        wire_bytes_sent: account.wire_bytes_sent,
        wire_bytes_received: account.wire_bytes_received,
        image_bytes_sent: account.image_bytes_sent,
        image_bytes_resent: account.image_bytes_resent,
        cpu_seconds: account.cpu_seconds,
        peak_memory_bytes: account.peak_memory_bytes,
        delay_ns: account.delay_ns,
        started_unix_ns: account.started.0,
        ended_unix_ns: time_to_proto(account.ended),
        clock: account.clock.as_ref().map(estimate_to_proto),
        images: account
            .images
            .into_iter()
            .map(|image| proto::ImageAccount {
                image_id: image.image_id.to_string(),
                delivery_ns: image.delivery_ns,
                attempts: image.attempts,
            })
            .collect(),
        finished: account.finished,
        shared_process: account.shared_process,
    }
}

pub(super) fn account_from_proto(account: proto::RunAccount) -> Result<RunAccount, InvalidMessage> {
    let transport: Transport = account
        .transport
        .parse()
        .map_err(|error| InvalidMessage::new("account.transport", error))?;
    if !account.cpu_seconds.is_finite() {
        return Err(InvalidMessage::new(
            "account.cpu_seconds",
            "not a finite number",
        ));
    }
    Ok(RunAccount {
        run: account.run,
        transport,
        transmitter: account.transmitter,
        captured: account.captured,
        delivered: account.delivered,
        duplicates: account.duplicates,
        quarantined: account.quarantined,
        owed: account.owed,
        lost: account.lost,
        retries: account.retries,
        wire_bytes_sent: account.wire_bytes_sent,
        wire_bytes_received: account.wire_bytes_received,
        image_bytes_sent: account.image_bytes_sent,
        image_bytes_resent: account.image_bytes_resent,
        cpu_seconds: account.cpu_seconds,
        peak_memory_bytes: account.peak_memory_bytes,
        delay_ns: account.delay_ns,
        started: UnixNanos(account.started_unix_ns),
        ended: time_from_proto(account.ended_unix_ns),
        clock: account.clock.as_ref().map(estimate_from_proto),
        images: account
            .images
            .into_iter()
            .map(|image| {
                Ok(ImageAccount {
                    image_id: id_from_proto("account.images.image_id", &image.image_id)?,
                    delivery_ns: image.delivery_ns,
                    attempts: image.attempts,
                })
            })
            .collect::<Result<_, InvalidMessage>>()?,
        finished: account.finished,
        shared_process: account.shared_process,
    })
}

/// An event for the wire.
pub fn event_to_proto(event: &Event) -> proto::Event {
    let kind = match &event.outcome {
        Ok(receipt) => proto::event::Kind::Receipt(receipt_to_proto(receipt)),
        Err(reject) => proto::event::Kind::Reject(reject_to_proto(reject)),
    };
    proto::Event {
        at_unix_ns: event.at.0,
        run: event.run.clone(),
        transport: event.transport.key().to_owned(),
        transmitter: event.transmitter.clone(),
        name: event.name.clone(),
        kind: Some(kind),
    }
}

/// An event from the wire; `None` for one that only says how many were missed.
///
/// # Errors
/// When a field is missing or malformed.
pub fn event_from_proto(event: proto::Event) -> Result<Option<Event>, InvalidMessage> {
    let outcome = match event.kind {
        Some(proto::event::Kind::Receipt(receipt)) => Ok(receipt_from_proto(receipt)?),
        Some(proto::event::Kind::Reject(reject)) => Err(reject_from_proto(reject)?),
        Some(proto::event::Kind::Missed(_)) | None => return Ok(None),
    };
    Ok(Some(Event {
        at: UnixNanos(event.at_unix_ns),
        run: event.run,
        transport: event
            .transport
            .parse()
            .map_err(|error| InvalidMessage::new("event.transport", error))?,
        transmitter: event.transmitter,
        name: event.name,
        outcome,
    }))
}
