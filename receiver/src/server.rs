//! A receiver as a whole: opens store and catalogue, serves its listeners, dials transmitters that
//! listen, and stops in order.

mod accept;
mod pull;
mod secure;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shared::disk::{Disk, OsDisk};
use shared::listen::{ListenError, listen_unless_off};
use shared::receipt::Durability;
use shared::security::rate::Rates;
use shared::security::tls::TlsError;
use shared::settings::units::ByteSize;
use shared::telemetry::otlp::{Otlp, Teller};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::{Catalog, CatalogError, sqlite::SqliteCatalog};
use crate::cli;
use crate::config::Config;
use crate::endpoint::gate::Served;
use crate::endpoint::{grpc, http, rest, websocket};
use crate::intake::{Intake, Parts};
use crate::live::Controls;
use crate::metrics::{self, ReceiverMetrics};
use crate::store::{ImageStore, StoreError, files::FileStore, lock::DataLock, memory::MemoryStore};

pub(crate) use secure::pull_files;

/// Sockets that a receiver serves; opened by the caller, so that a port in use is known before
/// anything else happens, and tests can take any port.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: Option<TcpListener>,
    /// For REST, WebSocket, reports and metrics.
    pub http: Option<TcpListener>,
    /// For all of them.
    pub all: Option<TcpListener>,
}

/// Threads for work that may block: files, questions to the catalogue, names of hosts. Each keeps memory
/// of its own, and as many as tokio allows (512) come one by one while images pass.
const BLOCKING_THREADS: usize = 16;

/// Threads of a receiver.
///
/// # Errors
/// When the system gives none.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
}

/// Why a receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificates cannot be used.
    #[error("the certificates cannot be used")]
    Tls(#[from] TlsError),
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] std::io::Error),
    /// The data folder cannot be used.
    #[error("data folder {path}: {problem}", path = path.display())]
    Data {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalogue cannot be opened.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Listeners {
    /// Opens the listeners that `config` asks for.
    ///
    /// # Errors
    /// When an address is in use or not this machine's.
    pub async fn open(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            grpc: listen_unless_off(config.grpc_listen, "--grpc-listen").await?,
            http: listen_unless_off(config.http_listen, "--http-listen").await?,
            all: listen_unless_off(config.listen_all, "--listen-all").await?,
        })
    }
}

/// A running receiver.
pub struct Receiver {
    /// Where gRPC is served.
    pub grpc_address: Option<SocketAddr>,
    /// Where HTTP is served.
    pub http_address: Option<SocketAddr>,
    /// Where both are.
    pub all_address: Option<SocketAddr>,
    intake: Arc<Intake>,
    store: Arc<dyn ImageStore>,
    catalog: Arc<SqliteCatalog>,
    telemetry: Otlp,
    stop: CancellationToken,
    /// Ends connections that do not end by themselves.
    cut: CancellationToken,
    tasks: TaskTracker,
    controls: Controls,
    _lock: Option<DataLock>,
}

/// Time for connections that were cut to leave, and then for what they leave to be kept.
const CUTTING: Duration = Duration::from_millis(500);

/// Time between looks for room in the store.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

/// Time that a start waits for files and catalogue to agree.
const SETTLING: Duration = Duration::from_secs(2);

/// Time between looks for uploads that have expired.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(30);

