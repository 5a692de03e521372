//! Bytes of uploads, in one or many requests.

use axum::body::Body;
use sha2::{Digest as _, Sha512};
use shared::receipt::RejectReason;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{BYTES, Station, id_of};
use crate::intake::sample::picture;

#[tokio::test]
async fn an_image_comes_in_pieces_and_the_last_one_brings_the_receipt() {
    let station = Station::new();
    let bytes = picture(300, 1);
    let path = station.create(bytes.len(), &[("filename", "a.png")]).await;
    let mut offset = 0;
    for piece in bytes.chunks(100_000) {
        let answer = station.patch(&path, offset, piece.to_vec()).await;
        offset += piece.len();
        assert_eq!(
            (answer.status.as_u16(), answer.offset()),
            (204, Some(offset as u64))
        );
        let last = offset == bytes.len();
        assert_eq!(answer.header("upload-expires").is_empty(), last);
        assert_eq!(answer.header("pantelegraph-receipt").is_empty(), !last);
        if !last {
            assert_eq!(station.head(&path).await.offset(), Some(offset as u64));
        }
    }
    let answer = station.head(&path).await;
    let id = id_of(&path);
    assert_eq!(
        answer.header("upload-offset"),
        answer.header("upload-length")
    );
    assert_eq!(
        answer.header("content-location"),
        format!("/v1/images/{id}")
    );
    let receipt = answer.receipt();
    assert_eq!((receipt.image_id, receipt.size), (id, bytes.len() as u64));
    // Its name is not ASCII; the header is.
    assert_eq!(receipt.receiver, "Empfänger");
    assert!(
        answer
            .header("pantelegraph-receipt")
            .contains("Empf\\u00e4nger")
    );
    assert_eq!(
        std::fs::read(&station.rig.files("images")[0]).unwrap(),
        bytes
    );
}

#[tokio::test]
async fn head_tells_of_a_stored_image_after_the_upload_is_forgotten() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    station.patch(&path, 0, bytes.clone()).await;
    // As after a restart.
    let router = super::with_problems(super::super::routes(
        station.rig.intake.clone(),
        station.tasks.clone(),
    ))
    .layer(axum::Extension(shared::security::access::Caller::Anyone));
    let station = Station { router, ..station };
    let answer = station.head(&path).await;
    assert_eq!(
        (answer.status.as_u16(), answer.offset()),
        (200, Some(bytes.len() as u64))
    );
    assert_eq!(answer.receipt().image_id, id_of(&path));
}

#[tokio::test]
async fn an_offset_that_is_not_held_is_a_conflict_and_changes_nothing() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    station.patch(&path, 0, bytes[..100].to_vec()).await;
    for offset in [0, 99, 101] {
        let answer = station.patch(&path, offset, bytes[offset..].to_vec()).await;
        assert_eq!(answer.problem(409, "offset")["offset"], 100);
    }
    assert_eq!(station.head(&path).await.offset(), Some(100));
    station.patch(&path, 100, bytes[100..].to_vec()).await;
    // A request that is sent again because its answer was lost.
    station
        .patch(&path, 100, bytes[100..].to_vec())
        .await
        .problem(409, "offset");
    assert_eq!(station.head(&path).await.offset(), Some(bytes.len() as u64));
}

#[tokio::test]
async fn a_body_of_another_type_is_refused() {
    let station = Station::new();
    let path = station.create(10, &[]).await;
    for content_type in [None, Some("image/png"), Some("application/octet-stream")] {
        let mut headers = vec![("upload-offset", "0")];
        headers.extend(content_type.map(|content_type| ("content-type", content_type)));
        let answer = station.tus("PATCH", &path, &headers, "x").await;
        answer.problem(415, "media-type");
    }
    let gzip = [("content-encoding", "gzip")];
    let answer = station.patch_with(&path, 0, &gzip, "x").await;
    answer.problem(415, "media-type");
    assert_eq!(station.head(&path).await.offset(), Some(0));
}

#[tokio::test]
async fn an_offset_is_needed() {
    let station = Station::new();
    let path = station.create(10, &[]).await;
    let answer = station
        .tus("PATCH", &path, &[("content-type", BYTES)], "x")
        .await;
    answer.problem(400, "invalid");
    let headers = [("content-type", BYTES), ("upload-offset", "-1")];
    station
        .tus("PATCH", &path, &headers, "x")
        .await
        .problem(400, "invalid");
}

