//! The receiver: timestamps, verifies, stores and accounts for images.
//!
//! `endpoint` speaks gRPC, WebSocket and HTTP, `intake` turns what arrives into verified images,
//! `store` keeps their bytes, `catalog` what is known of them, `report` adds it up.

pub mod budget;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod endpoint;
pub mod fsck;
pub mod intake;
pub mod live;
pub mod metrics;
pub mod problem;
pub mod report;
pub mod server;
pub mod store;
