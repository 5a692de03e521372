//! The file that keeps sequence numbers from being given twice, and says how the outbox was left.
//!
//! It is small and apart from the index so that it survives whatever happens to that.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use shared::digest::DigestAlgorithm;
use shared::disk::{Disk, DiskFile};
use shared::image::OutboxId;

use super::record::xxh3;

/// Numbers that are reserved at a time.
pub(super) const BLOCK: u64 = 10_000;

const MAGIC: &[u8; 8] = b"PGOUTBOX";
const SLOT: usize = 80;
/// Each slot is in a sector of its own, so that a torn write harms one.
const SLOT_OFFSETS: [u64; 2] = [0, 4_096];

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MarkState {
    pub(super) outbox: OutboxId,
    /// No number at or above was ever given.
    pub(super) reserved: u64,
    /// The outbox was closed in order.
    pub(super) clean: bool,
    /// Images were synced before they counted as kept.
    pub(super) synced: bool,
    /// Identifies the time since the system was started; 0: not known.
    pub(super) boot: u128,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Mark {
    file: Box<dyn DiskFile>,
    generation: u64,
    state: MarkState,
}

fn sum(bytes: &[u8]) -> [u8; 16] {
    xxh3(&DigestAlgorithm::Xxh3.digest(bytes)).to_be_bytes()
}

fn encode(generation: u64, state: &MarkState) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..16].copy_from_slice(&generation.to_le_bytes());
    slot[16..32].copy_from_slice(&state.outbox.as_u128().to_be_bytes());
    slot[32..40].copy_from_slice(&state.reserved.to_le_bytes());
    slot[40] = u8::from(state.clean);
    slot[41] = u8::from(state.synced);
    slot[48..64].copy_from_slice(&state.boot.to_be_bytes());
    let sum = sum(&slot[..64]);
    slot[64..].copy_from_slice(&sum);
    slot
}

fn decode(slot: &[u8; SLOT]) -> Option<(u64, MarkState)> {
    if &slot[..8] != MAGIC || sum(&slot[..64]) != slot[64..] {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(slot[at..at + 8].try_into().ok()?));
    let wide = |at: usize| Some(u128::from_be_bytes(slot[at..at + 16].try_into().ok()?));
    let state = MarkState {
        outbox: OutboxId::from_u128(wide(16)?)?,
        reserved: number(32)?,
        clean: slot[40] != 0,
        synced: slot[41] != 0,
        boot: wide(48)?,
    };
    Some((number(8)?, state))
}

impl Mark {
    /// Opens the file and reads it; `None` in place of what it says when it is new or garbage. The
    /// file's name is not synced yet.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
    ) -> io::Result<(MarkFile, Option<MarkState>)> {
        let file = match disk.open(path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((MarkFile(disk.create(path)?, 0), None));
            }
            opened => opened?,
        };
        let mut newest: Option<(u64, MarkState)> = None;
        for offset in SLOT_OFFSETS {
            let mut slot = [0; SLOT];
            match file.read_exact_at(&mut slot, offset) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(error),
            }
            let found = decode(&slot);
            if let Some((generation, state)) = found
                && newest.is_none_or(|(newest, _)| newest < generation)
            {
                newest = Some((generation, state));
            }
        }
        let generation = newest.map_or(0, |(generation, _)| generation);
        Ok((MarkFile(file, generation), newest.map(|(_, state)| state)))
    }

    pub(super) fn state(&self) -> &MarkState {
        &self.state
    }

    /// Says something else, for ever: synced.
    pub(super) fn write(&mut self, state: MarkState) -> io::Result<()> {
        let generation = self.generation + 1;
        let slot = Bytes::copy_from_slice(&encode(generation, &state));
        let offset = SLOT_OFFSETS[usize::from(generation.is_multiple_of(2))];
        self.file.write_at(&[slot], offset)?;
        self.file.sync()?;
        self.generation = generation;
        self.state = state;
        Ok(())
    }

    /// Makes sure that the numbers below `next` are reserved.
    pub(super) fn reserve(&mut self, next: u64) -> io::Result<()> {
        if next <= self.state.reserved {
            return Ok(());
        }
        let reserved = next.saturating_add(BLOCK);
        self.write(MarkState {
            reserved,
            ..self.state
        })
    }
}

/// The file, of which it is not decided yet what it is to say.
#[derive(Debug)]
pub(super) struct MarkFile(Box<dyn DiskFile>, u64);

impl MarkFile {
    /// Writes and syncs the first word.
    pub(super) fn say(self, state: MarkState) -> io::Result<Mark> {
        let mut mark = Mark {
            file: self.0,
            generation: self.1,
            state,
        };
        mark.write(state)?;
        Ok(mark)
    }
}

/// Identifies the time since this system was started, by Linux's boot id; 0 where there is none.
pub(super) fn boot() -> u128 {
    match std::fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) if !id.is_empty() => xxh3(&DigestAlgorithm::Xxh3.digest(&id)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::disk::sim::SimDisk;

    fn state(reserved: u64) -> MarkState {
        MarkState {
            outbox: OutboxId::from_u128(7).expect("not zero"),
            reserved,
            clean: false,
            synced: true,
            boot: 1 << 100,
        }
    }

    fn read(disk: &SimDisk) -> Option<MarkState> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let (_, state) = Mark::open(&disk, Path::new("/o/mark")).expect("a disk");
        state
    }

    #[test]
    fn a_power_loss_leaves_the_former_word_or_the_new_one() {
        let sim = SimDisk::new(&[Path::new("/o")]);
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let (file, nothing) = Mark::open(&disk, Path::new("/o/mark")).expect("new");
        assert_eq!(nothing, None);
        let mut mark = file.say(state(1)).expect("power");
        disk.sync_folder(Path::new("/o")).expect("power");
        for reserved in 2..20 {
            let before = mark.generation;
            // The write happens, its sync does not.
            sim.lose_power_after(1);
            assert!(mark.write(state(reserved)).is_err());
            let mut seen = [0; 2];
            for seed in 0..200 {
                let left = read(&sim.crash(seed)).expect("one slot is whole");
                assert!(left.reserved == reserved || left.reserved == reserved - 1);
                seen[usize::from(left.reserved == reserved)] += 1;
            }
            assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
            sim.lose_power_after(u64::MAX);
            assert_eq!(mark.generation, before);
            mark.write(state(reserved)).expect("power");
        }
    }

    #[test]
    fn garbage_says_nothing() {
        let sim = SimDisk::new(&[Path::new("/o")]);
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let (file, _) = Mark::open(&disk, Path::new("/o/mark")).expect("new");
        file.say(state(5)).expect("power");
        assert_eq!(read(&sim), Some(state(5)));
        for byte in 0..SLOT {
            assert!(
                sim.flip_bit(Path::new("/o/mark"), byte + 4_096)
                    || sim.flip_bit(Path::new("/o/mark"), byte)
            );
            assert_eq!(read(&sim), None, "byte {byte}");
            assert!(
                sim.flip_bit(Path::new("/o/mark"), byte + 4_096)
                    || sim.flip_bit(Path::new("/o/mark"), byte)
            );
        }
    }
}
