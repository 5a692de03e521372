//! The REST face.

use std::sync::Arc;

use axum::Router;

use crate::service::Service;

/// Its routes.
pub fn routes(service: Arc<Service>) -> Router {
    let _ = service;
    Router::new()
}
