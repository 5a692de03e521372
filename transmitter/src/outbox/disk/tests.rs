//! The outbox on a disk that loses power, fills up and fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ::bytes::Bytes;
use shared::digest::DigestAlgorithm;
use shared::disk::sim::SimDisk;
use shared::disk::{Disk, OsDisk};
use shared::image::{ImageId, ImageMeta, Transport};
use shared::settings::units::ByteSize;

use super::core::CoreOptions;
use super::index::View;
use super::layout::{FileName, Layout};
use super::record::ENTRY_BYTES;
use super::*;
use crate::config::{OutboxDurability, OutboxFiles, OutboxPlace, WhenFull};
use crate::outbox::conformance::{self, Maker, image, series};
use crate::payload::Payload;

mod damage;
mod failing;
mod full;
mod marks;
mod power;

const ROOT: &str = "/outbox";

pub(super) fn options() -> OutboxOptions {
    OutboxOptions {
        place: OutboxPlace::Folder(ROOT.into()),
        memory: ByteSize::mib(1),
        limit: ByteSize::mib(64),
        min_free: ByteSize(0),
        when_full: WhenFull::Block,
        durability: OutboxDurability::Synced,
        files: OutboxFiles::Link,
    }
}

/// A boot of the machine, different each time.
pub(super) fn boot() -> u128 {
    static BOOTS: AtomicU64 = AtomicU64::new(1);
    BOOTS.fetch_add(1, Relaxed).into()
}

pub(super) fn core_options(options: &OutboxOptions, boot: u128) -> CoreOptions {
    CoreOptions {
        durability: options.durability,
        ballast: 64 << 10,
        boot,
    }
}

pub(super) fn sim() -> SimDisk {
    SimDisk::new(&[ROOT, "/source", "/away"].map(Path::new))
}

pub(super) fn open_as(
    disk: &SimDisk,
    options: &OutboxOptions,
    order: Order,
    boot: u128,
) -> Result<DiskOutbox, OutboxError> {
    let core = core_options(options, boot);
    let disk = Arc::new(disk.clone());
    let mut outbox = DiskOutbox::open_with(disk, Path::new(ROOT), options, order, &core)?;
    outbox.full_retry = Duration::from_millis(1);
    Ok(outbox)
}

pub(super) fn open(disk: &SimDisk, options: &OutboxOptions) -> DiskOutbox {
    open_as(disk, options, Order::OldestFirst, boot()).expect("an outbox")
}

pub(super) async fn begun(disk: &SimDisk, options: &OutboxOptions) -> DiskOutbox {
    let outbox = open(disk, options);
    outbox.begin_series(series()).await.expect("a series");
    outbox
}

/// Bytes of an image that was handed out.
pub(super) fn content(disk: &SimDisk, image: &Owed) -> Option<Vec<u8>> {
    match &image.payload {
        Payload::File { path, .. } => disk.content(path),
        Payload::Memory(bytes) => Some(bytes.to_vec()),
    }
}

/// Files below `images/`.
pub(super) fn files(disk: &SimDisk) -> Vec<PathBuf> {
    let images = Path::new(ROOT).join("images");
    let mut files = disk.paths();
    files.retain(|path| path.starts_with(&images) && disk.content(path).is_some());
    files
}

struct OnDisk {
    folders: parking_lot::Mutex<Vec<tempfile::TempDir>>,
    durability: OutboxDurability,
}

impl Maker for OnDisk {
    fn make(&self, order: Order, images: u64) -> Arc<dyn Outbox> {
        let folder = tempfile::tempdir().expect("a folder");
        let options = OutboxOptions {
            limit: ByteSize(images * (1_000 + ENTRY_BYTES)),
            durability: self.durability,
            ..options()
        };
        let path = folder.path().join("outbox");
        self.folders.lock().push(folder);
        Arc::new(DiskOutbox::open(Arc::new(OsDisk), &path, &options, order).expect("an outbox"))
    }
}

#[tokio::test]
async fn does_what_every_outbox_does() {
    for durability in [OutboxDurability::Synced, OutboxDurability::Written] {
        let maker = OnDisk {
            folders: Default::default(),
            durability,
        };
        conformance::all(&maker).await;
    }
}

