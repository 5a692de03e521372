//! Settings of the server, checked.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use shared::security::rate;
use shared::security::settings::{Listener, ServerSettings, refuse_open_listeners};
use shared::settings::address::parse_listener;
use shared::settings::units::{ByteSize, duration_within, number_within, or_off, size_within};
use shared::settings::{self, Values};
use shared::telemetry::LogFormat;
use shared::telemetry::otlp::OtlpSettings;

use crate::access::Anonymous;
use crate::chat::RoomOptions;
use crate::origin::Origin;
use crate::service::Limits;

const DAY: Duration = Duration::from_secs(86_400);

/// What a server is told to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where gRPC and gRPC-Web are served.
    pub grpc_listen: Option<SocketAddr>,
    /// Where REST and GraphQL are served.
    pub http_listen: Option<SocketAddr>,
    /// Where all of them are served on one port.
    pub listen_all: Option<SocketAddr>,
    /// File with the users; in memory only without one.
    pub data: Option<PathBuf>,
    /// Most users.
    pub max_users: usize,
    /// Bounds on requests.
    pub limits: Limits,
    /// Requests of one caller a second, if they are limited.
    pub max_requests_per_second: Option<NonZeroU32>,
    /// Bounds of the chat.
    pub chat: RoomOptions,
    /// Bounds on connections.
    pub connections: Connections,
    /// Who gets in, and how connections are encrypted.
    pub security: ServerSettings,
    /// What becomes of those who show nothing.
    pub anonymous: Anonymous,
    /// Pages that may call from a browser.
    pub origins: Vec<Origin>,
    /// Whether figures are for everybody.
    pub open_metrics: bool,
    /// How a stop goes.
    pub stopping: Stopping,
    /// Whom to tell of calls and figures.
    pub telemetry: OtlpSettings,
    /// What is logged.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
}

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// Most of them at a time, of each listener.
    pub max: usize,
    /// Most of them of one peer.
    pub max_per_peer: usize,
    /// Time for the handshake of TLS, and again for the beginning of the first request.
    pub handshake_timeout: Duration,
    /// Most calls that one of them has open.
    pub max_streams: u32,
    /// Time for the head of a request.
    pub head_timeout: Duration,
}

/// How a stop goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopping {
    /// From saying NOT_SERVING until nothing new is accepted.
    pub drain_delay: Duration,
    /// From then until what is still open is cut off.
    pub grace: Duration,
}

