//! `pantelegraph keys`: a private CA in a folder, and tokens.

mod authority;
mod folder;
mod issue;
mod revoke;
mod show;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
pub(crate) mod tests;
mod token;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use shared::telemetry::say;

use crate::cli::keys::{Keys, KeysCommand};
use folder::Folder;

/// Why something was not made.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Content { path: PathBuf, problem: String },
    /// A private key would be lost.
    #[error("{} is there already; --force puts a new one in its place, and the old one is gone", .0.display())]
    Exists(PathBuf),
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// A certificate cannot be made.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// There are no random numbers.
    #[error("this system gives no random numbers")]
    Random,
}

/// Does what was asked for.
pub(crate) fn run(keys: &Keys) -> ExitCode {
    match attempt(keys) {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("pantelegraph keys: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn attempt(keys: &Keys) -> Result<ExitCode, KeysError> {
    let folder = Folder::open(&keys.dir)?;
    match &keys.command {
        KeysCommand::Init(options) => authority::init(&folder, options),
        KeysCommand::Issue(options) => issue::issue(&folder, options),
        KeysCommand::Renew(options) => issue::renew(&folder, options),
        KeysCommand::Revoke(options) => revoke::revoke(&folder, options),
        KeysCommand::Show(options) => show::show(&folder, options),
        KeysCommand::Token(options) => token::token(&folder, options),
    }
}

/// Prints to standard output. A reader that has gone (`| head`) is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
