//! The machine that all walks share: skip, gather a few bytes, let the format decide what is next.

use super::Finding;
use super::bmp::Bmp;
use super::gif::Gif;
use super::jpeg::Jpeg;
use super::kind::Kind;
use super::png::Png;
use super::pnm::Pnm;
use super::tiff::Tiff;
use super::webp::WebP;

/// What a format wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Skip bytes, then hand over the `take` bytes after them. `take` may be zero.
    Take { skip: u64, take: usize },
    /// Go on to the first byte of this value, then hand over the `take` bytes after it.
    Find { byte: u8, take: usize },
    /// The image is complete.
    Done,
}

impl Next {
    /// The next `take` bytes.
    pub(super) fn take(take: usize) -> Self {
        Self::Take { skip: 0, take }
    }
}

/// The structure of one format. No step asks for more than [`MAX_TAKE`] bytes.
pub(super) trait Walk {
    /// Looks at the bytes asked for, which end before offset `end` of the image.
    fn step(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding>;

    /// Sees skipped bytes, in pieces of any length.
    fn pass(&mut self, _skipped: &[u8]) {}

    /// Where in the image the walk is, for example `in chunk IDAT`.
    fn place(&self) -> String;

    /// Whether an image may end here although more was asked for.
    fn may_end(&self) -> Result<bool, Finding> {
        Ok(false)
    }

    /// Width and height in pixels, as far as they are known.
    fn dimensions(&self) -> (u32, u32);
}

/// Most bytes that one step gathers.
pub(super) const MAX_TAKE: usize = 64;

/// The walk of any format.
#[derive(Debug, Clone)]
pub(super) enum Walker {
    Jpeg(Feed<Jpeg>),
    /// Boxed, for the sum that it runs is several times the size of all the rest.
    Png(Box<Feed<Png>>),
    WebP(Feed<WebP>),
    Gif(Feed<Gif>),
    Bmp(Feed<Bmp>),
    Tiff(Feed<Tiff>),
    Pnm(Feed<Pnm>),
}

impl Walker {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Jpeg => Self::Jpeg(Feed::new(Jpeg::default(), 2)),
            Kind::Png => Self::Png(Box::new(Feed::new(Png::default(), 8))),
            Kind::WebP => Self::WebP(Feed::new(WebP::default(), 12)),
            Kind::Gif => Self::Gif(Feed::new(Gif::default(), 13)),
            Kind::Bmp => Self::Bmp(Feed::new(Bmp::default(), 18)),
            Kind::Tiff => Self::Tiff(Feed::new(Tiff::default(), 8)),
            Kind::Pnm => Self::Pnm(Feed::new(Pnm::default(), 2)),
        }
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Jpeg(feed) => feed.update(data),
            Self::Png(feed) => feed.update(data),
            Self::WebP(feed) => feed.update(data),
            Self::Gif(feed) => feed.update(data),
            Self::Bmp(feed) => feed.update(data),
            Self::Tiff(feed) => feed.update(data),
            Self::Pnm(feed) => feed.update(data),
        }
    }

    pub(super) fn finish(&self, kind: Kind, total: u64) -> Result<(u32, u32), Finding> {
        match self {
            Self::Jpeg(feed) => feed.finish(kind, total),
            Self::Png(feed) => feed.finish(kind, total),
            Self::WebP(feed) => feed.finish(kind, total),
            Self::Gif(feed) => feed.finish(kind, total),
            Self::Bmp(feed) => feed.finish(kind, total),
            Self::Tiff(feed) => feed.finish(kind, total),
            Self::Pnm(feed) => feed.finish(kind, total),
        }
    }
}

/// A walk with its place in the stream.
#[derive(Debug, Clone)]
pub(super) struct Feed<W> {
    walk: W,
    wanted: Wanted,
    /// Bytes of the present step that came in earlier pieces; at most [`MAX_TAKE`].
    gathered: Vec<u8>,
    /// Bytes consumed.
    at: u64,
}

