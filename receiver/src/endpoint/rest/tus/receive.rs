//! Requests that bring bytes.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use shared::image::{ImageId, Transport};
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::wire::Begin;

use super::checksum::Checksum;
use super::metadata::{self, Declared};
use super::request::{self, invalid};
use super::table::{Fate, Turn};
use super::{Refusal, Rest, Tus, describe};
use crate::endpoint::rest::body::{self, Stopped};
use crate::intake::{Begun, Held, Origin, Resumed, Upload};
use crate::problem::Problem;

/// How far an upload is.
pub(super) enum Progress {
    /// Bytes are missing.
    Held(Held),
    /// The image is stored.
    Complete(Arc<Receipt>),
}

/// The checksum extension's own status.
const CHECKSUM_MISMATCH: u16 = 460;

/// An upload and the body that brings more of it.
struct Delivery {
    tus: Tus,
    turn: Turn,
    upload: Upload,
    checksum: Option<Checksum>,
    /// Declared length of the body.
    length: Option<u64>,
}

impl Tus {
    /// Creates an upload, with its first bytes if the request has any.
    pub(super) async fn create(
        &self,
        headers: &HeaderMap,
        body: &mut Body,
    ) -> Result<Response, Refusal> {
        let Creation {
            declared,
            metadata,
            checksum,
            has_body,
        } = self.read_creation(headers, body)?;
        let (id, size) = (declared.meta.id, declared.meta.size);
        let origin = Origin::new(Transport::Rest, &declared.transmitter);
        let turn = self.table.turn(id).await;
        let meta = declared.meta;
        let mut told = true;
        let progress = match self.intake.begin(Begin { meta, offset: 0 }, &origin).await? {
            Begun::Present(receipt) => {
                let receipt = Arc::new(receipt);
                let fate = Fate::Complete {
                    receipt: Arc::clone(&receipt),
                    at_once: true,
                };
                self.table.create(id, metadata, fate);
                drop(turn);
                body::discard(body, size).await;
                Progress::Complete(receipt)
            }
            Begun::Upload(upload) => {
                self.table.create(id, metadata, Fate::Unfinished);
                let delivery = Delivery {
                    tus: self.clone(),
                    turn,
                    upload: *upload,
                    checksum,
                    length: request::length(headers),
                };
                if has_body || size == 0 {
                    let delivered = delivery.detached(body).await;
                    if delivered.is_err() && !declared.named {
                        // Its name was in the answer that says something else.
                        self.intake.forget(id);
                        self.table.forget(id);
                    }
                    delivered?
                } else {
                    told = false;
                    delivery.keep().await?
                }
            }
        };
        let mut response = StatusCode::CREATED.into_response();
        let headers = response.headers_mut();
        describe(headers, &progress);
        if !told {
            // Without bytes in the request, the answer says nothing of them.
            headers.remove("upload-offset");
        }
        let location = HeaderValue::try_from(format!("/v1/uploads/{id}"));
        let location = location.map_err(|error| Problem::internal(&error))?;
        headers.insert(header::LOCATION, location);
        Ok(response)
    }

    fn read_creation(&self, headers: &HeaderMap, body: &Body) -> Result<Creation, Problem> {
        if headers.contains_key("upload-defer-length") {
            let detail = "Upload-Defer-Length is not offered (see Tus-Extension); \
                          declare Upload-Length";
            return Err(invalid(detail));
        }
        if headers.contains_key("upload-concat") {
            let detail = "Upload-Concat is not offered (see Tus-Extension); send the image whole";
            return Err(invalid(detail));
        }
        let size = request::number(headers, "upload-length")?;
        let metadata = request::text(headers, "upload-metadata")?;
        let limit = self.intake.limits().max_metadata;
        // Base64 makes four characters of three bytes; keys and separators take some more.
        if metadata.is_some_and(|metadata| metadata.len() as u64 / 2 > limit.0) {
            let message = format!(
                "Upload-Metadata exceeds the receiver's limit of {limit}; \
                 shorten it or raise RECEIVER_MAX_METADATA"
            );
            return Err(Reject::new(None, RejectReason::Limit, message).into());
        }
        let declared = metadata::parse(metadata.unwrap_or_default(), size).map_err(invalid)?;
        let has_body = request::has_body(headers, body);
        if has_body {
            request::check_type(headers)?;
        }
        Ok(Creation {
            declared,
            metadata: headers.get("upload-metadata").cloned(),
            checksum: request::checksum(headers)?,
            has_body,
        })
    }

