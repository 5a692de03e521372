//! Clients that are broken, careless or malicious, at the level of the protocols: each gets a clear
//! answer, nothing wrong becomes visible, and the next good image is stored.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "hostile/losses.rs"]
mod losses;
#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/rest.rs"]
mod rest;
#[path = "hostile/session.rs"]
mod session;
#[path = "hostile/transport.rs"]
mod transport;
