//! Spans as OTLP has them.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span as Message, SpanFlags, Status};

use crate::clock::UnixNanos;
use crate::telemetry::spans::{Kind, Span, Value};

/// Nanoseconds since 1970; a clock before that counts as not set.
pub(super) fn nanos(time: UnixNanos) -> u64 {
    u64::try_from(time.0).unwrap_or_default()
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::StringValue(value.to_owned()))
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

pub(super) fn resource(attributes: &[(String, String)]) -> Resource {
    Resource {
        attributes: attributes
            .iter()
            .map(|(key, value)| text(key, value))
            .collect(),
        ..Resource::default()
    }
}

pub(super) fn scope(version: &str) -> InstrumentationScope {
    InstrumentationScope {
        name: "pantelegraph".to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    }
}

pub(super) fn span(span: &Span) -> Message {
    let kind = match span.kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Client => SpanKind::Client,
        Kind::Server => SpanKind::Server,
    };
    let attribute = |(key, value): &(&'static str, Value)| match value {
        Value::Text(text) => pair(key, Any::StringValue(text.clone())),
        Value::Number(number) => pair(key, Any::IntValue(*number)),
    };
    Message {
        trace_id: span.context.trace.to_bytes().to_vec(),
        span_id: span.context.span.to_bytes().to_vec(),
        parent_span_id: span
            .parent
            .map(|parent| parent.to_bytes().to_vec())
            .unwrap_or_default(),
        // The lowest eight bits are those of W3C Trace Context.
        flags: u32::from(span.context.sampled) & SpanFlags::TraceFlagsMask as u32,
        name: span.name.clone().into_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: span.attributes.iter().map(attribute).collect(),
        status: span.failure.as_ref().map(|message| Status {
            message: message.clone(),
            code: StatusCode::Error.into(),
        }),
        ..Message::default()
    }
}
