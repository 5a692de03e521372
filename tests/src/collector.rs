//! A collector of OpenTelemetry: takes OTLP over gRPC, and keeps all of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use shared::security::tls::ServerTls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::GUARD;

/// What has come.
#[derive(Debug, Default)]
struct Kept {
    spans: Vec<(String, Span)>,
    metrics: Vec<(String, Metric)>,
    requests: u32,
    turned_away: u32,
}

/// How a collector answers.
#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// Only those who show this as `api-key` are heard.
    pub key: Option<&'static str>,
    /// The first calls are told to come again.
    pub busy: u32,
}

/// A collector that serves until it is dropped.
pub struct Collector {
    /// Where.
    pub address: SocketAddr,
    sink: Sink,
    stop: CancellationToken,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Clone)]
struct Sink {
    kept: Arc<parking_lot::Mutex<Kept>>,
    manners: Manners,
}

impl Sink {
    // A status is what the service is to return.
    #[allow(clippy::result_large_err)]
    fn hear<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let mut kept = self.kept.lock();
        let shown = request.metadata().get("api-key");
        let shown = shown.and_then(|value| value.to_str().ok());
        if self.manners.key.is_some_and(|key| shown != Some(key)) {
            kept.turned_away += 1;
            return Err(Status::unauthenticated("no api-key"));
        }
        kept.requests += 1;
        if kept.requests <= self.manners.busy {
            return Err(Status::unavailable("busy"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.hear(&request)?;
        for resource in request.into_inner().resource_spans {
            let service = service(resource.resource);
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            let spans = spans.map(|span| (service.clone(), span));
            self.kept.lock().spans.extend(spans);
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Sink {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.hear(&request)?;
        for resource in request.into_inner().resource_metrics {
            let service = service(resource.resource);
            let metrics = resource
                .scope_metrics
                .into_iter()
                .flat_map(|scope| scope.metrics);
            let metrics = metrics.map(|metric| (service.clone(), metric));
            self.kept.lock().metrics.extend(metrics);
        }
        Ok(Response::new(Default::default()))
    }
}

fn service(resource: Option<Resource>) -> String {
    text(&resource.unwrap_or_default().attributes, "service.name").unwrap_or_default()
}

/// A text among attributes.
pub fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|pair| pair.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

impl Collector {
    /// One that takes everything.
    pub async fn start() -> Self {
        Self::with(Manners::default(), None).await
    }

    /// One with these manners, encrypted if there is something to encrypt with.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn with(manners: Manners, tls: Option<Arc<ServerTls>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let sink = Sink {
            kept: Arc::default(),
            manners,
        };
        let routes = Routes::new(
            TraceServiceServer::new(sink.clone()).accept_compressed(CompressionEncoding::Gzip),
        )
        .add_service(
            MetricsServiceServer::new(sink.clone()).accept_compressed(CompressionEncoding::Gzip),
        );
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (routes, tls) = (routes.clone(), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else {
                        return serve(stream, routes).await;
                    };
                    let ended = CancellationToken::new();
                    if let Ok(accepted) = tls.accept(stream, GUARD, ended).await {
                        serve(accepted.stream, routes).await;
                    }
                });
            }
        }));
        Self {
            address,
            sink,
            stop,
        }
    }

    /// All spans so far, with the name of the service that each is of.
    pub fn spans(&self) -> Vec<(String, Span)> {
        self.sink.kept.lock().spans.clone()
    }

    /// All metrics so far, with the name of the service that each is of.
    pub fn metrics(&self) -> Vec<(String, Metric)> {
        self.sink.kept.lock().metrics.clone()
    }

    /// Calls that were turned away.
    pub fn turned_away(&self) -> u32 {
        self.sink.kept.lock().turned_away
    }
}

async fn serve<S>(stream: S, routes: Routes)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    let service = TowerToHyperService::new(routes.prepare());
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    // Whoever has told everything goes.
    let _ = tokio::time::timeout(GUARD.max(Duration::from_secs(1)), serving).await;
}
