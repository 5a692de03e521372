//! The command line of the receiver.

use std::ffi::OsString;
use std::path::Path;

pub use shared::settings::CliError;
use shared::settings::{Environment, Program, Read, Request};

use crate::config::Config;

pub mod fsck;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

/// How a receiver ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// A signal stopped it, or a check found everything in order.
    Stopped = 0,
    /// A check found problems.
    Problems = 1,
    /// The settings are wrong.
    Usage = 2,
    /// A listener could not be opened.
    ListenFailed = 69,
    /// A defect of the program.
    Internal = 70,
    /// The data folder or the catalogue cannot be used.
    DataUnusable = 74,
    /// The certificates cannot be used.
    ConfigUnusable = 78,
}

impl Exit {
    /// The exit code.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// The receiver and its settings.
pub static PROGRAM: Program = Program {
    name: "pantelegraph-receiver",
    version: env!("CARGO_PKG_VERSION"),
    prefix: "RECEIVER",
    about: "Timestamps, verifies, stores and accounts for images from transmitters",
    groups: table::GROUPS,
    examples: r"
  For transmitters on this machine, images under ./data:
    pantelegraph-receiver

  For transmitters in the network that show a certificate, images on a disk of their own
  (`pantelegraph keys` makes the files):
    pantelegraph-receiver --grpc-listen 0.0.0.0:50051 --http-listen 0.0.0.0:8080 \
      --tls-cert gw/cert.pem --tls-key gw/key.pem --tls-client-ca gw/ca.pem \
      --data /srv/images

  The same with all transports on one port:
    pantelegraph-receiver --grpc-listen off --http-listen off --listen-all 0.0.0.0:8443 \
      --tls-cert gw/cert.pem --tls-key gw/key.pem --tls-client-ca gw/ca.pem

  For everybody in a network that is trusted:
    pantelegraph-receiver --grpc-listen 0.0.0.0:50051 --http-listen 0.0.0.0:8080 --insecure

  Only gRPC, each image decoded as a whole before its receipt:
    pantelegraph-receiver --http-listen off --verify full

  Dialling two cameras that wait for it (pantelegraph-transmitter --listen):
    pantelegraph-receiver --grpc-listen off \
      --pull ws://camera-1.example:8081,ws://camera-2.example:8081

  Checking all images while no receiver runs (fsck --help says more):
    pantelegraph-receiver fsck --data /srv/images
",
    exit_codes: &[
        (Exit::Stopped as u8, "stopped by a signal"),
        (Exit::Usage as u8, "the settings are wrong"),
        (
            Exit::ListenFailed as u8,
            "a listener could not be opened; the message says which, and what to do",
        ),
        (Exit::Internal as u8, "internal error"),
        (
            Exit::DataUnusable as u8,
            "the data folder or the catalogue in it cannot be used",
        ),
        (
            Exit::ConfigUnusable as u8,
            "the certificates cannot be used; the message says which file, and why",
        ),
    ],
};

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// To run with this configuration.
    Run(Box<Config>, Read),
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
        None => Invocation::Run(Box::new(config), values.told()),
    })
}

/// Reads the settings once more, of a command line that asked to [run](Invocation::Run).
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
        Invocation::Run(config, read) => Ok((*config, read)),
        Invocation::Print(_) => unreachable!("no file and no variable asks for a text"),
    }
}

fn completions(shell: &str, mut command: clap::Command) -> String {
    let shell: clap_complete::Shell = shell.parse().expect("the shells offered are clap's");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, PROGRAM.name, &mut script);
    String::from_utf8(script).expect("completions of an ASCII table are ASCII")
}
