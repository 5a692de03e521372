//! Uploads that are left, and gone on with or not.

use std::path::PathBuf;
use std::time::Duration;

use shared::chunk::Segments;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageMeta, OutboxId, Transport};
use shared::receipt::{ReceiptStatus, RejectReason};
use shared::settings::units::ByteSize;

use crate::intake::sample::{Rig, meta, picture, push};
use crate::intake::{Begun, Proof};
use crate::store::memory::MemoryStore;

/// The file of the only unfinished image.
pub(super) fn part(rig: &Rig) -> PathBuf {
    let mut files = rig.files("incoming");
    files.retain(|file| file.extension().is_some_and(|kind| kind == "part"));
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[tokio::test]
async fn a_parked_upload_goes_on_at_the_byte_it_left() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    rig.intake.park(upload).await;
    assert_eq!(rig.intake.held(meta.id).await, Some(300));
    // What is parked takes no memory: its bytes are in the file.
    assert_eq!(std::fs::read(part(&rig)).unwrap(), bytes[..300]);

    meta.attempt = 2;
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
    let mut upload = rig.upload_from(meta.clone(), 300).await;
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
    let reject = rig.begin(meta.clone(), 301).await.err().unwrap();
    assert_eq!(reject.reason, RejectReason::Offset);
    assert!(reject.message.contains("300 bytes are held"), "{reject}");
    assert_eq!(rig.intake.held(meta.id).await, Some(300));
    assert!(!rig.intake.is_busy(meta.id));
}

#[tokio::test]
async fn an_offset_that_is_not_held_takes_the_image_from_nobody() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    let reject = rig.begin(meta, 301).await.err().unwrap();
    assert!(reject.message.contains("300 bytes are held"), "{reject}");
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
        let held = rig.intake.held(announced.id).await;
        assert_eq!(held, fits.then_some(300));
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
    assert_eq!(rig.intake.held(meta.id).await, None);
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
    assert_eq!(rig.intake.held(meta.id).await, Some(200));
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
    assert_eq!(rig.files("incoming").len(), 2);
    assert_eq!(rig.intake.held(meta.id).await, None);
    assert!(rig.begin(meta.clone(), 300).await.is_err());
    assert!(rig.intake.resume(meta.id, Transport::Rest).await.is_none());
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
    let mut held = Vec::new();
    for id in &ids {
        held.push(rig.intake.held(*id).await.is_some());
    }
    assert_eq!(held.iter().filter(|held| **held).count(), 1_024);
    assert!(!held[0]);
}

#[tokio::test]
async fn an_upload_without_bytes_is_kept_only_on_request() {
    let rig = Rig::new();
    let first = rig.upload(meta(b"x")).await;
    let id = first.meta().id;
    rig.intake.park(first).await;
    assert_eq!(rig.intake.unfinished(id).await, None);
    let second = rig.upload(meta(b"x")).await;
    let id = second.meta().id;
    rig.intake.keep(second).await;
    assert_eq!(
        rig.intake.unfinished(id).await.map(|held| held.received),
        Some(0)
    );
    // A session would gain nothing by it.
    assert_eq!(rig.intake.held(id).await, None);
    assert!(rig.intake.resume(id, Transport::Rest).await.is_some());
}

#[tokio::test]
async fn an_upload_goes_back_to_a_checkpoint() {
    let rig = Rig::new();
    // More than the writer gathers, so that a file must be cut.
    let bytes = picture(900, 1);
    assert!(bytes.len() > 2 << 20);
    let mut upload = rig.upload(meta(&bytes)).await;
    push(&mut upload, &bytes[..100]).await.unwrap();
    let checkpoint = upload.checkpoint(Proof::Needless).await.unwrap();
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
async fn a_newer_connection_goes_on_where_an_open_one_is() {
    let rig = Rig::new();
    let bytes = picture(900, 1);
    let meta = meta(&bytes);
    let mut old = rig.upload(meta.clone()).await;
    push(&mut old, &bytes[..300_000]).await.unwrap();
    // To be told is to take nothing.
    assert_eq!(rig.intake.held(meta.id).await, Some(300_000));
    push(&mut old, &bytes[300_000..400_000]).await.unwrap();
    // What came since it was told comes again, in chunks of its own, and is passed over.
    let mut new = rig.upload_from(meta.clone(), 300_000).await;
    let reject = push(&mut old, &bytes[400_000..]).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Superseded);
    drop(old);
    for chunk in [300_000..350_000, 350_000..500_000, 500_000..bytes.len()] {
        let data = Segments::from(bytes[chunk.clone()].to_vec());
        let sum = data.crc32c();
        let offset = chunk.start as u64;
        let wrong = new.push(offset, Some(!sum), data.clone()).await;
        assert_eq!(wrong.unwrap_err().reason, RejectReason::ChunkChecksum);
        let elsewhere = new.push(offset + 1, None, data.clone()).await;
        assert_eq!(elsewhere.unwrap_err().reason, RejectReason::Offset);
        new.push(offset, Some(sum), data).await.unwrap();
    }
    let receipt = new.finish(None).await.unwrap();
    assert_eq!(receipt.digest, DigestAlgorithm::Xxh3.digest(&bytes));
    assert_eq!(std::fs::read(&rig.files("images")[0]).unwrap(), bytes);
}

