//! What HTTP clients do wrong, and what few of them do right.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use pantelegraph_tests::http::{Answer, RawHttp};
use pantelegraph_tests::pictures::{Picture, jpeg, large, png};
use pantelegraph_tests::station::Station;
use sha2::Digest as _;
use shared::digest::DigestAlgorithm;
use shared::image::ImageId;
use shared::wire::{HEADER_SUM, request_sum};

/// Sends a proper image; its id.
async fn good(raw: &mut RawHttp) -> ImageId {
    let (id, picture) = (ImageId::new(), png(1));
    let answer = put(raw, &id.to_string(), "", &picture).await;
    assert_eq!(
        answer.status, 201,
        "a good image on the same connection: {answer:?}"
    );
    id
}

async fn put(raw: &mut RawHttp, id: &str, headers: &str, picture: &Picture) -> Answer {
    let length = picture.bytes.len();
    let headers = format!(
        "Content-Length: {length}\r\nContent-Type: {}\r\n{headers}",
        picture.media_type
    );
    raw.write_put(id, &headers).await;
    raw.write(&picture.bytes).await;
    raw.answer().await.expect("an answer")
}

/// Checks a problem document.
fn problem(answer: &Answer, status: u16, reason: &str, words: &[&str]) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let document = answer.json();
    assert_eq!(document["status"], status);
    assert_eq!(
        document["type"],
        format!("urn:pantelegraph:problem:{reason}")
    );
    let detail = document["detail"].as_str().unwrap();
    for word in words {
        assert!(detail.contains(word), "{word:?} is not in {detail:?}");
    }
}

fn member(name: &str, digest: &[u8]) -> String {
    format!("Repr-Digest: {name}=:{}:\r\n", STANDARD.encode(digest))
}

#[tokio::test]
async fn a_wrong_repr_digest_of_any_kind_is_refused_and_a_right_one_taken() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let picture = jpeg(1);
    let digests = |bytes: &[u8]| {
        [
            member("sha-256", &sha2::Sha256::digest(bytes)),
            member("sha-512", &sha2::Sha512::digest(bytes)),
            member("xxh3-128", DigestAlgorithm::Xxh3.digest(bytes).as_bytes()),
            member("blake3", DigestAlgorithm::Blake3.digest(bytes).as_bytes()),
        ]
    };
    let mut stored = Vec::new();
    for (wrong, right) in digests(b"another image")
        .iter()
        .zip(digests(&picture.bytes))
    {
        let id = ImageId::new();
        let answer = put(&mut raw, &id.to_string(), wrong, &picture).await;
        problem(&answer, 400, "digest-mismatch", &["declared"]);
        assert_eq!(answer.json()["retryable"], true);
        station.shows_only(&stored).await;
        let answer = put(&mut raw, &id.to_string(), &right, &picture).await;
        assert_eq!(answer.status, 201, "{right}: {answer:?}");
        stored.push(id);
    }
    station.shows_only(&stored).await;
}

#[tokio::test]
async fn a_right_digest_beside_a_wrong_one_does_not_help() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let picture = jpeg(1);
    let right = member("sha-256", &sha2::Sha256::digest(&picture.bytes));
    let wrong = member("blake3", DigestAlgorithm::Blake3.digest(b"x").as_bytes());
    for headers in [format!("{right}{wrong}"), format!("{wrong}{right}")] {
        let answer = put(&mut raw, &ImageId::new().to_string(), &headers, &picture).await;
        problem(&answer, 400, "digest-mismatch", &[]);
    }
    let id = good(&mut raw).await;
    station.shows_only(&[id]).await;
}

#[tokio::test]
async fn malformed_headers_are_refused_by_name() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    for (header, word) in [
        ("Repr-Digest: sha-256=:!!:", "repr-digest"),
        ("Repr-Digest: sha-256=:AAAA:", "32 bytes"),
        ("Repr-Digest: nonsense", "RFC 9530"),
        ("Content-Encoding: gzip", "Content-Encoding"),
        ("Content-Range: bytes 0-9/100", "/v1/uploads"),
        ("Pantelegraph-Sequence: first", "pantelegraph-sequence"),
        ("Pantelegraph-Captured: yesterday", "pantelegraph-captured"),
        ("Pantelegraph-Name: %ff%fe", "pantelegraph-name"),
        ("Pantelegraph-Clock: offset=late", "pantelegraph-clock"),
    ] {
        let id = ImageId::new().to_string();
        let answer = put(&mut raw, &id, &format!("{header}\r\n"), &jpeg(1)).await;
        problem(&answer, 400, "invalid", &[word]);
        assert_eq!(answer.json()["image_id"], id);
    }
    let id = good(&mut raw).await;
    station.shows_only(&[id]).await;
}