    /// Brings more bytes of an upload.
    pub(super) async fn patch(
        &self,
        id: ImageId,
        headers: &HeaderMap,
        body: &mut Body,
    ) -> Result<Response, Refusal> {
        request::check_type(headers)?;
        let offset = request::number(headers, "upload-offset")?;
        let checksum = request::checksum(headers)?;
        let length = request::length(headers);
        let turn = self.table.turn(id).await;
        if turn.is_interrupted() {
            return Err(interrupted(id));
        }
        let Some(held) = self.intake.parked(id) else {
            let has_body = request::has_body(headers, body);
            return self.patch_stored(id, offset, has_body, body).await;
        };
        if offset != held.received {
            return Err(wrong_offset(id, offset, held.received));
        }
        let end = offset.saturating_add(length.unwrap_or(0));
        if end > held.size {
            let message = format!("bytes up to {end} of an upload of {} bytes", held.size);
            return Err(Reject::new(id, RejectReason::Overflow, message).into());
        }
        let upload = self.resume(id).await?;
        let delivery = Delivery {
            tus: self.clone(),
            turn,
            upload,
            checksum,
            length,
        };
        let progress = delivery.detached(body).await?;
        Ok(no_content(&progress))
    }

    /// Bytes for an image that is there already.
    async fn patch_stored(
        &self,
        id: ImageId,
        offset: u64,
        has_body: bool,
        body: &mut Body,
    ) -> Result<Response, Refusal> {
        let stored = self.stored(id).await?;
        let size = stored.receipt.size;
        let nothing_to_add = offset == size && !has_body;
        if !nothing_to_add && !(offset == 0 && stored.at_once) {
            return Err(wrong_offset(id, offset, size));
        }
        body::discard(body, size).await;
        Ok(no_content(&Progress::Complete(stored.receipt)))
    }

    /// Takes a parked upload.
    async fn resume(&self, id: ImageId) -> Result<Upload, Problem> {
        match self.intake.resume(id, Transport::Rest) {
            Resumed::Upload(upload) => Ok(*upload),
            // Another connection was faster, hence not even a stored image can be told of now.
            Resumed::Busy | Resumed::Absent => match self.stored(id).await {
                Ok(stored) => Err(*wrong_offset(id, 0, stored.receipt.size).problem),
                Err(problem) => Err(problem),
            },
        }
    }

    /// Finishes a parked upload of which no byte is missing.
    pub(super) async fn complete(&self, id: ImageId, turn: Turn) -> Result<Progress, Refusal> {
        let delivery = Delivery {
            tus: self.clone(),
            turn,
            upload: self.resume(id).await?,
            checksum: None,
            length: None,
        };
        delivery.detached(&mut Body::empty()).await
    }
}

/// A creation, read.
struct Creation {
    declared: Declared,
    metadata: Option<HeaderValue>,
    checksum: Option<Checksum>,
    has_body: bool,
}

impl Delivery {
    /// Runs in a task of its own: whatever happens to the connection, and with it to the request's
    /// handler, what has come ends up with the intake.
    async fn detached(self, body: &mut Body) -> Result<Progress, Refusal> {
        let mut moved = std::mem::take(body);
        let task = tokio::spawn(async move {
            let progress = self.run(&mut moved).await;
            (progress, moved)
        });
        match task.await {
            Ok((progress, moved)) => {
                *body = moved;
                progress
            }
            Err(panic) => Err(Problem::internal(&panic).into()),
        }
    }

    async fn run(mut self, body: &mut Body) -> Result<Progress, Refusal> {
        let start = self.upload.received();
        let checkpoint = self.checksum.is_some().then(|| self.upload.checkpoint());
        match self.stream(start, body).await {
            Ok(()) => {}
            Err(Stopped::Rejected(reject)) => return Err(self.give_up(reject)),
            Err(stopped) => match checkpoint {
                Some(checkpoint) => {
                    let refusal = self.unfinished(stopped, start);
                    return self.back_to(checkpoint, refusal).await;
                }
                None if self.is_complete() => {}
                None => {
                    let refusal = self.unfinished(stopped, self.upload.received());
                    self.keep().await?;
                    return Err(refusal);
                }
            },
        }
        if let (Some(checkpoint), Some(checksum)) = (checkpoint, self.checksum.take())
            && let Err(message) = checksum.check()
        {
            let refusal = self.mismatch(message);
            return self.back_to(checkpoint, refusal).await;
        }
        if self.is_complete() {
            return self.finish().await;
        }
        self.keep().await
    }

