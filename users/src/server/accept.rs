//! Serves those who come through the door: how many, and with which parameters of HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use shared::door::{Bounds, Door, Visitor};
use shared::security::tls::ServerTls;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::linger::lingering;
use crate::config::Connections;
use crate::connection::Connection;
use crate::metrics::UsersMetrics;

/// Time between HTTP/2 pings on a silent connection, and for their answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Flow-control window of a call, and of all calls of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Bytes that wait to be sent in one call whose client does not read.
const SEND_BUFFER: usize = 64 << 10;
/// Bytes of all headers of a request.
const MAX_HEADERS: u32 = 32 << 10;
/// Calls of HTTP/2 that a client begins and gives up before they are looked at ("rapid reset",
/// CVE-2023-44487), and those that break its rules: more end its connection.
const MAX_RESETS: usize = 20;
const MAX_ERRORS: usize = 1_024;

/// Most connections that have shown nothing yet: each takes only memory, but the more there are, the
/// longer one may hold its place for nothing.
const NEWCOMERS: usize = 512;

/// Serves a router on a listener.
#[derive(Clone)]
pub(super) struct Host {
    /// Name of the listener in the figures.
    pub(super) name: &'static str,
    pub(super) metrics: UsersMetrics,
    pub(super) router: Router,
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) connections: Connections,
    /// Asks connections to end.
    pub(super) stop: CancellationToken,
    /// Drops them.
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Host {
    /// Serves until stopped.
    pub(super) async fn run(self, listener: TcpListener) {
        let (stop, cut, tasks) = (self.stop.clone(), self.cut.clone(), self.tasks.clone());
        let metrics = self.metrics.clone();
        let refused = move |reason| metrics.refused(reason);
        let door = Door::new(bounds(self.connections), stop, cut, tasks, refused);
        let guests = Arc::clone(door.guests());
        self.metrics
            .listener(self.name, guests, self.connections.max);
        let tls = self.tls.clone();
        door.run(listener, tls, move |visitor| self.clone().serve(visitor))
            .await;
    }

    /// Serves one until its end, that of what it becomes included.
    async fn serve(self, visitor: Visitor) {
        // Which protocol is spoken shows by itself.
        let Visitor {
            stream,
            peer,
            place,
            ..
        } = visitor;
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
            .max_pending_accept_reset_streams(Some(MAX_RESETS))
            .max_local_error_reset_streams(Some(MAX_ERRORS))
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let (known, end) = Connection::new(place);
        let (tasks, address) = (self.tasks.clone(), peer.address);
        let service = self
            .router
            .map_request(move |mut request: http::Request<Incoming>| {
                request.extensions_mut().insert(Arc::clone(&peer));
                request.extensions_mut().insert(known.clone());
                lingering(request, &tasks)
            });
        let connection = builder.serve_connection_with_upgrades(
            TokioIo::new(stream),
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
            tracing::debug!(peer = %address, "connection ended: {error}");
        }
        end.reached().await;
    }
}

fn bounds(connections: Connections) -> Bounds {
    Bounds {
        connections: connections.max,
        per_peer: connections.max_per_peer,
        newcomers: (connections.max / 2).clamp(1, NEWCOMERS),
        handshake: connections.handshake_timeout,
    }
}
