//! Uploads that an earlier process left.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shared::digest::DigestAlgorithm;
use shared::image::ImageId;
use shared::settings::units::ByteSize;

use super::resuming::part;
use crate::intake::sample::{Rig, meta, picture, push};
use crate::store::{About, ImageStore, ImageWriter, Partial, Replay, StoreError};

#[tokio::test]
async fn a_closed_intake_leaves_everything_to_the_next_process() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let (first, second) = (meta(&bytes), meta(&bytes));
    let mut early = rig.upload(first.clone()).await;
    push(&mut early, &bytes[..100]).await.unwrap();
    let mut late = rig.upload(second.clone()).await;
    push(&mut late, &bytes[..200]).await.unwrap();
    rig.intake.park(early).await;
    rig.intake.close().await;
    rig.intake.park(late).await;
    assert_eq!(std::sync::Arc::strong_count(&rig.intake), 1);
    let rig = rig.again(|_| {}).await;
    assert_eq!(rig.intake.held(first.id).await, Some(100));
    for (meta, held) in [(first, 100), (second, 200)] {
        let mut upload = rig.upload_from(meta, held).await;
        push(&mut upload, &bytes[held as usize..]).await.unwrap();
        upload.finish(None).await.unwrap();
    }
    assert!(rig.files("incoming").is_empty());
    for file in rig.files("images") {
        assert_eq!(std::fs::read(file).unwrap(), bytes);
    }
}

#[tokio::test]
async fn what_a_killed_process_had_is_gone_on_with_as_far_as_it_is_right() {
    let bytes = picture(1_200, 1);
    assert!(bytes.len() > 4 << 20);
    // Torn where the process or the power left it: (bytes that are cut off, byte that is wrong).
    for (cut, wrong, held) in [
        (0, None, 3 << 20),
        (1, None, 2 << 20),
        ((1 << 20) + 1, None, 1 << 20),
        (0, Some((3 << 20) - 1), 2 << 20),
        (0, Some(1 << 20), 1 << 20),
        (0, Some(0), 0),
    ] {
        let rig = Rig::with(|parts| parts.limits.max_image_size = ByteSize::mib(8));
        let meta = meta(&bytes);
        let mut upload = rig.upload(meta.clone()).await;
        for piece in bytes[..3 << 20].chunks(1 << 19) {
            push(&mut upload, piece).await.unwrap();
        }
        let path = part(&rig);
        let rig = rig
            .killed(
                upload,
                |parts| parts.limits.max_image_size = ByteSize::mib(8),
                || {
                    let mut left = std::fs::read(&path).unwrap();
                    left.truncate(left.len() - cut);
                    if let Some(wrong) = wrong {
                        left[wrong] ^= 1;
                    }
                    std::fs::write(&path, left).unwrap();
                },
            )
            .await;
        let case = format!("cut {cut}, wrong {wrong:?}");
        assert_eq!(rig.intake.held(meta.id).await.unwrap_or(0), held, "{case}");
        let mut upload = rig.upload_from(meta, held).await;
        for piece in bytes[held as usize..].chunks(1 << 20) {
            push(&mut upload, piece).await.unwrap();
        }
        let receipt = upload.finish(None).await.unwrap();
        assert_eq!(
            receipt.digest,
            DigestAlgorithm::Xxh3.digest(&bytes),
            "{case}"
        );
        assert_eq!((receipt.width, receipt.height), (1_200, 1_200), "{case}");
        assert_eq!(std::fs::read(&rig.files("images")[0]).unwrap(), bytes);
        assert!(rig.files("incoming").is_empty(), "{case}");
    }
}

#[tokio::test]
async fn what_an_earlier_process_left_expires_too() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut upload = rig.upload(meta(&bytes)).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    let id = upload.meta().id;
    rig.intake.park(upload).await;
    rig.intake.close().await;
    let rig = rig
        .again(|parts| parts.limits.partial_ttl = Duration::from_nanos(1))
        .await;
    assert_eq!(rig.intake.held(id).await, None);
    rig.intake.expire();
    rig.assert_empty();
}

#[tokio::test]
async fn what_an_earlier_process_left_is_as_old_as_this_process_whatever_the_clock_says() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut upload = rig.upload(meta(&bytes)).await;
        push(&mut upload, &bytes[..400]).await.unwrap();
        ids.push(upload.meta().id);
        rig.intake.park(upload).await;
    }
    rig.intake.close().await;
    // As if it had been written before the clock was set.
    let rig = rig
        .again(|parts| parts.store = Arc::new(Old(Arc::clone(&parts.store), ids.clone())))
        .await;
    for id in &ids {
        assert_eq!(rig.intake.held(*id).await, Some(400));
    }
    // The oldest gives way yet.
    let rig = rig
        .again(|parts| {
            parts.store = Arc::new(Old(Arc::clone(&parts.store), ids.clone()));
            parts.limits.partial_limit = ByteSize(1_000);
        })
        .await;
    for (id, held) in ids.iter().zip([None, Some(400), Some(400)]) {
        assert_eq!(rig.intake.held(*id).await, held);
    }
}

/// A store whose partial images are decades old, the first of these ids the oldest.
struct Old(Arc<dyn ImageStore>, Vec<ImageId>);

struct OldPartial(Box<dyn Partial>, Duration);

#[async_trait]
impl ImageStore for Old {
    async fn create(&self, about: About) -> Result<Box<dyn ImageWriter>, StoreError> {
        self.0.create(about).await
    }

    async fn open(&self, location: &str) -> Result<Option<std::fs::File>, StoreError> {
        self.0.open(location).await
    }

    async fn size(&self, location: &str) -> Result<Option<u64>, StoreError> {
        self.0.size(location).await
    }

    async fn discard(&self, location: &str) -> Result<(), StoreError> {
        self.0.discard(location).await
    }

    fn partials(&self) -> Vec<Box<dyn Partial>> {
        let partials = self.0.partials().into_iter();
        let old = partials.map(|partial| {
            let id = partial.about().meta.id;
            let place = self.1.iter().position(|known| *known == id).unwrap_or(0);
            let years = 56 - place as u64;
            let age = Duration::from_secs(years * 365 * 24 * 3_600);
            Box::new(OldPartial(partial, age)) as Box<dyn Partial>
        });
        old.collect()
    }
}

impl Partial for OldPartial {
    fn about(&self) -> &About {
        self.0.about()
    }

    fn length(&self) -> u64 {
        self.0.length()
    }

    fn age(&self) -> Duration {
        self.1
    }

    fn leave(&mut self) {
        self.0.leave();
    }

    fn recover(
        self: Box<Self>,
        replay: &mut dyn Replay,
    ) -> Result<Box<dyn ImageWriter>, StoreError> {
        self.0.recover(replay)
    }
}

#[tokio::test]
async fn what_was_stored_meanwhile_is_not_gone_on_with() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    rig.intake.park(upload).await;
    let left: Vec<_> = rig.files("incoming");
    let left: Vec<_> = left
        .iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    rig.send(meta.clone(), &bytes).await.unwrap();
    // As after a power loss that brought the names back.
    for (path, content) in left {
        std::fs::write(path, content).unwrap();
    }
    let rig = rig.again(|_| {}).await;
    assert_eq!(rig.intake.held(meta.id).await, None);
    assert!(rig.files("incoming").is_empty());
    assert_eq!(rig.files("images").len(), 1);
}
