//! Resumable uploads by tus 1.0.0, for images that are larger than the window.
//!
//! Nothing is kept of an upload here: its URL follows from the image's id, and how far it is the
//! receiver says. Each request brings a window at most, so that no more than that is sent again
//! when the answer to one is lost, and its sum, so that a byte that changes on the way costs that
//! request and not the image.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{StatusCode, header};
use shared::image::{ImageId, ImageMeta};
use shared::receipt::{Receipt, RejectReason};
use shared::trace::{TRACEPARENT, TraceContext};

use super::answer::{Answer, later};
use super::body::{ImageBody, Part};
use super::connection::RestConnection;
use super::put::clock_text;
use crate::link::{Attempt, DeliveryError, unreadable};
use crate::outbox::Owed;
use crate::payload::Reader;

const VERSION: (&str, &str) = ("tus-resumable", "1.0.0");

/// Requests in a row that bring nothing, after which the image waits for its next attempt.
const MOST_IN_VAIN: u32 = 12;

/// Times that an upload may be found busy in a row, and the pause after the first; each is twice as
/// long as the one before. Then it is created anew, which takes it from whoever has it.
const MOST_BUSY: u32 = 6;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Ask how far the upload is.
    Ask,
    /// Make a new one.
    Create,
    /// Send from this byte on.
    Send(u64),
    /// Somebody else has it: ask after a while.
    Busy,
}

/// The checksum extension's own status: the body is not what was sent.
const CHECKSUM_MISMATCH: u16 = 460;

/// An image on its way.
struct Sending {
    meta: ImageMeta,
    reader: Reader,
    /// The sum of the piece that comes next if all goes well, made while the one before was sent:
    /// its first byte, the one behind its last, and the sum.
    ahead: Option<(u64, u64, u32)>,
}

impl Sending {
    async fn sum(&self, from: u64, to: u64) -> std::io::Result<u32> {
        match self.ahead {
            Some((known, end, sum)) if (known, end) == (from, to) => Ok(sum),
            _ => self.reader.crc32c(from, to).await,
        }
    }
}

/// What an answer led to.
enum Next {
    Step(Step),
    Stored(Box<Receipt>),
}

impl From<Step> for Next {
    fn from(step: Step) -> Self {
        Self::Step(step)
    }
}

impl RestConnection {
    pub(super) async fn deliver_by_tus(
        &self,
        image: &Owed,
        attempt: Attempt<'_>,
    ) -> Result<Receipt, DeliveryError> {
        let id = image.meta.id;
        let reader = image.payload.open().await.map_err(unreadable)?;
        let unfinished = &self.identity.unfinished;
        let begun = image.carried || attempt.number > 1 || unfinished.mark(id).is_some();
        unfinished.begin(id);
        let mut sending = Sending {
            meta: self.meta(image, attempt),
            reader,
            ahead: None,
        };
        let mut step = if begun { Step::Ask } else { Step::Create };
        let (mut reached, mut in_vain, mut busy) = (0, 0, 0);
        loop {
            if let Step::Send(offset) = step
                && offset > reached
            {
                (reached, in_vain, busy) = (offset, 0, 0);
            }
            in_vain += u32::from(step != Step::Busy);
            if in_vain > MOST_IN_VAIN {
                return Err(later(id, format!("no progress beyond byte {reached}")));
            }
            let next = match step {
                Step::Ask => self.ask_how_far(&sending.meta).await?,
                Step::Create => self.create(&sending.meta).await?,
                Step::Send(offset) => self.send_from(&mut sending, offset).await?,
                Step::Busy if busy < MOST_BUSY => {
                    tokio::time::sleep(BUSY_PAUSE * 2_u32.pow(busy)).await;
                    busy += 1;
                    Step::Ask.into()
                }
                Step::Busy => Step::Create.into(),
            };
            match next {
                Next::Stored(receipt) => return Ok(*receipt),
                Next::Step(next) => step = next,
            }
        }
    }

