//! What a process says while it runs.

use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

/// Form of the log on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("unknown log format {text:?}; use text or json")),
        }
    }
}

/// The log of a running program.
#[derive(Clone)]
pub struct Log {
    replace: Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Changes what is logged from now on. `filter` is in the syntax of `RUST_LOG`.
    ///
    /// # Errors
    /// When the filter cannot be read; everything stays as it was.
    pub fn set_filter(&self, filter: &str) -> Result<(), String> {
        let filter = read(filter)?;
        (self.replace)(filter)
            .map_err(|error| format!("the log's filter cannot be changed: {error}"))
    }
}

fn read(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter)
        .map_err(|error| format!("log filter {filter:?} cannot be read: {error}"))
}

/// Sends log events to `writer`, which is stderr or stands before it. `filter` is in the syntax of `RUST_LOG`, for example `info` or
/// `info,pantelegraph_receiver=debug`.
///
/// # Errors
/// When the filter cannot be read. A second call in one process changes nothing.
pub fn log_to<W>(
    writer: fn() -> W,
    filter: &str,
    format: LogFormat,
    colour: bool,
) -> Result<Log, String>
where
    W: io::Write + 'static,
{
    let (filter, handle) = reload::Layer::new(read(filter)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        // A log that nobody reads any more is no reason to stop; to say so where it should have been
        // read would be a panic.
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(colour);
    let registry = tracing_subscriber::registry().with(filter);
    // Another subscriber is there already only in tests, which keep their own.
    let _ = match format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    Ok(Log {
        replace: Arc::new(move |filter| handle.reload(filter)),
    })
}

/// Writes a line to standard error, for before there is a log and for the last word. That nobody
/// reads it (`2>&1 | head`) is no failure.
pub fn say(words: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// An error and what is behind it, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let source_text = source.to_string();
        // Some errors repeat their source in their own text.
        if !text.contains(&source_text) {
            text.push_str(": ");
            text.push_str(&source_text);
        }
        next = source.source();
    }
    text
}
