//! Requests whose bodies do not come to their end.

use std::io;
use std::time::Duration;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Station, id_of};
use crate::intake::sample::picture;

type Pieces = mpsc::Sender<io::Result<Bytes>>;

/// A body whose pieces are still to come.
fn open() -> (Pieces, Body) {
    let (pieces, body) = mpsc::channel(16);
    (pieces, Body::from_stream(ReceiverStream::new(body)))
}

/// A body that breaks after these bytes.
fn broken(bytes: &[u8]) -> Body {
    let pieces = [
        Ok(Bytes::copy_from_slice(bytes)),
        Err(io::Error::from(io::ErrorKind::ConnectionReset)),
    ];
    Body::from_stream(futures_util::stream::iter(pieces))
}

#[tokio::test]
async fn what_came_before_the_connection_broke_is_kept() {
    let station = Station::new();
    let bytes = picture(300, 1);
    let path = station.create(bytes.len(), &[]).await;
    let answer = station.patch(&path, 0, broken(&bytes[..150_000])).await;
    answer.problem(503, "unavailable");
    assert_eq!(station.head(&path).await.offset(), Some(150_000));
    assert_eq!(station.rig.intake.held(id_of(&path)).await, Some(150_000));
    let answer = station
        .patch(&path, 150_000, bytes[150_000..].to_vec())
        .await;
    assert_eq!(answer.offset(), Some(bytes.len() as u64));
    assert_eq!(
        std::fs::read(&station.rig.files("images")[0]).unwrap(),
        bytes
    );
}

#[tokio::test]
async fn with_a_sum_only_whole_requests_count() {
    let station = Station::new();
    let bytes = picture(300, 1);
    let path = station.create(bytes.len(), &[]).await;
    station.patch(&path, 0, bytes[..100].to_vec()).await;
    // The sum of what came before the break is right, but nobody knows whether that was all.
    for sum in [
        Sha1::digest(&bytes[100..200_000]),
        Sha1::digest(&bytes[100..]),
    ] {
        let sum = format!("sha1 {}", STANDARD.encode(sum));
        let headers = [("upload-checksum", &*sum)];
        let body = broken(&bytes[100..200_000]);
        let answer = station.patch_with(&path, 100, &headers, body).await;
        answer.problem(503, "unavailable");
        assert_eq!(station.head(&path).await.offset(), Some(100));
    }
}

#[tokio::test]
async fn fewer_bytes_than_the_request_declares_are_a_break() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    let headers = [("content-length", "100")];
    let answer = station
        .patch_with(&path, 0, &headers, bytes[..99].to_vec())
        .await;
    answer.problem(503, "unavailable");
    assert_eq!(station.head(&path).await.offset(), Some(99));
}

#[tokio::test]
async fn an_image_whose_bytes_all_came_is_finished_although_the_connection_broke() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    station.patch(&path, 0, broken(&bytes)).await;
    assert_eq!(station.head(&path).await.offset(), Some(bytes.len() as u64));
    assert_eq!(station.rig.entries().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_does_not_hold_an_upload() {
    let station = Station::with(|parts| parts.limits.idle_timeout = Duration::from_secs(9));
    let path = station.create(10, &[]).await;
    let (pieces, body) = open();
    pieces.send(Ok(Bytes::from_static(b"123"))).await.unwrap();
    let answer = station.patch(&path, 0, body).await;
    let problem = answer.problem(503, "unavailable");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("9s") && detail.contains("byte 3"),
        "{detail}"
    );
    assert_eq!(answer.header("connection"), "close");
    assert_eq!(station.head(&path).await.offset(), Some(3));
}

#[tokio::test]
async fn a_newer_request_takes_over_from_one_that_is_still_open() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    let (pieces, body) = open();
    let mut older = Box::pin(station.patch(&path, 0, body));
    assert!(futures_util::poll!(&mut older).is_pending());
    pieces
        .send(Ok(Bytes::copy_from_slice(&bytes[..100])))
        .await
        .unwrap();
    // Until the older request has taken it.
    pieces.reserve_many(pieces.max_capacity()).await.unwrap();
    // It is told the offset only when the older one has let go.
    let answer = station.head(&path).await;
    assert_eq!(answer.offset(), Some(100));
    let answer = older.await;
    answer.problem(409, "superseded");
    assert_eq!(answer.header("connection"), "close");
    let answer = station.patch(&path, 100, bytes[100..].to_vec()).await;
    assert_eq!(answer.offset(), Some(bytes.len() as u64));
}

#[tokio::test]
async fn a_request_that_took_over_must_know_the_offset_that_was_left() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    let (pieces, body) = open();
    let mut older = Box::pin(station.patch(&path, 0, body));
    assert!(futures_util::poll!(&mut older).is_pending());
    pieces
        .send(Ok(Bytes::copy_from_slice(&bytes[..100])))
        .await
        .unwrap();
    pieces.reserve_many(pieces.max_capacity()).await.unwrap();
    let answer = station.patch(&path, 0, bytes.clone()).await;
    assert_eq!(answer.problem(409, "offset")["offset"], 100);
    older.await.problem(409, "superseded");
}

#[tokio::test]
async fn an_open_request_with_a_sum_leaves_nothing_to_the_one_that_takes_over() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    let (pieces, body) = open();
    let headers = [("upload-checksum", "md5 XrY7u+Ae7tCTyyK7j1rNww==")];
    let mut older = Box::pin(station.patch_with(&path, 0, &headers, body));
    assert!(futures_util::poll!(&mut older).is_pending());
    pieces
        .send(Ok(Bytes::copy_from_slice(&bytes[..100])))
        .await
        .unwrap();
    pieces.reserve_many(pieces.max_capacity()).await.unwrap();
    let answer = station.patch(&path, 0, bytes.clone()).await;
    assert_eq!(answer.offset(), Some(bytes.len() as u64));
    older.await.problem(409, "superseded");
}

#[tokio::test]
async fn a_handler_that_is_dropped_leaves_the_upload_to_the_next_request() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    let (pieces, body) = open();
    let mut older = Box::pin(station.patch(&path, 0, body));
    assert!(futures_util::poll!(&mut older).is_pending());
    drop(older);
    pieces
        .send(Ok(Bytes::copy_from_slice(&bytes[..100])))
        .await
        .unwrap();
    drop(pieces);
    // As whoever stops the receiver does.
    station.tasks.close();
    station.tasks.wait().await;
    assert_eq!(station.rig.intake.held(id_of(&path)).await, Some(100));
    assert_eq!(station.head(&path).await.offset(), Some(100));
}

#[tokio::test]
async fn a_newer_upload_over_another_transport_ends_an_open_request() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    let (pieces, body) = open();
    let mut older = Box::pin(station.patch(&path, 0, body));
    assert!(futures_util::poll!(&mut older).is_pending());
    let meta = shared::image::ImageMeta::new(id_of(&path), bytes.len() as u64);
    let receipt = station.rig.send(meta, &bytes).await.unwrap();
    pieces
        .send(Ok(Bytes::copy_from_slice(&bytes)))
        .await
        .unwrap();
    drop(pieces);
    older.await.problem(409, "superseded");
    let answer = station.head(&path).await;
    assert_eq!(answer.offset(), Some(receipt.size));
    assert_eq!(station.rig.entries().await.len(), 1);
}
