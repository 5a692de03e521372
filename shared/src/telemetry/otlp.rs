//! Tells a collector of OpenTelemetry what is going on: spans, and the figures that Prometheus would
//! read, by OTLP over gRPC (<https://opentelemetry.io/docs/specs/otlp/>).
//!
//! The messages are those of the crate `opentelemetry-proto`. They are filled here and not by
//! OpenTelemetry's SDK, which takes no histograms that are counted already
//! (<https://github.com/open-telemetry/opentelemetry-rust/issues/2505>) and whose spans end with the
//! process that began them; the way of an image goes on after a restart.
//!
//! What a collector does not take in time is dropped and counted. No image ever waits for one.

mod figures;
mod messages;
mod settings;
mod ship;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::spans::Spans;
use crate::clock::UnixNanos;
use crate::security::tls::TlsError;
pub use settings::{OtlpSettings, TELEMETRY};
use ship::Ship;

/// Gives the figures of now, in the text format of Prometheus.
pub type Figures = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// Time for the last of it when the process ends.
const FLUSH: Duration = Duration::from_secs(2);

/// Which process tells.
#[derive(Debug, Clone)]
pub struct Teller {
    /// Name of the program, unless the settings name the service.
    pub program: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Name of this station.
    pub station: String,
}

/// Tells while it lives.
#[derive(Debug)]
pub struct Otlp {
    spans: Spans,
    traces: Option<Arc<Ship>>,
    metrics: Option<Arc<Ship>>,
    /// Between two looks for spans.
    span_interval: Duration,
    /// Between two looks at figures.
    figure_interval: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Otlp {
    /// Prepares to tell whomever the settings name; nobody, without one. Connections are made when
    /// there is something to tell.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn open(settings: &OtlpSettings, teller: &Teller) -> Result<Self, TlsError> {
        let resource = settings.resource(teller);
        let open = |endpoint: &Option<url::Url>| {
            let endpoint = endpoint.as_ref();
            let ship = endpoint.map(|url| Ship::new(url, settings, &resource, teller.version));
            ship.transpose().map(|ship| ship.map(Arc::new))
        };
        let traces = open(&settings.traces)?;
        let spans = match &traces {
            Some(_) => Spans::new(settings.sampler, settings.longest_queue, settings.batch),
            None => Spans::default(),
        };
        Ok(Self {
            spans,
            traces,
            metrics: open(&settings.metrics)?,
            span_interval: settings.span_interval,
            figure_interval: settings.figure_interval,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Where spans go that have ended.
    pub fn spans(&self) -> Spans {
        self.spans.clone()
    }

    /// Begins to tell.
    pub fn start(&self, figures: Figures) {
        if let Some(ship) = self.traces.clone() {
            let (spans, interval) = (self.spans.clone(), self.span_interval);
            let stop = self.stop.clone();
            self.tasks.spawn(async move {
                while !stop.is_cancelled() {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = spans.many() => {}
                        () = tokio::time::sleep(interval) => {}
                    }
                    ship_spans(&ship, &spans, &stop).await;
                }
            });
        }
        if let Some(ship) = self.metrics.clone() {
            let (spans, interval) = (self.spans.clone(), self.figure_interval);
            let stop = self.stop.clone();
            let since = UnixNanos::now();
            self.tasks.spawn(async move {
                while !stop.is_cancelled() {
                    // What happened in the last moments counts as well.
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(interval) => {}
                    }
                    let text = figures().await + &own_figures(&spans);
                    let metrics = figures::read(&text, since, UnixNanos::now());
                    ship.metrics(metrics, &stop).await;
                }
            });
        }
    }

    /// Tells the rest, as far as there is time.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(FLUSH, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("the collector was not told everything in time");
        }
    }
}

impl Drop for Otlp {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn ship_spans(ship: &Ship, spans: &Spans, stop: &CancellationToken) {
    loop {
        let batch = spans.take();
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        if !ship.spans(&batch, stop).await {
            spans.lost(count);
        }
    }
}

/// What this side does itself.
fn own_figures(spans: &Spans) -> String {
    if !spans.is_on() {
        return String::new();
    }
    let (dropped, waiting) = (spans.dropped(), spans.waiting());
    format!(
        "# HELP pantelegraph_spans_dropped_total Spans that no collector took in time.\n\
         # TYPE pantelegraph_spans_dropped_total counter\n\
         pantelegraph_spans_dropped_total {dropped}\n\
         # HELP pantelegraph_spans_waiting Spans that wait for a collector.\n\
         # TYPE pantelegraph_spans_waiting gauge\n\
         pantelegraph_spans_waiting {waiting}\n"
    )
}
