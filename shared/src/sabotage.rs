//! Five ways to break the promises of the product on purpose, so that the proof of them can be seen
//! to fail (docs/proof.md).
//!
//! Nothing of this is in a program that was built without the feature `sabotage`: there [`is`] is
//! `false` at compile time. With it, the environment variable `PANTELEGRAPH_SABOTAGE` names what is
//! broken.

/// A promise that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The receiver gives the receipt before the file is synced.
    AckBeforeSync,
    /// The receiver does not sync the folder that the image was moved into.
    SkipFolderSync,
    /// The outbox gives a sequence number a second time after a restart.
    ReuseSequence,
    /// The receiver does not look whether it has an image already.
    ForgetDuplicates,
    /// The outbox drops an image without an entry in the ledger.
    DropLoss,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::AckBeforeSync,
        Self::SkipFolderSync,
        Self::ReuseSequence,
        Self::ForgetDuplicates,
        Self::DropLoss,
    ];

    /// The word in `PANTELEGRAPH_SABOTAGE`.
    pub fn key(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::SkipFolderSync => "skip-folder-sync",
            Self::ReuseSequence => "reuse-sequence",
            Self::ForgetDuplicates => "forget-duplicates",
            Self::DropLoss => "drop-loss",
        }
    }
}

/// Whether this promise is to be broken.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn is(_promise: Sabotage) -> bool {
    false
}

/// Whether this promise is to be broken.
#[cfg(feature = "sabotage")]
pub fn is(promise: Sabotage) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("PANTELEGRAPH_SABOTAGE").ok());
    chosen.as_deref() == Some(promise.key())
}
