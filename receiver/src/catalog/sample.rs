//! Entries for tests.

use shared::clock::{ClockEstimate, UnixNanos};
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{Durability, ReceiverTimeline, RejectReason};
use shared::report::{ImageAccount, RunAccount};

use crate::catalog::{Entry, Verdict};

/// A stored image of 1,000 bytes, sent by `camera` over gRPC in the run `run`.
pub(crate) fn entry(sequence: u64) -> Entry {
    let start = 1_767_312_000_000_000_000 + i64::try_from(sequence).unwrap_or(0) * 1_000_000;
    let at = |offset: i64| UnixNanos(start + offset);
    let id = ImageId::new();
    let digest = DigestAlgorithm::Xxh3.digest(&id.as_u128().to_be_bytes());
    Entry {
        meta: ImageMeta {
            digest: Some(digest),
            content_type: Some("image/jpeg".to_owned()),
            name: Some(format!("image {sequence}.jpg")),
            run: "run".to_owned(),
            sequence,
            captured: Some(at(0)),
            queued: Some(at(1_000)),
            send_started: Some(at(2_000)),
            clock: Some(ClockEstimate {
                offset_ns: -500,
                error_ns: 250,
                samples: 8,
            }),
            ..ImageMeta::new(id, 1_000)
        },
        transmitter: "camera".to_owned(),
        outbox: None,
        transport: Transport::Grpc,
        digest,
        verdict: Verdict::Stored,
        format: "jpeg".to_owned(),
        media_type: "image/jpeg".to_owned(),
        width: 640,
        height: 480,
        location: format!("images/2026-01-02/{id}.jpg"),
        durability: Durability::Synced,
        timeline: ReceiverTimeline {
            first_byte: at(3_000),
            last_byte: at(12_000),
            verified: at(13_000),
            durable: at(20_000),
        },
    }
}

/// The same, quarantined.
pub(crate) fn quarantined(sequence: u64) -> Entry {
    let entry = entry(sequence);
    Entry {
        verdict: Verdict::Quarantined {
            reason: RejectReason::TruncatedImage,
            message: "the JPEG ends after 1,000 bytes without an end marker".to_owned(),
        },
        location: format!("quarantine/2026-01-02/{}.jpg", entry.meta.id),
        ..entry
    }
}

/// What `camera` tells of its run over gRPC.
pub(crate) fn account(images: Vec<ImageAccount>) -> RunAccount {
    RunAccount {
        run: "run".to_owned(),
        transport: Transport::Grpc,
        transmitter: "camera".to_owned(),
        captured: 5,
        delivered: 3,
        duplicates: 0,
        quarantined: 1,
        owed: 1,
        lost: 0,
        retries: 2,
        wire_bytes_sent: u64::MAX,
        wire_bytes_received: 77,
        image_bytes_sent: 5_000,
        image_bytes_resent: 12,
        cpu_seconds: 0.25,
        peak_memory_bytes: 9 << 20,
        delay_ns: 1_000_000_000,
        started: UnixNanos(1_767_312_000_000_000_000),
        ended: None,
        clock: None,
        images,
        finished: false,
        shared_process: false,
    }
}