#[tokio::test]
async fn more_bytes_than_declared_are_refused_before_they_come_where_their_number_is_known() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    station.patch(&path, 0, bytes[..100].to_vec()).await;
    let length = bytes.len().to_string();
    let answer = station
        .patch_with(&path, 100, &[("content-length", &length)], bytes.clone())
        .await;
    answer.problem(400, "overflow");
    assert_eq!(station.head(&path).await.offset(), Some(100));
    // Else nothing of that request counts, and what came before it does.
    let answer = station.patch(&path, 100, bytes.clone()).await;
    answer.problem(400, "overflow");
    assert_eq!(station.head(&path).await.offset(), Some(100));
    let answer = station.patch(&path, 100, bytes[100..].to_vec()).await;
    assert_eq!(answer.offset(), Some(bytes.len() as u64));
    assert_eq!(
        std::fs::read(&station.rig.files("images")[0]).unwrap(),
        bytes
    );
}

#[tokio::test]
async fn a_sum_is_checked_before_anything_counts() {
    let station = Station::new();
    let bytes = picture(900, 1);
    assert!(
        bytes.len() > 2 << 20,
        "more than the store gathers in memory"
    );
    let path = station.create(bytes.len(), &[]).await;
    station.patch(&path, 0, bytes[..100].to_vec()).await;
    let sum = format!("sha512 {}", STANDARD.encode(Sha512::digest(&bytes[100..])));
    let sum = [("upload-checksum", &*sum)];
    let mut wrong = bytes[100..].to_vec();
    wrong[1_000_000] ^= 1;
    let answer = station.patch_with(&path, 100, &sum, wrong).await;
    let problem = answer.problem(460, "chunk-checksum");
    assert_eq!(problem["retryable"], true);
    assert_eq!(station.head(&path).await.offset(), Some(100));
    let answer = station
        .patch_with(&path, 100, &sum, bytes[100..].to_vec())
        .await;
    assert_eq!(answer.offset(), Some(bytes.len() as u64));
    assert_eq!(
        std::fs::read(&station.rig.files("images")[0]).unwrap(),
        bytes
    );
}

#[tokio::test]
async fn a_sum_that_cannot_be_checked_is_refused() {
    let station = Station::new();
    let path = station.create(10, &[]).await;
    for sum in ["crc32 AAAAAA==", "sha1", "sha1 AAAA", "md5 !"] {
        let answer = station
            .patch_with(&path, 0, &[("upload-checksum", sum)], "x")
            .await;
        answer.problem(400, "invalid");
    }
    assert_eq!(station.head(&path).await.offset(), Some(0));
}

#[tokio::test]
async fn an_upload_that_is_refused_at_its_end_is_gone() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let other = shared::digest::DigestAlgorithm::Xxh3
        .digest(b"other")
        .to_string();
    for (metadata, bytes, status, reason) in [
        (
            ("digest", &*other),
            bytes.clone(),
            400,
            RejectReason::DigestMismatch,
        ),
        (
            ("filetype", "image/jpeg"),
            bytes.clone(),
            422,
            RejectReason::Mislabelled,
        ),
        (
            ("run", "x"),
            bytes[..bytes.len() - 9].to_vec(),
            422,
            RejectReason::TruncatedImage,
        ),
    ] {
        let path = station.create(bytes.len(), &[metadata]).await;
        let answer = station.patch(&path, 0, bytes).await;
        let problem = answer.problem(status, reason.key());
        assert_eq!(problem["image_id"], id_of(&path).to_string());
        assert_eq!(station.head(&path).await.status, 410);
        station.patch(&path, 0, "x").await.problem(410, "gone");
    }
    assert!(station.rig.files("images").is_empty());
}

#[tokio::test]
async fn a_request_without_bytes_changes_nothing() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    let answer = station.patch(&path, 0, Body::empty()).await;
    assert_eq!((answer.status.as_u16(), answer.offset()), (204, Some(0)));
    let answer = station.patch(&path, 0, bytes.clone()).await;
    assert_eq!(answer.offset(), Some(bytes.len() as u64));
}
