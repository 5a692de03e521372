//! The images of reports as CSV (RFC 4180), line by line, so that any number of them can stream.

use std::fmt::{self, Write as _};

use super::{ImageRow, Outcome};
use crate::clock::UnixNanos;
use crate::image::Transport;

/// The first line. Times ending in `_unix_ns` are nanoseconds since 1970 of the clock that
/// [`ImageRow`] names; what is not known is empty.
pub const HEADER: &str = "run,transport,transmitter,sequence,image_id,name,size_bytes,outcome,\
reason,attempts,captured_unix_ns,queued_unix_ns,send_started_unix_ns,first_byte_unix_ns,\
last_byte_unix_ns,verified_unix_ns,durable_unix_ns,transmission_ns,transmission_error_ns,\
delivery_ns\r\n";

/// The line of an image, its end included.
///
/// Text from outside that a spreadsheet would take for a formula gets an apostrophe in front.
#[derive(Debug, Clone, Copy)]
pub struct CsvRow<'a> {
    /// Label of the run.
    pub run: &'a str,
    /// How the image travelled.
    pub transport: Transport,
    /// Who sent it.
    pub transmitter: &'a str,
    /// The image.
    pub image: &'a ImageRow,
}

impl fmt::Display for CsvRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = self.image;
        text(f, self.run)?;
        write!(f, ",{},", self.transport.key())?;
        text(f, self.transmitter)?;
        write!(f, ",{},{},", image.sequence, image.image_id)?;
        text(f, image.name.as_deref().unwrap_or_default())?;
        write!(f, ",{},{},", image.size, image.outcome.key())?;
        text(f, image.reason.as_deref().unwrap_or_default())?;
        write!(f, ",{}", image.attempts)?;
        for time in [
            image.captured,
            image.queued,
            image.send_started,
            image.first_byte,
            image.last_byte,
            image.verified,
            image.durable,
        ] {
            number(f, time.map(|UnixNanos(nanos)| nanos))?;
        }
        number(f, image.transmission_ns)?;
        number(f, image.transmission_error_ns)?;
        number(f, image.delivery_ns)?;
        f.write_str("\r\n")
    }
}

fn number(f: &mut fmt::Formatter<'_>, value: Option<impl fmt::Display>) -> fmt::Result {
    f.write_char(',')?;
    value.map_or(Ok(()), |value| value.fmt(f))
}

fn text(f: &mut fmt::Formatter<'_>, field: &str) -> fmt::Result {
    // The characters with which spreadsheets let formulas begin.
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let quoted = formula || field.contains([',', '"', '\r', '\n', '\0']) || field.trim() != field;
    if !quoted {
        return f.write_str(field);
    }
    f.write_char('"')?;
    if formula {
        f.write_char('\'')?;
    }
    for c in field.chars() {
        match c {
            '"' => f.write_str("\"\"")?,
            // Reads as the end of the data in many programs.
            '\0' => f.write_char('\u{FFFD}')?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

impl Outcome {
    /// The word in JSON, CSV and text.
    pub fn key(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Duplicate => "duplicate",
            Self::Quarantined => "quarantined",
            Self::Lost => "lost",
            Self::Owed => "owed",
        }
    }
}
