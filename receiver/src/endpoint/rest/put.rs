//! `PUT /v1/images/{id}`: one image in one request, streamed into the intake.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use shared::clock::{ClockEstimate, UnixNanos};
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use shared::receipt::{Receipt, ReceiptStatus, Reject, RejectReason};
use shared::security::access::Caller;
use shared::trace;
use shared::wire::Begin;

use super::body::{self, Stopped};
use super::digests::{Declared, repr_digest};
use crate::intake::{Begun, Intake, Origin, Upload};
use crate::problem::Problem;

/// Stores the image in the body; the answer is its receipt as JSON, 201 when it is new, 200 when
/// it was there.
pub(super) async fn put(
    State(intake): State<Arc<Intake>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    let announced = announce(&intake, id, &headers, &caller).await;
    // A client that waits for consent has not sent the body yet; reading it would ask for it.
    let waits = waits_for_consent(&headers);
    let answered = match announced {
        Ok(Announced::Wanted(wanted)) => receive(&intake, *wanted, &mut body).await,
        Ok(Announced::Present(receipt)) => {
            let mut response = answer(&receipt);
            if waits {
                body::close(&mut response);
            } else {
                body::refuse(&mut body, &mut response).await;
            }
            return response;
        }
        Err(reject) if waits => {
            let mut response = Problem::from(reject).into_response();
            body::close(&mut response);
            return response;
        }
        Err(reject) => Err(reject),
    };
    match answered {
        Ok(receipt) => answer(&receipt),
        Err(reject) => {
            let mut response = Problem::from(reject).into_response();
            body::refuse(&mut body, &mut response).await;
            response
        }
    }
}

/// Whether the client sends the body only when it is told to go on (RFC 9110, section 10.1.1).
pub(super) fn waits_for_consent(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The receipt of an image as a response.
pub(super) fn answer(receipt: &Receipt) -> Response {
    let status = match receipt.status {
        ReceiptStatus::Stored => StatusCode::CREATED,
        ReceiptStatus::Duplicate => StatusCode::OK,
    };
    let location = format!("/v1/images/{}", receipt.image_id);
    let mut response = (status, Json(receipt)).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::LOCATION, location),
        (REPR_DIGEST, repr_digest(&receipt.digest)),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

const REPR_DIGEST: header::HeaderName = header::HeaderName::from_static("repr-digest");

/// What the head of a request led to.
enum Announced {
    /// The body is wanted.
    Wanted(Box<Wanted>),
    /// The image is there already.
    Present(Receipt),
}

struct Wanted {
    upload: Upload,
    origin: Origin,
    digests: Declared,
}

async fn announce(
    intake: &Arc<Intake>,
    id: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
    caller: &Caller,
) -> Result<Announced, Reject> {
    let nameless = |message: String| Reject::new(None, RejectReason::Invalid, message);
    let Path(id) = id.map_err(|_| nameless("the id in the path is not UTF-8".to_owned()))?;
    let id: ImageId = id.parse().map_err(|error| nameless(format!("{error}")))?;
    let invalid = |message: String| Reject::new(id, RejectReason::Invalid, message);
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|encoding| encoding != "identity")
    {
        return Err(invalid(
            "Content-Encoding is not taken; send the image as it is".to_owned(),
        ));
    }
    if headers.contains_key(header::CONTENT_RANGE) {
        let advice = "Content-Range is not taken; use tus at /v1/uploads to resume";
        return Err(invalid(advice.to_owned()));
    }
    let digests = Declared::from_headers(headers).map_err(invalid)?;
    let (mut meta, transmitter) = metadata(id, headers).map_err(invalid)?;
    meta.digest = digests.native;
    let outbox = outbox(headers).map_err(invalid)?;
    let origin = Origin::new(Transport::Rest, &transmitter, caller).with_outbox(outbox);
    let length: Option<u64> = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse().ok());
    let begun = match length {
        Some(length) => {
            meta.size = length;
            intake.begin(Begin { meta, offset: 0 }, &origin).await?
        }
        None => {
            intake
                .begin_unsized(Begin { meta, offset: 0 }, &origin)
                .await?
        }
    };
    Ok(match begun {
        Begun::Present(receipt) => Announced::Present(receipt),
        Begun::Upload(upload) => Announced::Wanted(Box::new(Wanted {
            upload: *upload,
            origin,
            digests,
        })),
    })
}

async fn receive(intake: &Arc<Intake>, wanted: Wanted, body: &mut Body) -> Result<Receipt, Reject> {
    let Wanted {
        upload,
        origin,
        mut digests,
    } = wanted;
    let upload = stream(intake, &origin, upload, body, &mut digests).await?;
    if let Err(message) = digests.check() {
        let meta = upload.meta();
        let reject = Reject::new(meta.id, RejectReason::DigestMismatch, message);
        let reject = intake.turn_down(meta, &origin, reject);
        intake.room_to_count().await;
        return Err(reject);
    }
    upload.finish(None).await
}

