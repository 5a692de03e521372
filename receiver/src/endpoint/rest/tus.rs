//! Resumable uploads by tus 1.0.0 at `/v1/uploads`, for clients that nobody here wrote.
//!
//! Extensions: creation, creation-with-upload, checksum, termination, expiration. The name of an
//! upload is the id of its image, which the client may give in `Upload-Metadata` ([`metadata`]).
//!
//! - **Bytes** lie with the intake like those of every transport, so that an upload that was begun
//!   over gRPC can be gone on with here, and the other way round. HEAD and PATCH take an upload
//!   from whichever connection has it, which may be dead without this side's knowing.
//! - **One request at a time**: a newer request of an upload, HEAD included, takes over from an
//!   open PATCH, which keeps what has come (or, with `Upload-Checksum`, nothing) and is answered by
//!   409. A connection that died unnoticed therefore blocks nobody.
//! - **The last byte** finishes the image; `Pantelegraph-Receipt` has the receipt as JSON in ASCII
//!   and `Content-Location` the image. HEAD tells the same afterwards, for as long as the image is
//!   in the catalogue.
//! - **Refused images** (wrong digest, no image, another image with this id) are answered by their
//!   problem document, and the upload is gone (410), so that no client sends them for ever.
//! - **Duplicates**: creating an upload of an image that is stored already, with the same digest,
//!   gives an upload that is complete at once. A client that sends its bytes all the same, from
//!   byte 0, is told with the first answer that all of them are there.
//! - **DELETE** ends the upload, never a stored image.
//!
//! Headers of cross-origin requests are not sent: browsers of other origins stay outside.

mod checksum;
mod delivery;
mod metadata;
mod receive;
mod request;
mod table;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use shared::clock::UnixNanos;
use shared::image::ImageId;
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::security::access::Caller;
use tokio_util::task::TaskTracker;

use super::body;
use crate::catalog::Verdict;
use crate::intake::{Held, Intake};
use crate::problem::Problem;
use delivery::Progress;
use table::{Fate, Table};

/// The version that is spoken.
const VERSION: &str = "1.0.0";

const EXTENSIONS: &str = "creation,creation-with-upload,checksum,termination,expiration";

/// Time for an image that is being stored to be.
const STORING: Duration = Duration::from_secs(60);

/// What a path names.
enum Target {
    Collection,
    Upload(String),
}

impl Target {
    fn methods(&self) -> &'static str {
        match self {
            Self::Collection => "OPTIONS, POST",
            Self::Upload(_) => "OPTIONS, HEAD, PATCH, DELETE",
        }
    }
}

/// Routes of the uploads. `tasks` owns what outlives its request.
pub(super) fn routes(intake: Arc<Intake>, tasks: TaskTracker) -> Router {
    let ttl = intake.limits().partial_ttl;
    let tus = Tus {
        intake,
        tasks,
        table: Arc::new(Table::new(ttl)),
    };
    Router::new()
        .route("/v1/uploads", any(collection))
        .route("/v1/uploads/", any(collection))
        .route("/v1/uploads/{id}", any(upload))
        .with_state(tus)
}

async fn collection(State(tus): State<Tus>, request: Request) -> Response {
    tus.answer(Target::Collection, request).await
}

async fn upload(State(tus): State<Tus>, Path(id): Path<String>, request: Request) -> Response {
    tus.answer(Target::Upload(id), request).await
}

/// The endpoint.
#[derive(Clone)]
struct Tus {
    intake: Arc<Intake>,
    tasks: TaskTracker,
    table: Arc<Table>,
}

/// A request that is not granted.
struct Refusal {
    problem: Box<Problem>,
    body: Rest,
}

/// Where the body of a refused request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nothing was asked of it.
    Untouched,
    /// Some of it was read.
    Begun,
    /// Its connection is dead, or as good as dead.
    Abandoned,
}

impl<P: Into<Problem>> From<P> for Refusal {
    fn from(problem: P) -> Self {
        Self {
            problem: Box::new(problem.into()),
            body: Rest::Untouched,
        }
    }
}

