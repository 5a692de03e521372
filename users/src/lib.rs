//! The user service: one contract as gRPC, REST and GraphQL (`proto/user/v1`, docs/specs/users.md).

pub mod access;
pub mod admission;
pub mod chat;
pub mod cli;
pub mod client;
pub mod config;
pub mod connection;
pub mod directory;
pub mod graphql;
pub mod grpc;
pub mod live;
pub mod metrics;
pub mod observe;
pub mod origin;
pub mod refusal;
pub mod rest;
pub mod server;
pub mod service;
pub mod user;
pub mod wire;
