//! The command line of the transmitter.

use std::ffi::OsString;
use std::path::Path;

pub use shared::settings::CliError;
use shared::settings::{Environment, Program, Read, Request};

use crate::config::Config;
use crate::outbox::tool::arguments::WORD;

pub use outbox::use_outbox;

mod outbox;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

/// How a transmitter ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every image is delivered, or was kept on disk when it was stopped.
    Delivered = 0,
    /// The settings are wrong.
    Usage = 2,
    /// Everything has an answer, but the receiver quarantined some images.
    Quarantined = 64,
    /// Some images are lost.
    Lost = 65,
    /// No receiver could be reached, or let this station in, in the time of `--give-up-after`, or a listener
    /// failed.
    Unreachable = 66,
    /// The source of images failed.
    SourceFailed = 67,
    /// A defect of the program.
    Internal = 70,
    /// The outbox or the file of receipts cannot be used.
    Outbox = 74,
    /// It was stopped while it still owed images that nothing keeps.
    StillOwed = 75,
    /// The certificates cannot be used (`EX_CONFIG` of sysexits.h).
    Configuration = 78,
}

impl Exit {
    /// The exit code.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// The transmitter and its settings.
pub static PROGRAM: Program = Program {
    name: "pantelegraph-transmitter",
    version: env!("CARGO_PKG_VERSION"),
    prefix: "TRANSMITTER",
    about: "Streams images off an edge device over gRPC, WebSocket or REST",
    groups: table::GROUPS,
    examples: r"
  Ten generated images, one a second, to a receiver on this machine:
    pantelegraph-transmitter --pattern 1920x1080 --count 10 --delay 1s

  A folder for ever, over gRPC; each file goes to the archive once its receipt has come:
    pantelegraph-transmitter --folder /var/spool/camera --after-delivery archive:/var/sent \
      --to http://station.example:50051

  One photograph a hundred times over each transport, with a report to compare them:
    pantelegraph-transmitter --file photo.jpg --repeat 100 \
      --transport websocket,grpc,rest --to http://station.example --report report.json

  A camera through ffmpeg, five images a second, for receivers that dial in (--pull):
    pantelegraph-transmitter --listen 0.0.0.0:8081 --rate 5/s \
      --tls-ca ca.pem --tls-cert tls.pem --tls-key tls.key \
      --command 'ffmpeg -loglevel error -i /dev/video0 -f image2pipe -c:v mjpeg -'

  What is owed while no transmitter runs; more with outbox --help:
    pantelegraph-transmitter outbox list --outbox ./outbox
",
    exit_codes: &[
        (
            Exit::Delivered as u8,
            "all images are delivered, or stopped with the rest kept in the outbox",
        ),
        (Exit::Usage as u8, "the settings are wrong"),
        (
            Exit::Quarantined as u8,
            "some images were quarantined by the receiver",
        ),
        (Exit::Lost as u8, "some images were lost"),
        (
            Exit::Unreachable as u8,
            "no receiver was reached, or let it in (--give-up-after), or a listener failed",
        ),
        (Exit::SourceFailed as u8, "the source of images failed"),
        (Exit::Internal as u8, "internal error"),
        (
            Exit::Outbox as u8,
            "the outbox or the file of receipts cannot be used",
        ),
        (
            Exit::StillOwed as u8,
            "stopped with images still owed that were in memory only",
        ),
        (
            Exit::Configuration as u8,
            "the certificates cannot be used (--tls-ca, --tls-cert, --tls-key, --tls-crl)",
        ),
    ],
};

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// To run with this configuration.
    Run(Box<Config>, Read),
    /// To look into an outbox, with [`use_outbox`].
    Outbox(Box<crate::outbox::tool::Request>),
    /// To print this text to standard output, as it is, and to end.
    Print(String),
    /// To print this text to standard error, as it is, and to end as after a mistake.
    Refuse(String),
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
    let mut args = args.peekable();
    let program = args.next();
    if args.peek().is_some_and(|word| word == WORD) {
        return outbox::parse(program, args.skip(1), env, dotenv);
    }
    let args = program.into_iter().chain(args);
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
        None => {
            let mut read = values.told();
            read.warnings.extend(config.warnings());
            Invocation::Run(Box::new(config), read)
        }
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
        other => unreachable!("no file and no variable asks for {other:?}"),
    }
}

fn completions(shell: &str, mut command: clap::Command) -> String {
    let shell: clap_complete::Shell = shell.parse().expect("the shells offered are clap's");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, PROGRAM.name, &mut script);
    String::from_utf8(script).expect("completions of an ASCII table are ASCII")
}
