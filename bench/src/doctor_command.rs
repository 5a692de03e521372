//! `pantelegraph doctor` as a command: options in, findings out.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use shared::settings::{CliError, ProcessEnvironment};
use shared::telemetry::{LogFormat, say};

use crate::cli::doctor::{Doctor, Format};
use crate::doctor::{
    Finding, Group, Level, Options, PATIENCE, Read, examine, patiently, read, text,
};

/// What programs get.
#[derive(Serialize)]
struct Document<'a> {
    /// Grows when a field changes its meaning.
    format: u32,
    /// Of this command.
    version: &'static str,
    station: &'static str,
    /// The worst level of all findings.
    worst: Level,
    findings: &'a [Finding],
}

/// After Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Examines a station and tells.
pub(crate) fn run(doctor: &Doctor) -> ExitCode {
    // What libraries of this project log is in the findings already.
    let colour = colourful(std::io::stderr().is_terminal());
    let _ = shared::telemetry::log_to(std::io::stderr, "off", LogFormat::Text, colour);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!(
                "pantelegraph doctor: cannot start threads: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    let found = runtime.block_on(find(doctor));
    let code = match found {
        Ok(findings) => tell(doctor, &findings),
        Err(code) => code,
    };
    // Threads that hang on a disk would hold it up for ever.
    runtime.shutdown_background();
    code
}

/// What is found, or how this ends without.
async fn find(doctor: &Doctor) -> Result<Vec<Finding>, ExitCode> {
    let bar = spinner("reading the settings");
    let asked = doctor.station.clone();
    let reading = move || {
        let dotenv = std::path::Path::new(".env");
        read(&asked, &ProcessEnvironment, Some(dotenv))
    };
    let reading = patiently(reading, PATIENCE);
    let read = unless(reading, interrupt()).await;
    bar.finish_and_clear();
    let (station, settings) = match read {
        Some(Ok(Ok(Read::Station(station, settings)))) => (station, settings),
        Some(Ok(Ok(Read::Refused(findings)))) => return Ok(findings),
        Some(Ok(Ok(Read::Print(text)))) => {
            print(&text);
            return Err(ExitCode::SUCCESS);
        }
        // These are problems, too; but as nobody knows what was meant, nothing can be looked at.
        Some(Ok(Err(error))) => {
            say(error);
            return Err(CliError::EXIT_CODE.into());
        }
        Some(Err(stuck)) => return Ok(vec![stuck]),
        None => return Err(INTERRUPTED.into()),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let options = Options {
        timeout: doctor.timeout,
        groups: Group::value_variants()
            .iter()
            .copied()
            .filter(|group| doctor.wants(*group))
            .collect(),
        disk_test: !doctor.no_disk_test,
        stop: Arc::clone(&stop),
    };
    let bar = spinner("");
    let progress = |words: &'static str| bar.set_message(words);
    let examining = examine(&station, settings, &options, &progress);
    tokio::pin!(examining);
    let examined = unless(examining.as_mut(), interrupt()).await;
    if examined.is_none() {
        // What is written to the disk is taken away before this ends, unless somebody insists.
        stop.store(true, Ordering::Relaxed);
        let tidying = unless(examining, interrupt());
        let _ = tokio::time::timeout(Duration::from_secs(5), tidying).await;
    }
    bar.finish_and_clear();
    examined.ok_or_else(|| INTERRUPTED.into())
}

fn spinner(words: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(words);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Ctrl-C.
async fn interrupt() {
    let _ = tokio::signal::ctrl_c().await;
}

/// What comes of `work`, unless `end` comes first.
async fn unless<T>(work: impl Future<Output = T>, end: impl Future<Output = ()>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = end => None,
    }
}

/// Tells what was found.
fn tell(doctor: &Doctor, findings: &[Finding]) -> ExitCode {
    let worst = findings.iter().map(|finding| finding.level).max();
    let worst = worst.unwrap_or(Level::Ok);
    match doctor.format {
        Format::Text => {
            let terminal = std::io::stdout().is_terminal();
            let columns = terminal.then(columns);
            print(&text(findings, colourful(terminal), columns));
        }
        Format::Json => {
            let document = Document {
                format: 1,
                version: env!("CARGO_PKG_VERSION"),
                station: doctor.station.key(),
                worst,
                findings,
            };
            let json = serde_json::to_string_pretty(&document);
            print(&json.map_or_else(|error| error.to_string(), |json| json + "\n"));
        }
    }
    let least = if doctor.strict {
        Level::Warning
    } else {
        Level::Problem
    };
    ExitCode::from(u8::from(worst >= least))
}

/// Whether colours are wanted (no-color.org).
fn colourful(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn columns() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col >= 40 => size.ws_col.into(),
        _ => 80,
    }
}

/// Prints to standard output. A reader that has gone (`| head`) is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_does_not_want_to_wait_does_not_wait_for_a_thread_that_hangs() {
        let (_hangs, hanging) = channel::<()>();
        let (started, starting) = tokio::sync::oneshot::channel();
        let begun = Instant::now();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let look = move || {
            let _ = started.send(());
            let _ = hanging.recv();
        };
        let ctrl_c = async { starting.await.unwrap() };
        let looked = runtime.block_on(unless(patiently(look, PATIENCE), ctrl_c));
        assert_eq!(looked, None);
        runtime.shutdown_background();
        assert!(begun.elapsed() < PATIENCE / 2);
    }
}
