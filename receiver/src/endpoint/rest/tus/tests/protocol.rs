//! Versions, methods, headers.

use axum::body::Body;

use shared::receipt::RejectReason;

use super::{BYTES, Station};
use crate::intake::sample::{picture, push};

#[tokio::test]
async fn options_tell_what_is_offered_to_everybody() {
    let station = Station::new();
    for path in ["/v1/uploads", "/v1/uploads/", "/v1/uploads/anything"] {
        let answer = station.ask("OPTIONS", path, &[], Body::empty()).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("tus-resumable"), "1.0.0");
        assert_eq!(answer.header("tus-version"), "1.0.0");
        assert_eq!(answer.header("tus-max-size"), (4 << 20).to_string());
        let algorithms = "sha1,sha256,sha512,md5,crc32c";
        assert_eq!(answer.header("tus-checksum-algorithm"), algorithms);
        let extensions = "creation,creation-with-upload,checksum,termination,expiration";
        assert_eq!(answer.header("tus-extension"), extensions);
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn a_request_of_another_version_is_refused_and_not_processed() {
    let station = Station::new();
    let path = station.create(10, &[]).await;
    for (method, path) in [
        ("POST", "/v1/uploads"),
        ("HEAD", &path),
        ("PATCH", &path),
        ("DELETE", &path),
    ] {
        for version in [None, Some(("tus-resumable", "0.2.2"))] {
            let mut headers = vec![
                ("upload-length", "10"),
                ("upload-offset", "0"),
                ("content-type", BYTES),
            ];
            headers.extend(version);
            let answer = station.ask(method, path, &headers, "x").await;
            assert_eq!(answer.status, 412, "{method}");
            assert_eq!(answer.header("tus-version"), "1.0.0");
            if method != "HEAD" {
                answer.problem(412, "tus-version");
            }
        }
    }
    assert_eq!(station.head(&path).await.offset(), Some(0));
}

#[tokio::test]
async fn head_tells_offset_length_metadata_and_expiry() {
    let station = Station::new();
    let metadata = [("filename", "Grüße.png"), ("unknown", "kept")];
    let path = station.create(10, &metadata).await;
    let answer = station.head(&path).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("tus-resumable"), "1.0.0");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("upload-offset"), "0");
    assert_eq!(answer.header("upload-length"), "10");
    assert_eq!(answer.header("upload-metadata"), super::encode(&metadata));
    let expires = answer.header("upload-expires");
    let expires = jiff::fmt::rfc2822::parse(expires).unwrap().timestamp();
    let left = expires.as_second() - jiff::Timestamp::now().as_second();
    assert!((3_590..=3_600).contains(&left), "{left}");
    assert!(answer.header("upload-expires").ends_with(" GMT"));
    assert!(answer.body.is_empty());
}

#[tokio::test]
async fn unknown_uploads_are_not_found() {
    let station = Station::new();
    let unknown = "/v1/uploads/01932f3e-7b5c-7c3a-9d4e-2f1a6b8c0d1e";
    for path in [
        unknown,
        "/v1/uploads/..%2F..%2Fetc%2Fpasswd",
        "/v1/uploads/x",
    ] {
        let answer = station.head(path).await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.header("tus-resumable"), "1.0.0");
        assert_eq!(answer.offset(), None);
        station.patch(path, 0, "x").await.problem(404, "not-found");
        let answer = station.tus("DELETE", path, &[], Body::empty()).await;
        answer.problem(404, "not-found");
    }
}

#[tokio::test]
async fn methods_that_say_nothing_here_are_refused_with_those_that_do() {
    let station = Station::new();
    let answer = station.tus("GET", "/v1/uploads", &[], Body::empty()).await;
    answer.problem(405, "method");
    assert_eq!(answer.header("allow"), "OPTIONS, POST");
    let path = station.create(10, &[]).await;
    for method in ["GET", "POST", "PUT"] {
        let answer = station.tus(method, &path, &[], Body::empty()).await;
        answer.problem(405, "method");
        assert_eq!(answer.header("allow"), "OPTIONS, HEAD, PATCH, DELETE");
    }
}

