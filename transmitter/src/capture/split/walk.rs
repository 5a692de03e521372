//! Walks through the structure of one image, as far as its bytes have come.
//!
//! Each walk keeps its place, so that no byte is looked at twice however small the pieces are.

/// How a look at the bytes of an image ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The image has this many bytes.
    End(usize),
    /// It goes on; it has at least this many bytes.
    More(usize),
    /// It breaks its format. The next image may begin this many bytes from its start.
    Bad(usize),
}

#[derive(Debug)]
pub(super) enum Recognised {
    Image(Walk),
    NotYet,
    No,
}

#[derive(Debug)]
pub(super) enum Walk {
    Jpeg(Jpeg),
    Png(Png),
    WebP { size: usize },
    Gif(Gif),
}

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Where an image may begin.
pub(super) fn find_first_byte(bytes: &[u8]) -> Option<usize> {
    let first = memchr::memchr3(0xFF, 0x89, b'R', bytes);
    memchr::memchr(b'G', &bytes[..first.unwrap_or(bytes.len())]).or(first)
}

impl Walk {
    /// What the bytes begin with.
    pub(super) fn recognise(bytes: &[u8]) -> Recognised {
        let begins = |signature: &[u8]| {
            let both = bytes.len().min(signature.len());
            bytes[..both] == signature[..both]
        };
        let (walk, needed) = if begins(b"\xFF\xD8\xFF") {
            (
                Self::Jpeg(Jpeg {
                    at: 2,
                    phase: JpegPhase::Header,
                }),
                3,
            )
        } else if begins(PNG_SIGNATURE) {
            (
                Self::Png(Png {
                    at: PNG_SIGNATURE.len(),
                }),
                PNG_SIGNATURE.len(),
            )
        } else if begins(b"GIF87a") || begins(b"GIF89a") {
            (
                Self::Gif(Gif {
                    at: 0,
                    phase: GifPhase::Header,
                }),
                6,
            )
        } else if begins(b"RIFF") {
            match bytes.get(..16) {
                Some(head) if &head[8..15] == b"WEBPVP8" && b" LX".contains(&head[15]) => {
                    let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
                    (
                        Self::WebP {
                            size: (size as usize).saturating_add(8),
                        },
                        16,
                    )
                }
                Some(_) => return Recognised::No,
                None => return Recognised::NotYet,
            }
        } else {
            return Recognised::No;
        };
        if bytes.len() < needed {
            Recognised::NotYet
        } else {
            Recognised::Image(walk)
        }
    }

    pub(super) fn media_type(&self) -> &'static str {
        match self {
            Self::Jpeg(_) => "image/jpeg",
            Self::Png(_) => "image/png",
            Self::WebP { .. } => "image/webp",
            Self::Gif(_) => "image/gif",
        }
    }

    /// Goes on through all bytes of the image so far; the same bytes and more each time.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        match self {
            Self::Jpeg(jpeg) => jpeg.step(bytes),
            Self::Png(png) => png.step(bytes),
            // The first chunk's header alone is longer.
            Self::WebP { size } if *size < 20 => Step::Bad(1),
            Self::WebP { size } => end_at(*size, bytes),
            Self::Gif(gif) => gif.step(bytes),
        }
    }
}

fn end_at(size: usize, bytes: &[u8]) -> Step {
    if bytes.len() < size {
        Step::More(size)
    } else {
        Step::End(size)
    }
}

