//! Bytes that count only together, when something has been checked that is known at their end.

use shared::digest::DigestAlgorithm;
use shared::image::Transport;
use shared::receipt::RejectReason;
use shared::settings::units::ByteSize;

use crate::intake::sample::{Rig, meta, picture, push};
use crate::intake::{Parts, Proof, Upload};

fn large(parts: &mut Parts) {
    parts.limits.max_image_size = ByteSize::mib(8);
}

/// A receiver to which 300 bytes have come by a request that was right, and 3 MiB by one of which
/// nobody knows yet.
async fn scene() -> (Rig, Vec<u8>, shared::image::ImageMeta, Upload) {
    let rig = Rig::with(large);
    let bytes = picture(1_200, 1);
    let meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    rig.intake.keep(upload).await;
    let mut upload = rig
        .intake
        .resume(meta.id, Transport::Rest)
        .await
        .expect("it is kept");
    upload.checkpoint(Proof::Follows).await.unwrap();
    for piece in bytes[300..3 << 20].chunks(1 << 19) {
        push(&mut upload, piece).await.unwrap();
    }
    (rig, bytes, meta, upload)
}

#[tokio::test]
async fn what_was_not_proven_does_not_count_after_a_crash() {
    let (rig, _, meta, upload) = scene().await;
    let rig = rig.killed(upload, large, || {}).await;
    assert_eq!(rig.intake.held(meta.id).await, Some(300));
}

#[tokio::test]
async fn what_was_proven_counts_after_a_crash() {
    let (rig, bytes, meta, mut upload) = scene().await;
    upload.prove().await.unwrap();
    push(&mut upload, &bytes[3 << 20..][..1 << 20])
        .await
        .unwrap();
    let rig = rig.killed(upload, large, || {}).await;
    let held = rig.intake.held(meta.id).await.unwrap();
    assert!(held > 3 << 20, "{held}");
}

#[tokio::test]
async fn another_connection_goes_on_with_what_is_proven() {
    for park in [false, true] {
        let (rig, bytes, meta, mut old) = scene().await;
        assert_eq!(rig.intake.held(meta.id).await, Some(300));
        let reject = rig.begin(meta.clone(), 301).await.err().unwrap();
        assert_eq!(reject.reason, RejectReason::Offset);
        let mut new = if park {
            let held = rig.intake.seize(meta.id).await.unwrap();
            assert_eq!(held.received, 300);
            rig.intake.resume(meta.id, Transport::Rest).await.unwrap()
        } else {
            rig.upload_from(meta, 300).await
        };
        assert_eq!(new.received(), 300);
        let reject = old.prove().await.unwrap_err();
        assert_eq!(reject.reason, RejectReason::Superseded);
        assert!(push(&mut old, b"more").await.is_err());
        for piece in bytes[300..].chunks(1 << 20) {
            push(&mut new, piece).await.unwrap();
        }
        let receipt = new.finish(None).await.unwrap();
        assert_eq!(receipt.digest, DigestAlgorithm::Xxh3.digest(&bytes));
        assert_eq!(std::fs::read(&rig.files("images")[0]).unwrap(), bytes);
    }
}

#[tokio::test]
async fn what_is_parked_without_proof_is_dropped() {
    let (rig, _, meta, upload) = scene().await;
    rig.intake.park(upload).await;
    assert_eq!(rig.intake.held(meta.id).await, Some(300));
}
