//! A run: the same images over each transport in turn, with everything counted.

mod record;

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::clock::UnixNanos;
use shared::image::{ImageMeta, Transport};
use shared::report::{Report, RunAccount};
use shared::telemetry::{Usage, WireCount};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::capture::{self, Capture, CaptureError, Captured};
use crate::config::{Config, LinkOptions, SourceOptions};
use crate::delivery::{Delivery, End, PARTING, Tally};
use crate::link::{self, Connection, Identity, Link, LinkError, websocket::ListenLink};
use crate::outbox::{Outbox, OutboxError, Owed, memory::MemoryOutbox};
use crate::pace::{Next, Pace};
use crate::progress;
use record::Record;

/// What a run needs beside its settings.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Socket for `--listen`, opened by the caller.
    pub listener: Option<TcpListener>,
    /// The receiver runs in this process too, so CPU and memory are those of both.
    pub shared_process: bool,
}

/// How a run ended.
#[derive(Debug)]
pub struct Summary {
    /// One report a transport, in order.
    pub reports: Vec<Report>,
    /// The worst that happened.
    pub outcome: RunOutcome,
}

/// The worst that happened in a run, from good to bad.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunOutcome {
    /// Every captured image has its receipt.
    Delivered,
    /// The receiver quarantined some.
    Quarantined,
    /// Some will never arrive.
    Lost,
    /// Stopped while images were still owed.
    Owed,
    /// The source failed.
    SourceFailed(String),
    /// No receiver was reached.
    Unreachable(String),
}

impl Summary {
    /// Blocks and tables of all transports, and their comparison, for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for report in &self.reports {
            text.push_str(&report.block());
            text.push('\n');
            text.push_str(&report.table());
            text.push('\n');
        }
        if self.reports.len() > 1 {
            text.push_str(&shared::report::comparison(&self.reports));
        }
        text
    }

    /// All reports as JSON.
    pub fn json(&self) -> String {
        let reports = serde_json::json!({ "reports": self.reports });
        format!("{reports:#}\n")
    }
}

/// Why a run cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The source cannot be used.
    #[error("source: {0}")]
    Source(#[from] CaptureError),
    /// `--listen` cannot be opened.
    #[error("cannot listen on {address} (--listen): {source}; choose another port")]
    Listen {
        /// Address.
        address: std::net::SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] std::io::Error),
}

/// Runs everything that `config` asks for. Cancelling `stop` ends capture at once and delivery
/// when nothing is owed any more, or after the grace period.
///
/// # Errors
/// When the source cannot be opened.
pub async fn run(
    config: &Config,
    mut surroundings: Surroundings,
    stop: CancellationToken,
) -> Result<Summary, RunError> {
    let label = config
        .run
        .clone()
        .unwrap_or_else(|| new_label(&config.name));
    let mut summary = Summary {
        reports: Vec::new(),
        outcome: RunOutcome::Delivered,
    };
    let last = config.transports.len().saturating_sub(1);
    for (index, transport) in config.transports.iter().copied().enumerate() {
        if stop.is_cancelled() {
            break;
        }
        let wire = WireCount::default();
        let identity = Identity {
            transmitter: config.name.clone(),
            wire: wire.clone(),
            clock: Default::default(),
            outbox: shared::image::OutboxId::new(),
            unfinished: Default::default(),
            limiter: Default::default(),
        };
        let link: Arc<dyn Link> = match config.listen {
            Some(address) => {
                let listener = surroundings
                    .listener
                    .take()
                    .ok_or_else(|| RunError::Listen {
                        address,
                        source: std::io::ErrorKind::NotConnected.into(),
                    })?;
                Arc::new(ListenLink::new(listener, config.link.clone(), identity))
            }
            // The settings name a destination for every transport.
            None => match config.to.get(&transport) {
                Some(url) => link::open(transport, url, &config.link, &identity),
                None => continue,
            },
        };
        let series = Series {
            config,
            transport,
            label: &label,
            wire,
            link,
            shared_process: surroundings.shared_process,
            // A file that is deleted after its receipt must last for all transports.
            final_pass: index == last,
        };
        let (report, outcome) = series.run(stop.clone()).await?;
        summary.reports.push(report);
        summary.outcome = summary.outcome.max(outcome);
    }
    Ok(summary)
}

