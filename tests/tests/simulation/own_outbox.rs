//! The transmitter's own outbox, on a simulated disk.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pantelegraph_transmitter::config::{
    Order, OutboxDurability, OutboxFiles, OutboxOptions, OutboxPlace, WhenFull,
};
use pantelegraph_transmitter::outbox::disk::DiskOutbox;
use pantelegraph_transmitter::outbox::{
    Backlog, Counts, Extent, FileMark, Lost, Outbox, OutboxError, Outcome, Owed, Pushed, SeriesKey,
};
use pantelegraph_transmitter::payload::Payload;
use shared::disk::sim::SimDisk;
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use shared::report::RunAccount;
use shared::settings::units::ByteSize;
use shared::wire::{Loss, Standing};

use crate::blocking::at_once;
use crate::random::Random;

const ROOT: &str = "/outbox";

/// What survives. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct OutboxDisk {
    disk: SimDisk,
    random: Arc<Mutex<Random>>,
    /// Losses that the outbox has said to have entered.
    pub(crate) lost: Arc<Mutex<BTreeSet<ImageId>>>,
}

impl OutboxDisk {
    pub(crate) fn new(random: Random) -> Self {
        Self {
            disk: SimDisk::new(&[Path::new(ROOT)]),
            random: Arc::new(Mutex::new(random)),
            lost: Arc::default(),
        }
    }

    /// What is left when the process dies, or with `power_loss` the machine.
    pub(crate) fn crash(&self, power_loss: bool) -> Self {
        let mut random = self.random.lock().unwrap();
        let disk = match power_loss {
            true => self.disk.crash(random.next()),
            false => self.disk.after_death(),
        };
        // Nothing of the old process reaches its disk from now on.
        self.disk.lose_power_after(0);
        Self {
            disk,
            random: Arc::new(Mutex::new(random.fork())),
            lost: Arc::clone(&self.lost),
        }
    }

    /// The outbox on it, for the next process.
    pub(crate) fn open(&self) -> SlowOutbox {
        let options = OutboxOptions {
            place: OutboxPlace::Folder(ROOT.into()),
            memory: ByteSize::mib(1),
            limit: ByteSize::mib(64),
            min_free: ByteSize(0),
            when_full: WhenFull::Block,
            durability: OutboxDurability::Synced,
            files: OutboxFiles::Link,
        };
        let disk = Arc::new(self.disk.clone());
        let real = DiskOutbox::open(disk, Path::new(ROOT), &options, Order::OldestFirst).unwrap();
        let series = SeriesKey {
            run: "simulation".to_owned(),
            transport: Transport::WebSocket,
        };
        at_once(real.begin_series(series)).unwrap();
        let kept = self.clone();
        SlowOutbox { real, kept }
    }
}

/// The real outbox, which takes its time. What it waits for its threads for happens at once.
pub(crate) struct SlowOutbox {
    real: DiskOutbox,
    kept: OutboxDisk,
}

impl SlowOutbox {
    pub(crate) fn id(&self) -> OutboxId {
        self.real.id()
    }

    async fn pause(&self) {
        let millis = self.kept.random.lock().unwrap().below(4);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    /// The outbox has said that the image is on its ledger.
    fn note(&self, id: ImageId) {
        self.kept.lost.lock().unwrap().insert(id);
    }
}

#[async_trait]
impl Outbox for SlowOutbox {
    async fn begin_series(&self, series: SeriesKey) -> Result<(), OutboxError> {
        at_once(self.real.begin_series(series))
    }

    async fn push(&self, image: Owed) -> Result<Pushed, OutboxError> {
        self.pause().await;
        let pushed = at_once(self.real.push(image));
        self.pause().await;
        pushed
    }

    async fn knows(&self, mark: &FileMark) -> Result<bool, OutboxError> {
        at_once(self.real.knows(mark))
    }

    async fn lose(&self, meta: ImageMeta, reason: &str) -> Result<Lost, OutboxError> {
        self.pause().await;
        let lost = at_once(self.real.lose(meta, reason))?;
        self.note(lost.meta.id);
        self.pause().await;
        Ok(lost)
    }

    async fn take(&self) -> Option<Arc<Owed>> {
        let owed = self.real.take().await?;
        // Readers know the file systems of the machine only.
        let Payload::File { path, .. } = &owed.payload else {
            return Some(owed);
        };
        let bytes = self.kept.disk.content(path).expect("it is handed out");
        Some(Arc::new(Owed {
            meta: owed.meta.clone(),
            payload: Payload::Memory(Bytes::from(bytes)),
            source_file: None,
            source_mark: None,
            carried: owed.carried,
        }))
    }

    async fn settle(&self, id: ImageId, outcome: Outcome) -> Result<(), OutboxError> {
        self.pause().await;
        let is_lost = matches!(outcome, Outcome::Lost(_));
        at_once(self.real.settle(id, outcome))?;
        if is_lost {
            self.note(id);
        }
        self.pause().await;
        Ok(())
    }

    async fn give_back(&self, id: ImageId) {
        self.pause().await;
        at_once(self.real.give_back(id));
    }

    fn close(&self) {
        self.real.close();
    }

    fn backlog(&self) -> Backlog {
        self.real.backlog()
    }

    fn standing(&self) -> Standing {
        self.real.standing()
    }

    async fn losses(&self, limit: usize) -> (Vec<Loss>, Standing) {
        at_once(self.real.losses(limit))
    }

    async fn losses_kept(&self, sequences: &[u64]) -> Result<(), OutboxError> {
        self.pause().await;
        at_once(self.real.losses_kept(sequences))
    }

    async fn loss_waits(&self) {
        self.real.loss_waits().await;
    }

    async fn series(&self) -> Vec<(SeriesKey, Counts, Option<RunAccount>)> {
        at_once(self.real.series())
    }

    async fn save_account(&self, series: &SeriesKey, account: RunAccount, told_end: bool) {
        at_once(self.real.save_account(series, account, told_end));
    }

    fn health(&self) -> Result<(), String> {
        self.real.health()
    }

    async fn extent(&self) -> Extent {
        at_once(self.real.extent())
    }

    async fn shut(&self) {
        at_once(self.real.shut());
    }
}
