//! Who gets in: certificates, the door and the gate, as the settings want them.

use std::fmt;
use std::sync::Arc;

use shared::door::{Bounds, Door, Peer};
use shared::security::rate::Rates;
use shared::security::tls::{ClientFiles, ClientTls, H2, HTTP_1_1, ServerTls, TlsError};
use shared::settings::address::is_encrypted;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::endpoint::gate::Gate;
use crate::live::Controls;
use crate::metrics::ReceiverMetrics;

/// Connections without a request yet, at most.
const MAX_NEWCOMERS: usize = 512;

/// What encrypts.
pub(super) struct Tls {
    /// Connections that come in.
    pub(super) server: Option<Arc<ServerTls>>,
    /// Those that are made to transmitters that listen.
    pub(super) client: Option<Arc<ClientTls>>,
}

impl Tls {
    pub(super) fn open(config: &Config) -> Result<Self, TlsError> {
        let files = config.security.tls.as_ref();
        let server = files.map(|files| ServerTls::open(files.clone(), &[H2, HTTP_1_1]));
        let client = config
            .pull
            .iter()
            .any(is_encrypted)
            .then(|| ClientTls::open(pull_files(config)));
        Ok(Self {
            server: server.transpose()?,
            client: client.transpose()?,
        })
    }
}

/// The certificates for transmitters that are dialled. Those who sign the certificates of transmitters that
/// come sign those of the others, too.
pub(crate) fn pull_files(config: &Config) -> ClientFiles {
    let files = config.security.tls.as_ref();
    let clients = files.and_then(|files| files.clients.as_ref());
    ClientFiles {
        ca: clients.map(|clients| clients.ca.clone()),
        own: files.map(|files| (files.certificate.clone(), files.key.clone())),
        revoked: clients.and_then(|clients| clients.revoked.clone()),
    }
}

/// Lets connections in.
pub(super) fn door(
    config: &Config,
    metrics: &ReceiverMetrics,
    stop: &CancellationToken,
    cut: &CancellationToken,
    tasks: &TaskTracker,
) -> Door {
    let limits = &config.limits;
    let bounds = Bounds {
        connections: limits.max_connections,
        per_peer: config.max_connections_per_peer,
        newcomers: (limits.max_connections / 2).clamp(1, MAX_NEWCOMERS),
        handshake: config.handshake_timeout,
    };
    let metrics = metrics.clone();
    let refused = move |reason| metrics.refused(reason);
    Door::new(bounds, stop.clone(), cut.clone(), tasks.clone(), refused)
}

/// Lets requests in.
pub(super) fn gate(
    controls: &Controls,
    rates: Rates,
    metrics: &ReceiverMetrics,
    door: &Door,
) -> Gate {
    let (metrics, door) = (metrics.clone(), door.clone());
    let refusals = move |peer: &Peer, key: &'static str, why: &dyn fmt::Display| {
        metrics.refused(key);
        door.tell(format_args!("{} is turned away: {why}", peer.address));
    };
    let (policy, open_metrics) = (controls.policy.clone(), Arc::clone(&controls.open_metrics));
    Gate::new(policy, open_metrics, rates, Arc::new(refusals))
}
