//! What a process leaves that did not stop in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use shared::receipt::ReceiptStatus;
use tokio::sync::Notify;

use crate::catalog::{Catalog, FILE_MISSING, LossFilter};
use crate::intake::Settled;
use crate::intake::sample::{Rig, meta, picture};
use crate::store::{About, ImageStore, ImageWriter, StoreError, Unsettled};

#[tokio::test]
async fn an_orderly_stop_leaves_nothing_to_look_for() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    rig.send(meta(&bytes), &bytes).await.unwrap();
    rig.intake.parts.store.close().await.unwrap();
    let rig = rig.again(|_| {}).await;
    assert_eq!(rig.intake.settle().await.unwrap(), None);
}

#[tokio::test]
async fn files_and_entries_that_have_no_match_are_found() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let mut sent = Vec::new();
    for _ in 0..5 {
        let meta = meta(&bytes);
        rig.send(meta.clone(), &bytes).await.unwrap();
        sent.push(meta);
    }
    let mut files = rig.files("images");
    files.sort();
    // UUIDv7 sort by time, so these are in the order of sending.
    std::fs::remove_file(&files[0]).unwrap();
    std::fs::write(&files[1], b"short").unwrap();
    let orphan = files[2].with_file_name(format!("{}.png", shared::image::ImageId::new()));
    std::fs::copy(&files[2], &orphan).unwrap();
    let doubled = files[2].with_extension("jpg");
    std::fs::copy(&files[2], &doubled).unwrap();
    let note = files[2].with_file_name("note.txt");
    std::fs::write(&note, b"somebody else's").unwrap();

    let rig = rig.again(|_| {}).await;
    let settled = rig.intake.settle().await.unwrap();
    let (orphans, missing) = (3, 2);
    assert_eq!(settled, Some(Settled { orphans, missing }));
    let mut left = rig.files("images");
    left.sort();
    let mut expected = files[2..].to_vec();
    expected.push(note);
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(rig.files("orphans").len(), 3);
    assert_eq!(rig.entries().await.len(), 3);
    let losses = rig
        .catalog
        .losses(LossFilter::default(), 0, 10)
        .await
        .unwrap();
    assert_eq!(losses.len(), 2);
    assert!(losses.iter().all(|loss| loss.loss.reason == FILE_MISSING));
    for meta in sent {
        rig.send(meta, &bytes).await.unwrap();
    }
    assert_eq!(rig.entries().await.len(), 5);
    // Once is enough.
    assert_eq!(rig.intake.settle().await.unwrap(), None);
}

#[tokio::test]
async fn what_is_being_sent_is_not_disturbed() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    rig.send(crate::intake::sample::meta(&bytes), &bytes)
        .await
        .unwrap();
    let folder = rig.files("images")[0].parent().unwrap().to_path_buf();
    let orphan = folder.join(format!("{}.png", meta.id));
    std::fs::write(&orphan, b"left by a crash").unwrap();
    let rig = rig.again(|_| {}).await;
    let mut upload = rig.upload(meta).await;
    crate::intake::sample::push(&mut upload, &bytes[..300])
        .await
        .unwrap();
    assert_eq!(
        rig.intake
            .settle()
            .await
            .unwrap()
            .map(|found| found.orphans),
        Some(1)
    );
    assert!(!orphan.exists());
    crate::intake::sample::push(&mut upload, &bytes[300..])
        .await
        .unwrap();
    upload.finish(None).await.unwrap();
    assert_eq!(rig.files("images").len(), 2);
}

/// A store whose first answer about a size comes late.
struct Slow {
    store: Arc<dyn ImageStore>,
    was_asked: AtomicBool,
    asked: Arc<Notify>,
    answer: Arc<Notify>,
}

#[async_trait]
impl ImageStore for Slow {
    async fn create(&self, about: About) -> Result<Box<dyn ImageWriter>, StoreError> {
        self.store.create(about).await
    }

    async fn open(&self, location: &str) -> Result<Option<std::fs::File>, StoreError> {
        self.store.open(location).await
    }

    async fn size(&self, location: &str) -> Result<Option<u64>, StoreError> {
        let size = self.store.size(location).await;
        if !self.was_asked.swap(true, Ordering::Relaxed) {
            self.asked.notify_one();
            self.answer.notified().await;
        }
        size
    }

    async fn discard(&self, location: &str) -> Result<(), StoreError> {
        self.store.discard(location).await
    }

    fn unsettled(&self) -> Option<Arc<dyn Unsettled>> {
        self.store.unsettled()
    }
}

#[tokio::test]
async fn an_image_that_is_stored_again_while_its_file_is_looked_for_keeps_its_entry() {
    let rig = Rig::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    rig.send(meta.clone(), &bytes).await.unwrap();
    std::fs::remove_file(&rig.files("images")[0]).unwrap();
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (was_asked, heard, let_go) = (AtomicBool::new(false), asked.clone(), answer.clone());
    let rig = rig
        .again(|parts| {
            parts.store = Arc::new(Slow {
                store: Arc::clone(&parts.store),
                was_asked,
                asked,
                answer,
            });
        })
        .await;
    let intake = Arc::clone(&rig.intake);
    let settling = tokio::spawn(async move { intake.settle().await });
    heard.notified().await;
    // It is found missing on the way, and so it is no duplicate.
    let receipt = rig.send(meta.clone(), &bytes).await.unwrap();
    assert_eq!(receipt.status, ReceiptStatus::Stored);
    let_go.notify_one();
    let settled = settling.await.unwrap().unwrap();
    assert_eq!(settled, Some(Settled::default()));
    assert_eq!(rig.entries().await.len(), 1);
    let receipt = rig.send(meta, &bytes).await.unwrap();
    assert_eq!(receipt.status, ReceiptStatus::Duplicate);
}

#[tokio::test]
async fn of_two_orphans_of_one_place_both_are_kept() {
    let mut rig = Rig::new();
    let bytes = picture(20, 1);
    rig.send(meta(&bytes), &bytes).await.unwrap();
    let folder = rig.files("images")[0].parent().unwrap().to_path_buf();
    let orphan = folder.join(format!("{}.png", shared::image::ImageId::new()));
    for content in ["first", "second", "third"] {
        std::fs::write(&orphan, content).unwrap();
        rig = rig.again(|_| {}).await;
        // A process that did not stop in order leaves the day to be looked at again.
        rig.send(meta(&bytes), &bytes).await.unwrap();
        rig.intake.settle().await.unwrap();
        assert!(!orphan.exists());
    }
    let kept = rig.files("orphans").into_iter();
    let mut kept: Vec<String> = kept
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["first", "second", "third"]);
}
