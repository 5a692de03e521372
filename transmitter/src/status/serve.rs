//! The HTTP server: a few connections, one request each, GET and HEAD only.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use shared::clock::UnixNanos;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{Part, Status, metrics};

/// Connections at once; who comes beyond that is turned away.
const CONNECTIONS: usize = 16;

/// Time for a whole connection.
const TIME: Duration = Duration::from_secs(10);

/// Bytes of a request's head.
const HEAD: usize = 8 << 10;

/// Time before the next connection is accepted when that failed: no file descriptors, for example.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, status: Arc<Status>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Those that are served end with this.
    let mut served = tokio::task::JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a request for the status was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while served.try_join_next().is_some() {}
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let status = Arc::clone(&status);
            served.spawn(async move {
                let _ = tokio::time::timeout(TIME, answer_one(stream, status)).await;
                drop(place);
            });
        }
    }
}

async fn answer_one(stream: TcpStream, status: Arc<Status>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let status = Arc::clone(&status);
        async move {
            let path = request.uri().path();
            Ok::<_, Infallible>(answer(&status, request.method(), path).await)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIME)
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a request for the status failed");
    }
}

pub(super) async fn answer(status: &Status, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned());
        let methods = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, methods);
        return response;
    }
    match path {
        "/healthz" => plain(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => readiness(&status.parts(), status.draining.is_cancelled()),
        "/metrics" => {
            let mut response = plain(
                StatusCode::OK,
                metrics::text(status, UnixNanos::now()).await,
            );
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => plain(
            StatusCode::NOT_FOUND,
            "there are /healthz, /readyz and /metrics\n".to_owned(),
        ),
    }
}

/// The same members whether it is ready or not, as a receiver's.
fn readiness(parts: &[Part], draining: bool) -> Response<Full<Bytes>> {
    let check = |part: &Part| match &part.state {
        Ok(()) => json!({ "state": "ok" }),
        Err(problem) => json!({ "state": "fails", "problem": problem }),
    };
    let checks = parts.iter().map(|part| (part.name.to_owned(), check(part)));
    let mut checks: Map<String, Value> = checks.collect();
    let drain = match draining {
        true => json!({ "state": "draining", "problem": "the transmitter is stopping" }),
        false => json!({ "state": "ok" }),
    };
    checks.insert("drain".to_owned(), drain);
    let ready = !draining && parts.iter().all(|part| part.state.is_ok());
    let code = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let document = json!({ "ready": ready, "checks": checks });
    let mut response = plain(code, format!("{document}\n"));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn plain(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
