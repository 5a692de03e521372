mod ledger;
mod limits;
mod power;
mod proof;
mod quota;
mod restarting;
mod resuming;
mod settling;
mod storing;
mod verifying;

use shared::chunk::Segments;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta};
use shared::receipt::{Durability, ReceiptStatus, RejectReason};
use shared::wire::Begin;

use super::sample::{Rig, meta, origin, picture, push};
use super::{Begun, Upload};
use crate::catalog::{Catalog, Filter, Verdict};
use crate::config::Verify;
use crate::store::memory::MemoryStore;

#[tokio::test]
async fn a_good_image_is_stored_byte_for_byte_and_catalogued() {
    let rig = Rig::new();
    let bytes = picture(40, 1);
    let digest = DigestAlgorithm::Xxh3.digest(&bytes);
    let meta = ImageMeta {
        digest: Some(digest),
        content_type: Some("image/png".to_owned()),
        name: Some("a.png".to_owned()),
        run: "run".to_owned(),
        sequence: 3,
        ..meta(&bytes)
    };
    let mut upload = rig.upload(meta.clone()).await;
    for piece in bytes.chunks(1_000) {
        push(&mut upload, piece).await.unwrap();
    }
    let receipt = upload.finish(None).await.unwrap();
    assert_eq!(receipt.status, ReceiptStatus::Stored);
    assert_eq!((receipt.size, receipt.digest), (meta.size, digest));
    assert_eq!((receipt.width, receipt.height), (40, 40));
    assert_eq!(receipt.format, "png");
    let timeline = receipt.timeline;
    assert!(timeline.first_byte <= timeline.last_byte && timeline.last_byte <= timeline.verified);
    assert!(timeline.verified <= timeline.durable);
    let files = rig.files("images");
    assert_eq!(files.len(), 1);
    assert_eq!(std::fs::read(&files[0]).unwrap(), bytes);
    let entries = rig.entries().await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].meta, meta);
    assert_eq!(rig.folder.path().join(&entries[0].location), files[0]);
    assert!(rig.files("incoming").is_empty());
}

#[tokio::test]
async fn memory_durability_verifies_and_keeps_no_bytes() {
    let rig = Rig::with(|parts| {
        parts.store = std::sync::Arc::new(MemoryStore);
        parts.durability = Durability::Memory;
        parts.verify = Verify::Full;
    });
    let bytes = picture(40, 1);
    let receipt = rig.send(meta(&bytes), &bytes).await.unwrap();
    assert_eq!(receipt.durability, Durability::Memory);
    let entries = rig.entries().await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].location, "");
    let reject = rig.send(meta(&bytes[..500]), &bytes[..500]).await;
    assert_eq!(reject.unwrap_err().reason, RejectReason::TruncatedImage);
    rig.assert_empty();
}

#[tokio::test]
async fn the_same_image_again_is_a_duplicate_before_its_bytes_when_the_digest_is_known() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut meta = meta(&bytes);
    let first = rig.send(meta.clone(), &bytes).await.unwrap();
    meta.digest = Some(first.digest);
    for offset in [0, 10] {
        match rig.begin(meta.clone(), offset).await.unwrap() {
            Begun::Present(again) => {
                assert_eq!(again.status, ReceiptStatus::Duplicate);
                assert_eq!(again.timeline.first_byte, first.timeline.first_byte);
            }
            Begun::Upload(_) => panic!("bytes are asked for again"),
        }
    }
    assert_eq!(rig.files("images").len(), 1);
    let series = rig.catalog.series(Filter::default()).await.unwrap();
    assert_eq!((series[0].stored, series[0].duplicates), (1, 2));
}

#[tokio::test]
async fn the_same_image_again_is_a_duplicate_after_its_bytes_when_they_must_tell() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut meta = meta(&bytes);
    let first = rig.send(meta.clone(), &bytes).await.unwrap();
    let without_digest = rig.send(meta.clone(), &bytes).await.unwrap();
    assert_eq!(without_digest.status, ReceiptStatus::Duplicate);
    meta.digest = Some(DigestAlgorithm::Blake3.digest(&bytes));
    let other_algorithm = rig.send(meta, &bytes).await.unwrap();
    assert_eq!(other_algorithm.status, ReceiptStatus::Duplicate);
    assert_eq!(other_algorithm.digest, first.digest);
    assert_eq!(rig.entries().await.len(), 1);
    assert_eq!(rig.files("images").len(), 1);
    assert!(rig.files("incoming").is_empty());
}

