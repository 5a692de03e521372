mod breaking;
mod creating;
mod ending;
mod full;
mod network;
mod patching;
mod protocol;

use axum::Router;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use shared::image::ImageId;
use shared::receipt::Receipt;
use shared::security::access::Caller;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::endpoint::http::with_problems;
use crate::intake::Parts;
use crate::intake::sample::Rig;

const BYTES: &str = "application/offset+octet-stream";

/// A receiver that speaks tus.
struct Station {
    rig: Rig,
    /// What outlives its request.
    tasks: TaskTracker,
    router: Router,
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Station {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Parts)) -> Self {
        let rig = Rig::with(change);
        let tasks = TaskTracker::new();
        let router = with_problems(super::routes(rig.intake.clone(), tasks.clone()))
            .layer(axum::Extension(Caller::Anyone));
        Self { rig, tasks, router }
    }

    /// A request as it is.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// A request of tus 1.0.0.
    async fn tus(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let headers = [&[("tus-resumable", "1.0.0")], headers].concat();
        self.ask(method, path, &headers, body).await
    }

    /// Creates an upload of `size` bytes, and tells its path.
    async fn create(&self, size: usize, metadata: &[(&str, &str)]) -> String {
        let answer = self.try_create(size, metadata).await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
        answer.header("location").to_owned()
    }

    async fn try_create(&self, size: usize, metadata: &[(&str, &str)]) -> Answer {
        let (size, metadata) = (size.to_string(), encode(metadata));
        let headers = [("upload-length", &*size), ("upload-metadata", &*metadata)];
        self.tus("POST", "/v1/uploads", &headers, Body::empty())
            .await
    }

    async fn head(&self, path: &str) -> Answer {
        self.tus("HEAD", path, &[], Body::empty()).await
    }

    async fn patch(&self, path: &str, offset: usize, body: impl Into<Body>) -> Answer {
        self.patch_with(path, offset, &[], body).await
    }

    async fn patch_with(
        &self,
        path: &str,
        offset: usize,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let offset = offset.to_string();
        let headers = [
            &[("upload-offset", &*offset), ("content-type", BYTES)],
            headers,
        ]
        .concat();
        self.tus("PATCH", path, &headers, body).await
    }
}

impl Answer {
    #[track_caller]
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    fn offset(&self) -> Option<u64> {
        self.headers
            .get("upload-offset")?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    fn receipt(&self) -> Receipt {
        serde_json::from_str(self.header("pantelegraph-receipt")).unwrap()
    }

    /// The problem document, whose status is that of the answer.
    #[track_caller]
    fn problem(&self, status: u16, key: &str) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(self.status, status, "{problem}");
        assert_eq!(problem["type"], format!("urn:pantelegraph:problem:{key}"));
        assert_eq!(problem["status"], status);
        problem
    }
}

/// A value of `Upload-Metadata`.
fn encode(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter();
    let pairs = pairs.map(|(key, value)| format!("{key} {}", STANDARD.encode(value)));
    pairs.collect::<Vec<_>>().join(",")
}

fn id_of(path: &str) -> ImageId {
    path.strip_prefix("/v1/uploads/").unwrap().parse().unwrap()
}
