//! The settings of OpenTelemetry, by the names and with the meaning that all its programs share
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

use super::Teller;
use crate::security::Secret;
use crate::security::tls::ClientFiles;
use crate::settings::{Setting, Values, host_name};
use crate::telemetry::spans::Sampler;

const ENDPOINT: &str = "otel-exporter-otlp-endpoint";
const TRACES_ENDPOINT: &str = "otel-exporter-otlp-traces-endpoint";
const METRICS_ENDPOINT: &str = "otel-exporter-otlp-metrics-endpoint";
const PROTOCOL: &str = "otel-exporter-otlp-protocol";
const HEADERS: &str = "otel-exporter-otlp-headers";
const TIMEOUT: &str = "otel-exporter-otlp-timeout";
const COMPRESSION: &str = "otel-exporter-otlp-compression";
const CERTIFICATE: &str = "otel-exporter-otlp-certificate";
const CLIENT_CERTIFICATE: &str = "otel-exporter-otlp-client-certificate";
const CLIENT_KEY: &str = "otel-exporter-otlp-client-key";
const SERVICE: &str = "otel-service-name";
const RESOURCE: &str = "otel-resource-attributes";
const TRACES: &str = "otel-traces-exporter";
const METRICS: &str = "otel-metrics-exporter";
const SAMPLER: &str = "otel-traces-sampler";
const SAMPLER_ARG: &str = "otel-traces-sampler-arg";
const DELAY: &str = "otel-bsp-schedule-delay";
const QUEUE: &str = "otel-bsp-max-queue-size";
const BATCH: &str = "otel-bsp-max-export-batch-size";
const INTERVAL: &str = "otel-metric-export-interval";
const DISABLED: &str = "otel-sdk-disabled";

/// Settings of whoever tells a collector.
pub static TELEMETRY: &[Setting] = &[
    Setting::value(ENDPOINT, "URL", "Tell this collector of OpenTelemetry, by OTLP over gRPC")
        .long(
            "For example http://collector.example:4317; https:// is encrypted. Spans of each image or call, and \
             the figures of /metrics. Without it nobody is told.",
        )
        .standard(),
    Setting::value(TRACES_ENDPOINT, "URL", "Another one for spans").standard(),
    Setting::value(METRICS_ENDPOINT, "URL", "Another one for figures").standard(),
    Setting::value(PROTOCOL, "grpc", "How it is told").default("grpc").standard(),
    Setting::value(HEADERS, "KEY=VALUE,...", "Show it these headers").secret().standard(),
    Setting::value(TIMEOUT, "MS", "Time for it to take a batch, milliseconds")
        .default("10000")
        .standard(),
    Setting::value(COMPRESSION, "none|gzip", "How batches are compressed")
        .default("none")
        .standard(),
    Setting::value(
        CERTIFICATE,
        "FILE",
        "Trust it if this CA has signed its certificate [default: whom the system trusts]",
    )
    .standard(),
    Setting::value(CLIENT_CERTIFICATE, "FILE", "Show it the certificate in this file").standard(),
    Setting::value(CLIENT_KEY, "FILE", "The private key to it").standard(),
    Setting::value(SERVICE, "NAME", "service.name [default: the program's name]").standard(),
    Setting::list(RESOURCE, "KEY=VALUE", "What else is said of this process").standard(),
    Setting::value(TRACES, "otlp|none", "Whether spans are told").default("otlp").standard(),
    Setting::value(METRICS, "otlp|none", "Whether figures are told").default("otlp").standard(),
    Setting::value(SAMPLER, "NAME", "Which traces are told")
        .default("parentbased_always_on")
        .long("always_on, always_off, traceidratio, or one of them after parentbased_: whoever began the trace decides.")
        .standard(),
    Setting::value(SAMPLER_ARG, "RATIO", "The part of them for traceidratio, 0 to 1").standard(),
    Setting::value(DELAY, "MS", "Time between batches of spans, milliseconds")
        .default("5000")
        .standard(),
    Setting::value(QUEUE, "N", "Spans that wait; more are dropped and counted")
        .default("2048")
        .standard(),
    Setting::value(BATCH, "N", "Spans in a batch").default("512").standard(),
    Setting::value(INTERVAL, "MS", "Time between figures, milliseconds")
        .default("60000")
        .standard(),
    Setting::flag(DISABLED, "Tell nobody anything").standard(),
];

