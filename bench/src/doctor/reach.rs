//! Whether the other station can be reached, and lets this one in.

mod denial;
mod judge;
mod noting;
mod probe;
mod session;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use serde_json::Value;
use shared::clock::ClockEstimate;
use shared::image::Transport;
use shared::security::bearer::Bearer;
use shared::security::identity::{Role, StationId};
use shared::security::tls::{ClientFiles, ClientTls, TlsError};
use shared::settings::address::is_encrypted;
use url::Url;

use super::{Finding, Group, Level};

pub(crate) use judge::{judge, readiness};
pub(crate) use probe::probe;
pub(crate) use session::get;

/// One way to another station.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// What is spoken there.
    pub(crate) transport: Transport,
    /// Where.
    pub(crate) url: Url,
    /// The setting that says so.
    pub(crate) setting: &'static str,
    /// Who may answer.
    pub(crate) roles: &'static [Role],
    /// Whether a session is begun. Whoever is dialled as a transmitter would take it for a receiver's, and begin
    /// to send.
    pub(crate) speaks: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.as_str().trim_end_matches('/');
        write!(f, "{url} ({})", self.transport)
    }
}

impl Target {
    /// The host without the brackets of IPv6.
    pub(super) fn host(&self) -> &str {
        let host = self.url.host_str().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }
}

/// What this side shows.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(super) name: String,
    pub(super) tls: Option<Arc<ClientTls>>,
    /// Whom it trusts; the system's list without it.
    pub(super) ca: Option<PathBuf>,
    /// The header with its token, or why there is none.
    pub(super) token: Option<Result<HeaderValue, String>>,
    /// Whether it shows a certificate.
    pub(super) shows: bool,
}

/// What this side has to show, in files that may be on a disk that hangs.
#[derive(Debug)]
pub(crate) struct Papers {
    name: String,
    token: Option<Bearer>,
    files: ClientFiles,
    /// Whether a way to another station is encrypted.
    encrypts: bool,
}

impl Papers {
    /// Reads the files.
    ///
    /// # Errors
    /// When connections cannot be encrypted.
    pub(crate) fn open(self) -> Result<Shown, TlsError> {
        let (ca, own) = (self.files.ca.clone(), self.files.own.is_some());
        let tls = self.encrypts.then(|| ClientTls::open(self.files));
        let tls = tls.transpose()?;
        Ok(Shown {
            name: self.name,
            shows: own && tls.is_some(),
            tls,
            ca,
            token: self.token.as_ref().map(Bearer::header),
        })
    }
}

/// What came of it, as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// The addresses of the name, and how long that took.
    pub(super) resolved: Option<Result<(Vec<SocketAddr>, Duration), String>>,
    /// The address that answered.
    pub(super) connected: Option<Result<(SocketAddr, Duration), (std::io::ErrorKind, String)>>,
    pub(super) shaken: Option<Result<Handshake, String>>,
    pub(super) session: Option<Session>,
    /// What /readyz says, where it is there.
    pub(super) ready: Option<Value>,
    /// The other clock.
    pub(crate) clock: Option<ClockEstimate>,
}

/// An encrypted connection.
#[derive(Debug, Clone)]
pub(super) struct Handshake {
    pub(super) version: String,
    pub(super) suite: String,
    pub(super) protocol: String,
    pub(super) peer: Option<StationId>,
    pub(super) until: Option<SystemTime>,
    pub(super) took: Duration,
}

/// How a session began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Session {
    /// Welcomed, with what the receiver says of itself.
    Welcomed(String, Option<u64>),
    /// Turned away: whether it knows who this is, and its words.
    Denied { known: bool, words: String },
    /// Somebody else is there.
    Foreign(String),
    /// No answer, or none that can be read.
    Lost(String),
}

/// Who may answer as a receiver.
const RECEIVERS: &[Role] = &[Role::Receiver, Role::Gateway];

/// Where a transmitter delivers, and what it shows.
pub(crate) fn of_transmitter(config: &transmitter::config::Config) -> (Vec<Target>, Papers) {
    let targets: Vec<_> = config
        .to
        .iter()
        .filter(|(transport, _)| config.transports.contains(transport))
        .map(|(transport, url)| Target {
            transport: *transport,
            url: url.clone(),
            setting: "--to",
            roles: RECEIVERS,
            speaks: true,
        })
        .collect();
    let papers = Papers {
        name: config.name.clone(),
        token: config.security.token.clone(),
        files: config.security.tls.clone(),
        encrypts: encrypts(&targets),
    };
    (targets, papers)
}

/// Whom a receiver dials, and what it shows.
pub(crate) fn of_receiver(config: &receiver::config::Config) -> (Vec<Target>, Papers) {
    let targets: Vec<_> = config
        .pull
        .iter()
        .map(|url| Target {
            transport: Transport::WebSocket,
            url: url.clone(),
            setting: "--pull",
            roles: &[Role::Transmitter],
            speaks: false,
        })
        .collect();
    let files = config.security.tls.as_ref();
    let clients = files.and_then(|files| files.clients.as_ref());
    let files = ClientFiles {
        ca: clients.map(|clients| clients.ca.clone()),
        own: files.map(|files| (files.certificate.clone(), files.key.clone())),
        revoked: clients.and_then(|clients| clients.revoked.clone()),
    };
    let papers = Papers {
        name: config.name.clone(),
        token: None,
        files,
        encrypts: encrypts(&targets),
    };
    (targets, papers)
}

fn encrypts(targets: &[Target]) -> bool {
    targets.iter().any(|target| is_encrypted(&target.url))
}

/// No connection can be encrypted, so that none is tried.
pub(crate) fn unusable(error: &TlsError) -> Finding {
    let place = (Group::Reachability, "certificates");
    let words = error.to_string();
    let (found, fix) = super::advice(
        &words,
        "put the file right, or name another one; `pantelegraph keys` makes them",
    );
    Finding::bad(Level::Problem, place, found, fix)
}
