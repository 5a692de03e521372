//! The contract as generated code, and its way to the domain and back.

use std::time::Duration;

use crate::chat::Message;
use crate::refusal::{Refusal, Violation};
use crate::user::{Draft, User};

/// Code generated from `proto/user/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod proto {
    tonic::include_proto!("user.v1");
}

/// The contract as a `google.protobuf.FileDescriptorSet`, with all that it imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/user.bin"));

/// Full name of the service.
pub const SERVICE: &str = "user.v1.UserService";

/// A user as the contract has it.
pub fn user_to_proto(user: &User) -> proto::UserResponse {
    let fields = &user.fields;
    proto::UserResponse {
        user_id: user.id,
        name: fields.name().to_owned(),
        email: fields.email().to_owned(),
        age: i32::from(fields.age()),
        created_at: Some(time_to_proto(user.created_at)),
        roles: fields.roles().iter().map(ToString::to_string).collect(),
    }
}

/// The fields of a request, which are yet to be checked.
pub fn draft_from_proto(request: proto::CreateUserRequest) -> Draft {
    Draft {
        name: request.name,
        email: request.email,
        age: request.age,
        roles: request.roles,
    }
}

/// A message of the chat as the contract has it.
pub fn message_to_proto(message: &Message) -> proto::ChatMessage {
    proto::ChatMessage {
        user: message.user.clone(),
        text: message.text.clone(),
        sequence: message.sequence,
        sent_at: Some(time_to_proto(message.sent_at)),
    }
}

/// A refusal of one message of a stream.
pub fn refusal_to_proto(refusal: &Refusal) -> proto::Refusal {
    let violation = |violation: &Violation| proto::FieldViolation {
        field: violation.field.clone(),
        description: violation.description.clone(),
    };
    proto::Refusal {
        code: refusal.code().number(),
        message: refusal.to_string(),
        violations: refusal.violations().iter().map(violation).collect(),
    }
}

/// A time as the contract has it.
pub fn time_to_proto(time: jiff::Timestamp) -> prost_types::Timestamp {
    // Towards the past, as protobuf counts: 0 to 999,999,999 nanoseconds after a second.
    let nanoseconds = time.as_nanosecond();
    let second = nanoseconds.div_euclid(1_000_000_000);
    let rest = nanoseconds.rem_euclid(1_000_000_000);
    prost_types::Timestamp {
        seconds: i64::try_from(second).expect("a time has a second of 64 bits"),
        nanos: i32::try_from(rest).expect("a second has fewer nanoseconds than 31 bits"),
    }
}

/// A time of the contract, if it is one.
pub fn time_from_proto(time: &prost_types::Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.seconds, time.nanos).ok()
}

/// A duration of the contract, if it is not negative.
pub fn duration_from_proto(duration: &prost_types::Duration) -> Option<Duration> {
    let (seconds, nanos) = (duration.seconds.try_into(), duration.nanos.try_into());
    let nanos = nanos.ok().filter(|nanos: &u32| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds.ok()?, nanos))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