    async fn stream(&mut self, start: u64, body: &mut Body) -> Result<(), Stopped> {
        let idle = self.tus.intake.limits().idle_timeout;
        let checksum = &mut self.checksum;
        let streamed = body::stream(
            &mut self.upload,
            body,
            idle,
            self.turn.interrupted(),
            |piece| {
                if let Some(checksum) = checksum {
                    checksum.update(piece);
                }
            },
        );
        streamed.await?;
        let came = self.upload.received() - start;
        match self.length {
            Some(length) if came < length => Err(Stopped::Broken(format!(
                "{came} of {length} bytes came"
            ))),
            _ => Ok(()),
        }
    }

    fn is_complete(&self) -> bool {
        self.upload.received() == self.upload.size()
    }

    async fn finish(self) -> Result<Progress, Refusal> {
        let Self {
            tus, turn, upload, ..
        } = self;
        let id = upload.meta().id;
        let finished = upload.finish(None).await;
        let receipt = finished.map_err(|reject| rejected(&tus, id, reject))?;
        let receipt = Arc::new(receipt);
        let fate = Fate::Complete {
            receipt: Arc::clone(&receipt),
            at_once: false,
        };
        tus.table.settle(id, fate);
        drop(turn);
        Ok(Progress::Complete(receipt))
    }

    /// Keeps the upload for the next request.
    async fn keep(self) -> Result<Progress, Refusal> {
        let Self {
            tus, turn, upload, ..
        } = self;
        let id = upload.meta().id;
        tus.intake.keep(upload).await;
        tus.table.touch(id);
        let held = tus.intake.parked(id);
        drop(turn);
        // Not kept: it failed, expired at once, or the receiver is stopping.
        held.map(Progress::Held).ok_or_else(|| {
            let message = "the receiver could not keep the upload; create a new one";
            let reject = Reject::new(id, RejectReason::Unavailable, message);
            Refusal::begun(reject.into())
        })
    }

    /// Nothing of the body counts.
    async fn back_to(
        mut self,
        checkpoint: crate::intake::Checkpoint,
        refusal: Refusal,
    ) -> Result<Progress, Refusal> {
        if let Err(reject) = self.upload.roll_back(checkpoint).await {
            return Err(self.give_up(reject));
        }
        self.keep().await?;
        Err(refusal)
    }

    /// The upload cannot be completed.
    fn give_up(self, reject: Reject) -> Refusal {
        rejected(&self.tus, self.upload.meta().id, reject)
    }

    fn mismatch(&self, message: String) -> Refusal {
        let (meta, origin) = (self.upload.meta(), self.upload.origin());
        let reject = Reject::new(meta.id, RejectReason::ChunkChecksum, message);
        let reject = self.tus.intake.turn_down(meta, origin, reject);
        let mut problem = Problem::from(reject);
        problem.status = StatusCode::from_u16(CHECKSUM_MISMATCH).unwrap_or(problem.status);
        Refusal::begun(problem)
    }

    /// The body did not come to its end; `held` bytes stay.
    fn unfinished(&self, stopped: Stopped, held: u64) -> Refusal {
        let id = self.upload.meta().id;
        let problem = match stopped {
            Stopped::Interrupted => return interrupted(id),
            Stopped::Rejected(reject) => return Refusal::begun(reject.into()),
            Stopped::Silent(idle) => format!("no byte for {idle:?} (RECEIVER_IDLE_TIMEOUT)"),
            Stopped::Broken(error) => format!("the connection broke ({error})"),
        };
        tracing::debug!(image = %id, held, "upload interrupted: {problem}");
        let message = format!("{problem}; go on at byte {held}");
        let problem = Reject::new(id, RejectReason::Unavailable, message).into();
        Refusal {
            body: Rest::Abandoned,
            ..Refusal::begun(problem)
        }
    }
}

impl Refusal {
    fn begun(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            body: Rest::Begun,
        }
    }
}

/// The image is refused: its upload is gone, unless a newer one has its place.
fn rejected(tus: &Tus, id: ImageId, reject: Reject) -> Refusal {
    if reject.reason != RejectReason::Superseded {
        let why = reject.message.as_str().into();
        tus.table.settle(id, Fate::Gone(why));
    }
    Refusal::begun(reject.into())
}

fn interrupted(id: ImageId) -> Refusal {
    let message = "a newer request of this upload took over; ask for its offset with HEAD";
    let problem = Reject::new(id, RejectReason::Superseded, message).into();
    Refusal {
        body: Rest::Abandoned,
        ..Refusal::begun(problem)
    }
}

fn wrong_offset(id: ImageId, offset: u64, held: u64) -> Refusal {
    let message = format!("request begins at byte {offset}, but {held} bytes are held");
    let reject = Reject::new(id, RejectReason::Offset, message);
    Problem::from(reject).with("offset", held).into()
}

fn no_content(progress: &Progress) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    describe(response.headers_mut(), progress);
    response
}
