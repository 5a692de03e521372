//! The outbox on a disk whose machine dies, loses power, and comes back with files that are not what
//! they were: it opens whatever is there, gives no sequence number twice, and hands out nothing that
//! was not put in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pantelegraph_transmitter::config::{
    Order, OutboxDurability, OutboxFiles, OutboxOptions, OutboxPlace, WhenFull,
};
use pantelegraph_transmitter::outbox::disk::DiskOutbox;
use pantelegraph_transmitter::outbox::{Outbox, Outcome, Owed, SeriesKey};
use pantelegraph_transmitter::payload::Payload;
use shared::digest::DigestAlgorithm;
use shared::disk::Disk;
use shared::disk::sim::SimDisk;
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use shared::settings::units::ByteSize;
use tokio::runtime::{Builder, Runtime};

use super::input::Input;

/// Operations of one input at most.
const MOST: usize = 40;

const ROOT: &str = "/outbox";

/// Real time after which something hangs: threads work here.
const GUARD: Duration = Duration::from_secs(60);

/// Runs one input.
pub fn run(data: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime needs nothing");
    }
    RUNTIME.with(|runtime| {
        let living = async { tokio::time::timeout(GUARD, live(data)).await };
        runtime.block_on(living).expect("it ends");
    });
}

fn options() -> OutboxOptions {
    OutboxOptions {
        place: OutboxPlace::Folder(ROOT.into()),
        memory: ByteSize::mib(1),
        limit: ByteSize::mib(1),
        min_free: ByteSize(0),
        when_full: WhenFull::DropOldest,
        durability: OutboxDurability::Synced,
        files: OutboxFiles::Link,
    }
}

/// What is known from outside.
#[derive(Default)]
struct Known {
    images: u8,
    bytes: BTreeMap<ImageId, Bytes>,
    /// Numbers that were given.
    given: BTreeMap<(OutboxId, u64), ImageId>,
    /// Kept for sure: pushed, and nothing else said of them since.
    owed: BTreeSet<ImageId>,
    /// Files are not what they were.
    damaged: bool,
}

struct World {
    disk: SimDisk,
    outbox: DiskOutbox,
    known: Known,
    taken: Vec<Arc<Owed>>,
}

async fn open(disk: &SimDisk) -> DiskOutbox {
    let folder = Path::new(ROOT);
    let opened = DiskOutbox::open(
        Arc::new(disk.clone()),
        folder,
        &options(),
        Order::OldestFirst,
    );
    let outbox = opened.unwrap_or_else(|error| panic!("it opens whatever is there: {error:?}"));
    let series = SeriesKey {
        run: "run".to_owned(),
        transport: Transport::Grpc,
    };
    let begun = outbox.begin_series(series).await;
    begun.expect("there is space");
    outbox
}

async fn live(data: &[u8]) {
    let mut input = Input::new(data);
    let disk = SimDisk::new(&[Path::new(ROOT)]);
    let outbox = open(&disk).await;
    let mut world = World {
        disk,
        outbox,
        known: Known::default(),
        taken: Vec::new(),
    };
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        world.happens(&mut input).await;
    }
    world.check().await;
}