#[tokio::test]
async fn a_second_process_is_told_who_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a/b");
    let open = || DiskOutbox::open(Arc::new(OsDisk), &path, &options(), Order::OldestFirst);
    let first = open().expect("an outbox, and the folders above it");
    let Err(OutboxError::InUse { holder, .. }) = open() else {
        panic!("it is in use");
    };
    assert_eq!(holder, format!("process {}", std::process::id()));
    first.shut().await;
    open().expect("it is free");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, "no folder").expect("a file");
    let opened = DiskOutbox::open(Arc::new(OsDisk), &path, &options(), Order::OldestFirst);
    let error = opened.err().expect("a file is no folder");
    let text = shared::telemetry::chain(&error);
    assert!(
        text.contains("file") && text.contains("give a folder"),
        "{text}"
    );
}

#[tokio::test]
async fn a_restart_goes_on_with_everything() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    let mut pushed = Vec::new();
    for size in [0, 1, 5_000, 300_000] {
        let image = image(size);
        pushed.push((image.meta.clone(), image.payload.clone()));
        outbox.push(image).await.expect("room");
    }
    let first = outbox.take().await.expect("four are waiting");
    let lost = Outcome::Lost("gone".to_owned());
    outbox.settle(first.meta.id, lost).await.expect("settled");
    let second = outbox.take().await.expect("three are waiting");
    outbox
        .settle(second.meta.id, Outcome::Delivered)
        .await
        .expect("settled");
    let id = outbox.id();
    let account = crate::outbox::disk::tests::account();
    outbox.save_account(&series(), account.clone(), false).await;
    outbox.shut().await;
    let outbox = open(&disk, &options());
    assert_eq!(outbox.id(), id);
    assert_eq!(outbox.backlog().images, 2);
    assert_eq!(outbox.backlog().bytes, 305_000);
    let (key, counts, saved) = outbox.series().await.remove(0);
    assert_eq!(key, series());
    assert_eq!((counts.captured, counts.lost, counts.delivered), (4, 1, 1));
    assert_eq!(saved.map(|saved| saved.run), Some(account.run));
    for (number, (meta, payload)) in (1..).zip(&pushed).skip(2) {
        let image = outbox.take().await.expect("two are waiting");
        assert!(image.carried);
        assert_eq!(image.meta.sequence, number);
        assert_eq!((image.meta.id, image.meta.digest), (meta.id, meta.digest));
        assert_eq!(image.meta.run, "run");
        let Payload::Memory(bytes) = payload else {
            panic!("it was in memory");
        };
        assert_eq!(content(&disk, &image).as_deref(), Some(&bytes[..]));
    }
    let (losses, standing) = outbox.losses(10).await;
    assert_eq!(losses.len(), 1);
    assert_eq!((standing.first_owed, standing.next_sequence), (3, 5));
    outbox.begin_series(series()).await.expect("a series");
    let pushed = outbox.push(image(1)).await.expect("room");
    assert_eq!(pushed.sequence, 5, "no gap after a clean end");
}

/// Whoever forgot it had looked before the new process began it; its outbox said then that a series
/// was missing, took the index for damaged and made it again.
#[tokio::test]
async fn a_series_that_was_begun_again_is_not_forgotten() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    outbox.save_account(&series(), account(), true).await;
    outbox.begin_series(series()).await.expect("a series");
    let index = Arc::clone(&outbox.shared.index);
    let forgotten = index.write(|change| {
        change.forget_series(1)?;
        change.series(1)
    });
    assert_eq!(forgotten.expect("it is there").key, series());
    outbox.save_account(&series(), account(), true).await;
    let forgotten = index.write(|change| {
        change.forget_series(1)?;
        change.series(1)
    });
    assert!(forgotten.is_err(), "it is over");
}

fn account() -> RunAccount {
    RunAccount {
        run: "run".to_owned(),
        transport: Transport::Grpc,
        transmitter: "cam".to_owned(),
        captured: 4,
        delivered: 1,
        duplicates: 0,
        quarantined: 0,
        owed: 2,
        lost: 1,
        retries: 3,
        image_bytes_sent: 7,
        image_bytes_resent: 0,
        wire_bytes_sent: 1,
        wire_bytes_received: 2,
        cpu_seconds: 0.5,
        peak_memory_bytes: 9,
        delay_ns: 0,
        started: shared::clock::UnixNanos(5),
        ended: None,
        clock: None,
        images: Vec::new(),
        finished: false,
        shared_process: false,
    }
}

