//! The creation of uploads, with and without bytes.

use axum::body::Body;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, Transport};
use shared::receipt::ReceiptStatus;
use shared::settings::units::ByteSize;

use super::{BYTES, Station, encode, id_of};
use crate::intake::sample::{meta, picture};

#[tokio::test]
async fn an_upload_is_created_at_the_id_of_its_image() {
    let station = Station::new();
    let id = ImageId::new();
    let answer = station
        .try_create(10, &[("image_id", &id.to_string())])
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), format!("/v1/uploads/{id}"));
    assert!(!answer.header("upload-expires").is_empty());
    assert_eq!(answer.offset(), None);
    let (first, second) = (station.create(10, &[]).await, station.create(10, &[]).await);
    assert_ne!(id_of(&first), id_of(&second));
}

#[tokio::test]
async fn everything_that_metadata_say_reaches_the_catalogue() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let digest = DigestAlgorithm::Blake3.digest(&bytes);
    let path = station
        .create(
            bytes.len(),
            &[
                ("filename", "../../Grüße.png"),
                ("filetype", "image/png"),
                ("run", "night"),
                ("sequence", "7"),
                ("transmitter", "camera"),
                ("digest", &digest.to_string()),
                ("captured_unix_ns", "1767312000000000000"),
            ],
        )
        .await;
    let answer = station.patch(&path, 0, bytes.clone()).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.receipt().digest, digest);
    let entry = station.rig.entries().await.remove(0);
    assert_eq!(entry.meta.id, id_of(&path));
    assert_eq!(entry.meta.name.as_deref(), Some("../../Grüße.png"));
    assert_eq!(entry.meta.content_type.as_deref(), Some("image/png"));
    assert_eq!((&*entry.meta.run, entry.meta.sequence), ("night", 7));
    assert_eq!(entry.meta.captured.unwrap().0, 1_767_312_000_000_000_000);
    assert_eq!(
        (&*entry.transmitter, entry.transport),
        ("camera", Transport::Rest)
    );
    assert_eq!(
        std::fs::read(&station.rig.files("images")[0]).unwrap(),
        bytes
    );
}

#[tokio::test]
async fn a_creation_with_all_bytes_is_complete_at_once() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let size = bytes.len().to_string();
    let headers = [("upload-length", &*size), ("content-type", BYTES)];
    let answer = station
        .tus("POST", "/v1/uploads", &headers, bytes.clone())
        .await;
    assert_eq!(answer.status, 201);
    let path = answer.header("location");
    assert_eq!(answer.offset(), Some(bytes.len() as u64));
    assert_eq!(
        answer.header("content-location"),
        format!("/v1/images/{}", id_of(path))
    );
    assert_eq!(answer.receipt().status, ReceiptStatus::Stored);
    assert_eq!(answer.header("upload-expires"), "");
    assert_eq!(
        std::fs::read(&station.rig.files("images")[0]).unwrap(),
        bytes
    );
}

#[tokio::test]
async fn a_creation_with_some_bytes_goes_on_from_there() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let size = bytes.len().to_string();
    let headers = [("upload-length", &*size), ("content-type", BYTES)];
    let answer = station
        .tus("POST", "/v1/uploads", &headers, bytes[..100].to_vec())
        .await;
    assert_eq!((answer.status.as_u16(), answer.offset()), (201, Some(100)));
    assert!(!answer.header("upload-expires").is_empty());
    let answer = station
        .patch(answer.header("location"), 100, bytes[100..].to_vec())
        .await;
    assert_eq!(answer.offset(), Some(bytes.len() as u64));
}

#[tokio::test]
async fn a_creation_whose_bytes_are_refused_leaves_nothing() {
    let station = Station::new();
    let size = [("upload-length", "10")];
    let typed = [("upload-length", "10"), ("content-type", "image/png")];
    for headers in [&size[..], &typed] {
        let answer = station
            .tus("POST", "/v1/uploads", headers, "0123456789")
            .await;
        answer.problem(415, "media-type");
    }
    let wrong = [
        ("upload-length", "20"),
        ("content-type", BYTES),
        ("upload-checksum", "md5 XrY7u+Ae7tCTyyK7j1rNww=="),
    ];
    let answer = station
        .tus("POST", "/v1/uploads", &wrong, "0123456789")
        .await;
    answer.problem(460, "chunk-checksum");
    let text = [("upload-length", "10"), ("content-type", BYTES)];
    let answer = station
        .tus("POST", "/v1/uploads", &text, "0123456789")
        .await;
    assert_eq!(answer.problem(422, "not-an-image")["quarantined"], true);
    assert!(station.rig.files("incoming").is_empty());
    assert!(station.rig.files("images").is_empty());
}

