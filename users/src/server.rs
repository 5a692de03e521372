//! The server: its listeners, and a stop in order.

mod accept;
mod linger;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use shared::listen::{ListenError, listen_unless_off};
use shared::security::rate::Rates;
use shared::security::tls::{H2, HTTP_1_1, ServerTls, TlsError};
use shared::telemetry::otlp::{Otlp, Teller};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::access::Access;
use crate::chat::Room;
use crate::config::{Config, Stopping};
use crate::directory::{Directory, JournalError};
use crate::live::Controls;
use crate::metrics::UsersMetrics;
use crate::observe::{CALL_ID, ObserveLayer, Observer};
use crate::refusal::Refusal;
use crate::service::Service;
use crate::{cli, graphql, grpc, origin, rest, wire};
use accept::Host;

/// Sockets that a server serves; opened first, so that a port in use is known before anything else
/// happens, and tests can take any port.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC and gRPC-Web.
    pub grpc: Option<TcpListener>,
    /// For REST and GraphQL.
    pub http: Option<TcpListener>,
    /// For all of them.
    pub all: Option<TcpListener>,
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

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A listener has no address.
    #[error("a listener has no address")]
    Address(#[source] std::io::Error),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The users cannot be read.
    #[error(transparent)]
    Data(#[from] JournalError),
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] std::io::Error),
}

