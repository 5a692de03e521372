//! What this station does for an image, as spans of its trace.

use shared::clock::UnixNanos;
use shared::image::ImageMeta;
use shared::receipt::{Receipt, ReceiptStatus, Reject};
use shared::telemetry::spans::{Kind, Span};
use shared::trace::TraceId;

use super::{Intake, Origin};

impl Intake {
    /// Tells of an image that has its answer: from its first byte to the answer, with what took the time.
    /// One that was not stored, or was here before, has no times; its span is the moment of its answer.
    pub(super) fn trace(
        &self,
        meta: &ImageMeta,
        origin: &Origin,
        outcome: &Result<Receipt, Reject>,
    ) {
        let spans = &self.parts.spans;
        // Without a place in one, the image begins its own: a client that knows nothing of traces.
        let trace = meta
            .trace
            .map_or(TraceId::of(meta.id), |parent| parent.trace);
        let Some(context) = spans
            .begin(trace, meta.trace)
            .filter(|context| context.sampled)
        else {
            return;
        };
        let now = UnixNanos::now();
        let stored = outcome.as_ref().ok();
        let stored = stored.filter(|receipt| receipt.status == ReceiptStatus::Stored);
        let times = stored.map(|receipt| receipt.timeline);
        let (status, failure) = match outcome {
            Ok(receipt) if receipt.status == ReceiptStatus::Duplicate => ("duplicate", None),
            Ok(_) => ("stored", None),
            Err(reject) if reject.quarantined => ("quarantined", Some(reject)),
            Err(reject) => ("rejected", Some(reject)),
        };
        let mut span = Span {
            context,
            parent: meta.trace.map(|parent| parent.span),
            kind: Kind::Server,
            failure: failure.map(ToString::to_string),
            ..Span::below(
                context,
                "receive",
                times.map_or(now, |times| times.first_byte),
                times.map_or(now, |times| times.durable),
            )
        }
        .with("pantelegraph.image.id", meta.id.to_string())
        .with("pantelegraph.image.size", meta.size)
        .with("pantelegraph.transmitter", &*origin.transmitter)
        .with("pantelegraph.transport", origin.transport.key())
        .with("pantelegraph.status", status);
        if let Some(reject) = failure {
            span = span.with("error.type", reject.reason.to_string());
        }
        if let Some(times) = times {
            let durability = self.parts.durability.to_string();
            span = span.with("pantelegraph.durability", durability);
            for (name, start, end) in [
                ("transfer", times.first_byte, times.last_byte),
                ("verify", times.last_byte, times.verified),
                ("store", times.verified, times.durable),
            ] {
                spans.end(Span::below(context, name, start, end));
            }
        }
        spans.end(span);
    }
}
