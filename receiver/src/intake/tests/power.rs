//! Power losses and full disks, on a simulated disk that keeps what was synced and nothing else for
//! sure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use shared::digest::DigestAlgorithm;
use shared::disk::sim::SimDisk;
use shared::image::{ImageId, ImageMeta};
use shared::receipt::{Durability, Receipt, ReceiptStatus, Reject, RejectReason};
use shared::settings::units::ByteSize;
use shared::wire::Begin;

use super::ledger::Ledger;
use crate::catalog::Catalog;
use crate::config::Verify;
use crate::intake::sample::{limits, origin, picture, push};
use crate::intake::{Begun, Intake, Parts};
use crate::metrics::ReceiverMetrics;
use crate::store::files::FileStore;

/// One that goes to the disk in one step, and one that takes several.
static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| picture(20, 1));
static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| picture(700, 2));

/// Power losses that are tried, each at another moment of the same work.
const SEEDS: u64 = 96;

struct Station {
    intake: Arc<Intake>,
    catalog: Arc<Ledger>,
}

impl Station {
    /// A receiver on what is on the disk.
    async fn start(disk: &SimDisk) -> Self {
        let root = Path::new("/data");
        let store =
            FileStore::on(Arc::new(disk.clone()), root, Durability::Synced, 0, None).unwrap();
        let catalog = Ledger::open(disk, &root.join("catalogue"));
        let intake = Intake::new(Parts {
            store: Arc::new(store),
            catalog: Arc::clone(&catalog) as Arc<dyn Catalog>,
            metrics: ReceiverMetrics::new("0.0.0"),
            name: "receiver".to_owned(),
            durability: Durability::Synced,
            verify: Verify::Header,
            limits: crate::config::Limits {
                max_memory: ByteSize::mib(16),
                ..limits()
            },
            spans: Default::default(),
        });
        intake.settle().await.unwrap();
        Self { intake, catalog }
    }

    /// Sends from where it is, in pieces, `upto` a byte after which the sender goes away.
    async fn send(&self, meta: ImageMeta, upto: usize) -> Result<Option<Receipt>, Reject> {
        let bytes = bytes_of(&meta);
        let offset = self.intake.held(meta.id).await.unwrap_or(0);
        let begin = Begin { meta, offset };
        let mut upload = match self.intake.begin(begin, &origin()).await? {
            Begun::Present(receipt) => return Ok(Some(receipt)),
            Begun::Upload(upload) => *upload,
        };
        let from = usize::try_from(offset).unwrap();
        for piece in bytes[from..upto.max(from)].chunks(400_000) {
            push(&mut upload, piece).await?;
        }
        if upto < bytes.len() {
            self.intake.park(upload).await;
            return Ok(None);
        }
        upload.finish(None).await.map(Some)
    }
}

fn bytes_of(meta: &ImageMeta) -> &'static [u8] {
    match meta.size == SMALL.len() as u64 {
        true => &SMALL,
        false => &LARGE,
    }
}

fn meta(large: bool) -> ImageMeta {
    let bytes = if large { &LARGE } else { &SMALL };
    ImageMeta::new(ImageId::new(), bytes.len() as u64)
}

fn files_in(disk: &SimDisk, folder: &str) -> Vec<PathBuf> {
    let mut paths = disk.paths();
    paths.retain(|path| path.starts_with(folder) && disk.content(path).is_some());
    paths
}

/// Image files that are there.
fn visible(disk: &SimDisk) -> Vec<PathBuf> {
    files_in(disk, "/data/images")
}

/// What must hold whenever a receiver has started.
fn check(disk: &SimDisk, station: &Station, receipts: &HashMap<ImageId, Receipt>, case: &str) {
    let entries = station.catalog.entries();
    let mut files = visible(disk);
    for entry in &entries {
        let path = Path::new("/data").join(&entry.location);
        let content = disk
            .content(&path)
            .unwrap_or_else(|| panic!("{case}: no {path:?}"));
        assert_eq!(
            entry.digest,
            DigestAlgorithm::Xxh3.digest(&content),
            "{case}"
        );
        assert_eq!(content, bytes_of(&entry.meta), "{case}");
        files.retain(|file| *file != path);
    }
    assert_eq!(
        files,
        Vec::<PathBuf>::new(),
        "{case}: files without entries"
    );
    for (id, receipt) in receipts {
        let entry = entries.iter().find(|entry| entry.meta.id == *id);
        let entry = entry.unwrap_or_else(|| panic!("{case}: {id} had a receipt"));
        assert_eq!(entry.digest, receipt.digest, "{case}");
    }
}

