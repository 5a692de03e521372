//! Why the service says no, in one form for all of its faces.

use std::fmt;
use std::time::Duration;

use shared::security::access::{Denied, Unknown};

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Its name as the contract has it, for example `email` or `roles[2]`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub description: String,
}

/// All fields of a request that are wrong; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// One field that is wrong.
    pub fn one(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self(vec![Violation {
            field: field.into(),
            description: description.into(),
        }])
    }

    /// Those that were found, if any were.
    ///
    /// # Errors
    /// They themselves.
    pub fn check(found: Vec<Violation>) -> Result<(), Self> {
        if found.is_empty() {
            return Ok(());
        }
        Err(Self(found))
    }

    /// The fields.
    pub fn all(&self) -> &[Violation] {
        &self.0
    }

    /// With `prefix` before the name of each field, as for one of many users.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> Self {
        for violation in &mut self.0 {
            violation.field = format!("{prefix}.{}", violation.field);
            violation.description = format!("{prefix}: {}", violation.description);
        }
        self
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, violation) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}", violation.description)?;
        }
        Ok(())
    }
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request is wrong, whatever the state of the service.
    #[error("{0}")]
    Invalid(Violations),
    /// There is no user with this id.
    #[error("User {0} not found")]
    NotFound(i32),
    /// More than a setting allows.
    #[error("{what}; raise --{setting} or {instead}")]
    Limit {
        /// What is too large or too many, with its limit.
        what: String,
        /// The server's setting.
        setting: &'static str,
        /// What the client can do.
        instead: &'static str,
    },
    /// The caller asks more often than it may; after this time there may be another request.
    #[error(
        "requests come more often than this server's --max-requests-per-second allows; try again a little \
         later"
    )]
    TooOften(Duration),
    /// The client did not read what others did.
    #[error("{0}")]
    TooSlow(String),
    /// Nobody knows who calls, or the caller may not do this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The caller may not do this, for a reason of this service.
    #[error("{0}")]
    Forbidden(&'static str),
    /// Not now.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The caller has gone.
    #[error("the caller cancelled")]
    Cancelled,
    /// The time that the caller gave is over.
    #[error("the deadline of the call has passed")]
    DeadlineExceeded,
    /// A failure of the service; its cause is for the log, not for the caller.
    #[error("the service failed; its log says why")]
    Internal,
    /// What the caller asked for through Echo.
    #[error("answered with this status because the request asked for it")]
    AskedFor(Code),
}

/// Kind of a refusal: the codes of gRPC, which the other faces translate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// 1.
    Cancelled,
    /// 2.
    Unknown,
    /// 3.
    InvalidArgument,
    /// 4.
    DeadlineExceeded,
    /// 5.
    NotFound,
    /// 6.
    AlreadyExists,
    /// 7.
    PermissionDenied,
    /// 8.
    ResourceExhausted,
    /// 9.
    FailedPrecondition,
    /// 10.
    Aborted,
    /// 11.
    OutOfRange,
    /// 12.
    Unimplemented,
    /// 13.
    Internal,
    /// 14.
    Unavailable,
    /// 15.
    DataLoss,
    /// 16.
    Unauthenticated,
}

impl Code {
    /// All of them, by their numbers from 1.
    pub const ALL: [Self; 16] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// Its number in `google.rpc.Code`.
    pub fn number(self) -> i32 {
        let position = Self::ALL.iter().position(|code| *code == self);
        position
            .and_then(|position| i32::try_from(position + 1).ok())
            .expect("all codes are in the list, and there are 16")
    }

    /// The code with this number.
    pub fn from_number(number: i32) -> Option<Self> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// Its name in `google.rpc.Code`, for example `NOT_FOUND`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// The code with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == name)
    }

    /// The status of HTTP for it, by the table in `google/rpc/code.proto`. An argument that is wrong
    /// is 422 where the request could be read, and 400 where it could not; the REST face knows.
    pub fn http(self) -> http::StatusCode {
        use http::StatusCode as S;
        match self {
            // 499 is nginx's, and the table's.
            Self::Cancelled => S::from_u16(499).expect("it has three digits"),
            Self::Unknown | Self::Internal | Self::DataLoss => S::INTERNAL_SERVER_ERROR,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => S::BAD_REQUEST,
            Self::DeadlineExceeded => S::GATEWAY_TIMEOUT,
            Self::NotFound => S::NOT_FOUND,
            Self::AlreadyExists | Self::Aborted => S::CONFLICT,
            Self::PermissionDenied => S::FORBIDDEN,
            Self::ResourceExhausted => S::TOO_MANY_REQUESTS,
            Self::Unimplemented => S::NOT_IMPLEMENTED,
            Self::Unavailable => S::SERVICE_UNAVAILABLE,
            Self::Unauthenticated => S::UNAUTHORIZED,
        }
    }
}

impl Refusal {
    /// Its kind.
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::Limit { .. } | Self::TooOften(_) | Self::TooSlow(_) => Code::ResourceExhausted,
            Self::Denied(Denied::Unknown(_)) => Code::Unauthenticated,
            Self::Denied(_) | Self::Forbidden(_) => Code::PermissionDenied,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Cancelled => Code::Cancelled,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Internal => Code::Internal,
            Self::AskedFor(code) => *code,
        }
    }

    /// What HTTP tells a client to show, where that would help.
    pub fn challenge(&self) -> Option<String> {
        match self {
            Self::Denied(denied) => Some(denied.challenge()),
            _ => None,
        }
    }

    /// After how many seconds it is worth to try again, where that is known; not a moment too early.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooOften(time) => Some(time.as_millis().div_ceil(1_000).try_into().unwrap_or(1)),
            _ => None,
        }
    }

    /// The fields that are wrong.
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Invalid(violations) => violations.all(),
            _ => &[],
        }
    }

    /// A failure whose cause goes to the log.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = shared::telemetry::chain(error), "a request failed");
        Self::Internal
    }

    /// That the server stops.
    pub fn stopping() -> Self {
        Self::Unavailable("the server is stopping; call another one, or this one later")
    }
}

impl From<Unknown> for Refusal {
    fn from(unknown: Unknown) -> Self {
        Self::Denied(unknown.into())
    }
}

impl From<Violations> for Refusal {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_numbers_and_names_of_grpc() {
        for code in Code::ALL {
            let grpc = tonic::Code::from(code.number());
            assert_eq!(grpc as i32, code.number());
            let name = format!("{grpc:?}");
            assert_eq!(name.to_uppercase(), code.name().replace('_', ""));
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        assert_eq!(Code::from_number(0), None);
        assert_eq!(Code::from_number(17), None);
        assert_eq!(Code::from_number(-1), None);
    }
}
