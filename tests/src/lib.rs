//! Support for the system tests: stations on free ports, images, and clients that misbehave.
//!
//! Nothing here sleeps. Every wait is for an event, and has a limit that is far beyond what any
//! machine needs, so that a defect ends in a failure rather than in a test that hangs.

pub mod authority;
pub mod caller;
pub mod collector;
pub mod http;
pub mod pictures;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod route;
pub mod station;

use std::future::Future;
use std::time::Duration;

/// How long anything may take before a test fails.
pub const GUARD: Duration = Duration::from_secs(60);

/// Waits for `what`, and fails the test when it does not come.
///
/// # Panics
/// After [`GUARD`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(GUARD, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what} did not happen within {GUARD:?}"),
    }
}
