//! What this station does for an image, as spans of its trace.
//!
//! The whole way of an image is one span, told when it is settled, by whichever process does that. Its
//! identity follows from the image's, so that attempts of a process before hang on it as well.

use std::time::Duration;

use shared::clock::UnixNanos;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::ReceiptStatus;
use shared::telemetry::spans::{Kind, Span, Spans};
use shared::trace::{SpanId, TraceContext, TraceId};

use super::{Settled, Settlement};

/// Tells of images.
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    spans: Spans,
    transport: Transport,
}

/// An attempt that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    pub(super) context: TraceContext,
    image: ImageId,
    number: u32,
    started: UnixNanos,
}

impl Traces {
    pub(crate) fn new(spans: Spans, transport: Transport) -> Self {
        Self { spans, transport }
    }

    /// An attempt begins, and what the receiver does for it belongs to it.
    pub(super) fn begin(&self, image: ImageId, number: u32, started: UnixNanos) -> Option<Begun> {
        let context = self.spans.begin(TraceId::of(image), None)?;
        Some(Begun {
            context,
            image,
            number,
            started,
        })
    }

    /// It is over, without a receipt for this reason.
    pub(super) fn end(&self, begun: Option<Begun>, took: Duration, failure: Option<String>) {
        let Some(begun) = begun.filter(|begun| begun.context.sampled) else {
            return;
        };
        let whole = TraceContext {
            span: SpanId::of(begun.image),
            ..begun.context
        };
        let end = begun.started.after(took);
        let span = Span {
            context: begun.context,
            kind: Kind::Client,
            failure,
            ..Span::below(whole, "deliver", begun.started, end)
        };
        self.spans.end(
            span.with("pantelegraph.attempt", begun.number)
                .with("pantelegraph.transport", self.transport.key()),
        );
    }

    /// An image is settled: its whole way, from capture on.
    pub(super) fn settled(&self, settled: &Settled) {
        let meta = &settled.image.meta;
        let (status, failure) = match &settled.settlement {
            Settlement::Receipt(receipt) if receipt.status == ReceiptStatus::Duplicate => {
                ("duplicate", None)
            }
            Settlement::Receipt(_) => ("stored", None),
            Settlement::Quarantined(reject) => ("quarantined", Some(reject.to_string())),
            Settlement::Lost(kind, reason) => (kind.key(), Some(reason.clone())),
        };
        let Some(span) = self.whole(meta, settled.started, status, failure) else {
            return;
        };
        let whole = span.context;
        // What comes before the first attempt; of others its time is not known any more.
        let first = (settled.attempts == 1).then_some(settled.started);
        let parts = [
            ("prepare", meta.captured, meta.queued),
            ("wait", meta.queued, first),
        ];
        for (name, start, end) in parts {
            if let (Some(start), Some(end)) = (start, end) {
                self.spans.end(Span::below(whole, name, start, end));
            }
        }
        self.spans
            .end(span.with("pantelegraph.attempts", settled.attempts));
    }

    /// An image is lost without having been sent.
    pub(crate) fn lost(&self, meta: &ImageMeta, kind: &'static str, reason: &str) {
        let now = UnixNanos::now();
        if let Some(span) = self.whole(meta, now, kind, Some(reason.to_owned())) {
            self.spans.end(span);
        }
    }

    /// The span of an image's whole way, which ends now. `known` is a time at which it was here.
    fn whole(
        &self,
        meta: &ImageMeta,
        known: UnixNanos,
        status: &'static str,
        failure: Option<String>,
    ) -> Option<Span> {
        let begun = self.spans.begin(TraceId::of(meta.id), None)?;
        if !begun.sampled {
            return None;
        }
        let context = TraceContext {
            span: SpanId::of(meta.id),
            ..begun
        };
        let start = meta.captured.or(meta.queued).unwrap_or(known);
        let mut span = Span {
            context,
            parent: None,
            failure,
            ..Span::below(context, "image", start, UnixNanos::now())
        }
        .with("pantelegraph.image.id", meta.id.to_string())
        .with("pantelegraph.image.size", meta.size)
        .with("pantelegraph.run", meta.run.as_str())
        .with("pantelegraph.sequence", meta.sequence)
        .with("pantelegraph.transport", self.transport.key())
        .with("pantelegraph.status", status);
        if let Some(name) = &meta.name {
            span = span.with("pantelegraph.image.name", name.as_str());
        }
        Some(span)
    }
}