#[tokio::test]
async fn a_method_may_stand_in_a_header() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    let headers = [
        ("x-http-method-override", "PATCH"),
        ("upload-offset", "0"),
        ("content-type", BYTES),
    ];
    let answer = station
        .tus("POST", &path, &headers, bytes[..10].to_vec())
        .await;
    assert_eq!((answer.status.as_u16(), answer.offset()), (204, Some(10)));
    let headers = [("x-http-method-override", "head")];
    let answer = station.tus("GET", &path, &headers, Body::empty()).await;
    assert_eq!((answer.status.as_u16(), answer.offset()), (200, Some(10)));
    let headers = [("x-http-method-override", "DELETE")];
    let answer = station.tus("POST", &path, &headers, Body::empty()).await;
    assert_eq!(answer.status, 204);
    let headers = [("x-http-method-override", "no method")];
    let answer = station.tus("POST", &path, &headers, Body::empty()).await;
    answer.problem(400, "invalid");
}

#[tokio::test]
async fn an_upload_that_another_connection_sends_is_taken_over() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let meta = crate::intake::sample::meta(&bytes);
    let path = format!("/v1/uploads/{}", meta.id);
    let mut upload = station.rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    // A wrong offset takes it from nobody.
    let answer = station.patch(&path, 299, bytes.clone()).await;
    assert_eq!(answer.problem(409, "offset")["offset"], 300);
    push(&mut upload, &bytes[300..310]).await.unwrap();
    let answer = station.head(&path).await;
    assert_eq!((answer.status.as_u16(), answer.offset()), (200, Some(310)));
    let reject = push(&mut upload, &bytes[310..]).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Superseded);
    // Its end touches nothing of what was taken.
    station.rig.intake.park(upload).await;
    let answer = station.patch(&path, 310, bytes[310..].to_vec()).await;
    assert_eq!(answer.offset(), Some(meta.size));
    assert_eq!(station.rig.entries().await.len(), 1);
}

#[tokio::test]
async fn a_termination_ends_an_upload_whoever_has_it() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let meta = crate::intake::sample::meta(&bytes);
    let path = format!("/v1/uploads/{}", meta.id);
    let mut upload = station.rig.upload(meta).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    let answer = station.tus("DELETE", &path, &[], Body::empty()).await;
    assert_eq!(answer.status, 204);
    assert!(push(&mut upload, &bytes[300..]).await.is_err());
    drop(upload);
    station.rig.assert_empty();
}

#[tokio::test]
async fn what_a_session_left_is_gone_on_with_and_the_other_way_round() {
    let station = Station::new();
    let intake = &station.rig.intake;
    let bytes = picture(20, 1);
    let meta = crate::intake::sample::meta(&bytes);
    let path = format!("/v1/uploads/{}", meta.id);
    let mut upload = station.rig.upload(meta.clone()).await;
    push(&mut upload, &bytes[..300]).await.unwrap();
    intake.park(upload).await;
    let answer = station.head(&path).await;
    assert_eq!(answer.offset(), intake.held(meta.id).await);
    assert_eq!(answer.header("upload-length"), bytes.len().to_string());

    let answer = station.patch(&path, 300, bytes[300..400].to_vec()).await;
    assert_eq!(answer.offset(), Some(400));
    assert_eq!(intake.held(meta.id).await, Some(400));

    let mut upload = station.rig.upload_from(meta.clone(), 400).await;
    push(&mut upload, &bytes[400..]).await.unwrap();
    // All of it is there, but its sender goes away before it says so.
    intake.park(upload).await;
    let answer = station.head(&path).await;
    assert_eq!(answer.offset(), Some(meta.size));
    assert_eq!(answer.receipt().size, meta.size);
    assert_eq!(station.rig.entries().await.len(), 1);
}
