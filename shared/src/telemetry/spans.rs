//! Spans: pieces of work with a beginning and an end, which together make the trace of an image
//! or of a call.
//!
//! They are told when they have ended, from times that are taken anyway, so that the work is the
//! same whether or not anybody wants to know.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::clock::UnixNanos;
use crate::trace::{SpanId, TraceContext, TraceId};

/// The part in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None: work of one's own.
    Internal,
    /// Asks.
    Client,
    /// Is asked.
    Server,
}

/// What is said of a span beside its name.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// A piece of work that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Where it stands.
    pub context: TraceContext,
    /// The span that it is a part of, which may be another process's.
    pub parent: Option<SpanId>,
    /// What is done: one of a few, and nothing that others chose.
    pub name: Cow<'static, str>,
    /// The part in a conversation.
    pub kind: Kind,
    /// When it began.
    pub start: UnixNanos,
    /// When it ended.
    pub end: UnixNanos,
    /// What is said of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Span {
    /// A piece of work of one's own, below `parent`.
    pub fn below(
        parent: TraceContext,
        name: impl Into<Cow<'static, str>>,
        start: UnixNanos,
        end: UnixNanos,
    ) -> Self {
        Self {
            context: TraceContext {
                span: SpanId::new_random(),
                ..parent
            },
            parent: Some(parent.span),
            name: name.into(),
            kind: Kind::Internal,
            start,
            // Clocks are set back now and then.
            end: end.max(start),
            attributes: Vec::new(),
            failure: None,
        }
    }

    /// With this said of it.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push((key, value.into()));
        self
    }
}

/// Which traces are kept (`OTEL_TRACES_SAMPLER`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Whether what came from elsewhere is kept exactly if it was there.
    pub obeys_parents: bool,
    /// The part of the others that is kept, 0 to 1.
    pub ratio: f64,
}

impl Sampler {
    /// Whether the spans of a trace are kept; `parent` is where it came from.
    pub fn keeps(&self, trace: TraceId, parent: Option<TraceContext>) -> bool {
        match parent {
            Some(parent) if self.obeys_parents => parent.sampled,
            // As all who sample by ratio do, so that a trace is kept whole (OpenTelemetry's
            // probability sampling, by the threshold of rejection).
            _ => {
                let all = (1_u64 << 56) as f64;
                trace.randomness() as f64 >= (1.0 - self.ratio) * all
            }
        }
    }
}

impl FromStr for Sampler {
    type Err = String;

    /// The name, without its argument: ratios are 1 until they are set.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (obeys_parents, name) = match text.strip_prefix("parentbased_") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let ratio = match name {
            "always_on" | "traceidratio" => 1.0,
            "always_off" => 0.0,
            _ => {
                return Err(format!(
                    "unknown sampler {text:?}; use always_on, always_off, traceidratio, or one of them after \
                     parentbased_"
                ));
            }
        };
        Ok(Self {
            obeys_parents,
            ratio,
        })
    }
}

/// Where spans go that have ended: nowhere, unless somebody wants them.
#[derive(Clone, Default)]
pub struct Spans(Option<Arc<Queue>>);

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() {
            "Spans(on)"
        } else {
            "Spans(off)"
        })
    }
}

struct Queue {
    sampler: Sampler,
    waiting: Mutex<VecDeque<Span>>,
    /// Spans that may wait.
    longest: usize,
    /// Spans with which somebody should be told.
    batch: usize,
    full: Notify,
    dropped: AtomicU64,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spans {
    /// Keeps spans until somebody takes them: `longest` at most, `batch` at a time.
    pub fn new(sampler: Sampler, longest: usize, batch: usize) -> Self {
        Self(Some(Arc::new(Queue {
            sampler,
            waiting: Mutex::default(),
            longest: longest.max(1),
            batch: batch.clamp(1, longest.max(1)),
            full: Notify::new(),
            dropped: AtomicU64::new(0),
        })))
    }

    /// Whether anybody wants them.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Where work in `trace` begins that came from `parent`, or from nowhere: a new span, and whether it
    /// is to be told. `None` when nobody wants to know of anything.
    pub fn begin(&self, trace: TraceId, parent: Option<TraceContext>) -> Option<TraceContext> {
        let queue = self.0.as_ref()?;
        Some(TraceContext {
            trace,
            span: SpanId::new_random(),
            sampled: queue.sampler.keeps(trace, parent),
        })
    }

    /// Work has ended.
    pub fn end(&self, span: Span) {
        let Some(queue) = self.0.as_ref().filter(|_| span.context.sampled) else {
            return;
        };
        let mut waiting = queue.waiting();
        if waiting.len() >= queue.longest {
            drop(waiting);
            queue.dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.push_back(span);
        let is_full = waiting.len() == queue.batch;
        drop(waiting);
        if is_full {
            queue.full.notify_one();
        }
    }

    /// Spans that were taken did not get where they should.
    pub fn lost(&self, count: u64) {
        if let Some(queue) = &self.0 {
            queue.dropped.fetch_add(count, Relaxed);
        }
    }

    /// Spans that nobody took in time, so far.
    pub fn dropped(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |queue| queue.dropped.load(Relaxed))
    }

    /// Spans that wait to be taken.
    pub fn waiting(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.waiting().len())
    }

