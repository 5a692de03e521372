//! GIF (version 89a specification): block by block to the trailer.

use super::Finding;
use super::walk::{Next, Walk, u16_le};

#[derive(Debug, Clone, Default)]
pub(super) struct Gif {
    state: State,
    frames: u64,
    width: u32,
    height: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Header,
    /// The byte that says what kind of block follows.
    Introducer,
    Extension,
    Frame,
    /// The minimum code size before a frame's data.
    CodeSize,
    /// The length of a sub-block.
    SubBlock,
}

/// Bytes of the colour table that these flags announce.
fn colour_table(flags: u8) -> u64 {
    if flags & 0x80 == 0 {
        0
    } else {
        3 << ((flags & 7) + 1)
    }
}

impl Gif {
    fn then(&mut self, state: State, skip: u64, take: usize) -> Result<Next, Finding> {
        self.state = state;
        Ok(Next::Take { skip, take })
    }
}

impl Walk for Gif {
    fn step(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        match (self.state, bytes[0]) {
            (State::Header, _) => {
                self.width = u32::from(u16_le(bytes, 6));
                self.height = u32::from(u16_le(bytes, 8));
                self.then(State::Introducer, colour_table(bytes[10]), 1)
            }
            (State::Introducer, b',') => self.then(State::Frame, 0, 9),
            (State::Introducer, b'!') => self.then(State::Extension, 0, 1),
            (State::Introducer, b';') if self.frames == 0 => {
                Err(Finding::corrupt("the GIF image ends without a picture"))
            }
            (State::Introducer, b';') => Ok(Next::Done),
            // A surplus block terminator; decoders skip it.
            (State::Introducer, 0) => Ok(Next::take(1)),
            (State::Introducer, other) => Err(Finding::corrupt(format!(
                "the GIF image has a block of unknown kind {other:02X} before offset {end}"
            ))),
            (State::Frame, _) => {
                self.frames += 1;
                self.then(State::CodeSize, colour_table(bytes[8]), 1)
            }
            (State::CodeSize, size) if !(1..=11).contains(&size) => Err(Finding::corrupt(format!(
                "the GIF picture before offset {end} has codes of {size} bits; 1 to 11 are possible"
            ))),
            (State::Extension | State::CodeSize, _) => self.then(State::SubBlock, 0, 1),
            (State::SubBlock, 0) => self.then(State::Introducer, 0, 1),
            (State::SubBlock, length) => self.then(State::SubBlock, u64::from(length), 1),
        }
    }

    fn place(&self) -> String {
        match self.state {
            State::Header => "in its header".to_owned(),
            _ => format!("in or behind picture {}, before its trailer", self.frames),
        }
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }
}
