//! What the receiver says over HTTP: images, reports, figures and its state.
//!
//! Every answer that is an error is a problem document (RFC 9457).

mod conditions;
mod content;
mod facts;
mod health;
mod images;
mod losses;
mod query;
mod readiness;
mod report;
mod runs;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shared::clock::UnixNanos;
use shared::image::ImageId;
use shared::telemetry::otlp::Figures;
use tokio_util::sync::CancellationToken;

use super::gate::turn_down;
use crate::budget::Budget;
use crate::catalog::{Catalog, Numbered};
use crate::metrics::{Load, ReceiverMetrics};
use crate::problem::{self, Problem};
use crate::store::ImageStore;
pub use readiness::{Readiness, SharedReadiness};

/// What the reading routes need.
#[derive(Clone)]
pub struct ReadState {
    /// Knows the images.
    pub catalog: Arc<dyn Catalog>,
    /// Has their bytes.
    pub store: Arc<dyn ImageStore>,
    /// Figures for Prometheus.
    pub metrics: ReceiverMetrics,
    /// The memory that clients may make this receiver take.
    pub budget: Arc<Budget>,
    /// What is known of the parts.
    pub readiness: SharedReadiness,
    /// Cancelled when the receiver begins to stop and should get no new work.
    pub draining: CancellationToken,
    /// Identity of this receiver.
    pub name: Arc<str>,
    /// How much of what is limited is in use.
    pub load: Load,
}

impl ReadState {
    /// Gives the figures of now.
    pub fn figures(&self) -> Figures {
        let state = self.clone();
        Arc::new(move || {
            let state = state.clone();
            Box::pin(async move { health::figures(&state).await })
        })
    }
}

impl fmt::Debug for ReadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadState")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Routes that read. Merge the other routes with them, then see to [`with_problems`].
pub fn reading_routes(state: ReadState) -> Router {
    Router::new()
        .route("/v1/report", get(report::report))
        .route("/v1/runs", get(runs::runs))
        .route("/v1/losses", get(losses::losses))
        .route("/v1/images", get(images::list))
        .route("/v1/images/{id}", get(images::bytes))
        .route("/v1/images/{id}/timeline", get(facts::timeline))
        .route("/v1/images/{id}/receipt", get(facts::receipt))
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(state)
}

/// The same routes, with problem documents for unknown paths and wrong methods. For the complete
/// router: routes that are added later keep the plain answers.
pub fn with_problems(router: Router) -> Router {
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
}

// Both read a body that is on its way: clients stumble over a stream that is reset beside its answer.

async fn unknown_path(request: Request) -> Response {
    let detail = "there is nothing at this path; the interface begins with /v1/";
    let problem = Problem::not_found(detail).about(request.uri().path());
    turn_down(request, problem.into_response()).await
}

async fn wrong_method(request: Request) -> Response {
    let detail = format!(
        "{} is not possible here; see the header Allow",
        request.method()
    );
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let problem = Problem::new(status, "method", "method not allowed", detail);
    let problem = problem.about(request.uri().path());
    turn_down(request, problem.into_response()).await
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The image that the path names.
struct Id(ImageId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let invalid = |detail: String| {
            let status = StatusCode::BAD_REQUEST;
            Problem::new(status, "image-id", "not the id of an image", detail)
                .about(parts.uri.path())
        };
        let path = parts.uri.path().to_owned();
        let text = Path::<String>::from_request_parts(&mut parts.clone(), state)
            .await
            .map_err(|_| invalid(format!("path {path:?} is not text in UTF-8")))?;
        text.0
            .parse()
            .map(Self)
            .map_err(|error| invalid(format!("{error}")))
    }
}

/// The entry of an image, or the answer that there is none.
async fn entry(state: &ReadState, id: ImageId) -> Result<Numbered, Problem> {
    state.catalog.find(id).await?.ok_or_else(|| {
        Problem::not_found(format!("image {id} is not known here"))
            .with("image_id", id.to_string())
            .about(format!("/v1/images/{id}"))
    })
}

/// A time, for people and for programs. Beware of readers that take all numbers as floating point:
/// `ns` has more digits than they hold, `time` has them all.
#[derive(Debug, Clone, Copy, Serialize)]
struct Moment {
    #[serde(serialize_with = "rfc3339")]
    time: UnixNanos,
    ns: i64,
}

impl From<UnixNanos> for Moment {
    fn from(time: UnixNanos) -> Self {
        Self { time, ns: time.0 }
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn rfc3339<S: serde::Serializer>(time: &UnixNanos, serializer: S) -> Result<S::Ok, S::Error> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time.0))
        .expect("64-bit nanoseconds lie between the years 1677 and 2262");
    serializer.collect_str(&format_args!("{time:.9}"))
}

#[cfg(test)]
mod tests;
