//! The sum of headers and answers (docs/specs/wire.md, "Damage on the way").

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use shared::receipt::{Reject, RejectReason};
use shared::wire::{HEADER_SUM, answer_sum, is_damaged, is_message, request_sum, sum_header};

use super::body;
use super::put::waits_for_consent;
use crate::problem::Problem;

/// No answer of these routes is as long.
const MAX_ANSWER: usize = 1 << 20;

/// Refuses a request whose sum is another, and gives each answer its own.
pub(super) async fn summed(request: Request, next: Next) -> Response {
    let has_body = request.method() != Method::HEAD;
    let (method, path) = (request.method().as_str(), request.uri().path());
    // Messages are looked at when they are there: [`check_message`].
    let checked = if is_message(method, path) {
        Ok(())
    } else {
        check(method, path, request.headers(), b"")
    };
    let answer = match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            let mut answer = problem.into_response();
            if waits_for_consent(request.headers()) {
                body::close(&mut answer);
            } else {
                body::refuse(&mut request.into_body(), &mut answer).await;
            }
            answer
        }
    };
    sealed(answer, has_body).await
}

/// Looks at the sum of a request whose body is a message.
pub(super) fn check_message(path: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
    check("POST", path, headers, body)
}

fn check(method: &str, path: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
    if !is_damaged(headers, || request_sum(method, path, headers, body)) {
        return Ok(());
    }
    let message =
        "the request was damaged on its way, as its pantelegraph-sum tells; send it again";
    Err(Reject::new(None, RejectReason::ChunkChecksum, message).into())
}

async fn sealed(answer: Response, has_body: bool) -> Response {
    let (mut parts, body) = answer.into_parts();
    let body = match to_bytes(body, MAX_ANSWER).await {
        Ok(body) => body,
        Err(error) => return Problem::internal(&error).into_response(),
    };
    let covered: &[u8] = if has_body { &body } else { b"" };
    let sum = answer_sum(parts.status.as_str(), &parts.headers, covered);
    parts.headers.insert(HEADER_SUM, sum_header(sum));
    Response::from_parts(parts, Body::from(body))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::put;
    use tower::ServiceExt;

    use super::*;

    async fn ask(sum: Option<u32>) -> (StatusCode, Vec<u8>) {
        let routes = Router::new()
            .route("/v1/images/{id}", put(async || "stored"))
            .route_layer(axum::middleware::from_fn(summed));
        let mut request = Request::put("/v1/images/7").header("pantelegraph-run", "a");
        if let Some(sum) = sum {
            request = request.header(HEADER_SUM, sum_header(sum));
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = routes.oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, MAX_ANSWER).await.unwrap();
        let sum = answer_sum(parts.status.as_str(), &parts.headers, &body);
        assert_eq!(parts.headers[HEADER_SUM], sum_header(sum));
        (parts.status, body.into())
    }

    #[tokio::test]
    async fn what_was_damaged_is_refused_for_now_and_what_has_no_sum_is_taken() {
        let sum = |run: &str| {
            let request = Request::put("/").header("pantelegraph-run", run);
            let headers = request.headers_ref().unwrap();
            Some(request_sum("PUT", "/v1/images/7", headers, b""))
        };
        assert_eq!(ask(None).await.0, StatusCode::OK);
        assert_eq!(ask(sum("a")).await.0, StatusCode::OK);
        let (status, problem) = ask(sum("b")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
        assert_eq!(problem["reason"], "chunk-checksum");
        assert_eq!(problem["retryable"], true);
    }
}
