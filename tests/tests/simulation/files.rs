//! The receiver's own store, on a simulated disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pantelegraph_receiver::store::files::FileStore;
use pantelegraph_receiver::store::{
    About, ImageStore, ImageWriter, Partial, Placement, Room, StoreError, Unsettled,
};
use shared::chunk::Segments;
use shared::digest::Digest;
use shared::disk::sim::SimDisk;
use shared::image::ImageId;
use shared::receipt::Durability;

use crate::blocking::at_once;
use crate::random::Random;

const ROOT: &str = "/data";

/// The disk. Clones are the same.
#[derive(Clone)]
pub(crate) struct Files {
    disk: SimDisk,
    random: Arc<Mutex<Random>>,
}

impl Files {
    pub(crate) fn new(random: Random) -> Self {
        Self {
            disk: SimDisk::new(&[Path::new(ROOT)]),
            random: Arc::new(Mutex::new(random)),
        }
    }

    /// The store on it, for the next process.
    ///
    /// # Errors
    /// When the disk is full.
    pub(crate) fn store(&self) -> Result<Arc<dyn ImageStore>, StoreError> {
        let (disk, root) = (Arc::new(self.disk.clone()), Path::new(ROOT));
        let real = FileStore::on(disk, root, Durability::Synced, 0, None)?;
        let pace = Pace(Arc::clone(&self.random));
        Ok(Arc::new(SlowStore { real, pace }))
    }

    /// The power goes in the middle of what is being done next.
    pub(crate) fn lose_power(&self) {
        let changes = self.random.lock().unwrap().below(12);
        self.disk.lose_power_after(changes);
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.disk.set_capacity(if full { 0 } else { u64::MAX });
    }

    /// What is left when the process dies, or with `power_loss` the machine: a disk of its own.
    pub(crate) fn crash(&self, power_loss: bool) -> Self {
        let mut random = self.random.lock().unwrap();
        let disk = match power_loss {
            true => self.disk.crash(random.next()),
            false => self.disk.after_death(),
        };
        // Nothing of the old process reaches its disk from now on.
        self.disk.lose_power_after(0);
        let random = Arc::new(Mutex::new(random.fork()));
        Self { disk, random }
    }

    /// How many images are visible.
    pub(crate) fn count(&self) -> usize {
        let paths = self.disk.paths().into_iter();
        let images = paths.filter(|path| path.starts_with("/data/images"));
        images
            .filter(|path| self.disk.content(path).is_some())
            .count()
    }

    /// Images that would survive a power loss now, by their ids, whatever else it did.
    pub(crate) fn synced(&self) -> BTreeMap<ImageId, Vec<Vec<u8>>> {
        let mut random = self.random.lock().unwrap().clone();
        let left = self.disk.crash(random.next());
        let mut images = BTreeMap::<ImageId, Vec<Vec<u8>>>::new();
        for path in left.paths() {
            let (Some(bytes), true) = (left.content(&path), path.starts_with("/data/images"))
            else {
                continue;
            };
            let id = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            let id = id.unwrap_or_else(|| panic!("{} is not named for an image", path.display()));
            images.entry(id).or_default().push(bytes);
        }
        images
    }
}

/// How long things take.
#[derive(Clone)]
struct Pace(Arc<Mutex<Random>>);

impl Pace {
    async fn pause(&self) {
        let millis = self.0.lock().unwrap().below(5);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }
}

struct SlowStore {
    real: FileStore,
    pace: Pace,
}

#[async_trait]
impl ImageStore for SlowStore {
    async fn create(&self, about: About) -> Result<Box<dyn ImageWriter>, StoreError> {
        let real = at_once(self.real.create(about))?;
        let pace = self.pace.clone();
        Ok(Box::new(SlowWriter { real, pace }))
    }

    async fn open(&self, location: &str) -> Result<Option<File>, StoreError> {
        at_once(self.real.open(location))
    }

    async fn size(&self, location: &str) -> Result<Option<u64>, StoreError> {
        at_once(self.real.size(location))
    }

    async fn discard(&self, location: &str) -> Result<(), StoreError> {
        self.pace.pause().await;
        at_once(self.real.discard(location))
    }

    fn partials(&self) -> Vec<Box<dyn Partial>> {
        self.real.partials()
    }

    fn room(&self) -> Result<(), StoreError> {
        self.real.room()
    }

    async fn look_for_room(&self) -> Option<Room> {
        at_once(self.real.look_for_room())
    }

    fn unsettled(&self) -> Option<Arc<dyn Unsettled>> {
        self.real.unsettled()
    }

    async fn close(&self) -> Result<(), StoreError> {
        at_once(self.real.close())
    }

    async fn check(&self) -> Result<(), StoreError> {
        at_once(self.real.check())
    }
}

struct SlowWriter {
    real: Box<dyn ImageWriter>,
    pace: Pace,
}

#[async_trait]
impl ImageWriter for SlowWriter {
    async fn write(&mut self, data: Segments, digest: Digest) -> Result<(), StoreError> {
        self.pace.pause().await;
        at_once(self.real.write(data, digest))
    }

    async fn truncate(&mut self, length: u64, digest: Digest) -> Result<(), StoreError> {
        at_once(self.real.truncate(length, digest))
    }

    async fn reopen(&mut self) -> Result<Option<File>, StoreError> {
        at_once(self.real.reopen())
    }

    async fn park(&mut self, digest: Digest) -> Result<(), StoreError> {
        self.pace.pause().await;
        at_once(self.real.park(digest))
    }

    fn leave(&mut self) {
        self.real.leave();
    }

    async fn commit(self: Box<Self>, placement: Placement) -> Result<String, StoreError> {
        self.pace.pause().await;
        let location = at_once(self.real.commit(placement));
        self.pace.pause().await;
        location
    }
}
