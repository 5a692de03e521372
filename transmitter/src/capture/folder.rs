//! A folder that is watched.
//!
//! The system tells when a file is closed after writing or renamed into the folder (inotify);
//! such a file is complete and is taken at once. Scans, one at the start and one each `rescan`,
//! find what was there before and what the watch missed; a file that a scan finds is taken when
//! it has [settled](settling). A file is taken once; when it is rewritten, it is a new image.
//! Symbolic links are not followed.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shared::clock::UnixNanos;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{Capture, CaptureError, Captured, blocking};
use crate::config::FolderOptions;
use place::Place;
use scan::{Fingerprint, Found, Scan, Seen, look};
use settling::{Now, Settling, Trust};
use watch::{Change, Watch};

mod filter;
mod place;
mod scan;
mod settling;
mod watch;

/// What is in a folder now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// Files that would be taken.
    pub files: usize,
    /// Whether these are all: it stops at 200,000.
    pub complete: bool,
}

/// Looks through a folder as its source would, and takes nothing. Blocks.
///
/// # Errors
/// When the folder cannot be used.
pub fn survey(options: &FolderOptions) -> Result<Survey, CaptureError> {
    let place = Place::new(options)?;
    let scanned = scan::scan(&place.root, &place.filter, |_| false, scan::MAX_FOUND);
    let scanned =
        scanned.map_err(|error| CaptureError::path(&place.root, "cannot be read", Some(error)))?;
    Ok(Survey {
        files: scanned.found.len(),
        complete: scanned.complete,
    })
}

/// How long a file must stay as it is to count as finished.
const SETTLING: Duration = Duration::from_secs(1);
/// Shortest time between two scans.
const SHORTEST_RESCAN: Duration = Duration::from_millis(100);

/// Takes the files of a folder.
pub(super) struct FolderSource {
    place: Arc<Place>,
    seen: Arc<Mutex<Seen>>,
    settling: Settling,
    /// Files to be handed out, in order.
    ready: VecDeque<Ready>,
    /// Looking at files takes place where it may block. The handle is kept here, so that a
    /// caller who gives up waiting and asks again finds it going on.
    work: Option<JoinHandle<Work>>,
    watch: Option<Watch>,
    /// The watch was lost with its folder, and is to be made again.
    watch_lost: bool,
    next_scan: Instant,
    rescan: Duration,
    once: Option<Once>,
}

/// How far a source is that ends when everything is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Once {
    Scanning,
    Scanned,
}

struct Ready {
    path: Box<Path>,
    /// The state in which it was found finished; `None` when the system said so.
    print: Option<Fingerprint>,
}

enum Work {
    Scanned(io::Result<Scan>, Option<Watch>),
    /// Files that were not finished, and what they are now; `None` when they are gone.
    LookedAgain(Vec<(Box<Path>, Option<Fingerprint>)>),
}

impl FolderSource {
    pub(super) async fn open(options: &FolderOptions) -> Result<Self, CaptureError> {
        let options = options.clone();
        let once = options.once.then_some(Once::Scanning);
        let rescan = options.rescan.max(SHORTEST_RESCAN);
        let (place, watch) = blocking(move || {
            let place = Place::new(&options)?;
            let watch = if options.once { None } else { place.watch() };
            Ok((place, watch))
        })
        .await?;
        Ok(Self {
            place: Arc::new(place),
            seen: Arc::default(),
            settling: Settling::new(SETTLING),
            ready: VecDeque::new(),
            work: None,
            watch,
            watch_lost: false,
            next_scan: Instant::now(),
            rescan,
            once,
        })
    }