#[tokio::test]
async fn an_id_that_is_none_is_refused_and_never_a_path() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    for id in [
        "nope",
        "..%2f..%2f..%2ftmp%2fx.jpg",
        "00000000-0000-0000-0000-000000000000",
        "01932f3e7b5c7c3a9d4e2f1a6b8c0d1e",
        "%ff",
    ] {
        let answer = put(&mut raw, id, "", &jpeg(1)).await;
        assert_eq!(answer.status, 400, "{id}: {answer:?}");
    }
    for path in [
        "/v1/images/../../catalog.sqlite",
        "/v1/images/..%2f..%2fcatalog.sqlite",
    ] {
        let answer = station.get(path).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
    }
    let id = good(&mut raw).await;
    station.shows_only(&[id]).await;
}

#[tokio::test]
async fn too_much_metadata_is_refused_by_name() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let name = format!("Pantelegraph-Name: {}\r\n", "n".repeat(20_000));
    let answer = put(&mut raw, &ImageId::new().to_string(), &name, &jpeg(1)).await;
    problem(&answer, 413, "limit", &["RECEIVER_MAX_METADATA"]);
    let id = good(&mut raw).await;
    station.shows_only(&[id]).await;
}

#[tokio::test]
async fn an_image_without_a_declared_length_is_stored() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let (id, picture) = (ImageId::new(), jpeg(2));
    raw.write_put(&id.to_string(), "Transfer-Encoding: chunked\r\n")
        .await;
    for piece in picture.bytes.chunks(333) {
        raw.write(format!("{:x}\r\n", piece.len())).await;
        raw.write(piece).await;
        raw.write("\r\n").await;
    }
    raw.write("0\r\n\r\n").await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["size"], picture.bytes.len());
    let next = good(&mut raw).await;
    station.shows_only(&[id, next]).await;
    assert_eq!(
        station.get(&format!("/v1/images/{id}")).await.body,
        picture.bytes
    );
}

#[tokio::test]
async fn an_image_without_a_declared_length_keeps_the_limit() {
    let station = Station::start(&["--max-image-size", "4KiB"]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let picture = large(200_000, 1);
    raw.write_put(
        &ImageId::new().to_string(),
        "Transfer-Encoding: chunked\r\n",
    )
    .await;
    for piece in picture.bytes.chunks(50_000) {
        raw.write(format!("{:x}\r\n", piece.len())).await;
        raw.write(piece).await;
        raw.write("\r\n").await;
    }
    raw.write("0\r\n\r\n").await;
    let answer = raw.answer().await.unwrap();
    problem(&answer, 413, "limit", &["RECEIVER_MAX_IMAGE_SIZE", "4KiB"]);
    let id = good(&mut raw).await;
    station.shows_only(&[id]).await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let (id, picture) = (ImageId::new(), jpeg(3));
    let headers = format!(
        "Content-Length: {}\r\nExpect: 100-continue\r\n",
        picture.bytes.len()
    );
    raw.write_put(&id.to_string(), &headers).await;
    assert_eq!(raw.answer().await.unwrap().status, 100);
    raw.write(&picture.bytes).await;
    assert_eq!(raw.answer().await.unwrap().status, 201);
    let next = good(&mut raw).await;
    station.shows_only(&[id, next]).await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_before_it_sends() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let headers = "Content-Length: 1000000000\r\nExpect: 100-continue\r\n";
    raw.write_put(&ImageId::new().to_string(), headers).await;
    let answer = raw.answer().await.unwrap();
    problem(&answer, 413, "limit", &["RECEIVER_MAX_IMAGE_SIZE"]);
    station.shows_only(&[]).await;
}

#[tokio::test]
async fn a_request_with_the_sum_of_another_is_refused_and_the_connection_goes_on() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let (id, picture) = (ImageId::new(), large(9_000_000, 5));
    let length = picture.bytes.len();
    let path = format!("/v1/images/{id}");
    let mut headers = HeaderMap::new();
    let sums = ["gooe", "good"].map(|run| {
        headers.insert("pantelegraph-run", HeaderValue::from_static(run));
        request_sum("PUT", &path, &headers, b"")
    });
    for (sum, status) in sums.into_iter().zip([400, 201]) {
        let headers = format!(
            "Content-Length: {length}\r\nPantelegraph-Run: good\r\nPantelegraph-Sum: {sum:08x}\r\n"
        );
        raw.write_put(&id.to_string(), &headers).await;
        raw.write(&picture.bytes).await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 400 {
            problem(&answer, 400, "chunk-checksum", &["pantelegraph-sum"]);
        }
    }
    let headers = format!("Content-Length: 1\r\nExpect: 100-continue\r\n{HEADER_SUM}: 0\r\n");
    raw.write_put(&id.to_string(), &headers).await;
    assert_eq!(raw.answer().await.unwrap().status, 400);
    station.shows_only(&[id]).await;
}

