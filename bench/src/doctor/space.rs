//! Free space, and what kind of file system it is.

mod mounts;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use shared::report::format::bytes;
use shared::settings::units::ByteSize;

use super::holder::Holder;
use super::{Finding, Group, Kind, Level};
use mounts::Mount;

const GROUP: Group = Group::Space;

/// What a station wants of its folder.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) folder: PathBuf,
    /// The setting that names it.
    pub(crate) setting: &'static str,
    /// What has to stay free, and the setting that says so.
    pub(crate) floor: u64,
    pub(crate) floor_setting: &'static str,
    /// What the station may put there.
    pub(crate) limit: Option<u64>,
    /// Whether what is there is promised to survive the end of the machine's power.
    pub(crate) durable: bool,
}

impl Asked {
    pub(crate) fn of(station: &Kind, folder: PathBuf) -> Self {
        match station {
            Kind::Transmitter(config) => Self {
                folder,
                setting: "--outbox",
                floor: config.outbox.min_free.0,
                floor_setting: "--outbox-min-free",
                limit: Some(config.outbox.limit.0),
                durable: config.outbox.durability == transmitter::config::OutboxDurability::Synced,
            },
            Kind::Receiver(config) => Self {
                folder,
                setting: "--data",
                floor: config.limits.min_free.0,
                floor_setting: "--min-free",
                limit: None,
                durable: config.durability == shared::receipt::Durability::Synced,
            },
            Kind::Users(_) => Self {
                folder,
                setting: "--data",
                floor: 0,
                floor_setting: "--data",
                limit: None,
                durable: true,
            },
        }
    }
}

/// What there is.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The folder itself, or the nearest one above it that is there.
    there: PathBuf,
    exists: bool,
    free: u64,
    total: u64,
    /// Free inodes; nothing where they are made as they are needed.
    inodes: Option<u64>,
    mount: Option<Mount>,
    writable: bool,
    mode: u32,
    owner: u32,
}

/// Looks at the folder. The error is a finding of its own.
pub(crate) fn facts(folder: &Path) -> Result<Facts, Finding> {
    look(folder).map_err(|error| {
        let found = format!("{}: cannot be looked at: {error}", folder.display());
        let fix = "name a folder that this user can use, or run the doctor as the daemon's user (`sudo -u USER`)";
        Finding::bad(Level::Problem, (GROUP, "folder"), found, fix)
    })
}

/// The folder, or the nearest one above it that is there.
pub(super) fn nearest(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let there = absolute.ancestors().find(|path| path.exists());
    there.unwrap_or(Path::new("/")).to_owned()
}

