//! What the server says about itself: what is here, how it is, and its document.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{Router, get};
use axum::{Extension, Json};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use shared::security::access::Scope;
use utoipa_swagger_ui::Config;

use super::document::{Always, Guarded};
use super::problem::{self, Problem};
use super::view::Health;
use crate::access::Requester;
use crate::refusal::Refusal;
use crate::service::Service;

/// The pages need nothing from elsewhere, and may not ask for it.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      frame-ancestors 'none'";

/// Whether the server serves
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "health",
    tag = "about",
    responses((status = 200, description = "It does.", body = Health), Always),
    security(())
)]
pub(super) async fn health(State(service): State<Arc<Service>>) -> Result<Response, Problem> {
    if service.draining.is_cancelled() {
        return Err(Refusal::stopping().into());
    }
    let health = Health { status: "serving" };
    Ok(Json(health).into_response())
}

/// Figures for Prometheus
///
/// Takes the scope `read` where callers are asked who they are, unless the server shows them to everybody.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "about",
    responses(
        (status = 200, description = "The figures of now.", body = String, content_type = "text/plain"),
        Guarded,
        Always
    )
)]
pub(super) async fn metrics(
    State(service): State<Arc<Service>>,
    requester: Option<Extension<Requester>>,
) -> Result<Response, Problem> {
    if !service.open_metrics {
        // Nobody else comes here who was not let in.
        let Extension(requester) = requester.ok_or(Refusal::Internal)?;
        requester.may(Scope::Read)?;
    }
    let headers = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((headers, service.figures()).into_response())
}

/// Whether the server takes what comes now: the same members whether it does or not, as a receiver's.
async fn readiness(State(service): State<Arc<Service>>) -> Response {
    let journal = service.directory.health().await;
    let draining = service.draining.is_cancelled();
    let check = |found: Result<(), (&str, &str)>| match found {
        Ok(()) => json!({ "state": "ok" }),
        Err((state, problem)) => json!({ "state": state, "problem": problem }),
    };
    let ready = journal.is_ok() && !draining;
    let drain = match draining {
        true => Err(("draining", "the server is stopping")),
        false => Ok(()),
    };
    let mut document = json!({
        "ready": ready,
        "checks": {
            "journal": check(journal.map_err(|problem| ("fails", problem))),
            "drain": check(drain),
        },
    });
    if ready {
        return Json(document).into_response();
    }
    // A problem document, as every error is, with more members.
    let status = StatusCode::SERVICE_UNAVAILABLE;
    document["type"] = json!("urn:pantelegraph:problem:not-ready");
    document["status"] = json!(status.as_u16());
    document["title"] = json!("the server is not ready");
    let mut response = (status, Json(document)).into_response();
    let kind = HeaderValue::from_static(problem::MEDIA_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The document, the pages that show it, and what is at the root.
pub(super) fn routes(document: &Value) -> Router<Arc<Service>> {
    let index = Bytes::from(index(document).to_string());
    let document = Bytes::from(document.to_string());
    // No validator: it would be somebody else's server.
    let config = Config::from("/openapi.json")
        .validator_url("none")
        .use_base_layout();
    let config = Arc::new(config);
    let root = Arc::clone(&config);
    Router::new()
        .route("/", get(async move || json_bytes(index.clone())))
        .route("/readyz", get(readiness))
        .route(
            "/openapi.json",
            get(async move || json_bytes(document.clone())),
        )
        .route("/docs", get(async || Redirect::to("/docs/")))
        .route("/docs/", get(async move || page("index.html", &root)))
        .route(
            "/docs/{*file}",
            get(async move |Path(file): Path<String>| page(&file, &config)),
        )
}

fn json_bytes(bytes: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], bytes).into_response()
}

fn page(file: &str, config: &Arc<Config<'static>>) -> Result<Response, Problem> {
    let served = utoipa_swagger_ui::serve(file, Arc::clone(config));
    let file = served
        .map_err(|error| {
            tracing::error!(%error, file, "a page could not be made");
            Refusal::Internal
        })?
        .ok_or_else(|| Problem::no_route(&format!("/docs/{file}")))?;
    let kind = HeaderValue::try_from(file.content_type).map_err(|_| Refusal::Internal)?;
    let mut response = Body::from(file.bytes.into_owned()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    if file.gzpipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// What is here, for those who come without knowing anything.
fn index(document: &Value) -> Value {
    let operations = ["paths", "x-by-hand"].into_iter().flat_map(|part| {
        let paths = document[part].as_object().into_iter().flatten();
        paths.flat_map(|(path, item)| {
            let methods = item.as_object().into_iter().flatten();
            methods.map(move |(method, operation)| {
                let key = format!("{} {path}", method.to_uppercase());
                (key, operation["summary"].clone())
            })
        })
    });
    json!({
        "service": "pantelegraph users",
        "version": env!("CARGO_PKG_VERSION"),
        "docs": "/docs/",
        "openapi": "/openapi.json",
        "operations": operations.collect::<serde_json::Map<_, _>>(),
    })
}
