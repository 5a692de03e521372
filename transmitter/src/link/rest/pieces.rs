//! How much of an image one request brings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of a request, for all connections of a link: a window, and less where the line does not
/// carry that much in one go. Of a request that breaks off nothing counts, so a line that breaks
/// before a window has passed would else never get anywhere.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    least: u64,
    most: u64,
    now: Arc<AtomicU64>,
}

impl Pieces {
    /// Between a chunk and a window.
    pub(super) fn new(chunk: u64, window: u64) -> Self {
        Self {
            least: chunk.min(window).max(1),
            most: window.max(1),
            now: Arc::new(AtomicU64::new(window.max(1))),
        }
    }

    /// Bytes of the next request.
    pub(super) fn size(&self) -> u64 {
        self.now.load(Relaxed)
    }

    /// The same if `len` bytes arrive before.
    pub(super) fn size_after(&self, len: u64) -> u64 {
        self.size().max(len.saturating_mul(2).min(self.most))
    }

    /// A request of `len` bytes was answered: twice as much may pass as well.
    pub(super) fn arrived(&self, len: u64) {
        let more = len.saturating_mul(2).min(self.most);
        self.now.fetch_max(more, Relaxed);
    }

    /// A request of `len` bytes broke off, or did not come as it was sent.
    pub(super) fn broke(&self, len: u64) {
        self.now.fetch_min((len / 2).max(self.least), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_shrink_to_a_chunk_and_grow_to_a_window() {
        let pieces = Pieces::new(1_000, 8_000);
        let mut sizes = Vec::new();
        for _ in 0..5 {
            sizes.push(pieces.size());
            pieces.broke(pieces.size());
        }
        assert_eq!(sizes, [8_000, 4_000, 2_000, 1_000, 1_000]);
        for _ in 0..5 {
            sizes.push(pieces.size());
            let after = pieces.size_after(pieces.size());
            pieces.arrived(pieces.size());
            assert_eq!(pieces.size(), after);
        }
        assert_eq!(sizes[5..], [1_000, 2_000, 4_000, 8_000, 8_000]);
    }

    #[test]
    fn connections_that_break_together_count_once_and_small_ends_mean_nothing() {
        let pieces = Pieces::new(1_000, 8_000);
        pieces.broke(8_000);
        pieces.broke(8_000);
        assert_eq!(pieces.size(), 4_000);
        pieces.arrived(10);
        assert_eq!(pieces.size(), 4_000);
    }

    #[test]
    fn a_window_below_a_chunk_is_kept() {
        let pieces = Pieces::new(1_000, 300);
        pieces.broke(300);
        assert_eq!(pieces.size(), 300);
    }
}
