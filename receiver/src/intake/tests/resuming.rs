//! Uploads that are left, and gone on with or not.

use std::time::Duration;

use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{ReceiptStatus, RejectReason};

use crate::intake::Resumed;
use crate::intake::sample::{Rig, meta, picture, push};
use crate::store::memory::MemoryStore;

#[tokio::test]
async fn a_parked_upload_goes_on_at_the_byte_it_left() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    rig.intake.park(upload).await;
    assert_eq!(rig.intake.held(meta.id), Some(300));
    // What is parked takes no memory: its bytes are in the file.
    let file = &rig.files("incoming")[0];
    assert_eq!(std::fs::read(file).unwrap(), bytes[..300]);

    meta.attempt = 2;
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
    let mut upload = rig.upload_from(meta.clone(), 300).await;
    assert_eq!(rig.intake.held(meta.id), None);
    push(&mut upload, &bytes[300..]).await.unwrap();
    let receipt = upload.finish(None).await.unwrap();
    assert_eq!(receipt.status, ReceiptStatus::Stored);
    assert_eq!(rig.entries().await[0].meta.attempt, 2);
    assert_eq!(std::fs::read(&rig.files("images")[0]).unwrap(), bytes);
    assert!(rig.files("incoming").is_empty());
}

#[tokio::test]
async fn an_offset_that_is_not_held_is_refused_and_the_bytes_stay() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let reject = rig.begin(meta.clone(), 5).await.err().unwrap();
    assert_eq!(reject.reason, RejectReason::Offset);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    rig.intake.park(upload).await;
    for offset in [299, 301] {
        let reject = rig.begin(meta.clone(), offset).await.err().unwrap();
        assert_eq!(reject.reason, RejectReason::Offset);
        assert!(reject.message.contains("300 bytes are held"), "{reject}");
    }
    assert_eq!(rig.intake.held(meta.id), Some(300));
    assert!(!rig.intake.is_busy(meta.id));
}

#[tokio::test]
async fn an_offset_that_is_not_held_takes_the_image_from_nobody() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    assert!(rig.begin(meta, 300).await.is_err());
    push(&mut upload, &bytes[300..]).await.unwrap();
    upload.finish(None).await.unwrap();
}

#[tokio::test]
async fn bytes_of_another_announcement_are_not_gone_on_with() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let xxh3 = DigestAlgorithm::Xxh3.digest(&bytes);
    let blake3 = DigestAlgorithm::Blake3.digest(&bytes);
    let other = DigestAlgorithm::Xxh3.digest(b"other");
    let size = bytes.len() as u64;
    for (before, now, size, fits) in [
        (Some(xxh3), Some(xxh3), size, true),
        (Some(xxh3), None, size, true),
        (Some(xxh3), Some(other), size, false),
        // Its first bytes were not seen by this algorithm.
        (None, Some(blake3), size, false),
        (None, None, size + 1, false),
    ] {
        let announced = ImageMeta {
            digest: before,
            ..meta(&bytes)
        };
        let mut upload = rig.upload(announced.clone()).await;
        push(&mut upload, &bytes[..300]).await.unwrap();
        rig.intake.park(upload).await;
        let again = ImageMeta {
            digest: now,
            size,
            ..announced.clone()
        };
        let begun = rig.begin(again, 300).await;
        let reason = begun.as_ref().err().map(|reject| reject.reason);
        assert_eq!(
            reason,
            (!fits).then_some(RejectReason::Offset),
            "{before:?} {now:?}"
        );
        // Otherwise the sender would be told to go on with them for ever.
        assert_eq!(rig.intake.held(announced.id), None);
    }
}

#[tokio::test]
async fn a_new_begin_drops_what_was_parked() {
    let rig = Rig::new();
    let (bytes, other) = (picture(20, 1), picture(21, 2));
    let mut meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    rig.intake.park(upload).await;
    meta.size = other.len() as u64;
    rig.send(meta.clone(), &other).await.unwrap();
    assert_eq!(rig.intake.held(meta.id), None);
    assert!(rig.files("incoming").is_empty());
    assert_eq!(std::fs::read(&rig.files("images")[0]).unwrap(), other);
}

#[tokio::test]
async fn the_newest_begin_owns_the_image() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let mut old = rig.upload(meta.clone()).await;
    push(&mut old, &bytes[..300]).await.unwrap();
    let mut new = rig.upload(meta.clone()).await;
    let reject = push(&mut old, &bytes[300..]).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Superseded);
    push(&mut new, &bytes[..200]).await.unwrap();
    // Neither its end nor its parking touches the newer one.
    rig.intake.park(old).await;
    assert_eq!(rig.intake.held(meta.id), None);
    push(&mut new, &bytes[200..]).await.unwrap();
    new.finish(None).await.unwrap();
    assert_eq!(std::fs::read(&rig.files("images")[0]).unwrap(), bytes);
}

