//! WebP (RFC 9649): RIFF chunks within the length that the container states.

use super::Finding;
use super::walk::{Next, Walk, u16_le, u24_le, u32_le};

#[derive(Debug, Clone, Default)]
pub(super) struct WebP {
    state: State,
    /// Offset at which the container ends.
    container_end: u64,
    /// Offset at which the present chunk ends, padding included.
    chunk_end: u64,
    /// The container has a canvas, so frames do not set the dimensions.
    canvas: bool,
    picture: bool,
    width: u32,
    height: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Container,
    Chunk,
    /// First bytes of a `VP8 ` chunk.
    Lossy,
    /// First bytes of a `VP8L` chunk.
    Lossless,
    /// A `VP8X` chunk.
    Extended,
    /// The present chunk is behind.
    After,
}

impl WebP {
    fn chunk(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        let name = &bytes[..4];
        let size = u64::from(u32_le(bytes, 4));
        let data_end = end + size;
        if data_end > self.container_end {
            return Err(Finding::corrupt(format!(
                "the WebP chunk {} before offset {end} ends at {data_end}, behind the end of its container at {}",
                name.escape_ascii(),
                self.container_end
            )));
        }
        // Chunks are padded to even lengths; the last one may do without if its container ends.
        self.chunk_end = (data_end + (size & 1)).min(self.container_end);
        let first = self.state == State::Chunk && end == 20;
        let (state, head) = match name {
            b"VP8 " if !self.picture => (State::Lossy, 10),
            b"VP8L" if !self.picture => (State::Lossless, 5),
            b"VP8X" if first => (State::Extended, 10),
            _ if first => {
                return Err(Finding::corrupt(format!(
                    "the first WebP chunk is {} instead of VP8, VP8L or VP8X",
                    name.escape_ascii()
                )));
            }
            b"ANMF" => {
                self.picture = true;
                (State::After, 0)
            }
            _ => (State::After, 0),
        };
        self.state = state;
        if size < head {
            return Err(Finding::corrupt(format!(
                "the WebP chunk {} before offset {end} is {size} bytes long, less than its header",
                name.escape_ascii()
            )));
        }
        if head == 0 {
            return Ok(self.rest(end));
        }
        // Heads are 10 bytes at most.
        Ok(Next::take(head as usize))
    }

    /// Skips what is left of the chunk.
    fn rest(&mut self, end: u64) -> Next {
        self.state = State::After;
        Next::Take {
            skip: self.chunk_end - end,
            take: 0,
        }
    }

    fn next_chunk(&mut self, end: u64) -> Result<Next, Finding> {
        // Less than a chunk's head left: padding.
        if self.container_end - end >= 8 {
            self.state = State::Chunk;
            return Ok(Next::take(8));
        }
        if !self.picture {
            return Err(Finding::corrupt("the WebP image ends without a picture"));
        }
        if end < self.container_end {
            return Ok(Next::Take {
                skip: self.container_end - end,
                take: 0,
            });
        }
        Ok(Next::Done)
    }

    fn lossy(&mut self, bytes: &[u8]) -> Result<(), Finding> {
        if bytes[0] & 1 != 0 || bytes[3..6] != [0x9D, 0x01, 0x2A] {
            return Err(Finding::corrupt(
                "the WebP picture does not begin with a key frame",
            ));
        }
        // The two highest bits are a scaling hint.
        let size = |at| u32::from(u16_le(bytes, at) & 0x3FFF);
        self.picture(size(6), size(8));
        Ok(())
    }

    fn lossless(&mut self, bytes: &[u8]) -> Result<(), Finding> {
        if bytes[0] != 0x2F {
            return Err(Finding::corrupt(
                "the lossless WebP picture lacks its signature",
            ));
        }
        let bits = u32_le(bytes, 1);
        self.picture((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1);
        Ok(())
    }

    fn picture(&mut self, width: u32, height: u32) {
        self.picture = true;
        if !self.canvas {
            (self.width, self.height) = (width, height);
        }
    }
}

impl Walk for WebP {
    fn step(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        match self.state {
            State::Container => {
                self.container_end = 8 + u64::from(u32_le(bytes, 4));
                if self.container_end < end + 8 {
                    return Err(Finding::corrupt(format!(
                        "the WebP container says that it ends at offset {}, before its first chunk",
                        self.container_end
                    )));
                }
                self.state = State::Chunk;
                return Ok(Next::take(8));
            }
            State::Chunk => return self.chunk(bytes, end),
            State::After => return self.next_chunk(end),
            State::Lossy => self.lossy(bytes)?,
            State::Lossless => self.lossless(bytes)?,
            State::Extended => {
                self.canvas = true;
                self.width = u24_le(bytes, 4) + 1;
                self.height = u24_le(bytes, 7) + 1;
            }
        }
        Ok(self.rest(end))
    }

    fn place(&self) -> String {
        match self.state {
            State::Container => "in its header".to_owned(),
            _ => format!("before the end of its container at {}", self.container_end),
        }
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }
}
