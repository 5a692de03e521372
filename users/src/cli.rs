//! The command line of the server: `pantelegraph users serve`.

mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::ffi::OsString;
use std::path::Path;

pub use shared::settings::CliError;
use shared::settings::{Environment, Program, Read, Request};

use crate::config::Config;

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// A signal stopped it.
    Stopped = 0,
    /// The settings are wrong.
    Usage = 2,
    /// A listener could not be opened.
    ListenFailed = 69,
    /// A defect of the program.
    Internal = 70,
    /// The file with the users cannot be used.
    DataUnusable = 74,
    /// The certificates cannot be used.
    TlsUnusable = 78,
}

impl Exit {
    /// The exit code.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// The server and its settings.
pub static PROGRAM: Program = Program {
    name: "pantelegraph users serve",
    version: env!("CARGO_PKG_VERSION"),
    prefix: "USERS",
    about: "Serves users over gRPC, gRPC-Web, REST and GraphQL",
    groups: table::GROUPS,
    examples: r"
  On this machine, users in memory:
    pantelegraph users serve

  Users in a file, and tokens; without one, everything but giving the role admin:
    openssl rand -hex 32 > users.key
    pantelegraph users serve --data users.sqlite --token-key-file users.key --allow-anonymous

  For others in the network, encrypted (see `pantelegraph keys`):
    pantelegraph users serve --grpc-listen 0.0.0.0:50051 --tls-cert users.pem --tls-key users.key \
      --token-key-file tokens.pem

  All faces on one encrypted port, and no other:
    pantelegraph users serve --grpc-listen off --http-listen off --listen-all 0.0.0.0:8443 \
      --tls-cert users.pem --tls-key users.key --token-key-file tokens.pem

  Then, in another terminal:
    pantelegraph users call get-user --id 1
    curl http://127.0.0.1:8000/users/1
    open http://127.0.0.1:8000/docs and http://127.0.0.1:8000/graphql in a browser
",
    exit_codes: &[
        (Exit::Stopped as u8, "stopped by a signal"),
        (Exit::Usage as u8, "the settings are wrong"),
        (
            Exit::ListenFailed as u8,
            "a listener could not be opened; the message says which, who has the port, and what to do",
        ),
        (Exit::Internal as u8, "internal error"),
        (
            Exit::DataUnusable as u8,
            "the file with the users cannot be used",
        ),
        (
            Exit::TlsUnusable as u8,
            "a certificate, its key or a CA cannot be used; the message names the file",
        ),
    ],
};

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// To serve with this configuration.
    Serve(Box<Config>, Read),
    /// To print this text to standard output, as it is, and to end.
    Print(String),
}

/// Reads the settings from all sources. `args` begins with the program's name; `dotenv` is the
/// `.env` file, which need not exist.
///
/// # Errors
/// All mistakes in the settings at once. The exit code for them is [`CliError::EXIT_CODE`].
pub fn parse(
    args: impl Iterator<Item = OsString>,
    env: &dyn Environment,
    dotenv: Option<&Path>,
) -> Result<Invocation, CliError> {
    let mut values = match shared::settings::read(&PROGRAM, args, env, dotenv)? {
        Request::Use(values) => values,
        Request::Print(text) => return Ok(Invocation::Print(text)),
        Request::Complete { shell, command } => {
            return Ok(Invocation::Print(completions(&shell, *command)));
        }
    };
    let config = Config::from_values(&mut values);
    values.finish()?;
    Ok(match values.printed() {
        Some(text) => Invocation::Print(text),
        None => Invocation::Serve(Box::new(config), values.told()),
    })
}

/// Reads the settings once more, of a command line that asked to [serve](Invocation::Serve).
///
/// # Errors
/// All mistakes in the settings at once.
///
/// # Panics
/// When the command line is another.
pub fn read_again(
    args: impl Iterator<Item = OsString>,
    env: &dyn Environment,
    dotenv: Option<&Path>,
) -> Result<(Config, Read), CliError> {
    match parse(args, env, dotenv)? {
        Invocation::Serve(config, read) => Ok((*config, read)),
        Invocation::Print(_) => unreachable!("no file and no variable asks for a text"),
    }
}

fn completions(shell: &str, mut command: clap::Command) -> String {
    let shell: clap_complete::Shell = shell.parse().expect("the shells offered are clap's");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "pantelegraph", &mut script);
    String::from_utf8(script).expect("completions of an ASCII table are ASCII")
}
