//! Accepts connections: how many, and with which parameters of HTTP.

use std::net::SocketAddr;
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
use tower::ServiceExt as _;

use super::linger::lingering;
use crate::config::Connections;
use crate::connection::{Peer, Place};

/// Time between HTTP/2 pings on a silent connection, and for their answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Flow-control window of a call, and of all calls of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Bytes that wait to be sent in one call whose client does not read.
const SEND_BUFFER: usize = 64 << 10;
/// Bytes of all headers of a request.
const MAX_HEADERS: u32 = 32 << 10;

/// Serves a router on a listener.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) router: Router,
    pub(super) connections: Connections,
    /// Asks connections to end.
    pub(super) stop: CancellationToken,
    /// Drops them.
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Acceptor {
    /// Serves until stopped.
    pub(super) async fn run(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.connections.max));
        while let Some((stream, peer)) = self.next(&listener).await {
            if places.available_permits() == 0 {
                let limit = self.connections.max;
                tracing::warn!(
                    limit,
                    "no more connections are served for now; raise --max-connections"
                );
            }
            let place = tokio::select! {
                place = Arc::clone(&places).acquire_owned() => place,
                () = self.stop.cancelled() => return,
            };
            // The semaphore is never closed.
            let Ok(place) = place else {
                return;
            };
            let place = Place::new(place, self.tasks.token());
            let acceptor = self.clone();
            self.tasks.spawn(async move {
                let cut = acceptor.cut.clone();
                cut.run_until_cancelled(acceptor.serve(stream, peer, place))
                    .await;
            });
        }
    }

    async fn next(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return None,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Only latency suffers where it cannot be set.
                    let _ = stream.set_nodelay(true);
                    return Some((stream, peer));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: others must close first.
                    tracing::error!("accepting a connection failed: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, place: Place) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.connections.head_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(self.connections.max_streams)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let tasks = self.tasks.clone();
        let service = self
            .router
            .map_request(move |mut request: http::Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                request.extensions_mut().insert(place.clone());
                lingering(request, &tasks)
            });
        let connection = builder.serve_connection_with_upgrades(
            TokioIo::new(Opening::new(stream, self.connections.head_timeout)),
            TowerToHyperService::new(service),
        );
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, "connection ended: {error}");
        }
    }
}
