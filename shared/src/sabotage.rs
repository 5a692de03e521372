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
    CHOSEN.get() == Some(&promise)
}

#[cfg(feature = "sabotage")]
static CHOSEN: std::sync::OnceLock<Sabotage> = std::sync::OnceLock::new();

/// Chooses what this process breaks, once, by the word in `PANTELEGRAPH_SABOTAGE`; nothing when it
/// is empty.
///
/// # Errors
/// When there is no such promise.
#[cfg(feature = "sabotage")]
pub fn choose(word: &str) -> Result<(), String> {
    if word.is_empty() {
        return Ok(());
    }
    let chosen = Sabotage::ALL
        .into_iter()
        .find(|promise| promise.key() == word)
        .ok_or_else(|| format!("PANTELEGRAPH_SABOTAGE: there is no promise {word:?}"))?;
    // A second choice would be one too many.
    let _ = CHOSEN.set(chosen);
    Ok(())
}