#[tokio::test]
async fn a_body_of_no_bytes_has_no_type() {
    let station = Station::new();
    let form = "application/x-www-form-urlencoded";
    let headers = [("upload-length", "10"), ("content-type", form)];
    let answer = station
        .tus("POST", "/v1/uploads", &headers, Body::empty())
        .await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn an_empty_image_is_judged_at_creation() {
    let station = Station::new();
    let id = ImageId::new().to_string();
    let answer = station.try_create(0, &[("image_id", &id)]).await;
    answer.problem(422, "empty");
    assert_eq!(station.head(&format!("/v1/uploads/{id}")).await.status, 410);
}

#[tokio::test]
async fn a_length_is_needed_and_limited() {
    let station = Station::with(|parts| parts.limits.max_image_size = ByteSize(1_000));
    let post = async |headers: &[(&str, &str)]| {
        station
            .tus("POST", "/v1/uploads", headers, Body::empty())
            .await
    };
    post(&[]).await.problem(400, "invalid");
    for length in ["", "-1", "+1", "1.5", "ten", "0x10"] {
        post(&[("upload-length", length)])
            .await
            .problem(400, "invalid");
    }
    post(&[("upload-length", "1"), ("upload-length", "2")])
        .await
        .problem(400, "invalid");
    for length in ["1001", "18446744073709551616"] {
        let answer = post(&[("upload-length", length)]).await;
        answer.problem(413, "limit");
        assert_eq!(answer.header("tus-max-size"), "1000");
    }
    assert_eq!(post(&[("upload-length", "1000")]).await.status, 201);
}

#[tokio::test]
async fn extensions_that_are_not_offered_are_refused_by_name() {
    let station = Station::new();
    for header in [("upload-defer-length", "1"), ("upload-concat", "partial")] {
        let headers = [("upload-length", "10"), header];
        let answer = station
            .tus("POST", "/v1/uploads", &headers, Body::empty())
            .await;
        let problem = answer.problem(400, "invalid");
        let detail = problem["detail"].as_str().unwrap().to_lowercase();
        assert!(
            detail.contains(header.0) && detail.contains("not offered"),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn metadata_are_checked_and_limited() {
    let station = Station::new();
    for (metadata, status, key) in [
        ("filename !".to_owned(), 400, "invalid"),
        (encode(&[("image_id", "../../x")]), 400, "invalid"),
        (
            encode(&[("image_id", "00000000-0000-0000-0000-000000000000")]),
            400,
            "invalid",
        ),
        // What is known is limited as it is for everybody, all of it to what that can take.
        (encode(&[("filename", &"x".repeat(1_100))]), 413, "limit"),
        (encode(&[("unknown", &"x".repeat(2_100))]), 413, "limit"),
    ] {
        let headers = [("upload-length", "10"), ("upload-metadata", &*metadata)];
        let answer = station
            .tus("POST", "/v1/uploads", &headers, Body::empty())
            .await;
        answer.problem(status, key);
    }
}

#[tokio::test]
async fn an_upload_of_a_stored_image_is_complete_at_once() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let meta = meta(&bytes);
    let digest = station.rig.send(meta.clone(), &bytes).await.unwrap().digest;
    let metadata = [
        ("image_id", &*meta.id.to_string()),
        ("digest", &*digest.to_string()),
    ];
    let create = async || {
        let answer = station.try_create(bytes.len(), &metadata).await;
        assert_eq!(
            (answer.status.as_u16(), answer.offset()),
            (201, Some(meta.size))
        );
        assert_eq!(answer.receipt().status, ReceiptStatus::Duplicate);
        answer.header("location").to_owned()
    };
    // Clients that ask, clients that send from the first byte, and those that send nothing.
    let path = create().await;
    let answer = station.head(&path).await;
    assert_eq!(
        (answer.status.as_u16(), answer.offset()),
        (200, Some(meta.size))
    );
    let answer = station.patch(&path, 0, bytes[..50].to_vec()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.offset()),
        (204, Some(meta.size))
    );
    assert_eq!(answer.receipt().status, ReceiptStatus::Duplicate);
    let answer = station.patch(&path, bytes.len(), Body::empty()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.offset()),
        (204, Some(meta.size))
    );
    station
        .patch(&path, 50, bytes[50..].to_vec())
        .await
        .problem(409, "offset");
    assert_eq!(station.rig.entries().await.len(), 1);
}

#[tokio::test]
async fn an_upload_with_the_id_of_another_image_is_a_conflict() {
    let station = Station::new();
    let (bytes, other) = (picture(20, 1), picture(20, 2));
    let meta = meta(&bytes);
    station.rig.send(meta.clone(), &bytes).await.unwrap();
    let (id, digest) = (meta.id.to_string(), DigestAlgorithm::Xxh3.digest(&other));
    let metadata = [("image_id", &*id), ("digest", &*digest.to_string())];
    let answer = station.try_create(other.len(), &metadata).await;
    answer.problem(409, "conflict");
    // Without a digest only the bytes can tell.
    let path = station.create(other.len(), &[("image_id", &id)]).await;
    station
        .patch(&path, 0, other.clone())
        .await
        .problem(409, "conflict");
    assert_eq!(station.head(&path).await.status, 410);
    assert_eq!(
        std::fs::read(&station.rig.files("images")[0]).unwrap(),
        bytes
    );
}

#[tokio::test]
async fn creating_an_upload_again_begins_it_anew() {
    let station = Station::new();
    let bytes = picture(20, 1);
    let id = ImageId::new().to_string();
    let path = station.create(bytes.len(), &[("image_id", &id)]).await;
    station.patch(&path, 0, bytes[..100].to_vec()).await;
    assert_eq!(
        station.create(bytes.len(), &[("image_id", &id)]).await,
        path
    );
    assert_eq!(station.head(&path).await.offset(), Some(0));
    let answer = station.patch(&path, 0, bytes.clone()).await;
    assert_eq!(answer.offset(), Some(bytes.len() as u64));
}
