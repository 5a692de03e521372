//! Requests that bring bytes.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use shared::image::{ImageId, Transport};
use shared::receipt::{Reject, RejectReason};
use shared::security::access::Caller;
use shared::trace;
use shared::wire::Begin;

use super::checksum::Checksum;
use super::delivery::{Delivery, Progress, interrupted};
use super::metadata::{self, Declared};
use super::request::{self, invalid};
use super::table::{Fate, Turn};
use super::{Refusal, Tus, describe};
use crate::endpoint::rest::body;
use crate::intake::{Begun, Intake, Origin, Upload};
use crate::problem::Problem;

impl Tus {
    /// Creates an upload, with its first bytes if the request has any.
    pub(super) async fn create(
        &self,
        headers: &HeaderMap,
        body: &mut Body,
        caller: &Caller,
    ) -> Result<Response, Refusal> {
        let Creation {
            declared,
            metadata,
            checksum,
            has_body,
        } = self.read_creation(headers, body)?;
        let (id, size) = (declared.meta.id, declared.meta.size);
        let origin = Origin::new(Transport::Rest, &declared.transmitter, caller)
            .with_outbox(declared.outbox);
        // Whoever has its turn is not interrupted by others.
        Intake::check_sender(id, &origin)?;
        self.intake.check_sending(id, caller)?;
        let turn = self.table.turn(id).await;
        let meta = declared.meta;
        let mut told = true;
        let progress = match self
            .intake
            .begin(Begin { meta, offset: 0 }, &origin)
            .await?
        {
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
                    named: declared.named,
                };
                if has_body || size == 0 {
                    delivery.detached(body).await?
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
        let mut declared = metadata::parse(metadata.unwrap_or_default(), size).map_err(invalid)?;
        declared.meta.trace = trace::context_of(headers);
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
        let Some(held) = self.intake.unfinished(id).await else {
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
        let mut upload = self.resume(id).await?;
        if let Some(trace) = trace::context_of(headers) {
            upload.goes_on_in(trace).await;
        }
        let held = upload.received();
        let delivery = Delivery {
            tus: self.clone(),
            turn,
            upload,
            checksum,
            length,
            named: true,
        };
        if held != offset {
            // The former connection brought more until it let go.
            delivery.keep().await?;
            return Err(wrong_offset(id, offset, held));
        }
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
        let sends_what_is_there = offset == 0 && stored.at_once;
        if !(nothing_to_add || sends_what_is_there) {
            return Err(wrong_offset(id, offset, size));
        }
        body::discard(body, size).await;
        Ok(no_content(&Progress::Complete(stored.receipt)))
    }

    /// Takes an unfinished upload, from whichever connection has it.
    async fn resume(&self, id: ImageId) -> Result<Upload, Problem> {
        match self.intake.resume(id, Transport::Rest).await {
            Some(upload) => Ok(upload),
            // Another connection was faster, and the image may be stored by now.
            None => match self.stored(id).await {
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
            named: true,
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