impl Tus {
    async fn answer(&self, target: Target, request: Request) -> Response {
        let methods = target.methods();
        let path = request.uri().path().to_owned();
        let (parts, mut body) = request.into_parts();
        let mut response = match self.dispatch(target, &parts, &mut body).await {
            Ok(response) => response,
            Err(refusal) => {
                let mut problem = *refusal.problem;
                problem.instance.get_or_insert(path);
                let mut response = problem.into_response();
                // A client that waits for a sign to send its body gets an answer instead.
                let waits = parts.headers.contains_key(header::EXPECT);
                match refusal.body {
                    Rest::Abandoned => body::close(&mut response),
                    Rest::Untouched if waits => body::close(&mut response),
                    _ => body::refuse(&mut body, &mut response).await,
                }
                response
            }
        };
        let status = response.status();
        let headers = response.headers_mut();
        headers.insert("tus-resumable", HeaderValue::from_static(VERSION));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match status {
            StatusCode::PRECONDITION_FAILED => {
                headers.insert("tus-version", HeaderValue::from_static(VERSION));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static(methods));
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                headers.insert("tus-max-size", self.max_size());
            }
            _ => {}
        }
        response
    }

    async fn dispatch(
        &self,
        target: Target,
        parts: &Parts,
        body: &mut Body,
    ) -> Result<Response, Refusal> {
        let headers = &parts.headers;
        let method = request::method(&parts.method, headers)?;
        if method == Method::OPTIONS {
            return Ok(self.options());
        }
        request::check_version(headers)?;
        let Some(caller) = parts.extensions.get::<Caller>() else {
            // Whoever has not passed the gate is not let in.
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let detail = "a request came in by the wrong door";
            return Err(Problem::new(status, "internal", "the receiver failed", detail).into());
        };
        match target {
            Target::Collection if method == Method::POST => {
                self.create(headers, body, caller).await
            }
            Target::Upload(id) if method == Method::HEAD => {
                self.head(self.own(&id, caller).await?).await
            }
            Target::Upload(id) if method == Method::PATCH => {
                let id = self.own(&id, caller).await?;
                self.patch(id, headers, body).await
            }
            Target::Upload(id) if method == Method::DELETE => {
                self.delete(self.own(&id, caller).await?).await
            }
            target => {
                let detail = format!("{method} is not possible here; use {}", target.methods());
                let status = StatusCode::METHOD_NOT_ALLOWED;
                Err(Problem::new(status, "method", "method not allowed", detail).into())
            }
        }
    }

    /// The upload that the path names, if it is not another's.
    async fn own(&self, id: &str, caller: &Caller) -> Result<ImageId, Refusal> {
        let id = parse_id(id)?;
        self.intake.check_owner(id, caller).await?;
        Ok(id)
    }

    fn max_size(&self) -> HeaderValue {
        HeaderValue::from(self.intake.limits().max_image_size.0)
    }

    fn options(&self) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        for (name, value) in [
            ("tus-version", VERSION),
            ("tus-extension", EXTENSIONS),
            ("tus-checksum-algorithm", checksum::ALGORITHMS),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("tus-max-size", self.max_size());
        response
    }

    /// How far the upload is.
    async fn head(&self, id: ImageId) -> Result<Response, Refusal> {
        let turn = self.table.turn(id).await;
        let metadata = self.table.record(id).and_then(|record| record.metadata);
        let progress = match self.intake.seize(id).await {
            Some(held) if held.received < held.size => Progress::Held(held),
            // All of it is there, and its sender went away before it could say so.
            Some(_) => self.complete(id, turn).await?,
            None => Progress::Complete(self.stored(id).await?.receipt),
        };
        let mut response = StatusCode::OK.into_response();
        let length = match &progress {
            Progress::Held(held) => held.size,
            Progress::Complete(receipt) => receipt.size,
        };
        let headers = response.headers_mut();
        headers.insert("upload-length", HeaderValue::from(length));
        if let Some(metadata) = metadata {
            headers.insert("upload-metadata", metadata);
        }
        describe(headers, &progress);
        Ok(response)
    }

    /// Ends the upload.
    async fn delete(&self, id: ImageId) -> Result<Response, Refusal> {
        let _turn = self.table.turn(id).await;
        if !self.intake.forget(id).await {
            self.stored(id).await?;
        }
        let fate = Fate::Gone("it was terminated".into());
        self.table.settle(id, fate);
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// The stored image of an upload that is not under way.
    async fn stored(&self, id: ImageId) -> Result<Stored, Problem> {
        // It ends by itself, whatever becomes of its connection.
        let stored = tokio::time::timeout(STORING, self.intake.settled(id)).await;
        if stored.is_err() {
            let message = "the image is being stored; try again later";
            return Err(Reject::new(id, RejectReason::Unavailable, message).into());
        }
        let record = self.table.record(id);
        let known = record.is_some();
        match record.map(|record| record.fate) {
            Some(Fate::Complete { receipt, at_once }) => return Ok(Stored { receipt, at_once }),
            Some(Fate::Gone(why)) => return Err(gone(&why)),
            Some(Fate::Unfinished) | None => {}
        }
        let entry = self.intake.catalog().find(id).await?;
        match entry.map(|numbered| numbered.entry) {
            Some(entry) => match &entry.verdict {
                Verdict::Stored => {
                    let receipt = Arc::new(self.intake.receipt_of(&entry));
                    let at_once = false;
                    Ok(Stored { receipt, at_once })
                }
                Verdict::Quarantined { message, .. } => Err(gone(message)),
            },
            None if known => Err(gone("it expired, or gave way to newer ones")),
            None => Err(Problem::not_found(format!("there is no upload {id}"))),
        }
    }
}

