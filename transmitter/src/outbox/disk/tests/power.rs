//! Power losses at any moment, against a model.
//!
//! `PANTELEGRAPH_POWER_SEEDS=2000 cargo test -p pantelegraph-transmitter power` tries more of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::*;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// What the outbox may say of an image after a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its push failed: anything but other bytes.
    Unsure,
    /// Kept.
    Owed,
    /// Answered: gone, or owed once more.
    Settled,
    /// Its loss was being entered: owed or on the ledger.
    PerhapsLost,
    /// On the ledger, unless the receiver has it.
    Lost,
}

struct Known {
    bytes: Vec<u8>,
    sequence: Option<u64>,
    fate: Fate,
    mark: Option<FileMark>,
}

/// Everything that was promised.
#[derive(Default)]
struct Model {
    images: HashMap<ImageId, Known>,
    given: BTreeMap<u64, ImageId>,
    told: HashSet<u64>,
}

impl Model {
    fn give(&mut self, sequence: u64, id: ImageId) {
        let before = self.given.insert(sequence, id);
        assert!(
            before.is_none_or(|before| before == id),
            "number {sequence} was given twice"
        );
        if let Some(known) = self.images.get_mut(&id) {
            assert!(known.sequence.is_none_or(|known| known == sequence));
            known.sequence = Some(sequence);
        }
    }

    fn lose(&mut self, lost: &[Lost]) {
        for lost in lost {
            self.give(lost.meta.sequence, lost.meta.id);
            let known = self.images.get_mut(&lost.meta.id).expect("it was pushed");
            known.fate = Fate::Lost;
        }
    }

    /// Compares with what an outbox says that was opened after a power loss.
    async fn check(&mut self, disk: &SimDisk, outbox: &DiskOutbox, synced: bool) {
        // One may have given way to an image whose push did not come to an end.
        let may_give_way = outbox.shared.when_full != WhenFull::Block;
        let (losses, standing) = outbox.losses(usize::MAX - 1).await;
        let mut owed = HashMap::new();
        while outbox.backlog().images > owed.len() as u64 {
            // One that turns out to be torn is never handed out, but owed until it is on the ledger.
            let looked = tokio::time::timeout(Duration::from_millis(20), outbox.take()).await;
            let Ok(image) = looked else {
                continue;
            };
            let image = image.expect("it is owed");
            assert!(image.carried);
            assert!(image.meta.sequence >= standing.first_owed);
            let bytes = content(disk, &image);
            let known = self.images.get(&image.meta.id).expect("it was pushed");
            assert_eq!(bytes.as_deref(), Some(&known.bytes[..]), "{:?}", known.fate);
            owed.insert(image.meta.id, image.meta.sequence);
        }
        // Those that turned out to be torn when their turn came.
        let (later, _) = outbox.losses(usize::MAX - 1).await;
        let ledger: HashMap<ImageId, u64> = losses
            .iter()
            .chain(&later)
            .map(|loss| (loss.image_id, loss.sequence))
            .collect();
        for (id, sequence) in owed.iter().chain(&ledger) {
            if synced {
                self.give(*sequence, *id);
            }
            assert!(*sequence < standing.next_sequence);
        }
        for (id, known) in &mut self.images {
            let is_owed = owed.contains_key(id);
            let is_lost = ledger.contains_key(id);
            assert!(!(is_owed && is_lost), "both: {:?}", known.fate);
            let told = known
                .sequence
                .is_some_and(|number| self.told.contains(&number));
            if synced {
                match known.fate {
                    Fate::Unsure => {}
                    Fate::Owed => assert!(
                        is_owed || (may_give_way && (is_lost || told)),
                        "it was kept: {:?}",
                        known.sequence
                    ),
                    Fate::Settled => assert!(!is_lost, "it was delivered"),
                    Fate::PerhapsLost => assert!(is_owed || is_lost),
                    Fate::Lost => assert!(!is_owed && (is_lost || told), "it was lost"),
                }
            }
            if let Some(mark) = &known.mark {
                let knows = outbox.knows(mark).await.expect("power");
                assert!(!is_owed || knows, "kept with its mark");
                assert!(
                    !synced || known.fate != Fate::Owed || knows,
                    "known as long as the file is"
                );
            }
            known.fate = match (is_owed, is_lost) {
                (true, _) => Fate::Owed,
                (_, true) => Fate::Lost,
                // It is gone for good.
                _ if known.fate == Fate::Lost => Fate::Lost,
                _ => Fate::Settled,
            };
        }
        let counted: u64 = outbox
            .series()
            .await
            .iter()
            .map(|(_, counts, _)| counts.owed())
            .sum();
        assert_eq!(counted, owed.len() as u64, "the counts agree");
        for id in owed.keys() {
            outbox.give_back(*id).await;
        }
    }
}

