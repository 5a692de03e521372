//! The receiver's disk for images: what is committed and not yet synced may be gone, or torn, after
//! a power loss.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pantelegraph_receiver::store::{About, ImageStore, ImageWriter, Placement, StoreError};
use shared::chunk::Segments;
use shared::digest::Digest;
use shared::image::ImageId;

use crate::random::Random;

/// The disk. Clones are the same.
#[derive(Clone)]
pub(crate) struct Medium(Arc<Mutex<State>>);

struct State {
    random: Random,
    files: BTreeMap<String, Stored>,
    /// Names are never given twice, so that an image that is stored twice shows.
    commits: u64,
    full: bool,
    /// Milliseconds that an operation takes at most.
    slowness: u64,
}

#[derive(Clone)]
struct Stored {
    id: ImageId,
    bytes: Vec<u8>,
    synced: bool,
}

impl Medium {
    pub(crate) fn new(random: Random) -> Self {
        Self(Arc::new(Mutex::new(State {
            random,
            files: BTreeMap::new(),
            commits: 0,
            full: false,
            slowness: 4,
        })))
    }

    /// Whether there is space for another byte.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    /// What is left when the process dies, or with `power_loss` the machine: a disk of its own.
    pub(crate) fn crash(&self, power_loss: bool) -> Self {
        let mut state = self.0.lock().unwrap();
        let mut random = state.random.fork();
        let mut files = state.files.clone();
        if power_loss {
            files.retain(|_, file| {
                if !file.synced {
                    let kept = random.below(file.bytes.len() as u64 + 1);
                    file.bytes.truncate(usize::try_from(kept).unwrap_or(0));
                }
                file.synced || random.chance(5_000)
            });
        }
        Self(Arc::new(Mutex::new(State {
            random,
            files,
            commits: state.commits,
            full: state.full,
            slowness: state.slowness,
        })))
    }

    /// Removes files that `known` does not know, as the receiver does at its start.
    pub(crate) fn reconcile(&self, known: impl Fn(&str) -> bool) {
        let mut state = self.0.lock().unwrap();
        state.files.retain(|location, _| known(location));
    }

    /// Images of this id that would survive a power loss now.
    pub(crate) fn synced(&self, id: ImageId) -> Vec<Vec<u8>> {
        let state = self.0.lock().unwrap();
        let files = state.files.values();
        files
            .filter(|file| file.id == id && file.synced)
            .map(|file| file.bytes.clone())
            .collect()
    }

    /// How many files there are.
    pub(crate) fn files(&self) -> usize {
        self.0.lock().unwrap().files.len()
    }

    async fn pause(&self) {
        let millis = {
            let mut state = self.0.lock().unwrap();
            let slowness = state.slowness + 1;
            state.random.below(slowness)
        };
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    fn room(&self) -> Result<(), StoreError> {
        if self.0.lock().unwrap().full {
            let path = Path::new("images").to_path_buf();
            return Err(StoreError::Full { path });
        }
        Ok(())
    }
}

#[async_trait]
impl ImageStore for Medium {
    async fn create(&self, _about: About) -> Result<Box<dyn ImageWriter>, StoreError> {
        self.pause().await;
        self.room()?;
        Ok(Box::new(Writer {
            medium: self.clone(),
            bytes: Vec::new(),
        }))
    }

    async fn open(&self, _location: &str) -> Result<Option<File>, StoreError> {
        Ok(None)
    }

    async fn size(&self, location: &str) -> Result<Option<u64>, StoreError> {
        let state = self.0.lock().unwrap();
        Ok(state
            .files
            .get(location)
            .map(|file| file.bytes.len() as u64))
    }

    async fn discard(&self, location: &str) -> Result<(), StoreError> {
        self.0.lock().unwrap().files.remove(location);
        Ok(())
    }
}

struct Writer {
    medium: Medium,
    bytes: Vec<u8>,
}

#[async_trait]
impl ImageWriter for Writer {
    async fn write(&mut self, data: Segments, _digest: Digest) -> Result<(), StoreError> {
        self.medium.pause().await;
        self.medium.room()?;
        for piece in data.pieces() {
            self.bytes.extend_from_slice(piece);
        }
        Ok(())
    }

    async fn truncate(&mut self, length: u64, _digest: Digest) -> Result<(), StoreError> {
        self.bytes.truncate(usize::try_from(length).unwrap());
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
        self.medium.pause().await;
        self.medium.room()?;
        let location = {
            let mut state = self.medium.0.lock().unwrap();
            state.commits += 1;
            let (id, number) = (placement.id, state.commits);
            let location = format!("{number:06}-{id}.{}", placement.extension);
            let (bytes, synced) = (self.bytes, false);
            let stored = Stored { id, bytes, synced };
            state.files.insert(location.clone(), stored);
            location
        };
        self.medium.pause().await;
        let mut state = self.medium.0.lock().unwrap();
        if let Some(file) = state.files.get_mut(&location) {
            file.synced = true;
        }
        Ok(location)
    }
}