    async fn ask_how_far(&self, meta: &ImageMeta) -> Result<Next, DeliveryError> {
        let request = self.tus("HEAD", &upload(meta.id));
        let request = request.body(ImageBody::empty()).map_err(lost)?;
        let answer = match self.ask(request).await {
            // Whether it is about the image or the station stands in a body, which the answer to
            // creating it has.
            Ok(answer) if answer.status == StatusCode::FORBIDDEN && !answer.is_damaged => {
                return Ok(Step::Create.into());
            }
            answer => self.sound_of(meta.id, answer)?,
        };
        Ok(match answer.status {
            StatusCode::OK => {
                let same_size = answer.number("upload-length") == Some(meta.size);
                match (answer.tus_receipt(), answer.number("upload-offset")) {
                    (Some(receipt), _) => Next::Stored(Box::new(receipt)),
                    (None, Some(offset)) if same_size && offset < meta.size => {
                        Step::Send(offset).into()
                    }
                    // Something else has this name; creating it tells what.
                    _ => Step::Create.into(),
                }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Step::Create.into(),
            StatusCode::LOCKED => Step::Busy.into(),
            // The answer to HEAD has no body that would tell more.
            status => return Err(later(meta.id, format!("HEAD of the upload: HTTP {status}"))),
        })
    }

    async fn create(&self, meta: &ImageMeta) -> Result<Next, DeliveryError> {
        let request = self
            .tus_in(meta.trace, "POST", "/v1/uploads")
            .header("upload-length", meta.size)
            .header("upload-metadata", self.metadata(meta))
            .header(header::CONTENT_LENGTH, 0);
        let answer = self.tus_exchange(meta.id, request).await?;
        if answer.status == StatusCode::CREATED {
            return Ok(match answer.tus_receipt() {
                Some(receipt) => Next::Stored(Box::new(receipt)),
                None => Step::Send(0).into(),
            });
        }
        self.other(meta.id, &answer)
    }

    async fn send_from(&self, sending: &mut Sending, offset: u64) -> Result<Next, DeliveryError> {
        let (id, size) = (sending.meta.id, sending.meta.size);
        let to = size.min(offset.saturating_add(self.pieces.size()));
        let len = to - offset;
        let sum = sending.sum(offset, to).await.map_err(unreadable)?;
        let request = self
            .tus_in(sending.meta.trace, "PATCH", &upload(id))
            .header(header::CONTENT_TYPE, "application/offset+octet-stream")
            .header("upload-offset", offset)
            .header(
                "upload-checksum",
                format!("crc32c {}", STANDARD.encode(sum.to_be_bytes())),
            );
        let part = Part {
            id,
            reader: sending.reader.clone(),
            from: offset,
            to,
            slice: self.chunk_size,
        };
        let next = size.min(to.saturating_add(self.pieces.size_after(len)));
        let (answer, ahead) = tokio::join!(
            biased;
            self.bring(request, part),
            sending.reader.crc32c(to, next)
        );
        // Whatever is wrong with the next piece shows when its turn comes.
        sending.ahead = ahead.ok().map(|sum| (to, next, sum));
        let answer = answer.inspect_err(|error| {
            if matches!(error, DeliveryError::Lost(_)) {
                self.pieces.broke(len);
            }
        })?;
        if answer.status.is_success() {
            self.pieces.arrived(len);
            return Ok(
                match (answer.tus_receipt(), answer.number("upload-offset")) {
                    (Some(receipt), _) => Next::Stored(Box::new(receipt)),
                    (None, Some(next)) if next > offset && next < size => Step::Send(next).into(),
                    _ => Step::Ask.into(),
                },
            );
        }
        if answer.status.as_u16() == CHECKSUM_MISMATCH {
            tracing::warn!(image = %id, offset, len, "bytes changed on the way, and are sent again");
            self.pieces.broke(len);
            return Ok(Step::Send(offset).into());
        }
        let damaged = [RejectReason::Invalid, RejectReason::ChunkChecksum];
        if answer
            .reason()
            .is_some_and(|reason| damaged.contains(&reason))
        {
            // The request was proper when it was sent.
            return Ok(Step::Ask.into());
        }
        self.other(id, &answer)
    }

    /// An answer that is none of success.
    fn other(&self, id: ImageId, answer: &Answer) -> Result<Next, DeliveryError> {
        let moved = [RejectReason::Offset, RejectReason::Superseded];
        let conflict = answer.status == StatusCode::CONFLICT;
        Ok(match answer.reason() {
            // It is elsewhere than was said, or another request took it.
            Some(reason) if conflict && moved.contains(&reason) => Step::Ask.into(),
            Some(_) => return Err(answer.refusal(id)),
            None => match answer.status {
                StatusCode::CONFLICT => Step::Ask.into(),
                StatusCode::LOCKED => Step::Busy.into(),
                StatusCode::NOT_FOUND | StatusCode::GONE => Step::Create.into(),
                _ => return Err(answer.refusal(id)),
            },
        })
    }

    fn tus(&self, method: &str, path: &str) -> http::request::Builder {
        self.request(method, path).header(VERSION.0, VERSION.1)
    }

    /// A request within the attempt that has this place in its image's trace.
    fn tus_in(
        &self,
        trace: Option<TraceContext>,
        method: &str,
        path: &str,
    ) -> http::request::Builder {
        let request = self.tus(method, path);
        match trace {
            Some(trace) => request.header(TRACEPARENT, trace.to_string()),
            None => request,
        }
    }

    async fn tus_exchange(
        &self,
        id: ImageId,
        request: http::request::Builder,
    ) -> Result<Answer, DeliveryError> {
        let request = request.body(ImageBody::empty()).map_err(lost)?;
        let answer = self.ask(request).await;
        self.sound_of(id, answer)
    }

    /// `Upload-Metadata` (docs/specs/wire.md).
    fn metadata(&self, meta: &ImageMeta) -> String {
        let time = |time: Option<shared::clock::UnixNanos>| time.map(|time| time.0.to_string());
        let text = |text: &str| Some(text.to_owned());
        let pairs = [
            ("image_id", text(&meta.id.to_string())),
            ("outbox", text(&self.identity.outbox.to_string())),
            ("sequence", text(&meta.sequence.to_string())),
            ("transmitter", text(&self.identity.transmitter)),
            ("run", text(&meta.run)),
            ("filename", meta.name.clone()),
            ("filetype", meta.content_type.clone()),
            ("digest", meta.digest.map(|digest| digest.to_string())),
            ("captured_unix_ns", time(meta.captured)),
            ("queued_unix_ns", time(meta.queued)),
            ("send_started_unix_ns", time(meta.send_started)),
            ("attempt", text(&meta.attempt.to_string())),
            ("clock", meta.clock.as_ref().map(clock_text)),
        ];
        let pairs = pairs.into_iter().filter_map(|(key, value)| {
            let value = value.filter(|value| !value.is_empty())?;
            Some(format!("{key} {}", STANDARD.encode(value)))
        });
        pairs.collect::<Vec<_>>().join(",")
    }
}

fn lost(error: http::Error) -> DeliveryError {
    DeliveryError::Lost(error.to_string())
}

fn upload(id: ImageId) -> String {
    format!("/v1/uploads/{id}")
}