struct Round<'a> {
    disk: &'a SimDisk,
    outbox: &'a DiskOutbox,
    dice: &'a mut Dice,
    model: &'a mut Model,
    taken: Vec<ImageId>,
}

impl Round<'_> {
    fn has_power(&self) -> bool {
        self.disk.length(Path::new("/source")).is_ok()
            || self.disk.list(Path::new("/source")).is_ok()
    }

    fn image(&mut self) -> Owed {
        let size = match self.dice.below(4) {
            0 => 0,
            1 => self.dice.below(20_000),
            _ => self.dice.below(300),
        };
        let bytes: Vec<u8> = (0..size).map(|_| self.dice.next() as u8).collect();
        let mut meta = ImageMeta::new(ImageId::new(), size);
        meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
        let mark = (self.dice.below(2) == 0).then(|| FileMark {
            path: format!("/source/{}", meta.id).into(),
            size,
            modified: 1,
            transport: Transport::Grpc,
        });
        let known = Known {
            bytes: bytes.clone(),
            sequence: None,
            fate: Fate::Unsure,
            mark: mark.clone(),
        };
        self.model.images.insert(meta.id, known);
        Owed {
            meta,
            payload: Payload::Memory(bytes.into()),
            source_file: None,
            source_mark: mark,
            carried: false,
        }
    }

    async fn push(&mut self) {
        let images: Vec<Owed> = (0..=self.dice.below(4)).map(|_| self.image()).collect();
        let ids: Vec<ImageId> = images.iter().map(|image| image.meta.id).collect();
        let pushing = images.into_iter().map(|image| self.outbox.push(image));
        let pushed = futures_util::future::join_all(pushing).await;
        for (id, pushed) in ids.into_iter().zip(pushed) {
            let Ok(pushed) = pushed else {
                continue;
            };
            let known = self.model.images.get_mut(&id).expect("it was made above");
            known.fate = Fate::Owed;
            self.model.give(pushed.sequence, id);
            self.model.lose(&pushed.lost);
        }
    }

    async fn take(&mut self) {
        let waiting = self
            .outbox
            .backlog()
            .images
            .saturating_sub(self.taken.len() as u64);
        if waiting == 0 {
            return;
        }
        // Without power nothing is handed out; that is looked at from time to time.
        let mut taking = Box::pin(self.outbox.take());
        while self.has_power() {
            let looked = tokio::time::timeout(Duration::from_millis(20), &mut taking).await;
            if let Ok(Some(image)) = looked {
                self.taken.push(image.meta.id);
                return;
            }
        }
    }

    async fn settle(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let index = usize::try_from(self.dice.below(self.taken.len() as u64)).expect("small");
        let id = self.taken[index];
        match self.dice.below(4) {
            0 => {
                self.outbox.give_back(id).await;
                self.taken.swap_remove(index);
            }
            1 => {
                let lost = Outcome::Lost("tried too often".to_owned());
                let settled = self.outbox.settle(id, lost).await;
                let known = self.model.images.get_mut(&id).expect("it was pushed");
                known.fate = match settled {
                    Ok(()) => Fate::Lost,
                    Err(_) => Fate::PerhapsLost,
                };
                self.taken.swap_remove(index);
            }
            _ => {
                let delivered = self.outbox.settle(id, Outcome::Delivered).await;
                assert!(delivered.is_ok());
                let known = self.model.images.get_mut(&id).expect("it was pushed");
                known.fate = Fate::Settled;
                self.taken.swap_remove(index);
                if self.dice.below(2) == 0 {
                    let _ = self.outbox.flush().await;
                }
            }
        }
    }

    async fn step(&mut self) {
        match self.dice.below(10) {
            0..=3 => self.push().await,
            4..=5 => self.take().await,
            6..=7 => self.settle().await,
            8 => {
                let image = self.image();
                let id = image.meta.id;
                if let Ok(lost) = self.outbox.lose(image.meta, "unreadable").await {
                    self.model.images.get_mut(&id).expect("made above").mark = None;
                    self.model.lose(&[lost]);
                }
            }
            _ => {
                let (losses, _) = self.outbox.losses(3).await;
                let numbers: Vec<u64> = losses.iter().map(|loss| loss.sequence).collect();
                self.model.told.extend(&numbers);
                let _ = self.outbox.losses_kept(&numbers).await;
            }
        }
    }
}

