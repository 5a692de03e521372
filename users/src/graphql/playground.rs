//! A page for trying the service out. It asks no other server for anything: its styles and its
//! script are in it, and the browser is told to take nothing else.

use std::sync::LazyLock;

use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, header};
use sha2::{Digest, Sha256};

const FRAME: &str = include_str!("playground/page.html");
const STYLE: &str = include_str!("playground/style.css");
const SCRIPT: &str = include_str!("playground/script.js");

/// The page, and what the browser may do with it.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let page = FRAME
        .replace("/*style*/", STYLE)
        .replace("/*script*/", SCRIPT);
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    (page, policy)
});

/// The page.
pub(super) fn page() -> Response {
    let (page, policy) = &*PAGE;
    let policy = HeaderValue::from_str(policy).expect("hashes and words are visible characters");
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::VARY, HeaderValue::from_static("accept")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ];
    (headers, Html(page.as_str())).into_response()
}