/// An image that is there.
struct Stored {
    receipt: Arc<Receipt>,
    /// Whether it was when the upload was created.
    at_once: bool,
}

fn parse_id(text: &str) -> Result<ImageId, Problem> {
    text.parse()
        .map_err(|error| Problem::not_found(format!("there is no such upload: {error}")))
}

fn gone(why: &str) -> Problem {
    let detail = format!("the upload is gone: {why}; create a new one to send the image again");
    Problem::new(StatusCode::GONE, "gone", "the upload is gone", detail)
}

/// Tells how far an upload is.
fn describe(headers: &mut HeaderMap, progress: &Progress) {
    let mut add = |name: &'static str, value: Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    match progress {
        Progress::Held(held) => {
            add("upload-offset", Some(held.received.into()));
            add("upload-expires", expires(held));
        }
        Progress::Complete(receipt) => {
            add("upload-offset", Some(receipt.size.into()));
            let image = format!("/v1/images/{}", receipt.image_id);
            add("content-location", HeaderValue::try_from(image).ok());
            add("pantelegraph-receipt", ascii_json(receipt));
        }
    }
}

/// When a held upload expires, as RFC 9110 writes dates.
fn expires(held: &Held) -> Option<HeaderValue> {
    let left = i128::try_from(held.left.as_nanos()).ok()?;
    let at = jiff::Timestamp::from_nanosecond(i128::from(UnixNanos::now().0) + left).ok()?;
    let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
    let text = printer.timestamp_to_rfc9110_string(&at).ok()?;
    HeaderValue::try_from(text).ok()
}

/// The receipt as JSON that a header can carry: what is not printable ASCII is escaped.
fn ascii_json(receipt: &Receipt) -> Option<HeaderValue> {
    let json = serde_json::to_string(receipt).ok()?;
    let mut ascii = String::with_capacity(json.len());
    for character in json.chars() {
        if (' '..='~').contains(&character) {
            ascii.push(character);
        } else {
            // Outside of its strings, compact JSON has no such characters.
            for unit in character.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    HeaderValue::try_from(ascii).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
