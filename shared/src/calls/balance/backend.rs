//! One server: its connection, and whether it is ready.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::Uri;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::BalanceOptions;
use super::pool::Pool;
use crate::connect::Connector;
use crate::security::tls::H2;

/// Where a server is, and what it is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Host and port to connect to.
    pub(super) authority: String,
    /// What requests say they are for: for a name's address, the name.
    pub(super) origin: String,
    /// Whether the connection is encrypted.
    pub(super) encrypted: bool,
}

#[derive(Debug)]
pub(super) struct Backend {
    pub(super) authority: Arc<str>,
    origin: String,
    encrypted: bool,
    pub(super) channel: Channel,
    /// Calls begun.
    pub(super) calls: AtomicU64,
    /// The last term in which a call broke.
    pub(super) broken: watch::Sender<u64>,
    /// It is known no more.
    pub(super) gone: CancellationToken,
}

impl Backend {
    pub(super) fn new(
        address: &Address,
        options: &BalanceOptions,
        gone: CancellationToken,
    ) -> Result<Arc<Self>, Box<dyn std::error::Error>> {
        let scheme = if address.encrypted { "https" } else { "http" };
        let origin = Uri::try_from(format!("{scheme}://{}", address.origin))?;
        // Always http here: what the library would do itself for https is done by the connector.
        let endpoint = Endpoint::from_shared(format!("http://{}", address.authority))?
            .origin(origin)
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout)
            .keep_alive_while_idle(true);
        let channel = match (address.encrypted, &options.tls) {
            (false, _) => endpoint.connect_lazy(),
            (true, Some(tls)) => {
                let host = endpoint_name(&address.origin)?;
                let connector =
                    Connector::new(Some(Arc::clone(tls)), H2, options.connect_timeout).of(&host);
                endpoint.connect_with_connector_lazy(connector)
            }
            (true, None) => return Err("nothing is known of whom to trust in".into()),
        };
        Ok(Arc::new(Self {
            authority: Arc::from(address.authority.as_str()),
            origin: address.origin.clone(),
            encrypted: address.encrypted,
            channel,
            calls: AtomicU64::new(0),
            broken: watch::Sender::new(0),
            gone,
        }))
    }

    pub(super) fn is_at(&self, address: &Address) -> bool {
        *self.authority == *address.authority
            && self.origin == address.origin
            && self.encrypted == address.encrypted
    }
}

/// Whom a server's certificate has to be for.
fn endpoint_name(origin: &str) -> Result<String, http::uri::InvalidUri> {
    let authority: http::uri::Authority = origin.parse()?;
    Ok(authority.host().to_owned())
}

/// Puts a server into the rotation and takes it out, for as long as it is known.
pub(super) async fn keep_watching(pool: Arc<Pool>, backend: Arc<Backend>) {
    let mut failures = 0;
    for term in 1.. {
        let mut broken = backend.broken.subscribe();
        let mut was_ready = false;
        let why = tokio::select! {
            why = follow(&pool, &backend, term, &mut was_ready) => why,
            // The sender is the backend's, so this ends by a call's failure only.
            _ = broken.wait_for(|broken| *broken >= term) => {
                format!("a call to {} broke", backend.authority)
            }
        };
        pool.take_out(&backend, term, &why);
        pool.look_again.notify_one();
        failures = if was_ready { 1 } else { failures + 1 };
        let delay = pool.options.watch_backoff.delay(failures, fastrand::f64());
        tokio::time::sleep(delay).await;
    }
}

/// Follows what a server says of itself, until the stream breaks; then why.
async fn follow(
    pool: &Arc<Pool>,
    backend: &Arc<Backend>,
    term: u64,
    was_ready: &mut bool,
) -> String {
    let request = HealthCheckRequest {
        service: pool.options.health_service.clone(),
    };
    let mut health = HealthClient::new(backend.channel.clone());
    let mut reports = match health.watch(request).await {
        Ok(reports) => reports.into_inner(),
        Err(status) => return without_reports(pool, backend, term, was_ready, &status).await,
    };
    loop {
        match reports.message().await {
            Ok(Some(report)) if report.status() == ServingStatus::Serving => {
                *was_ready = true;
                pool.put_in(backend, term);
            }
            // The stream is given up and asked for again, rather than kept until the server is
            // well: one that drains waits for its streams to end.
            Ok(Some(report)) => {
                let status = report.status().as_str_name();
                return format!("{} reports {status}", backend.authority);
            }
            Ok(None) => return format!("{} reports no more", backend.authority),
            Err(status) if status.code() == Code::Unimplemented => {
                return without_reports(pool, backend, term, was_ready, &status).await;
            }
            Err(status) => return trouble(backend, &status),
        }
    }
}

/// A server that has no health service is as good as its connection: it is ready until a call
/// breaks.
async fn without_reports(
    pool: &Pool,
    backend: &Arc<Backend>,
    term: u64,
    was_ready: &mut bool,
    status: &Status,
) -> String {
    if status.code() != Code::Unimplemented {
        return trouble(backend, status);
    }
    *was_ready = true;
    pool.put_in(backend, term);
    std::future::pending().await
}

fn trouble(backend: &Backend, status: &Status) -> String {
    // What a status says for itself names its metadata too, which nobody wants to read.
    let mut reason = status.message().to_owned();
    if let Some(source) = std::error::Error::source(status) {
        reason = format!("{reason}: {}", super::failure::chain(source));
    }
    format!("{} cannot be watched: {reason}", backend.authority)
}
