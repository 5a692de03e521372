//! The transmitter: takes images from a source and owes each of them until its receipt has come.
//!
//! `capture` brings images in, `outbox` keeps what is owed, `delivery` decides what is sent when,
//! `link` carries it over one transport. Only `link` knows gRPC, WebSocket and HTTP.

pub mod capture;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod limiter;
pub mod link;
pub mod live;
pub mod outbox;
pub mod pace;
pub mod payload;
pub mod progress;
pub mod receipts;
pub mod run;
pub mod status;
mod workers;
