//! How fast an outbox on this disk takes images in: `cargo bench -p pantelegraph-transmitter`.
//!
//! Arguments after `--`: the folder for the outbox (a temporary one by default), then the number of
//! tiny images (20,000 by default).

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pantelegraph_transmitter::config::{
    Order, OutboxDurability, OutboxFiles, OutboxOptions, OutboxPlace, WhenFull,
};
use pantelegraph_transmitter::outbox::disk::DiskOutbox;
use pantelegraph_transmitter::outbox::{Outbox, Outcome, Owed, SeriesKey};
use pantelegraph_transmitter::payload::Payload;
use shared::digest::DigestAlgorithm;
use shared::disk::OsDisk;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::settings::units::ByteSize;

fn options(durability: OutboxDurability) -> OutboxOptions {
    OutboxOptions {
        place: OutboxPlace::Memory,
        memory: ByteSize::mib(1),
        limit: ByteSize::mib(1 << 20),
        min_free: ByteSize::mib(500),
        when_full: WhenFull::Block,
        durability,
        files: OutboxFiles::Link,
    }
}

fn image(bytes: &Bytes) -> Owed {
    let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(bytes));
    meta.name = Some("frame.jpg".to_owned());
    meta.content_type = Some("image/jpeg".to_owned());
    Owed {
        meta,
        payload: Payload::Memory(bytes.clone()),
        source_file: None,
        source_mark: None,
        carried: false,
    }
}

fn open(folder: &Path, durability: OutboxDurability) -> Arc<DiskOutbox> {
    let options = options(durability);
    Arc::new(DiskOutbox::open(Arc::new(OsDisk), folder, &options, Order::OldestFirst).unwrap())
}

async fn begin(outbox: &DiskOutbox) {
    let series = SeriesKey {
        run: "bench".to_owned(),
        transport: Transport::Grpc,
    };
    outbox.begin_series(series).await.unwrap();
}

fn told(name: &str, durability: OutboxDurability, taken: Duration, mut each: Vec<Duration>) {
    each.sort_unstable();
    let at = |part: usize| each[(each.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!(
        "{name:<44} {durability:<8?} {:>9.0} images/s   p50 {:>7.2} ms   p99 {:>7.2} ms   max {:>7.1} ms",
        each.len() as f64 / taken.as_secs_f64(),
        at(50),
        at(99),
        at(100),
    );
}

/// Pushes one after another, at most `rate` a second; each push's time from when it was due.
async fn one_by_one(
    outbox: &DiskOutbox,
    bytes: &Bytes,
    number: u32,
    rate: Option<u32>,
) -> (Duration, Vec<Duration>) {
    let start = Instant::now();
    let mut each = Vec::new();
    for index in 0..number {
        let due = match rate {
            Some(rate) => start + Duration::from_secs(1) / rate * index,
            None => Instant::now(),
        };
        tokio::time::sleep_until(due.into()).await;
        outbox.push(image(bytes)).await.unwrap();
        each.push(due.elapsed());
    }
    (start.elapsed(), each)
}

/// Pushes from so many sources at once.
async fn at_once(
    outbox: &Arc<DiskOutbox>,
    bytes: &Bytes,
    number: u32,
    sources: u32,
) -> (Duration, Vec<Duration>) {
    let start = Instant::now();
    let pushing: Vec<_> = (0..sources)
        .map(|_| {
            let (outbox, bytes) = (Arc::clone(outbox), bytes.clone());
            tokio::spawn(async move { one_by_one(&outbox, &bytes, number / sources, None).await.1 })
        })
        .collect();
    let mut each = Vec::new();
    for source in pushing {
        each.extend(source.await.unwrap());
    }
    (start.elapsed(), each)
}

async fn deliver(outbox: &DiskOutbox) -> (u64, Duration) {
    outbox.close();
    let start = Instant::now();
    let mut number = 0;
    while let Some(image) = outbox.take().await {
        let outcome = Outcome::Delivered;
        outbox.settle(image.meta.id, outcome).await.unwrap();
        number += 1;
    }
    (number, start.elapsed())
}

fn memory() -> u64 {
    shared::telemetry::Usage::now().peak_memory >> 20
}

async fn bench(folder: &Path, durability: OutboxDurability, tiny: u32) {
    let large = Bytes::from(vec![7; 500_000]);
    let small = Bytes::from(vec![7; 300]);
    let at = |name: &str| -> PathBuf { folder.join(format!("{name}-{durability:?}")) };
    let outbox = open(&at("large"), durability);
    begin(&outbox).await;
    let (taken, each) = one_by_one(&outbox, &large, 300, Some(30)).await;
    told("500 kB, 30 a second by timetable", durability, taken, each);
    let (taken, each) = one_by_one(&outbox, &large, 300, None).await;
    told("500 kB, one after another", durability, taken, each);
    let (taken, each) = at_once(&outbox, &large, 600, 8).await;
    told("500 kB, from 8 sources", durability, taken, each);
    outbox.shut().await;
    let outbox = open(&at("tiny"), durability);
    begin(&outbox).await;
    let (taken, each) = one_by_one(&outbox, &small, tiny / 4, None).await;
    told("300 B, one after another", durability, taken, each);
    let (taken, each) = at_once(&outbox, &small, tiny - tiny / 4, 64).await;
    told("300 B, from 64 sources", durability, taken, each);
    drop(outbox);
    let start = Instant::now();
    let outbox = open(&at("tiny"), durability);
    println!(
        "opening it with {tiny} images, as after SIGKILL: {:.2} s; memory at most {} MiB",
        start.elapsed().as_secs_f64(),
        memory()
    );
    let (number, taken) = deliver(&outbox).await;
    println!(
        "taking and settling: {:.0} images/s; memory at most {} MiB",
        number as f64 / taken.as_secs_f64(),
        memory()
    );
    outbox.shut().await;
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let temporary = tempfile::tempdir().unwrap();
    let folder = arguments
        .next()
        .map_or_else(|| temporary.path().to_path_buf(), PathBuf::from);
    let tiny = arguments
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(20_000);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for durability in [OutboxDurability::Synced, OutboxDurability::Written] {
        runtime.block_on(bench(&folder, durability, tiny));
    }
}
