//! A run: the same images over each transport in turn, with everything counted. What earlier runs
//! left in the outbox goes over the transport that comes first.

mod accounts;
mod capturing;
mod carried;
mod record;
mod rows;
mod security;
mod series;
mod summary;
mod untold;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::clock::UnixNanos;
use shared::image::{OutboxId, Transport};
use shared::security::tls::TlsError;
use shared::telemetry::WireCount;
use shared::telemetry::otlp::{Otlp, Teller};
use shared::telemetry::spans::Spans;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::capture::CaptureError;
use crate::cli;
use crate::config::{Config, LinkOptions, OutboxPlace};
use crate::limiter::Limiter;
use crate::link::{self, Identity, Link, UnfinishedImages, websocket::ListenLink};
use crate::live::Controls;
use crate::outbox::{self, Outbox, OutboxError};
use crate::pace::Waits;
use crate::receipts::ReceiptLog;
use crate::status::{self, Status};
use carried::Carried;
use security::Security;
use series::Series;

pub use carried::CarriedSeries;
pub use summary::{Left, RunOutcome, Summary};

/// What a run needs beside its settings.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Socket for `--listen`, opened by the caller.
    pub listener: Option<TcpListener>,
    /// Socket for `--status-listen`, opened by the caller.
    pub status: Option<TcpListener>,
    /// Gets what can be changed once everything is open and the run begins.
    pub started: Option<oneshot::Sender<Controls>>,
    /// The receiver runs in this process too, so CPU and memory are those of both.
    pub shared_process: bool,
}

/// Why a run cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The source cannot be used.
    #[error("source: {0}")]
    Source(#[from] CaptureError),
    /// `--listen` or `--status-listen` cannot be opened.
    #[error("cannot listen on {address} ({flag}): {source}; choose another port")]
    Listen {
        /// Address.
        address: std::net::SocketAddr,
        /// The flag that asked for it.
        flag: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The outbox cannot be opened.
    #[error(
        "the outbox {place} cannot be used; each transmitter needs one of its own (--outbox DIR)"
    )]
    Outbox {
        /// Where it is.
        place: String,
        /// What is wrong.
        source: OutboxError,
    },
    /// `--receipts` cannot be opened.
    #[error("receipts cannot be written to {} (--receipts)", path.display())]
    Receipts {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The certificates of `--tls-ca`, `--tls-cert`, `--tls-key` or `--tls-crl` are no good.
    #[error("the certificates cannot be used")]
    Certificates(#[source] TlsError),
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] std::io::Error),
}

/// What all series of a run share.
struct Stage<'a> {
    config: &'a Config,
    label: String,
    outbox: Arc<dyn Outbox>,
    outbox_id: OutboxId,
    carried: Arc<Carried>,
    receipts: Option<Arc<ReceiptLog>>,
    limiter: Limiter,
    waits: Arc<Mutex<Waits>>,
    status: Arc<Status>,
    unfinished: UnfinishedImages,
    security: Security,
    /// Who wants to know of traces.
    spans: Spans,
    /// What was wrong with the outbox when it was looked at last.
    problem: Mutex<Option<String>>,
    shared_process: bool,
}

/// Runs everything that `config` asks for. Cancelling `stop` ends capture at once and delivery
/// when nothing is owed any more, or after the grace period.
///
/// # Errors
/// When the certificates, the outbox, the receipts or, with nothing owed, the source cannot be opened.
pub async fn run(
    config: &Config,
    mut surroundings: Surroundings,
    stop: CancellationToken,
) -> Result<Summary, RunError> {
    let teller = Teller {
        program: cli::PROGRAM.name,
        version: cli::PROGRAM.version,
        station: config.name.clone(),
    };
    let telemetry = Otlp::open(&config.telemetry, &teller).map_err(RunError::Certificates)?;
    let stage = open(
        config,
        surroundings.shared_process,
        telemetry.spans(),
        &stop,
    )
    .await?;
    telemetry.start(status::figures(&stage.status));
    let listener = surroundings.status.take();
    let _status = listener.map(|listener| {
        let status = Arc::clone(&stage.status);
        AbortOnDropHandle::new(tokio::spawn(status::serve(listener, status)))
    });
    if let Some(started) = surroundings.started.take() {
        // Nobody may want to change anything any more.
        let _ = started.send(stage.controls());
    }
    let mut summary = Summary::default();
    let last = config.transports.last().copied();
    for transport in config.transports.iter().copied() {
        if stop.is_cancelled() {
            break;
        }
        let wire = WireCount::default();
        let link = match stage.link(transport, &wire, &mut surroundings) {
            Ok(Some(link)) => link,
            Ok(None) => continue,
            Err(error) => {
                stage.outbox.shut().await;
                return Err(error);
            }
        };
        let series = Series {
            stage: &stage,
            transport,
            wire,
            link,
            // A file that is deleted after its receipt must last for all transports.
            last_transport: last.unwrap_or(transport),
        };
        match series.run(stop.clone()).await {
            Ok((report, outcome)) => {
                summary.reports.push(report);
                summary.outcome = summary.outcome.max(outcome);
            }
            Err(error) => {
                stage.outbox.shut().await;
                return Err(error);
            }
        }
    }
    summary.carried = stage.carried.summary();
    summary.left = stage.left();
    stage.outbox.shut().await;
    telemetry.stop().await;
    Ok(summary)
}

