//! TIFF 6.0 and BigTIFF: the first directory, wherever it lies, and what it says of its whereabouts.
//!
//! The pixels may lie anywhere, before the directory too, so a cut among them is found only as far
//! as the directory tells: the ends of its values and of a picture in a single strip.

use super::Finding;
use super::walk::{Next, Walk, u16_be, u16_le, u32_be, u32_le};

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const STRIP_OFFSETS: u16 = 273;
const STRIP_BYTES: u16 = 279;

#[derive(Debug, Clone, Default)]
pub(super) struct Tiff {
    state: State,
    big_endian: bool,
    /// BigTIFF: counts and offsets of eight bytes.
    wide: bool,
    entries_left: u64,
    width: u32,
    height: u32,
    strip_at: Option<u64>,
    strip_bytes: Option<u64>,
    /// The furthest byte that the directory points to.
    extent: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Header,
    /// The second half of BigTIFF's header.
    WideHeader,
    /// The number of entries.
    Count,
    Entry,
    Extent,
}

impl Tiff {
    fn u16(&self, bytes: &[u8], at: usize) -> u16 {
        if self.big_endian {
            u16_be(bytes, at)
        } else {
            u16_le(bytes, at)
        }
    }

    fn u32(&self, bytes: &[u8], at: usize) -> u32 {
        if self.big_endian {
            u32_be(bytes, at)
        } else {
            u32_le(bytes, at)
        }
    }

    fn u64(&self, bytes: &[u8], at: usize) -> u64 {
        let (first, second) = (self.u32(bytes, at), self.u32(bytes, at + 4));
        let (high, low) = if self.big_endian {
            (first, second)
        } else {
            (second, first)
        };
        u64::from(high) << 32 | u64::from(low)
    }

    /// A count or offset.
    fn word(&self, bytes: &[u8], at: usize) -> u64 {
        if self.wide {
            self.u64(bytes, at)
        } else {
            u64::from(self.u32(bytes, at))
        }
    }

    fn directory(&mut self, at: u64, end: u64) -> Result<Next, Finding> {
        let Some(skip) = at.checked_sub(end) else {
            return Err(Finding::corrupt(format!(
                "the TIFF image has its directory at offset {at}, within its header"
            )));
        };
        self.state = State::Count;
        Ok(Next::Take {
            skip,
            take: if self.wide { 8 } else { 2 },
        })
    }

    fn entry(&mut self, bytes: &[u8]) {
        let tag = self.u16(bytes, 0);
        let kind = self.u16(bytes, 2);
        let count = self.word(bytes, 4);
        let value_at = if self.wide { 12 } else { 8 };
        let inline = bytes.len() - value_at;
        let size = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            // Readers skip entries of types that they do not know.
            _ => return,
        };
        let length = count.saturating_mul(size);
        if length > inline as u64 {
            let end = self.word(bytes, value_at).saturating_add(length);
            self.extent = self.extent.max(end);
            return;
        }
        if count != 1 {
            return;
        }
        let value = match kind {
            3 => u64::from(self.u16(bytes, value_at)),
            4 => u64::from(self.u32(bytes, value_at)),
            16 => self.u64(bytes, value_at),
            _ => return,
        };
        // A number that does not fit is no number of pixels; zero is refused later.
        let pixels = u32::try_from(value).unwrap_or(0);
        match tag {
            WIDTH => self.width = pixels,
            HEIGHT => self.height = pixels,
            STRIP_OFFSETS => self.strip_at = Some(value),
            STRIP_BYTES => self.strip_bytes = Some(value),
            _ => {}
        }
    }

    fn after_entries(&mut self, end: u64) -> Next {
        if let (Some(at), Some(length)) = (self.strip_at, self.strip_bytes) {
            self.extent = self.extent.max(at.saturating_add(length));
        }
        // The offset of the next directory ends this one.
        self.extent = self.extent.max(end + if self.wide { 8 } else { 4 });
        self.state = State::Extent;
        Next::Take {
            skip: self.extent.saturating_sub(end),
            take: 0,
        }
    }
}

impl Walk for Tiff {
    fn step(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        match self.state {
            State::Header => {
                self.big_endian = bytes[0] == b'M';
                self.wide = self.u16(bytes, 2) == 43;
                if self.wide {
                    self.state = State::WideHeader;
                    return Ok(Next::take(8));
                }
                self.directory(u64::from(self.u32(bytes, 4)), end)
            }
            State::WideHeader => self.directory(self.u64(bytes, 0), end),
            State::Count => {
                self.entries_left = if self.wide {
                    self.u64(bytes, 0)
                } else {
                    u64::from(self.u16(bytes, 0))
                };
                if !(1..=u64::from(u16::MAX)).contains(&self.entries_left) {
                    return Err(Finding::corrupt(format!(
                        "the TIFF directory before offset {end} has {} entries",
                        self.entries_left
                    )));
                }
                self.state = State::Entry;
                Ok(Next::take(if self.wide { 20 } else { 12 }))
            }
            State::Entry => {
                self.entry(bytes);
                self.entries_left -= 1;
                if self.entries_left == 0 {
                    return Ok(self.after_entries(end));
                }
                Ok(Next::take(bytes.len()))
            }
            State::Extent => Ok(Next::Done),
        }
    }

    fn place(&self) -> String {
        match self.state {
            State::Header | State::WideHeader => "in its header".to_owned(),
            State::Count => "before its directory".to_owned(),
            State::Entry => "in its directory".to_owned(),
            State::Extent => format!(
                "before offset {}, to which its directory points",
                self.extent
            ),
        }
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }
}
