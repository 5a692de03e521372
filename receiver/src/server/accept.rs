//! Accepts connections: how many, and with which HTTP parameters.
//!
//! The loop is our own, because the parameters that decide throughput (HTTP/2 frame size and
//! windows) and the number of connections are not to be had from `axum::serve`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use shared::listen::Opening;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::budget::{Budget, Window};
use crate::config::{Config, LinkOptions};
use crate::endpoint::Place;
use crate::endpoint::grpc::TransferService;

/// Accepts connections for all listeners of a receiver.
#[derive(Clone)]
pub(super) struct Acceptor {
    link: LinkOptions,
    budget: Arc<Budget>,
    connections: Arc<Semaphore>,
    max_connections: usize,
    /// For the head of a request, and between two requests.
    idle_timeout: Duration,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
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

impl Acceptor {
    /// Connections are asked to end by `stop`, and dropped by `cut`.
    pub(super) fn new(
        config: &Config,
        budget: Arc<Budget>,
        stop: CancellationToken,
        cut: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        let max_connections = config.limits.max_connections;
        Self {
            link: config.link.clone(),
            budget,
            connections: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            idle_timeout: config.limits.idle_timeout,
            stop,
            cut,
            tasks,
        }
    }

    /// Serves gRPC until stopped.
    pub(super) async fn grpc(self, listener: TcpListener, service: TransferService) {
        while let Some((stream, place)) = self.next(&listener).await {
            let acceptor = self.clone();
            let service = service.clone();
            self.tasks.spawn(async move {
                let cut = acceptor.cut.clone();
                cut.run_until_cancelled(acceptor.serve_grpc(stream, service))
                    .await;
                drop(place);
            });
        }
    }

    /// Serves REST and WebSocket until stopped.
    pub(super) async fn http(self, listener: TcpListener, router: Router) {
        while let Some((stream, place)) = self.next(&listener).await {
            let acceptor = self.clone();
            let router = router.clone();
            self.tasks.spawn(async move {
                let cut = acceptor.cut.clone();
                cut.run_until_cancelled(acceptor.serve_http(stream, router, place))
                    .await;
            });
        }
    }

    /// The next connection, once there is room for it; `None` when stopped.
    async fn next(&self, listener: &TcpListener) -> Option<(TcpStream, Place)> {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return None,
            };
            match accepted {
                Ok((stream, peer)) => {
                    tracing::debug!(%peer, "connected");
                    // Only latency suffers where it cannot be set.
                    let _ = stream.set_nodelay(true);
                    // Not before it is accepted: a listener that nobody comes to needs no place.
                    let place = self.place().await?;
                    return Some((stream, place));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: others must close first.
                    tracing::error!("accepting a connection failed: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn place(&self) -> Option<Place> {
        if self.connections.available_permits() == 0 {
            tracing::warn!(
                limit = self.max_connections,
                "no more connections are served for now; raise RECEIVER_MAX_CONNECTIONS"
            );
        }
        let permit = tokio::select! {
            // The semaphore is never closed.
            permit = Arc::clone(&self.connections).acquire_owned() => permit.ok(),
            () = self.stop.cancelled() => None,
        };
        Some(Place::new(permit?, self.budget.seat()))
    }

    /// What a new connection gets of the memory for windows: twice the window of a stream, unless
    /// there are many connections.
    fn window(&self) -> Window {
        let most = self.link.http2_window.0.saturating_mul(2);
        self.budget.window(LEAST_WINDOW.min(most), most)
    }

    async fn serve_grpc(self, stream: TcpStream, service: TransferService) {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let share = self.window();
        let window = u32::try_from(share.bytes() / 2).unwrap_or(u32::MAX >> 1);
        let frame = u32::try_from(self.link.http2_frame_size.0).unwrap_or(16 << 10);
        builder
            .timer(TokioTimer::new())
            .max_frame_size(frame)
            .initial_stream_window_size(window)
            .initial_connection_window_size(window.saturating_mul(2).min(u32::MAX >> 1))
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(32 << 10)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let service = service
            .map_request(|request: http::Request<Incoming>| request.map(tonic::body::Body::new));
        let connection = builder.serve_connection(
            TokioIo::new(Opening::new(stream, self.idle_timeout)),
            TowerToHyperService::new(service),
        );
        tokio::pin!(connection);
        let _share = share;
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!("connection ended: {error}");
        }
    }

    async fn serve_http(self, stream: TcpStream, router: Router, place: Place) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        let http1_buffer = |share: &Window| {
            let bytes = usize::try_from(share.bytes() / 2).unwrap_or(usize::MAX);
            bytes.clamp(LEAST_BUFFER, MOST_BUFFER)
        };
        let share = self.window();
        let window = u32::try_from(share.bytes() / 2).unwrap_or(u32::MAX >> 1);
        let frame = u32::try_from(self.link.http2_frame_size.0).unwrap_or(16 << 10);
        builder
            .http1()
            .max_buf_size(http1_buffer(&share))
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_frame_size(frame)
            .initial_stream_window_size(window)
            .initial_connection_window_size(window.saturating_mul(2).min(u32::MAX >> 1))
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(32 << 10)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let service = router.map_request(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(place.clone());
            request.map(axum::body::Body::new)
        });
        let connection = builder.serve_connection_with_upgrades(
            TokioIo::new(Opening::new(stream, self.idle_timeout)),
            TowerToHyperService::new(service),
        );
        tokio::pin!(connection);
        let _share = share;
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!("connection ended: {error}");
        }
    }
}
