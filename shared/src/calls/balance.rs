//! Calls spread over the servers that are ready, in turn.
//!
//! A server is ready while the stream of its health service says `SERVING` (gRFC A17,
//! "Client-Side Health Checking",
//! <https://github.com/grpc/proposal/blob/master/A17-client-side-health-checking.md>). So one that
//! drains gets no new calls before its listener closes, and one that breaks is found without
//! risking a call for it.

mod backend;
mod discovery;
mod failure;
mod pool;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use super::deadline::Expiry;
use super::resolve::Resolve;
use super::retry::{Backoff, Final};
use super::targets::Targets;
use super::{Call, Outcome, Request};
use crate::security::tls::ClientTls;
use pool::{Pool, Ready};

/// How servers are found, connected to and watched.
#[derive(Debug, Clone)]
pub struct BalanceOptions {
    /// How connections to servers are encrypted whose address says so.
    pub tls: Option<Arc<ClientTls>>,
    /// The longest time for making a connection.
    pub connect_timeout: Duration,
    /// A connection on which nothing came for so long is asked whether it is alive, also when no
    /// call is on it. Servers may forbid this (those of grpc-go, below five minutes, unless their
    /// enforcement policy is changed).
    pub keepalive_interval: Duration,
    /// A connection that does not answer that in so long is given up.
    pub keepalive_timeout: Duration,
    /// A call waits so long for a server to be ready, if its deadline is not before that.
    pub ready_within: Duration,
    /// The name under which servers report their health; empty for the server as a whole.
    pub health_service: String,
    /// Waiting times between attempts to watch a server that is not there.
    pub watch_backoff: Backoff,
    /// A name's addresses are asked for again so often,
    pub resolve_every: Duration,
    /// and, when a server breaks or the last answer was an error, at most so often.
    pub resolve_at_most_every: Duration,
}

impl Default for BalanceOptions {
    fn default() -> Self {
        Self {
            tls: None,
            connect_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            ready_within: Duration::from_secs(2),
            health_service: String::new(),
            watch_backoff: Backoff::default(),
            resolve_every: Duration::from_secs(30),
            resolve_at_most_every: Duration::from_secs(1),
        }
    }
}

/// Round robin over the servers that are ready. Clones share everything; when the last of them and
/// the last call are dropped, the watching ends and the connections close.
#[derive(Debug, Clone)]
pub struct Balance {
    pool: Arc<Pool>,
    _stop: Arc<DropGuard>,
}

impl Balance {
    /// Finds and watches the servers behind `targets`. Does not wait for any; calls do.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(targets: Targets, resolver: Arc<dyn Resolve>, options: BalanceOptions) -> Self {
        let stop = CancellationToken::new();
        let pool = Arc::new(Pool::new(targets.to_string(), options, stop.clone()));
        discovery::start(&pool, targets, resolver);
        Self {
            pool,
            _stop: Arc::new(stop.drop_guard()),
        }
    }

    /// Calls begun on each server that is known at present, by its address.
    pub fn counts(&self) -> Vec<(String, u64)> {
        self.pool.counts()
    }

    /// Waits until the servers that are ready are as `enough` wants them; it sees their addresses.
    /// For tests and for those who want all their servers before they begin.
    pub async fn wait_for_ready(&self, mut enough: impl FnMut(&[String]) -> bool) {
        let mut rotation = self.pool.rotation.subscribe();
        // An error would mean that the pool is gone, which this holds.
        let _ = rotation
            .wait_for(|rotation| enough(&rotation.ready_addresses()))
            .await;
    }

    #[cfg(test)]
    pub(super) fn tasks(&self) -> tokio_util::task::TaskTracker {
        self.pool.tasks.clone()
    }

    async fn run(self, request: Request) -> Outcome {
        let expiry = Expiry::of(&request);
        let Ready { backend, term } = self.pick(expiry).await?;
        backend.calls.fetch_add(1, Ordering::Relaxed);
        let outcome = async { backend.channel.clone().ready().await?.call(request).await }.await;
        let authority = Arc::clone(&backend.authority);
        match outcome {
            Ok(response) => Ok(response.map(|body| {
                Body::new(body.map_err(move |status| failure::in_body(&authority, status)))
            })),
            Err(error) => {
                let failure = failure::of_call(&authority, &error);
                if failure.breaks_connection {
                    self.pool.take_out(&backend, term, failure.status.message());
                    backend.broken.send_replace(term);
                }
                Err(failure.status)
            }
        }
    }

    async fn pick(&self, expiry: Option<Instant>) -> Result<Ready, Status> {
        if let Some(ready) = self.pool.pick() {
            return Ok(ready);
        }
        let wait = self.pool.options.ready_within;
        let patience = Instant::now() + wait;
        let until = expiry.map_or(patience, |expiry| expiry.min(patience));
        let mut rotation = self.pool.rotation.subscribe();
        let picked = tokio::time::timeout_at(until, async {
            loop {
                if let Some(ready) = self.pool.pick() {
                    return ready;
                }
                // An error would mean that the pool is gone, which this holds.
                let _ = rotation.changed().await;
            }
        });
        picked.await.map_err(|_| {
            let words = self.pool.none_ready();
            let mut status = if until < patience {
                Status::deadline_exceeded(words)
            } else {
                Status::unavailable(words)
            };
            status.set_source(Arc::new(Final));
            status
        })
    }
}

impl Service<Request> for Balance {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Call;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // Each call waits for itself, so that one that waits holds up no other.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Call {
        Box::pin(self.clone().run(request))
    }
}
