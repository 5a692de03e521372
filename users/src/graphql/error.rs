//! Refusals as errors of GraphQL: the kind in `extensions.code`, the fields that are wrong in
//! `extensions.violations`.

use async_graphql::{Error, ErrorExtensionValues, ServerError, Value, indexmap::IndexMap};

use crate::observe::Outcome;
use crate::refusal::{Code, Refusal, Violation};

use super::gate::MAX_COST;

/// Most errors of one answer: a document may be wrong in thousands of places.
const MAX_ERRORS: usize = 10;

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let mut error = Self::new(refusal.to_string());
        error.extensions = Some(extensions(refusal.code(), refusal.violations()));
        error
    }
}

fn extensions(code: Code, violations: &[Violation]) -> ErrorExtensionValues {
    let mut values = ErrorExtensionValues::default();
    values.set("code", code.name());
    if !violations.is_empty() {
        values.set(
            "violations",
            violations.iter().map(violation).collect::<Value>(),
        );
    }
    values
}

fn violation(violation: &Violation) -> Value {
    let text = |name: &str, value: &String| (async_graphql::Name::new(name), value.into());
    Value::Object(IndexMap::from_iter([
        text("field", &violation.field),
        text("description", &violation.description),
    ]))
}

/// An error that concerns the whole request.
pub(super) fn refused(code: Code, message: impl Into<String>) -> ServerError {
    let mut error = ServerError::new(message, None);
    error.extensions = Some(extensions(code, &[]));
    error
}

/// A refusal of the whole request.
pub(super) fn whole(refusal: &Refusal) -> ServerError {
    let mut error = ServerError::new(refusal.to_string(), None);
    error.extensions = Some(extensions(refusal.code(), refusal.violations()));
    error
}

/// What the first of these errors says, if there is one.
pub(super) fn outcome(errors: &[ServerError]) -> Outcome {
    let Some(error) = errors.first() else {
        return Outcome("OK");
    };
    let code = error.extensions.as_ref().and_then(|it| it.get("code"));
    let code = match code {
        Some(Value::String(name)) => Code::from_name(name),
        _ => None,
    };
    Outcome(code.unwrap_or(Code::Unknown).name())
}

/// Gives a code to errors that the library found, and leaves out all but the first of many.
pub(super) fn complete(errors: &mut Vec<ServerError>) {
    errors.truncate(MAX_ERRORS);
    for error in errors {
        let has_code = |extensions: &ErrorExtensionValues| extensions.get("code").is_some();
        if error.extensions.as_ref().is_some_and(has_code) {
            continue;
        }
        // The library says no more than this; a test sees to it that the words stay the same.
        if error.path.is_empty() && error.message == "Query is too complex." {
            *error = refused(
                Code::ResourceExhausted,
                format!(
                    "the request costs more than {MAX_COST}: ask for fewer users or fields at a \
                     time"
                ),
            );
            continue;
        }
        let values = error.extensions.get_or_insert_default();
        values.set("code", Code::InvalidArgument.name());
    }
}
