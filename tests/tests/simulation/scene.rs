//! The images of a simulation, and what is known of each: the evidence that invariants are checked
//! against.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pantelegraph_receiver::catalog::{Entry, Verdict};
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta};
use shared::receipt::{Durability, Receipt};
use shared::wire::{ClientMessage, ServerMessage};
use tokio::runtime::{Builder, Runtime};

use crate::disk::Disk;
use crate::random::Random;

/// Chunk bytes that a session may have under way.
pub(crate) const CREDIT: u64 = 4 << 10;

/// Bytes of an image in one message.
pub(crate) const CHUNK: u64 = 1 << 10;

/// Bytes in flight that have no receipt yet.
pub(crate) const WINDOW: u64 = 24 << 10;

/// Time without a sign of the other side after which a connection is given up.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_millis(900);

/// A runtime whose time passes only when it is told to.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // What comes from outside comes first, rather than now and then: a thread that wakes the
        // runtime once more would otherwise shift the order.
        .global_queue_interval(1)
        .build()
        .unwrap()
}

/// An image that a camera will take.
pub(crate) struct Image {
    pub(crate) meta: ImageMeta,
    pub(crate) bytes: Bytes,
    /// The outbox has no room for it.
    pub(crate) no_room: bool,
    /// It is no image, which the receiver will find out.
    pub(crate) broken: bool,
}

/// Images with their evidence. Clones are the same.
#[derive(Clone)]
pub(crate) struct Evidence(Arc<Inner>);

struct Inner {
    images: Vec<Image>,
    numbers: BTreeMap<ImageId, usize>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// Images that the camera has handed over, whether or not the outbox said that it has them.
    taken: usize,
    /// Images that the outbox said it has, or entered into the ledger.
    kept: BTreeSet<usize>,
    /// Images for which the transmitter has a receipt.
    receipts: BTreeSet<usize>,
    in_flight: BTreeMap<usize, u64>,
    violations: Vec<String>,
}

impl Evidence {
    /// Images by the dice.
    pub(crate) fn new(random: &mut Random, count: usize) -> Self {
        let images: Vec<Image> = (0..count).map(|number| image(random, number)).collect();
        let numbers = images.iter().enumerate();
        let numbers = numbers.map(|(number, image)| (image.meta.id, number));
        Self(Arc::new(Inner {
            numbers: numbers.collect(),
            images,
            found: Mutex::default(),
        }))
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.0.found.lock().unwrap()
    }

    pub(crate) fn images(&self) -> &[Image] {
        &self.0.images
    }

    fn name(&self, id: ImageId) -> String {
        match self.0.numbers.get(&id) {
            Some(number) => number.to_string(),
            None => "?".to_owned(),
        }
    }

    pub(crate) fn number(&self, id: ImageId) -> usize {
        self.0.numbers[&id]
    }

    /// Something that must never happen has happened.
    pub(crate) fn violation(&self, what: String) {
        self.found().violations.push(what);
    }

    /// The first thing that must never happen and has.
    pub(crate) fn first_violation(&self) -> Option<String> {
        self.found().violations.first().cloned()
    }

    /// The next image from the camera; none twice.
    pub(crate) fn take(&self) -> Option<usize> {
        let mut found = self.found();
        let next = found.taken;
        (next < self.0.images.len()).then(|| {
            found.taken += 1;
            next
        })
    }

    /// The outbox said that it has the image, or that it is on the ledger.
    pub(crate) fn kept(&self, number: usize) {
        self.found().kept.insert(number);
    }

    /// Images that somebody promised to deliver or to name.
    pub(crate) fn all_kept(&self) -> BTreeSet<usize> {
        self.found().kept.clone()
    }

    /// The transmitter has a receipt.
    pub(crate) fn receipt_taken(&self, id: ImageId) {
        let number = self.number(id);
        self.found().receipts.insert(number);
    }

    /// Images for which the transmitter has a receipt.
    pub(crate) fn all_receipts(&self) -> BTreeSet<usize> {
        self.found().receipts.clone()
    }

    /// An image is being sent; checks the window.
    pub(crate) fn flight_begins(&self, id: ImageId) {
        let number = self.number(id);
        let size = self.0.images[number].meta.size;
        let mut found = self.found();
        if found.in_flight.insert(number, size).is_some() {
            let problem = format!("image {number} is sent twice at once");
            found.violations.push(problem);
        }
        let kib: u64 = found
            .in_flight
            .values()
            .map(|size| size.div_ceil(1 << 10))
            .sum();
        if kib > WINDOW >> 10 && found.in_flight.len() > 1 {
            let problem = format!("{kib} KiB are in flight");
            found.violations.push(problem);
        }
    }

