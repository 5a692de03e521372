//! Lists of images, and their bytes.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Serialize;
use shared::digest::Digest;
use shared::image::{ImageId, Transport};
use shared::receipt::{Durability, RejectReason};

use super::conditions::Asked;
use super::query::Query;
use super::{Id, Moment, ReadState, content, entry};
use crate::catalog::{Entry, Numbered, Verdict};
use crate::problem::Problem;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// A page of images.
#[derive(Serialize)]
struct Page {
    images: Vec<Item>,
    /// Where the next page begins: the parameter `after`.
    next: Option<i64>,
}

#[derive(Serialize)]
struct Item {
    number: i64,
    image_id: ImageId,
    run: String,
    transport: Transport,
    transmitter: String,
    sequence: u64,
    name: Option<String>,
    status: &'static str,
    reason: Option<RejectReason>,
    message: Option<String>,
    size: u64,
    digest: Digest,
    format: String,
    media_type: String,
    width: u32,
    height: u32,
    durability: Durability,
    received: Moment,
    delivery_ns: Option<u64>,
    attempts: u32,
}

/// The word for what became of an image.
pub(super) fn status(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Stored => "stored",
        Verdict::Quarantined { .. } => "quarantined",
    }
}

impl From<Numbered> for Item {
    fn from(numbered: Numbered) -> Self {
        let Numbered {
            number,
            entry,
            delivery_ns,
            attempts,
        } = numbered;
        let status = status(&entry.verdict);
        let (reason, message) = match entry.verdict {
            Verdict::Stored => (None, None),
            Verdict::Quarantined { reason, message } => (Some(reason), Some(message)),
        };
        Self {
            number,
            image_id: entry.meta.id,
            run: entry.meta.run,
            transport: entry.transport,
            transmitter: entry.transmitter,
            sequence: entry.meta.sequence,
            name: entry.meta.name,
            status,
            reason,
            message,
            size: entry.meta.size,
            digest: entry.digest,
            format: entry.format,
            media_type: entry.media_type,
            width: entry.width,
            height: entry.height,
            durability: entry.durability,
            received: entry.timeline.last_byte.into(),
            delivery_ns,
            attempts: attempts.unwrap_or(entry.meta.attempt),
        }
    }
}

/// `GET /v1/images`
pub(super) async fn list(
    State(state): State<ReadState>,
    query: Query,
) -> Result<Response, Problem> {
    let query = query.only(&[
        "run",
        "transport",
        "transmitter",
        "status",
        "after",
        "limit",
    ])?;
    let mut filter = query.filter()?;
    filter.quarantined = query.word("status", &[("stored", false), ("quarantined", true)])?;
    let after: i64 = query.read("after")?.unwrap_or(0);
    let limit = query.read("limit")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let detail = format!("parameter limit={limit}: use 1 to {MAX_LIMIT}");
        return Err(Problem::parameter("limit", detail));
    }
    // One more than asked for tells whether another page follows.
    let mut found = state.catalog.list(filter, after, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.number);
    Ok(Json(Page {
        images: found.into_iter().map(Item::from).collect(),
        next,
    })
    .into_response())
}

/// `GET /v1/images/{id}`
pub(super) async fn bytes(
    State(state): State<ReadState>,
    Id(id): Id,
    query: Query,
    method: Method,
    mut headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = query.only(&["quarantined"])?;
    let apart = query
        .word("quarantined", &[("true", true), ("false", false)])?
        .unwrap_or(false);
    let entry = entry(&state, id).await?.entry;
    if let (Verdict::Quarantined { reason, .. }, false) = (&entry.verdict, apart) {
        let detail = format!(
            "image {id} is no proper image ({}); ask with ?quarantined=true for its bytes",
            reason.explain()
        );
        let title = "the image is quarantined";
        return Err(
            Problem::new(StatusCode::NOT_FOUND, "quarantined", title, detail)
                .with("image_id", id.to_string())
                .with("reason", reason.key()),
        );
    }
    let file = if entry.location.is_empty() {
        None
    } else {
        state.store.open(&entry.location).await?
    };
    let Some(file) = file else {
        let detail = match entry.durability {
            Durability::Memory => format!("image {id} was counted, and its bytes were not kept"),
            _ => format!("the bytes of image {id} are not in the store any more"),
        };
        let title = "the bytes are gone";
        return Err(
            Problem::new(StatusCode::GONE, "gone", title, detail).with("image_id", id.to_string())
        );
    };
    let size = file
        .metadata()
        .map_err(|error| Problem::internal(&error))?
        .len();
    if size != entry.meta.size {
        let detail = format!(
            "image {id} has {size} bytes in the store, not {}",
            entry.meta.size
        );
        return Err(Problem::internal(&std::io::Error::other(detail)));
    }
    if method == Method::HEAD {
        // Ranges are defined for GET only.
        headers.remove(http::header::RANGE);
    }
    let etag = format!("\"{}\"", entry.digest);
    Ok(match Asked::of(&headers, &etag, size) {
        Asked::NotModified => empty(StatusCode::NOT_MODIFIED, &etag),
        Asked::Unsatisfiable => return Ok(unsatisfiable(id, size)),
        Asked::Whole => image(&entry, &etag, content::body(file, 0, size), size),
        Asked::Part { start, end } => {
            let mut response = image(&entry, &etag, content::body(file, start, end), end - start);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {start}-{}/{size}", end - 1);
            response.headers_mut().insert(CONTENT_RANGE, text(range));
            response
        }
    })
}

fn image(entry: &Entry, etag: &str, body: Body, length: u64) -> Response {
    let good = entry.verdict == Verdict::Stored;
    let media_type = HeaderValue::try_from(&entry.media_type)
        .ok()
        .filter(|value| good && !value.is_empty())
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let kind = if good { "inline" } else { "attachment" };
    let name = entry.meta.name.as_deref();
    let disposition = content::disposition(kind, name, entry.meta.id, &entry.location);
    let mut response = empty(StatusCode::OK, etag);
    *response.body_mut() = body;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, media_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_DISPOSITION, text(disposition));
    // What a sender made of the bytes is not run with this server's authority.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    response
}

fn empty(status: StatusCode, etag: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(ETAG, text(etag.to_owned()));
    response
        .headers_mut()
        .insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

fn unsatisfiable(id: ImageId, size: u64) -> Response {
    let detail = format!("image {id} has {size} bytes; the range lies beyond them");
    let title = "the range cannot be satisfied";
    let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", title, detail)
        .with("image_id", id.to_string())
        .with("size", size);
    let mut response = problem.into_response();
    response
        .headers_mut()
        .insert(CONTENT_RANGE, text(format!("bytes */{size}")));
    response
}

fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).expect("it is made of visible ASCII")
}
