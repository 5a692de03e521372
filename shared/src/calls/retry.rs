//! Trying again, after gRFC A6, "gRPC Retry Design"
//! (<https://github.com/grpc/proposal/blob/master/A6-client-retries.md>).
//!
//! What is tried again: a call of an idempotent method that is not client-streaming, when it ended
//! with `UNAVAILABLE` before any head of a response came (then it is committed), and any call that
//! certainly never reached a server. Never past the call's deadline.

mod keep;
mod schedule;
mod service;
mod throttle;

pub use schedule::{Backoff, RetryOptions};
pub use service::{PREVIOUS_ATTEMPTS_HEADER, PUSHBACK_HEADER, Retry};
pub use throttle::Throttle;

pub(crate) use service::{Figures, Final, NeverSent};
