//! The servers that are known, and those of them that are ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::BalanceOptions;
use super::backend::{Address, Backend, keep_watching};

/// What all clones and tasks of a `Balance` share.
#[derive(Debug)]
pub(super) struct Pool {
    /// As the user wrote them.
    targets: String,
    pub(super) options: BalanceOptions,
    pub(super) rotation: watch::Sender<Rotation>,
    next: AtomicUsize,
    /// A server broke: perhaps its name has another address by now.
    pub(super) look_again: Notify,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// Who may be called.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    all: Vec<Arc<Backend>>,
    ready: Vec<Ready>,
    /// Why the last one was taken out.
    trouble: Option<String>,
}

/// A server that is ready, and since which of the attempts to watch it. What is said of an earlier
/// one does not count any more.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub(super) backend: Arc<Backend>,
    pub(super) term: u64,
}

impl Rotation {
    pub(super) fn ready_addresses(&self) -> Vec<String> {
        let addresses = self.ready.iter();
        addresses
            .map(|ready| ready.backend.authority.to_string())
            .collect()
    }
}

impl Pool {
    pub(super) fn new(targets: String, options: BalanceOptions, stop: CancellationToken) -> Self {
        Self {
            targets,
            options,
            rotation: watch::Sender::default(),
            next: AtomicUsize::new(0),
            look_again: Notify::new(),
            stop,
            tasks: TaskTracker::new(),
        }
    }

    /// The next server in turn, if any is ready.
    pub(super) fn pick(&self) -> Option<Ready> {
        let rotation = self.rotation.borrow();
        if rotation.ready.is_empty() {
            return None;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        Some(rotation.ready[turn % rotation.ready.len()].clone())
    }

    /// Lets a server have calls, unless it is known no more.
    pub(super) fn put_in(&self, backend: &Arc<Backend>, term: u64) {
        self.rotation.send_if_modified(|rotation| {
            let known = rotation.all.iter().any(|known| Arc::ptr_eq(known, backend));
            let present = rotation
                .ready
                .iter()
                .any(|ready| Arc::ptr_eq(&ready.backend, backend));
            if known && !present {
                tracing::debug!(server = %backend.authority, "gets calls");
                let backend = Arc::clone(backend);
                rotation.ready.push(Ready { backend, term });
            }
            known && !present
        });
    }

    /// Lets a server have no more calls, if it is ready since this term or an earlier one.
    pub(super) fn take_out(&self, backend: &Arc<Backend>, term: u64, why: &str) {
        self.rotation.send_if_modified(|rotation| {
            let before = rotation.ready.len();
            rotation
                .ready
                .retain(|ready| !Arc::ptr_eq(&ready.backend, backend) || ready.term > term);
            let taken = rotation.ready.len() < before;
            if taken {
                tracing::debug!(server = %backend.authority, why, "gets no more calls");
            }
            if taken || rotation.ready.is_empty() {
                rotation.trouble = Some(why.to_owned());
            }
            taken
        });
    }

    /// Something is wrong beside the servers.
    pub(super) fn trouble(&self, why: String) {
        self.rotation.send_if_modified(|rotation| {
            rotation.trouble = Some(why);
            false
        });
    }

    /// Makes these the servers that are known. Calls to one that is gone go on to their end.
    pub(super) fn update(self: &Arc<Self>, wanted: &[Address]) {
        let mut new = Vec::new();
        self.rotation.send_if_modified(|rotation| {
            let before = rotation.all.len();
            rotation.all.retain(|backend| {
                let kept = wanted.iter().any(|address| backend.is_at(address));
                if !kept {
                    tracing::debug!(server = %backend.authority, "is gone");
                    backend.gone.cancel();
                }
                kept
            });
            rotation
                .ready
                .retain(|ready| !ready.backend.gone.is_cancelled());
            let gone = rotation.all.len() < before;
            for address in wanted {
                if rotation.all.iter().any(|backend| backend.is_at(address)) {
                    continue;
                }
                match Backend::new(address, &self.options, self.stop.child_token()) {
                    Ok(backend) => {
                        rotation.all.push(Arc::clone(&backend));
                        new.push(backend);
                    }
                    Err(error) => {
                        rotation.trouble = Some(format!("{}: {error}", address.authority));
                    }
                }
            }
            gone || !new.is_empty()
        });
        for backend in new {
            let gone = backend.gone.clone();
            let watching = keep_watching(Arc::clone(self), backend);
            self.tasks.spawn(gone.run_until_cancelled_owned(watching));
        }
    }

    /// Calls begun on each server that is known.
    pub(super) fn counts(&self) -> Vec<(String, u64)> {
        let rotation = self.rotation.borrow();
        let count = |backend: &Arc<Backend>| {
            let calls = backend.calls.load(Ordering::Relaxed);
            (backend.authority.to_string(), calls)
        };
        rotation.all.iter().map(count).collect()
    }

    /// Words for a call that waited in vain.
    pub(super) fn none_ready(&self) -> String {
        let rotation = self.rotation.borrow();
        let trouble = rotation
            .trouble
            .as_deref()
            .unwrap_or("none has answered yet");
        format!(
            "no server of {} is ready: {trouble}; see whether they run, can be reached and report SERVING",
            self.targets
        )
    }
}
