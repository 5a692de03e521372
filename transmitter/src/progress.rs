//! Shows how a run goes: a bar on a terminal, plain lines in a pipe; both on stderr.
//!
//! The bar is drawn eight times a second at most and only from one task. Log lines must not be
//! written through it: give the log [`LogWriter`], which lifts the bar for each of them.

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, WeakProgressBar};
use shared::image::Transport;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::When;

mod bar;
mod lines;
mod speed;

use bar::Bar;
use lines::Lines;
use speed::{Rates, Speed};

/// Where a run is. Numbers are totals of the present transport's series so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Images taken from the source.
    pub captured: u64,
    /// Images with a receipt `stored`.
    pub delivered: u64,
    /// Images with a receipt `duplicate`.
    pub duplicates: u64,
    /// Images that the receiver quarantined.
    pub quarantined: u64,
    /// Images that will never arrive.
    pub lost: u64,
    /// Images not answered yet.
    pub owed: u64,
    /// Images of earlier series that are owed still.
    pub carried: u64,
    /// Times that images were sent again.
    pub retries: u64,
    /// Bytes of delivered images.
    pub bytes_delivered: u64,
    /// Bytes sent that have no receipt yet.
    pub in_flight_bytes: u64,
    /// Images of the series in all, when that is known.
    pub total: Option<u64>,
    /// Transport of the series.
    pub transport: Transport,
    /// What the transmitter is doing.
    pub state: State,
}

impl Snapshot {
    /// Images that need nothing more.
    pub fn settled(&self) -> u64 {
        [self.delivered, self.duplicates, self.quarantined, self.lost]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// What the transmitter is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It looks for the receiver.
    Connecting,
    /// Images are on their way.
    Sending,
    /// It waits this long before it goes on.
    Waiting(Duration),
    /// No more images come; those in flight are brought to an end.
    Draining,
}

impl State {
    /// A few words for people.
    fn describe(self) -> String {
        match self {
            Self::Connecting => "connecting".to_owned(),
            Self::Sending => "sending".to_owned(),
            Self::Waiting(time) => format!("waiting {:.1}s", time.as_secs_f64()),
            Self::Draining => "draining".to_owned(),
        }
    }
}

/// Something whose progress can be shown. Asked several times a second, so it should only read
/// what is counted anyway.
pub trait Source: Send + Sync {
    /// Where it is now.
    fn snapshot(&self) -> Snapshot;
}

/// Shows the progress of `source` until `stop`, from a task of its own.
///
/// `Auto` draws the bar when stderr is a terminal and logs a line every five seconds otherwise,
/// and one at the end. `Always` draws the bar whatever stderr is; `Never` shows nothing.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn spawn(source: Arc<dyn Source>, mode: When, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        match mode {
            When::Never => {}
            When::Auto if !io::stderr().is_terminal() => {
                show(&*source, &mut Lines, stop).await;
            }
            When::Auto | When::Always => {
                let mut bar = Bar::on_stderr();
                announce(Some(bar.handle()));
                show(&*source, &mut bar, stop).await;
                announce(None);
            }
        }
    })
}

/// A way of showing progress.
trait Display {
    /// Time between two looks at the source.
    const INTERVAL: Duration;

    fn show(&mut self, snapshot: &Snapshot, rates: Rates);

    /// The run is over; `rates` are those of all of it.
    fn end(&mut self, snapshot: &Snapshot, rates: Rates);
}

async fn show<D: Display>(source: &dyn Source, display: &mut D, stop: CancellationToken) {
    let mut ticks = interval(D::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once, when there is nothing to tell yet.
    ticks.tick().await;
    let mut speed = Speed::new(Instant::now(), &source.snapshot());
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let snapshot = source.snapshot();
        let rates = speed.update(Instant::now(), &snapshot);
        display.show(&snapshot, rates);
    }
    let snapshot = source.snapshot();
    let rates = speed.overall(Instant::now(), &snapshot);
    display.end(&snapshot, rates);
}

/// The bar that is on the terminal now. A program has one stderr, so there is one of these.
static SHOWN: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

fn announce(bar: Option<WeakProgressBar>) {
    *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Does something with stderr while the bar, if there is one, is out of the way.
pub fn suspend<R>(action: impl FnOnce() -> R) -> R {
    let bar: Option<ProgressBar> = SHOWN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()
        .and_then(WeakProgressBar::upgrade);
    match bar {
        Some(bar) => bar.suspend(action),
        None => action(),
    }
}

/// Stderr for log lines: the bar is lifted while one is written. Each write should be whole lines,
/// as those of `tracing_subscriber::fmt` are; `|| LogWriter` is a writer for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        suspend(|| io::stderr().write(data))
    }

    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        suspend(|| io::stderr().write_all(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests;