/// ITU-T T.81, annex B.
#[derive(Debug)]
pub(super) struct Jpeg {
    at: usize,
    phase: JpegPhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JpegPhase {
    /// At a marker before the first scan.
    Header,
    /// At a marker after a scan: a progressive image goes on with tables and scans.
    BetweenScans,
    /// In entropy-coded data.
    Scan,
}

impl Jpeg {
    fn step(&mut self, bytes: &[u8]) -> Step {
        loop {
            if self.phase == JpegPhase::Scan {
                let Some(rest) = bytes.get(self.at..) else {
                    return Step::More(self.at);
                };
                match memchr::memchr(0xFF, rest) {
                    Some(offset) => self.at += offset,
                    None => {
                        self.at = bytes.len();
                        return Step::More(self.at);
                    }
                }
            }
            let Some(&[first, code]) = bytes.get(self.at..self.at + 2) else {
                return Step::More(self.at + 2);
            };
            match (first, code) {
                // Any number of fill bytes may come before a marker's code.
                (0xFF, 0xFF) => self.at += 1,
                // A stuffed byte of data, or a restart marker, which has no length.
                (0xFF, 0x00 | 0xD0..=0xD7) if self.phase == JpegPhase::Scan => self.at += 2,
                (0xFF, 0xD0..=0xD7) => self.at += 2,
                (0xFF, 0xD9) if self.phase != JpegPhase::Header => {
                    return Step::End(self.at + 2);
                }
                (0xFF, 0xC0..=0xCF | 0xDA..=0xFE) => {
                    let Some(&[high, low]) = bytes.get(self.at + 2..self.at + 4) else {
                        return Step::More(self.at + 4);
                    };
                    let length = usize::from(u16::from_be_bytes([high, low]));
                    if length < 2 {
                        return self.bad();
                    }
                    self.at += 2 + length;
                    self.phase = match (self.phase, code) {
                        (_, 0xDA) => JpegPhase::Scan,
                        (JpegPhase::Header, _) => JpegPhase::Header,
                        _ => JpegPhase::BetweenScans,
                    };
                }
                _ => return self.bad(),
            }
        }
    }

    /// After a scan has begun, what is behind was certainly part of this image: a new image
    /// where a marker was expected means that the rest of this one is missing. Before, it may
    /// never have been an image, and its supposed segments may hide the start of a real one.
    fn bad(&self) -> Step {
        Step::Bad(if self.phase == JpegPhase::Header {
            2
        } else {
            self.at
        })
    }
}

/// Portable Network Graphics, section 5.3: length, type, data, CRC.
#[derive(Debug)]
pub(super) struct Png {
    at: usize,
}

impl Png {
    fn step(&mut self, bytes: &[u8]) -> Step {
        loop {
            let Some(head) = bytes.get(self.at..self.at + 8) else {
                return Step::More(self.at + 12);
            };
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let kind = &head[4..];
            let first = self.at == PNG_SIGNATURE.len();
            let plausible = length <= i32::MAX as u32
                && kind.iter().all(u8::is_ascii_alphabetic)
                && first == (kind == b"IHDR")
                && (!first || length == 13);
            if !plausible {
                return Step::Bad(1);
            }
            let next = (self.at + 12).saturating_add(length as usize);
            if kind == b"IEND" {
                return end_at(next, bytes);
            }
            self.at = next;
        }
    }
}

/// GIF89a, appendix B.
#[derive(Debug)]
pub(super) struct Gif {
    at: usize,
    phase: GifPhase,
}

#[derive(Debug, Clone, Copy)]
enum GifPhase {
    Header,
    Block,
    SubBlocks,
}

impl Gif {
    fn step(&mut self, bytes: &[u8]) -> Step {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            match self.phase {
                GifPhase::Header => {
                    let Some(flags) = rest.get(10) else {
                        return Step::More(14);
                    };
                    self.at += 13 + color_table(*flags);
                    self.phase = GifPhase::Block;
                }
                GifPhase::Block => match rest.first() {
                    Some(0x3B) => return Step::End(self.at + 1),
                    // An extension: its label, then sub-blocks.
                    Some(0x21) => {
                        self.at += 2;
                        self.phase = GifPhase::SubBlocks;
                    }
                    // An image: its descriptor, colours and code size, then sub-blocks.
                    Some(0x2C) => {
                        let Some(flags) = rest.get(9) else {
                            return Step::More(self.at + 12);
                        };
                        self.at += 10 + color_table(*flags) + 1;
                        self.phase = GifPhase::SubBlocks;
                    }
                    Some(_) => return Step::Bad(1),
                    None => return Step::More(self.at + 1),
                },
                GifPhase::SubBlocks => {
                    let Some(length) = rest.first() else {
                        return Step::More(self.at + 2);
                    };
                    self.at += 1 + usize::from(*length);
                    if *length == 0 {
                        self.phase = GifPhase::Block;
                    }
                }
            }
        }
    }
}

/// Bytes of the colour table that the flags announce.
fn color_table(flags: u8) -> usize {
    if flags & 0x80 == 0 {
        0
    } else {
        3 << ((flags & 7) + 1)
    }
}
