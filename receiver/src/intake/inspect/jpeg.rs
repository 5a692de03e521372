//! JPEG (ITU-T T.81, annex B): marker segments by their lengths, entropy-coded data marker by marker.
//!
//! In entropy-coded data FF is always followed by 00 or a restart marker, so the next other marker
//! found there is a true one. A preview within a metadata segment is skipped with the segment, so
//! its end marker is never mistaken for that of the image.

use super::Finding;
use super::walk::{Next, Walk, u16_be};

const START_OF_IMAGE: u8 = 0xD8;
const END_OF_IMAGE: u8 = 0xD9;
const START_OF_SCAN: u8 = 0xDA;
const DEFINE_LINES: u8 = 0xDC;

/// Stray bytes let pass before the first scan. Some cameras pad their segments, and decoders only
/// warn of it; but what has many is no JPEG.
const MAX_STRAY: u64 = 4096;

#[derive(Debug, Clone, Default)]
pub(super) struct Jpeg {
    state: State,
    /// A frame header was seen.
    frame: bool,
    /// A scan was begun.
    scan: bool,
    /// Where the last segment ended, as long as no scan was begun.
    segment_end: u64,
    stray: u64,
    width: u32,
    height: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    /// The byte after FF.
    Marker,
    /// Length and, of those that matter, the first bytes of this marker's segment.
    Segment(u8),
    /// The contents of this marker's segment are behind.
    After,
}

impl Jpeg {
    fn find(&mut self) -> Next {
        self.state = State::Marker;
        Next::Find {
            byte: 0xFF,
            take: 1,
        }
    }

    fn marker(&mut self, marker: u8, end: u64) -> Result<Next, Finding> {
        if !self.scan {
            self.stray += end.saturating_sub(2 + self.segment_end);
            self.segment_end = end;
            if self.stray > MAX_STRAY {
                return Err(Finding::corrupt(format!(
                    "the JPEG image has {} bytes before offset {end} that belong to no segment",
                    self.stray
                )));
            }
        }
        match marker {
            // A fill byte: the marker is still to come.
            0xFF => Ok(Next::take(1)),
            END_OF_IMAGE => self.end(end),
            START_OF_SCAN if !self.frame => Err(Finding::corrupt(format!(
                "the JPEG image has a scan at offset {end} before any frame header"
            ))),
            START_OF_SCAN => Ok(self.segment(marker, 2)),
            DEFINE_LINES => Ok(self.segment(marker, 4)),
            // Frame headers but not the tables among them, which are no frames (DHT, JPG, DAC).
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) && !self.scan => {
                Ok(self.segment(marker, 7))
            }
            0xC4 | 0xCC | 0xDB | 0xDD..=0xEF | 0xFE => Ok(self.segment(marker, 2)),
            // What a camera that stumbled sends: half an image and then a whole one.
            START_OF_IMAGE => Err(Finding::truncated(format!(
                "the JPEG image breaks off where another one begins, before offset {end}"
            ))),
            // Stuffing, restart markers and what damaged entropy-coded data may look like.
            _ if self.scan => Ok(self.find()),
            0x00 | 0x01 | 0xD0..=0xD7 => Ok(self.find()),
            // Segments that nobody knows have lengths like all others.
            _ => Ok(self.segment(marker, 2)),
        }
    }

    fn segment(&mut self, marker: u8, take: usize) -> Next {
        self.state = State::Segment(marker);
        Next::take(take)
    }

    fn contents(&mut self, marker: u8, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        let length = u64::from(u16_be(bytes, 0));
        let Some(skip) = length.checked_sub(bytes.len() as u64) else {
            return Err(Finding::corrupt(format!(
                "the JPEG segment FF{marker:02X} before offset {end} says that it is {length} bytes long, which is too short"
            )));
        };
        match marker {
            START_OF_SCAN => self.scan = true,
            // The number of lines may follow the first scan when the header leaves it open.
            DEFINE_LINES if self.height == 0 => self.height = u32::from(u16_be(bytes, 2)),
            _ if bytes.len() == 7 => {
                self.frame = true;
                self.height = u32::from(u16_be(bytes, 3));
                self.width = u32::from(u16_be(bytes, 5));
            }
            _ => {}
        }
        self.segment_end = end + skip;
        self.state = State::After;
        Ok(Next::Take { skip, take: 0 })
    }

    fn end(&self, end: u64) -> Result<Next, Finding> {
        if self.scan {
            return Ok(Next::Done);
        }
        Err(Finding::corrupt(format!(
            "the JPEG image ends at offset {end} without a picture"
        )))
    }
}

impl Walk for Jpeg {
    fn step(&mut self, bytes: &[u8], end: u64) -> Result<Next, Finding> {
        match self.state {
            State::Start => {
                self.segment_end = end;
                Ok(self.find())
            }
            State::Marker => self.marker(bytes[0], end),
            State::Segment(marker) => self.contents(marker, bytes, end),
            State::After => Ok(self.find()),
        }
    }

    fn place(&self) -> String {
        match (self.scan, self.frame) {
            (true, _) => "before its end marker".to_owned(),
            (false, true) => "before its picture".to_owned(),
            (false, false) => "before its frame header".to_owned(),
        }
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }
}
