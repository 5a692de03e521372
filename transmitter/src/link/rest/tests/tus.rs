//! Uploads that meet every answer.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use shared::clock::UnixNanos;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, OutboxId};
use shared::receipt::{Durability, Receipt, ReceiptStatus, ReceiverTimeline, RejectReason};
use shared::settings::units::Bandwidth;
use shared::wire::{Loss, Standing, decode_losses};
use tokio::time::Instant;

use super::script::{Reply, Request, WINDOW, connect};
use crate::config::BandwidthOptions;
use crate::limiter::Limiter;
use crate::link::{Attempt, Connection, DeliveryError, Identity};
use crate::outbox::Owed;
use crate::payload::Payload;

pub(super) const SIZE: u64 = 10 << 10;

pub(super) fn identity() -> Identity {
    Identity {
        outbox: OutboxId::new(),
        unfinished: Default::default(),
        limiter: Default::default(),
        transmitter: "camera".to_owned(),
        wire: Default::default(),
        clock: Default::default(),
        dialler: Default::default(),
    }
}

pub(super) fn image(size: u64) -> Owed {
    let bytes: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8).collect();
    let bytes = Bytes::from(bytes);
    let mut meta = ImageMeta::new(ImageId::new(), size);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
    meta.sequence = 7;
    Owed {
        meta,
        payload: Payload::Memory(bytes),
        source_file: None,
        source_mark: None,
        carried: false,
    }
}

pub(super) fn receipt(image: &Owed) -> String {
    let at = UnixNanos(1);
    let receipt = Receipt {
        image_id: image.meta.id,
        status: ReceiptStatus::Stored,
        size: image.meta.size,
        digest: image.meta.digest.expect("made above"),
        durability: Durability::Synced,
        format: "png".to_owned(),
        width: 1,
        height: 1,
        timeline: ReceiverTimeline {
            first_byte: at,
            last_byte: at,
            verified: at,
            durable: at,
        },
        receiver: "station".to_owned(),
    };
    serde_json::to_string(&receipt).expect("JSON")
}

pub(super) const FIRST: Attempt<'static> = Attempt {
    number: 1,
    started: UnixNanos(5),
    turn: None,
    trace: None,
};
pub(super) const SECOND: Attempt<'static> = Attempt { number: 2, ..FIRST };

