//! A file system that loses power: what programs see of it through FUSE, and a switch.
//!
//! Killing a process proves nothing about syncing, because the kernel keeps what the process wrote.
//! Here a [`Volume::cut`] leaves what was synced, and of the rest whatever it likes.

mod tree;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

pub(crate) use tree::Tree;

/// The kernel may believe what it was told: nobody else changes anything.
const BELIEVED: Duration = Duration::from_secs(60);
const BLOCK: u32 = 4096;

/// A mounted file system in memory, which is gone with the volume.
pub(crate) struct Volume {
    place: PathBuf,
    shared: Shared,
    session: Option<BackgroundSession>,
}

type Shared = Arc<Mutex<Tree>>;

impl Volume {
    /// Mounts an empty one of `capacity` bytes at the folder `place`.
    pub(crate) fn mount(place: &Path, capacity: u64) -> Result<Self> {
        let mut volume = Self {
            place: place.to_owned(),
            shared: Arc::new(Mutex::new(Tree::new(capacity))),
            session: None,
        };
        volume.attach()?;
        Ok(volume)
    }

    fn attach(&mut self) -> Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("power-loss".to_owned()),
            MountOption::NoAtime,
        ];
        let files = Files(Arc::clone(&self.shared));
        let session = fuser::spawn_mount(files, &self.place, &config).with_context(|| {
            format!(
                "mounting at {} (this needs root and /dev/fuse)",
                self.place.display()
            )
        })?;
        self.session = Some(session);
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        let unmounted = match self.session.take() {
            Some(session) => session.umount_and_join(),
            None => Ok(()),
        };
        match unmounted {
            // Seen once, perhaps because the mount went while the thread was reading a request. What
            // counts is that it went.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted && self.is_gone() => Ok(()),
            other => other.with_context(|| format!("unmounting {}", self.place.display())),
        }
    }

    /// Whether the file system at its place is that of its parent, as far as can be seen.
    fn is_gone(&self) -> bool {
        let device = |path: &Path| std::fs::metadata(path).ok().map(|data| data.dev());
        let here = device(&self.place);
        here.is_some() && here == self.place.parent().and_then(device)
    }

    /// Takes the power away and gives it back. No process may have a file open.
    pub(crate) fn cut(&mut self, random: &mut fastrand::Rng) -> Result<()> {
        // What the state was when the power went, not what unmounting would write.
        let tree = std::mem::replace(&mut *self.tree(), Tree::new(0));
        self.detach()?;
        *self.tree() = tree.cut(random);
        self.attach()
    }

    /// What is in it, to set its capacity.
    pub(crate) fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.shared)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Nothing can be done about a mount that stays; the next run names it.
        let _ = self.detach();
    }
}

fn lock(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Files(Shared);

impl Files {
    fn attributes(&self, node: u64) -> Result<FileAttr, Errno> {
        attributes(&lock(&self.0), node)
    }

    /// Answers with the node that `make` gives.
    fn entry(&self, reply: ReplyEntry, make: impl FnOnce(&mut Tree) -> Result<u64, Errno>) {
        let mut tree = lock(&self.0);
        match make(&mut tree).and_then(|node| attributes(&tree, node)) {
            Ok(attributes) => reply.entry(&BELIEVED, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn done(&self, reply: ReplyEmpty, work: impl FnOnce(&mut Tree) -> Result<(), Errno>) {
        match work(&mut lock(&self.0)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}

fn attributes(tree: &Tree, node: u64) -> Result<FileAttr, Errno> {
    let facts = tree.facts(node)?;
    let (kind, perm) = match facts.is_folder {
        true => (FileType::Directory, 0o755),
        false => (FileType::RegularFile, 0o644),
    };
    Ok(FileAttr {
        ino: INodeNo(node),
        size: facts.size,
        blocks: facts.size.div_ceil(512),
        atime: facts.modified,
        mtime: facts.modified,
        ctime: facts.modified,
        crtime: facts.modified,
        kind,
        perm,
        nlink: facts.links,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    })
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |tree| tree.find(parent.0, name));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino.0) {
            Ok(attributes) => reply.attr(&BELIEVED, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = lock(&self.0);
        let length = size.map_or(Ok(()), |size| tree.set_length(ino.0, size));
        let time = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        let set = length.and_then(|()| time.map_or(Ok(()), |time| tree.set_modified(ino.0, time)));
        match set.and_then(|()| attributes(&tree, ino.0)) {
            Ok(attributes) => reply.attr(&BELIEVED, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.entry(reply, |tree| tree.make_folder(parent.0, name));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.done(reply, |tree| tree.remove(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.done(reply, |tree| tree.remove(parent.0, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            reply.error(Errno::EINVAL);
            return;
        }
        let must_be_new = flags.contains(RenameFlags::RENAME_NOREPLACE);
        self.done(reply, |tree| {
            tree.rename((parent.0, name), (newparent.0, newname), must_be_new)
        });
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.entry(reply, |tree| {
            tree.link(ino.0, newparent.0, newname).map(|()| ino.0)
        });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match lock(&self.0).read(ino.0, offset, size) {
            Ok(data) => reply.data(data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.0).write(ino.0, offset, data) {
            // One request of the kernel is a megabyte at most.
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.done(reply, |tree| tree.sync_file(ino.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.done(reply, |tree| tree.sync_folder(ino.0));
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let tree = lock(&self.0);
        let names = match tree.names(ino.0) {
            Ok(names) => names,
            Err(error) => return reply.error(error),
        };
        // Positions are numbers of nodes, so that removing names while a folder is read skips none.
        let mut names = names;
        names.sort_unstable();
        for (node, name) in names {
            let is_folder = tree.facts(node).is_ok_and(|facts| facts.is_folder);
            let kind = match is_folder {
                true => FileType::Directory,
                false => FileType::RegularFile,
            };
            if node > offset && reply.add(INodeNo(node), node, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (capacity, free) = lock(&self.0).space();
        let (blocks, free) = (capacity / u64::from(BLOCK), free / u64::from(BLOCK));
        reply.statfs(blocks, free, free, 1 << 20, 1 << 20, BLOCK, 255, BLOCK);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut tree = lock(&self.0);
        let made = tree.make_file(parent.0, name);
        match made.and_then(|node| attributes(&tree, node)) {
            Ok(attributes) => reply.created(
                &BELIEVED,
                &attributes,
                Generation(0),
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(error) => reply.error(error),
        }
    }
}
