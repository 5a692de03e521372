//! One sync of a folder for all images that were moved into it meanwhile.
//!
//! Whoever comes while nobody syncs does it at once, on the thread it is on: a single image waits
//! for nothing. Whoever comes while a sync is under way, which may have missed its name, waits for
//! the next one, together with all others that came until then.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::disk::Disk;
use shared::sabotage::{self, Sabotage};
use tokio::sync::oneshot;

use crate::store::StoreError;

/// What a sync came to, for each of those who waited for it.
type Told = Result<(), (io::ErrorKind, String)>;

/// Syncs one folder.
#[derive(Debug)]
pub(super) struct GroupSync {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    waiting: Vec<oneshot::Sender<Told>>,
}

/// A sync that covers the caller's name.
pub(super) enum Joined {
    /// It is over.
    Done(Result<(), StoreError>),
    /// It is still to begin.
    Next(Arc<GroupSync>, oneshot::Receiver<Told>),
}

impl Joined {
    /// Waits for its end.
    pub(super) async fn end(self) -> Result<(), StoreError> {
        match self {
            Self::Done(result) => result,
            Self::Next(group, told) => {
                let told = told
                    .await
                    .unwrap_or_else(|_| Err((io::ErrorKind::Other, "it was given up".to_owned())));
                told.map_err(|(kind, message)| {
                    StoreError::io(
                        "syncing folder",
                        &group.folder,
                        io::Error::new(kind, message),
                    )
                })
            }
        }
    }
}

/// The right to sync; hands over to those who wait when it is dropped.
struct Turn<'a>(&'a Arc<GroupSync>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if state.waiting.is_empty() {
            state.running = false;
        } else {
            let group = Arc::clone(self.0);
            // Not on this thread, whose own image would wait for all that come after it.
            tokio::runtime::Handle::current().spawn_blocking(move || group.round());
        }
    }
}

impl GroupSync {
    pub(super) fn new(disk: Arc<dyn Disk>, folder: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            disk,
            folder,
            state: Mutex::default(),
        })
    }

    /// Takes part in the next sync that begins. May block; on a thread of the runtime.
    pub(super) fn join(self: &Arc<Self>) -> Joined {
        {
            let mut state = self.state.lock();
            if state.running {
                let (tell, told) = oneshot::channel();
                state.waiting.push(tell);
                return Joined::Next(Arc::clone(self), told);
            }
            state.running = true;
        }
        let turn = Turn(self);
        let synced = self.sync();
        drop(turn);
        Joined::Done(
            synced.map_err(|source| StoreError::io("syncing folder", &self.folder, source)),
        )
    }

    fn round(self: Arc<Self>) {
        let turn = Turn(&self);
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        let told = self
            .sync()
            .map_err(|error| (error.kind(), error.to_string()));
        for tell in waiting {
            // Whoever gave up waiting needs no answer.
            let _ = tell.send(told.clone());
        }
        drop(turn);
    }

    fn sync(&self) -> io::Result<()> {
        if sabotage::is(Sabotage::SkipFolderSync) {
            return Ok(());
        }
        self.disk.sync_folder(&self.folder)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use std::path::Path;

    use shared::disk::sim::SimDisk;

    use super::*;

    fn group(disk: &SimDisk) -> Arc<GroupSync> {
        GroupSync::new(Arc::new(disk.clone()), PathBuf::from("/a"))
    }

    #[tokio::test]
    async fn who_comes_during_a_sync_waits_for_the_next_which_all_share() {
        let disk = SimDisk::new(&[Path::new("/a")]);
        let group = group(&disk);
        // As if one were under way.
        group.state.lock().running = true;
        let joined: Vec<Joined> = (0..10).map(|_| group.join()).collect();
        let before = disk.changes();
        drop(Turn(&group));
        for one in joined {
            one.end().await.unwrap();
        }
        assert_eq!(disk.changes() - before, 1);
        // The turn is given back only after the answers.
        while group.state.lock().running {
            tokio::task::yield_now().await;
        }
        assert!(matches!(group.join(), Joined::Done(Ok(()))));
    }

    #[tokio::test]
    async fn a_sync_that_fails_fails_for_all_who_waited_and_for_nobody_after() {
        let disk = SimDisk::new(&[Path::new("/a")]);
        let group = group(&disk);
        group.state.lock().running = true;
        let joined: Vec<Joined> = (0..3).map(|_| group.join()).collect();
        disk.fail_syncs(1);
        drop(Turn(&group));
        for one in joined {
            assert!(one.end().await.is_err());
        }
        assert!(group.join().end().await.is_ok());
    }
}