async fn lose_power(seed: u64, durability: OutboxDurability, when_full: WhenFull) {
    let dice = &mut Dice(seed);
    let options = OutboxOptions {
        durability,
        when_full,
        limit: match when_full {
            WhenFull::Block => ByteSize::mib(64),
            _ => ByteSize(12 * 1_024 + dice.below(60_000)),
        },
        ..options()
    };
    let synced = durability == OutboxDurability::Synced;
    let mut model = Model::default();
    let mut disk = sim();
    let mut id = None;
    for _ in 0..3 {
        // Also while it is being opened.
        disk.lose_power_after(match dice.below(3) {
            0 => dice.below(40),
            _ => 20 + dice.below(400),
        });
        let boot = boot();
        if let Ok(outbox) = open_as(&disk, &options, Order::OldestFirst, boot) {
            let begun = outbox.begin_series(series()).await;
            let mut round = Round {
                disk: &disk,
                outbox: &outbox,
                dice,
                model: &mut model,
                taken: Vec::new(),
            };
            if begun.is_ok() {
                for _ in 0..40 {
                    if !round.has_power() {
                        break;
                    }
                    round.step().await;
                }
            }
        }
        disk = disk.crash(dice.next());
        let outbox = open(&disk, &options);
        if synced && !model.given.is_empty() {
            let id = *id.get_or_insert(outbox.id());
            assert_eq!(outbox.id(), id, "the index is never lost by a power loss");
        }
        if !synced {
            // Its numbers count in something new.
            model.given.clear();
            model
                .images
                .values_mut()
                .for_each(|known| known.sequence = None);
        }
        model.check(&disk, &outbox, synced).await;
        // A fresh image flows.
        outbox.begin_series(series()).await.expect("power");
        if when_full == WhenFull::Block {
            let fresh = image(10);
            let known = Known {
                bytes: vec![10; 10],
                sequence: None,
                fate: Fate::Settled,
                mark: None,
            };
            model.images.insert(fresh.meta.id, known);
            let pushed = outbox.push(fresh).await.expect("power");
            let image = loop {
                let image = outbox.take().await.expect("it is there");
                if image.meta.sequence == pushed.sequence {
                    break image;
                }
            };
            model.give(pushed.sequence, image.meta.id);
            let outcome = Outcome::Delivered;
            outbox.settle(image.meta.id, outcome).await.expect("power");
        }
        if dice.below(2) == 0 {
            outbox.shut().await;
        } else {
            let _ = outbox.flush().await;
        }
    }
}

/// A start after a power loss believes the mark, and looks for torn files only if it says that
/// nothing was synced.
#[tokio::test]
async fn a_mark_that_says_synced_is_true_of_what_an_earlier_process_only_wrote() {
    let written = OutboxOptions {
        durability: OutboxDurability::Written,
        ..options()
    };
    let boot = boot();
    for power in 0.. {
        let disk = sim();
        let outbox = open_as(&disk, &written, Order::OldestFirst, boot).expect("an outbox");
        outbox.begin_series(series()).await.expect("a series");
        for _ in 0..3 {
            outbox.push(image(100)).await.expect("room");
        }
        drop(outbox);
        disk.lose_power_after(power);
        let opened = open_as(&disk, &options(), Order::OldestFirst, boot).is_ok();
        for seed in 0..50 {
            let left = disk.crash(seed);
            let shared: Arc<dyn Disk> = Arc::new(left.clone());
            let mark = Path::new(ROOT).join("mark");
            let (_, state) = super::super::mark::Mark::open(&shared, &mark).expect("a mark");
            if !state.expect("one slot is whole").synced {
                continue;
            }
            let whole = files(&left)
                .iter()
                .filter(|path| left.content(path) == Some(vec![100; 100]))
                .count();
            assert_eq!(whole, 3, "power {power}, seed {seed}");
        }
        if opened {
            return;
        }
    }
}

#[tokio::test]
async fn every_folder_above_a_new_outbox_outlasts_a_power_loss() {
    let disk = SimDisk::new(&[Path::new("/")]);
    let root = Path::new("/var/lib/station/outbox");
    let core = core_options(&options(), boot());
    let order = Order::OldestFirst;
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let outbox = DiskOutbox::open_with(shared, root, &options(), order, &core).expect("made");
    outbox.begin_series(series()).await.expect("a series");
    outbox.push(image(100)).await.expect("room");
    for seed in 0..50 {
        let left = disk.crash(seed);
        assert!(left.content(&root.join("mark")).is_some(), "seed {seed}");
    }
}

fn seeds(most: u64) -> u64 {
    std::env::var("PANTELEGRAPH_POWER_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(most)
}

fn try_seeds(most: u64, durability: OutboxDurability, when_full: WhenFull) {
    for seed in 0..seeds(most) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let result = std::panic::catch_unwind(|| {
            runtime.block_on(lose_power(seed, durability, when_full));
        });
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn a_power_loss_takes_nothing_that_was_promised() {
    try_seeds(60, OutboxDurability::Synced, WhenFull::Block);
}

#[test]
fn a_power_loss_while_images_give_way_leaves_each_owed_or_on_the_ledger() {
    try_seeds(30, OutboxDurability::Synced, WhenFull::DropOldest);
    try_seeds(30, OutboxDurability::Synced, WhenFull::Thin(3));
}

#[test]
fn a_power_loss_of_an_outbox_that_synced_nothing_leaves_whole_images() {
    try_seeds(30, OutboxDurability::Written, WhenFull::Block);
}
