use super::*;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};

/// Every field of the contract: message, number, name, type. A line may be added, none changed or
/// removed: what has been given out is read by old programs for ever.
const FIELDS: &str = "
BatchCreateUsersResponse 1 users_created int32
BatchCreateUsersResponse 2 user_ids repeated int32
ChatMessage 1 user string
ChatMessage 2 text string
ChatMessage 3 sequence uint64
ChatMessage 4 sent_at google.protobuf.Timestamp
CreateUserRequest 1 name string
CreateUserRequest 2 email string
CreateUserRequest 3 age int32
CreateUserRequest 4 roles repeated string
EchoRequest 1 payload repeated string
EchoRequest 2 delay google.protobuf.Duration
EchoRequest 3 code int32
EchoResponse 1 payload repeated string
FieldViolation 1 field string
FieldViolation 2 description string
GetUserRequest 1 user_id int32
ListUsersRequest 1 limit int32
ListUsersRequest 2 follow bool
ListUsersRequest 3 after_user_id int32
Refusal 1 code int32
Refusal 2 message string
Refusal 3 violations repeated user.v1.FieldViolation
StreamUsersRequest 1 user user.v1.CreateUserRequest
StreamUsersRequest 2 answer_mode user.v1.AnswerMode
StreamUsersResponse 1 sequence uint64
StreamUsersResponse 2 created user.v1.UserResponse
StreamUsersResponse 3 refused user.v1.Refusal
UserResponse 1 user_id int32
UserResponse 2 name string
UserResponse 3 email string
UserResponse 4 age int32
UserResponse 5 created_at google.protobuf.Timestamp
UserResponse 6 roles repeated string
";

/// Every call of the contract.
const CALLS: &str = "
BatchCreateUsers stream CreateUserRequest -> BatchCreateUsersResponse
Chat stream ChatMessage -> stream ChatMessage
CreateUser CreateUserRequest -> UserResponse
Echo EchoRequest -> EchoResponse
GetUser GetUserRequest -> UserResponse
ListUsers ListUsersRequest -> stream UserResponse
StreamUsers stream StreamUsersRequest -> stream StreamUsersResponse
";

fn contract() -> prost_types::FileDescriptorProto {
    let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let file = set
        .file
        .into_iter()
        .find(|file| file.package() == "user.v1");
    file.unwrap()
}

fn type_of(field: &prost_types::FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    match field.label() {
        Label::Repeated => format!("repeated {name}"),
        _ => name,
    }
}

#[test]
fn fields_of_the_contract_keep_their_numbers_for_ever() {
    let mut found = Vec::new();
    for message in &contract().message_type {
        for field in &message.field {
            let (number, name) = (field.number(), field.name());
            found.push(format!(
                "{} {number} {name} {}",
                message.name(),
                type_of(field)
            ));
        }
    }
    found.sort();
    let expected: Vec<&str> = FIELDS.trim().lines().collect();
    assert_eq!(found, expected);
}

#[test]
fn calls_of_the_contract_stay_what_they_are() {
    let contract = contract();
    let mut found = Vec::new();
    for call in &contract.service[0].method {
        let side = |stream: bool, name: &str| {
            let name = name.rsplit('.').next().unwrap().to_owned();
            if stream {
                format!("stream {name}")
            } else {
                name
            }
        };
        let input = side(call.client_streaming(), call.input_type());
        let output = side(call.server_streaming(), call.output_type());
        found.push(format!("{} {input} -> {output}", call.name()));
    }
    found.sort();
    let expected: Vec<&str> = CALLS.trim().lines().collect();
    assert_eq!(found, expected);
    let name = format!("{}.{}", contract.package(), contract.service[0].name());
    assert_eq!(name, SERVICE);
}

#[test]
fn times_go_there_and_back() {
    for time in [
        "2026-01-01T09:00:00Z",
        "2026-11-21T10:11:12.345Z",
        "1965-02-03T04:05:06.7Z",
    ] {
        let time: jiff::Timestamp = time.parse().unwrap();
        let proto = time_to_proto(time);
        assert!((0..1_000_000_000).contains(&proto.nanos));
        assert_eq!(time_from_proto(&proto), Some(time));
    }
}

#[test]
fn negative_durations_are_none() {
    let duration = |seconds, nanos| duration_from_proto(&prost_types::Duration { seconds, nanos });
    assert_eq!(duration(1, 500_000_000), Some(Duration::from_millis(1_500)));
    assert_eq!(duration(-1, 0), None);
    assert_eq!(duration(0, -1), None);
    assert_eq!(duration(0, i32::MAX), None);
}
