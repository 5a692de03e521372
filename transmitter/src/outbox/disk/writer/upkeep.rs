//! What the writer does when there is nothing else to do: forgets marks of files that are gone, and
//! gets the ballast back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Writer;
use crate::outbox::disk::files;
use crate::outbox::disk::index::IndexError;
use crate::outbox::disk::job::Step;

/// Time before the first look at the marks.
const FIRST: Duration = Duration::from_secs(60);
/// Time between looks at all marks.
const PAUSE: Duration = Duration::from_secs(3_600);
/// Time between slices of one look.
const BETWEEN: Duration = Duration::from_millis(100);
/// Marks in a slice.
const SLICE: usize = 512;

pub(super) struct Upkeep {
    due: Instant,
    /// The mark that was looked at last.
    after: Option<u128>,
}

impl Upkeep {
    pub(super) fn new() -> Self {
        Self {
            due: Instant::now() + FIRST,
            after: None,
        }
    }

    pub(super) fn due(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }
}

impl Writer {
    pub(super) fn upkeep(&mut self) {
        if !self.upkeep.due().is_zero() {
            return;
        }
        if !self.core.ballast.is_held() {
            // As long as there is no space, it is asked for before each new image, too.
            let _ = self.core.ballast.hold();
        }
        let pause = match self.prune_marks() {
            Ok(true) => BETWEEN,
            Ok(false) => PAUSE,
            Err(error) => {
                tracing::debug!("marks of files that are gone stay for now: {error}");
                PAUSE
            }
        };
        self.upkeep.due = Instant::now() + pause;
    }

    /// Looks at some marks; whether there are more.
    pub(in crate::outbox) fn prune_marks(&mut self) -> Result<bool, IndexError> {
        let after = self.upkeep.after;
        let marks = self.core.index.read(|view| view.marks(after, SLICE))?;
        self.upkeep.after = match marks.last() {
            Some((key, _)) if marks.len() == SLICE => Some(*key),
            _ => None,
        };
        let mut folders = HashMap::new();
        let gone: Vec<Step> = marks
            .iter()
            .filter(|(_, mark)| self.is_gone(&mark.path, &mut folders))
            .map(|(key, _)| Step::Unmark(*key))
            .collect();
        if !gone.is_empty() {
            self.commit(&gone)?;
        }
        Ok(self.upkeep.after.is_some())
    }

    /// Whether a file is gone for good. When its whole folder is empty or away, a medium was taken
    /// out or a file system is not mounted: then it may come back.
    fn is_gone(&self, path: &Path, folders: &mut HashMap<PathBuf, bool>) -> bool {
        if path.as_os_str().is_empty() || !matches!(self.core.disk.length(path), Ok(None)) {
            return false;
        }
        files::is_inhabited(&*self.core.disk, path, folders)
    }
}
