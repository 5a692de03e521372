//! A receiver's core that keeps everything in memory, and time that passes only when nothing else
//! can happen.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pantelegraph_receiver::catalog::{
    Catalog, CatalogError, Entry, Filter, Gap, Inserted, Integrity, Kept, KeptLoss, LossFilter,
    Numbered, Repeat, RunLedger, Series, Tally,
};
use pantelegraph_receiver::config::{Limits, Quota, Verify};
use pantelegraph_receiver::intake::{Intake, Parts};
use pantelegraph_receiver::metrics::ReceiverMetrics;
use pantelegraph_receiver::store::{About, ImageStore, ImageWriter, Placement, StoreError};
use shared::chunk::Segments;
use shared::digest::Digest;
use shared::image::ImageId;
use shared::receipt::{Durability, Receipt};
use shared::report::RunAccount;
use shared::settings::units::ByteSize;
use shared::wire::LossReport;
use tokio::runtime::{Builder, Runtime};

/// Longer than anything may take.
pub const GUARD: Duration = Duration::from_secs(24 * 3_600);

/// Largest message, in bytes.
pub const MAX_MESSAGE: u64 = 4 << 10;

/// Runs `future` to its end, with a clock that jumps to whatever is waited for.
///
/// # Panics
/// When it takes longer than [`GUARD`].
pub fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime needs nothing");
    }
    RUNTIME.with(|runtime| {
        let done = runtime.block_on(async { tokio::time::timeout(GUARD, future).await });
        done.expect("it ends")
    })
}

/// A receiver's core and what it has kept.
pub struct Rig {
    pub intake: Arc<Intake>,
    stored: Stored,
}

type Stored = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

impl Rig {
    pub fn new() -> Self {
        thread_local! {
            // Made once: it is the slowest part.
            static METRICS: ReceiverMetrics = ReceiverMetrics::new("0.0.0");
        }
        let stored = Stored::default();
        let intake = Intake::new(Parts {
            store: Arc::new(Shelf(Arc::clone(&stored))),
            catalog: Arc::new(Memory::default()),
            metrics: METRICS.with(Clone::clone),
            name: "receiver".to_owned(),
            durability: Durability::Synced,
            verify: Verify::Header,
            limits: Limits {
                max_image_size: ByteSize::kib(64),
                max_message_size: ByteSize(MAX_MESSAGE),
                max_chunks: 64,
                max_metadata: ByteSize(256),
                max_connections: 4,
                max_unfinished: 4,
                max_memory: ByteSize::kib(16),
                idle_timeout: Duration::from_secs(60),
                partial_ttl: Duration::from_secs(3_600),
                partial_limit: ByteSize::mib(1),
                min_free: ByteSize(0),
                quota: Quota::default(),
                max_pixels: 1_000_000,
                decode_timeout: Duration::from_secs(30),
            },
            spans: Default::default(),
        });
        Self { intake, stored }
    }

    /// What a receipt says must be what is kept.
    pub async fn check(&self, receipt: &Receipt) {
        let known = self.intake.catalog().find(receipt.image_id).await;
        let known = known
            .expect("memory does not fail")
            .expect("it is catalogued");
        assert_eq!(known.entry.digest, receipt.digest);
        let stored = self.stored.lock().expect("nobody panics with it");
        let bytes = stored.get(&known.entry.location).expect("it is stored");
        assert_eq!(bytes.len() as u64, receipt.size);
        assert_eq!(receipt.digest.algorithm().digest(bytes), receipt.digest);
    }
}

struct Shelf(Stored);

#[async_trait]
impl ImageStore for Shelf {
    async fn create(&self, _about: About) -> Result<Box<dyn ImageWriter>, StoreError> {
        let (shelf, bytes) = (Arc::clone(&self.0), Vec::new());
        Ok(Box::new(Writer { shelf, bytes }))
    }

    async fn open(&self, _location: &str) -> Result<Option<File>, StoreError> {
        Ok(None)
    }

    async fn size(&self, location: &str) -> Result<Option<u64>, StoreError> {
        let stored = self.0.lock().expect("nobody panics with it");
        Ok(stored.get(location).map(|bytes| bytes.len() as u64))
    }

