//! The GraphQL face: queries and mutations over HTTP, subscriptions over WebSocket, and a page for
//! trying them out, all at `/graphql`.
//!
//! HTTP is served as "GraphQL over HTTP" has it, WebSocket as the subprotocol `graphql-transport-ws`
//! does. Every request passes `gate::Gate`, which looks at the document before anything costly
//! is done with it.

mod document;
mod error;
mod gate;
mod guest;
mod http;
mod json;
mod playground;
mod schema;
mod socket;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use crate::admission::{Admission, Ending, Manners, admit};
use crate::service::Service;
use gate::Gate;
use socket::SocketOptions;

/// What the handlers share.
struct Face {
    gate: Gate,
    service: Arc<Service>,
    socket: SocketOptions,
}

/// Its routes.
pub fn routes(service: Arc<Service>) -> Router {
    routes_with(service, SocketOptions::default())
}

fn routes_with(service: Arc<Service>, socket: SocketOptions) -> Router {
    let admission = Admission {
        service: Arc::clone(&service),
        manners: MANNERS,
    };
    let face = Face {
        gate: Gate::new(Arc::clone(&service)),
        service,
        socket,
    };
    Router::new()
        .route("/graphql", get(http::get).post(http::post))
        .route("/graphql/schema", get(http::schema))
        .method_not_allowed_fallback(http::method)
        .with_state(Arc::new(face))
        .layer(axum::middleware::from_fn_with_state(admission, admit))
}

const MANNERS: Manners = Manners {
    is_open: http::is_open,
    refuse: http::refuse,
    // Answers over HTTP are whole; sockets look at the time themselves.
    ending: |_, _| Ending::Broken,
};
