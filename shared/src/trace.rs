//! Which trace a piece of work belongs to, as W3C Trace Context has it
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! An image's trace has the image's own id: whoever knows the one finds the other, and the trace goes on
//! when a transmitter starts again and sends what it owed. The last 56 bits of a UUIDv7 are as good as
//! random over time, as sampling by them wants it; those of one millisecond are counted up
//! (RFC 9562, section 6.2), so that images of a burst are kept or left together.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;

use crate::image::ImageId;

/// The header, and the key in gRPC's metadata.
pub const TRACEPARENT: &str = "traceparent";

/// Identity of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// That of an image.
    pub fn of(image: ImageId) -> Self {
        // An id is never zero.
        Self(NonZeroU128::new(image.as_u128()).unwrap_or(NonZeroU128::MIN))
    }

    /// A fresh one, for what is no image.
    pub fn new_random() -> Self {
        Self::of(ImageId::new())
    }

    /// Its 16 bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// The bits that count as random in every trace id (W3C Trace Context, level 2): the last 56.
    pub fn randomness(self) -> u64 {
        let bits = self.0.get() & ((1 << 56) - 1);
        u64::try_from(bits).unwrap_or(u64::MAX)
    }
}

/// 32 digits, as whoever shows traces writes it.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Identity of a span within its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

impl SpanId {
    /// A fresh one.
    pub fn new_random() -> Self {
        Self::last_of(ImageId::new())
    }

    /// That of the span which is the whole way of an image. It has to be the same in every process that
    /// works on the image, the ones after a restart included.
    pub fn of(image: ImageId) -> Self {
        Self::last_of(image)
    }

    fn last_of(id: ImageId) -> Self {
        let bits = id.as_u128() & u128::from(u64::MAX);
        let bits = u64::try_from(bits).unwrap_or(u64::MAX);
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }

    /// Its 8 bytes.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

/// A place in a trace: what follows belongs below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that what follows belongs to.
    pub span: SpanId,
    /// Whether its spans are kept.
    pub sampled: bool,
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
pub struct InvalidTraceparent;

impl FromStr for TraceContext {
    type Err = InvalidTraceparent;

    /// Versions to come may have more after the flags (W3C Trace Context, section 4.3.3).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let mut next = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits);
            let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            part.filter(|part| part.bytes().all(is_hex))
                .ok_or(InvalidTraceparent)
        };
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let ends = parts.next().is_none();
        if version == "ff" || (version == "00" && !ends) {
            return Err(InvalidTraceparent);
        }
        let trace = u128::from_str_radix(trace, 16).ok();
        let span = u64::from_str_radix(span, 16).ok();
        let flags = u8::from_str_radix(flags, 16).map_err(|_| InvalidTraceparent)?;
        Ok(Self {
            trace: TraceId(trace.and_then(NonZeroU128::new).ok_or(InvalidTraceparent)?),
            span: SpanId(span.and_then(NonZeroU64::new).ok_or(InvalidTraceparent)?),
            sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (self.trace, self.span.0);
        write!(f, "00-{trace}-{span:016x}-{:02x}", u8::from(self.sampled))
    }
}

/// Tells of this place in `headers`, if there is one.
pub fn show(context: Option<TraceContext>, headers: &mut http::HeaderMap) {
    let value = context.and_then(|context| http::HeaderValue::try_from(context.to_string()).ok());
    if let Some(value) = value {
        headers.insert(TRACEPARENT, value);
    }
}

/// The place that a header tells of. One that cannot be read, or that is there twice, counts as none,
/// because a trace is never worth an image.
pub fn context_of(headers: &http::HeaderMap) -> Option<TraceContext> {
    let mut told = headers.get_all(TRACEPARENT).iter();
    let (first, second) = (told.next()?, told.next());
    match second {
        Some(_) => None,
        None => first.to_str().ok()?.trim().parse().ok(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    /// From the specification, section 3.2.2.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_specified() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert!(context.sampled);
        assert_eq!(
            context.span.to_bytes(),
            [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]
        );
        assert_eq!(context.to_string(), EXAMPLE);
        let later = EXAMPLE.replacen("00", "cc", 1) + "-what-the-future-will-be-like";
        assert_eq!(later.parse(), Ok(context));
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
        ] {
            assert_eq!(
                wrong.parse::<TraceContext>(),
                Err(InvalidTraceparent),
                "{wrong}"
            );
        }
    }

    #[test]
    fn two_headers_are_none() {
        let value = http::HeaderValue::from_static(EXAMPLE);
        let mut headers = http::HeaderMap::new();
        assert_eq!(context_of(&headers), None);
        headers.append(TRACEPARENT, value.clone());
        assert!(context_of(&headers).is_some());
        headers.append(TRACEPARENT, value);
        assert_eq!(context_of(&headers), None);
    }

    #[test]
    fn the_trace_of_an_image_has_its_id() {
        let id: ImageId = "01932f3e-7b5c-7c3a-9d4e-2f1a6b8c0d1e".parse().unwrap();
        let context = TraceContext {
            trace: TraceId::of(id),
            span: SpanId::of(id),
            sampled: false,
        };
        let text = "00-01932f3e7b5c7c3a9d4e2f1a6b8c0d1e-9d4e2f1a6b8c0d1e-00";
        assert_eq!(context.to_string(), text);
        assert_eq!(TraceId::of(id).randomness(), 0x4e_2f1a_6b8c_0d1e);
        assert_ne!(SpanId::new_random(), SpanId::new_random());
    }
}
