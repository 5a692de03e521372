//! What a client must say to be upgraded.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use shared::wire::WEBSOCKET_SUBPROTOCOL;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::problem::Problem;

/// RFC 6455, section 4.2.1. A client that offers no subprotocol is taken to speak ours.
pub(super) fn check(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    let has = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| {
                value
                    .split(',')
                    .any(|word| word.trim().eq_ignore_ascii_case(token))
            })
    };
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade-required",
            "upgrade required",
            "this address speaks WebSocket (RFC 6455); images can be sent by PUT /v1/images/{id}",
        ));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade-required",
            "upgrade required",
            "only WebSocket version 13 is spoken",
        ));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        && !has(header::SEC_WEBSOCKET_PROTOCOL, WEBSOCKET_SUBPROTOCOL)
    {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "unknown-subprotocol",
            "unknown subprotocol",
            format!("the subprotocol spoken here is {WEBSOCKET_SUBPROTOCOL}"),
        ));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map(HeaderValue::as_bytes);
    let accept = key
        .map(derive_accept_key)
        .and_then(|key| HeaderValue::from_str(&key).ok());
    accept.ok_or_else(|| {
        let detail = "Sec-WebSocket-Key is missing";
        Problem::new(
            StatusCode::BAD_REQUEST,
            "invalid",
            "not a WebSocket handshake",
            detail,
        )
    })
}
