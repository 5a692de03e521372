//! Deadlines: every call ends, and the server knows when nobody waits any more.

mod body;
mod client;
mod server;
mod timeout;

pub use client::{DEFAULT_DEADLINE, Deadlines, Expiry};
pub use server::{HonourDeadline, HonourDeadlineLayer};
pub use timeout::{InvalidTimeout, format_timeout, parse_timeout};

use http::{HeaderMap, HeaderName};
use std::time::Duration;

/// The header that carries the time left for a call.
pub const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("grpc-timeout");

/// The time that a request gives its call, if it says so.
fn asked(headers: &HeaderMap) -> Result<Option<Duration>, InvalidTimeout> {
    headers
        .get(TIMEOUT_HEADER)
        .map(|value| parse_timeout(value.as_bytes()))
        .transpose()
}
