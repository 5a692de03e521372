//! Settings of the daemons: one table per program says what there is; flags, environment, `.env`,
//! a TOML file and the defaults say what it is set to, in this order of precedence.
//!
//! A daemon describes itself in a [`Program`], calls [`read`], builds its configuration from the
//! [`Values`] it gets (every mistake on the way is noted, none ends the reading) and asks
//! [`Values::finish`] whether the result counts.

use std::ffi::OsString;
use std::path::Path;

pub mod address;
mod arguments;
mod environment;
mod in_force;
mod mistakes;
mod output;
mod secrets;
mod sources;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
pub mod units;
mod values;

pub use environment::{Environment, ProcessEnvironment, host_name};
pub use in_force::{Change, InForce, Read};
pub use mistakes::CliError;
pub use output::env_example;
pub use secrets::mask_passwords;
pub use table::{Group, Kind, Program, Setting};
pub use values::{Changed, Values};

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To use these values, or to print them.
    Use(Box<Values>),
    /// This text on standard output: help or version, or the settings for an `.env` file.
    Print(String),
    /// The completions for this shell.
    Complete {
        /// Name of the shell.
        shell: String,
        /// What is completed.
        command: Box<clap::Command>,
    },
}

/// Reads all sources. `args` begins with the program's name; `dotenv` is the file that is read in
/// addition to the environment when it is there.
///
/// # Errors
/// Only when the command line is such that nothing more can be learnt from it. All other mistakes
/// wait in the values for [`Values::finish`].
pub fn read(
    program: &'static Program,
    args: impl Iterator<Item = OsString>,
    environment: &dyn Environment,
    dotenv: Option<&Path>,
) -> Result<Request, CliError> {
    let mut values = Values::new(program);
    let given = match arguments::read(program, args, &mut values)? {
        arguments::Arguments::Given(given) => given,
        arguments::Arguments::Answered(request) => return Ok(request),
    };
    values.add_command_line(given);
    values.add_environment(sources::environment(environment));
    if let Some(path) = dotenv {
        sources::dotenv::add(path, &mut values);
    }
    if let Some((path, origin)) = values.config_file() {
        sources::file::add(&path, &origin, &mut values);
    }
    Ok(Request::Use(Box::new(values)))
}

/// Checks a log filter in the syntax of `RUST_LOG` and hands it back.
///
/// # Errors
/// When it cannot be read.
pub fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{text:?} is not a log filter such as info or info,pantelegraph_receiver=debug: {error}"
        )),
    }
}

/// Checks a name or label for people and machines: 1 to 128 characters, none of them a control
/// character.
///
/// # Errors
/// When it is not like that.
pub fn label(text: &str) -> Result<String, String> {
    let count = text.chars().count();
    if count > 128 {
        return Err(format!("{count} characters are too many; use at most 128"));
    }
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(format!(
            "{text:?} is not a name; use 1 to 128 visible characters"
        ));
    }
    Ok(text.to_owned())
}
