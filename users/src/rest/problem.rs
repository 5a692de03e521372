//! Errors as problem documents (RFC 9457): the one place where refusals become answers of HTTP.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shared::security::access::Denied;
use utoipa::ToSchema;

use crate::refusal::{Code, Refusal, Violation, Violations};

/// Media type of a problem document.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// Seconds after which a client may try again when the server is not available, or was asked too often:
/// there is a request more within a second at the latest.
const RETRY_SECONDS: u64 = 1;

/// What went wrong (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Kind of problem; never changes its meaning.
    #[serde(rename = "type")]
    #[schema(value_type = String, pattern = "^urn:pantelegraph:problem:[a-z-]+$")]
    kind: Cow<'static, str>,
    /// The kind, for people.
    #[schema(value_type = String)]
    title: &'static str,
    /// Status code of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong this time and what to do about it.
    detail: String,
    /// The code that the gRPC face answers with in this case.
    #[schema(value_type = String)]
    code: &'static str,
    /// Each field or parameter that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
    /// Why the caller is turned away, for a header of the answer.
    #[serde(skip)]
    denied: Option<Box<Denied>>,
    /// Whether the caller came too early, for a header of the answer.
    #[serde(skip)]
    is_early: bool,
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// Its name, for example `email` or `roles[2]`.
    pub(super) field: String,
    /// What is wrong with it, and what would be right.
    pub(super) detail: String,
}

impl From<&Violation> for FieldError {
    fn from(violation: &Violation) -> Self {
        Self {
            field: violation.field.clone(),
            detail: violation.description.clone(),
        }
    }
}

/// Kinds of problem that are of HTTP, not of the service.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Malformed,
    Address,
    NoRoute,
    Method,
    NotAcceptable,
    TooLarge,
    MediaType,
}

impl Problem {
    fn new(
        status: StatusCode,
        code: Code,
        (key, title): (&'static str, &'static str),
        detail: String,
    ) -> Self {
        Self {
            kind: Cow::Owned(format!("urn:pantelegraph:problem:{key}")),
            title,
            status: status.as_u16(),
            detail,
            code: code.name(),
            errors: Vec::new(),
            denied: None,
            is_early: false,
        }
    }

    fn of_http(kind: Kind, detail: impl Into<String>) -> Self {
        use StatusCode as S;
        let (status, code, words) = match kind {
            Kind::Malformed => (
                S::BAD_REQUEST,
                Code::InvalidArgument,
                ("malformed", "the body cannot be read"),
            ),
            Kind::Address => (
                S::BAD_REQUEST,
                Code::InvalidArgument,
                ("parameter", "a parameter cannot be read"),
            ),
            Kind::NoRoute => (
                S::NOT_FOUND,
                Code::Unimplemented,
                ("no-route", "there is nothing here"),
            ),
            Kind::Method => (
                S::METHOD_NOT_ALLOWED,
                Code::Unimplemented,
                ("method-not-allowed", "this cannot be done here"),
            ),
            Kind::NotAcceptable => (
                S::NOT_ACCEPTABLE,
                Code::InvalidArgument,
                ("not-acceptable", "none of the accepted forms is here"),
            ),
            Kind::TooLarge => (
                S::PAYLOAD_TOO_LARGE,
                Code::ResourceExhausted,
                ("too-large", "the body is too large"),
            ),
            Kind::MediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                Code::InvalidArgument,
                ("media-type", "the body is of another kind"),
            ),
        };
        Self::new(status, code, words, detail.into())
    }

    /// A body that is not what its type says.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::of_http(Kind::Malformed, detail)
    }

    /// A parameter of the path, the query or a header that cannot be read.
    pub(super) fn parameter(name: &str, detail: impl Into<String>) -> Self {
        Self::address(&Violations::one(name, detail))
    }

    /// What is wrong with the address of a request, as opposed to its body.
    pub(super) fn address(violations: &Violations) -> Self {
        Self::of_http(Kind::Address, violations.to_string()).with(violations.all())
    }

    /// A path that nothing is at.
    pub(super) fn no_route(path: &str) -> Self {
        let detail = format!("there is nothing at {path}; / lists what is here");
        Self::of_http(Kind::NoRoute, detail)
    }

    /// A method that is not for this path.
    pub(super) fn method(method: &http::Method, path: &str) -> Self {
        let detail = format!("{method} is not for {path}; the header Allow says what is");
        Self::of_http(Kind::Method, detail)
    }

    /// That a client takes none of the types that there are.
    pub(super) fn not_acceptable(offers: &[&str]) -> Self {
        let detail = format!("accept {}", offers.join(" or "));
        Self::of_http(Kind::NotAcceptable, detail)
    }

    /// A body, or a line of it, above the limit.
    pub(super) fn too_large(what: &str, limit: usize) -> Self {
        let detail = format!(
            "{what} is larger than {limit} bytes; raise --max-message-size or send less at a time"
        );
        Self::of_http(Kind::TooLarge, detail)
    }

    /// A body of another type than those that are read here.
    pub(super) fn media_type(is: Option<&str>, offers: &[&str]) -> Self {
        let is = is.unwrap_or("missing");
        let detail = format!("content-type is {is}; send {}", offers.join(" or "));
        Self::of_http(Kind::MediaType, detail)
    }

    fn with(mut self, violations: &[Violation]) -> Self {
        self.errors = violations.iter().map(FieldError::from).collect();
        self
    }

    /// With `name` before what is wrong, as for one of many lines.
    pub(super) fn within(mut self, name: &str) -> Self {
        self.detail = format!("{name}: {}", self.detail);
        self
    }

    /// The fields that are wrong.
    pub(super) fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// What is wrong this time.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// The code of the gRPC face.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// Status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).expect("it was made of one")
    }

    /// The document.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a problem consists of text and numbers")
    }
}

