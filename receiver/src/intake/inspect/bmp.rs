//! BMP (Windows bitmap): two headers, then as many bytes as they announce.

use super::Finding;
use super::walk::{Next, Walk, u16_le, u32_le};

#[derive(Debug, Clone, Default)]
pub(super) struct Bmp {
    state: State,
    /// Size that the file header states; some writers leave it zero.
    file_size: u64,
    /// Where the pixels begin.
    pixels_at: u64,
    width: u32,
    height: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    FileHeader,
    /// The rest of the 12-byte header of OS/2.
    Core,
    /// The first 40 bytes of all later headers.
    Info,
    Pixels,
}

impl Bmp {
    /// Skips to the end of the file: the one stated or, if that is further, that of the pixels.
    fn pixels(&mut self, bits: u16, compressed: bool, end: u64) -> Result<Next, Finding> {
        if !compressed && !matches!(bits, 1 | 2 | 4 | 8 | 16 | 24 | 32 | 64) {
            return Err(Finding::corrupt(format!(
                "the BMP image has {bits} bits in a pixel"
            )));
        }
        if self.pixels_at < end {
            return Err(Finding::corrupt(format!(
                "the BMP pixels begin at offset {}, within the headers",
                self.pixels_at
            )));
        }
        let mut file_end = self.file_size.max(self.pixels_at);
        if !compressed {
            // Rows are padded to four bytes. At most 2^32 * 64 / 32 * 4 * 2^31 < 2^66: saturates.
            let row = (u64::from(self.width) * u64::from(bits)).div_ceil(32) * 4;
            let pixels = row.saturating_mul(u64::from(self.height));
            file_end = file_end.max(self.pixels_at.saturating_add(pixels));
        }
        self.state = State::Pixels;
        Ok(Next::Take {
            skip: file_end.saturating_sub(end),
            take: 0,
        })
    }
}

impl Walk for Bmp {
    fn step(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        match self.state {
            State::FileHeader => {
                self.file_size = u64::from(u32_le(bytes, 2));
                self.pixels_at = u64::from(u32_le(bytes, 10));
                match u32_le(bytes, 14) {
                    12 => {
                        self.state = State::Core;
                        Ok(Next::take(8))
                    }
                    40..=255 => {
                        self.state = State::Info;
                        Ok(Next::take(36))
                    }
                    size => Err(Finding::corrupt(format!(
                        "the BMP header says that it is {size} bytes long; 12 or 40 to 255 are possible"
                    ))),
                }
            }
            State::Core => {
                self.width = u32::from(u16_le(bytes, 0));
                self.height = u32::from(u16_le(bytes, 2));
                self.pixels(u16_le(bytes, 6), false, end)
            }
            State::Info => {
                // Both are signed; a negative height means that the first row is the top one.
                let width = u32_le(bytes, 0);
                if width > i32::MAX as u32 {
                    return Err(Finding::corrupt("the BMP image has a negative width"));
                }
                self.width = width;
                self.height = u32_le(bytes, 4).cast_signed().unsigned_abs();
                let compressed = !matches!(u32_le(bytes, 12), 0 | 3 | 6);
                self.pixels(u16_le(bytes, 10), compressed, end)
            }
            State::Pixels => Ok(Next::Done),
        }
    }

    fn place(&self) -> String {
        match self.state {
            State::Pixels => "in its pixels".to_owned(),
            _ => "in its headers".to_owned(),
        }
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }
}
