//! What a good client of gRPC does beside sending: it gives each call a deadline, tries again what
//! may be tried again, spreads its calls over the servers that are ready, and stops the work that
//! nobody waits for any more. And the server's half of a deadline, [`HonourDeadline`].
//!
//! ```text
//! generated client ─► Caller = Deadlines ─► Retry ─► Balance ─► a connection for each server
//! ```
//!
//! Each layer is a `tower` service over HTTP requests with [`tonic::body::Body`], and may be used
//! without the others. Which method may be retried or streams is read from the contract's own
//! descriptors ([`Methods`]), so that it is said once, in the `.proto` file.
//!
//! A call that is dropped is cancelled at the server too: every layer here is a future that owns
//! the next, and the last of them resets the HTTP/2 stream.

mod balance;
mod caller;
mod deadline;
mod methods;
mod resolve;
mod retry;
mod targets;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;

use tonic::Status;
use tonic::body::Body;

pub use crate::connect::{Connected, Connector};
pub use balance::{Balance, BalanceOptions};
pub use caller::{Caller, Counts, Options};
pub use deadline::{
    DEFAULT_DEADLINE, Deadlines, Expiry, HonourDeadline, HonourDeadlineLayer, InvalidTimeout,
    TIMEOUT_HEADER, format_timeout, parse_timeout,
};
pub use methods::{InvalidDescriptors, Method, Methods};
pub use resolve::{Lookup, Resolve, SystemResolver};
pub use retry::{
    Backoff, PREVIOUS_ATTEMPTS_HEADER, PUSHBACK_HEADER, Retry, RetryOptions, Throttle,
};
pub use targets::{Authority, InvalidTarget, Target, Targets};

/// A request of a generated client.
pub(crate) type Request = http::Request<Body>;

/// What becomes of it.
pub(crate) type Outcome = Result<http::Response<Body>, Status>;

/// A call on its way.
pub(crate) type Call = Pin<Box<dyn Future<Output = Outcome> + Send>>;
