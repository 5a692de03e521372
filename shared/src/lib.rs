//! What both stations of Pantelegraph agree on: images, digests, chunks, the wire, clocks,
//! settings and reports. Nothing here knows a transport or a camera.

#[cfg(feature = "calls")]
pub mod calls;
pub mod chunk;
pub mod clock;
#[cfg(feature = "connect")]
pub mod connect;
pub mod digest;
pub mod disk;
#[cfg(feature = "door")]
pub mod door;
pub mod image;
pub mod lifecycle;
pub mod listen;
pub mod receipt;
pub mod report;
pub mod sabotage;
pub mod security;
pub mod settings;
pub mod telemetry;
pub mod trace;
pub mod wire;
