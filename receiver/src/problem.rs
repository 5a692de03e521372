//! temporary
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use shared::receipt::Reject;
/// x
pub struct Problem;
impl Problem { /// x
pub fn new(_s: StatusCode, _k: &str, _d: impl Into<String>) -> Self { Self } }
impl From<Reject> for Problem { fn from(_r: Reject) -> Self { Self } }
impl IntoResponse for Problem { fn into_response(self) -> Response { StatusCode::BAD_REQUEST.into_response() } }
