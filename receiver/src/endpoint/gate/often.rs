//! What those are told who ask more often than `--max-requests-per-second` lets them.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use shared::receipt::{Reject, RejectReason};

use crate::endpoint::grpc;
use crate::problem::Problem;

/// The word for figures.
pub(super) const KEY: &str = "rate";

/// A request came too early, by this time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Often(pub(super) Duration);

impl fmt::Display for Often {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WORDS)
    }
}

const WORDS: &str = "requests come more often than RECEIVER_MAX_REQUESTS_PER_SECOND allows; \
                     try again a little later";

/// An image, or a message, that came too early, by `time`.
pub(in crate::endpoint) fn reject(time: Duration) -> Reject {
    Reject::new(None, RejectReason::Rate, WORDS).after(time)
}

impl Often {
    pub(super) fn into_grpc(self) -> Response {
        grpc::status_of(&reject(self.0)).into_http::<Body>()
    }

    pub(super) fn into_http(self, path: &str) -> Response {
        Problem::from(reject(self.0)).about(path).into_response()
    }
}
