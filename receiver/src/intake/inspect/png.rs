//! PNG (W3C Recommendation, third edition): chunk by chunk to IEND, with the checksums of those
//! chunks that the picture depends on.

use crc_fast::{CrcAlgorithm, Digest};

use super::Finding;
use super::walk::{Next, Walk, u32_be};

/// Lengths and dimensions go up to 2^31 - 1.
const MAX_NUMBER: u32 = i32::MAX as u32;

#[derive(Debug, Clone, Default)]
pub(super) struct Png {
    state: State,
    chunk: [u8; 4],
    /// Running sum of a critical chunk.
    sum: Option<Digest>,
    data: bool,
    width: u32,
    height: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Signature,
    First,
    Chunk,
    Header,
    /// The sum behind a chunk.
    Sum,
}

impl Png {
    fn name(&self) -> String {
        self.chunk.escape_ascii().to_string()
    }

    fn chunk(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        let length = u32_be(bytes, 0);
        self.chunk.copy_from_slice(&bytes[4..8]);
        if !self.chunk.iter().all(u8::is_ascii_alphabetic) {
            return Err(Finding::corrupt(format!(
                "the PNG chunk before offset {end} has no proper name: {}",
                self.name()
            )));
        }
        let limit = if &self.chunk == b"IEND" {
            0
        } else {
            MAX_NUMBER
        };
        if length > limit {
            return Err(Finding::corrupt(format!(
                "the PNG chunk {} before offset {end} says that it is {length} bytes long; it may have {limit} at most",
                self.name()
            )));
        }
        // An upper-case first letter marks what a decoder cannot do without.
        self.sum = self.chunk[0].is_ascii_uppercase().then(|| {
            let mut sum = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
            sum.update(&self.chunk);
            sum
        });
        if self.state == State::First {
            if &self.chunk != b"IHDR" || length != 13 {
                return Err(Finding::corrupt(format!(
                    "the first PNG chunk is {} of {length} bytes instead of IHDR of 13",
                    self.name()
                )));
            }
            self.state = State::Header;
            return Ok(Next::take(17));
        }
        match &self.chunk {
            b"IHDR" => {
                return Err(Finding::corrupt(format!(
                    "a second PNG header at offset {end}"
                )));
            }
            b"IEND" if !self.data => {
                return Err(Finding::corrupt("the PNG image ends without a picture"));
            }
            b"IDAT" => self.data = true,
            _ => {}
        }
        self.state = State::Sum;
        Ok(Next::Take {
            skip: u64::from(length),
            take: 4,
        })
    }

    fn check_sum(&self, stated: u32, end: u64) -> Result<(), Finding> {
        let Some(sum) = &self.sum else { return Ok(()) };
        let computed = sum.finalize();
        if computed == u64::from(stated) {
            return Ok(());
        }
        Err(Finding::corrupt(format!(
            "the PNG chunk {} before offset {end} is damaged: its checksum is {computed:08x} instead of {stated:08x}",
            self.name()
        )))
    }
}

impl Walk for Png {
    fn step(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        match self.state {
            State::Signature => {
                self.state = State::First;
                Ok(Next::take(8))
            }
            State::First | State::Chunk => self.chunk(bytes, end),
            State::Header => {
                self.pass(&bytes[..13]);
                self.check_sum(u32_be(bytes, 13), end)?;
                self.width = u32_be(bytes, 0);
                self.height = u32_be(bytes, 4);
                if self.width > MAX_NUMBER || self.height > MAX_NUMBER {
                    return Err(Finding::corrupt(format!(
                        "the PNG image says that it is {} x {} pixels large; either may be {MAX_NUMBER} at most",
                        self.width, self.height
                    )));
                }
                self.state = State::Chunk;
                Ok(Next::take(8))
            }
            State::Sum => {
                self.check_sum(u32_be(bytes, 0), end)?;
                if &self.chunk == b"IEND" {
                    return Ok(Next::Done);
                }
                self.state = State::Chunk;
                Ok(Next::take(8))
            }
        }
    }

    fn pass(&mut self, skipped: &[u8]) {
        if let Some(sum) = &mut self.sum {
            sum.update(skipped);
        }
    }

    fn place(&self) -> String {
        match self.state {
            State::Signature | State::First => "before its header".to_owned(),
            State::Chunk => "between two chunks".to_owned(),
            State::Header | State::Sum => format!("in chunk {}", self.name()),
        }
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }
}
