//! Uploads that end before they are complete.

use axum::body::Body;

use super::{Station, id_of};
use crate::intake::sample::picture;

#[tokio::test]
async fn a_terminated_upload_is_gone() {
    let station = Station::new();
    let path = station.create(10, &[]).await;
    station.patch(&path, 0, "12345").await;
    let answer = station.tus("DELETE", &path, &[], Body::empty()).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("tus-resumable"), "1.0.0");
    assert!(station.rig.files("incoming").is_empty());
    assert_eq!(station.head(&path).await.status, 410);
    station.patch(&path, 5, "67890").await.problem(410, "gone");
    let answer = station.tus("DELETE", &path, &[], Body::empty()).await;
    answer.problem(410, "gone");
}

#[tokio::test]
async fn terminating_a_complete_upload_keeps_the_image() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let path = station.create(bytes.len(), &[]).await;
    station.patch(&path, 0, bytes.clone()).await;
    let answer = station.tus("DELETE", &path, &[], Body::empty()).await;
    assert_eq!(answer.status, 204);
    assert_eq!(station.head(&path).await.status, 410);
    assert_eq!(
        std::fs::read(&station.rig.files("images")[0]).unwrap(),
        bytes
    );
}

#[tokio::test]
async fn an_upload_that_is_no_longer_held_is_gone() {
    let station = Station::new();
    let path = station.create(10, &[]).await;
    // As when it expires, or gives way to newer ones.
    assert!(station.rig.intake.forget(id_of(&path)).await);
    assert_eq!(station.head(&path).await.status, 410);
    let answer = station.patch(&path, 0, "x").await;
    let problem = answer.problem(410, "gone");
    assert!(problem["detail"].as_str().unwrap().contains("expired"));
    let answer = station.tus("DELETE", &path, &[], Body::empty()).await;
    answer.problem(410, "gone");
}