#[tokio::test]
async fn the_end_of_a_superseded_upload_stores_nothing() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let mut old = rig.upload(meta.clone()).await;
    push(&mut old, &bytes).await.unwrap();
    let new = rig.upload(meta.clone()).await;
    let reject = old.finish(None).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Superseded);
    assert!(rig.intake.is_busy(meta.id));
    drop(new);
    assert!(!rig.intake.is_busy(meta.id));
    rig.assert_empty();
}

#[tokio::test]
async fn parked_uploads_expire() {
    let rig = Rig::with(|parts| parts.limits.partial_ttl = Duration::ZERO);
    let bytes = picture(20, 1);
    let mut upload = rig.upload(meta(&bytes)).await;
    let meta = upload.meta().clone();
    push(&mut upload, &bytes[..300]).await.unwrap();
    rig.intake.park(upload).await;
    // Also before anybody clears up.
    assert_eq!(rig.files("incoming").len(), 1);
    assert_eq!(rig.intake.held(meta.id), None);
    assert!(rig.begin(meta.clone(), 300).await.is_err());
    assert!(matches!(
        rig.intake.resume(meta.id, Transport::Rest),
        Resumed::Absent
    ));
    rig.intake.expire();
    rig.assert_empty();
}

#[tokio::test]
async fn parked_uploads_are_limited_in_number_and_the_oldest_gives_way() {
    // Without files, lest the test needs more of them than a process may open.
    let rig = Rig::with(|parts| parts.store = std::sync::Arc::new(MemoryStore));
    let mut ids = Vec::new();
    for _ in 0..=1_024 {
        let mut upload = rig.upload(meta(b"xx")).await;
        push(&mut upload, b"x").await.unwrap();
        ids.push(upload.meta().id);
        rig.intake.park(upload).await;
    }
    let held = |id: &ImageId| rig.intake.held(*id).is_some();
    assert_eq!(ids.iter().filter(|id| held(id)).count(), 1_024);
    assert!(!held(&ids[0]));
}

#[tokio::test]
async fn an_upload_without_bytes_is_kept_only_on_request() {
    let rig = Rig::new();
    let first = rig.upload(meta(b"x")).await;
    let id = first.meta().id;
    rig.intake.park(first).await;
    assert_eq!(rig.intake.parked(id), None);
    let second = rig.upload(meta(b"x")).await;
    let id = second.meta().id;
    rig.intake.keep(second).await;
    assert_eq!(rig.intake.parked(id).map(|held| held.received), Some(0));
    // A session would gain nothing by it.
    assert_eq!(rig.intake.held(id), None);
    assert!(matches!(
        rig.intake.resume(id, Transport::Rest),
        Resumed::Upload(_)
    ));
}

#[tokio::test]
async fn an_upload_goes_back_to_a_checkpoint() {
    let rig = Rig::new();
    // More than the writer gathers, so that a file must be cut.
    let bytes = picture(900, 1);
    assert!(bytes.len() > 2 << 20);
    let mut upload = rig.upload(meta(&bytes)).await;
    push(&mut upload, &bytes[..100]).await.unwrap();
    let checkpoint = upload.checkpoint();
    for piece in bytes[100..].chunks(1 << 20) {
        let wrong: Vec<u8> = piece.iter().map(|byte| !byte).collect();
        push(&mut upload, &wrong).await.unwrap();
    }
    upload.roll_back(checkpoint).await.unwrap();
    assert_eq!(upload.received(), 100);
    for piece in bytes[100..].chunks(1 << 20) {
        push(&mut upload, piece).await.unwrap();
    }
    upload
        .finish(Some(DigestAlgorithm::Xxh3.digest(&bytes)))
        .await
        .unwrap();
    assert_eq!(std::fs::read(&rig.files("images")[0]).unwrap(), bytes);
}

#[tokio::test]
async fn a_closed_intake_keeps_nothing() {
    let rig = Rig::new();
    let mut early = rig.upload(meta(b"xx")).await;
    push(&mut early, b"x").await.unwrap();
    let mut late = rig.upload(meta(b"xx")).await;
    push(&mut late, b"x").await.unwrap();
    rig.intake.park(early).await;
    rig.intake.close().await;
    rig.intake.park(late).await;
    rig.assert_empty();
    assert_eq!(std::sync::Arc::strong_count(&rig.intake), 1);
}