#[tokio::test]
async fn a_claim_waits_for_the_write_that_is_under_way() {
    let rig = Rig::new();
    let bytes = vec![7; 3 << 20];
    let meta = meta(&bytes);
    let mut old = rig.upload(meta.clone()).await;
    push(&mut old, &bytes[..1 << 20]).await.unwrap();
    // More than the writer gathers, so that a blocking thread writes.
    let data = Segments::from(bytes[1 << 20..2 << 20].to_vec());
    let mut write = Box::pin(old.push(1 << 20, None, data));
    let written = futures_util::poll!(&mut write).is_ready();
    let mut seize = Box::pin(rig.intake.seize(meta.id));
    if !written {
        assert!(futures_util::poll!(&mut seize).is_pending());
        // It was the owner when it began.
        write.await.unwrap();
    }
    assert_eq!(seize.await.map(|held| held.received), Some(2 << 20));
    assert_eq!(std::fs::read(part(&rig)).unwrap(), bytes[..2 << 20]);
}

#[tokio::test]
async fn a_claim_that_is_given_up_while_it_waits_loses_nothing() {
    let rig = Rig::new();
    let bytes = vec![7; 3 << 20];
    let meta = meta(&bytes);
    let mut old = rig.upload(meta.clone()).await;
    let data = Segments::from(bytes[..2 << 20].to_vec());
    let mut write = Box::pin(old.push(0, None, data));
    let written = futures_util::poll!(&mut write).is_ready();
    let mut seize = Box::pin(rig.intake.seize(meta.id));
    let _ = futures_util::poll!(&mut seize);
    drop(seize);
    match written {
        true => drop(write),
        false => write.await.unwrap(),
    }
    assert_eq!(rig.intake.held(meta.id).await, Some(2 << 20));
}

#[tokio::test]
async fn what_is_parked_holds_no_file_open() {
    let rig = Rig::new();
    let open = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let folder = rig.folder.path();
        files
            .filter_map(|file| std::fs::read_link(file.unwrap().path()).ok())
            .filter(|path| path.starts_with(folder.join("incoming")))
            .count()
    };
    let bytes = vec![7; 3 << 20];
    for _ in 0..3 {
        let mut upload = rig.upload(meta(&bytes)).await;
        push(&mut upload, &bytes[..2 << 20]).await.unwrap();
        assert!(open() > 0);
        rig.intake.park(upload).await;
        assert_eq!(open(), 0);
    }
}

#[tokio::test]
async fn parked_uploads_are_limited_in_bytes() {
    let rig = Rig::with(|parts| parts.limits.partial_limit = ByteSize(1_000));
    let bytes = picture(20, 1);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut upload = rig.upload(meta(&bytes)).await;
        push(&mut upload, &bytes[..400]).await.unwrap();
        ids.push(upload.meta().id);
        rig.intake.park(upload).await;
    }
    assert_eq!(rig.intake.held(ids[0]).await, None);
    assert_eq!(rig.intake.held(ids[1]).await, Some(400));
    assert_eq!(rig.files("incoming").len(), 4);
    // One that is larger than all there may be goes at once.
    let mut upload = rig.upload(meta(&bytes)).await;
    push(&mut upload, &bytes[..1_001]).await.unwrap();
    rig.intake.park(upload).await;
    rig.assert_empty();
}

#[tokio::test]
async fn who_goes_on_with_an_image_says_where_it_counts() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let begun = ImageMeta {
        sequence: 1_234,
        run: "before".to_owned(),
        ..meta(&bytes)
    };
    let mut upload = rig.upload(begun.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    rig.intake.park(upload).await;
    // Its outbox was made anew meanwhile.
    let outbox = OutboxId::new();
    let origin = crate::intake::sample::origin().with_outbox(Some(outbox));
    let meta = ImageMeta {
        sequence: 7,
        run: "after".to_owned(),
        ..begun
    };
    let begin = shared::wire::Begin { meta, offset: 300 };
    let Ok(Begun::Upload(mut upload)) = rig.intake.begin(begin, &origin).await else {
        panic!("its bytes are held")
    };
    push(&mut upload, &bytes[300..]).await.unwrap();
    upload.finish(None).await.unwrap();
    let entry = rig.entries().await.remove(0);
    assert_eq!((entry.outbox, entry.meta.sequence), (Some(outbox), 7));
    assert_eq!(entry.meta.run, "after");
}