/// Whom to tell, and how.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    /// Where spans go.
    pub traces: Option<Url>,
    /// Where figures go.
    pub metrics: Option<Url>,
    /// What is shown.
    pub headers: Vec<(String, Secret)>,
    /// For a batch.
    pub timeout: Duration,
    /// Whether batches are compressed.
    pub gzip: bool,
    /// Whom to trust, and what is shown of this side.
    pub files: ClientFiles,
    /// Name of the service, where it is not the program's.
    pub service: Option<String>,
    /// What else is said of the process.
    pub attributes: Vec<(String, String)>,
    /// Which traces.
    pub sampler: Sampler,
    /// Between batches of spans.
    pub span_interval: Duration,
    /// Spans that wait.
    pub longest_queue: usize,
    /// Spans of a batch.
    pub batch: usize,
    /// Between figures.
    pub figure_interval: Duration,
}

impl Default for OtlpSettings {
    /// Tells nobody.
    fn default() -> Self {
        Self {
            traces: None,
            metrics: None,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            gzip: false,
            files: ClientFiles::default(),
            service: None,
            attributes: Vec::new(),
            sampler: Sampler {
                obeys_parents: true,
                ratio: 1.0,
            },
            span_interval: Duration::from_secs(5),
            longest_queue: 2_048,
            batch: 512,
            figure_interval: Duration::from_secs(60),
        }
    }
}

/// More would be a mistake: about 100 MB.
const MOST_SPANS: usize = 200_000;

impl OtlpSettings {
    /// Reads [`TELEMETRY`]. What is wrong is noted in `values`.
    ///
    /// Where nobody is named, what else is set is not looked at: variables of a whole fleet, in which
    /// other programs find other protocols, keep no image back.
    pub fn from_values(values: &mut Values) -> Self {
        let endpoints = [ENDPOINT, TRACES_ENDPOINT, METRICS_ENDPOINT];
        if !endpoints.iter().any(|key| values.is_given(key)) || values.flag(DISABLED) {
            return Self::default();
        }
        let all = values.optional(ENDPOINT, endpoint);
        let traces = values.optional(TRACES_ENDPOINT, endpoint);
        let metrics = values.optional(METRICS_ENDPOINT, endpoint);
        values.required(PROTOCOL, |text| match text {
            "grpc" => Ok(()),
            _ => Err("only grpc is spoken; collectors listen for it at port 4317".to_owned()),
        });
        let on = |text: &str| match text {
            "otlp" => Ok(true),
            "none" => Ok(false),
            _ => Err("use otlp or none".to_owned()),
        };
        let tells_traces = values.required(TRACES, on);
        let tells_metrics = values.required(METRICS, on);
        let headers = values.optional(HEADERS, |text| pairs(text, header));
        let own = (
            values.optional(CLIENT_CERTIFICATE, |text| Ok(PathBuf::from(text))),
            values.optional(CLIENT_KEY, |text| Ok(PathBuf::from(text))),
        );
        for (one, other) in [
            (CLIENT_CERTIFICATE, CLIENT_KEY),
            (CLIENT_KEY, CLIENT_CERTIFICATE),
        ] {
            if values.is_given(one) && !values.is_given(other) {
                values.mistake(one, &format!("needs {other}"));
            }
        }
        let files = ClientFiles {
            ca: values.optional(CERTIFICATE, |text| Ok(PathBuf::from(text))),
            own: own.0.zip(own.1),
            revoked: None,
        };
        let mut sampler: Sampler = values.required(SAMPLER, str::parse);
        if let Some(ratio) = values.optional(SAMPLER_ARG, ratio)
            && values.required(SAMPLER, |text| Ok(text.ends_with("traceidratio")))
        {
            sampler.ratio = ratio;
        }
        let longest_queue = values.required(QUEUE, |text| count(text, MOST_SPANS));
        Self {
            traces: traces.or_else(|| all.clone()).filter(|_| tells_traces),
            metrics: metrics.or(all).filter(|_| tells_metrics),
            headers: headers.unwrap_or_default(),
            timeout: values.required(TIMEOUT, milliseconds),
            gzip: values.required(COMPRESSION, |text| match text {
                "gzip" => Ok(true),
                "none" => Ok(false),
                _ => Err("use none or gzip".to_owned()),
            }),
            files,
            service: values.optional(SERVICE, |text| Ok(text.to_owned())),
            attributes: values
                .optional(RESOURCE, |text| pairs(text, |key, value| Ok((key, value))))
                .unwrap_or_default(),
            sampler,
            span_interval: values.required(DELAY, milliseconds),
            longest_queue,
            batch: values
                .required(BATCH, |text| count(text, MOST_SPANS))
                .min(longest_queue),
            figure_interval: values.required(INTERVAL, milliseconds),
        }
    }

