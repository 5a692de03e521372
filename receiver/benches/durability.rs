//! Images a second and the time of each from its first byte to its receipt, for each durability,
//! through the real intake, store and catalogue, without a network:
//!
//! ```text
//! cargo bench -p pantelegraph-receiver --bench durability [-- FOLDER]
//! ```
//!
//! FOLDER is where the images go; it decides what is measured. Its own folder is removed after.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pantelegraph_receiver::catalog::sqlite::SqliteCatalog;
use pantelegraph_receiver::config::{Limits, Quota, Verify};
use pantelegraph_receiver::intake::{Begun, Intake, Origin, Parts};
use pantelegraph_receiver::metrics::ReceiverMetrics;
use pantelegraph_receiver::store::ImageStore;
use pantelegraph_receiver::store::files::FileStore;
use pantelegraph_receiver::store::memory::MemoryStore;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::Durability;
use shared::security::access::Caller;
use shared::settings::units::ByteSize;
use shared::wire::Begin;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As the transmitter's default.
const CHUNK: usize = 256 << 10;

/// Time of one measurement.
const TIME: Duration = Duration::from_secs(3);

fn main() {
    let folder = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = pantelegraph_receiver::server::runtime().unwrap();
    println!("durability   size  in flight  images/s     MB/s   p50 ms   p99 ms");
    for durability in [Durability::Memory, Durability::Written, Durability::Synced] {
        for size in [10_000, 100_000, 500_000] {
            for in_flight in [1, 32] {
                let data = tempfile::tempdir_in(&folder).unwrap();
                let mut times = runtime.block_on(measure(data.path(), durability, size, in_flight));
                times.sort_unstable();
                let rate = times.len() as f64 / TIME.as_secs_f64();
                let part = |percent: usize| {
                    let at = (times.len() * percent / 100).min(times.len() - 1);
                    times[at].as_secs_f64() * 1e3
                };
                println!(
                    "{:<10} {:>4} kB  {in_flight:>9}  {rate:>8.0} {:>8.1} {:>8.2} {:>8.2}",
                    durability.key(),
                    size / 1_000,
                    rate * size as f64 / 1e6,
                    part(50),
                    part(99),
                );
            }
        }
    }
}

async fn measure(
    data: &Path,
    durability: Durability,
    size: usize,
    in_flight: usize,
) -> Vec<Duration> {
    let store: Arc<dyn ImageStore> = match durability {
        Durability::Memory => Arc::new(MemoryStore),
        _ => Arc::new(FileStore::open(data, durability, 0).unwrap()),
    };
    let catalog = Arc::new(SqliteCatalog::open(&data.join("catalog.sqlite"), durability).unwrap());
    let intake = Intake::new(Parts {
        spans: Default::default(),
        store,
        catalog: Arc::clone(&catalog) as Arc<_>,
        metrics: ReceiverMetrics::new("0.0.0"),
        name: "bench".to_owned(),
        durability,
        verify: Verify::Header,
        limits: limits(),
    });
    let bytes = Bytes::from(picture(size));
    let digest = DigestAlgorithm::Xxh3.digest(&bytes);
    let end = Instant::now() + TIME;
    let sequence = Arc::new(AtomicU64::new(1));
    let senders: Vec<_> = (0..in_flight)
        .map(|_| {
            let (intake, bytes, sequence) = (intake.clone(), bytes.clone(), sequence.clone());
            tokio::spawn(async move {
                let origin = Origin::new(Transport::Grpc, "bench", &Caller::Anyone);
                let mut times = Vec::new();
                while Instant::now() < end {
                    let began = Instant::now();
                    let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
                    meta.digest = Some(digest);
                    meta.sequence = sequence.fetch_add(1, Ordering::Relaxed);
                    let begin = Begin { meta, offset: 0 };
                    let Begun::Upload(mut upload) = intake.begin(begin, &origin).await.unwrap()
                    else {
                        panic!("every image is new");
                    };
                    for at in (0..bytes.len()).step_by(CHUNK) {
                        let chunk = bytes.slice(at..(at + CHUNK).min(bytes.len()));
                        upload.push(at as u64, None, chunk.into()).await.unwrap();
                    }
                    upload.finish(None).await.unwrap();
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for sender in senders {
        times.extend(sender.await.unwrap());
    }
    intake.close().await;
    catalog.close().await;
    times
}

/// A picture in BMP of about `size` bytes, 100 pixels wide.
fn picture(size: usize) -> Vec<u8> {
    let height = (size - 54) / 300;
    let length = u32::try_from(54 + height * 300).unwrap();
    let mut file = Vec::with_capacity(size);
    file.extend_from_slice(b"BM");
    for word in [length, 0, 54, 40, 100, u32::try_from(height).unwrap()] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&[1, 0, 24, 0]);
    file.resize(54, 0);
    let mut state = 1_u32;
    file.extend((0..height * 300).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    }));
    file
}

fn limits() -> Limits {
    Limits {
        max_image_size: ByteSize::mib(16),
        max_message_size: ByteSize::mib(4),
        max_chunks: 1_000,
        max_metadata: ByteSize::kib(16),
        max_connections: 64,
        max_unfinished: 64,
        max_memory: ByteSize::mib(256),
        idle_timeout: Duration::from_secs(60),
        partial_ttl: Duration::from_secs(60),
        partial_limit: ByteSize::mib(64),
        min_free: ByteSize(0),
        quota: Quota::default(),
        max_pixels: 500_000_000,
        decode_timeout: Duration::from_secs(30),
    }
}