/// Answers as a receiver does that holds `held` bytes.
pub(super) fn proper(request: &Request, held: &mut u64, size: u64, receipt: &str) -> Reply {
    match request.method.as_str() {
        "POST" => {
            *held = 0;
            Reply::new(201)
        }
        "HEAD" => Reply::new(200)
            .with("upload-length", size)
            .with("upload-offset", *held),
        _ if request.header("upload-offset") != held.to_string() => {
            Reply::new(409).because("offset")
        }
        _ => {
            *held += request.body.len() as u64;
            let reply = Reply::new(204).with("upload-offset", *held);
            match *held == size {
                true => reply.with("pantelegraph-receipt", receipt),
                false => reply,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_image_goes_a_window_at_a_time_with_all_that_is_known_of_it() {
    let (identity, image) = (identity(), image(SIZE));
    let (proof, mut held) = (receipt(&image), 0);
    let (connection, came) = connect(identity.clone(), move |request| {
        Some(proper(request, &mut held, SIZE, &proof))
    })
    .await;
    connection.deliver(&image, FIRST).await.expect("stored");
    let expected = ["POST", "PATCH 0+4096", "PATCH 4096+4096", "PATCH 8192+2048"];
    assert_eq!(came.summaries(), expected);
    let all = came.all();
    let sent: Vec<u8> = all
        .iter()
        .flat_map(|request| request.body.clone())
        .collect();
    assert!(matches!(&image.payload, Payload::Memory(bytes) if *bytes == sent));
    let metadata = all[0].header("upload-metadata");
    for (key, value) in [
        ("image_id", image.meta.id.to_string()),
        ("outbox", identity.outbox.to_string()),
        ("sequence", "7".to_owned()),
        ("transmitter", "camera".to_owned()),
        ("send_started_unix_ns", "5".to_owned()),
        ("attempt", "1".to_owned()),
    ] {
        let pair = format!("{key} {}", STANDARD.encode(value));
        assert!(
            metadata.split(',').any(|one| one == pair),
            "{key}: {metadata}"
        );
    }
    assert_eq!(identity.wire.image_bytes_sent(), SIZE);
    assert_eq!(identity.wire.image_bytes_resent(), 0);
    assert_eq!(identity.unfinished.list(), []);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_asks_and_sends_the_rest() {
    for (attempt, carried) in [(SECOND, false), (FIRST, true)] {
        let (identity, mut image) = (identity(), image(SIZE));
        image.carried = carried;
        let (proof, mut held) = (receipt(&image), 9_000);
        let (connection, came) = connect(identity, move |request| {
            Some(proper(request, &mut held, SIZE, &proof))
        })
        .await;
        connection.deliver(&image, attempt).await.expect("stored");
        assert_eq!(came.summaries(), ["HEAD", "PATCH 9000+1240"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_whose_last_answer_was_lost_is_not_sent_again() {
    let (identity, image) = (identity(), image(SIZE));
    let proof = receipt(&image);
    let (connection, came) = connect(identity.clone(), move |_| {
        let reply = Reply::new(200).with("upload-length", SIZE);
        let reply = reply.with("upload-offset", SIZE);
        Some(reply.with("pantelegraph-receipt", &proof))
    })
    .await;
    connection.deliver(&image, SECOND).await.expect("stored");
    assert_eq!(came.summaries(), ["HEAD"]);
    assert_eq!(identity.wire.image_bytes_sent(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_gone_is_created_anew() {
    for status in [404, 410] {
        let (identity, image) = (identity(), image(SIZE));
        let (proof, mut held, mut gone) = (receipt(&image), 0, 2);
        let (connection, came) = connect(identity, move |request| {
            // Once when it is asked for, once in the midst of sending.
            let now = request.method == "HEAD" || request.header("upload-offset") == "4096";
            if now && gone > 0 {
                gone -= 1;
                return Some(Reply::new(status));
            }
            Some(proper(request, &mut held, SIZE, &proof))
        })
        .await;
        connection.deliver(&image, SECOND).await.expect("stored");
        let requests = came.summaries();
        let methods: Vec<&str> = requests.iter().map(|one| &one[..4]).collect();
        let expected = [
            "HEAD", "POST", "PATC", "PATC", "POST", "PATC", "PATC", "PATC",
        ];
        assert_eq!(methods, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_elsewhere_than_expected_is_asked_for() {
    for reason in ["offset", "superseded"] {
        let (identity, image) = (identity(), image(SIZE));
        let (proof, mut held, mut moved) = (receipt(&image), 0, true);
        let (connection, came) = connect(identity, move |request| {
            if request.method == "PATCH" && moved {
                moved = false;
                held = 8_000;
                return Some(Reply::new(409).because(reason));
            }
            Some(proper(request, &mut held, SIZE, &proof))
        })
        .await;
        connection.deliver(&image, FIRST).await.expect("stored");
        let expected = ["POST", "PATCH 0+4096", "HEAD", "PATCH 8000+2240"];
        assert_eq!(came.summaries(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stays_busy_is_taken_over_after_a_while() {
    let (identity, image) = (identity(), image(SIZE));
    let (proof, mut held) = (receipt(&image), 0);
    let (connection, came) = connect(identity, move |request| {
        Some(match request.method.as_str() {
            "HEAD" => Reply::new(423),
            _ => proper(request, &mut held, SIZE, &proof),
        })
    })
    .await;
    let begin = Instant::now();
    connection.deliver(&image, SECOND).await.expect("stored");
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_secs(3) && waited <= Duration::from_secs(10));
    let requests = came.summaries();
    assert_eq!(requests.iter().filter(|one| *one == "HEAD").count(), 7);
    assert_eq!(requests[7..9], ["POST", "PATCH 0+4096"]);
}

#[tokio::test(start_paused = true)]
async fn another_image_under_the_name_of_the_upload_is_for_the_receiver_to_refuse() {
    let (identity, image) = (identity(), image(SIZE));
    let (connection, came) = connect(identity.clone(), move |request| {
        Some(match request.method.as_str() {
            "HEAD" => Reply::new(200)
                .with("upload-length", SIZE + 1)
                .with("upload-offset", 100),
            _ => Reply::new(409).because("conflict"),
        })
    })
    .await;
    let refused = connection.deliver(&image, SECOND).await;
    assert!(
        matches!(&refused, Err(DeliveryError::Rejected(reject))
            if reject.reason == shared::receipt::RejectReason::Conflict),
        "{refused:?}"
    );
    assert_eq!(came.summaries(), ["HEAD", "POST"]);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_never_gets_anywhere_ends_the_attempt() {
    let (identity, image) = (identity(), image(SIZE));
    let (connection, came) = connect(identity, move |request| {
        Some(match request.method.as_str() {
            "POST" => Reply::new(201),
            "HEAD" => Reply::new(200)
                .with("upload-length", SIZE)
                .with("upload-offset", 0),
            _ => Reply::new(204).with("upload-offset", 0),
        })
    })
    .await;
    let refused = connection.deliver(&image, FIRST).await;
    assert!(
        matches!(&refused, Err(DeliveryError::Rejected(reject)) if reject.retryable),
        "{refused:?}"
    );
    assert!(came.all().len() < 20);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_ends_the_attempt_at_once() {
    let (identity, image) = (identity(), image(SIZE));
    let (connection, _) = connect(identity.clone(), |request| {
        (request.method == "POST").then(|| Reply::new(201))
    })
    .await;
    let begin = Instant::now();
    let lost = connection.deliver(&image, FIRST).await;
    assert!(matches!(lost, Err(DeliveryError::Lost(_))), "{lost:?}");
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert!(connection.lost.is_cancelled());
    assert_eq!(
        identity.unfinished.list().len(),
        1,
        "it is to be gone on with"
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_whose_put_broke_is_gone_on_with_by_tus() {
    let identity = identity();
    for (size, expected) in [(300 << 10, "HEAD"), (200 << 10, "PUT")] {
        let mut image = image(size);
        image.meta.sequence = size;
        for (attempt, method) in [(FIRST, "PUT"), (SECOND, expected)] {
            let (mut connection, came) = connect(identity.clone(), |_| None).await;
            connection.window = 1 << 20;
            let lost = connection.deliver(&image, attempt).await;
            assert!(matches!(lost, Err(DeliveryError::Lost(_))), "{lost:?}");
            assert_eq!(came.summaries(), [method], "{size}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn under_a_cap_a_body_moves_on_all_the_time() {
    let mut identity = identity();
    // A window takes four times as long as the connection may be silent.
    let cap = WINDOW / (4 * 30);
    identity.limiter = Limiter::new(BandwidthOptions {
        base: Some(Bandwidth {
            bytes_per_second: cap,
        }),
        schedule: Vec::new(),
    });
    let image = image(WINDOW);
    let proof = receipt(&image);
    let (connection, came) = connect(identity, move |_| {
        // A `PUT` has its receipt in the body, which this script cannot give.
        Some(Reply::new(503).because("unavailable").with("x", &proof))
    })
    .await;
    let begin = Instant::now();
    let answer = connection.deliver(&image, FIRST).await;
    assert!(
        matches!(&answer, Err(DeliveryError::Rejected(reject)) if reject.retryable),
        "{answer:?}"
    );
    assert!(
        begin.elapsed() > Duration::from_secs(100),
        "{:?}",
        begin.elapsed()
    );
    let all = came.all();
    assert_eq!(all[0].body.len() as u64, WINDOW);
    assert_eq!(
        (
            all[0].method.as_str(),
            all[0].header("pantelegraph-sequence")
        ),
        ("PUT", "7")
    );
    assert!(!all[0].header("pantelegraph-outbox").is_empty());
}

#[tokio::test(start_paused = true)]
async fn losses_are_posted_and_a_receiver_that_cannot_keep_them_says_why() {
    let identity = identity();
    let standing = Standing {
        outbox: identity.outbox,
        first_owed: 3,
        next_sequence: 9,
    };
    let losses = vec![Loss {
        sequence: 2,
        image_id: ImageId::new(),
        digest: None,
        reason: "evicted".to_owned(),
        at: UnixNanos(1),
        run: String::new(),
    }];
    let mut answers = vec![Reply::new(503).because("unavailable"), Reply::new(204)];
    let (connection, came) = connect(identity, move |_| answers.pop()).await;
    let told = connection.losses(losses.clone(), standing).await;
    told.expect("kept");
    let request = &came.all()[0];
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("POST", "/v1/losses")
    );
    let report = decode_losses(Bytes::from(request.body.clone())).expect("a report");
    assert_eq!(
        (report.losses.clone(), report.standing),
        (losses, Some(standing))
    );
    assert_eq!(report.transmitter, "camera");
    let refused = connection.losses(report.losses, standing).await;
    let text = refused.expect_err("not kept").to_string();
    assert!(text.contains("said so"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_image_of_somebody_else_does_not_end_the_connection_and_what_holds_for_all_does() {
    // By `PUT` and by tus, where the first answer has no body.
    for (size, attempt) in [(1 << 10, FIRST), (SIZE, FIRST), (SIZE, SECOND)] {
        // The image alone; whatever comes under this name; the gate, before anybody looks at it.
        for (reason, of_image) in [("forbidden", true), ("forbidden", false), ("scope", false)] {
            let image = image(size);
            let script = move |request: &Request| match request.path.as_str() {
                "/v1/losses" if of_image => Some(Reply::new(204)),
                _ => Some(Reply::new(403).because(reason)),
            };
            let (connection, _) = connect(identity(), script).await;
            match connection.deliver(&image, attempt).await {
                Err(DeliveryError::Rejected(reject)) if of_image => {
                    assert_eq!(reject.reason, RejectReason::Forbidden);
                    assert!(reject.retryable && reject.image_id == Some(image.meta.id));
                }
                Err(DeliveryError::Refused(words)) if !of_image => {
                    assert!(words.contains("--name has to be"), "{words}");
                }
                other => panic!("{size} {reason}: {other:?}"),
            }
            assert_eq!(connection.is_refused(), !of_image);
            assert_eq!(connection.lost.is_cancelled(), !of_image);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whose_images_do_not_get_in_learns_it_before_one_is_sent() {
    let said = |reply: Reply| async move {
        let script = move |_: &Request| Some(reply.clone());
        let (connection, came) = connect(identity(), script).await;
        let said = connection.be_let_in().await;
        let report = decode_losses(Bytes::from(came.all()[0].body.clone())).expect("a report");
        assert_eq!(
            (report.transmitter.as_str(), report.losses.len()),
            ("camera", 0)
        );
        assert_eq!(connection.is_refused(), said.is_err());
        said.err().map(|error| error.to_string())
    };
    for reason in ["forbidden", "scope"] {
        let words = said(Reply::new(403).because(reason)).await;
        let words = words.expect("turned away");
        assert!(
            words.contains("--name has to be the name in its token"),
            "{words}"
        );
    }
    assert!(
        said(Reply::new(401).because("expired-token"))
            .await
            .is_some()
    );
    // The second is of somebody between, who may let images pass.
    for reply in [
        Reply::new(204),
        Reply::new(403),
        Reply::new(404),
        Reply::new(429).because("rate"),
        Reply::new(503).because("unavailable"),
    ] {
        assert_eq!(said(reply).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_leaves_no_connection_that_looks_good() {
    let (connection, _) = connect(identity(), |_| Some(Reply::new(204))).await;
    let standing = Standing::unsaid(OutboxId::new());
    assert!(connection.losses(Vec::new(), standing).await.is_ok());
    assert!(!connection.lost.is_cancelled());
    let telling = connection.losses(Vec::new(), standing);
    assert!(telling.now_or_never().is_none(), "it waits for an answer");
    assert!(connection.lost.is_cancelled());
}