#[tokio::test]
async fn a_duplicate_need_not_be_sent_by_a_client_that_asks_first() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let (id, picture) = (ImageId::new(), jpeg(4));
    let digest = member(
        "blake3",
        DigestAlgorithm::Blake3.digest(&picture.bytes).as_bytes(),
    );
    assert_eq!(
        put(&mut raw, &id.to_string(), &digest, &picture)
            .await
            .status,
        201
    );
    let length = picture.bytes.len();
    let headers = format!("Content-Length: {length}\r\nExpect: 100-continue\r\n{digest}");
    raw.write_put(&id.to_string(), &headers).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["status"], "duplicate");
    station.shows_only(&[id]).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let station = Station::start(&[]).await;
    let mut raw = RawHttp::connect(station.http()).await;
    let mut stream = Vec::new();
    let mut ids = Vec::new();
    for seed in 0..5 {
        let (id, picture) = (ImageId::new(), jpeg(seed));
        let head = format!(
            "PUT /v1/images/{id} HTTP/1.1\r\nHost: station\r\nContent-Length: {}\r\n\r\n",
            picture.bytes.len()
        );
        stream.extend_from_slice(head.as_bytes());
        stream.extend_from_slice(&picture.bytes);
        ids.push(id);
    }
    stream.extend_from_slice(b"GET /healthz HTTP/1.1\r\nHost: station\r\n\r\n");
    raw.write(&stream).await;
    for id in &ids {
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, 201);
        assert_eq!(answer.json()["image_id"], id.to_string());
    }
    assert_eq!(raw.answer().await.unwrap().status, 200);
    station.shows_only(&ids).await;
}

#[tokio::test]
async fn a_gigabyte_whose_sender_goes_away_is_never_seen() {
    let station = Station::start(&["--max-image-size", "2GiB"]).await;
    for close_at_once in [true, false] {
        let mut raw = RawHttp::connect(station.http()).await;
        let id = ImageId::new().to_string();
        raw.write_put(&id, "Content-Length: 1000000000\r\n").await;
        raw.write(&jpeg(5).bytes[..10]).await;
        if !close_at_once {
            raw.end().await;
            // An answer, if there is one, is a refusal.
            if let Some(answer) = raw.answer().await {
                problem(&answer, 400, "truncated", &["10 bytes"]);
            }
        }
        drop(raw);
        assert_eq!(station.get(&format!("/v1/images/{id}")).await.status, 404);
    }
    let id = good(&mut RawHttp::connect(station.http()).await).await;
    station.shows_only(&[id]).await;
}

#[tokio::test]
async fn requests_that_are_not_http_end_the_connection_and_nothing_else() {
    let station = Station::start(&[]).await;
    for request in [
        "PUT /v1/images/x HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
        "PUT /v1/images/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "\u{1}\u{2}\u{3} nonsense\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nBad Header: x\r\n\r\n",
    ] {
        let mut raw = RawHttp::connect(station.http()).await;
        raw.write(request).await;
        if let Some(answer) = raw.answer().await {
            assert_eq!(answer.status, 400, "{request:?}");
            assert!(
                raw.answer().await.is_none(),
                "{request:?} ends the connection"
            );
        }
    }
    let id = good(&mut RawHttp::connect(station.http()).await).await;
    station.shows_only(&[id]).await;
}
