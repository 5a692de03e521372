//! The kernel's table of mounts (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Where a folder is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) at: PathBuf,
    pub(super) kind: String,
    pub(super) read_only: bool,
}

/// The mount that this folder, a path without links, lies in.
pub(super) fn of(table: &str, folder: &Path) -> Option<Mount> {
    let mounts = table.lines().filter_map(parse);
    let within = mounts.filter(|mount| folder.starts_with(&mount.at));
    // Of several at one place, the last lies above the others.
    within.max_by_key(|mount| mount.at.components().count())
}

fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(4);
    let at = unescaped(left.next()?);
    let options = left.next()?;
    let mut right = right.split(' ');
    let kind = right.next()?.to_owned();
    let of_all = right.nth(1).unwrap_or_default();
    let read_only = [options, of_all]
        .iter()
        .any(|options| options.split(',').any(|it| it == "ro"));
    Some(Mount {
        at: PathBuf::from(at),
        kind,
        read_only,
    })
}

/// Spaces and such are written as three octal digits.
fn unescaped(text: &str) -> OsString {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, others)) = rest.split_first() {
        let code = others.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[3..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:5 / /run rw,nosuid - tmpfs tmpfs rw,size=10%
31 22 8:2 / /srv/my\\040disk rw,noatime shared:2 master:1 - xfs /dev/sdb1 ro,attr2
32 22 8:3 / /srv rw - btrfs /dev/sdc rw
33 22 0:6 / /srv rw - overlay overlay rw
nonsense";

    #[test]
    fn a_folder_lies_in_the_nearest_mount_above_it() {
        for (folder, at, kind, read_only) in [
            ("/home/x", "/", "ext4", false),
            ("/running", "/", "ext4", false),
            ("/run/pantelegraph", "/run", "tmpfs", false),
            ("/srv/my disk/data", "/srv/my disk", "xfs", true),
            ("/srv/a", "/srv", "overlay", false),
        ] {
            let expected = Mount {
                at: at.into(),
                kind: kind.to_owned(),
                read_only,
            };
            assert_eq!(of(TABLE, Path::new(folder)), Some(expected), "{folder}");
        }
    }
}
