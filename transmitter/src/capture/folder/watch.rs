//! The system's word on changes in a folder (inotify).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Changes that wait to be looked at. Beyond that a scan finds them.
const MAX_WAITING: usize = 1024;

/// What a change means here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// This file is complete: its writer closed it, or it was renamed into the folder.
    Complete(PathBuf),
    /// There is a new folder; files may have come into it before it was watched.
    NewFolder,
    /// Changes were missed: look at everything.
    Missed,
    /// The folder itself is gone, and with it its watch.
    RootGone,
}

/// A watch; it ends when this is dropped.
pub(super) struct Watch {
    changes: mpsc::Receiver<Change>,
    missed: Arc<AtomicBool>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches the folder, and those below it if `recursive`. Blocks.
    ///
    /// A watch that reaches only a part of the folders, because the system allows no more, is
    /// kept: the error comes with it.
    pub(super) fn start(
        root: &Path,
        recursive: bool,
    ) -> Result<(Self, Option<notify::Error>), notify::Error> {
        let (sender, changes) = mpsc::channel(MAX_WAITING);
        let missed = Arc::new(AtomicBool::new(false));
        let handler = Handler {
            root: root.to_owned(),
            sender,
            missed: Arc::clone(&missed),
        };
        let config = Config::default().with_follow_symlinks(false);
        let mut watcher = RecommendedWatcher::new(move |event| handler.handle(event), config)?;
        let mode = if recursive {
            RecursiveMode::Recursive
        } else {
            RecursiveMode::NonRecursive
        };
        let partial = match watcher.watch(root, mode) {
            Ok(()) => None,
            Err(error) if recursive => {
                // Without a watch of the root itself there is none.
                watcher.watch(root, RecursiveMode::NonRecursive)?;
                Some(error)
            }
            Err(error) => return Err(error),
        };
        Ok((
            Self {
                changes,
                missed,
                _watcher: watcher,
            },
            partial,
        ))
    }

    /// Waits for the next change. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Change {
        if self.missed.swap(false, Ordering::AcqRel) {
            return Change::Missed;
        }
        match self.changes.recv().await {
            Some(change) => change,
            // The system's thread ended. Scans go on.
            None => std::future::pending().await,
        }
    }
}

struct Handler {
    root: PathBuf,
    sender: mpsc::Sender<Change>,
    missed: Arc<AtomicBool>,
}

impl Handler {
    fn handle(&self, event: notify::Result<Event>) {
        let change = match event {
            Ok(event) => self.meaning(event),
            Err(error) => {
                tracing::warn!(%error, "changes of the folder may be missed until its next scan");
                Some(Change::Missed)
            }
        };
        let Some(change) = change else { return };
        if self.sender.try_send(change).is_err() {
            self.missed.store(true, Ordering::Release);
            // If it was emptied in between, nobody would look at the flag.
            let _ = self.sender.try_send(Change::Missed);
        }
    }

    fn meaning(&self, event: Event) -> Option<Change> {
        if event.need_rescan() {
            return Some(Change::Missed);
        }
        let path = event.paths.into_iter().next()?;
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Complete(path)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                // It may be gone again; then there is nothing to do.
                let metadata = std::fs::symlink_metadata(&path).ok()?;
                Some(if metadata.is_dir() {
                    Change::NewFolder
                } else {
                    Change::Complete(path)
                })
            }
            EventKind::Create(CreateKind::Folder) => Some(Change::NewFolder),
            EventKind::Remove(RemoveKind::Folder | RemoveKind::Other)
            | EventKind::Modify(ModifyKind::Name(RenameMode::From))
                if path == self.root =>
            {
                Some(Change::RootGone)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_changes_than_can_wait_end_in_a_look_at_everything() {
        let (sender, changes) = mpsc::channel(2);
        let missed = Arc::new(AtomicBool::new(false));
        let handler = Handler {
            root: "/in".into(),
            sender,
            missed: Arc::clone(&missed),
        };
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        for name in ["/in/a", "/in/b", "/in/c"] {
            handler.handle(Ok(Event::new(closed).add_path(name.into())));
        }
        let watcher = RecommendedWatcher::new(|_| {}, Config::default()).unwrap();
        let mut watch = Watch {
            changes,
            missed,
            _watcher: watcher,
        };
        assert_eq!(watch.next().await, Change::Missed);
        assert_eq!(watch.next().await, Change::Complete("/in/a".into()));
        assert_eq!(watch.next().await, Change::Complete("/in/b".into()));
        handler.handle(Err(notify::Error::generic("lost")));
        assert_eq!(watch.next().await, Change::Missed);
    }

    #[tokio::test]
    async fn the_end_of_the_folder_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("in");
        std::fs::create_dir(&root).unwrap();
        let (mut watch, partial) = Watch::start(&root, true).unwrap();
        assert!(partial.is_none());
        std::fs::rename(&root, dir.path().join("away")).unwrap();
        assert_eq!(watch.next().await, Change::RootGone);
    }
}
