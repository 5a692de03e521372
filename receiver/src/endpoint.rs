//! The receiver's side of each transport. Only here are gRPC, WebSocket and HTTP known.

pub mod grpc;
pub mod http;
pub mod rest;
pub mod session;
pub mod websocket;
