//! Which format it is, by its first bytes and by the media type declared.

use shared::receipt::RejectReason;

use super::Finding;

/// First bytes that are looked at.
pub(super) const HEAD_BYTES: usize = 32;

/// What a sender is told to send instead.
const SUPPORTED: &str = "JPEG, PNG, WebP, GIF, BMP, TIFF or PNM";

/// Longest part of a declared media type that a message repeats, in characters.
const DECLARED_SHOWN: usize = 64;

/// A format that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
    Pnm,
}

/// What the first bytes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sniffed {
    Known(Kind),
    Unknown,
}

impl Kind {
    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Pnm => "PNM",
        }
    }

    pub(super) fn format(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
            Self::Pnm => "pnm",
        }
    }

    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Tiff => "tif",
            other => other.format(),
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
            Self::Tiff => "image/tiff",
            Self::Pnm => "image/x-portable-anymap",
        }
    }

    /// The format with this `format` word.
    pub(super) fn from_format(format: &str) -> Option<Self> {
        [
            Self::Jpeg,
            Self::Png,
            Self::WebP,
            Self::Gif,
            Self::Bmp,
            Self::Tiff,
            Self::Pnm,
        ]
        .into_iter()
        .find(|kind| kind.format() == format)
    }

    /// The format that a media type names, old and unofficial names included.
    fn from_media_type(media_type: &str) -> Option<Self> {
        Some(match media_type.strip_prefix("image/")? {
            "jpeg" | "jpg" | "pjpeg" | "jpe" | "jfif" | "x-jpeg" | "x-jpg" | "mpo" => Self::Jpeg,
            "png" | "x-png" | "apng" | "vnd.mozilla.apng" => Self::Png,
            "webp" | "x-webp" => Self::WebP,
            "gif" | "x-gif" => Self::Gif,
            "bmp" | "x-bmp" | "x-ms-bmp" | "x-windows-bmp" | "x-bitmap" | "dib" => Self::Bmp,
            "tiff" | "tif" | "x-tiff" | "x-tif" | "tiff-fx" => Self::Tiff,
            "x-portable-anymap" | "x-portable-bitmap" | "x-portable-graymap"
            | "x-portable-greymap" | "x-portable-pixmap" | "x-pnm" | "x-pbm" | "x-pgm"
            | "x-ppm" => Self::Pnm,
            _ => return None,
        })
    }

    /// # Errors
    /// When the sender declared an image of another format.
    pub(super) fn check_declared(self, declared: Option<&str>) -> Result<(), Finding> {
        let Some(media_type) = declared.and_then(declared_image) else {
            return Ok(());
        };
        if Self::from_media_type(&media_type) == Some(self) {
            return Ok(());
        }
        Err(Finding::new(
            RejectReason::Mislabelled,
            format!(
                "declared as {}, but the bytes are {}; declare {} or nothing",
                media_type.escape_debug(),
                self.name(),
                self.media_type()
            ),
        ))
    }
}

/// The image type in a declaration, in lower case and without parameters. Types that say nothing,
/// such as `application/octet-stream`, and those that a client adds by itself, such as curl's
/// `application/x-www-form-urlencoded`, are no declarations of an image.
fn declared_image(declared: &str) -> Option<String> {
    let essence = declared.split(';').next().unwrap_or_default().trim();
    let image =
        essence.get(..6)?.eq_ignore_ascii_case("image/") && !matches!(&essence[6..], "" | "*");
    image.then(|| {
        essence
            .chars()
            .take(DECLARED_SHOWN)
            .collect::<String>()
            .to_ascii_lowercase()
    })
}

