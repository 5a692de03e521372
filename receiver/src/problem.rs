//! Errors of the HTTP interface as problem documents (RFC 9457).

use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use shared::receipt::{Reject, RejectReason};

use crate::catalog::CatalogError;
use crate::store::StoreError;

/// Media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Begin of all problem types; a short word follows.
pub const TYPE_PREFIX: &str = "urn:pantelegraph:problem:";

/// Seconds after which a client may try again when the receiver is not available.
const RETRY_AFTER: u32 = 1;

/// An error of the HTTP interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    /// Kind of problem, a word such as `not-found` that never changes its meaning; in the document
    /// as a URN that begins with [`TYPE_PREFIX`].
    #[serde(rename = "type", serialize_with = "urn")]
    pub key: &'static str,
    /// The kind, for people; the same for all problems of the kind.
    pub title: &'static str,
    /// Status code of the answer.
    #[serde(serialize_with = "code")]
    pub status: StatusCode,
    /// What is wrong this time and what to do about it.
    pub detail: String,
    /// What the problem is about, as a path of this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Further members.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    /// Seconds after which it is worth to try again.
    #[serde(skip)]
    pub retry_after: Option<u32>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn code<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn urn<S: serde::Serializer>(key: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{TYPE_PREFIX}{key}"))
}

impl Problem {
    /// A problem of the kind `key`, a word such as `not-found`.
    pub fn new(
        status: StatusCode,
        key: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            key,
            title,
            status,
            detail: detail.into(),
            instance: None,
            extra: Map::new(),
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
        }
    }

    /// A problem with a member of its own.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(member.to_owned(), value.into());
        self
    }

    /// A problem about `path`.
    #[must_use]
    pub fn about(mut self, path: impl Into<String>) -> Self {
        self.instance = Some(path.into());
        self
    }

    /// A query parameter that cannot be read.
    pub fn parameter(name: &str, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "parameter",
            "a parameter cannot be read",
            detail,
        )
        .with("parameter", name)
    }

    /// Something that is not here.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "not found", detail)
    }

    /// A failure of the receiver. The error goes to the log, not to the client, which could do
    /// nothing about it.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes: Vec<String> = std::iter::successors(Some(error), |error| error.source())
            .map(ToString::to_string)
            .collect();
        tracing::error!(error = causes.join(": "), "a request failed");
        let detail = "the receiver failed; its log says why";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the receiver failed",
            detail,
        )
    }

    /// The document.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a problem consists of text and numbers")
    }
}

/// The status that tells a client of HTTP what a reason means.
pub fn status_of(reason: RejectReason) -> StatusCode {
    match reason {
        RejectReason::Truncated
        | RejectReason::Overflow
        | RejectReason::ChunkChecksum
        | RejectReason::DigestMismatch
        | RejectReason::Invalid
        | RejectReason::UnknownMessage
        | RejectReason::Protocol => StatusCode::BAD_REQUEST,
        RejectReason::UnknownImage => StatusCode::NOT_FOUND,
        RejectReason::Offset | RejectReason::Conflict | RejectReason::Superseded => {
            StatusCode::CONFLICT
        }
        RejectReason::Limit => StatusCode::PAYLOAD_TOO_LARGE,
        RejectReason::NotAnImage
        | RejectReason::TruncatedImage
        | RejectReason::Mislabelled
        | RejectReason::CorruptImage
        | RejectReason::Empty => StatusCode::UNPROCESSABLE_ENTITY,
        RejectReason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        RejectReason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        RejectReason::Forbidden => StatusCode::FORBIDDEN,
        // What this client may do, as opposed to what the receiver has room for (507).
        RejectReason::Rate | RejectReason::Quota => StatusCode::TOO_MANY_REQUESTS,
    }
}

impl From<Reject> for Problem {
    fn from(reject: Reject) -> Self {
        let Reject {
            image_id,
            reason,
            message,
            retryable,
            quarantined,
            held,
            retry_after_ms,
        } = reject;
        let status = if quarantined {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            status_of(reason)
        };
        let problem = Self::new(status, reason.key(), reason.explain(), message)
            .with("reason", reason.key())
            .with("retryable", retryable)
            .with("quarantined", quarantined);
        let mut problem = match held {
            Some(held) => problem.with("offset", held),
            None => problem,
        };
        if let Some(time) = retry_after_ms {
            // Whole seconds, and not a moment too early.
            problem.retry_after = Some(u32::try_from(time.div_ceil(1_000)).unwrap_or(u32::MAX));
            problem = problem.with("retry_after_ms", time);
        }
        match image_id {
            Some(id) => problem
                .with("image_id", id.to_string())
                .about(format!("/v1/images/{id}")),
            None => problem,
        }
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        Self::internal(&error)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full { .. } => {
                tracing::error!(%error, "a request failed");
                let detail = "the receiver's disk is full: free some space on it and try again";
                Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "full",
                    "the receiver has no space left",
                    detail,
                )
            }
            error => Self::internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::image::ImageId;

    use super::*;

    #[test]
    fn a_reject_becomes_a_document_with_its_facts() {
        let id = ImageId::new();
        let mut reject = Reject::new(
            id,
            RejectReason::Mislabelled,
            "it is a PNG, declared a JPEG",
        );
        reject.quarantined = true;
        let document: Value = serde_json::from_slice(&Problem::from(reject).to_json()).unwrap();
        let expected = serde_json::json!({
            "type": "urn:pantelegraph:problem:mislabelled",
            "title": "the image is of another kind than declared",
            "status": 422,
            "detail": "it is a PNG, declared a JPEG",
            "instance": format!("/v1/images/{id}"),
            "image_id": id.to_string(),
            "reason": "mislabelled",
            "retryable": false,
            "quarantined": true,
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn every_reason_has_an_error_status_and_only_overload_a_time_to_retry() {
        for reason in RejectReason::ALL {
            let problem = Problem::from(Reject::new(None, reason, "x"));
            assert!(problem.status.is_client_error() || problem.status.is_server_error());
            let unavailable = reason == RejectReason::Unavailable;
            assert_eq!(problem.retry_after.is_some(), unavailable, "{reason}");
        }
    }

    #[test]
    fn failures_of_the_receiver_keep_paths_to_themselves() {
        let path = std::path::Path::new("/srv/secret/place");
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let problem = Problem::from(StoreError::io("opening", path, source));
        assert_eq!(problem.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!problem.detail.contains("secret"));
    }
}
