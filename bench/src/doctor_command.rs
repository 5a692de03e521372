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
use crate::doctor::{Finding, Group, Level, Options, Read, examine, read, text};

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
    let dotenv = std::path::Path::new(".env");
    let (station, settings) = match read(&doctor.station, &ProcessEnvironment, Some(dotenv)) {
        Ok(Read::Station(station, settings)) => (station, settings),
        Ok(Read::Print(text)) => {
            print(&text);
            return ExitCode::SUCCESS;
        }
        // These are problems, too; but as nobody knows what was meant, nothing can be looked at.
        Err(error) => {
            say(error);
            return CliError::EXIT_CODE.into();
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!(
                "pantelegraph doctor: cannot start threads: {error}"
            ));
            return ExitCode::FAILURE;
        }
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
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let examined = runtime.block_on(async {
        let progress = |words: &'static str| bar.set_message(words);
        let examining = examine(&station, settings, &options, &progress);
        tokio::pin!(examining);
        tokio::select! {
            findings = &mut examining => Some(findings),
            signal = tokio::signal::ctrl_c() => {
                // What is written to the disk is taken away before this ends.
                stop.store(true, Ordering::Relaxed);
                let _ = signal;
                let _ = tokio::time::timeout(Duration::from_secs(5), examining).await;
                None
            }
        }
    });
    bar.finish_and_clear();
    runtime.shutdown_timeout(Duration::from_secs(1));
    let Some(findings) = examined else {
        return INTERRUPTED.into();
    };
    let worst = findings.iter().map(|finding| finding.level).max();
    let worst = worst.unwrap_or(Level::Ok);
    match doctor.format {
        Format::Text => {
            let terminal = std::io::stdout().is_terminal();
            let columns = terminal.then(columns);
            print(&text(&findings, colourful(terminal), columns));
        }
        Format::Json => {
            let document = Document {
                format: 1,
                version: env!("CARGO_PKG_VERSION"),
                station: station.kind.key(),
                worst,
                findings: &findings,
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
