//! A small disk for one station, that can be full and can lose power.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::power::Volume;

/// Which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A tmpfs: as fast as a disk can be.
    Tmpfs,
    /// A file system that loses power.
    Power,
}

/// A mounted disk, which is gone with this value.
pub(crate) struct Medium {
    place: PathBuf,
    mounted: Mounted,
    capacity: u64,
}

enum Mounted {
    Tmpfs,
    Power(Volume),
}

impl Medium {
    /// Mounts an empty one of `capacity` bytes at the new folder `place`.
    pub(crate) fn mount(kind: Kind, place: &Path, capacity: u64) -> Result<Self> {
        std::fs::create_dir_all(place).with_context(|| format!("making {}", place.display()))?;
        let mounted = match kind {
            Kind::Power => Mounted::Power(Volume::mount(place, capacity)?),
            Kind::Tmpfs => {
                let options = std::ffi::CString::new(format!("size={capacity}"))?;
                mount(
                    "tmpfs",
                    place,
                    "tmpfs",
                    MountFlags::empty(),
                    options.as_c_str(),
                )
                .with_context(|| {
                    format!("mounting a tmpfs at {} (this needs root)", place.display())
                })?;
                Mounted::Tmpfs
            }
        };
        Ok(Self {
            place: place.to_owned(),
            mounted,
            capacity,
        })
    }

    /// Where it is mounted.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// Leaves about `left` bytes free.
    pub(crate) fn fill(&self, left: u64) -> Result<()> {
        match &self.mounted {
            Mounted::Power(volume) => volume.tree().leave_free(left),
            Mounted::Tmpfs => {
                let space = statvfs(&self.place).context("asking for free space")?;
                let free = (space.f_bavail * space.f_frsize).saturating_sub(left);
                let filler = self.filler();
                let file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&filler)
                    .with_context(|| format!("making {}", filler.display()))?;
                let before = file.metadata()?.len();
                // The programs write meanwhile, so that it may be a little less.
                let mut wanted = free;
                while wanted > 0 && !reserve(&file, before, wanted) {
                    wanted -= wanted.div_ceil(8);
                }
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub(crate) fn release(&self) -> Result<()> {
        match &self.mounted {
            Mounted::Power(volume) => volume.tree().set_capacity(self.capacity),
            Mounted::Tmpfs => match std::fs::remove_file(self.filler()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context("giving space back");
                }
                _ => {}
            },
        }
        Ok(())
    }

    /// Takes the power away and gives it back. No program may have a file open.
    pub(crate) fn cut(&mut self, random: &mut fastrand::Rng) -> Result<()> {
        match &mut self.mounted {
            Mounted::Power(volume) => volume.cut(random),
            Mounted::Tmpfs => bail!("a tmpfs has no power to lose"),
        }
    }

    /// Copies what is on it to a folder that stays.
    pub(crate) fn keep(&self, folder: &Path) -> Result<()> {
        let to = folder.join(self.place.file_name().unwrap_or_default());
        for file in crate::e2e::check::files_below(&self.place)? {
            let copy = to.join(file.strip_prefix(&self.place).unwrap_or(&file));
            if file == self.filler() {
                continue;
            }
            if let Some(parent) = copy.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::copy(&file, &copy).with_context(|| format!("copying {}", file.display()))?;
        }
        Ok(())
    }

    fn filler(&self) -> PathBuf {
        self.place.join("filler")
    }
}

fn reserve(file: &File, from: u64, bytes: u64) -> bool {
    fallocate(file, FallocateFlags::empty(), from, bytes).is_ok()
}

impl Drop for Medium {
    fn drop(&mut self) {
        if let Mounted::Tmpfs = self.mounted {
            // Nothing can be done about a mount that stays; the next run names it.
            let _ = unmount(&self.place, UnmountFlags::DETACH);
        }
    }
}
