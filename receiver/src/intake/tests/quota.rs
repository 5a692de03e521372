//! What a transmitter may bring in.

use shared::receipt::{ReceiptStatus, RejectReason};
use shared::settings::units::ByteSize;

use crate::intake::sample::{Rig, meta, origin, picture, push};
use crate::intake::{Begun, Origin, Parts};
use shared::image::Transport;
use shared::security::access::Caller;
use shared::wire::Begin;

fn bytes(most: u64) -> impl Fn(&mut Parts) + Copy {
    move |parts| parts.limits.quota.bytes = Some(ByteSize(most))
}

fn images(most: u64) -> impl Fn(&mut Parts) + Copy {
    move |parts| parts.limits.quota.images = Some(most)
}

#[tokio::test]
async fn what_is_stored_counts_once_and_across_a_restart() {
    let rig = Rig::with(images(2));
    let first = picture(8, 1);
    let known = meta(&first);
    for status in [ReceiptStatus::Stored, ReceiptStatus::Duplicate] {
        let receipt = rig.send(known.clone(), &first).await.unwrap();
        assert_eq!(receipt.status, status);
    }
    // What was quarantined is on the disk, too.
    let rejected = rig.send(meta(b"no image"), b"no image").await.unwrap_err();
    assert!(rejected.quarantined);
    let second = picture(8, 2);
    let refused = rig.send(meta(&second), &second).await.unwrap_err();
    assert_eq!(refused.reason, RejectReason::Quota);
    assert!(refused.retryable && !refused.quarantined);
    // In an hour, and the slot after it.
    let after = refused.retry_after_ms.unwrap();
    assert!((3_600_000..=3_660_000).contains(&after), "{after}");
    let rig = rig.again(images(2)).await;
    rig.intake.load_quotas().await.unwrap();
    let refused = rig.send(meta(&second), &second).await.unwrap_err();
    assert_eq!(refused.reason, RejectReason::Quota);
    let receipt = rig.send(known, &first).await.unwrap();
    assert_eq!(receipt.status, ReceiptStatus::Duplicate, "it is here");
    // Others have their own.
    let other = Origin::new(Transport::Rest, "other", &Caller::Anyone);
    let begin = Begin {
        meta: meta(&second),
        offset: 0,
    };
    assert!(rig.intake.begin(begin, &other).await.is_ok());
    let figures = rig.intake.metrics().handle().render();
    let line = "pantelegraph_rejects_total{transport=\"websocket\",reason=\"quota\"} 1";
    assert!(figures.lines().any(|found| found == line), "{figures}");
}

#[tokio::test]
async fn images_that_begin_together_do_not_exceed_it_together() {
    let (one, two) = (picture(8, 1), picture(8, 2));
    let rig = Rig::with(bytes((one.len() + two.len()) as u64 - 1));
    let mut first = rig.upload(meta(&one)).await;
    let refused = rig.begin(meta(&two), 0).await.err().unwrap();
    assert_eq!(refused.reason, RejectReason::Quota);
    // What does not come is given back.
    push(&mut first, &one[..4]).await.unwrap();
    drop(first);
    let second = rig.upload(meta(&two)).await;
    assert!(rig.begin(meta(&one), 0).await.is_err());
    drop(second);
    // Announced again, an image is not counted twice.
    let again = meta(&one);
    let former = rig.upload(again.clone()).await;
    let mut newer = rig.upload(again).await;
    drop(former);
    push(&mut newer, &one).await.unwrap();
    newer.finish(None).await.unwrap();
    assert!(rig.begin(meta(&two), 0).await.is_err());
}

#[tokio::test]
async fn an_image_without_a_size_ends_where_the_quota_does() {
    let one = picture(8, 1);
    let rig = Rig::with(bytes(one.len() as u64));
    let begin = |id_of| Begin {
        meta: id_of,
        offset: 0,
    };
    let begun = rig.intake.begin_unsized(begin(meta(&one)), &origin()).await;
    let Ok(Begun::Upload(mut upload)) = begun else {
        panic!("not begun")
    };
    push(&mut upload, &one).await.unwrap();
    let refused = push(&mut upload, b"x").await.unwrap_err();
    assert_eq!(refused.reason, RejectReason::Quota);
    drop(upload);
    let begun = rig.intake.begin_unsized(begin(meta(&one)), &origin()).await;
    let Ok(Begun::Upload(mut upload)) = begun else {
        panic!("not begun")
    };
    push(&mut upload, &one).await.unwrap();
    upload.finish(None).await.unwrap();
}

#[tokio::test]
async fn of_what_is_left_only_what_has_come_counts_and_it_is_kept() {
    let (one, two) = (picture(8, 1), picture(8, 2));
    let rig = Rig::with(bytes(one.len() as u64 + 10));
    let known = meta(&one);
    let mut upload = rig.upload(known.clone()).await;
    push(&mut upload, &one[..20]).await.unwrap();
    rig.intake.park(upload).await;
    let other = rig.upload(meta(&two[..one.len() - 20])).await;
    assert!(
        rig.begin(meta(&two[..11]), 0).await.is_err(),
        "20 have come"
    );
    // There is no room to go on with it now, and nothing of it is lost.
    let refused = rig.begin(known.clone(), 20).await.err().unwrap();
    assert_eq!(refused.reason, RejectReason::Quota);
    assert_eq!(rig.intake.held(known.id).await, Some(20));
    // Nor by the way that does not announce it.
    let mut upload = rig.intake.resume(known.id, Transport::Rest).await.unwrap();
    let refused = push(&mut upload, &one[20..]).await.unwrap_err();
    assert_eq!(refused.reason, RejectReason::Quota);
    assert_eq!(upload.received(), 20);
    rig.intake.keep(upload).await;
    drop(other);
    let mut upload = rig.upload_from(known, 20).await;
    push(&mut upload, &one[20..]).await.unwrap();
    upload.finish(None).await.unwrap();
}
