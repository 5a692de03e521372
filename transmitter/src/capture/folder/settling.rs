//! Decides when a file that a scan found has been written to its end.
//!
//! Nothing tells that directly. A file counts as finished when it was seen twice, a settling
//! period apart, with the same size and time of modification, and that time is not of just now.
//! There is no clock here.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use shared::clock::UnixNanos;
use tokio::time::Instant;

use super::scan::{Fingerprint, Found};

/// Files that may still be written.
#[derive(Debug)]
pub(super) struct Settling {
    period: Duration,
    waiting: HashMap<Box<Path>, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    print: Fingerprint,
    due: Instant,
}

/// The time, on the clock that waits and on the clock that dates files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: UnixNanos,
}

/// Whether a file that has not been modified for a period is finished at first sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    Age,
    Nothing,
}

impl Settling {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            period,
            waiting: HashMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A look at a file: whether it is finished. If not, it is to be looked at again.
    pub(super) fn observe(&mut self, file: &Found, now: Now, trust: Trust) -> bool {
        let age = i128::from(now.wall.0) - i128::from(file.print.modified);
        let period = self.period.as_nanos() as i128;
        // A time in the future says nothing but that some clock is wrong.
        let is_recent = (0..period).contains(&age);
        let due = now.instant + self.period;
        let finished = match self.waiting.get_mut(&file.path) {
            _ if trust == Trust::Age && age >= period => true,
            Some(waiting) if waiting.print == file.print => {
                let over = now.instant >= waiting.due;
                if over && is_recent {
                    waiting.due = due;
                }
                over && !is_recent
            }
            Some(waiting) => {
                *waiting = Waiting {
                    print: file.print,
                    due,
                };
                false
            }
            None => {
                self.waiting.insert(
                    file.path.clone(),
                    Waiting {
                        print: file.print,
                        due,
                    },
                );
                false
            }
        };
        if finished {
            self.forget(&file.path);
        }
        finished
    }

    /// The file is gone, or was taken.
    pub(super) fn forget(&mut self, path: &Path) {
        self.waiting.remove(path);
    }

    /// When a file is to be looked at again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.due).min()
    }

    /// The files that are to be looked at again now.
    pub(super) fn due_files(&self, now: Instant) -> Vec<Box<Path>> {
        let due = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.due <= now);
        due.map(|(path, _)| path.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    fn found(size: u64, modified_ms: i64) -> Found {
        let print = Fingerprint {
            size,
            modified: modified_ms * 1_000_000,
            inode: 1,
        };
        Found {
            path: Path::new("a").into(),
            print,
        }
    }

    /// Invented times, in ms since the beginning, which is `1e9` ms on the wall.
    fn clock() -> impl Fn(u64) -> Now {
        let start = Instant::now();
        move |ms| Now {
            instant: start + Duration::from_millis(ms),
            wall: UnixNanos((1_000_000_000 + ms as i64) * 1_000_000),
        }
    }

    #[test]
    fn a_file_is_finished_when_it_stays_the_same_for_a_period() {
        let (at, mut settling) = (clock(), Settling::new(PERIOD));
        let old = found(5, 0);
        assert!(!settling.observe(&old, at(0), Trust::Nothing));
        assert!(!settling.observe(&old, at(999), Trust::Nothing));
        assert_eq!(settling.due(), Some(at(1000).instant));
        assert!(settling.observe(&old, at(1000), Trust::Nothing));
        assert!(settling.is_empty());
    }

    #[test]
    fn a_file_that_grows_waits_anew() {
        let (at, mut settling) = (clock(), Settling::new(PERIOD));
        settling.observe(&found(5, 0), at(0), Trust::Nothing);
        assert!(!settling.observe(&found(6, 0), at(1000), Trust::Nothing));
        assert!(settling.due_files(at(1999).instant).is_empty());
        assert_eq!(settling.due_files(at(2000).instant).len(), 1);
        assert!(settling.observe(&found(6, 0), at(2000), Trust::Nothing));
    }

    #[test]
    fn a_file_that_was_modified_just_now_waits() {
        let (at, mut settling) = (clock(), Settling::new(PERIOD));
        let fresh = found(5, 1_000_000_000);
        for trust in [Trust::Age, Trust::Nothing] {
            assert!(!settling.observe(&fresh, at(500), trust));
        }
        assert!(settling.observe(&fresh, at(1500), Trust::Nothing));
        // The clock that waits runs ahead of the one that dates: the date counts too.
        let rewritten = found(6, 1_000_001_200);
        settling.observe(&rewritten, at(1500), Trust::Nothing);
        let ahead = Now {
            instant: at(2500).instant,
            wall: at(1900).wall,
        };
        assert!(!settling.observe(&rewritten, ahead, Trust::Nothing));
        assert!(settling.observe(&rewritten, at(3500), Trust::Nothing));
    }

    #[test]
    fn age_is_trusted_only_when_asked_for_and_when_it_is_one() {
        let (at, mut settling) = (clock(), Settling::new(PERIOD));
        assert!(settling.observe(&found(5, 999_999_000), at(0), Trust::Age));
        assert!(!settling.observe(&found(5, 999_999_001), at(0), Trust::Age));
        let future = found(5, 2_000_000_000);
        assert!(!settling.observe(&future, at(0), Trust::Age));
        assert!(
            settling.observe(&future, at(1000), Trust::Age),
            "a wrong clock is no obstacle"
        );
    }

    #[test]
    fn a_file_that_is_forgotten_is_not_due() {
        let (at, mut settling) = (clock(), Settling::new(PERIOD));
        settling.observe(&found(5, 0), at(0), Trust::Nothing);
        settling.forget(Path::new("a"));
        assert_eq!(settling.due(), None);
    }
}
