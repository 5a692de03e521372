//! From settings to a checked configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use shared::security::rate;
use shared::security::settings::ServerSettings;
use shared::settings::address::{parse_listener, parse_station_url};
use shared::settings::units::{
    ByteSize, duration_within, number_within, or_off, size_within, word,
};
use shared::settings::{self, Values};
use shared::telemetry::otlp::OtlpSettings;
use shared::wire::WEBSOCKET_PATH;
use url::Url;

use super::{Config, Limits, LinkOptions, Quota, Verify};

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Of a quota, which is for long times.
const MOST_BYTES: ByteSize = ByteSize::mib(1 << 40);
/// Beyond any machine this is made for.
const LARGEST: ByteSize = ByteSize::mib(1 << 20);

impl FromStr for Verify {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        word(text, &[("header", Self::Header), ("full", Self::Full)])
    }
}

impl Config {
    /// Reads all settings. What is wrong is noted in `values`; the result counts only when
    /// [`Values::finish`] finds nothing.
    pub fn from_values(values: &mut Values) -> Self {
        let grpc_listen = values.required("grpc-listen", listener);
        let http_listen = values.required("http-listen", listener);
        let listen_all = values.required("listen-all", listener);
        let pull = pull(values);
        let listeners = [
            ("grpc-listen", grpc_listen),
            ("http-listen", http_listen),
            ("listen-all", listen_all),
        ];
        check_connections(values, &listeners, &pull);
        let security = ServerSettings::from_values(values, &listeners);
        let limits = limits(values);
        let link = link(values);
        check_memory(values, &limits, &link);
        values.derive("name", vec![settings::host_name()], "the host name");
        Self {
            name: values.optional("name", settings::label).unwrap_or_default(),
            grpc_listen,
            http_listen,
            listen_all,
            security,
            open_metrics: values.flag("open-metrics"),
            max_connections_per_peer: index(
                values.required("max-connections-per-peer", number_within(1..=1_000_000)),
            ),
            handshake_timeout: values.required(
                "handshake-timeout",
                duration_within(MILLISECOND * 100..=DAY),
            ),
            max_requests_per_second: values.required("max-requests-per-second", or_off(rate::read)),
            pull,
            data: values.required("data", folder),
            durability: values.required("durability", str::parse),
            verify: values.required("verify", str::parse),
            limits,
            link,
            grace: values.required("grace", duration_within(Duration::ZERO..=DAY)),
            telemetry: OtlpSettings::from_values(values),
            log: values.required("log", settings::log_filter),
            log_format: values.required("log-format", str::parse),
        }
    }
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') {
        return Err("a path cannot contain a zero byte".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// An address, or `off`.
fn listener(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.trim().eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    parse_listener(text)
        .map(Some)
        .map_err(|problem| format!("{problem}, or off"))
}

fn pull(values: &mut Values) -> Vec<Url> {
    let urls = values.list("pull", transmitter);
    for (at, url) in urls.iter().enumerate() {
        if urls[..at].contains(url) {
            values.mistake("pull", &format!("{url} is named twice; name it once"));
            break;
        }
    }
    urls
}

/// Where a transmitter waits.
fn transmitter(text: &str) -> Result<Url, String> {
    let station = parse_station_url(text)?;
    let scheme = if station.is_encrypted() { "wss" } else { "ws" };
    let mut url = station.url;
    if !station.has_port {
        return Err(format!(
            "{text:?} lacks the port of the transmitter's --listen"
        ));
    }
    // Both schemes have the same default port, so nothing else changes with it.
    url.set_scheme(scheme)
        .map_err(|()| format!("write {scheme}://HOST:PORT"))?;
    if url.path() == "/" {
        url.set_path(WEBSOCKET_PATH);
    }
    Ok(url)
}

fn check_connections(
    values: &mut Values,
    listeners: &[(&'static str, Option<SocketAddr>)],
    pull: &[Url],
) {
    if !values.is_known(&["grpc-listen", "http-listen", "listen-all", "pull"]) {
        return;
    }
    let open: Vec<_> = listeners
        .iter()
        .filter_map(|(setting, address)| Some((*setting, (*address)?)))
        .collect();
    if open.is_empty() && pull.is_empty() && values.is_complete() {
        values.general_mistake(
            "nothing to receive from: --grpc-listen and --http-listen are off and there is no \
             --pull; turn one of them on",
        );
    }
    for (at, (setting, address)) in open.iter().enumerate() {
        let same = open[..at].iter().find(|(_, other)| {
            let (a, b) = (address.ip(), other.ip());
            let is_one = a == b || a.is_unspecified() || b.is_unspecified();
            is_one && address.port() == other.port() && address.port() != 0
        });
        if let Some((other, _)) = same {
            let problem = format!("is the port of --{other} too; choose another one");
            values.mistake(setting, &problem);
        }
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn limits(values: &mut Values) -> Limits {
    let (kib, mib) = (ByteSize::kib, ByteSize::mib);
    let many = || number_within(1..=u64::from(u32::MAX));
    Limits {
        max_image_size: values.required("max-image-size", size_within(ByteSize(1)..=LARGEST)),
        max_message_size: values.required("max-message-size", size_within(kib(64)..=mib(1024))),
        max_chunks: values.required("max-chunks", many()),
        max_metadata: values.required("max-metadata", size_within(kib(1)..=mib(1))),
        max_connections: index(values.required("max-connections", number_within(1..=1_000_000))),
        max_unfinished: index(values.required("max-unfinished", number_within(1..=65_536))),
        max_memory: values.required("max-memory", size_within(mib(1)..=LARGEST)),
        idle_timeout: values.required("idle-timeout", duration_within(MILLISECOND * 100..=DAY)),
        partial_ttl: values.required("partial-ttl", duration_within(MILLISECOND..=YEAR)),
        partial_limit: values.required("partial-limit", size_within(ByteSize(0)..=LARGEST)),
        min_free: values.required("min-free", size_within(ByteSize(0)..=LARGEST)),
        quota: Quota {
            bytes: values.required("quota-bytes", or_off(size_within(ByteSize(1)..=MOST_BYTES))),
            images: values.required(
                "quota-images",
                or_off(number_within(1..=u64::from(u32::MAX))),
            ),
            period: values.required("quota-period", duration_within(MILLISECOND * 1_000..=YEAR)),
        },
        max_pixels: values.required("max-pixels", number_within(1..=u64::MAX)),
        decode_timeout: values.required("decode-timeout", duration_within(MILLISECOND..=DAY)),
    }
}

fn link(values: &mut Values) -> LinkOptions {
    let (kib, mib) = (ByteSize::kib, ByteSize::mib);
    // RFC 9113, sections 6.5.2 and 6.9.1.
    let largest_frame = ByteSize(mib(16).0 - 1);
    let largest_window = ByteSize((1 << 31) - 1);
    LinkOptions {
        credit: values.required("credit", size_within(kib(64)..=LARGEST)),
        http2_frame_size: values.required("http2-frame-size", size_within(kib(16)..=largest_frame)),
        http2_window: values.required("http2-window", size_within(kib(64)..=largest_window)),
    }
}

/// Messages must fit into the credit of a session, and that into memory; otherwise a session could
/// wait for ever for room that never comes.
fn check_memory(values: &mut Values, limits: &Limits, link: &LinkOptions) {
    let sizes = [
        (
            "max-message-size",
            limits.max_message_size,
            "credit",
            link.credit,
        ),
        ("credit", link.credit, "max-memory", limits.max_memory),
    ];
    for (inner, inner_size, outer, outer_size) in sizes {
        if inner_size > outer_size && values.is_known(&[inner, outer]) {
            let problem =
                format!("is less than --{inner} of {inner_size}; raise it, or lower that");
            values.mistake(outer, &problem);
        }
    }
}