impl Default for Config {
    /// What a server does that is told nothing, but on free ports.
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            grpc_listen: Some(any),
            http_listen: Some(any),
            listen_all: None,
            data: None,
            max_users: 1_000_000,
            limits: Limits::default(),
            max_requests_per_second: None,
            chat: RoomOptions::default(),
            connections: Connections {
                max: 1_024,
                max_per_peer: 256,
                handshake_timeout: Duration::from_secs(10),
                max_streams: 1_024,
                head_timeout: Duration::from_secs(30),
            },
            security: ServerSettings::default(),
            anonymous: Anonymous::default(),
            origins: Vec::new(),
            open_metrics: false,
            stopping: Stopping {
                drain_delay: Duration::ZERO,
                grace: Duration::from_secs(10),
            },
            telemetry: OtlpSettings::default(),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl Config {
    /// Reads all settings. What is wrong is noted in `values`; the result counts only when
    /// [`Values::finish`] finds nothing.
    pub fn from_values(values: &mut Values) -> Self {
        // Beyond any machine that this is made for.
        let size = size_within(ByteSize(1 << 10)..=ByteSize::mib(1 << 10));
        let count = |most| number_within(1..=most);
        let message = values.required("max-message-size", size);
        let anonymous = match values.flag("allow-anonymous") {
            true => Anonymous::Admitted,
            false => Anonymous::Refused,
        };
        let grpc_listen = values.required("grpc-listen", or_off(parse_listener));
        let http_listen = values.required("http-listen", or_off(parse_listener));
        let listen_all = values.required("listen-all", or_off(parse_listener));
        let listeners = listeners(grpc_listen, http_listen, listen_all);
        check_listeners(values, &listeners);
        let security = ServerSettings::from_values(values, &listeners);
        if admits_strangers(&security, anonymous) && !security.insecure {
            let known = values.is_known(&["insecure", "allow-anonymous"]);
            let listeners = if known { &listeners[..] } else { &[] };
            refuse_open_listeners(values, listeners, "leave --allow-anonymous out");
        }
        Self {
            grpc_listen,
            http_listen,
            listen_all,
            data: values.optional("data", file),
            max_users: to_usize(values.required("max-users", count(100_000_000))),
            limits: Limits {
                max_message_size: to_usize(message.0),
                max_batch: to_usize(values.required("max-batch", count(10_000_000))),
            },
            max_requests_per_second: values.required("max-requests-per-second", or_off(rate::read)),
            chat: RoomOptions {
                max_readers: to_usize(values.required("max-chat-clients", count(100_000))),
                patience: values.required(
                    "chat-patience",
                    duration_within(Duration::from_millis(100)..=DAY),
                ),
                ..RoomOptions::default()
            },
            connections: Connections {
                max: to_usize(values.required("max-connections", count(1_000_000))),
                max_per_peer: to_usize(
                    values.required("max-connections-per-peer", count(1_000_000)),
                ),
                handshake_timeout: values.required(
                    "handshake-timeout",
                    duration_within(Duration::from_millis(100)..=DAY),
                ),
                max_streams: u32::try_from(values.required("max-streams", count(1 << 20)))
                    .unwrap_or(u32::MAX),
                head_timeout: values.required(
                    "head-timeout",
                    duration_within(Duration::from_millis(100)..=DAY),
                ),
            },
            security,
            anonymous,
            origins: values.list("cors-origin", str::parse),
            open_metrics: values.flag("open-metrics"),
            stopping: Stopping {
                drain_delay: values.required("drain-delay", duration_within(Duration::ZERO..=DAY)),
                grace: values.required("grace", duration_within(Duration::ZERO..=DAY)),
            },
            telemetry: OtlpSettings::from_values(values),
            log: values.required("log", settings::log_filter),
            log_format: values.required("log-format", str::parse),
        }
    }
}

impl Config {
    /// Whether those get in who show nothing, although something is asked for.
    pub(crate) fn admits_strangers(&self) -> bool {
        admits_strangers(&self.security, self.anonymous)
    }

    /// What to warn of at each start.
    pub fn warnings(&self) -> Vec<String> {
        let listeners = listeners(self.grpc_listen, self.http_listen, self.listen_all);
        let mut warnings = self.security.warnings(&listeners);
        let is_open = |listener: &Listener| listener.1.is_some_and(|it| !it.ip().is_loopback());
        if self.admits_strangers() && listeners.iter().any(is_open) {
            warnings.push(
                "everybody who reaches this server may read and create users (--allow-anonymous)"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// Whether those get in who show nothing, although something is asked for.
fn admits_strangers(security: &ServerSettings, anonymous: Anonymous) -> bool {
    let clients = security.tls.as_ref().and_then(|tls| tls.clients.as_ref());
    let needs_certificate = clients.is_some_and(|clients| !clients.optional);
    anonymous == Anonymous::Admitted && security.asks() && !needs_certificate
}

fn listeners(
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    all: Option<SocketAddr>,
) -> [Listener; 3] {
    [
        ("grpc-listen", grpc),
        ("http-listen", http),
        ("listen-all", all),
    ]
}

fn check_listeners(values: &mut Values, listeners: &[Listener]) {
    let known = values.is_known(&["grpc-listen", "http-listen", "listen-all"]);
    if known && values.is_complete() && listeners.iter().all(|(_, address)| address.is_none()) {
        values.general_mistake(
            "nobody can call: --grpc-listen, --http-listen and --listen-all are off; turn one of them on",
        );
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn file(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') {
        return Err("a path cannot contain a zero byte".to_owned());
    }
    Ok(PathBuf::from(text))
}