/// A running server.
pub struct Server {
    /// Where gRPC is served.
    pub grpc_address: Option<SocketAddr>,
    /// Where REST and GraphQL are served.
    pub http_address: Option<SocketAddr>,
    /// Where all of them are served.
    pub all_address: Option<SocketAddr>,
    service: Arc<Service>,
    health: HealthReporter,
    telemetry: Otlp,
    stopping: Arc<Mutex<Stopping>>,
    tls: Option<Arc<ServerTls>>,
    /// Ends connections that do not end by themselves.
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// What traces and figures at a collector are of, unless the settings name the service.
const NAME: &str = "pantelegraph-users";

/// Time for connections that were cut to leave.
const CUTTING: Duration = Duration::from_millis(500);

/// What health is told of: the server as a whole, and its service.
const HEALTHY: [&str; 2] = ["", wire::SERVICE];

impl Server {
    /// Opens the directory and starts to serve. Returns when its listeners answer.
    ///
    /// # Errors
    /// When the certificates cannot be used, or the users cannot be read.
    pub async fn start(config: Config, listeners: Listeners) -> Result<Self, StartError> {
        let address = |listener: &Option<TcpListener>| {
            let listener = listener.as_ref();
            let address = listener.map(TcpListener::local_addr).transpose();
            address.map_err(StartError::Address)
        };
        let (grpc_address, http_address) = (address(&listeners.grpc)?, address(&listeners.http)?);
        let all_address = address(&listeners.all)?;
        let files = config.security.tls.clone();
        let tls = files
            .map(|files| ServerTls::open(files, &[H2, HTTP_1_1]))
            .transpose()?;
        let telemetry = Otlp::open(
            &config.telemetry,
            &Teller {
                program: NAME,
                version: cli::PROGRAM.version,
                station: shared::settings::host_name(),
            },
        )?;
        let observer = Observer {
            metrics: UsersMetrics::new(cli::PROGRAM.version),
            spans: telemetry.spans(),
        };
        let service = Arc::new(Service {
            directory: Arc::new(open(&config).await?),
            room: Arc::new(Room::new(config.chat)),
            access: Access::new(&config.security, config.anonymous)
                .limited(Rates::new(config.max_requests_per_second)),
            limits: config.limits,
            observer,
            open_metrics: config.open_metrics,
            draining: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let (health, health_server) = tonic_health::server::health_reporter();
        for name in HEALTHY {
            health
                .set_service_status(name, ServingStatus::Serving)
                .await;
        }
        let (cut, tasks) = (CancellationToken::new(), TaskTracker::new());
        if let Some(tls) = &tls {
            tasks.spawn(Arc::clone(tls).watch(service.stop.clone()));
        }
        // Each has its own bounds: a crowd at one leaves the other alone.
        let host = |name, router| Host {
            name,
            metrics: service.observer.metrics.clone(),
            router,
            tls: tls.clone(),
            connections: config.connections,
            stop: service.stop.clone(),
            cut: cut.clone(),
            tasks: tasks.clone(),
        };
        let grpc = grpc_router(Arc::clone(&service), health_server, &config.origins);
        let http = http_router(Arc::clone(&service), &config.origins);
        let all = all_router(grpc.clone(), http.clone());
        for (name, router, listener) in [
            ("grpc", grpc, listeners.grpc),
            ("http", http, listeners.http),
            ("all", all, listeners.all),
        ] {
            if let Some(listener) = listener {
                tasks.spawn(host(name, router).run(listener));
            }
        }
        let told = Arc::clone(&service);
        telemetry.start(Arc::new(move || {
            let service = Arc::clone(&told);
            Box::pin(async move { service.figures() })
        }));
        Ok(Self {
            grpc_address,
            http_address,
            all_address,
            service,
            health,
            telemetry,
            stopping: Arc::new(Mutex::new(config.stopping)),
            tls,
            cut,
            tasks,
        })
    }

    /// The service, for those in the same process.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// What can be changed while it runs.
    pub fn controls(&self) -> Controls {
        Controls {
            policy: self.service.access.policy().clone(),
            tls: self.tls.clone(),
            stopping: Arc::clone(&self.stopping),
        }
    }

    /// How it goes, in a few words. To say so it goes through the state that every call goes through.
    pub fn words(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let service = Arc::clone(&self.service);
        move || {
            let (users, readers) = (service.directory.len(), service.room.readers());
            format!("{users} users; {readers} in the chat")
        }
    }

    /// Stops: first health says NOT_SERVING, so that callers go elsewhere while calls are still
    /// answered; then nothing new is accepted, calls in flight end, and those that wait for news are
    /// told. What does not end within the grace period is cut off.
    pub async fn stop(self) {
        let stopping = *self.stopping.lock();
        self.service.draining.cancel();
        for name in HEALTHY {
            self.health
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
        tokio::time::sleep(stopping.drain_delay).await;
        let deadline = tokio::time::Instant::now() + stopping.grace;
        self.service.stop.cancel();
        // Ends the calls that watch it.
        let mut health = self.health.clone();
        for name in HEALTHY {
            health.clear_service_status(name).await;
        }
        self.tasks.close();
        if tokio::time::timeout_at(deadline, self.tasks.wait())
            .await
            .is_err()
        {
            let grace = stopping.grace;
            tracing::warn!(?grace, "connections were still open after the grace period");
            self.cut.cancel();
            let _ = tokio::time::timeout(CUTTING, self.tasks.wait()).await;
        }
        self.service.directory.close().await;
        self.telemetry.stop().await;
    }
}

async fn open(config: &Config) -> Result<Directory, JournalError> {
    let max_users = config.max_users;
    let Some(path) = config.data.clone() else {
        return Ok(Directory::in_memory(max_users));
    };
    let opening = tokio::task::spawn_blocking(move || Directory::open(&path, max_users));
    match opening.await {
        Ok(opened) => opened,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn grpc_router<H: tonic_health::pb::health_server::Health>(
    service: Arc<Service>,
    health: tonic_health::pb::health_server::HealthServer<H>,
    origins: &[origin::Origin],
) -> Router {
    let observe = ObserveLayer::grpc(&service.observer);
    grpc::routes(service, health)
        .layer(CatchPanicLayer::custom(|panic| {
            tracing::error!(panic = words(&panic), "a call panicked");
            grpc::refused(&Refusal::Internal).into_http::<Body>()
        }))
        .layer(shared::calls::HonourDeadlineLayer)
        .layer(observe)
        .layer(tonic_web::GrpcWebLayer::new())
        .layer(cors(origins))
}

fn http_router(service: Arc<Service>, origins: &[origin::Origin]) -> Router {
    let observe = ObserveLayer::http(&service.observer);
    let guard = Pages {
        origins: Arc::from(origins),
        metrics: service.observer.metrics.clone(),
    };
    rest::routes(Arc::clone(&service))
        .merge(graphql::routes(service))
        .layer(CatchPanicLayer::custom(|panic| {
            tracing::error!(panic = words(&panic), "a request panicked");
            rest::failure()
        }))
        .layer(axum::middleware::from_fn_with_state(guard, own_pages_only))
        .layer(observe)
        .layer(cors(origins))
}

/// gRPC and HTTP on one port.
fn all_router(grpc: Router, http: Router) -> Router {
    Router::new().fallback(move |request: http::Request<Body>| {
        let router = if is_call(&request) { &grpc } else { &http };
        router.clone().oneshot(request)
    })
}

/// Whether a request is one of gRPC or gRPC-Web. Browsers that ask about a call beforehand do not say so;
/// the others answer them as well.
fn is_call(request: &http::Request<Body>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// What [`own_pages_only`] needs to know.
#[derive(Clone)]
struct Pages {
    origins: Arc<[origin::Origin]>,
    metrics: UsersMetrics,
}

/// Turns WebSockets of foreign pages away: browsers ask nobody before they open one, and show what
/// comes over it to the page.
async fn own_pages_only(
    State(pages): State<Pages>,
    request: http::Request<Body>,
    next: Next,
) -> axum::response::Response {
    if is_foreign_socket(request.headers(), &pages.origins) {
        pages.metrics.refused("foreign-origin");
        let words = "pages of this origin are not let in; see --cors-origin";
        return (StatusCode::FORBIDDEN, words).into_response();
    }
    next.run(request).await
}

fn is_foreign_socket(headers: &http::HeaderMap, origins: &[origin::Origin]) -> bool {
    let text = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        value.map(|value| value.to_str().unwrap_or_default())
    };
    let (Some(_), Some(origin)) = (text(header::UPGRADE), text(header::ORIGIN)) else {
        return false;
    };
    let host = text(header::HOST).unwrap_or_default();
    let page = origin.split_once("://").map(|(_, page)| page);
    let is_own = page.is_some_and(|page| page.eq_ignore_ascii_case(host));
    !is_own && !origins.iter().any(|admitted| admitted.admits(origin))
}

/// What a panic says.
fn words(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no words").to_owned()
}

/// Lets pages of these origins in, with what gRPC-Web and the other faces need.
fn cors(origins: &[origin::Origin]) -> CorsLayer {
    let name = HeaderName::from_static;
    let origins = origins.to_vec();
    let admitted = move |origin: &HeaderValue, _: &http::request::Parts| {
        let origin = origin.to_str().unwrap_or_default();
        origins.iter().any(|admitted| admitted.admits(origin))
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(admitted))
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers([
            header::ACCEPT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            name("grpc-timeout"),
            name("last-event-id"),
            name("traceparent"),
            name("tracestate"),
            name("x-grpc-web"),
            CALL_ID,
            name("x-user-agent"),
        ])
        .expose_headers([
            name("grpc-message"),
            name("grpc-status"),
            name("grpc-status-details-bin"),
            header::LINK,
            header::LOCATION,
            header::RETRY_AFTER,
            CALL_ID,
        ])
        .max_age(Duration::from_secs(600))
}
