//! The user service: one contract as gRPC, REST and GraphQL (`proto/user/v1`, docs/specs/users.md).

pub mod wire;
