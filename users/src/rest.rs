//! The REST face: the same service as HTTP with JSON, described by an OpenAPI document that is made
//! from this code.

mod about;
mod batch;
mod body;
mod document;
mod events;
mod problem;
mod request;
mod say;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
mod users;
mod value;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{Method, Uri};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::{Admission, Ending, Manners, admit};
use crate::refusal::Refusal;
use crate::service::Service;
use problem::Problem;

/// Its routes, and answers for paths and methods that there are none for.
pub fn routes(service: Arc<Service>) -> Router {
    let (router, api) = OpenApiRouter::with_openapi(document::begin())
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::read))
        .routes(routes!(batch::create))
        .routes(routes!(stream::create))
        .routes(routes!(events::users))
        .routes(routes!(say::chat))
        .routes(routes!(events::chat))
        .routes(routes!(say::echo))
        .routes(routes!(about::health))
        .routes(routes!(about::metrics))
        .split_for_parts();
    let document = document::finish(&api, &service.limits);
    let admission = Admission {
        service: Arc::clone(&service),
        manners: match service.open_metrics {
            true => OPEN,
            false => MANNERS,
        },
    };
    router
        .merge(about::routes(&document))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            Problem::method(&method, uri.path())
        })
        .fallback(async |uri: Uri| Problem::no_route(uri.path()))
        .with_state(service)
        .layer(axum::middleware::from_fn_with_state(admission, admit))
}

const MANNERS: Manners = Manners {
    is_open: |request, _| is_open(request.uri().path()),
    refuse: |refusal, _| Problem::from(refusal).into_response(),
    ending: |refusal, headers| {
        let kind = headers.get(CONTENT_TYPE);
        match kind.is_some_and(|kind| kind.as_bytes().starts_with(events::MEDIA_TYPE)) {
            true => Ending::Data(events::error(&Problem::from(refusal))),
            false => Ending::Broken,
        }
    },
};

/// Where figures are for everybody.
const OPEN: Manners = Manners {
    is_open: |request, _| {
        let path = request.uri().path();
        path == "/metrics" || is_open(path)
    },
    ..MANNERS
};

/// How the server is, and what is the same at every server.
fn is_open(path: &str) -> bool {
    matches!(
        path,
        "/" | "/healthz" | "/readyz" | "/openapi.json" | "/docs"
    ) || path.starts_with("/docs/")
}

/// The answer to a request whose handler has failed beyond repair, for the layer that notices.
pub fn failure() -> Response {
    Problem::from(Refusal::Internal).into_response()
}
