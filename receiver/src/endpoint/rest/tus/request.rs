//! Headers of tus requests.

use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, header};
use http_body::Body as _;
use shared::receipt::{Reject, RejectReason};

use super::VERSION;
use super::checksum::Checksum;
use crate::problem::Problem;

/// Type of a body that has bytes of an upload.
const BYTES: &str = "application/offset+octet-stream";

/// The method, which clients behind narrow-minded proxies put into a header.
pub(super) fn method(method: &Method, headers: &HeaderMap) -> Result<Method, Problem> {
    match headers.get("x-http-method-override") {
        None => Ok(method.clone()),
        Some(name) => Method::from_bytes(&name.as_bytes().to_ascii_uppercase())
            .map_err(|_| invalid("X-HTTP-Method-Override is not the name of a method")),
    }
}

/// Whether the client speaks the version that is spoken here.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), Problem> {
    let detail = match headers.get("tus-resumable") {
        Some(version) if version == VERSION => return Ok(()),
        Some(_) => format!("Tus-Resumable names another version than {VERSION}"),
        None => format!("the request lacks Tus-Resumable: {VERSION}"),
    };
    let status = StatusCode::PRECONDITION_FAILED;
    let title = "another version of tus";
    Err(Problem::new(status, "tus-version", title, detail))
}

/// A header that must be there, as text.
pub(super) fn text<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(invalid(format!("{name} comes twice")));
    }
    let text = value.to_str();
    text.map(Some)
        .map_err(|_| invalid(format!("{name} is not ASCII")))
}

/// A header that must be there, as a number. Beyond 64 bits, it is as large as can be.
pub(super) fn number(headers: &HeaderMap, name: &'static str) -> Result<u64, Problem> {
    let text = text(headers, name)?.ok_or_else(|| invalid(format!("{name} is missing")))?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid(format!("{name} is not a whole number")));
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

/// Length of the body, where it is declared.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Whether the request has a body.
pub(super) fn has_body(headers: &HeaderMap, body: &Body) -> bool {
    length(headers) != Some(0) && !body.is_end_stream()
}

/// Whether the body is of the type for bytes of an upload.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |detail: String| {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Problem::new(status, "media-type", "a body of another type", detail)
    };
    let declared = headers.get(header::CONTENT_TYPE);
    let essence = declared
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case(BYTES)) {
        let detail = format!("send bytes of an upload with Content-Type: {BYTES}");
        return Err(unsupported(detail));
    }
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        let detail = "Content-Encoding is not taken; send the image as it is";
        return Err(unsupported(detail.to_owned()));
    }
    Ok(())
}

/// The sum of the body, where it is declared.
pub(super) fn checksum(headers: &HeaderMap) -> Result<Option<Checksum>, Problem> {
    let checksum = text(headers, "upload-checksum")?.map(Checksum::parse);
    checksum.transpose().map_err(invalid)
}

/// A request that cannot be read.
pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Reject::new(None, RejectReason::Invalid, detail).into()
}
