//! `pantelegraph keys`: a private CA in a folder, and tokens.

mod authority;
mod folder;
mod issue;
mod renew;
mod revoke;
mod show;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
pub(crate) mod tests;
mod token;

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use shared::telemetry::say;

use crate::cli::keys::{Keys, KeysCommand};
use folder::Folder;

/// Why something was not made.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    /// Something cannot be done to a file or folder.
    #[error("{} cannot be {doing}: {source}{}", path.display(), advice(source))]
    File {
        path: PathBuf,
        doing: Doing,
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Content { path: PathBuf, problem: String },
    /// A private key would be lost.
    #[error("{} is there already; --force puts a new one in its place, and the old one is gone", .0.display())]
    Exists(PathBuf),
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// As things are in the folder, it is not done.
    #[error("{0}")]
    Refused(String),
    /// A certificate cannot be made.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// There are no random numbers.
    #[error("this system gives no random numbers")]
    Random,
}

impl KeysError {
    /// The exit code of the program.
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }
}

/// What is done to a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Read,
    Written,
    Made,
    Locked,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Written => "written",
            Self::Made => "made",
            Self::Locked => "locked",
        })
    }
}

/// What to do about it.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::PermissionDenied => {
            "; run this as the user whom the folder belongs to, or choose another folder (--dir)"
        }
        ErrorKind::ReadOnlyFilesystem => "; choose a folder that can be written (--dir)",
        ErrorKind::StorageFull => "; free some space on its disk",
        _ => "",
    }
}

/// Does what was asked for.
pub(crate) fn run(keys: &Keys) -> ExitCode {
    match attempt(keys) {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("pantelegraph keys: {error}"));
            ExitCode::from(error.code())
        }
    }
}

fn attempt(keys: &Keys) -> Result<ExitCode, KeysError> {
    let folder = Folder::open(&keys.dir)?;
    match &keys.command {
        KeysCommand::Init(options) => authority::init(&folder, options),
        KeysCommand::Issue(options) => issue::issue(&folder, options),
        KeysCommand::Renew(options) => renew::renew(&folder, options),
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
