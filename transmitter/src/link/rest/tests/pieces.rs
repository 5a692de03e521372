//! Pieces of uploads: their sums, and their sizes on lines that do not carry much.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use shared::chunk::crc32c;
use shared::image::OutboxId;
use shared::wire::{HEADER_SUM, Standing, request_sum, sum_header};

use super::script::{CHUNK, Reply, Request, WINDOW, connect};
use super::tus::{FIRST, SECOND, SIZE, identity, image, proper, receipt};
use crate::link::rest::pieces::Pieces;
use crate::link::{Connection, DeliveryError};
use crate::payload::Payload;

fn sum_is_right(request: &Request) -> bool {
    let sum = STANDARD.encode(crc32c(&request.body).to_be_bytes());
    request.header("upload-checksum") == format!("crc32c {sum}")
}

// A paused clock would run away while a thread reads the file.
#[tokio::test]
async fn every_piece_has_its_sum_also_of_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    for in_file in [false, true] {
        let mut image = image(SIZE);
        if let (true, Payload::Memory(bytes)) = (in_file, &image.payload) {
            let path = folder.path().join("image");
            std::fs::write(&path, bytes).expect("space");
            image.payload = Payload::File { path, size: SIZE };
        }
        let (proof, mut held) = (receipt(&image), 0);
        let (connection, came) = connect(identity(), move |request| {
            Some(proper(request, &mut held, SIZE, &proof))
        })
        .await;
        connection.deliver(&image, FIRST).await.expect("stored");
        let all = came.all();
        let pieces = all.iter().filter(|request| request.method == "PATCH");
        assert!(pieces.clone().all(sum_is_right));
        assert_eq!(pieces.count(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_changed_on_the_way_is_sent_again_and_nothing_else() {
    let (identity, image) = (identity(), image(SIZE));
    let (proof, mut held, mut spoiled) = (receipt(&image), 0, false);
    let (connection, came) = connect(identity.clone(), move |request| {
        if request.header("upload-offset") == "4096" && !spoiled {
            spoiled = true;
            return Some(Reply::new(460).because("chunk-checksum"));
        }
        Some(proper(request, &mut held, SIZE, &proof))
    })
    .await;
    connection.deliver(&image, FIRST).await.expect("stored");
    let expected = [
        "POST",
        "PATCH 0+4096",
        "PATCH 4096+4096",
        // In smaller pieces, of which one that comes is followed by a larger one.
        "PATCH 4096+2048",
        "PATCH 6144+4096",
    ];
    assert_eq!(came.summaries(), expected);
    assert!(came.all()[1..].iter().all(sum_is_right));
    assert_eq!(identity.wire.image_bytes_resent(), 4096);
}

#[tokio::test(start_paused = true)]
async fn pieces_that_never_come_as_they_were_sent_end_the_attempt() {
    for answer in ["460", "invalid", "chunk-checksum"] {
        let image = image(SIZE);
        let (connection, came) = connect(identity(), move |request| {
            Some(match request.method.as_str() {
                "POST" => Reply::new(201),
                "HEAD" => Reply::new(200)
                    .with("upload-length", SIZE)
                    .with("upload-offset", 0),
                _ if answer == "460" => Reply::new(460).because("chunk-checksum"),
                _ => Reply::new(400).because(answer),
            })
        })
        .await;
        let refused = connection.deliver(&image, FIRST).await;
        assert!(
            matches!(&refused, Err(DeliveryError::Rejected(reject)) if reject.retryable),
            "{refused:?}"
        );
        assert!(
            (4..20).contains(&came.all().len()),
            "{:?}",
            came.summaries()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_never_carries_a_window_in_one_go_brings_the_image_all_the_same() {
    let (identity, image) = (identity(), image(SIZE));
    let proof = receipt(&image);
    let (held, pieces) = (Arc::new(Mutex::new(0)), Pieces::new(CHUNK.into(), WINDOW));
    let mut breaks = 0;
    loop {
        let (held, proof) = (Arc::clone(&held), proof.clone());
        // So much passes before the line breaks: a piece of a chunk, and no larger one.
        let mut left = u64::from(CHUNK) + 500;
        let (mut connection, _) = connect(identity.clone(), move |request| {
            left = left.checked_sub(request.body.len() as u64)?;
            Some(proper(request, &mut held.lock(), SIZE, &proof))
        })
        .await;
        connection.pieces = pieces.clone();
        let attempt = if breaks == 0 { FIRST } else { SECOND };
        match connection.deliver(&image, attempt).await {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, DeliveryError::Lost(_)), "{error:?}"),
        }
        breaks += 1;
        assert!(breaks < 30, "no progress in {breaks} breaks");
    }
    let resent = identity.wire.image_bytes_resent();
    assert!(resent <= breaks * WINDOW, "{resent} in {breaks} breaks");
}

#[tokio::test(start_paused = true)]
async fn the_sum_of_a_report_of_losses_is_of_its_body_as_well() {
    let (connection, came) = connect(identity(), |_| Some(Reply::new(204))).await;
    let standing = Standing {
        outbox: OutboxId::new(),
        first_owed: 1,
        next_sequence: 1,
    };
    connection.losses(Vec::new(), standing).await.expect("kept");
    let request = &came.all()[0];
    let sum = |body: &[u8]| {
        let sum = request_sum("POST", "/v1/losses", &headers(request), body);
        sum_header(sum)
    };
    assert!(!request.body.is_empty());
    assert_eq!(request.header(HEADER_SUM), sum(&request.body));
    assert_ne!(request.header(HEADER_SUM), sum(b""));
}

fn headers(request: &Request) -> HeaderMap {
    let headers = request.headers.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().expect("a header's name");
        (name, value.parse().expect("a header's value"))
    });
    headers.collect()
}

#[tokio::test(start_paused = true)]
async fn requests_have_their_sum_and_an_answer_with_another_is_none() {
    let image = image(SIZE);
    let (proof, mut held) = (receipt(&image), 0);
    let (connection, came) = connect(identity(), move |request| {
        let sum = request_sum(&request.method, &request.path, &headers(request), b"");
        assert_eq!(request.header(HEADER_SUM), sum_header(sum));
        let reply = proper(request, &mut held, SIZE, &proof);
        Some(match request.header("upload-offset") {
            "4096" => reply.with(HEADER_SUM, "0badbad0"),
            _ => reply,
        })
    })
    .await;
    match connection.deliver(&image, FIRST).await {
        Err(DeliveryError::Rejected(reject)) => {
            assert!(
                reject.retryable && reject.message.contains("damaged"),
                "{reject}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(
        !connection.lost.is_cancelled(),
        "it waits for no other connection"
    );
    assert_eq!(came.summaries().len(), 3);
}