fn look(folder: &Path) -> io::Result<Facts> {
    let there = nearest(folder);
    let exists = folder.exists();
    let metadata = std::fs::metadata(&there)?;
    let space = rustix::fs::statvfs(&there)?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let whole = there.canonicalize()?;
    Ok(Facts {
        exists,
        free: space.f_bavail.saturating_mul(space.f_frsize),
        total: space.f_blocks.saturating_mul(space.f_frsize),
        inodes: (space.f_files > 0).then_some(space.f_favail),
        mount: mounts::of(&table, &whole),
        writable: metadata.is_dir()
            && rustix::fs::access(&there, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
        mode: metadata.mode() & 0o7777,
        owner: metadata.uid(),
        there,
    })
}

/// Fewer free inodes than this, and files cannot be made any more soon.
const FEW_INODES: u64 = 10_000;

/// Judges it.
pub(crate) fn judge(asked: &Asked, facts: &Facts, holder: &Holder) -> Vec<Finding> {
    let mut findings = vec![folder(asked, facts), room(asked, facts)];
    findings.extend(inodes(asked, facts));
    findings.extend(facts.mount.as_ref().map(|mount| kind(asked, mount)));
    findings.extend(held(asked, holder));
    findings
}

fn folder(asked: &Asked, facts: &Facts) -> Finding {
    let place = (GROUP, "folder");
    let (folder, there, setting) = (asked.folder.display(), facts.there.display(), asked.setting);
    let Facts { mode, owner, .. } = facts;
    match (facts.exists, facts.writable) {
        (true, true) if mode & 0o002 != 0 && mode & 0o1000 == 0 => {
            let found = format!(
                "{folder} ({setting}) may be written by everybody on this machine ({mode:04o})"
            );
            Finding::bad(Level::Warning, place, found, format!("chmod 700 {there}"))
        }
        (true, true) => Finding::ok(
            place.0,
            place.1,
            format!("{folder} ({setting}) can be written ({mode:04o}, user {owner})"),
        ),
        (false, true) => Finding::ok(
            place.0,
            place.1,
            format!("{folder} ({setting}) is not there yet, and can be made in {there}"),
        ),
        (exists, false) => {
            let user = rustix::process::geteuid().as_raw();
            let found = match exists {
                true => format!(
                    "{folder} ({setting}) cannot be written by user {user}; it is of user {owner}, {mode:04o}"
                ),
                false => format!(
                    "{folder} ({setting}) is not there, and user {user} cannot make it in {there}"
                ),
            };
            let fix = format!(
                "`install -d -m 700 -o USER {folder}` as root with the daemon's user, or name another folder with {setting}"
            );
            Finding::bad(Level::Problem, place, found, fix)
        }
    }
}

fn room(asked: &Asked, facts: &Facts) -> Finding {
    let place = (GROUP, "free");
    let Asked {
        floor,
        floor_setting,
        limit,
        ..
    } = asked;
    let (free, total, there) = (facts.free, facts.total, facts.there.display());
    let share = if total == 0 {
        0.0
    } else {
        free as f64 * 100.0 / total as f64
    };
    let shown = format!(
        "{} of {} are free in {there} ({share:.0} %)",
        bytes(free),
        bytes(total)
    );
    let floor_shown = ByteSize(*floor);
    let make_room = format!(
        "make room (`du -xhd1 {there} | sort -h`), use a larger disk, or lower {floor_setting}"
    );
    let finding = if free < *floor || free == 0 {
        let found =
            format!("{shown}, less than the {floor_shown} of {floor_setting}: no images are taken");
        Finding::bad(Level::Problem, place, found, make_room)
    } else if free < floor.saturating_mul(2) || share < 5.0 {
        let found = format!("{shown}; at {floor_shown} ({floor_setting}) no more images are taken");
        Finding::bad(Level::Warning, place, found, make_room)
    } else if let Some(limit) = limit.filter(|limit| free - floor < *limit) {
        let found = format!(
            "{shown}; the {} that the outbox may take are more than that leaves",
            ByteSize(limit)
        );
        let fix = "lower --outbox-limit, or see that --when-full does what you want when the disk is what ends it";
        Finding::bad(Level::Note, place, found, fix)
    } else {
        Finding::ok(place.0, place.1, shown)
    };
    finding
        .with("free_bytes", free)
        .with("total_bytes", total)
        .with("floor_bytes", *floor)
}

fn inodes(asked: &Asked, facts: &Facts) -> Option<Finding> {
    let place = (GROUP, "inodes");
    let free = facts.inodes?;
    let finding = if free < FEW_INODES {
        let level = if free < 100 {
            Level::Problem
        } else {
            Level::Warning
        };
        let found = format!(
            "only {free} more files can be made in {}",
            facts.there.display()
        );
        let fix = format!(
            "remove small files, or take for {} a file system made with more inodes (`mkfs.ext4 -N`) or xfs",
            asked.setting
        );
        Finding::bad(level, place, found, fix)
    } else {
        Finding::ok(place.0, place.1, format!("{free} more files can be made"))
    };
    Some(finding.with("free_inodes", free))
}

const IN_MEMORY: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];
const NETWORK: [&str; 10] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "glusterfs",
    "fuse.sshfs",
    "fuse.glusterfs",
];

fn kind(asked: &Asked, mount: &Mount) -> Finding {
    let place = (GROUP, "filesystem");
    let (what, at, setting) = (&mount.kind, mount.at.display(), asked.setting);
    let shown = format!(
        "the file system of {} is {what}, mounted at {at}",
        asked.folder.display()
    );
    let finding = if mount.read_only {
        let found = format!("{shown}, for reading only");
        let fix = format!(
            "`mount -o remount,rw {at}`; a disk that fails is mounted so by the kernel: see dmesg"
        );
        Finding::bad(Level::Problem, place, found, fix)
    } else if IN_MEMORY.contains(&what.as_str()) {
        let found = format!(
            "{shown}: it is in memory, and what is there does not survive a restart of the machine"
        );
        let fix = format!("name a folder on a disk with {setting}");
        let level = if asked.durable {
            Level::Warning
        } else {
            Level::Note
        };
        Finding::bad(level, place, found, fix)
    } else if NETWORK.contains(&what.as_str()) {
        let found =
            format!("{shown}: locks and syncs there are as good as its server, and it may hang");
        let fix = format!("name a folder on a local disk with {setting}, and copy from there");
        Finding::bad(Level::Warning, place, found, fix)
    } else if what == "overlay" {
        let found = format!("{shown}: in a container, what is there is gone with it");
        let fix = format!("mount a volume, and name it with {setting}");
        Finding::bad(Level::Note, place, found, fix)
    } else {
        Finding::ok(place.0, place.1, shown)
    };
    finding.with("type", what.as_str())
}

fn held(asked: &Asked, holder: &Holder) -> Option<Finding> {
    let place = (GROUP, "holder");
    let folder = asked.folder.display();
    match holder {
        Holder::Nobody => None,
        Holder::Process(id) => Some(Finding::ok(
            place.0,
            place.1,
            format!("process {id} has {folder}: the daemon runs"),
        )),
        Holder::Somebody => Some(Finding::ok(
            place.0,
            place.1,
            format!("somebody has {folder}: the daemon runs"),
        )),
        Holder::Unknown(why) => {
            let found = format!("nobody can tell whether a daemon has {folder}: {why}");
            Some(Finding::bad(
                Level::Note,
                place,
                found,
                "run the doctor as the daemon's user (`sudo -u USER`)",
            ))
        }
    }
}
