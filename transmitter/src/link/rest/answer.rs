//! What an answer says of an image.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use shared::image::ImageId;
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::wire::{HEADER_SUM, answer_sum, is_damaged, request_sum, sum_header};

use super::body::ImageBody;
use crate::link::DeliveryError;

/// Largest answer that is taken from a receiver.
const MAX_ANSWER: usize = 1 << 20;

/// An answer, read to its end.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// It is not what the receiver sent, as its sum tells.
    pub(super) is_damaged: bool,
}

impl Answer {
    pub(super) async fn read(response: Response<Incoming>) -> Result<Self, String> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        let body = body.to_bytes();
        let made = || answer_sum(parts.status.as_str(), &parts.headers, &body);
        Ok(Self {
            is_damaged: is_damaged(&parts.headers, made),
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    /// The answer if it is what the receiver sent.
    ///
    /// # Errors
    /// That it is not.
    pub(super) fn sound(self) -> Result<Self, String> {
        if self.is_damaged {
            let problem = "the answer was damaged on its way, as its pantelegraph-sum tells";
            return Err(problem.to_owned());
        }
        Ok(self)
    }

    /// The same for an answer about an image, which is then asked for again later, over the same
    /// connection: something between may be damaging every answer.
    pub(super) fn sound_of(self, id: ImageId) -> Result<Self, DeliveryError> {
        self.sound().map_err(|problem| later(id, problem))
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

    /// Whether a receiver of this project says it, and nothing between.
    pub(super) fn is_of_receiver(&self) -> bool {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem["reason"].is_string()
    }

    /// Whether it turns down one image, which is another's or under another's name, and not the
    /// station: that is told with other reasons, and never as what may be tried again.
    pub(super) fn forbids_this_image(&self) -> bool {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let forbidden = problem["reason"].as_str() == Some(RejectReason::Forbidden.key());
        forbidden && problem["retryable"].as_bool() == Some(true)
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
        // Also of a proxy in front of the receiver.
        let too_often = self.status == StatusCode::TOO_MANY_REQUESTS;
        let reason = self.reason();
        let Some(reason) = reason.or(too_often.then_some(RejectReason::Rate)) else {
            // Not this project's receiver, or a proxy in front of it.
            return later(id, format!("HTTP status {}: {detail}", self.status));
        };
        let mut reject = Reject::new(id, reason, detail);
        reject.retryable = problem["retryable"].as_bool().unwrap_or(too_often);
        reject.retry_after_ms = problem["retry_after_ms"].as_u64();
        reject.quarantined = problem["quarantined"].as_bool().unwrap_or(false);
        reject.into()
    }

    /// The receipt in the header of a tus answer, which has one when the image is stored.
    pub(super) fn tus_receipt(&self) -> Option<Receipt> {
        serde_json::from_slice(self.headers.get("pantelegraph-receipt")?.as_bytes()).ok()
    }
}

/// Gives a request the sum of what it says of an image, or of its message.
pub(super) fn seal(request: &mut Request<ImageBody>) {
    let (method, path) = (request.method().as_str(), request.uri().path());
    let sum = request_sum(method, path, request.headers(), request.body().message());
    request.headers_mut().insert(HEADER_SUM, sum_header(sum));
}

/// The connection is good but the answer is not: the image waits before it is tried again, and the
/// others need not.
pub(super) fn later(id: ImageId, problem: String) -> DeliveryError {
    Reject::new(id, RejectReason::Unavailable, problem).into()
}
