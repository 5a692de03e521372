//! What happens while an image is being stored.

use std::sync::Arc;

use async_trait::async_trait;
use shared::chunk::Segments;
use shared::digest::Digest;
use shared::image::ImageId;
use shared::receipt::{ReceiptStatus, RejectReason};
use shared::security::access::Caller;
use tokio::sync::Semaphore;

use crate::catalog::{Catalog, CatalogError, Fault};
use crate::intake::Begun;
use crate::intake::sample::{Rig, meta, picture, push};
use crate::store::{About, ImageStore, ImageWriter, Placement, StoreError};

/// A store in which each placement of an image waits for a permit.
struct Gated {
    store: Arc<dyn ImageStore>,
    gate: Arc<Semaphore>,
}

struct GatedWriter {
    writer: Box<dyn ImageWriter>,
    gate: Arc<Semaphore>,
}

#[async_trait]
impl ImageStore for Gated {
    async fn create(&self, about: About) -> Result<Box<dyn ImageWriter>, StoreError> {
        let writer = self.store.create(about).await?;
        let gate = Arc::clone(&self.gate);
        Ok(Box::new(GatedWriter { writer, gate }))
    }

    async fn open(&self, location: &str) -> Result<Option<std::fs::File>, StoreError> {
        self.store.open(location).await
    }

    async fn size(&self, location: &str) -> Result<Option<u64>, StoreError> {
        self.store.size(location).await
    }

    async fn discard(&self, location: &str) -> Result<(), StoreError> {
        self.store.discard(location).await
    }
}

#[async_trait]
impl ImageWriter for GatedWriter {
    async fn write(&mut self, data: Segments, digest: Digest) -> Result<(), StoreError> {
        self.writer.write(data, digest).await
    }

    async fn truncate(&mut self, length: u64, digest: Digest) -> Result<(), StoreError> {
        self.writer.truncate(length, digest).await
    }

    async fn park(&mut self, digest: Digest) -> Result<(), StoreError> {
        self.writer.park(digest).await
    }

    fn leave(&mut self) {
        self.writer.leave();
    }

    async fn reopen(&mut self) -> Result<Option<std::fs::File>, StoreError> {
        self.writer.reopen().await
    }

    async fn commit(self: Box<Self>, placement: Placement) -> Result<String, StoreError> {
        self.gate.acquire().await.unwrap().forget();
        self.writer.commit(placement).await
    }
}

fn gated() -> (Rig, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let rig = Rig::with(|parts| {
        parts.store = Arc::new(Gated {
            store: Arc::clone(&parts.store),
            gate: Arc::clone(&gate),
        });
    });
    (rig, gate)
}

#[tokio::test]
async fn a_begin_waits_for_the_image_that_is_being_stored() {
    let (rig, gate) = gated();
    let (bytes, other) = (picture(20, 1), picture(20, 2));
    let mut meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes).await.unwrap();
    let mut first = Box::pin(upload.finish(None));
    assert!(futures_util::poll!(&mut first).is_pending());
    // Another image with the same id: let in now, it would take the place of the first one's file.
    meta.size = other.len() as u64;
    let mut second = Box::pin(rig.send(meta, &other));
    assert!(futures_util::poll!(&mut second).is_pending());
    gate.add_permits(2);
    let receipt = first.await.unwrap();
    assert_eq!(receipt.status, ReceiptStatus::Stored);
    assert_eq!(second.await.unwrap_err().reason, RejectReason::Conflict);
    assert_eq!(std::fs::read(&rig.files("images")[0]).unwrap(), bytes);
    assert_eq!(rig.files("images").len(), 1);
}

#[tokio::test]
async fn an_image_is_stored_to_the_end_even_if_nobody_waits() {
    let (rig, gate) = gated();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes).await.unwrap();
    let mut finish = Box::pin(upload.finish(None));
    assert!(futures_util::poll!(&mut finish).is_pending());
    drop(finish);
    assert!(rig.intake.is_busy(meta.id));
    gate.add_permits(1);
    rig.intake.close().await;
    assert_eq!(rig.entries().await[0].meta.id, meta.id);
    assert_eq!(rig.files("images").len(), 1);
    let again = rig.send(meta.clone(), &bytes).await.unwrap();
    assert_eq!(again.status, ReceiptStatus::Duplicate);
    assert!(!rig.intake.is_busy(meta.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn uploads_of_one_image_at_a_time_store_it_exactly_once() {
    let rig = Arc::new(Rig::new());
    let bytes = picture(60, 1);
    for _ in 0..20 {
        let meta = meta(&bytes);
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let (rig, meta, bytes) = (Arc::clone(&rig), meta.clone(), bytes.clone());
                tokio::spawn(async move {
                    // As a transmitter does: again, until there is a receipt.
                    loop {
                        match rig.send(meta.clone(), &bytes).await {
                            Ok(receipt) => return receipt.status,
                            Err(reject) => assert_eq!(reject.reason, RejectReason::Superseded),
                        }
                    }
                })
            })
            .collect();
        let mut stored = 0;
        for sender in senders {
            stored += usize::from(sender.await.unwrap() == ReceiptStatus::Stored);
        }
        assert_eq!(stored, 1);
    }
    assert_eq!(rig.entries().await.len(), 20);
    assert_eq!(rig.files("images").len(), 20);
    assert!(rig.files("incoming").is_empty());
}