/// Tells the format by the first bytes; `head` is shorter than [`HEAD_BYTES`] only if that is all.
pub(super) fn sniff(head: &[u8]) -> Sniffed {
    let begins = |magic: &[u8], least: usize| {
        let compared = magic.len().min(head.len());
        head.len() >= least && head[..compared] == magic[..compared]
    };
    let kind = if begins(&[0xFF, 0xD8, 0xFF], 2) {
        Kind::Jpeg
    } else if begins(b"\x89PNG\r\n\x1A\n", 3) {
        Kind::Png
    } else if begins(b"RIFF", 4) && is_webp(head) {
        Kind::WebP
    } else if begins(b"GIF89a", 3) || begins(b"GIF87a", 3) {
        Kind::Gif
    } else if begins(b"II*\0", 3)
        || begins(b"MM\0*", 3)
        || begins(b"II+\0", 3)
        || begins(b"MM\0+", 3)
    {
        Kind::Tiff
    } else if begins(b"BM", 2) && is_bitmap(head) {
        Kind::Bmp
    } else if let [b'P', b'1'..=b'6', b' ' | b'\t' | b'\r' | b'\n' | b'#', ..] = head {
        Kind::Pnm
    } else {
        return Sniffed::Unknown;
    };
    Sniffed::Known(kind)
}

/// Whether a RIFF container holds WebP, or is too short to say.
fn is_webp(head: &[u8]) -> bool {
    let name = head.get(8..head.len().min(12)).unwrap_or_default();
    b"WEBP".starts_with(name)
}

/// "BM" begins many a text; a bitmap's second header states a small size.
fn is_bitmap(head: &[u8]) -> bool {
    match head.get(14..18) {
        Some(size) => size[1..] == [0, 0, 0],
        None => !is_text(head),
    }
}

/// The finding for bytes of no known format.
pub(super) fn unknown(head: &[u8], total: u64, declared: Option<&str>) -> Finding {
    let looks = describe(head);
    let declared = declared.and_then(declared_image);
    let message = match declared {
        Some(media_type) if Kind::from_media_type(&media_type).is_none() => format!(
            "declared as {}, which is not supported; the first of {total} bytes look like {looks}; send {SUPPORTED}",
            media_type.escape_debug()
        ),
        _ => format!(
            "not an image of a known format: the first of {total} bytes look like {looks}; send {SUPPORTED}"
        ),
    };
    Finding::new(RejectReason::NotAnImage, message)
}

fn describe(head: &[u8]) -> String {
    let brand = head.get(8..12).unwrap_or_default();
    let known = match head {
        _ if head.iter().all(|byte| *byte == 0) => "nothing but zeros",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => match brand {
            b"avif" | b"avis" => "an AVIF image",
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => "a HEIF image",
            _ => "an MP4 film",
        },
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "a JPEG XL image",
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] => "a JPEG 2000 image",
        [b'P', b'7', b'\n', ..] => "a PAM image",
        [0, 0, 1, 0, ..] => "an icon",
        [b'8', b'B', b'P', b'S', ..] => "a Photoshop document",
        [b'%', b'P', b'D', b'F', ..] => "a PDF document",
        [b'P', b'K', 3, 4, ..] => "a ZIP archive",
        [0x1F, 0x8B, ..] => "gzip data",
        [0xFF, 0xD9, ..] => "the end of a JPEG image",
        _ => return describe_text(head),
    };
    known.to_owned()
}

fn describe_text(head: &[u8]) -> String {
    if !is_text(head) {
        return head
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x} "))
            .collect::<String>()
            + "in hexadecimal";
    }
    let text = String::from_utf8_lossy(head)
        .trim_start_matches('\u{FEFF}')
        .trim_start()
        .to_lowercase();
    let kind = if text.starts_with("<!doctype html") || text.starts_with("<html") {
        "an HTML page"
    } else if text.starts_with("<svg") {
        "an SVG drawing"
    } else if text.starts_with("<?xml") {
        "an XML document"
    } else if text.starts_with('{') || text.starts_with('[') {
        "JSON"
    } else {
        "text"
    };
    format!("{kind} (\"{}\")", head[..head.len().min(16)].escape_ascii())
}

/// Whether the bytes are UTF-8 without control characters but white space; the last character may
/// be cut.
fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.is_empty()
        && !valid
            .chars()
            .any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}
