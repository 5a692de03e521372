//! What the tasks say while they work. A reader that has gone (`| head`) is no failure.

use std::fmt::Display;
use std::io::Write;

/// A new part begins.
pub(crate) fn title(text: impl Display) {
    line(format_args!("\n== {text}"));
}

/// Something takes a while.
pub(crate) fn begin(text: impl Display) {
    line(format_args!("   {text} ..."));
}

/// Something was checked and holds.
pub(crate) fn passed(text: impl Display) {
    line(format_args!("ok {text}"));
}

/// Something worth knowing, which is neither good nor bad.
pub(crate) fn note(text: impl Display) {
    line(format_args!("   {text}"));
}

/// The end, with all causes.
pub(crate) fn failure(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr().lock(), "\nFAILED {error:#}");
}

fn line(text: impl Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