    /// Waits until there are many.
    pub async fn many(&self) {
        match &self.0 {
            Some(queue) if queue.waiting().len() < queue.batch => queue.full.notified().await,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }

    /// The next batch.
    pub fn take(&self) -> Vec<Span> {
        let Some(queue) = &self.0 else {
            return Vec::new();
        };
        let mut waiting = queue.waiting();
        let count = waiting.len().min(queue.batch);
        waiting.drain(..count).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::image::ImageId;

    fn span(spans: &Spans) -> Option<Span> {
        let context = spans.begin(TraceId::new_random(), None)?;
        Some(Span::below(context, "work", UnixNanos(2), UnixNanos(1)))
    }

    #[test]
    fn nobody_wants_anything_by_default() {
        let spans = Spans::default();
        assert!(!spans.is_on() && span(&spans).is_none());
        assert!(spans.take().is_empty());
    }

    #[test]
    fn no_more_wait_than_may_and_the_others_are_counted() {
        let spans = Spans::new("always_on".parse().unwrap(), 3, 2);
        for _ in 0..5 {
            spans.end(span(&spans).unwrap());
        }
        assert_eq!((spans.waiting(), spans.dropped()), (3, 2));
        assert_eq!((spans.take().len(), spans.take().len()), (2, 1));
        assert_eq!(spans.waiting(), 0);
    }

    #[test]
    fn a_span_does_not_end_before_it_began() {
        let spans = Spans::new("always_on".parse().unwrap(), 1, 1);
        assert_eq!(span(&spans).unwrap().end, UnixNanos(2));
    }

    #[test]
    fn parents_decide_where_they_are_obeyed() {
        let parent = |sampled| TraceContext {
            trace: TraceId::new_random(),
            span: SpanId::new_random(),
            sampled,
        };
        let keeps = |sampler: &str, parent: Option<TraceContext>| {
            let sampler: Sampler = sampler.parse().unwrap();
            sampler.keeps(TraceId::new_random(), parent)
        };
        assert!(keeps("parentbased_always_on", None));
        assert!(!keeps("parentbased_always_on", Some(parent(false))));
        assert!(keeps("parentbased_always_off", Some(parent(true))));
        assert!(!keeps("parentbased_always_off", None));
        assert!(keeps("always_on", Some(parent(false))));
        assert!(!keeps("always_off", Some(parent(true))));
        assert!("sometimes".parse::<Sampler>().is_err());
        let spans = Spans::new("always_off".parse().unwrap(), 1, 1);
        spans.end(span(&spans).unwrap());
        assert_eq!(spans.waiting(), 0);
    }

    #[test]
    fn a_ratio_is_that_part_of_the_traces() {
        let sampler = Sampler {
            ratio: 0.25,
            ..Sampler::from_str("traceidratio").unwrap()
        };
        // Fresh ids of one millisecond are counted up. An odd factor takes each number to another.
        let id =
            |n: u128| ImageId::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let ids = (1..=10_000).filter_map(id);
        let kept = ids.filter(|id| sampler.keeps(TraceId::of(*id), None));
        // Six standard deviations of a binomial distribution are 260.
        let kept = kept.count();
        assert!((2_240..=2_760).contains(&kept), "{kept} of 10,000");
    }
}