#[tokio::test]
async fn another_image_with_a_known_id_is_a_conflict_and_changes_nothing() {
    let rig = Rig::new();
    let (bytes, other) = (picture(20, 1), picture(20, 2));
    let mut meta = meta(&bytes);
    rig.send(meta.clone(), &bytes).await.unwrap();
    let before = rig.entries().await;
    meta.size = other.len() as u64;
    for digest in [
        None,
        Some(DigestAlgorithm::Xxh3.digest(&other)),
        Some(DigestAlgorithm::Blake3.digest(&other)),
    ] {
        meta.digest = digest;
        let reject = rig.send(meta.clone(), &other).await.unwrap_err();
        assert_eq!(reject.reason, RejectReason::Conflict, "{digest:?}");
        assert!(!reject.retryable);
    }
    assert_eq!(rig.entries().await, before);
    let files = rig.files("images");
    assert_eq!(std::fs::read(&files[0]).unwrap(), bytes);
    assert_eq!(files.len(), 1);
}

#[tokio::test]
async fn a_known_digest_with_another_size_is_a_conflict() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut meta = meta(&bytes);
    meta.digest = Some(rig.send(meta.clone(), &bytes).await.unwrap().digest);
    meta.size += 1;
    let reject = rig.begin(meta, 0).await.err().unwrap();
    assert_eq!(reject.reason, RejectReason::Conflict);
}

#[tokio::test]
async fn too_few_and_too_many_bytes_are_refused() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut upload = rig.upload(meta(&bytes)).await;
    push(&mut upload, &bytes[..100]).await.unwrap();
    let reject = upload.finish(None).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Truncated);
    let mut upload = rig.upload(meta(&bytes)).await;
    push(&mut upload, &bytes[..100]).await.unwrap();
    let reject = push(&mut upload, &bytes).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Overflow);
    assert_eq!(upload.received(), 100);
    drop(upload);
    rig.assert_empty();
}

#[tokio::test]
async fn a_flipped_byte_is_found_in_its_chunk_and_the_chunk_can_be_sent_again() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut upload = rig.upload(meta(&bytes)).await;
    push(&mut upload, &bytes[..100]).await.unwrap();
    let good = Segments::from(bytes[100..].to_vec());
    let mut flipped = bytes[100..].to_vec();
    flipped[7] ^= 1;
    let pushed = upload.push(100, Some(good.crc32c()), flipped.into()).await;
    assert_eq!(pushed.unwrap_err().reason, RejectReason::ChunkChecksum);
    let pushed = upload.push(99, None, good.clone()).await;
    assert_eq!(pushed.unwrap_err().reason, RejectReason::Offset);
    upload.push(100, Some(good.crc32c()), good).await.unwrap();
    upload.finish(None).await.unwrap();
    assert_eq!(std::fs::read(&rig.files("images")[0]).unwrap(), bytes);
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing_visible() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    for algorithm in [DigestAlgorithm::Xxh3, DigestAlgorithm::Blake3] {
        let wrong = Some(algorithm.digest(b"other"));
        let begun = ImageMeta {
            digest: wrong,
            ..meta(&bytes)
        };
        let reject = rig.send(begun, &bytes).await.unwrap_err();
        assert_eq!(reject.reason, RejectReason::DigestMismatch);
        assert!(reject.retryable && !reject.quarantined);
    }
    let mut upload = rig.upload(meta(&bytes)).await;
    push(&mut upload, &bytes).await.unwrap();
    let wrong = DigestAlgorithm::Xxh3.digest(b"other");
    let reject = upload.finish(Some(wrong)).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::DigestMismatch);
    assert!(rig.entries().await.is_empty());
    rig.assert_empty();
}

#[tokio::test]
async fn a_digest_at_the_end_must_be_one_that_was_made_and_agree_with_the_first() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let digest = |algorithm: DigestAlgorithm| algorithm.digest(&bytes);
    let (xxh3, blake3) = (
        digest(DigestAlgorithm::Xxh3),
        digest(DigestAlgorithm::Blake3),
    );
    for (first, last, expected) in [
        (None, Some(xxh3), None),
        (Some(blake3), Some(blake3), None),
        (None, Some(blake3), Some(RejectReason::Invalid)),
        (Some(xxh3), Some(blake3), Some(RejectReason::Invalid)),
    ] {
        let begun = ImageMeta {
            digest: first,
            ..meta(&bytes)
        };
        let mut upload = rig.upload(begun).await;
        push(&mut upload, &bytes).await.unwrap();
        let reason = upload.finish(last).await.err().map(|reject| reject.reason);
        assert_eq!(reason, expected, "{first:?} {last:?}");
    }
}

