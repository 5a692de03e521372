//! `pantelegraph-transmitter outbox` on the command line.

use std::ffi::OsString;
use std::io::{self, BufRead, BufWriter, IsTerminal, Write};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use shared::settings::{CliError, Environment, Request as Settings};
use shared::telemetry::{LogFormat, say};

use super::{Invocation, PROGRAM};
use crate::outbox::tool::{Console, Request, ToolError, arguments, run};
use crate::progress::LogWriter;

/// Where an outbox is when nothing else is said.
const DEFAULT: &str = "./outbox";

/// Reads the arguments after the word `outbox`. Its folder is the transmitter's setting, unless
/// they name another.
pub(super) fn parse(
    program: Option<OsString>,
    args: impl Iterator<Item = OsString>,
    env: &dyn Environment,
    dotenv: Option<&Path>,
) -> Result<Invocation, CliError> {
    // Mistakes in other settings are no concern of this.
    let folder = match shared::settings::read(&PROGRAM, program.into_iter(), env, dotenv)? {
        Settings::Use(mut values) => values.optional("outbox", |text| Ok(text.to_owned())),
        Settings::Print(_) | Settings::Complete { .. } => None,
    };
    let folder = folder.filter(|folder| folder != "memory");
    let folder = folder.unwrap_or_else(|| DEFAULT.to_owned());
    match arguments::parse(args, folder.into()) {
        Ok(request) => Ok(Invocation::Outbox(Box::new(request))),
        Err(error) if error.use_stderr() => Ok(Invocation::Refuse(error.render().to_string())),
        Err(help) => Ok(Invocation::Print(help.render().to_string())),
    }
}

/// Does what is asked of an outbox, with the terminal of this process; the exit code.
pub fn use_outbox(request: &Request) -> u8 {
    let colour = io::stderr().is_terminal();
    let logged = shared::telemetry::log_to(|| LogWriter, "warn", LogFormat::Text, colour);
    if let Err(problem) = logged {
        say(problem);
    }
    let columns = io::stdout().is_terminal().then(columns);
    let mut out = BufWriter::new(io::stdout().lock());
    let bar = colour.then(bar);
    let mut progress = |done, all| {
        if let Some(bar) = &bar {
            bar.set_length(all);
            bar.set_position(done);
        }
    };
    let mut ask = ask;
    let mut console = Console {
        out: &mut out,
        columns,
        progress: &mut progress,
        ask: if io::stdin().is_terminal() {
            Some(&mut ask)
        } else {
            None
        },
    };
    let done = run(request, &mut console);
    let _ = out.flush();
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    match done {
        Ok(end) => end.exit_code(),
        // A reader that has gone (`| head`) is no failure.
        Err(ToolError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            let words = shared::telemetry::chain(&error);
            say(format_args!("pantelegraph-transmitter outbox: {words}"));
            error.exit_code()
        }
    }
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    match size {
        Ok(size) if size.ws_col >= 20 => size.ws_col.into(),
        _ => 80,
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} images, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// Asks a question whose answer is no unless it is yes.
fn ask(question: &str) -> bool {
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