    /// What is said of the process, weaker first.
    pub(super) fn resource(&self, teller: &Teller) -> Vec<(String, String)> {
        let mut all = vec![
            ("host.name".to_owned(), host_name()),
            ("service.instance.id".to_owned(), teller.station.clone()),
            ("service.name".to_owned(), teller.program.to_owned()),
            ("service.version".to_owned(), teller.version.to_owned()),
        ];
        let service = self
            .service
            .iter()
            .map(|name| ("service.name".to_owned(), name.clone()));
        for (key, value) in self.attributes.iter().cloned().chain(service) {
            all.retain(|(known, _)| *known != key);
            all.push((key, value));
        }
        all
    }
}

fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; use http://HOST:4317"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(
            "use http:// or https://, for example http://collector.example:4317".to_owned(),
        );
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "takes no user; put what the collector asks for into OTEL_EXPORTER_OTLP_HEADERS"
                .to_owned(),
        );
    }
    Ok(url)
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(number @ 1..=86_400_000) => Ok(Duration::from_millis(number)),
        _ => Err(
            "is no number of milliseconds; OpenTelemetry has no units, so 10 s are 10000"
                .to_owned(),
        ),
    }
}

fn count(text: &str, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("use a number from 1 to {most}")),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("use a number from 0 to 1".to_owned()),
    }
}

/// The pairs of `key=value,key=value`, with values percent-encoded.
fn pairs<T>(
    text: &str,
    take: impl Fn(String, String) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    let pair = |item: &str| {
        // The item itself may be a secret.
        let (key, value) = item
            .split_once('=')
            .ok_or("is not of the form key=value,key=value")?;
        let value = percent_decode_str(value.trim()).decode_utf8();
        let value = value.map_err(|_| "has a value that is no text")?;
        take(key.trim().to_owned(), value.into_owned())
    };
    items.map(pair).collect()
}

fn header(key: String, value: String) -> Result<(String, Secret), String> {
    let name = tonic::metadata::AsciiMetadataKey::from_bytes(key.to_ascii_lowercase().as_bytes());
    if name.is_err() || key.to_ascii_lowercase().ends_with("-bin") {
        // What was taken for the name may be a part of the secret.
        return Err(
            "has a name before = that is none of a header; use key=value,key=value".to_owned(),
        );
    }
    if http::HeaderValue::from_str(&value).is_err() {
        return Err("has a value that cannot stand in a header".to_owned());
    }
    Ok((key.to_ascii_lowercase(), Secret::new(value.into_bytes())))
}