#[tokio::test]
async fn what_is_no_proper_image_is_kept_apart_and_stays_refused() {
    let rig = Rig::with(|parts| parts.verify = Verify::Full);
    let good = picture(20, 1);
    let mut corrupt = good.clone();
    let middle = corrupt.len() / 2;
    corrupt[middle] ^= 0xff;
    for (bytes, declared, reason) in [
        (&good[..good.len() - 20], None, RejectReason::TruncatedImage),
        (&good[..], Some("image/jpeg"), RejectReason::Mislabelled),
        (b"no image at all, but text", None, RejectReason::NotAnImage),
        (&[], None, RejectReason::Empty),
        (&corrupt, None, RejectReason::CorruptImage),
    ] {
        let meta = ImageMeta {
            content_type: declared.map(str::to_owned),
            digest: Some(DigestAlgorithm::Xxh3.digest(bytes)),
            ..meta(bytes)
        };
        let id = meta.id;
        for attempt in ["first", "again"] {
            let sent = match bytes.is_empty() {
                true => match rig.begin(meta.clone(), 0).await {
                    Ok(Begun::Upload(upload)) => upload.finish(None).await,
                    Ok(Begun::Present(receipt)) => Ok(receipt),
                    Err(reject) => Err(reject),
                },
                false => rig.send(meta.clone(), bytes).await,
            };
            let reject = sent.unwrap_err();
            assert_eq!(reject.reason, reason, "{attempt}");
            assert!(
                reject.quarantined && !reject.retryable,
                "{attempt} {reason}"
            );
        }
        let entry = rig.entries().await.pop().unwrap();
        assert_eq!(entry.meta.id, id);
        assert!(matches!(entry.verdict, Verdict::Quarantined { .. }));
        let kept = std::fs::read(rig.folder.path().join(&entry.location)).unwrap();
        assert_eq!(kept, bytes);
    }
    assert!(rig.files("images").is_empty());
    assert_eq!(rig.files("quarantine").len(), 5);
    // None of it blocks the next good one.
    rig.send(meta(&good), &good).await.unwrap();
}

#[tokio::test]
async fn an_image_of_unknown_size_ends_where_it_ends() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = ImageMeta::new(ImageId::new(), 0);
    let begin = Begin { meta, offset: 0 };
    let begun = rig.intake.begin_unsized(begin, &origin()).await.unwrap();
    let Begun::Upload(mut upload) = begun else {
        panic!("present")
    };
    push(&mut upload, &bytes).await.unwrap();
    let receipt = upload.finish(None).await.unwrap();
    assert_eq!(receipt.size, bytes.len() as u64);
    assert_eq!(rig.entries().await[0].meta.size, receipt.size);
}

#[tokio::test]
async fn a_dropped_upload_leaves_nothing_behind() {
    let rig = Rig::new();
    // Larger than what the writer gathers in memory, so that there is a file to remove.
    let bytes = vec![7; 3 << 20];
    let mut upload: Upload = rig.upload(meta(&bytes)).await;
    for piece in bytes.chunks(1 << 19).take(5) {
        push(&mut upload, piece).await.unwrap();
    }
    // What is needed to go on is beside it.
    assert_eq!(rig.files("incoming").len(), 2);
    let id = upload.meta().id;
    drop(upload);
    assert!(!rig.intake.is_busy(id));
    rig.assert_empty();
}

#[tokio::test]
async fn names_from_outside_never_become_paths() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    for name in ["../../x", "/etc/passwd", "a\0b", "C:\\x", "..", "💾/\n"] {
        let named = ImageMeta {
            name: Some(name.to_owned()),
            run: name.to_owned(),
            content_type: Some("text/../../plain".to_owned()),
            ..meta(&bytes)
        };
        let id = named.id;
        rig.send(named, &bytes).await.unwrap();
        let entry = rig.entries().await.pop().unwrap();
        assert_eq!(entry.meta.name.as_deref(), Some(name));
        assert!(entry.location.ends_with(&format!("/{id}.png")));
        assert!(rig.folder.path().join(&entry.location).is_file());
    }
    let outside: Vec<_> = std::fs::read_dir(rig.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("catalog.sqlite"))
        .collect();
    for name in outside {
        let known = [
            "images",
            "quarantine",
            "incoming",
            "receiver.lock",
            "receiver.open",
        ];
        assert!(
            known.contains(&name.as_str()) || name.contains("lock"),
            "{name}"
        );
    }
}
