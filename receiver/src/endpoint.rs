//! The receiver's side of the transports.

pub mod http;