/// A label that sorts by time and does not meet another: `20260102T030405Z-cam-1-7f3a`.
fn new_label(name: &str) -> String {
    let now = UnixNanos::now().to_string();
    let stamp: String = now
        .chars()
        .take(19)
        .filter(char::is_ascii_alphanumeric)
        .collect();
    format!("{stamp}Z-{name}-{:04x}", fastrand::u16(..))
}

struct Series<'a> {
    config: &'a Config,
    transport: Transport,
    label: &'a str,
    wire: WireCount,
    link: Arc<dyn Link>,
    shared_process: bool,
    final_pass: bool,
}

/// Time between accounts to the receiver.
const ACCOUNT_INTERVAL: Duration = Duration::from_secs(1);

impl Series<'_> {
    async fn run(self, stop: CancellationToken) -> Result<(Report, RunOutcome), RunError> {
        let config = self.config;
        let capture = capture::open(&config.source).await?;
        let total = self.expected_images();
        let tally = Arc::new(Tally::new(self.transport, total));
        let outbox: Arc<dyn Outbox> =
            Arc::new(MemoryOutbox::new(config.outbox.memory.0, config.order));
        let record = Arc::new(Record::new(self.new_account(), config, self.final_pass));
        let delivery = Delivery::new(
            Arc::clone(&outbox),
            Arc::clone(&self.link),
            Arc::clone(&record) as _,
            Arc::clone(&tally),
            self.link_options(),
            config.retry.clone(),
        );
        let shown = CancellationToken::new();
        let progress = progress::spawn(Arc::clone(&tally) as _, config.progress, shown.clone());
        let usage = Usage::now();
        let accounts = CancellationToken::new();
        let reporting = self.report_regularly(&delivery, &record, &tally, usage, accounts.clone());
        let capturing = async {
            let failure = self
                .capture_all(capture, &outbox, &tally, &record, &stop)
                .await;
            outbox.close();
            tally.draining();
            failure
        };
        let delivering = async {
            let last_account = || async {
                accounts.cancel();
                self.tell_the_end(&delivery, &record, &tally, usage).await;
            };
            let end = delivery.run(last_account).await;
            // Whether or not there was time for the last one.
            accounts.cancel();
            end
        };
        let stopping = async {
            stop.cancelled().await;
            // The last words belong to the grace period, too.
            let parting = PARTING.min(config.grace / 2);
            tokio::time::sleep(config.grace - parting).await;
            delivery.stop();
            std::future::pending::<std::convert::Infallible>().await
        };
        let work = async {
            let gone = CancellationToken::new();
            let capturing = async {
                tokio::select! {
                    failure = capturing => failure,
                    () = gone.cancelled() => None,
                }
            };
            let delivering = async {
                let end = delivering.await;
                // Nobody takes images any more.
                gone.cancel();
                end
            };
            tokio::join!(capturing, delivering)
        };
        let ((failure, end), ()) = tokio::select! {
            done = async { tokio::join!(work, reporting) } => done,
            never = stopping => match never {},
        };
        shown.cancel();
        let _ = progress.await;
        let account = self.account(&record, &tally, usage, true);
        let outcome = outcome(&account, failure, end);
        Ok((record.finish(account), outcome))
    }

    /// A receiver that dials in makes one connection.
    fn link_options(&self) -> LinkOptions {
        let mut options = self.config.link.clone();
        if self.config.listen.is_some() {
            options.connections = 1;
        }
        options
    }

    fn expected_images(&self) -> Option<u64> {
        let source = match &self.config.source {
            SourceOptions::File { repeat, .. } => Some(*repeat),
            _ => None,
        };
        match (source, self.config.pace.count) {
            (Some(source), Some(count)) => Some(source.min(count)),
            (one, other) => one.or(other),
        }
    }

    /// Takes images from the source until it ends or the run is stopped; the failure of the
    /// source, if it failed.
    async fn capture_all(
        &self,
        mut capture: Box<dyn Capture>,
        outbox: &Arc<dyn Outbox>,
        tally: &Tally,
        record: &Record,
        stop: &CancellationToken,
    ) -> Option<String> {
        let start = Instant::now();
        let mut pace = Pace::new(&self.config.pace, fastrand::u64(..));
        loop {
            let due = match pace.next(start.elapsed()) {
                Next::At(due) => due,
                Next::Done => return None,
            };
            let captured = tokio::select! {
                captured = async {
                    tokio::time::sleep_until((start + due).into()).await;
                    self.next_image(capture.as_mut(), start).await
                } => captured,
                () = stop.cancelled() => return None,
            };
            let captured = match captured {
                Ok(Some(captured)) => captured,
                Ok(None) => return None,
                Err(error) => return Some(error.to_string()),
            };
            let id = captured.id;
            if let Some(kept) = self.keep(captured, outbox, tally, record, stop).await
                && !kept
            {
                return None;
            }
            if pace.waits_for_delivery() {
                tokio::select! {
                    () = record.settled(id) => pace.delivered(start.elapsed()),
                    () = stop.cancelled() => return None,
                }
            }
        }
    }

    /// The next image of the source, unless the time of the run is over before.
    async fn next_image(
        &self,
        capture: &mut dyn Capture,
        start: Instant,
    ) -> Result<Option<Captured>, CaptureError> {
        match self.config.pace.run_for {
            None => capture.next().await,
            Some(run_for) => {
                let left = run_for.saturating_sub(start.elapsed());
                tokio::time::timeout(left, capture.next())
                    .await
                    .unwrap_or(Ok(None))
            }
        }
    }

    /// Puts an image into the outbox. `Some(false)` when the outbox takes no more, `None` when
    /// this image is lost.
    async fn keep(
        &self,
        captured: Captured,
        outbox: &Arc<dyn Outbox>,
        tally: &Tally,
        record: &Record,
        stop: &CancellationToken,
    ) -> Option<bool> {
        let mut meta = ImageMeta::new(captured.id, captured.payload.size());
        meta.captured = Some(captured.captured);
        meta.name = captured.name;
        meta.content_type = captured.content_type;
        self.label.clone_into(&mut meta.run);
        let digest = captured.payload.digest(self.config.digest).await;
        match digest {
            Ok(digest) => meta.digest = Some(digest),
            Err(error) => {
                tally.capture();
                tally.lose();
                record.lose(&meta, &format!("unreadable: {error}"));
                return None;
            }
        }
        let lost_meta = meta.clone();
        let owed = Owed {
            meta,
            payload: captured.payload,
            source_file: captured.source_file,
            source_mark: None,
            carried: false,
        };
        // Counted before the outbox has it: an image is never settled before it is captured.
        tally.capture();
        let pushed = tokio::select! {
            pushed = outbox.push(owed) => pushed,
            () = stop.cancelled() => Err(OutboxError::Closed),
        };
        match pushed {
            Ok(_) => Some(true),
            Err(OutboxError::Closed) => {
                tally.uncapture();
                Some(false)
            }
            Err(error) => {
                tally.lose();
                record.lose(&lost_meta, &error.to_string());
                None
            }
        }
    }

    async fn report_regularly(
        &self,
        delivery: &Delivery,
        record: &Record,
        tally: &Tally,
        usage: Usage,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(ACCOUNT_INTERVAL);
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => if let Some(connection) = delivery.connection() {
                    self.tell(&*connection, record, tally, usage, false, &stop).await;
                },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Tells the receiver how the run ended.
    async fn tell_the_end(
        &self,
        delivery: &Delivery,
        record: &Record,
        tally: &Tally,
        usage: Usage,
    ) {
        let Some(connection) = delivery.connection() else {
            return;
        };
        // Whoever waits for this has a limit of its own.
        let never = CancellationToken::new();
        let told = self
            .tell(&*connection, record, tally, usage, true, &never)
            .await;
        if told || tally.totals().owed() > 0 {
            return;
        }
        // A receiver that has just answered the last image is there: its report should not lack
        // the account because the connection broke in between.
        let timeout = self.config.link.connect_timeout;
        if let Ok(Ok(connection)) = tokio::time::timeout(timeout, self.link.connect()).await {
            self.tell(&*connection, record, tally, usage, true, &never)
                .await;
            connection.close().await;
        }
    }

    /// Tells the receiver how the run stands, in portions, unless it is interrupted; whether it
    /// went out.
    async fn tell(
        &self,
        connection: &dyn Connection,
        record: &Record,
        tally: &Tally,
        usage: Usage,
        finished: bool,
        interrupt: &CancellationToken,
    ) -> bool {
        loop {
            let mut account = self.account(record, tally, usage, finished);
            account.clock = connection.clock();
            let (images, more) = record.unreported();
            account.images.clone_from(&images);
            account.finished = finished && !more;
            account.ended = account.finished.then(UnixNanos::now);
            let told = tokio::select! {
                biased;
                told = connection.account(account) => told,
                () = interrupt.cancelled() => Err(LinkError::Lost("no time left".to_owned())),
            };
            if let Err(error) = told {
                tracing::debug!("the receiver was not told of the run: {error}");
                record.report_later(images);
                return false;
            }
            if !more {
                return true;
            }
        }
    }

    fn new_account(&self) -> RunAccount {
        RunAccount {
            run: self.label.to_owned(),
            transport: self.transport,
            transmitter: self.config.name.clone(),
            captured: 0,
            delivered: 0,
            duplicates: 0,
            quarantined: 0,
            owed: 0,
            lost: 0,
            retries: 0,
            wire_bytes_sent: 0,
            wire_bytes_received: 0,
            image_bytes_sent: 0,
            image_bytes_resent: 0,
            cpu_seconds: 0.0,
            peak_memory_bytes: 0,
            delay_ns: u64::try_from(self.config.pace.delay.as_nanos()).unwrap_or(u64::MAX),
            started: UnixNanos::now(),
            ended: None,
            clock: None,
            images: Vec::new(),
            finished: false,
            shared_process: self.shared_process,
        }
    }

    fn account(&self, record: &Record, tally: &Tally, before: Usage, finished: bool) -> RunAccount {
        let totals = tally.totals();
        let usage = Usage::now();
        RunAccount {
            captured: totals.captured,
            delivered: totals.delivered,
            duplicates: totals.duplicates,
            quarantined: totals.quarantined,
            owed: totals.owed(),
            lost: totals.lost,
            retries: totals.retries,
            wire_bytes_sent: self.wire.sent(),
            wire_bytes_received: self.wire.received(),
            image_bytes_sent: self.wire.image_bytes_sent(),
            image_bytes_resent: self.wire.image_bytes_resent(),
            cpu_seconds: usage.cpu.saturating_sub(before.cpu).as_secs_f64(),
            peak_memory_bytes: usage.peak_memory,
            clock: record.clock(),
            ended: finished.then(UnixNanos::now),
            finished,
            ..record.account()
        }
    }
}

fn outcome(account: &RunAccount, failure: Option<String>, end: End) -> RunOutcome {
    if let End::GaveUp { problem } = end {
        return RunOutcome::Unreachable(problem);
    }
    if let Some(failure) = failure {
        return RunOutcome::SourceFailed(failure);
    }
    if account.owed > 0 {
        return RunOutcome::Owed;
    }
    if account.lost > 0 {
        return RunOutcome::Lost;
    }
    if account.quarantined > 0 {
        RunOutcome::Quarantined
    } else {
        RunOutcome::Delivered
    }
}
