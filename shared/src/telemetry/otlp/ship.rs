//! Brings batches to a collector.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use url::Url;

use super::OtlpSettings;
use super::messages;
use crate::connect::Connector;
use crate::security::tls::{ClientTls, H2, TlsError};
use crate::telemetry::spans::Span;

/// Pause before a batch is brought again, the first time; it doubles from there.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The way to one collector.
#[derive(Debug)]
pub(super) struct Ship {
    channel: Channel,
    /// As it may be shown: without what may be secret in it.
    address: String,
    shown: MetadataMap,
    timeout: Duration,
    gzip: bool,
    resource: Resource,
    scope: InstrumentationScope,
    /// The last batch was not taken.
    failing: AtomicBool,
}

impl Ship {
    pub(super) fn new(
        url: &Url,
        settings: &OtlpSettings,
        resource: &[(String, String)],
        version: &str,
    ) -> Result<Self, TlsError> {
        let tls = match url.scheme() {
            "https" => Some(ClientTls::open(settings.files.clone())?),
            _ => None,
        };
        let (host, port) = (
            url.host_str().unwrap_or_default(),
            url.port_or_known_default(),
        );
        let place = format!("{host}:{}", port.unwrap_or(4317));
        let address = format!("{}://{place}", url.scheme());
        // The connector encrypts; tonic would want to do so itself if it were told.
        let uri = format!("http://{place}");
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|error| TlsError::Unusable(format!("{address}: {error}")))?;
        let connector = Connector::new(tls, H2, settings.timeout);
        let mut shown = MetadataMap::new();
        for (key, value) in &settings.headers {
            // They were looked at when they were read.
            let key = key.parse::<AsciiMetadataKey>();
            if let (Ok(key), Ok(mut value)) = (key, AsciiMetadataValue::try_from(value.reveal())) {
                value.set_sensitive(true);
                shown.insert(key, value);
            }
        }
        Ok(Self {
            channel: endpoint.connect_with_connector_lazy(connector),
            address,
            shown,
            timeout: settings.timeout,
            gzip: settings.gzip,
            resource: messages::resource(resource),
            scope: messages::scope(version),
            failing: AtomicBool::new(false),
        })
    }

    /// Whether they were taken.
    pub(super) async fn spans(&self, spans: &[Span], stop: &CancellationToken) -> bool {
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(self.scope.clone()),
                    spans: spans.iter().map(messages::span).collect(),
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let mut client = TraceServiceClient::new(self.channel.clone());
        if self.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let call = || {
            let (mut client, request) = (client.clone(), self.request(request.clone()));
            async move {
                let told = client.export(request).await?.into_inner().partial_success;
                Ok(told.map(|told| (told.rejected_spans, told.error_message)))
            }
        };
        self.bring(call, stop).await
    }

    /// Whether they were taken.
    pub(super) async fn metrics(&self, metrics: Vec<Metric>, stop: &CancellationToken) -> bool {
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(self.scope.clone()),
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        let mut client = MetricsServiceClient::new(self.channel.clone());
        if self.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let call = || {
            let (mut client, request) = (client.clone(), self.request(request.clone()));
            async move {
                let told = client.export(request).await?.into_inner().partial_success;
                Ok(told.map(|told| (told.rejected_data_points, told.error_message)))
            }
        };
        self.bring(call, stop).await
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        tonic::Request::from_parts(self.shown.clone(), Default::default(), message)
    }

    /// Calls until the batch is taken, cannot be taken, or has had its time. Once it is to stop, it calls
    /// twice at most, as nobody waits long for the end of a process.
    async fn bring<F, Fut>(&self, call: F, stop: &CancellationToken) -> bool
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Option<(i64, String)>, Status>>,
    {
        let until = Instant::now() + self.timeout;
        let mut pause = PAUSE;
        let mut last = false;
        loop {
            let called = tokio::time::timeout_at(until, call()).await;
            let status = match called {
                Ok(Ok(partial)) => {
                    self.taken(partial);
                    return true;
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {:?}", self.timeout)),
            };
            if last || !may_pass(status.code()) || Instant::now() + pause >= until {
                self.not_taken(&status);
                return false;
            }
            last = stop.is_cancelled();
            let stopped = async {
                match last {
                    true => std::future::pending().await,
                    false => stop.cancelled().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(if last { PAUSE } else { pause }) => {}
                () = stopped => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn taken(&self, partial: Option<(i64, String)>) {
        if self.failing.swap(false, Relaxed) {
            tracing::info!("the collector {} is told again", self.address);
        }
        if let Some((rejected, words)) =
            partial.filter(|(rejected, words)| *rejected > 0 || !words.is_empty())
        {
            tracing::warn!(rejected, "the collector {} says: {words}", self.address);
        }
    }

    /// Said once until it works again: a collector that is away for a night fills no disk.
    fn not_taken(&self, status: &Status) {
        if !self.failing.swap(true, Relaxed) {
            let words = super::super::chain(status);
            tracing::warn!(
                "the collector {} takes nothing, the work goes on without it: {words}",
                self.address
            );
        }
    }
}

/// Which answers may be others later (OTLP, section "Failures").
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
    )
}
