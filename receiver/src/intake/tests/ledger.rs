//! A catalogue on the simulated disk: a line for each entry, synced before it counts. What a power
//! loss tears is not read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use shared::chunk::crc32c;
use shared::clock::UnixNanos;
use shared::disk::sim::SimDisk;
use shared::disk::{Disk, DiskFile};
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{Durability, ReceiverTimeline};
use shared::report::RunAccount;
use shared::wire::LossReport;

use crate::catalog::{
    Catalog, CatalogError, Entry, Fault, Filter, Gap, Inserted, Integrity, Kept, KeptLoss,
    LossFilter, Numbered, Repeat, RunLedger, Series, Tally, Verdict,
};

pub(super) struct Ledger {
    disk: SimDisk,
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    entries: BTreeMap<i64, Entry>,
    /// `None` once a write has failed: what it left is not known.
    file: Option<Box<dyn DiskFile>>,
    length: u64,
    next: i64,
}

fn failed(error: &dyn std::fmt::Display) -> CatalogError {
    CatalogError {
        action: "testing",
        problem: error.to_string(),
        fault: Fault::Medium,
    }
}

impl Ledger {
    /// What is on the disk.
    pub(super) fn open(disk: &SimDisk, path: &Path) -> Arc<Self> {
        let mut entries = BTreeMap::new();
        let (mut length, mut next) = (0, 1);
        let content = disk.content(path);
        for line in content
            .iter()
            .flat_map(|content| content.split_inclusive(|byte| *byte == b'\n'))
        {
            let Some(change) = std::str::from_utf8(line).ok().and_then(read) else {
                break;
            };
            match change {
                Ok(entry) => {
                    entries.insert(next, entry);
                    next += 1;
                }
                Err(id) => entries.retain(|_, entry: &mut Entry| entry.meta.id != id),
            }
            length += line.len() as u64;
        }
        let file = match content {
            Some(_) => disk.open(path, true).unwrap(),
            None => {
                let file = disk.create(path).unwrap();
                disk.sync_folder(path.parent().unwrap()).unwrap();
                file
            }
        };
        file.set_len(length).unwrap();
        file.sync().unwrap();
        Arc::new(Self {
            disk: disk.clone(),
            path: path.to_path_buf(),
            state: Mutex::new(State {
                entries,
                file: Some(file),
                length,
                next,
            }),
        })
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.state.lock().entries.values().cloned().collect()
    }

    fn write(&self, state: &mut State, line: &str) -> Result<(), CatalogError> {
        if state.file.is_none() {
            // As SQLite does: what was not committed is rolled back before anything else happens.
            let file = self
                .disk
                .open(&self.path, true)
                .map_err(|error| failed(&error))?;
            file.set_len(state.length)
                .and_then(|()| file.sync())
                .map_err(|error| failed(&error))?;
            state.file = Some(file);
        }
        let line = format!("{:08x} {line}\n", crc32c(line.as_bytes()));
        let file = state.file.take().ok_or_else(|| failed(&"closed"))?;
        file.write_at(&[Bytes::from(line.clone())], state.length)
            .and_then(|()| file.sync())
            .map_err(|error| failed(&error))?;
        state.file = Some(file);
        state.length += line.len() as u64;
        Ok(())
    }
}

/// An entry, or the id of one that is gone.
fn read(line: &str) -> Option<Result<Entry, ImageId>> {
    let (sum, rest) = line.strip_suffix('\n')?.split_once(' ')?;
    if u32::from_str_radix(sum, 16) != Ok(crc32c(rest.as_bytes())) {
        return None;
    }
    let mut words = rest.split(' ');
    match words.next()? {
        "gone" => Some(Err(words.next()?.parse().ok()?)),
        id => {
            let (size, digest) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Ok(Entry {
                meta: ImageMeta::new(id.parse().ok()?, size),
                transmitter: "camera".to_owned(),
                outbox: None,
                transport: Transport::WebSocket,
                digest,
                verdict: Verdict::Stored,
                format: "png".to_owned(),
                media_type: "image/png".to_owned(),
                width: 1,
                height: 1,
                location: words.next()?.to_owned(),
                durability: Durability::Synced,
                timeline: ReceiverTimeline {
                    first_byte: UnixNanos(0),
                    last_byte: UnixNanos(0),
                    verified: UnixNanos(0),
                    durable: UnixNanos(0),
                },
            }))
        }
    }
}

#[async_trait]
impl Catalog for Ledger {
    async fn find(&self, id: ImageId) -> Result<Option<Numbered>, CatalogError> {
        let state = self.state.lock();
        let mut entries = state.entries.iter();
        let found = entries.find(|(_, entry)| entry.meta.id == id);
        Ok(found.map(|(number, entry)| Numbered {
            number: *number,
            entry: entry.clone(),
            delivery_ns: None,
            attempts: None,
        }))
    }

    async fn insert(&self, entry: Entry) -> Result<Inserted, CatalogError> {
        let mut state = self.state.lock();
        let mut entries = state.entries.values();
        if let Some(known) = entries.find(|known| known.meta.id == entry.meta.id) {
            return Ok(Inserted::Present(Box::new(known.clone())));
        }
        let (id, size) = (entry.meta.id, entry.meta.size);
        let line = format!("{id} {size} {} {}", entry.digest, entry.location);
        self.write(&mut state, &line)?;
        let number = state.next;
        state.next += 1;
        state.entries.insert(number, entry);
        Ok(Inserted::New)
    }

    async fn remove(&self, id: ImageId, location: &str, _: &str) -> Result<bool, CatalogError> {
        let mut state = self.state.lock();
        let mut entries = state.entries.values();
        if !entries.any(|entry| entry.meta.id == id && entry.location == location) {
            return Ok(false);
        }
        self.write(&mut state, &format!("gone {id}"))?;
        state.entries.retain(|_, entry| entry.meta.id != id);
        Ok(true)
    }

    fn insert_later(&self, _: Entry) {}

    fn tally(&self, _: Tally) {}

    async fn account(&self, _: RunAccount) -> Result<(), CatalogError> {
        Ok(())
    }

    async fn list(
        &self,
        _: Filter,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Numbered>, CatalogError> {
        let state = self.state.lock();
        let Some(from) = after.checked_add(1) else {
            return Ok(Vec::new());
        };
        let entries = state.entries.range(from..).take(limit);
        Ok(entries
            .map(|(number, entry)| Numbered {
                number: *number,
                entry: entry.clone(),
                delivery_ns: None,
                attempts: None,
            })
            .collect())
    }

    async fn series(&self, _: Filter) -> Result<Vec<Series>, CatalogError> {
        Ok(Vec::new())
    }

    async fn keep_losses(&self, _: LossReport) -> Result<Kept, CatalogError> {
        Ok(Kept::default())
    }

    async fn repeat(&self, _: Repeat) -> Result<(), CatalogError> {
        Ok(())
    }

    async fn losses(&self, _: LossFilter, _: i64, _: usize) -> Result<Vec<KeptLoss>, CatalogError> {
        Ok(Vec::new())
    }

    async fn gaps(&self, _: LossFilter, _: usize) -> Result<Vec<Gap>, CatalogError> {
        Ok(Vec::new())
    }

    async fn ledger(&self, _: &Series) -> Result<RunLedger, CatalogError> {
        Err(failed(&"not asked for"))
    }

    async fn integrity(&self) -> Result<Integrity, CatalogError> {
        Err(failed(&"not asked for"))
    }
}
