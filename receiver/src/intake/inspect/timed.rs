//! Bytes that a decoder gets in time only.

use std::fmt;
use std::io::{self, BufRead, ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A reader that fails once its time is over: a decoder cannot be stopped from outside, but each one
/// that takes its bytes as it needs them stops by itself when there are none.
#[derive(Debug)]
pub(super) struct Timed<R> {
    inner: R,
    until: Instant,
    is_over: Arc<AtomicBool>,
}

/// Why there are no more bytes.
#[derive(Debug)]
struct Over;

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time to decode it is over")
    }
}

impl std::error::Error for Over {}

impl<R> Timed<R> {
    /// `inner` until that time; the flag says whether it was asked for something after it.
    pub(super) fn new(inner: R, until: Instant) -> (Self, Arc<AtomicBool>) {
        let is_over = Arc::new(AtomicBool::new(false));
        let timed = Self {
            inner,
            until,
            is_over: Arc::clone(&is_over),
        };
        (timed, is_over)
    }

    fn in_time(&mut self) -> io::Result<&mut R> {
        if Instant::now() < self.until {
            return Ok(&mut self.inner);
        }
        self.is_over.store(true, Ordering::Relaxed);
        Err(io::Error::new(ErrorKind::TimedOut, Over))
    }
}

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.in_time()?.read(buffer)
    }
}

impl<R: BufRead> BufRead for Timed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.in_time()?.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}

impl<R: Seek> Seek for Timed<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.in_time()?.seek(to)
    }
}
