//! What an image must keep, and what happens when it does not.

use shared::image::ImageMeta;
use shared::receipt::RejectReason;
use shared::security::access::Caller;
use shared::settings::units::ByteSize;
use shared::wire::Begin;

use crate::intake::sample::{Rig, meta, origin, picture, push};
use crate::intake::{Begun, Origin};

#[tokio::test]
async fn size_and_metadata_are_checked_before_any_byte() {
    let rig = Rig::new();
    let limit = rig.intake.limits().max_image_size.0;
    let mut large = meta(b"");
    large.size = limit + 1;
    let reject = rig.begin(large.clone(), 0).await.err().unwrap();
    assert_eq!(reject.reason, RejectReason::Limit);
    assert!(reject.message.contains("RECEIVER_MAX_IMAGE_SIZE"));
    large.size = limit;
    assert!(rig.begin(large, 0).await.is_ok());

    let wordy = ImageMeta {
        name: Some("x".repeat(600)),
        run: "x".repeat(500),
        ..meta(b"x")
    };
    let reject = rig.begin(wordy, 0).await.err().unwrap();
    assert_eq!(reject.reason, RejectReason::Limit);
    assert!(reject.message.contains("RECEIVER_MAX_METADATA"));
    let origin = Origin::new(origin().transport, &"x".repeat(513), &Caller::Anyone);
    let begin = Begin {
        meta: meta(b"x"),
        offset: 0,
    };
    let reject = rig.intake.begin(begin, &origin).await.err().unwrap();
    assert_eq!(reject.reason, RejectReason::Limit);
    rig.assert_empty();
}

#[tokio::test]
async fn metadata_that_is_too_long_to_be_taken_is_not_remembered() {
    let rig = Rig::new();
    let mut events = rig.intake.watch();
    for (name, run, transmitter) in [(5_000, 4, 4), (4, 5_000, 4), (4, 4, 5_000), (4, 900, 900)] {
        let wordy = ImageMeta {
            name: Some("n".repeat(name)),
            run: "r".repeat(run),
            ..meta(b"x")
        };
        let origin = Origin::new(
            origin().transport,
            &"t".repeat(transmitter),
            &Caller::Anyone,
        );
        let begin = Begin {
            meta: wordy,
            offset: 0,
        };
        assert!(rig.intake.begin(begin, &origin).await.is_err());
        let event = events.recv().await.unwrap();
        let len = event.name.len() + event.run.len() + event.transmitter.len();
        assert!(len < 20, "{len} bytes");
        // A name that is too long is counted where the image belongs.
        assert_eq!(event.run.len() == run, name == 5_000);
    }
}

#[tokio::test]
async fn chunks_are_counted() {
    let rig = Rig::with(|parts| parts.limits.max_chunks = 3);
    let bytes = picture(20, 1);
    let mut upload = rig.upload(meta(&bytes)).await;
    for piece in bytes.chunks(10).take(3) {
        push(&mut upload, piece).await.unwrap();
    }
    let reject = push(&mut upload, &bytes[30..]).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Limit);
    assert!(reject.message.contains("RECEIVER_MAX_CHUNKS"));
}

#[tokio::test]
async fn an_image_of_unknown_size_cannot_grow_beyond_the_limit() {
    let rig = Rig::with(|parts| parts.limits.max_image_size = ByteSize(1_000));
    let begin = Begin {
        meta: meta(b""),
        offset: 0,
    };
    let begun = rig.intake.begin_unsized(begin, &origin()).await.unwrap();
    let Begun::Upload(mut upload) = begun else {
        panic!("present")
    };
    push(&mut upload, &[0; 1_000]).await.unwrap();
    let reject = push(&mut upload, &[0]).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Limit);
    assert!(reject.message.contains("RECEIVER_MAX_IMAGE_SIZE"));
}

#[tokio::test]
async fn a_chunk_larger_than_all_memory_does_not_wait_for_ever() {
    let rig = Rig::new();
    let bytes = vec![0; (2 << 20) + 1];
    assert!(bytes.len() as u64 > rig.intake.limits().max_memory.0);
    let mut upload = rig.upload(meta(&bytes)).await;
    push(&mut upload, &bytes).await.unwrap();
    assert_eq!(upload.received(), bytes.len() as u64);
}
