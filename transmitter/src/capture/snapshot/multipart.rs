//! The parts of a `multipart/x-mixed-replace` stream, as cameras really send it (MJPEG).
//!
//! RFC 2046, section 5.1, says how it should be; cameras put the boundary in quotes or not, count
//! its two leading dashes as part of it or not, end lines with LF alone, leave `Content-Length`
//! out, or begin without a boundary. All of that is read. There is no I/O here.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;

/// Most bytes of a part's header.
const MAX_HEADER: usize = 16 << 10;

/// Cuts a stream into parts.
#[derive(Debug)]
pub(super) struct Parts {
    buffer: BytesMut,
    /// Two dashes and the boundary without any dashes before it.
    delimiter: Finder<'static>,
    delimiter_len: usize,
    limit: usize,
    state: State,
    /// Bytes at the beginning of the buffer that hold no delimiter.
    searched: usize,
}

#[derive(Debug)]
enum State {
    /// Before a delimiter; what comes before it is skipped.
    Between,
    /// After a delimiter, up to the empty line.
    Header,
    /// In a part.
    Body {
        media_type: Option<String>,
        length: Option<usize>,
    },
    /// After the last delimiter.
    End,
}

/// One part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// As its header says; without parameters, in lower case.
    pub(super) media_type: Option<String>,
    pub(super) bytes: Bytes,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PartsError {
    #[error(
        "a part is larger than the limit of {limit} bytes; lower the camera's resolution or quality"
    )]
    TooLarge { limit: usize },
    #[error("no boundary in {0} bytes of the stream")]
    NoBoundary(usize),
    #[error("a part's header is longer than {MAX_HEADER} bytes")]
    LongHeader,
}

/// The boundary in the value of a `Content-Type` header, if it is that of a stream of images.
pub(super) fn boundary_of(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind
        .trim()
        .eq_ignore_ascii_case("multipart/x-mixed-replace")
    {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"').trim();
        // A boundary of dashes alone would match anywhere.
        let usable = name.trim().eq_ignore_ascii_case("boundary")
            && !value.trim_start_matches('-').is_empty();
        usable.then(|| value.to_owned())
    })
}

impl Parts {
    /// Parts of up to `limit` bytes, between lines of this boundary.
    pub(super) fn new(boundary: &str, limit: usize) -> Self {
        let delimiter = format!("--{}", boundary.trim_start_matches('-'));
        Self {
            buffer: BytesMut::new(),
            delimiter: Finder::new(&delimiter).into_owned(),
            delimiter_len: delimiter.len(),
            limit,
            state: State::Between,
            searched: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the last delimiter has come.
    pub(super) fn ended(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// The next part; `None` when more bytes are needed or the stream has ended.
    pub(super) fn next_part(&mut self) -> Result<Option<Part>, PartsError> {
        loop {
            match &mut self.state {
                State::Between => {
                    let Some(delimiter) = self.find_delimiter() else {
                        if self.searched > self.limit {
                            return Err(PartsError::NoBoundary(self.searched));
                        }
                        return Ok(None);
                    };
                    // Whether two dashes follow, which end the stream, must be known.
                    let after = delimiter.end;
                    let Some(next) = self.buffer.get(after..after + 2) else {
                        return Ok(None);
                    };
                    self.state = if next == b"--" {
                        State::End
                    } else {
                        State::Header
                    };
                    self.consume(after);
                }
                State::Header => {
                    let Some((header, size)) = header_lines(&self.buffer) else {
                        if self.buffer.len() > MAX_HEADER {
                            return Err(PartsError::LongHeader);
                        }
                        return Ok(None);
                    };
                    self.state = read_header(header);
                    self.consume(size);
                }
                State::Body { media_type, length } => {
                    let media_type = media_type.take();
                    let length = *length;
                    let Some(bytes) = self.body(length)? else {
                        self.state = State::Body { media_type, length };
                        return Ok(None);
                    };
                    self.state = State::Between;
                    // Some cameras send a delimiter before and after each part.
                    if !bytes.is_empty() {
                        return Ok(Some(Part { media_type, bytes }));
                    }
                }
                State::End => return Ok(None),
            }
        }
    }

    fn body(&mut self, length: Option<usize>) -> Result<Option<Bytes>, PartsError> {
        let (known, end) = match length {
            Some(length) => (length, (self.buffer.len() >= length).then_some(length)),
            None => {
                let end = self
                    .find_delimiter()
                    .map(|found| self.without_line_end(found.start));
                (end.unwrap_or(self.searched), end)
            }
        };
        if known > self.limit {
            return Err(PartsError::TooLarge { limit: self.limit });
        }
        Ok(end.map(|end| {
            self.searched = 0;
            self.buffer.split_to(end).freeze()
        }))
    }

    /// Where the next delimiter is that stands at the beginning of a line. Dashes before its own
    /// two belong to it.
    fn find_delimiter(&mut self) -> Option<Range<usize>> {
        loop {
            let Some(offset) = self.delimiter.find(&self.buffer[self.searched..]) else {
                // All but its last byte may have come.
                let kept = (self.buffer.len() + 1).saturating_sub(self.delimiter_len);
                self.searched = kept.max(self.searched);
                return None;
            };
            // If more bytes are needed after it, it will be looked for again, from here.
            self.searched += offset;
            let before = &self.buffer[..self.searched];
            let dashes = before
                .iter()
                .rev()
                .take_while(|byte| **byte == b'-')
                .count();
            let start = self.searched - dashes;
            if start == 0 || self.buffer[start - 1] == b'\n' {
                return Some(start..self.searched + self.delimiter_len);
            }
            self.searched += 1;
        }
    }

    fn without_line_end(&self, end: usize) -> usize {
        let before = &self.buffer[..end];
        let before = before.strip_suffix(b"\n").unwrap_or(before);
        before.strip_suffix(b"\r").unwrap_or(before).len()
    }

    fn consume(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.searched = 0;
    }
}

/// The lines of a header, from the rest of the delimiter's line on, and their size with the empty
/// line; `None` while they are not complete.
fn header_lines(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let mut line_start = None;
    for end in memchr::memchr_iter(b'\n', bytes) {
        if line_start.is_some_and(|start| matches!(&bytes[start..end], b"" | b"\r")) {
            return Some((&bytes[..end], end + 1));
        }
        line_start = Some(end + 1);
    }
    None
}

fn read_header(lines: &[u8]) -> State {
    let (mut media_type, mut length) = (None, None);
    for line in String::from_utf8_lossy(lines).lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let (name, value) = (name.trim(), value.trim());
        if name.eq_ignore_ascii_case("content-type") {
            let kind = value.split(';').next().unwrap_or_default();
            media_type = Some(kind.trim().to_ascii_lowercase());
        } else if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok();
        }
    }
    State::Body { media_type, length }
}

#[cfg(test)]
mod tests;