    async fn discard(&self, location: &str) -> Result<(), StoreError> {
        self.0
            .lock()
            .expect("nobody panics with it")
            .remove(location);
        Ok(())
    }
}

struct Writer {
    shelf: Stored,
    bytes: Vec<u8>,
}

#[async_trait]
impl ImageWriter for Writer {
    async fn write(&mut self, data: Segments, _digest: Digest) -> Result<(), StoreError> {
        for piece in data.pieces() {
            self.bytes.extend_from_slice(piece);
        }
        Ok(())
    }

    async fn truncate(&mut self, length: u64, _digest: Digest) -> Result<(), StoreError> {
        let length = usize::try_from(length).expect("it was written");
        assert!(length <= self.bytes.len(), "only what is there can be cut");
        self.bytes.truncate(length);
        Ok(())
    }

    async fn reopen(&mut self) -> Result<Option<File>, StoreError> {
        Ok(None)
    }

    async fn park(&mut self, _digest: Digest) -> Result<(), StoreError> {
        Ok(())
    }

    fn leave(&mut self) {}

    async fn commit(self: Box<Self>, placement: Placement) -> Result<String, StoreError> {
        let location = format!("{:?}/{}", placement.area, placement.id);
        let mut shelf = self.shelf.lock().expect("nobody panics with it");
        shelf.insert(location.clone(), self.bytes);
        Ok(location)
    }
}

#[derive(Default)]
struct Memory(Mutex<BTreeMap<ImageId, Entry>>);

#[async_trait]
impl Catalog for Memory {
    async fn find(&self, id: ImageId) -> Result<Option<Numbered>, CatalogError> {
        let entries = self.0.lock().expect("nobody panics with it");
        Ok(entries.get(&id).map(|entry| Numbered {
            number: 1,
            entry: entry.clone(),
            delivery_ns: None,
            attempts: None,
        }))
    }

    async fn insert(&self, entry: Entry) -> Result<Inserted, CatalogError> {
        let mut entries = self.0.lock().expect("nobody panics with it");
        if let Some(known) = entries.get(&entry.meta.id) {
            return Ok(Inserted::Present(Box::new(known.clone())));
        }
        entries.insert(entry.meta.id, entry);
        Ok(Inserted::New)
    }

    async fn remove(
        &self,
        id: ImageId,
        location: &str,
        _reason: &str,
    ) -> Result<bool, CatalogError> {
        let mut entries = self.0.lock().expect("nobody panics with it");
        let known = entries
            .get(&id)
            .is_some_and(|entry| entry.location == location);
        if known {
            entries.remove(&id);
        }
        Ok(known)
    }

    fn insert_later(&self, _entry: Entry) {}

    fn tally(&self, _tally: Tally) {}

    async fn account(&self, _account: RunAccount) -> Result<(), CatalogError> {
        Ok(())
    }

    async fn list(
        &self,
        _filter: Filter,
        _after: i64,
        _limit: usize,
    ) -> Result<Vec<Numbered>, CatalogError> {
        Ok(Vec::new())
    }

    async fn series(&self, _filter: Filter) -> Result<Vec<Series>, CatalogError> {
        Ok(Vec::new())
    }

    async fn keep_losses(&self, _report: LossReport) -> Result<Kept, CatalogError> {
        Ok(Kept::default())
    }

    async fn repeat(&self, _repeat: Repeat) -> Result<(), CatalogError> {
        Ok(())
    }

    async fn losses(
        &self,
        _filter: LossFilter,
        _after: i64,
        _limit: usize,
    ) -> Result<Vec<KeptLoss>, CatalogError> {
        Ok(Vec::new())
    }

    async fn gaps(&self, _filter: LossFilter, _limit: usize) -> Result<Vec<Gap>, CatalogError> {
        Ok(Vec::new())
    }

    async fn ledger(&self, _series: &Series) -> Result<RunLedger, CatalogError> {
        Ok(RunLedger::default())
    }

    async fn integrity(&self) -> Result<Integrity, CatalogError> {
        Ok(Integrity::default())
    }
}
