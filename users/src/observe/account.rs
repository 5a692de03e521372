//! A call as figures and traces have it.

use std::time::{Duration, Instant};

use shared::clock::UnixNanos;
use shared::telemetry::spans::{Kind, Span, Spans};
use shared::trace::{TraceContext, TraceId};

use super::name::{Outcome, is_fault};
use crate::metrics::{Ended, Face, Open, UsersMetrics};
use crate::refusal::Code;

/// Hears of every call.
#[derive(Debug, Clone, Default)]
pub struct Observer {
    /// Counts them.
    pub metrics: UsersMetrics,
    /// Where their spans go.
    pub spans: Spans,
}

/// A call that goes on.
#[derive(Debug)]
pub(super) struct Account {
    observer: Observer,
    face: Face,
    begin: Instant,
    began: UnixNanos,
    /// Where it came from.
    parent: Option<TraceContext>,
    /// Where it stands, if anybody wants to know.
    context: Option<TraceContext>,
    _open: Open,
}

impl Account {
    /// One that begins now, below `parent` or nowhere.
    pub(super) fn begin(observer: &Observer, face: Face, parent: Option<TraceContext>) -> Self {
        let new = || parent.map_or_else(TraceId::new_random, |parent| parent.trace);
        let is_told = observer.spans.is_on();
        Self {
            face,
            begin: Instant::now(),
            began: UnixNanos::now(),
            parent,
            context: is_told
                .then(|| observer.spans.begin(new(), parent))
                .flatten(),
            _open: observer.metrics.call(face),
            observer: observer.clone(),
        }
    }

    /// The trace that it belongs to, if there is one.
    pub(super) fn trace(&self) -> Option<TraceId> {
        let context = self.context.or(self.parent);
        context.map(|context| context.trace)
    }

    /// What follows from it belongs here.
    pub(super) fn context(&self) -> Option<TraceContext> {
        self.context
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// It has ended; `describe` says more of it, if anybody wants to know.
    pub(super) fn end(&self, ended: &Ended, describe: impl FnOnce(Span) -> Span) {
        let time = self.begin.elapsed();
        self.observer.metrics.called(self.face, ended, time);
        let Some(context) = self.context.filter(|context| context.sampled) else {
            return;
        };
        // By the clock that is never set.
        let end = self.began.after(time);
        let mut span = Span {
            context,
            parent: self.parent.map(|parent| parent.span),
            kind: Kind::Server,
            ..Span::below(context, ended.method.clone(), self.began, end)
        };
        if is_fault(&ended.code) {
            let code = ended.code.clone().into_owned();
            span.failure = Some(code.clone());
            span = span.with("error.type", code);
        }
        self.observer.spans.end(describe(span));
    }
}

/// An operation on a WebSocket, which ends when this is dropped.
#[derive(Debug)]
pub struct SocketOperation {
    account: Account,
    kind: &'static str,
    code: Option<&'static str>,
}

impl SocketOperation {
    /// One that begins now, on a socket that was asked for at this place in a trace.
    pub fn begin(observer: &Observer, socket: Option<TraceContext>) -> Self {
        Self {
            account: Account::begin(observer, Face::Graphql, socket),
            kind: super::name::OTHER,
            code: None,
        }
    }

    /// It is of this kind.
    pub fn is(&mut self, kind: &'static str) {
        self.kind = kind;
    }

    /// It ends like this, unless it has failed already.
    pub fn ends(&mut self, Outcome(code): Outcome) {
        if self.code.is_none_or(|code| code == "OK") {
            self.code = Some(code);
        }
    }
}

impl Drop for SocketOperation {
    fn drop(&mut self) {
        let ended = Ended {
            method: self.kind.into(),
            // Whoever ends an operation before it is over has gone or lost interest.
            code: self.code.unwrap_or(Code::Cancelled.name()).into(),
            streams: self.kind == "subscription",
        };
        self.account.end(&ended, |span| match self.kind {
            super::name::OTHER => span,
            kind => span.with("graphql.operation.type", kind),
        });
    }
}
