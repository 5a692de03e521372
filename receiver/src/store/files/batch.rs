//! Bytes that wait for a blocking thread.

use bytes::{Bytes, BytesMut};

/// Pieces below this size are copied together, lest a small piece keeps a large network buffer
/// alive and a batch becomes thousands of slices.
const SMALL: usize = 4 << 10;

/// Bytes that wait for a blocking thread.
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