#[test]
fn after_a_power_loss_every_receipt_is_true_and_nothing_else_is_visible() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let mut stored = 0;
    let mut resumed = 0;
    for seed in 0..SEEDS {
        let disk = SimDisk::new(&[Path::new("/data")]);
        let mut receipts = HashMap::new();
        let mut sent: Vec<(ImageMeta, usize)> = Vec::new();
        for number in 0..8_usize {
            let meta = meta(number % 4 == 3);
            let size = bytes_of(&meta).len();
            // Every fourth is left by its sender.
            let upto = if number % 4 == 1 || number == 7 {
                size / 2
            } else {
                size
            };
            sent.push((meta, upto));
        }
        runtime().block_on(async {
            let station = Station::start(&disk).await;
            disk.lose_power_after(seed);
            let mut sending = tokio::task::JoinSet::new();
            let station = Arc::new(station);
            for (meta, upto) in sent.clone() {
                let station = Arc::clone(&station);
                sending.spawn(async move { (meta.id, station.send(meta, upto).await) });
            }
            while let Some(done) = sending.join_next().await {
                if let (id, Ok(Some(receipt))) = done.unwrap() {
                    assert_eq!(receipt.status, ReceiptStatus::Stored);
                    receipts.insert(id, receipt);
                }
            }
        });
        stored += receipts.len();
        let left = disk.crash(seed);
        let case = format!("seed {seed}");
        runtime().block_on(async {
            let station = Station::start(&left).await;
            check(&left, &station, &receipts, &case);
            // Work goes on, and what is held of an image is right.
            for (meta, _) in sent {
                let held = station.intake.held(meta.id).await;
                resumed += usize::from(held.is_some());
                let size = bytes_of(&meta).len();
                let receipt = station.send(meta.clone(), size).await;
                let receipt = receipt.unwrap_or_else(|reject| panic!("{case}: {reject}"));
                let receipt = receipt.unwrap();
                let known = receipts.contains_key(&meta.id);
                assert!(
                    !known || receipt.status == ReceiptStatus::Duplicate,
                    "{case}"
                );
                receipts.insert(meta.id, receipt);
            }
            check(&left, &station, &receipts, &case);
            assert_eq!(
                files_in(&left, "/data/incoming"),
                Vec::<PathBuf>::new(),
                "{case}"
            );
        });
    }
    // Else nothing of this was tried.
    assert!(
        stored > 60 && resumed > 0,
        "{stored} stored, {resumed} resumed"
    );
}

#[tokio::test]
async fn a_full_disk_turns_images_down_and_goes_on_by_itself() {
    let disk = SimDisk::new(&[Path::new("/data")]);
    let station = Station::start(&disk).await;
    let (large, small) = (bytes_of(&meta(true)).len(), SMALL.len());
    // At every size of what is free.
    for free in (0..large + small).step_by(70_001) {
        disk.set_capacity(u64::MAX);
        station.intake.parts.store.look_for_room().await;
        let used: usize = disk
            .paths()
            .iter()
            .filter_map(|path| disk.content(path))
            .map(|content| content.len())
            .sum();
        disk.set_capacity((used + free) as u64);
        let before = visible(&disk).len();
        let meta = meta(true);
        let sent = station.send(meta.clone(), large).await;
        if let Err(reject) = sent {
            assert_eq!(reject.reason, RejectReason::Unavailable, "{free}: {reject}");
            assert!(reject.retryable);
            assert_eq!(visible(&disk).len(), before, "{free}");
            // The next one is turned down before it has sent a byte.
            let reject = station.send(self::meta(false), small).await.unwrap_err();
            assert!(reject.message.contains("no space"), "{reject}");
            assert!(station.intake.parts.store.check().await.is_err());
        }
        disk.set_capacity(u64::MAX);
        station.intake.parts.store.look_for_room().await;
        station.intake.parts.store.check().await.unwrap();
        assert!(station.send(meta, large).await.unwrap().is_some(), "{free}");
        check(&disk, &station, &HashMap::new(), &format!("{free} free"));
    }
    assert_eq!(files_in(&disk, "/data/incoming"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_sync_that_fails_gives_no_receipt_and_leaves_no_file() {
    let disk = SimDisk::new(&[Path::new("/data")]);
    let station = Station::start(&disk).await;
    station.send(meta(false), SMALL.len()).await.unwrap();
    // The file's, the folder's and the catalogue's.
    for failing in 1..=3 {
        let meta = meta(false);
        // Those before it do not fail; each fails in its turn.
        let disk = disk.clone();
        let before = visible(&disk).len();
        disk.fail_syncs_after(failing - 1, 1);
        let reject = station.send(meta.clone(), SMALL.len()).await.unwrap_err();
        assert!(reject.retryable, "{failing}: {reject}");
        assert_eq!(visible(&disk).len(), before, "sync {failing}");
        let receipt = station.send(meta, SMALL.len()).await.unwrap().unwrap();
        assert_eq!(receipt.status, ReceiptStatus::Stored, "sync {failing}");
    }
    check(&disk, &station, &HashMap::new(), "failing syncs");
}

#[tokio::test]
async fn a_duplicate_whose_file_is_gone_is_welcome_again() {
    let disk = SimDisk::new(&[Path::new("/data")]);
    let station = Station::start(&disk).await;
    let bytes = &*SMALL;
    let mut meta = meta(false);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(bytes));
    station.send(meta.clone(), bytes.len()).await.unwrap();
    use shared::disk::Disk;
    disk.remove(&visible(&disk)[0]).unwrap();
    let again = station.send(meta.clone(), bytes.len()).await.unwrap();
    assert_eq!(
        again.map(|receipt| receipt.status),
        Some(ReceiptStatus::Stored)
    );
    let file = disk.open(&visible(&disk)[0], true).unwrap();
    file.set_len(5).unwrap();
    let again = station.send(meta.clone(), bytes.len()).await.unwrap();
    assert_eq!(
        again.map(|receipt| receipt.status),
        Some(ReceiptStatus::Stored)
    );
    let again = station.send(meta, bytes.len()).await.unwrap();
    assert_eq!(
        again.map(|receipt| receipt.status),
        Some(ReceiptStatus::Duplicate)
    );
}
