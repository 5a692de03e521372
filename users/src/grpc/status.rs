//! Refusals as statuses of gRPC.

use http::Response;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::refusal::{Refusal, Violation};
use crate::service::Limits;

/// A refusal as gRPC says it: code, words, and the fields that are wrong as `google.rpc.BadRequest`.
pub fn refused(refusal: &Refusal) -> Status {
    let code = Code::from(refusal.code().number());
    let message = refusal.to_string();
    let mut details = ErrorDetails::new();
    match refusal {
        Refusal::Invalid(violations) => {
            let violation =
                |v: &Violation| FieldViolation::new(v.field.as_str(), v.description.as_str());
            let fields: Vec<_> = violations.all().iter().map(violation).collect();
            details.set_bad_request(fields);
        }
        Refusal::NotFound(id) => {
            details.set_resource_info("user.v1.User", format!("users/{id}"), "", message.as_str());
        }
        Refusal::TooOften(time) => {
            details.set_retry_info(Some(*time));
        }
        _ => return Status::new(code, message),
    }
    let mut status = Status::with_error_details(code, message, details);
    if let Refusal::TooOften(time) = refusal {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        // For the retries of clients' libraries (proposal A6).
        status
            .metadata_mut()
            .insert("grpc-retry-pushback-ms", millis.into());
    }
    status
}

/// What tonic says of a message that is too large, with the setting to change; other statuses as they
/// are.
pub fn explain(status: Status, limits: &Limits) -> Status {
    let Some(size) = oversize(&status) else {
        return status;
    };
    let limit = limits.max_message_size;
    Status::resource_exhausted(format!(
        "a message of {size} bytes exceeds this server's limit of {limit} bytes; raise its \
         --max-message-size or send smaller messages"
    ))
}

/// The size of a message that was too large to be decoded.
fn oversize(status: &Status) -> Option<u64> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let (_, rest) = status
        .message()
        .split_once("decoded message length too large: found ")?;
    rest.split(' ').next()?.parse().ok()
}

/// As [`explain`], for answers that consist of a status only.
pub(super) fn explain_response<B>(response: Response<B>, limits: &Limits) -> Response<B>
where
    B: Default,
{
    let status = match response.headers().get("grpc-status") {
        Some(status) if status == "11" => Status::from_header_map(response.headers()),
        _ => None,
    };
    match status {
        Some(status) if oversize(&status).is_some() => explain(status, limits).into_http(),
        _ => response,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::refusal::Violations;

    #[test]
    fn wrong_fields_are_in_the_details() {
        let refusal = Refusal::Invalid(Violations::one("user_id", "ID must be positive"));
        let status = refused(&refusal);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "ID must be positive");
        let details = status.get_error_details();
        let fields = &details.bad_request().unwrap().field_violations;
        assert_eq!(fields[0].field, "user_id");
    }

    #[test]
    fn other_statuses_are_left_alone() {
        let status = Status::out_of_range("page 7 of 3");
        let explained = explain(status, &Limits::default());
        assert_eq!(explained.code(), Code::OutOfRange);
    }
}