async fn open<'a>(
    config: &'a Config,
    shared_process: bool,
    spans: Spans,
    stop: &CancellationToken,
) -> Result<Stage<'a>, RunError> {
    let security = Security::open(config).await?;
    let opened = outbox::open(&config.outbox, config.order)
        .await
        .map_err(|source| outbox_failed(config, source))?;
    let receipts = match &config.receipts {
        None => None,
        Some(path) => {
            let (file, id) = (path.clone(), opened.id);
            let opening = tokio::task::spawn_blocking(move || ReceiptLog::open(&file, id));
            let log = opening
                .await
                .unwrap_or_else(|error| Err(std::io::Error::other(error)));
            Some(Arc::new(log.map_err(|source| RunError::Receipts {
                path: path.clone(),
                source,
            })?))
        }
    };
    let carried = Arc::new(Carried::load(&*opened.outbox).await);
    let backlog = opened.outbox.backlog();
    if backlog.images > 0 {
        tracing::info!(
            images = backlog.images,
            bytes = backlog.bytes,
            "going on with what is owed from before"
        );
    }
    let limiter = Limiter::new(config.link.bandwidth.clone());
    Ok(Stage {
        config,
        status: Status::new(
            Arc::clone(&opened.outbox),
            receipts.clone(),
            limiter.clone(),
            stop.clone(),
        ),
        label: config
            .run
            .clone()
            .unwrap_or_else(|| new_label(&config.name)),
        outbox: opened.outbox,
        outbox_id: opened.id,
        carried,
        receipts,
        limiter,
        waits: Arc::new(Mutex::new(Waits::of(&config.pace))),
        unfinished: UnfinishedImages::default(),
        security,
        spans,
        problem: Mutex::default(),
        shared_process,
    })
}

impl Stage<'_> {
    fn outbox_failed(&self, source: OutboxError) -> RunError {
        outbox_failed(self.config, source)
    }

    fn controls(&self) -> Controls {
        Controls {
            limiter: self.limiter.clone(),
            dialler: self.security.dialler.clone(),
            tls: self.security.tls.clone(),
            waits: Arc::clone(&self.waits),
            status: Arc::clone(&self.status),
        }
    }

    /// Says once when the outbox cannot be written, and once when it can be again.
    fn watch_health(&self) {
        let health = self.outbox.health();
        let mut problem = self.problem.lock();
        match (&health, problem.is_some()) {
            (Err(text), false) => tracing::warn!("the outbox: {text}"),
            (Ok(()), true) => tracing::info!("the outbox can be written again"),
            _ => {}
        }
        *problem = health.err();
    }

    /// The link over a transport; `None` for one without a destination.
    fn link(
        &self,
        transport: Transport,
        wire: &WireCount,
        surroundings: &mut Surroundings,
    ) -> Result<Option<Arc<dyn Link>>, RunError> {
        let identity = Identity {
            transmitter: self.config.name.clone(),
            outbox: self.outbox_id,
            unfinished: self.unfinished.clone(),
            limiter: self.limiter.clone(),
            wire: wire.clone(),
            clock: Default::default(),
            dialler: self.security.dialler.clone(),
        };
        let options = self.link_options();
        Ok(match self.config.listen {
            Some(address) => {
                let listener = surroundings
                    .listener
                    .take()
                    .ok_or_else(|| RunError::Listen {
                        address,
                        flag: "--listen",
                        source: std::io::ErrorKind::NotConnected.into(),
                    })?;
                let link = ListenLink::new(listener, options, identity);
                Some(Arc::new(match self.security.listener() {
                    Some(tls) => link.with_tls(tls),
                    None => link,
                }))
            }
            // The settings name a destination for every transport.
            None => {
                let url = self.config.to.get(&transport);
                url.map(|url| link::open(transport, url, &options, &identity))
            }
        })
    }

    fn link_options(&self) -> LinkOptions {
        let mut options = self.config.link.clone();
        if self.config.listen.is_some() {
            // A receiver that dials in makes one connection.
            options.connections = 1;
        }
        if let Some(cap) = self.limiter.lowest_cap() {
            // A chunk goes at once and is paid for afterwards: one that takes long would look like
            // a connection that stands still.
            options.chunk_size.0 = options.chunk_size.0.min(cap.max(SMALLEST_CHUNK));
        }
        options
    }

    /// What is owed still.
    fn left(&self) -> Option<Left> {
        let backlog = self.outbox.backlog();
        let folder = match &self.config.outbox.place {
            OutboxPlace::Memory => None,
            OutboxPlace::Folder(folder) => Some(folder.clone()),
        };
        (backlog.images > 0).then_some(Left {
            images: backlog.images,
            folder,
        })
    }
}

fn outbox_failed(config: &Config, source: OutboxError) -> RunError {
    let place = match &config.outbox.place {
        OutboxPlace::Memory => "in memory".to_owned(),
        OutboxPlace::Folder(folder) => folder.display().to_string(),
    };
    RunError::Outbox { place, source }
}

/// Under the lowest of caps, chunks become no smaller than this.
pub(crate) const SMALLEST_CHUNK: u64 = 1 << 10;

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
