//! Looks at an image while it streams by: format, dimensions, a proper end.

use shared::receipt::RejectReason;

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
    /// Kind of problem: not-an-image, truncated-image, mislabelled, corrupt-image or empty.
    pub reason: RejectReason,
    /// What is wrong, with its figures.
    pub message: String,
}

/// Fed with all bytes of an image in order. Cloning it is a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Inspector {}

impl Inspector {
    /// Takes the next bytes.
    pub fn update(&mut self, _data: &[u8]) {}

    /// What the image is, given the media type that its sender declared.
    ///
    /// # Errors
    /// When the bytes are not a whole image of the declared kind.
    pub fn finish(&self, _declared: Option<&str>) -> Result<Facts, Finding> {
        Ok(Facts { format: "", extension: "bin", media_type: "", width: 0, height: 0 })
    }
}

/// Decodes the whole image.
///
/// # Errors
/// When it cannot be decoded.
pub fn decode_fully(
    _reader: impl std::io::BufRead + std::io::Seek,
    _facts: &Facts,
    _max_pixels: u64,
) -> Result<(), Finding> {
    Ok(())
}