/// Moves the body into the upload.
async fn stream(
    intake: &Arc<Intake>,
    origin: &Origin,
    mut upload: Upload,
    body: &mut Body,
    digests: &mut Declared,
) -> Result<Upload, Reject> {
    let idle = intake.limits().idle_timeout;
    let never = std::future::pending();
    let streamed = body::stream(&mut upload, body, idle, never, |piece| {
        digests.update(piece);
    });
    let problem = match streamed.await {
        Ok(()) | Err(Stopped::Interrupted) => return Ok(upload),
        Err(Stopped::Rejected(reject)) => return Err(reject),
        Err(Stopped::Silent(idle)) => format!("no byte for {idle:?} (RECEIVER_IDLE_TIMEOUT)"),
        Err(Stopped::Broken(error)) => format!("the connection broke ({error})"),
    };
    let message = format!("image ended after {} bytes: {problem}", upload.received());
    let reject = Reject::new(upload.meta().id, RejectReason::Truncated, message);
    let reject = intake.turn_down(upload.meta(), origin, reject);
    intake.room_to_count().await;
    Err(reject)
}

/// Everything that the headers say of the image, and the transmitter's identity.
pub(super) fn metadata(id: ImageId, headers: &HeaderMap) -> Result<(ImageMeta, String), String> {
    let mut meta = ImageMeta::new(id, 0);
    meta.content_type = text(headers, "content-type")?;
    meta.name = text(headers, "pantelegraph-name")?;
    meta.run = text(headers, "pantelegraph-run")?.unwrap_or_default();
    meta.sequence = number(headers, "pantelegraph-sequence")?.unwrap_or(0);
    meta.captured = number(headers, "pantelegraph-captured")?.map(UnixNanos);
    meta.queued = number(headers, "pantelegraph-queued")?.map(UnixNanos);
    meta.send_started = number(headers, "pantelegraph-send-started")?.map(UnixNanos);
    meta.attempt = number(headers, "pantelegraph-attempt")?.unwrap_or(1);
    meta.clock = clock(headers)?;
    meta.trace = trace::context_of(headers);
    Ok((
        meta,
        text(headers, "pantelegraph-transmitter")?.unwrap_or_default(),
    ))
}

/// The outbox that the sequence number counts in.
fn outbox(headers: &HeaderMap) -> Result<Option<OutboxId>, String> {
    let outbox = text(headers, "pantelegraph-outbox")?;
    let outbox = outbox.map(|text| text.parse()).transpose();
    outbox.map_err(|error| format!("pantelegraph-outbox: {error}"))
}

/// A header as text; percent-encoding carries what HTTP headers cannot.
fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, String> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let value = value
        .to_str()
        .map_err(|_| format!("{name} is not ASCII; percent-encode it"))?;
    let decoded = percent_decode_str(value)
        .decode_utf8()
        .map_err(|_| format!("{name} is not UTF-8 after percent-decoding"))?;
    Ok((!decoded.is_empty()).then(|| decoded.into_owned()))
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<T>, String> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let number = value
        .to_str()
        .ok()
        .and_then(|value| value.trim().parse().ok());
    number
        .map(Some)
        .ok_or_else(|| format!("{name} is not a whole number"))
}

/// `Pantelegraph-Clock: offset=-120;error=55;samples=8`, nanoseconds.
fn clock(headers: &HeaderMap) -> Result<Option<ClockEstimate>, String> {
    let Some(value) = headers.get("pantelegraph-clock") else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| MALFORMED_CLOCK);
    let estimate = text.and_then(parse_clock);
    estimate
        .map(Some)
        .map_err(|problem| format!("pantelegraph-clock {problem}"))
}

const MALFORMED_CLOCK: &str = "is not of the form offset=-120;error=55;samples=8";

/// `offset=-120;error=55;samples=8`, nanoseconds.
pub(super) fn parse_clock(text: &str) -> Result<ClockEstimate, &'static str> {
    let malformed = MALFORMED_CLOCK;
    let mut estimate = ClockEstimate {
        offset_ns: 0,
        error_ns: 0,
        samples: 0,
    };
    for member in text.split(';') {
        let (key, value) = member.split_once('=').ok_or(malformed)?;
        match key.trim() {
            "offset" => estimate.offset_ns = value.trim().parse().map_err(|_| malformed)?,
            "error" => estimate.error_ns = value.trim().parse().map_err(|_| malformed)?,
            "samples" => estimate.samples = value.trim().parse().map_err(|_| malformed)?,
            _ => {}
        }
    }
    Ok(estimate)
}