#[derive(Debug, Clone)]
enum Wanted {
    Take { skip: u64, take: usize },
    Find { byte: u8, take: usize },
    Done,
    Failed(Finding),
}

impl<W: Walk> Feed<W> {
    fn new(walk: W, first: usize) -> Self {
        let wanted = Wanted::Take {
            skip: 0,
            take: first,
        };
        Self {
            walk,
            wanted,
            gathered: Vec::new(),
            at: 0,
        }
    }

    fn update(&mut self, mut data: &[u8]) {
        loop {
            match self.wanted {
                Wanted::Done | Wanted::Failed(_) => return,
                Wanted::Find { byte, take } => {
                    let Some(found) = memchr::memchr(byte, data) else {
                        self.at += data.len() as u64;
                        return;
                    };
                    self.at += found as u64 + 1;
                    data = &data[found + 1..];
                    self.wanted = Wanted::Take { skip: 0, take };
                }
                Wanted::Take { skip, take } if skip > 0 => {
                    let count = usize::try_from(skip).unwrap_or(usize::MAX).min(data.len());
                    if count == 0 {
                        return;
                    }
                    let (skipped, rest) = data.split_at(count);
                    self.walk.pass(skipped);
                    self.at += count as u64;
                    data = rest;
                    self.wanted = Wanted::Take {
                        skip: skip - count as u64,
                        take,
                    };
                }
                Wanted::Take { take, .. } => {
                    let Some(rest) = self.gather(data, take) else {
                        return;
                    };
                    data = rest;
                }
            }
        }
    }

    /// Gathers up to `take` bytes and makes the step when they are there; the bytes behind them.
    fn gather<'a>(&mut self, data: &'a [u8], take: usize) -> Option<&'a [u8]> {
        let (piece, rest) = data.split_at(data.len().min(take - self.gathered.len()));
        self.at += piece.len() as u64;
        // Most steps find their bytes in one piece, which saves the copy.
        let next = if self.gathered.is_empty() && piece.len() == take {
            self.walk.step(piece, self.at)
        } else {
            self.gathered.extend_from_slice(piece);
            if self.gathered.len() < take {
                return None;
            }
            let next = self.walk.step(&self.gathered, self.at);
            self.gathered.clear();
            next
        };
        self.wanted = match next {
            Ok(Next::Take { skip, take }) => {
                debug_assert!(take <= MAX_TAKE, "a step asks for {take} bytes");
                Wanted::Take { skip, take }
            }
            Ok(Next::Find { byte, take }) => Wanted::Find { byte, take },
            Ok(Next::Done) => Wanted::Done,
            Err(finding) => Wanted::Failed(finding),
        };
        Some(rest)
    }

    fn finish(&self, kind: Kind, total: u64) -> Result<(u32, u32), Finding> {
        match &self.wanted {
            Wanted::Failed(finding) => return Err(finding.clone()),
            Wanted::Done => {}
            wanted if !self.walk.may_end()? => {
                let lacks = match wanted {
                    Wanted::Take { skip, take } => {
                        skip.saturating_add((take - self.gathered.len()) as u64)
                    }
                    _ => 0,
                };
                let lacks = match lacks {
                    0 => String::new(),
                    count => format!("; at least {count} bytes are missing"),
                };
                return Err(Finding::truncated(format!(
                    "the {} image breaks off after {total} bytes, {}{lacks}",
                    kind.name(),
                    self.walk.place()
                )));
            }
            _ => {}
        }
        Ok(self.walk.dimensions())
    }
}

/// The number in two little-endian bytes at `at`.
pub(super) fn u16_le(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The number in two big-endian bytes at `at`.
pub(super) fn u16_be(bytes: &[u8], at: usize) -> u16 {
    u16_le(bytes, at).swap_bytes()
}

/// The number in three little-endian bytes at `at`.
pub(super) fn u24_le(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0])
}

/// The number in four little-endian bytes at `at`.
pub(super) fn u32_le(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The number in four big-endian bytes at `at`.
pub(super) fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32_le(bytes, at).swap_bytes()
}
