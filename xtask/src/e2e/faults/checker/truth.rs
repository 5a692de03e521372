//! What was there to be captured, known by whoever made it.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// Everything that a source offers, by SHA-256 of the content. Each content is offered once.
#[derive(Default)]
pub(crate) struct Truth(BTreeMap<[u8; 32], Known>);

/// One image.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// For people.
    pub(crate) label: String,
    /// Its digests, as receipts and ledgers name them.
    pub(crate) xxh3: [u8; 16],
    pub(crate) blake3: [u8; 32],
    /// A source that asks again offers it until it is captured. Without, the programs may never
    /// have seen it: they say what was captured.
    pub(crate) is_sure: bool,
    /// It is an image from its first byte to its last; what is not is kept apart.
    pub(crate) is_proper: bool,
}

impl Truth {
    /// The source offers `bytes`.
    pub(crate) fn add(
        &mut self,
        label: impl Into<String>,
        bytes: &[u8],
        is_sure: bool,
        is_proper: bool,
    ) -> Known {
        let known = Known {
            label: label.into(),
            xxh3: twox_hash::XxHash3_128::oneshot(bytes).to_be_bytes(),
            blake3: *blake3::hash(bytes).as_bytes(),
            is_sure,
            is_proper,
        };
        self.0.insert(sha256(bytes), known.clone());
        known
    }

    pub(super) fn get(&self, content: &[u8; 32]) -> Option<&Known> {
        self.0.get(content)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&[u8; 32], &Known)> {
        self.0.iter()
    }
}

impl Known {
    /// Whether it has this digest.
    pub(super) fn is(&self, digest: &[u8]) -> bool {
        digest == self.xxh3 || digest == self.blake3
    }

    /// Whether a line of `--receipts` is about it.
    pub(crate) fn is_named_in(&self, line: &str) -> bool {
        line.contains(&super::hex(&self.xxh3)) || line.contains(&super::hex(&self.blake3))
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Whether `bytes` have this digest, whose length tells its algorithm.
pub(super) fn has_digest(bytes: &[u8], digest: &[u8]) -> bool {
    match digest.len() {
        16 => twox_hash::XxHash3_128::oneshot(bytes).to_be_bytes() == digest,
        32 => blake3::hash(bytes).as_bytes() == digest,
        _ => false,
    }
}