impl Receiver {
    /// Opens the store and starts to serve. Returns when every listener answers.
    ///
    /// # Errors
    /// When the data folder, the store or the catalogue cannot be used.
    pub async fn start(config: Config, listeners: Listeners) -> Result<Self, StartError> {
        let tls = secure::Tls::open(&config)?;
        let telemetry = Otlp::open(
            &config.telemetry,
            &Teller {
                program: cli::PROGRAM.name,
                version: cli::PROGRAM.version,
                station: config.name.clone(),
            },
        )?;
        let metrics = ReceiverMetrics::new(env!("CARGO_PKG_VERSION"));
        let (store, catalog, lock) = open(&config).await?;
        let intake = Intake::new(Parts {
            store: Arc::clone(&store),
            catalog: Arc::clone(&catalog) as Arc<dyn Catalog>,
            metrics: metrics.clone(),
            name: config.name.clone(),
            durability: config.durability,
            verify: config.verify,
            limits: config.limits.clone(),
            spans: telemetry.spans(),
        });
        intake.load_quotas().await?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let readiness = http::SharedReadiness::default();
        settle(&intake, &readiness, &stop, &tasks).await;
        let address = |listener: &Option<TcpListener>| {
            listener
                .as_ref()
                .and_then(|listener| listener.local_addr().ok())
        };
        let (grpc_address, http_address) = (address(&listeners.grpc), address(&listeners.http));
        let all_address = address(&listeners.all);
        let sockets = websocket::Endpoint {
            intake: Arc::clone(&intake),
            credit: config.link.credit.0,
            idle_timeout: config.limits.idle_timeout,
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        let cut = CancellationToken::new();
        let door = secure::door(&config, &metrics, &stop, &cut, &tasks);
        let guests = Arc::clone(door.guests());
        let controls = Controls::new(&config, tls.server.clone(), tls.client.clone());
        let rates = Rates::new(config.max_requests_per_second);
        let gate = secure::gate(&controls, rates.clone(), &metrics, &door);
        let budget = Arc::clone(intake.budget());
        let server_tls = tls.server.clone();
        let acceptor = accept::Acceptor::new(&config, door, server_tls, budget, stop.clone());
        let grpc = || {
            let options = grpc::Options {
                credit: config.link.credit.0,
                idle_timeout: config.limits.idle_timeout,
                tasks: tasks.clone(),
            };
            grpc::TransferService::new(Arc::clone(&intake), options, stop.clone())
        };
        let state = http::ReadState {
            catalog: Arc::clone(&catalog) as Arc<dyn Catalog>,
            store: Arc::clone(&store),
            metrics: metrics.clone(),
            budget: Arc::clone(intake.budget()),
            name: config.name.as_str().into(),
            draining: stop.clone(),
            readiness: Arc::clone(&readiness),
            load: metrics::load(&intake, &guests, config.link.credit.0),
        };
        telemetry.start(state.figures());
        let router = {
            let router = http::reading_routes(state)
                .merge(rest::writing_routes(Arc::clone(&intake), tasks.clone()))
                .merge(rest::websocket_route(sockets.clone()));
            http::with_problems(router)
        };
        let served = [
            (listeners.grpc, Some(grpc()), None),
            (listeners.http, None, Some(router.clone())),
            (listeners.all, Some(grpc()), Some(router)),
        ];
        for (listener, grpc, http) in served {
            if let Some(listener) = listener {
                let served = Served::new(gate.clone(), grpc, http);
                tasks.spawn(acceptor.clone().run(listener, served));
            }
        }
        if let Some(server) = &tls.server {
            tasks.spawn(Arc::clone(server).watch(stop.clone()));
        }
        for url in config.pull {
            let dialled = pull::Dialled {
                url,
                tls: tls.client.clone(),
                known_only: config.security.asks(),
                rates: rates.clone(),
            };
            tasks.spawn(pull::pull(dialled, sockets.clone()));
        }
        let (budget, stopped) = (Arc::clone(intake.budget()), stop.clone());
        tasks.spawn(async move {
            let _ = stopped.run_until_cancelled(budget.settle()).await;
        });
        tasks.spawn(expire(Arc::clone(&intake), stop.clone()));
        tasks.spawn(watch_room(Arc::clone(&store), metrics, stop.clone()));
        Ok(Self {
            grpc_address,
            http_address,
            all_address,
            intake,
            store,
            catalog,
            telemetry,
            stop,
            cut,
            tasks,
            controls,
            _lock: lock,
        })
    }

    /// The core, for those in the same process.
    pub fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// What can be changed while it runs.
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// How it goes, in a few words. To say so it goes through the state that every image goes through.
    pub fn words(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let intake = Arc::clone(&self.intake);
        move || {
            let held = ByteSize(intake.budget().usage().leased);
            let stored = intake.metrics().stored();
            format!("{stored} images stored since the start; {held} on their way in")
        }
    }

    /// Stops: no new connections, requests in flight end, sessions are told, everything that was
    /// answered is on disk. What does not end within the grace period is cut off.
    pub async fn stop(self) {
        let grace = *self.controls.grace.lock();
        let deadline = tokio::time::Instant::now() + grace;
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout_at(deadline, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(?grace, "connections were still open after the grace period");
            self.cut.cancel();
            // They have nothing to wait for any more.
            let _ = tokio::time::timeout(CUTTING, self.tasks.wait()).await;
        }
        let deadline = deadline.max(tokio::time::Instant::now() + CUTTING);
        if tokio::time::timeout_at(deadline, self.intake.close())
            .await
            .is_err()
        {
            tracing::warn!(
                ?grace,
                "images were still being stored after the grace period"
            );
            // The next start looks for what they leave.
            self.telemetry.stop().await;
            return self.catalog.close().await;
        }
        // Its last figures ask the catalogue.
        self.telemetry.stop().await;
        self.catalog.close().await;
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the next start looks through the images of the last days");
        }
    }
}

