//! `PUT /v1/images/{id}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use shared::clock::ClockEstimate;
use shared::image::ImageMeta;
use shared::receipt::Receipt;
use shared::trace::TRACEPARENT;

use super::body::Part;
use super::connection::RestConnection;
use crate::link::{Attempt, DeliveryError, unreadable};
use crate::outbox::Owed;

/// What is percent-encoded in a header: everything but visible ASCII, and `%` itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b' ').add(b',').add(b'"');

/// An estimate as a header and in metadata.
pub(super) fn clock_text(clock: &ClockEstimate) -> String {
    format!(
        "offset={};error={};samples={}",
        clock.offset_ns, clock.error_ns, clock.samples
    )
}

impl RestConnection {
    /// What is said of the image with this attempt.
    pub(super) fn meta(&self, image: &Owed, attempt: Attempt<'_>) -> ImageMeta {
        attempt.meta(image, self.identity.clock.estimate())
    }

    pub(super) async fn put(
        &self,
        image: &Owed,
        attempt: Attempt<'_>,
    ) -> Result<Receipt, DeliveryError> {
        let reader = image.payload.open().await.map_err(unreadable)?;
        let id = image.meta.id;
        self.identity.unfinished.begin(id);
        let request = self.head_of_put(&self.meta(image, attempt));
        let part = Part {
            id,
            reader,
            from: 0,
            to: image.payload.size(),
            slice: self.chunk_size,
        };
        self.bring(request, part).await?.verdict(id)
    }

    fn head_of_put(&self, meta: &ImageMeta) -> http::request::Builder {
        let mut request = self.request("PUT", &format!("/v1/images/{}", meta.id));
        if let Some(digest) = &meta.digest {
            let value = STANDARD.encode(digest.as_bytes());
            request = request.header("repr-digest", format!("{}=:{value}:", digest.algorithm()));
        }
        let transmitter = self.identity.transmitter.as_str();
        let texts = [
            ("content-type", meta.content_type.as_deref()),
            ("pantelegraph-name", meta.name.as_deref()),
            ("pantelegraph-run", Some(meta.run.as_str())),
            ("pantelegraph-transmitter", Some(transmitter)),
        ];
        for (name, text) in texts {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                request = request.header(name, utf8_percent_encode(text, ESCAPED).to_string());
            }
        }
        let times = [
            ("pantelegraph-captured", meta.captured),
            ("pantelegraph-queued", meta.queued),
            ("pantelegraph-send-started", meta.send_started),
        ];
        for (name, time) in times {
            if let Some(time) = time {
                request = request.header(name, time.0);
            }
        }
        if let Some(clock) = &meta.clock {
            request = request.header("pantelegraph-clock", clock_text(clock));
        }
        if let Some(trace) = meta.trace {
            request = request.header(TRACEPARENT, trace.to_string());
        }
        request
            .header("pantelegraph-outbox", self.identity.outbox.to_string())
            .header("pantelegraph-sequence", meta.sequence)
            .header("pantelegraph-attempt", meta.attempt)
    }
}