/// Word and title for each code.
fn words(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::Cancelled => ("cancelled", "the request was cancelled"),
        Code::Unknown => ("unknown", "it failed for a reason that nobody knows"),
        Code::InvalidArgument => ("invalid", "the request is wrong"),
        Code::DeadlineExceeded => ("deadline", "the time for the request is over"),
        Code::NotFound => ("not-found", "not found"),
        Code::AlreadyExists => ("exists", "it is there already"),
        Code::PermissionDenied => ("forbidden", "the caller may not do this"),
        Code::ResourceExhausted => ("limit", "more than a setting allows"),
        Code::FailedPrecondition => ("precondition", "the state does not allow it"),
        Code::Aborted => ("aborted", "it was broken off"),
        Code::OutOfRange => ("range", "beyond the end"),
        Code::Unimplemented => ("unimplemented", "the server cannot do this"),
        Code::Internal => ("internal", "the server failed"),
        Code::Unavailable => ("unavailable", "not now"),
        Code::DataLoss => ("data-loss", "data has been lost"),
        Code::Unauthenticated => ("unauthenticated", "nobody knows who calls"),
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let code = refusal.code();
        let status = match refusal {
            // It could be read, so it is its content that is wrong (RFC 9110, section 15.5.21).
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => code.http(),
        };
        let words = match refusal {
            Refusal::TooOften(_) => ("rate", "the caller asks too often"),
            _ => words(code),
        };
        let denied = match refusal {
            Refusal::Denied(denied) => Some(Box::new(denied.clone())),
            _ => None,
        };
        Self {
            denied,
            is_early: refusal.retry_after().is_some(),
            ..Self::new(status, code, words, refusal.to_string()).with(refusal.violations())
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::from(&refusal)
    }
}

impl From<Violations> for Problem {
    fn from(violations: Violations) -> Self {
        Self::from(Refusal::Invalid(violations))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        // A status of 401 has one (RFC 9110, section 15.5.2), also when it was asked for.
        let needs_one = (status == StatusCode::UNAUTHORIZED).then(|| "Bearer".to_owned());
        let challenge = self.denied.as_ref().map(|denied| denied.challenge());
        let challenge = challenge.or(needs_one);
        let mut response = (status, self.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(challenge) = challenge.and_then(|words| HeaderValue::try_from(words).ok()) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        let is_unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
        if is_unavailable || self.is_early {
            headers.insert(RETRY_AFTER, RETRY_SECONDS.into());
        }
        response
    }
}
