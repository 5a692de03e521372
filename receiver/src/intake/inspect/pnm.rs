//! Netpbm's P1 to P6: numbers in text, then samples, binary or in text.

use super::Finding;
use super::walk::{Next, Walk};

#[derive(Debug, Clone, Default)]
pub(super) struct Pnm {
    state: State,
    /// The digit of the magic number.
    variant: u8,
    /// Header numbers read so far: width, height, greatest value.
    numbers: [u32; 3],
    known: usize,
    /// The number that is being read.
    number: Option<u32>,
    in_comment: bool,
    /// Text variants: samples read so far, and whether one is being read.
    samples: u64,
    in_sample: bool,
    stray: Option<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Magic,
    Header,
    /// Samples in text up to the end of the data.
    Text,
    /// Binary samples.
    Binary,
}

impl Pnm {
    fn is_bitmap(&self) -> bool {
        matches!(self.variant, b'1' | b'4')
    }

    /// Samples of the image; at most 2^64.
    fn expected_samples(&self) -> u64 {
        let colours = if matches!(self.variant, b'3' | b'6') {
            3
        } else {
            1
        };
        u64::from(self.numbers[0])
            .saturating_mul(u64::from(self.numbers[1]))
            .saturating_mul(colours)
    }

    /// One byte of the header; a number ends with the white space behind it.
    fn header(&mut self, byte: u8, end: u64) -> Result<Next, Finding> {
        let unreadable = |what: &str| {
            Err(Finding::corrupt(format!(
                "the PNM header before offset {end} {what}"
            )))
        };
        match byte {
            b'\n' | b'\r' if self.in_comment => self.in_comment = false,
            _ if self.in_comment => {}
            b'0'..=b'9' => {
                let digit = u32::from(byte - b'0');
                let number = self.number.unwrap_or(0);
                match number
                    .checked_mul(10)
                    .and_then(|number| number.checked_add(digit))
                {
                    Some(number) => self.number = Some(number),
                    None => return unreadable("has a number that is too large"),
                }
            }
            b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C => {
                if let Some(number) = self.number.take() {
                    self.numbers[self.known] = number;
                    self.known += 1;
                    if self.known == if self.is_bitmap() { 2 } else { 3 } {
                        return self.samples();
                    }
                }
            }
            b'#' => self.in_comment = true,
            _ => return unreadable("has a character that is neither digit nor space"),
        }
        Ok(Next::take(1))
    }

    fn samples(&mut self) -> Result<Next, Finding> {
        let [width, _, greatest] = self.numbers;
        if !self.is_bitmap() && !(1..=65_535).contains(&greatest) {
            return Err(Finding::corrupt(format!(
                "the PNM image has {greatest} as its greatest value; 1 to 65535 are possible"
            )));
        }
        if self.variant <= b'3' {
            self.state = State::Text;
            self.in_comment = false;
            return Ok(Next::Take {
                skip: u64::MAX,
                take: 0,
            });
        }
        self.state = State::Binary;
        let skip = match self.variant {
            b'4' => u64::from(width.div_ceil(8)).saturating_mul(u64::from(self.numbers[1])),
            _ => self
                .expected_samples()
                .saturating_mul(if greatest > 255 { 2 } else { 1 }),
        };
        Ok(Next::Take { skip, take: 0 })
    }

    fn text(&mut self, byte: u8) {
        if self.in_comment {
            self.in_comment = !matches!(byte, b'\n' | b'\r');
            return;
        }
        match byte {
            // Bits of P1 need no space between them.
            b'0' | b'1' if self.is_bitmap() => self.samples += 1,
            b'0'..=b'9' if !self.is_bitmap() => {
                self.samples += u64::from(!self.in_sample);
                self.in_sample = true;
            }
            b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C => self.in_sample = false,
            b'#' => {
                self.in_sample = false;
                self.in_comment = true;
            }
            // What follows the picture is not looked at.
            _ if self.samples >= self.expected_samples() => {}
            _ => self.stray = self.stray.or(Some(byte)),
        }
    }
}

impl Walk for Pnm {
    fn step(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        match self.state {
            State::Magic => {
                self.variant = bytes[1];
                self.state = State::Header;
                Ok(Next::take(1))
            }
            State::Header => self.header(bytes[0], end),
            State::Text | State::Binary => Ok(Next::Done),
        }
    }

    fn pass(&mut self, skipped: &[u8]) {
        if self.state == State::Text {
            for byte in skipped {
                self.text(*byte);
            }
        }
    }

    fn place(&self) -> String {
        match self.state {
            State::Magic | State::Header => "in its header".to_owned(),
            State::Binary => "in its pixels".to_owned(),
            State::Text => {
                format!(
                    "with {} of its {} samples",
                    self.samples,
                    self.expected_samples()
                )
            }
        }
    }

    fn may_end(&self) -> Result<bool, Finding> {
        if let Some(byte) = self.stray {
            return Err(Finding::corrupt(format!(
                "the PNM image has {:?} among its samples",
                char::from(byte)
            )));
        }
        Ok(self.state == State::Text && self.samples >= self.expected_samples())
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.numbers[0], self.numbers[1])
    }
}
