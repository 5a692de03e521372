//! A collector of OpenTelemetry: takes OTLP over gRPC, and keeps all of it.

use std::sync::Arc;

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
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// What has come, and from which services.
#[derive(Default)]
struct Kept {
    services: Vec<String>,
    spans: Vec<Span>,
    metrics: Vec<Metric>,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Kept>>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            kept.services.extend(text(&attributes, "service.name"));
            let scopes = resource.scope_spans.into_iter();
            kept.spans.extend(scopes.flat_map(|scope| scope.spans));
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
        let mut kept = self.0.lock();
        for resource in request.into_inner().resource_metrics {
            let scopes = resource.scope_metrics.into_iter();
            kept.metrics.extend(scopes.flat_map(|scope| scope.metrics));
        }
        Ok(Response::new(Default::default()))
    }
}

/// A text among attributes.
pub(super) fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match value(attributes, key)? {
        Value::StringValue(text) => Some(text),
        other => panic!("{key}: {other:?}"),
    }
}

/// A number among attributes.
pub(super) fn number(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match value(attributes, key)? {
        Value::IntValue(number) => Some(number),
        other => panic!("{key}: {other:?}"),
    }
}

fn value(attributes: &[KeyValue], key: &str) -> Option<Value> {
    let found = attributes.iter().find(|pair| pair.key == key)?;
    found.value.clone()?.value
}

/// One that serves as long as the test runs.
pub(super) struct Collector {
    pub(super) url: url::Url,
    sink: Sink,
}

impl Collector {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let sink = Sink::default();
        let routes = Routes::new(TraceServiceServer::new(sink.clone()))
            .add_service(MetricsServiceServer::new(sink.clone()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(routes.clone().prepare());
                let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
                tokio::spawn(async move {
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            url: url.parse().unwrap(),
            sink,
        }
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.sink.0.lock().spans.clone()
    }

    pub(super) fn metrics(&self) -> Vec<Metric> {
        self.sink.0.lock().metrics.clone()
    }

    pub(super) fn services(&self) -> Vec<String> {
        self.sink.0.lock().services.clone()
    }
}