/// A catalogue that cannot be read.
struct Broken;

fn broken() -> CatalogError {
    CatalogError {
        action: "testing",
        problem: "/secret/path".to_owned(),
        fault: Fault::Request,
    }
}

#[async_trait]
impl Catalog for Broken {
    async fn find(&self, _: ImageId) -> Result<Option<crate::catalog::Numbered>, CatalogError> {
        Err(broken())
    }

    async fn insert(
        &self,
        _: crate::catalog::Entry,
    ) -> Result<crate::catalog::Inserted, CatalogError> {
        Err(broken())
    }

    async fn remove(&self, _: ImageId, _: &str, _: &str) -> Result<bool, CatalogError> {
        Err(broken())
    }

    fn insert_later(&self, _: crate::catalog::Entry) {}

    fn tally(&self, _: crate::catalog::Tally) {}

    async fn account(&self, _: shared::report::RunAccount) -> Result<(), CatalogError> {
        Err(broken())
    }

    async fn list(
        &self,
        _: crate::catalog::Filter,
        _: i64,
        _: usize,
    ) -> Result<Vec<crate::catalog::Numbered>, CatalogError> {
        Err(broken())
    }

    async fn series(
        &self,
        _: crate::catalog::Filter,
    ) -> Result<Vec<crate::catalog::Series>, CatalogError> {
        Err(broken())
    }

    async fn keep_losses(
        &self,
        _: shared::wire::LossReport,
    ) -> Result<crate::catalog::Kept, CatalogError> {
        Err(broken())
    }

    async fn repeat(&self, _: crate::catalog::Repeat) -> Result<(), CatalogError> {
        Err(broken())
    }

    async fn losses(
        &self,
        _: crate::catalog::LossFilter,
        _: i64,
        _: usize,
    ) -> Result<Vec<crate::catalog::KeptLoss>, CatalogError> {
        Err(broken())
    }

    async fn gaps(
        &self,
        _: crate::catalog::LossFilter,
        _: usize,
    ) -> Result<Vec<crate::catalog::Gap>, CatalogError> {
        Err(broken())
    }

    async fn ledger(
        &self,
        _: &crate::catalog::Series,
    ) -> Result<crate::catalog::RunLedger, CatalogError> {
        Err(broken())
    }

    async fn integrity(&self) -> Result<crate::catalog::Integrity, CatalogError> {
        Err(broken())
    }
}

#[tokio::test]
async fn a_failing_catalogue_is_the_receivers_fault_and_leaves_nobody_the_owner() {
    let rig = Rig::with(|parts| parts.catalog = Arc::new(Broken));
    let meta = meta(b"xx");
    let reject = rig.begin(meta.clone(), 0).await.err().unwrap();
    assert_eq!(reject.reason, RejectReason::Internal);
    assert!(reject.retryable && !reject.message.contains("secret"));
    assert!(!rig.intake.is_busy(meta.id));
}

#[tokio::test]
async fn losses_that_the_catalogue_does_not_take_are_not_kept_and_worth_another_try() {
    let rig = Rig::with(|parts| parts.catalog = Arc::new(Broken));
    let report = shared::wire::LossReport {
        standing: Some(shared::wire::Standing {
            outbox: shared::image::OutboxId::new(),
            first_owed: 1,
            next_sequence: 1,
        }),
        ..Default::default()
    };
    let reject = rig
        .intake
        .keep_losses(report, &Caller::Anyone)
        .await
        .unwrap_err();
    assert_eq!(reject.reason, RejectReason::Internal);
    assert!(reject.retryable && !reject.message.contains("secret"));
}

#[tokio::test]
async fn a_begin_that_is_given_up_while_it_waits_leaves_nobody_the_owner() {
    let (rig, gate) = gated();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let mut upload = rig.upload(meta.clone()).await;
    push(&mut upload, &bytes).await.unwrap();
    let mut finish = Box::pin(upload.finish(None));
    assert!(futures_util::poll!(&mut finish).is_pending());
    let mut begin = Box::pin(rig.begin(meta.clone(), 0));
    assert!(futures_util::poll!(&mut begin).is_pending());
    drop(begin);
    gate.add_permits(1);
    finish.await.unwrap();
    assert!(!rig.intake.is_busy(meta.id));
    let begun = rig.begin(meta, 0).await.unwrap();
    assert!(matches!(begun, Begun::Upload(_)), "only the bytes can tell");
}
