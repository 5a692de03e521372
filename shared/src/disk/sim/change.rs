//! What happens to a file between two syncs.

use bytes::Bytes;

use super::random::Random;

/// A change of a file's bytes.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Data { offset: usize, bytes: Bytes },
    Length(usize),
}

impl Change {
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length, 0),
            Self::Data { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
        }
    }

    /// A part of a write, from one byte to another.
    pub(super) fn torn(&self, random: &mut Random) -> Self {
        match self {
            Self::Length(length) => Self::Length(*length),
            Self::Data { offset, bytes } => {
                let from = random.below(bytes.len() + 1);
                let to = from + random.below(bytes.len() - from + 1);
                Self::Data {
                    offset: offset + from,
                    bytes: bytes.slice(from..to),
                }
            }
        }
    }
}