    /// Takes the first file that is ready, if it is still what it was.
    async fn take_ready(&mut self) -> Option<Captured> {
        while let Some(front) = self.ready.front() {
            let file = self.place.root.join(&front.path);
            let looked = {
                let file = file.clone();
                blocking(move || look(&file)).await
            };
            // From here on nothing is waited for.
            let ready = self.ready.pop_front()?;
            let print = match looked {
                Ok(Some(print)) => print,
                Ok(None) => continue,
                Err(error) => {
                    self.settling.forget(&ready.path);
                    tracing::info!(file = %file.display(), %error, "file vanished before it was taken; skipped");
                    continue;
                }
            };
            let found = Found {
                path: ready.path,
                print,
            };
            if ready.print.is_some_and(|expected| expected != print) {
                if !self.seen().contains(&found) {
                    self.settling.observe(&found, now(), Trust::Nothing);
                }
                continue;
            }
            self.settling.forget(&found.path);
            if self.seen().insert(&found) {
                let name = found.path.to_string_lossy().into_owned();
                return Some(Captured {
                    modified: Some(print.modified),
                    ..Captured::from_file(file, print.size, name)
                });
            }
        }
        None
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Begins what is due.
    fn begin_work(&mut self) {
        if self.work.is_some() {
            return;
        }
        let now = Instant::now();
        let scans = self.once != Some(Once::Scanned);
        if scans && now >= self.next_scan {
            // Set before, so that what asks for another scan meanwhile is not forgotten.
            self.next_scan = now + self.rescan;
            let (place, seen) = (Arc::clone(&self.place), Arc::clone(&self.seen));
            let watch_again = self.watch_lost;
            self.work = Some(tokio::task::spawn_blocking(move || {
                let watch = if watch_again { place.watch() } else { None };
                Work::Scanned(place.scan(&seen), watch)
            }));
        } else if self.settling.due().is_some_and(|due| now >= due) {
            let (place, files) = (Arc::clone(&self.place), self.settling.due_files(now));
            self.work = Some(tokio::task::spawn_blocking(move || {
                let look_again = |path: Box<Path>| {
                    let print = look(&place.root.join(&path)).ok().flatten();
                    (path, print)
                };
                Work::LookedAgain(files.into_iter().map(look_again).collect())
            }));
        }
    }

    fn end_work(&mut self, work: Work) -> Result<(), CaptureError> {
        match work {
            Work::Scanned(Ok(scan), watch) => {
                if watch.is_some() {
                    self.watch = watch;
                    self.watch_lost = false;
                }
                self.sort_out(scan);
            }
            Work::Scanned(Err(error), _) => {
                let root = self.place.root.clone();
                if self.once.is_some() {
                    return Err(CaptureError::path(root, "cannot be read", Some(error)));
                }
                self.lose_watch();
                tracing::warn!(
                    folder = %root.display(), %error, again_in = ?self.rescan,
                    "the folder cannot be read; it is looked for again"
                );
            }
            Work::LookedAgain(files) => {
                let mut found = Vec::with_capacity(files.len());
                for (path, print) in files {
                    match print {
                        Some(print) => found.push(Found { path, print }),
                        None => {
                            self.settling.forget(&path);
                            tracing::info!(file = %path.display(), "file vanished before it was taken; skipped");
                        }
                    }
                }
                found.sort_unstable_by_key(|file| file.print.modified);
                self.queue_finished(found, Trust::Nothing);
            }
        }
        Ok(())
    }

    fn sort_out(&mut self, scan: Scan) {
        let trust = if self.once.is_some() {
            Trust::Age
        } else {
            Trust::Nothing
        };
        if !scan.complete {
            tracing::info!(folder = %self.place.root.display(), files = scan.found.len(), "more files than one scan takes");
        } else if self.once.is_some() {
            self.once = Some(Once::Scanned);
        }
        self.queue_finished(scan.found, trust);
        if !scan.complete {
            // When none of them is finished, the same ones would be found again.
            let wait = if self.ready.is_empty() {
                SETTLING
            } else {
                Duration::ZERO
            };
            self.next_scan = Instant::now() + wait;
        }
    }

    fn queue_finished(&mut self, found: Vec<Found>, trust: Trust) {
        let now = now();
        for file in found {
            if self.settling.observe(&file, now, trust) {
                self.ready.push_back(Ready {
                    path: file.path,
                    print: Some(file.print),
                });
            }
        }
    }

    fn on_change(&mut self, change: Change) {
        match change {
            Change::Complete(file) => {
                let Ok(path) = file.strip_prefix(&self.place.root) else {
                    return;
                };
                if self.place.filter.takes(path) {
                    self.ready.push_back(Ready {
                        path: path.into(),
                        print: None,
                    });
                }
            }
            // Not at once: the folder's watch must stand first, or files would fall between.
            Change::NewFolder => self.next_scan = self.next_scan.min(Instant::now() + SETTLING),
            Change::Missed => self.next_scan = Instant::now(),
            Change::RootGone => {
                tracing::warn!(folder = %self.place.root.display(), "the folder is gone; it is looked for again");
                self.lose_watch();
                self.next_scan = self.next_scan.min(Instant::now() + SETTLING);
            }
        }
    }

    fn lose_watch(&mut self) {
        self.watch = None;
        self.watch_lost = true;
    }

    fn is_done(&self) -> bool {
        self.once == Some(Once::Scanned) && self.work.is_none() && self.settling.is_empty()
    }
}

#[async_trait]
impl Capture for FolderSource {
    async fn next(&mut self) -> Result<Option<Captured>, CaptureError> {
        loop {
            if let Some(captured) = self.take_ready().await {
                return Ok(Some(captured));
            }
            if self.is_done() {
                return Ok(None);
            }
            self.begin_work();
            let wake = match (self.once, self.settling.due()) {
                (Some(Once::Scanned), Some(due)) => due,
                (_, Some(due)) => due.min(self.next_scan),
                (_, None) => self.next_scan,
            };
            let change = async {
                match &mut self.watch {
                    Some(watch) => watch.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = wait_for(&mut self.work) => {
                    self.work = None;
                    // A look that failed by a panic is made again when it is due.
                    if let Some(work) = done {
                        self.end_work(work)?;
                    }
                }
                change = change => self.on_change(change),
                () = sleep_until(wake), if self.work.is_none() => {}
            }
        }
    }

    fn is_finite(&self) -> bool {
        self.once.is_some()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // A panic while it is held leaves at worst a file that is taken twice.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: UnixNanos::now(),
    }
}

/// Waits for work, if there is any; `None` if it panicked.
async fn wait_for(work: &mut Option<JoinHandle<Work>>) -> Option<Work> {
    match work {
        Some(work) => work
            .await
            .inspect_err(|error| tracing::error!(%error, "looking at the folder failed"))
            .ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
