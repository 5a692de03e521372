//! Who gets in, and what they may do: for the pair and the user service alike.
//!
//! A caller shows a certificate or a token; [`access`] makes a [`Caller`](access::Caller) of it or says
//! why not. What is kept secret is a [`Secret`].

pub mod access;
pub mod bearer;
pub mod identity;
#[cfg(all(feature = "tls", feature = "tokens"))]
pub mod live;
#[cfg(all(feature = "tls", feature = "tokens"))]
pub mod policy;
#[cfg(feature = "door")]
pub mod rate;
mod secret;
#[cfg(feature = "tls")]
pub mod settings;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tokens")]
pub mod tokens;

pub use secret::Secret;