#[tokio::test]
async fn what_a_killed_process_had_taken_waits_again() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    for _ in 0..3 {
        outbox.push(image(10)).await.expect("room");
    }
    let first = outbox.take().await.expect("three are waiting");
    outbox
        .settle(first.meta.id, Outcome::Delivered)
        .await
        .expect("settled");
    let _ = outbox.flush().await;
    outbox.take().await.expect("two are waiting");
    drop(outbox);
    assert_eq!(files(&disk).len(), 2, "the file of a settled image is gone");
    let outbox = open(&disk, &options());
    for expected in [2, 3] {
        let image = outbox.take().await.expect("two are waiting");
        assert_eq!(image.meta.sequence, expected);
    }
}

#[tokio::test]
async fn a_backlog_beyond_the_window_is_handed_out_in_order() {
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let folder = tempfile::tempdir().expect("a folder");
        let options = OutboxOptions {
            durability: OutboxDurability::Written,
            ..options()
        };
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let open = || DiskOutbox::open(Arc::clone(&disk), folder.path(), &options, order);
        let outbox = open().expect("an outbox");
        outbox.begin_series(series()).await.expect("a series");
        for _ in 0..1_500 {
            outbox.push(image(3)).await.expect("room");
        }
        let mut taken = Vec::new();
        // Half in this process, with some that come back, and half in the next.
        for _ in 0..700 {
            let image = outbox.take().await.expect("many are waiting");
            if image.meta.sequence.is_multiple_of(100) && taken.last() != Some(&image.meta.sequence)
            {
                taken.push(image.meta.sequence);
                outbox.give_back(image.meta.id).await;
                let again = outbox.take().await.expect("it is waiting");
                assert_eq!(again.meta.sequence, image.meta.sequence);
            } else {
                taken.push(image.meta.sequence);
            }
            outbox
                .settle(image.meta.id, Outcome::Delivered)
                .await
                .expect("settled");
        }
        outbox.shut().await;
        let outbox = open().expect("an outbox");
        outbox.close();
        while let Some(image) = outbox.take().await {
            taken.push(image.meta.sequence);
            outbox
                .settle(image.meta.id, Outcome::Delivered)
                .await
                .expect("settled");
        }
        let mut expected: Vec<u64> = (1..=1_500).collect();
        if order == Order::NewestFirst {
            expected.reverse();
        }
        assert_eq!(taken, expected);
    }
}

#[tokio::test]
async fn a_push_that_nobody_waits_for_is_kept_or_is_not() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    let mut ids = Vec::new();
    for polls in 0..200 {
        let image = image(100);
        ids.push(image.meta.id);
        let mut pushing = Box::pin(outbox.push(image));
        for _ in 0..polls % 7 {
            if futures_util::poll!(&mut pushing).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(pushing);
    }
    outbox.push(image(1)).await.expect("room");
    outbox.close();
    let mut sequences = Vec::new();
    while let Some(image) = outbox.take().await {
        assert!(content(&disk, &image).is_some());
        sequences.push(image.meta.sequence);
        outbox
            .settle(image.meta.id, Outcome::Delivered)
            .await
            .expect("settled");
    }
    let expected: Vec<u64> = (1..=sequences.len() as u64).collect();
    assert_eq!(sequences, expected, "what is not kept has no number");
    outbox.shut().await;
    assert_eq!(files(&disk), [] as [PathBuf; 0]);
    while outbox.shared.state.lock().pushing > 0 {
        tokio::task::yield_now().await;
    }
    let incoming = Path::new(ROOT).join("incoming");
    let left: Vec<_> = disk.paths();
    assert!(!left.iter().any(|path| path.parent() == Some(&incoming)));
}

#[tokio::test]
async fn many_pushes_at_once_get_numbers_without_gaps() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let outbox = DiskOutbox::open(disk, folder.path(), &options(), Order::OldestFirst);
    let outbox = Arc::new(outbox.expect("an outbox"));
    let pushing = (0..300).map(|size| {
        let outbox = Arc::clone(&outbox);
        tokio::spawn(async move { outbox.push(image(size)).await.expect("room").sequence })
    });
    let mut numbers = Vec::new();
    for pushed in pushing.collect::<Vec<_>>() {
        numbers.push(pushed.await.expect("no panic"));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=300).collect::<Vec<u64>>());
}