    /// It is not any more.
    pub(crate) fn flight_ends(&self, id: ImageId) {
        let number = self.number(id);
        self.found().in_flight.remove(&number);
    }

    /// The receiver gives a receipt: the image must be on its disk and in its catalogue by now.
    pub(crate) fn receipt_given(&self, receipt: &Receipt, disk: &Disk, known: Option<Entry>) {
        let Some(number) = self.0.numbers.get(&receipt.image_id) else {
            return self.violation(format!(
                "receipt for {}, which nobody took",
                receipt.image_id
            ));
        };
        let image = &self.0.images[*number];
        let synced = disk.synced(receipt.image_id);
        if receipt.durability != Durability::Synced || synced != [image.bytes.clone()] {
            self.violation(format!(
                "receipt for image {number}, of which {} proper files are synced",
                synced.iter().filter(|bytes| image.bytes == **bytes).count()
            ));
        }
        let catalogued = known.is_some_and(|entry| entry.verdict == Verdict::Stored);
        if !catalogued {
            self.violation(format!(
                "receipt for image {number}, which is not catalogued"
            ));
        }
    }

    /// A message in one line that is the same each time.
    pub(crate) fn describe_reply(&self, message: &ServerMessage) -> String {
        match message {
            ServerMessage::Welcome(welcome) => {
                let mut held: Vec<_> = welcome.held.iter().collect();
                held.sort();
                let held = held.into_iter();
                let held = held.map(|(id, offset)| format!(" {}@{offset}", self.name(*id)));
                format!("welcome{}", held.collect::<String>())
            }
            ServerMessage::Credit { total } => format!("credit {total}"),
            ServerMessage::Receipt(receipt) => {
                let name = self.name(receipt.image_id);
                format!("receipt {name} {:?}", receipt.status)
            }
            ServerMessage::Reject(reject) => {
                let name = reject.image_id.map(|id| self.name(id)).unwrap_or_default();
                format!("reject {name} {}", reject.reason)
            }
            ServerMessage::ClockPong { id, .. } => format!("pong {id}"),
            ServerMessage::LossesKept { id } => format!("losses kept {id}"),
            ServerMessage::Goodbye { .. } => "goodbye".to_owned(),
        }
    }

    /// The same for the other direction.
    pub(crate) fn describe(&self, message: &ClientMessage) -> String {
        match message {
            ClientMessage::Hello(hello) => {
                let mut unfinished: Vec<_> = hello.unfinished.to_vec();
                unfinished.sort();
                let names = unfinished
                    .into_iter()
                    .map(|id| format!(" {}", self.name(id)));
                let names: String = names.collect();
                format!("hello{names}, {} losses", hello.losses.len())
            }
            ClientMessage::Begin(begin) => format!(
                "begin {} @{} attempt {}",
                self.name(begin.meta.id),
                begin.offset,
                begin.meta.attempt
            ),
            ClientMessage::Chunk(chunk) => {
                let name = self.name(chunk.image_id);
                format!("chunk {name} @{} +{}", chunk.offset, chunk.data.len())
            }
            ClientMessage::End { image_id, .. } => format!("end {}", self.name(*image_id)),
            ClientMessage::Abort { image_id, .. } => format!("abort {}", self.name(*image_id)),
            ClientMessage::ClockPing { id, .. } => format!("ping {id}"),
            ClientMessage::Account(_) => "account".to_owned(),
            ClientMessage::Losses(report) => {
                format!("losses {} of {}", report.id, report.losses.len())
            }
            ClientMessage::Goodbye { .. } => "goodbye".to_owned(),
        }
    }
}

/// A greyscale PNM: an image of which every byte after its head may be anything.
fn image(random: &mut Random, number: usize) -> Image {
    let pixels = match random.below(10) {
        0 => random.between(1, 8),
        1 => random.between(16 << 10, 32 << 10),
        _ => random.between(100, 6 << 10),
    };
    let broken = random.chance(300);
    let mut bytes = format!("P5\n{pixels} 1\n255\n").into_bytes();
    for _ in 0..pixels {
        bytes.push(random.next().to_le_bytes()[0]);
    }
    if broken {
        bytes.truncate(bytes.len() - 1);
    }
    let bytes = Bytes::from(bytes);
    let bits = (u128::from(random.next()) << 64) | (number as u128 + 1);
    let id = ImageId::from_u128(bits).unwrap();
    let mut meta = ImageMeta::new(id, bytes.len() as u64);
    meta.run = "simulation".to_owned();
    // A sender that does not know the digest before is one, too.
    if random.chance(9_000) {
        meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
    }
    Image {
        meta,
        bytes,
        no_room: random.chance(300),
        broken,
    }
}
