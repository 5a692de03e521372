//! Progress for terminals.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike, WeakProgressBar};
use shared::report::format;

use super::speed::Rates;
use super::{Display, Snapshot, State};

/// Most draws in a second.
const DRAWS_PER_SECOND: u8 = 8;

/// Width that is assumed where stderr does not tell.
const ASSUMED_WIDTH: u16 = 80;

const WITH_TOTAL: &str = "{prefix} [{bar:20}] {pos}/{len} {wide_msg}";
const WITHOUT_TOTAL: &str = "{prefix} {spinner} {pos} images {wide_msg}";

/// A line that is drawn anew in its place.
pub(super) struct Bar {
    bar: ProgressBar,
    /// Whether the style is that with a total.
    has_total: bool,
}

impl Bar {
    /// On stderr, whether it is a terminal or not.
    pub(super) fn on_stderr() -> Self {
        if io::stderr().is_terminal() {
            return Self::on(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
        }
        let ansi = Ansi {
            out: Mutex::new(io::stderr()),
            width: ASSUMED_WIDTH,
        };
        Self::on(ProgressDrawTarget::term_like_with_hz(
            Box::new(ansi),
            DRAWS_PER_SECOND,
        ))
    }

    pub(super) fn on(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(None, target).with_style(style(WITHOUT_TOTAL));
        Self {
            bar,
            has_total: false,
        }
    }

    /// For those who must lift the bar.
    pub(super) fn handle(&self) -> WeakProgressBar {
        self.bar.downgrade()
    }

    /// Whether the total is known may change with each series. The style comes first: all of
    /// these draw.
    fn set_total(&mut self, total: Option<u64>) {
        if self.has_total != total.is_some() {
            self.has_total = total.is_some();
            self.bar.set_style(style(if self.has_total {
                WITH_TOTAL
            } else {
                WITHOUT_TOTAL
            }));
        }
        match total {
            Some(total) => self.bar.set_length(total),
            None => self.bar.unset_length(),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are constants that parse")
        .progress_chars("=> ")
}

impl Display for Bar {
    const INTERVAL: Duration = Duration::from_millis(1_000 / DRAWS_PER_SECOND as u64);

    fn show(&mut self, snapshot: &Snapshot, rates: Rates) {
        self.bar.set_prefix(snapshot.transport.to_string());
        self.bar.set_message(message(snapshot, rates));
        self.set_total(snapshot.total);
        self.bar.set_position(snapshot.settled());
        self.bar.tick();
    }

    fn end(&mut self, _snapshot: &Snapshot, _rates: Rates) {
        // The summary that the program prints says everything that the bar could.
        self.bar.finish_and_clear();
    }
}

/// What stands behind the bar. The most important comes first, as narrow terminals cut the rest.
pub(super) fn message(snapshot: &Snapshot, rates: Rates) -> String {
    let mut parts = Vec::new();
    if snapshot.state != State::Sending {
        parts.push(snapshot.state.describe());
    }
    parts.push(format::bytes(snapshot.bytes_delivered));
    parts.push(format::rate(rates.bytes_per_second));
    parts.push(format!(
        "in flight {}",
        format::bytes(snapshot.in_flight_bytes)
    ));
    for (count, what) in [
        (snapshot.carried, "carried over"),
        (snapshot.retries, "retries"),
        (snapshot.duplicates, "duplicates"),
        (snapshot.quarantined, "quarantined"),
        (snapshot.lost, "lost"),
    ] {
        if count > 0 {
            parts.push(format!("{what} {count}"));
        }
    }
    if let Some(left) = rates.left(snapshot) {
        parts.push(format!("{} left", clock(left)));
    }
    parts.join(", ")
}

/// `12s`, `3m05s`, `2h07m`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

/// A terminal by its control sequences alone (ECMA-48), for output that does not say that it is one.
pub(super) struct Ansi<W> {
    pub(super) out: Mutex<W>,
    pub(super) width: u16,
}

impl<W: Write> Ansi<W> {
    fn out(&self) -> MutexGuard<'_, W> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Zero would move by one.
    fn cursor(&self, count: usize, direction: char) -> io::Result<()> {
        if count == 0 {
            Ok(())
        } else {
            write!(self.out(), "\x1b[{count}{direction}")
        }
    }
}

impl<W> fmt::Debug for Ansi<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ansi")
            .field("width", &self.width)
            .finish_non_exhaustive()
    }
}

impl<W: Write + Send> TermLike for Ansi<W> {
    fn width(&self) -> u16 {
        self.width
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.cursor(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.cursor(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.cursor(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.cursor(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        writeln!(self.out(), "{text}")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.out().write_all(text.as_bytes())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.out().write_all(b"\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        self.out().flush()
    }
}
