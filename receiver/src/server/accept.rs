//! Serves the connections that have come through the door: with which parameters of HTTP.
//!
//! The loop is our own, because the parameters that decide throughput (HTTP/2 frame size and
//! windows) and the number of connections are not to be had from `axum::serve`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use shared::door::{Door, Visitor};
use shared::security::tls::{READ_BUFFER, ServerTls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::budget::{Budget, Window};
use crate::config::{Config, LinkOptions};
use crate::endpoint::Place;
use crate::endpoint::gate::Served;

/// Serves the connections of all listeners of a receiver.
#[derive(Clone)]
pub(super) struct Acceptor {
    door: Door,
    tls: Option<Arc<ServerTls>>,
    link: LinkOptions,
    budget: Arc<Budget>,
    /// For the head of a request, and between two requests.
    idle_timeout: Duration,
    stop: CancellationToken,
}

/// Time between HTTP/2 pings on a silent connection, and for their answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Window of an HTTP/2 connection when there are very many; no connection can have less (RFC 9113,
/// section 6.9.2).
const LEAST_WINDOW: u64 = 64 << 10;

/// Buffer of an HTTP/1 connection, which grows as its client sends.
const LEAST_BUFFER: usize = 16 << 10;
const MOST_BUFFER: usize = 400 << 10;

/// Calls that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 64;

/// Calls that a client may reset before they were looked at, and errors of its that are answered by a
/// reset; one that goes on ends its connection (CVE-2023-44487, CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 256;

/// Bytes of all headers of a request.
const MAX_HEADERS: u32 = 32 << 10;

impl Acceptor {
    /// Connections are asked to end by `stop`.
    pub(super) fn new(
        config: &Config,
        door: Door,
        tls: Option<Arc<ServerTls>>,
        budget: Arc<Budget>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            door,
            tls,
            link: config.link.clone(),
            budget,
            idle_timeout: config.limits.idle_timeout,
            stop,
        }
    }

    /// Serves this until stopped.
    pub(super) async fn run(self, listener: TcpListener, served: Served) {
        let (door, tls) = (self.door.clone(), self.tls.clone());
        let serving = move |visitor: Visitor| self.clone().serve(visitor, served.clone());
        door.run(listener, tls, serving).await;
    }

    /// What a new connection gets of the memory for windows: twice the window of a stream, unless
    /// there are many connections.
    fn window(&self) -> Window {
        let most = self.link.http2_window.0.saturating_mul(2);
        self.budget.window(LEAST_WINDOW.min(most), most)
    }

    async fn serve(self, visitor: Visitor, served: Served) {
        let Visitor {
            stream,
            peer,
            place,
            ..
        } = visitor;
        tracing::debug!(peer = %peer.address, "connected");
        let place = Place::new(place, self.budget.seat());
        let share = self.window();
        let read = peer
            .encrypted
            .then(|| self.budget.window(READ_BUFFER, READ_BUFFER));
        let builder = self.builder(&share, served.is_grpc_only());
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let answering = served
                .clone()
                .answer(request, Arc::clone(&peer), place.clone());
            async move { Ok::<_, Infallible>(answering.await) }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        drop((share, read));
        if let Err(error) = result {
            tracing::debug!("connection ended: {error}");
        }
    }

    fn builder(&self, share: &Window, is_grpc_only: bool) -> auto::Builder<TokioExecutor> {
        let half = share.bytes() / 2;
        let buffer = usize::try_from(half).unwrap_or(usize::MAX);
        let window = u32::try_from(half).unwrap_or(u32::MAX >> 1);
        let frame = u32::try_from(self.link.http2_frame_size.0).unwrap_or(16 << 10);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        if is_grpc_only {
            builder = builder.http2_only();
        }
        builder
            .http1()
            .max_buf_size(buffer.clamp(LEAST_BUFFER, MOST_BUFFER))
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_frame_size(frame)
            .initial_stream_window_size(window)
            .initial_connection_window_size(window.saturating_mul(2).min(u32::MAX >> 1))
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_ERROR_RESETS)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        builder
    }
}
