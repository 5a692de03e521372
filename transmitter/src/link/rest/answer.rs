//! What an answer says of an image.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use shared::image::ImageId;
use shared::receipt::{Receipt, Reject, RejectReason};

use crate::link::DeliveryError;

/// Largest answer that is taken from a receiver.
const MAX_ANSWER: usize = 1 << 20;

/// An answer, read to its end.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) async fn read(response: Response<Incoming>) -> Result<Self, String> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self {
            status: parts.status,
            headers: parts.headers,
            body: body.to_bytes(),
        })
    }

    /// A header that is a whole number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.parse().ok()
    }

    /// The reason in a problem document, if it is one of this project's receiver.
    pub(super) fn reason(&self) -> Option<RejectReason> {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        problem["reason"].as_str()?.parse().ok()
    }

    /// The receipt or the rejection in the answer to a `PUT`.
    pub(super) fn verdict(&self, id: ImageId) -> Result<Receipt, DeliveryError> {
        if self.status.is_success() {
            return serde_json::from_slice(&self.body)
                .map_err(|error| later(id, format!("the receipt cannot be read: {error}")));
        }
        Err(self.refusal(id))
    }

    /// The rejection in an answer that is none of success.
    pub(super) fn refusal(&self, id: ImageId) -> DeliveryError {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("no details given");
        let Some(reason) = self.reason() else {
            // Not this project's receiver, or a proxy in front of it.
            return later(id, format!("HTTP status {}: {detail}", self.status));
        };
        let mut reject = Reject::new(id, reason, detail);
        reject.retryable = problem["retryable"].as_bool().unwrap_or(false);
        reject.quarantined = problem["quarantined"].as_bool().unwrap_or(false);
        reject.into()
    }

    /// The receipt in the header of a tus answer, which has one when the image is stored.
    pub(super) fn tus_receipt(&self) -> Option<Receipt> {
        serde_json::from_slice(self.headers.get("pantelegraph-receipt")?.as_bytes()).ok()
    }
}

/// The connection is good but the answer is not: the image waits before it is tried again, and the
/// others need not.
pub(super) fn later(id: ImageId, problem: String) -> DeliveryError {
    Reject::new(id, RejectReason::Unavailable, problem).into()
}
