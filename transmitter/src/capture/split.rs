//! Splits a stream of bytes into the images in it, by their own structure.
//!
//! Programs that write images to their output (ffmpeg, libcamera-vid, GStreamer, `cat`) put one
//! after the other, without lengths. The end of an image is found by walking its structure, never
//! by searching for an end marker, which pictures within pictures (EXIF thumbnails) hold too.
//!
//! The splitter does no I/O: bytes are [pushed](Splitter::push), images
//! [taken](Splitter::next_image). Between images it skips what is no image (padding, the headers
//! of multipart streams) and counts it. What begins as an image and then breaks its format is
//! skipped too, up to where the next image begins.

use bytes::{Buf, Bytes, BytesMut};

use walk::{Recognised, Step, Walk};

mod walk;

#[cfg(test)]
mod tests;

/// Finds images in a stream. See the [module](self).
#[derive(Debug)]
pub struct Splitter {
    /// While `walk` is set, it begins with the first byte of an image.
    buffer: BytesMut,
    walk: Option<Walk>,
    limit: usize,
    skipped: u64,
    skipped_since_image: u64,
}

/// An image out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes, from its first to its last.
    pub bytes: Bytes,
    /// What it is, by its structure.
    pub media_type: &'static str,
}

/// The stream ended within an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incomplete {
    /// What it began as.
    pub media_type: &'static str,
    /// How many bytes of it there are.
    pub bytes: usize,
}

/// Why a stream cannot be split. There is no way on: what follows cannot be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// An image is larger than the limit.
    #[error("a {media_type} image is larger than the limit of {limit} bytes; write smaller images")]
    TooLarge {
        /// What it is.
        media_type: &'static str,
        /// The limit.
        limit: usize,
    },
    /// There is no image where there should be one.
    #[error(
        "no image in {bytes} bytes; write JPEG (MJPEG), PNG, WebP or GIF images one after the other"
    )]
    NoImage {
        /// Bytes that were looked at since the last image.
        bytes: u64,
    },
}

impl Splitter {
    /// A splitter for images of up to `limit` bytes. It gives up after as many bytes without any
    /// image.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            walk: None,
            limit,
            skipped: 0,
            skipped_since_image: 0,
        }
    }

    /// Adds the next bytes of the stream. Take all images before more is pushed: what is pushed
    /// is held until it is taken.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next image; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When an image is above the limit, or there is nothing but other data.
    pub fn next_image(&mut self) -> Result<Option<Piece>, SplitError> {
        loop {
            let Some(walk) = &mut self.walk else {
                if self.seek()? {
                    continue;
                }
                return Ok(None);
            };
            let media_type = walk.media_type();
            let (size, complete) = match walk.step(&self.buffer) {
                Step::End(size) => (size, true),
                Step::More(at_least) => (at_least.max(self.buffer.len()), false),
                Step::Bad(resume) => {
                    self.walk = None;
                    self.skip(resume)?;
                    continue;
                }
            };
            if size > self.limit {
                return Err(SplitError::TooLarge {
                    media_type,
                    limit: self.limit,
                });
            }
            if !complete {
                return Ok(None);
            }
            self.walk = None;
            self.skipped_since_image = 0;
            let bytes = self.buffer.split_to(size).freeze();
            return Ok(Some(Piece { bytes, media_type }));
        }
    }

    /// Bytes so far that belong to no image.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The image in which the stream ended, if it did. A rest that is no image counts as skipped.
    pub fn finish(mut self) -> (u64, Option<Incomplete>) {
        let bytes = self.buffer.len();
        let incomplete = self.walk.take().map(|walk| Incomplete {
            media_type: walk.media_type(),
            bytes,
        });
        let rest = if incomplete.is_none() {
            bytes as u64
        } else {
            0
        };
        (self.skipped + rest, incomplete)
    }

    /// Skips to the beginning of an image; false when there is none yet.
    fn seek(&mut self) -> Result<bool, SplitError> {
        let mut at = 0;
        let found = loop {
            let Some(start) = walk::find_first_byte(&self.buffer[at..]) else {
                at = self.buffer.len();
                break None;
            };
            at += start;
            match Walk::recognise(&self.buffer[at..]) {
                Recognised::Image(walk) => break Some(walk),
                Recognised::NotYet => break None,
                Recognised::No => at += 1,
            }
        };
        self.walk = found;
        self.skip(at)?;
        Ok(self.walk.is_some())
    }

    fn skip(&mut self, bytes: usize) -> Result<(), SplitError> {
        self.buffer.advance(bytes);
        self.skipped += bytes as u64;
        self.skipped_since_image += bytes as u64;
        if self.skipped_since_image > self.limit as u64 {
            return Err(SplitError::NoImage {
                bytes: self.skipped_since_image,
            });
        }
        Ok(())
    }
}
