//! Looks at an image while it streams by: format, dimensions, a proper end.
//!
//! Each format has a walk that hops from length field to length field (`walk`), so that an image
//! of any size is seen through with a few hundred bytes of memory. What follows the end of an image
//! (a camera's preview, the film of a motion photo, padding) belongs to nobody and is let pass, as
//! decoders do; what is missing before it is found.

use shared::receipt::RejectReason;

mod bmp;
mod decode;
mod gif;
mod jpeg;
mod kind;
mod png;
mod pnm;
mod tiff;
mod timed;
mod walk;
mod webp;

pub use decode::{decode_fully, takes_too_long};

use kind::{Kind, Sniffed};
use walk::Walker;

/// What was found in an image's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// For example `jpeg`.
    pub format: &'static str,
    /// Ending of a file name, for example `jpg`.
    pub extension: &'static str,
    /// For example `image/jpeg`.
    pub media_type: &'static str,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// Why the bytes are not a proper image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Kind of problem: not-an-image, truncated-image, mislabelled, corrupt-image or empty; limit
    /// for an image that is too large to be decoded, or takes too long.
    pub reason: RejectReason,
    /// What is wrong, with its figures.
    pub message: String,
}

impl Finding {
    fn new(reason: RejectReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    fn corrupt(message: impl Into<String>) -> Self {
        Self::new(RejectReason::CorruptImage, message)
    }

    fn truncated(message: impl Into<String>) -> Self {
        Self::new(RejectReason::TruncatedImage, message)
    }
}

/// Fed with all bytes of an image in order. Cloning it is a checkpoint, and cheap.
#[derive(Debug, Clone)]
pub struct Inspector {
    stage: Stage,
    /// Bytes seen.
    total: u64,
}

#[derive(Debug, Clone)]
enum Stage {
    /// Gathers the first bytes, by which the format is told.
    Sniffing(Vec<u8>),
    Walking(Kind, Walker),
    /// The first bytes, of nothing known.
    Unknown(Vec<u8>),
}

impl Default for Inspector {
    fn default() -> Self {
        Self {
            stage: Stage::Sniffing(Vec::new()),
            total: 0,
        }
    }
}

impl Inspector {
    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.total = self.total.saturating_add(data.len() as u64);
        let mut rest = data;
        if let Stage::Sniffing(head) = &mut self.stage {
            let (taken, after) = rest.split_at(rest.len().min(kind::HEAD_BYTES - head.len()));
            head.extend_from_slice(taken);
            rest = after;
            if head.len() == kind::HEAD_BYTES {
                self.stage = recognise(std::mem::take(head));
            }
        }
        if let Stage::Walking(_, walker) = &mut self.stage {
            walker.update(rest);
        }
    }

    /// What the image is, given the media type that its sender declared.
    ///
    /// # Errors
    /// When the bytes are not a whole image of the declared kind.
    pub fn finish(&self, declared: Option<&str>) -> Result<Facts, Finding> {
        if self.total == 0 {
            return Err(Finding::new(RejectReason::Empty, "the image has no bytes"));
        }
        let short;
        let stage = match &self.stage {
            Stage::Sniffing(head) => {
                short = recognise(head.clone());
                &short
            }
            stage => stage,
        };
        let (kind, walker) = match stage {
            Stage::Walking(kind, walker) => (*kind, walker),
            Stage::Sniffing(head) | Stage::Unknown(head) => {
                return Err(kind::unknown(head, self.total, declared));
            }
        };
        let (width, height) = walker.finish(kind, self.total)?;
        if width == 0 || height == 0 {
            return Err(Finding::corrupt(format!(
                "the {} image is {width} x {height} pixels large, so there is nothing to see",
                kind.name()
            )));
        }
        kind.check_declared(declared)?;
        Ok(Facts {
            format: kind.format(),
            extension: kind.extension(),
            media_type: kind.media_type(),
            width,
            height,
        })
    }
}

/// Starts the walk of the format that the first bytes show.
fn recognise(head: Vec<u8>) -> Stage {
    match kind::sniff(&head) {
        Sniffed::Known(kind) => {
            let mut walker = Walker::new(kind);
            walker.update(&head);
            Stage::Walking(kind, walker)
        }
        Sniffed::Unknown => Stage::Unknown(head),
    }
}

#[cfg(test)]
mod tests;
