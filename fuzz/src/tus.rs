//! HTTP requests to the routes that bring something in: `PUT` of images and tus uploads.
//!
//! An input is text: requests separated by a line `----`; of each, a line with method and path,
//! header lines, an empty line and the body. `{upload}` stands for the upload created last, `{0}`
//! to `{3}` for ids of images.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::BodyExt;
use pantelegraph_receiver::endpoint::rest::writing_routes;
use shared::security::access::Caller;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::rig::{Rig, run as run_to_end};

/// Requests of one input at most.
const MOST: usize = 16;

const SEPARATOR: &[u8] = b"\n----\n";

/// Runs one input.
pub fn run(data: &[u8]) {
    run_to_end(converse(data));
}

async fn converse(data: &[u8]) {
    let rig = Rig::new();
    let router = writing_routes(Arc::clone(&rig.intake), TaskTracker::new())
        .layer(axum::Extension(Caller::Anyone));
    let mut upload = String::new();
    let mut rest = data;
    for _ in 0..MOST {
        let (one, after) = split(rest, SEPARATOR);
        if let Some(request) = request(one, &upload) {
            ask(&router, request, &mut upload).await;
        }
        match after {
            Some(after) => rest = after,
            None => break,
        }
    }
    drop(router);
    rig.intake.close().await;
}

async fn ask(router: &Router, request: Request<Body>, upload: &mut String) {
    let line = format!("{} {}", request.method(), request.uri());
    let answered = router.clone().oneshot(request).await;
    let response = answered.expect("a router always answers");
    let status = response.status();
    assert_ne!(status.as_u16(), 500, "{line}");
    if let Some(location) = response.headers().get("location") {
        let location = location.to_str().expect("locations are ASCII");
        assert!(location.starts_with("/v1/"), "{location}");
        if location.starts_with("/v1/uploads/") {
            location.clone_into(upload);
        }
    }
    if let Some(offset) = response.headers().get("upload-offset") {
        let offset = offset.to_str().expect("offsets are numbers");
        offset.parse::<u64>().expect("offsets are numbers");
    }
    let body = response.into_body().collect().await;
    let body = body.expect("answers are whole").to_bytes();
    assert!(body.len() < 64 << 10, "{} bytes answer {line}", body.len());
    if status.is_client_error() && line.starts_with("HEAD").eq(&false) && !body.is_empty() {
        let text = std::str::from_utf8(&body).expect("problems are UTF-8");
        assert!(text.contains("\"status\""), "{line}: {text}");
    }
}

/// The part before `separator`, and the part behind it.
fn split<'a>(data: &'a [u8], separator: &[u8]) -> (&'a [u8], Option<&'a [u8]>) {
    let found = data
        .windows(separator.len())
        .position(|window| window == separator);
    match found {
        Some(at) => (&data[..at], Some(&data[at + separator.len()..])),
        None => (data, None),
    }
}

fn request(data: &[u8], upload: &str) -> Option<Request<Body>> {
    let (head, body) = split(data, b"\n\n");
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.splitn(2, |byte| *byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let path = std::str::from_utf8(words.next()?).ok()?;
    let mut path = path.replace("{upload}", upload);
    for number in 0..4 {
        path = path.replace(&format!("{{{number}}}"), &id(number));
    }
    let mut request = Request::builder().method(method).uri(path);
    let headers = request.headers_mut()?;
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_bytes(value.trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    request
        .body(Body::from(body.unwrap_or_default().to_vec()))
        .ok()
}

fn id(number: usize) -> String {
    format!("00000000-0000-7000-8000-00000000000{number}")
}

/// Requests that are right, and a few that are not.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let picture = "P5\n5 1\n255\nabcde";
    let whole = format!(
        "POST /v1/uploads\nTus-Resumable: 1.0.0\nUpload-Length: 16\n\
         Upload-Metadata: filename YS5wbmc=,run cnVu,is_confidential\n\n\
         \n----\nHEAD {{upload}}\nTus-Resumable: 1.0.0\n\n\
         \n----\nPATCH {{upload}}\nTus-Resumable: 1.0.0\nUpload-Offset: 0\n\
         Content-Type: application/offset+octet-stream\n\n{}\
         \n----\nPATCH {{upload}}\nTus-Resumable: 1.0.0\nUpload-Offset: 7\n\
         Content-Type: application/offset+octet-stream\n\
         Upload-Checksum: crc32c AAAAAA==\n\n{}\
         \n----\nPATCH {{upload}}\nTus-Resumable: 1.0.0\nUpload-Offset: 7\n\
         Content-Type: application/offset+octet-stream\n\n{}\
         \n----\nHEAD {{upload}}\nTus-Resumable: 1.0.0\n\n",
        &picture[..7],
        &picture[7..],
        &picture[7..],
    );
    let with_upload = format!(
        "POST /v1/uploads\nTus-Resumable: 1.0.0\nUpload-Length: 16\n\
         Content-Type: application/offset+octet-stream\n\
         Upload-Checksum: sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=\n\
         Upload-Metadata: id MDAwMDAwMDAtMDAwMC03MDAwLTgwMDAtMDAwMDAwMDAwMDAx\n\n{picture}\
         \n----\nDELETE {{upload}}\nTus-Resumable: 1.0.0\n\n\
         \n----\nOPTIONS /v1/uploads\n\n",
    );
    let put = format!(
        "PUT /v1/images/{{1}}\nContent-Type: image/x-portable-graymap\nContent-Length: 16\n\n\
         {picture}\n----\nPUT /v1/images/{{1}}\n\
         Repr-Digest: sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:\n\n{picture}\
         \n----\nPUT /v1/images/{{2}}\nContent-Length: 99999999999\n\n{picture}\
         \n----\nGET /v1/clock\n\n",
    );
    let losses = "POST /v1/losses\nContent-Type: application/x-protobuf\n\n\u{8}\u{1}\
                  \n----\nPOST /v1/runs/account\n\n\u{a}\u{3}run"
        .to_owned();
    let wrong = "POST /v1/uploads\nTus-Resumable: 0.2.2\n\n\
                 \n----\nPOST /v1/uploads\nTus-Resumable: 1.0.0\nUpload-Length: -1\n\n\
                 \n----\nPOST /v1/uploads\nTus-Resumable: 1.0.0\nUpload-Defer-Length: 1\n\n\
                 \n----\nPATCH /v1/uploads/x\nTus-Resumable: 1.0.0\nX-HTTP-Method-Override: head\n\n"
        .to_owned();
    [
        ("seed-whole", whole),
        ("seed-with-upload", with_upload),
        ("seed-put", put),
        ("seed-losses", losses),
        ("seed-wrong", wrong),
    ]
    .map(|(name, text)| (name, text.into_bytes()))
    .into()
}