impl World {
    async fn happens(&mut self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0..4 => self.push(input).await,
            4 => self.take().await,
            5 => {
                let outcome = match input.byte() % 4 {
                    0 => Outcome::Lost("lost".to_owned()),
                    1 => Outcome::Quarantined,
                    _ => Outcome::Delivered,
                };
                if let Some(image) = self.taken.pop() {
                    self.known.owed.remove(&image.meta.id);
                    let settled = self.outbox.settle(image.meta.id, outcome).await;
                    settled.expect("there is space");
                }
            }
            6 => {
                if let Some(image) = self.taken.pop() {
                    self.outbox.give_back(image.meta.id).await;
                }
            }
            7 => {
                let (losses, _) = self.outbox.losses(usize::from(input.byte())).await;
                let told: Vec<u64> = losses.iter().map(|loss| loss.sequence).collect();
                self.known
                    .owed
                    .retain(|id| losses.iter().all(|loss| loss.image_id != *id));
                // What cannot be written off is told again.
                let _ = self.outbox.losses_kept(&told).await;
            }
            8 => {
                self.outbox.shut().await;
                self.reopen(self.disk.after_death(), input).await;
            }
            9 => self.reopen(self.disk.after_death(), input).await,
            _ => {
                let dice = u64::from(input.short());
                self.reopen(self.disk.crash(dice), input).await;
            }
        }
    }

    async fn push(&mut self, input: &mut Input<'_>) {
        let bytes = Bytes::copy_from_slice(input.counted());
        self.known.images = self.known.images.wrapping_add(1);
        let id = ImageId::from_u128(u128::from(self.known.images) + 1).expect("not 0");
        let mut meta = ImageMeta::new(id, bytes.len() as u64);
        meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
        let owed = Owed {
            meta,
            payload: Payload::Memory(bytes.clone()),
            source_file: None,
            source_mark: None,
            carried: false,
        };
        let pushed = self.outbox.push(owed).await.expect("there is space");
        let number = (self.outbox.id(), pushed.sequence);
        let before = self.known.given.insert(number, id);
        assert_eq!(before, None, "{number:?} was given before");
        self.known.bytes.insert(id, bytes);
        self.known.owed.insert(id);
        for lost in &pushed.lost {
            self.known.owed.remove(&lost.meta.id);
        }
    }

    async fn take(&mut self) {
        if self.outbox.backlog().images <= self.taken.len() as u64 {
            return;
        }
        // What turns out to be damaged is none to be taken.
        let taking = tokio::time::timeout(Duration::from_millis(200), self.outbox.take());
        if let Ok(Some(image)) = taking.await {
            self.look_at(&image);
            self.taken.push(image);
        }
    }

    /// Something was handed out.
    fn look_at(&self, image: &Owed) {
        let id = image.meta.id;
        let Payload::File { path, .. } = &image.payload else {
            panic!("images lie in files");
        };
        let found = self.disk.content(path).unwrap_or_default();
        if self.known.damaged {
            assert_eq!(found.len() as u64, image.meta.size, "{id} has another size");
            return;
        }
        let bytes = self.known.bytes.get(&id);
        assert!(
            bytes.is_some_and(|bytes| *bytes == found),
            "{id} is another"
        );
        assert!(
            self.taken.iter().all(|taken| taken.meta.id != id),
            "{id} twice"
        );
    }

    /// The process ends, and another one finds what is left, or something else.
    async fn reopen(&mut self, left: SimDisk, input: &mut Input<'_>) {
        // Nothing of the old process reaches a disk from now on.
        self.disk.lose_power_after(0);
        self.taken.clear();
        for _ in 0..input.byte() % 4 {
            damage(&left, input);
            self.known.damaged = true;
        }
        self.outbox = open(&left).await;
        self.disk = left;
    }

    /// What was promised is there.
    async fn check(mut self) {
        if self.known.damaged {
            return;
        }
        for image in &self.taken {
            self.known.owed.remove(&image.meta.id);
        }
        while self.outbox.backlog().images > self.taken.len() as u64 {
            let image = self.outbox.take().await.expect("some are owed");
            self.look_at(&image);
            self.known.owed.remove(&image.meta.id);
            self.taken.push(image);
        }
        let (losses, _) = self.outbox.losses(usize::MAX >> 1).await;
        for loss in losses {
            self.known.owed.remove(&loss.image_id);
        }
        assert_eq!(self.known.owed, BTreeSet::new(), "owed, and gone");
    }
}

/// Does something to a file.
fn damage(disk: &SimDisk, input: &mut Input<'_>) {
    let files: Vec<PathBuf> = disk
        .paths()
        .into_iter()
        .filter(|path| disk.content(path).is_some())
        .collect();
    let Some(path) = files.get(usize::from(input.byte()) % files.len().max(1)) else {
        return;
    };
    let length = disk.content(path).map_or(0, |content| content.len() as u64);
    let at = u64::from(input.short()) % (length + 1);
    let alter = |bytes: &[u8]| {
        let file = disk.open(path, true).expect("it is there");
        let bytes = Bytes::copy_from_slice(bytes);
        file.write_at(&[bytes], at).expect("there is space");
    };
    match input.byte() % 6 {
        0 => disk.remove(path).expect("it is there"),
        1 => {
            let file = disk.open(path, true).expect("it is there");
            file.set_len(at).expect("there is space");
        }
        2 => {
            disk.flip_bit(path, usize::try_from(at).expect("small"));
        }
        3 => alter(input.counted()),
        4 => alter(&[0; 4_096]),
        _ => {
            let name: String = input
                .counted()
                .iter()
                .map(|byte| char::from(*byte))
                .filter(|letter| !matches!(letter, '/' | '\0'))
                .take(200)
                .collect();
            let folder = path.parent().expect("a file is in a folder");
            if !name.is_empty() && name != "." && name != ".." {
                // One that is there already is left alone.
                let _ = disk.create(&folder.join(name));
            }
        }
    }
}

/// Lives that end well, and some that do not.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let push = [0, 3, 0, b'a', b'b', b'c'];
    let empty = [0, 0, 0];
    let power = |dice: u8| vec![11, dice, 0, 0];
    let calm = [&push[..], &empty, &[4], &[5, 2], &push, &[8, 0], &push].concat();
    let cut = [
        &push[..],
        &push,
        &power(1),
        &push,
        &power(2),
        &[4],
        &[9, 0],
        &push,
    ]
    .concat();
    let told = [&push[..], &[4], &[5, 0], &[7, 9], &power(3), &push].concat();
    let index_gone = |file: u8| [&push[..], &push, &[9, 1, file, 0, 0, 0], &push, &[4]].concat();
    let zeroed = |file: u8| [&push[..], &push, &[9, 1, file, 9, 0, 4], &push, &[4]].concat();
    vec![
        ("seed-calm", calm),
        ("seed-cut", cut),
        ("seed-told", told),
        ("seed-gone-0", index_gone(0)),
        ("seed-gone-1", index_gone(1)),
        ("seed-gone-2", index_gone(2)),
        ("seed-zeroed-1", zeroed(1)),
        ("seed-zeroed-2", zeroed(2)),
        ("seed-zeroed-3", zeroed(3)),
    ]
}
