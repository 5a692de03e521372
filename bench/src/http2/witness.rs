//! Sees calls begin and end at the server: by the span and the line that the server logs for each.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Where they come from.
const TARGET: &str = "pantelegraph_users::observe";
/// Most ends that are kept.
const KEPT: usize = 1_024;

/// A call that has ended at the server.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    /// When the server let go of it.
    pub(super) at: Instant,
    /// Its path, such as `/user.v1.UserService/Echo`.
    pub(super) call: String,
    /// `OK`, `CANCELLED`, ...
    pub(super) status: String,
}

/// Listens to the log of the threads that it is the default subscriber of.
#[derive(Debug, Clone, Default)]
pub(super) struct Witness {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Calls that have begun since `forget`.
    begun: AtomicUsize,
    ended: Mutex<VecDeque<Ended>>,
    more: Notify,
}

impl Witness {
    /// Forgets what was seen so far.
    pub(super) fn forget(&self) {
        self.inner.begun.store(0, Ordering::SeqCst);
        self.take(VecDeque::clear);
    }

    /// Waits until a call has begun since `forget`: one that is given up before has never reached
    /// its handler, and does not end there.
    pub(super) async fn begun(&self) -> Result<(), String> {
        let begun = || (self.inner.begun.load(Ordering::SeqCst) > 0).then_some(());
        self.wait("begun a call", begun).await
    }

    /// The next call to this method that ends, or has ended since `forget`.
    pub(super) async fn ended(&self, method: &str) -> Result<Ended, String> {
        let ended = || {
            self.take(|ended| {
                let at = ended
                    .iter()
                    .position(|ended| ended.call.ends_with(method))?;
                ended.remove(at)
            })
        };
        self.wait(&format!("ended {method}"), ended).await
    }

    async fn wait<T>(&self, what: &str, found: impl Fn() -> Option<T>) -> Result<T, String> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let wait = async {
            loop {
                let more = self.inner.more.notified();
                if let Some(found) = found() {
                    return found;
                }
                more.await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.map_err(|_| format!("the server has not {what} within {PATIENCE:?}"))
    }

    fn take<T>(&self, take: impl FnOnce(&mut VecDeque<Ended>) -> T) -> T {
        take(
            &mut self
                .inner
                .ended
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl Subscriber for Witness {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        self.inner.begun.fetch_add(1, Ordering::SeqCst);
        self.inner.more.notify_one();
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut said = Ended {
            at: Instant::now(),
            call: String::new(),
            status: String::new(),
        };
        event.record(&mut said);
        self.take(|ended| {
            if ended.len() == KEPT {
                ended.pop_front();
            }
            ended.push_back(said);
        });
        // One waits; word that comes before it does is kept.
        self.inner.more.notify_one();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Ended {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "call" => self.call = format!("{value:?}"),
            "status" => self.status = format!("{value:?}"),
            _ => {}
        }
    }
}
