//! Encrypted connections: TLS 1.3, with certificates of one side or of both.
//!
//! A [`ServerTls`] shakes hands with those who come, a [`ClientTls`] with those that are dialled. Both
//! take their certificates from files and notice when these change; connections that are there stay,
//! unless the client's certificate is good no more.

mod certificate;
mod client;
mod files;
mod refusal;
mod revocation;
mod server;
mod suites;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::path::PathBuf;

use tokio::io::BufReader;

pub use certificate::{Certificate, validity};
pub use client::{ClientFiles, ClientTls, PreparedClient};
pub use refusal::{Refused, turned_down};
pub use server::{Accepted, ClientAuth, Ended, Prepared, Reloaded, ServerFiles, ServerTls};
pub use suites::has_aes;

/// What the two protocols of HTTP are called in a handshake (RFC 7301).
pub const H2: &[u8] = b"h2";
/// The older one, on which WebSocket stands too.
pub const HTTP_1_1: &[u8] = b"http/1.1";

/// An encrypted connection that a client made.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<BufReader<S>>;
/// An encrypted connection that this side made.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<BufReader<S>>;

/// What is read from the socket at a time. rustls itself asks for a record or less, which costs a system
/// call for each 4 to 16 KiB.
pub const READ_BUFFER: u64 = 256 << 10;

/// Why certificates cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The system has no certificates to trust in.
    #[error("this system trusts in nobody ({0}); name the receiver's CA with --tls-ca")]
    NoRoots(String),
    /// They do not go together.
    #[error("{0}")]
    Unusable(String),
}
