//! What was begun and has no answer yet, over whichever connection.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use shared::image::ImageId;

/// Images that are remembered at most; beyond, the one that was begun longest ago is forgotten and
/// sent from its first byte. A receiver keeps no more than so many, either.
pub const MAX_UNFINISHED: usize = 1_024;

/// Images that were begun over any connection and have no answer yet.
#[derive(Debug, Clone, Default)]
pub struct UnfinishedImages(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    images: HashMap<ImageId, Begun>,
    by_mark: BTreeMap<u64, ImageId>,
    next_mark: u64,
}

#[derive(Debug)]
struct Begun {
    mark: u64,
    /// Every byte before this one was sent at least once.
    reached: u64,
}

impl UnfinishedImages {
    /// The image is about to be sent. What a receiver said of it before is out of date from now on,
    /// which [`UnfinishedImages::mark`] tells.
    pub fn begin(&self, id: ImageId) {
        let mut state = self.0.lock();
        let mark = state.next_mark;
        state.next_mark += 1;
        let former = state.images.remove(&id);
        if let Some(former) = &former {
            state.by_mark.remove(&former.mark);
        }
        let reached = former.map_or(0, |former| former.reached);
        state.images.insert(id, Begun { mark, reached });
        state.by_mark.insert(mark, id);
        if state.images.len() > MAX_UNFINISHED
            && let Some((_, oldest)) = state.by_mark.pop_first()
        {
            state.images.remove(&oldest);
        }
    }

    /// Number of the last attempt to send the image; `None` when none was made since its answer.
    pub fn mark(&self, id: ImageId) -> Option<u64> {
        self.0.lock().images.get(&id).map(|begun| begun.mark)
    }

    /// `len` bytes from `offset` on are sent; how many of them had been sent before.
    pub fn sent(&self, id: ImageId, offset: u64, len: u64) -> u64 {
        let mut state = self.0.lock();
        let Some(begun) = state.images.get_mut(&id) else {
            return 0;
        };
        let again = begun.reached.saturating_sub(offset).min(len);
        begun.reached = begun.reached.max(offset + len);
        again
    }

    /// The image has its answer, or will not be sent again.
    pub fn end(&self, id: ImageId) {
        let mut state = self.0.lock();
        if let Some(begun) = state.images.remove(&id) {
            state.by_mark.remove(&begun.mark);
        }
    }

    /// All of them with their marks, at most [`MAX_UNFINISHED`], the one begun last first.
    pub fn list(&self) -> Vec<(ImageId, u64)> {
        let state = self.0.lock();
        let newest_first = state.by_mark.iter().rev();
        newest_first.map(|(mark, id)| (*id, *mark)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_were_sent_before_are_told_from_new_ones_until_the_answer() {
        let (unfinished, id) = (UnfinishedImages::default(), ImageId::new());
        assert_eq!(unfinished.sent(id, 0, 10), 0, "not begun");
        unfinished.begin(id);
        assert_eq!(unfinished.sent(id, 0, 10), 0);
        unfinished.begin(id);
        assert_eq!(unfinished.sent(id, 4, 10), 6);
        assert_eq!(unfinished.sent(id, 14, 10), 0);
        assert_eq!(unfinished.sent(id, 0, 5), 5);
        unfinished.end(id);
        unfinished.begin(id);
        assert_eq!(unfinished.sent(id, 0, 10), 0);
    }

    #[test]
    fn every_attempt_has_a_mark_of_its_own() {
        let (unfinished, id) = (UnfinishedImages::default(), ImageId::new());
        assert_eq!(unfinished.mark(id), None);
        unfinished.begin(id);
        let first = unfinished.mark(id);
        unfinished.begin(id);
        assert!(first.is_some() && unfinished.mark(id) > first);
        unfinished.end(id);
        assert_eq!(unfinished.mark(id), None);
    }

    #[test]
    fn of_too_many_images_the_one_begun_longest_ago_is_forgotten() {
        let unfinished = UnfinishedImages::default();
        let ids: Vec<ImageId> = (0..=MAX_UNFINISHED).map(|_| ImageId::new()).collect();
        for id in &ids {
            unfinished.begin(*id);
        }
        let listed: Vec<ImageId> = unfinished.list().iter().map(|(id, _)| *id).collect();
        let expected: Vec<ImageId> = ids[1..].iter().rev().copied().collect();
        assert_eq!(listed, expected);
        assert_eq!(unfinished.0.lock().images.len(), MAX_UNFINISHED);
    }
}
