//! Bytes that wait for a blocking thread.

use bytes::{Bytes, BytesMut};
use shared::chunk::SMALL;

/// Bytes that wait for a blocking thread. Small pieces are copied together, lest one keeps a large
/// network buffer alive and a batch becomes thousands of slices.
#[derive(Default)]
pub(super) struct Batch {
    pieces: Vec<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Batch {
    /// Bytes in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, piece: &Bytes) {
        self.len += piece.len();
        if piece.len() < SMALL {
            self.tail.extend_from_slice(piece);
        } else {
            self.close_tail();
            self.pieces.push(piece.clone());
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
    }

    pub(super) fn truncate(&mut self, length: usize) {
        self.close_tail();
        let mut left = length;
        self.pieces.retain_mut(|piece| {
            piece.truncate(left);
            left -= piece.len();
            !piece.is_empty()
        });
        self.len = self.len.min(length);
    }

    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.close_tail();
        self.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_piece_does_not_keep_the_buffer_alive_that_it_was_cut_from() {
        let mut batch = Batch::default();
        for _ in 0..10 {
            let buffer = Bytes::from(vec![7; 256 << 10]);
            batch.push(&buffer.slice(..SMALL - 1));
            assert!(buffer.is_unique());
        }
        let whole = Bytes::from(vec![8; 256 << 10]);
        batch.push(&whole);
        assert!(!whole.is_unique(), "a large one is not copied");
        assert_eq!(batch.len(), 10 * (SMALL - 1) + whole.len());
        assert_eq!(batch.finish().len(), 2);
    }
}