/// What a receiver keeps things in. The lock is `None` when the store holds it.
type Opened = (Arc<dyn ImageStore>, Arc<SqliteCatalog>, Option<DataLock>);

async fn open(config: &Config) -> Result<Opened, StartError> {
    let (data, durability) = (config.data.clone(), config.durability);
    let min_free = config.limits.min_free.0;
    let opened = tokio::task::spawn_blocking(move || {
        let disk: &dyn Disk = &OsDisk;
        disk.create_folders(&data)
            .map_err(|error| StartError::Data {
                path: data.clone(),
                problem: format!("{error}; create it or point RECEIVER_DATA elsewhere"),
            })?;
        let (store, lock): (Arc<dyn ImageStore>, _) = match durability {
            Durability::Memory => (Arc::new(MemoryStore), Some(DataLock::acquire(&data)?)),
            Durability::Written | Durability::Synced => (
                Arc::new(FileStore::open(&data, durability, min_free)?),
                None,
            ),
        };
        let catalog = SqliteCatalog::open(&data.join("catalog.sqlite"), durability)?;
        Ok((store, Arc::new(catalog), lock))
    });
    match opened.await {
        Ok(opened) => opened,
        Err(panic) => Err(StartError::Data {
            path: config.data.clone(),
            problem: format!("opening it failed: {panic}"),
        }),
    }
}

/// Makes files and catalogue agree after a process that did not stop in order. What takes longer
/// goes on while images come.
async fn settle(
    intake: &Arc<Intake>,
    readiness: &http::SharedReadiness,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    readiness.settle(true);
    let settling = {
        let (intake, stop) = (Arc::clone(intake), stop.clone());
        let readiness = Arc::clone(readiness);
        async move {
            tokio::select! {
                settled = intake.settle() => match settled {
                    Ok(None) => {}
                    Ok(Some(found)) => tracing::info!(
                        orphans = found.orphans,
                        missing = found.missing,
                        "the last process did not stop in order; files and catalogue agree again"
                    ),
                    Err(error) => tracing::error!(
                        "files and catalogue may disagree, the next start tries again: {}",
                        shared::telemetry::chain(&error)
                    ),
                },
                () = stop.cancelled() => {}
            }
            readiness.settle(false);
        }
    };
    let settling = tasks.spawn(settling);
    if tokio::time::timeout(SETTLING, settling).await.is_err() {
        tracing::info!("the last process did not stop in order; looking for what it left goes on");
    }
}

/// Knows how much room there is, for the figures and for images that are to begin.
async fn watch_room(store: Arc<dyn ImageStore>, metrics: ReceiverMetrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(ROOM_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Some(room) = store.look_for_room().await {
            metrics.room(room.free, room.full);
        }
    }
}

async fn expire(intake: Arc<Intake>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => intake.expire(),
            () = stop.cancelled() => return,
        }
    }
}
