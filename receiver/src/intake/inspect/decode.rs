//! Decodes the whole picture, for those who set verification to `full`.

use std::io::{BufRead, ErrorKind, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Instant;

use image::{ImageError, ImageFormat, ImageReader, Limits};
use shared::receipt::RejectReason;

use super::kind::Kind;
use super::timed::Timed;
use super::{Facts, Finding};

/// Bytes of a decoded pixel at most: four channels of 16 bits, and as much again for working space.
const BYTES_PER_PIXEL: u64 = 16;

/// Working space that the smallest picture may need.
const WORKING_SPACE: u64 = 16 << 20;

/// Longest part of a decoder's complaint that a message repeats, in characters.
const COMPLAINT_SHOWN: usize = 200;

/// Decodes all of an image, of an animation the first picture. `facts` are those of its
/// [`Inspector`](super::Inspector). Needs memory for the pixels, and for JPEG as much again as the
/// image has bytes. Decoders that take their bytes as they need them get none after `until`.
///
/// # Errors
/// Limit when the picture has more than `max_pixels`, checked before anything is decoded, or its time
/// was over;
/// truncated-image when its data end too early; corrupt-image when the decoder finds any other
/// fault, or does not support the variant.
pub fn decode_fully(
    reader: impl BufRead + Seek,
    facts: &Facts,
    max_pixels: u64,
    until: Instant,
) -> Result<(), Finding> {
    let Some(kind) = Kind::from_format(facts.format) else {
        return Err(Finding::corrupt(format!(
            "there is no decoder for {}",
            facts.format
        )));
    };
    check_pixels(kind, facts.width, facts.height, max_pixels)?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(facts.width);
    limits.max_image_height = Some(facts.height);
    // Of a small picture no more than a small one needs, however many pixels are allowed.
    let pixels = u64::from(facts.width) * u64::from(facts.height);
    limits.max_alloc = Some(
        pixels
            .saturating_mul(BYTES_PER_PIXEL)
            .saturating_add(WORKING_SPACE),
    );
    let (reader, is_over) = Timed::new(reader, until);
    // Decoders meet whatever the network brings. A panic in one of them is a fault found in the
    // image, not a reason to lose the task; nothing of the decoder is used afterwards.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let mut reader = ImageReader::with_format(reader, format(kind));
        reader.limits(limits);
        reader
            .decode()
            .map(|picture| (picture.width(), picture.height()))
    }));
    match decoded {
        // Whatever it has made of that.
        Ok(Err(_)) | Err(_) if is_over.load(Ordering::Relaxed) => Err(takes_too_long(facts)),
        Ok(Ok(size)) if size == (facts.width, facts.height) => Ok(()),
        Ok(Ok((width, height))) => Err(Finding::corrupt(format!(
            "the {} image decodes to {width} x {height} pixels, but its header says {} x {}",
            kind.name(),
            facts.width,
            facts.height
        ))),
        Ok(Err(error)) => Err(finding(kind, &error)),
        Err(_) => Err(Finding::corrupt(format!(
            "the {} image makes its decoder fail",
            kind.name()
        ))),
    }
}

/// An image that could not be decoded in time. It is quarantined like one with too many pixels.
pub fn takes_too_long(facts: &Facts) -> Finding {
    Finding::new(
        RejectReason::Limit,
        format!(
            "the {} image of {} x {} takes longer to be decoded than RECEIVER_DECODE_TIMEOUT; raise that or set RECEIVER_VERIFY=header",
            facts.format, facts.width, facts.height
        ),
    )
}

fn check_pixels(kind: Kind, width: u32, height: u32, max_pixels: u64) -> Result<(), Finding> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels <= max_pixels {
        return Ok(());
    }
    Err(Finding::new(
        RejectReason::Limit,
        format!(
            "the {} image of {width} x {height} has {pixels} pixels; the receiver decodes {max_pixels} at most; raise RECEIVER_MAX_PIXELS or set RECEIVER_VERIFY=header",
            kind.name()
        ),
    ))
}

fn format(kind: Kind) -> ImageFormat {
    match kind {
        Kind::Jpeg => ImageFormat::Jpeg,
        Kind::Png => ImageFormat::Png,
        Kind::WebP => ImageFormat::WebP,
        Kind::Gif => ImageFormat::Gif,
        Kind::Bmp => ImageFormat::Bmp,
        Kind::Tiff => ImageFormat::Tiff,
        Kind::Pnm => ImageFormat::Pnm,
    }
}

fn finding(kind: Kind, error: &ImageError) -> Finding {
    let name = kind.name();
    let complaint: String = error.to_string().chars().take(COMPLAINT_SHOWN).collect();
    match error {
        ImageError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => Finding::truncated(
            format!("the {name} image has too little data to be decoded"),
        ),
        ImageError::Limits(_) => Finding::new(
            RejectReason::Limit,
            format!(
                "the {name} image needs more memory to be decoded than RECEIVER_MAX_PIXELS allows: {complaint}"
            ),
        ),
        ImageError::Unsupported(_) => Finding::corrupt(format!(
            "the decoder does not support this kind of {name} image: {complaint}; set RECEIVER_VERIFY=header to take it unseen"
        )),
        _ => Finding::corrupt(format!("the {name} image cannot be decoded: {complaint}")),
    }
}
