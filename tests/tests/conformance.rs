//! What holds whatever carries an image: one suite, run for every way from a transmitter to a
//! receiver and every kind of digest.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::Path;

use bytes::Bytes;
use pantelegraph_tests::pictures::{self, Picture, jpeg, large, png, webp, write_file};
use pantelegraph_tests::route::{self, Pair, Route, deliver, owed, owed_picture};
use pantelegraph_tests::station;
use pantelegraph_transmitter::link::{Connection, LinkError};
use pantelegraph_transmitter::run::RunOutcome;
use shared::digest::DigestAlgorithm;
use shared::image::ImageId;
use shared::receipt::{Durability, Receipt, ReceiptStatus, RejectReason};
use shared::report::{Outcome, Report};

macro_rules! conformance {
    ($($name:ident: $route:expr, $digest:expr;)*) => {$(
        mod $name {
            use super::{DigestAlgorithm, Route};

            conformance!(@tests $route, $digest;
                the_stored_bytes_are_those_sent_and_the_receipt_says_so
                an_image_sent_again_is_a_duplicate
                another_image_with_the_same_id_is_a_conflict
                improper_images_are_quarantined_with_their_reason
                a_wrong_digest_is_refused
                an_image_above_the_limit_is_refused_by_name
                a_chunk_or_message_above_the_limit_is_refused_by_name
                an_image_larger_than_window_and_credit_passes
                many_images_in_flight_all_arrive_and_the_reports_reconcile
                names_are_text_and_never_paths
                quarantined_images_are_accounted_for_on_both_sides
                lost_images_are_accounted_for_on_both_sides
            );
        }
    )*};
    (@tests $route:expr, $digest:expr; $($test:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            super::$test($route, $digest).await;
        }
    )*};
}

conformance! {
    exchange_xxh3: Route::Exchange, DigestAlgorithm::Xxh3;
    exchange_blake3: Route::Exchange, DigestAlgorithm::Blake3;
    put_xxh3: Route::Put, DigestAlgorithm::Xxh3;
    put_blake3: Route::Put, DigestAlgorithm::Blake3;
    websocket_xxh3: Route::WebSocket, DigestAlgorithm::Xxh3;
    websocket_blake3: Route::WebSocket, DigestAlgorithm::Blake3;
    listen_xxh3: Route::Listen, DigestAlgorithm::Xxh3;
    listen_blake3: Route::Listen, DigestAlgorithm::Blake3;
    rest_xxh3: Route::Rest, DigestAlgorithm::Xxh3;
    rest_blake3: Route::Rest, DigestAlgorithm::Blake3;
}

/// No files.
const NONE: [&Path; 0] = [];

/// The connection still carries a good image.
async fn goes_on(connection: &dyn Connection, digest: DigestAlgorithm) -> ImageId {
    let good = owed_picture(&png(4_711), digest);
    let receipt = deliver(connection, &good)
        .await
        .expect("the connection goes on");
    assert_eq!(
        (receipt.image_id, receipt.status),
        (good.meta.id, ReceiptStatus::Stored)
    );
    good.meta.id
}

async fn the_stored_bytes_are_those_sent_and_the_receipt_says_so(
    route: Route,
    digest: DigestAlgorithm,
) {
    let pair = Pair::start(route, &[]).await;
    let connection = pair.connect(&[]).await;
    for picture in [jpeg(1), png(1), webp(1), large(900_000, 1)] {
        let image = owed_picture(&picture, digest);
        let receipt = deliver(&*connection, &image).await.unwrap();
        assert_eq!(receipt.image_id, image.meta.id);
        assert_eq!(receipt.status, ReceiptStatus::Stored);
        assert_eq!(receipt.size, picture.bytes.len() as u64);
        assert_eq!(receipt.digest, digest.digest(&picture.bytes));
        assert_eq!(receipt.durability, Durability::Written);
        assert_eq!(receipt.format, picture.format);
        assert_eq!(
            (receipt.width, receipt.height),
            (picture.width, picture.height)
        );
        assert_eq!(receipt.receiver, station::NAME);
        let times = receipt.timeline;
        let order = [
            times.first_byte,
            times.last_byte,
            times.verified,
            times.durable,
        ];
        assert!(order.is_sorted(), "{order:?}");

        let id = image.meta.id;
        let stored = pair.station.get(&format!("/v1/images/{id}")).await;
        assert_eq!(stored.status, 200);
        assert_eq!(stored.body, picture.bytes);
        assert_eq!(stored.header("content-type"), picture.media_type);
        let known = pair.station.get(&format!("/v1/images/{id}/receipt")).await;
        assert_eq!(known.json()["digest"], receipt.digest.to_string());
        let files = pair.station.data().images();
        let file = files
            .iter()
            .find(|file| file.to_string_lossy().contains(&id.to_string()));
        assert_eq!(std::fs::read(file.unwrap()).unwrap(), picture.bytes);
    }
    assert_eq!(pair.station.data().incoming(), NONE);
}

async fn an_image_sent_again_is_a_duplicate(route: Route, digest: DigestAlgorithm) {
    let pair = Pair::start(route, &[]).await;
    let connection = pair.connect(&[]).await;
    let image = owed_picture(&jpeg(2), digest);
    let first = deliver(&*connection, &image).await.unwrap();
    let second = deliver(&*connection, &image).await.unwrap();
    assert_eq!(second.status, ReceiptStatus::Duplicate);
    assert_eq!(second.digest, first.digest);
    let arrival = |receipt: &Receipt| (receipt.timeline.first_byte, receipt.timeline.last_byte);
    assert_eq!(
        arrival(&second),
        arrival(&first),
        "the times are those of the first time"
    );
    goes_on(&*connection, digest).await;
    assert_eq!(pair.station.data().images().len(), 2);
}

async fn another_image_with_the_same_id_is_a_conflict(route: Route, digest: DigestAlgorithm) {
    let pair = Pair::start(route, &[]).await;
    let connection = pair.connect(&[]).await;
    let first = jpeg(3);
    let image = owed_picture(&first, digest);
    deliver(&*connection, &image).await.unwrap();
    let mut other = owed_picture(&jpeg(4), digest);
    other.meta.id = image.meta.id;
    let reject = deliver(&*connection, &other).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::Conflict);
    assert!(!reject.retryable && !reject.quarantined, "{reject:?}");
    goes_on(&*connection, digest).await;
    let stored = pair
        .station
        .get(&format!("/v1/images/{}", image.meta.id))
        .await;
    assert_eq!(stored.body, first.bytes);
    assert_eq!(pair.station.data().images().len(), 2);
}

/// Bytes that are no proper image, each with the reason for it.
fn improper() -> Vec<(&'static str, Bytes, &'static str, RejectReason)> {
    let whole = jpeg(5).bytes;
    let half = whole.slice(..whole.len() / 2);
    let text = Bytes::from_static(b"Dear diary, today I was not a picture.\n");
    vec![
        ("half.jpg", half, "image/jpeg", RejectReason::TruncatedImage),
        ("diary.png", text, "image/png", RejectReason::NotAnImage),
        (
            "nothing.jpg",
            Bytes::new(),
            "image/jpeg",
            RejectReason::Empty,
        ),
        (
            "other.jpg",
            png(5).bytes,
            "image/jpeg",
            RejectReason::Mislabelled,
        ),
    ]
}

async fn improper_images_are_quarantined_with_their_reason(route: Route, digest: DigestAlgorithm) {
    let pair = Pair::start(route, &[]).await;
    let connection = pair.connect(&[]).await;
    let mut good = Vec::new();
    for (name, bytes, media_type, reason) in improper() {
        let image = owed(&bytes, name, media_type, digest);
        for time in ["first", "second"] {
            let reject = deliver(&*connection, &image).await.unwrap_err();
            assert_eq!(reject.reason, reason, "{name}, {time} time");
            assert_eq!(reject.image_id, Some(image.meta.id));
            assert!(reject.quarantined && !reject.retryable, "{reject:?}");
        }
        good.push(goes_on(&*connection, digest).await);
        let id = image.meta.id;
        let apart = pair.station.get(&format!("/v1/images/{id}")).await;
        assert_eq!(apart.status, 404, "{name} is not among the images");
        let bytes_apart = pair
            .station
            .get(&format!("/v1/images/{id}?quarantined=true"))
            .await;
        assert_eq!((bytes_apart.status, bytes_apart.body), (200, bytes));
    }
    let listed = pair.station.listed("stored").await;
    assert_eq!(listed.len(), good.len());
    assert_eq!(pair.station.data().images().len(), good.len());
    assert_eq!(pair.station.data().quarantine().len(), improper().len());
}

async fn a_wrong_digest_is_refused(route: Route, digest: DigestAlgorithm) {
    let pair = Pair::start(route, &[]).await;
    let connection = pair.connect(&[]).await;
    let mut image = owed_picture(&webp(6), digest);
    image.meta.digest = Some(digest.digest(b"another image"));
    let reject = deliver(&*connection, &image).await.unwrap_err();
    assert_eq!(reject.reason, RejectReason::DigestMismatch);
    assert!(reject.retryable && !reject.quarantined, "{reject:?}");
    assert_eq!(pair.station.data().images(), NONE);
    goes_on(&*connection, digest).await;

    // The same id with the right digest is welcome.
    image.meta.digest = Some(digest.digest(&webp(6).bytes));
    assert_eq!(
        deliver(&*connection, &image).await.unwrap().status,
        ReceiptStatus::Stored
    );
    assert_eq!(pair.station.data().images().len(), 2);
}

async fn an_image_above_the_limit_is_refused_by_name(route: Route, digest: DigestAlgorithm) {
    let pair = Pair::start(route, &["--max-image-size", "100KiB"]).await;
    let connection = pair.connect(&["--chunk-size", "16KiB"]).await;
    let picture = large(300_000, 7);
    let reject = deliver(&*connection, &owed_picture(&picture, digest))
        .await
        .unwrap_err();
    assert_eq!(reject.reason, RejectReason::Limit);
    assert!(
        reject.message.contains("RECEIVER_MAX_IMAGE_SIZE"),
        "{reject}"
    );
    assert!(
        reject.message.contains("100KiB") || reject.message.contains("100 KiB"),
        "{reject}"
    );
    assert!(
        reject.message.contains(&picture.bytes.len().to_string()),
        "{reject}"
    );
    assert!(
        !reject.retryable,
        "the same bytes will not fit the next time either"
    );
    goes_on(&*connection, digest).await;
    assert_eq!(pair.station.data().images().len(), 1);
    assert_eq!(pair.station.data().incoming(), NONE);
}

async fn a_chunk_or_message_above_the_limit_is_refused_by_name(
    route: Route,
    digest: DigestAlgorithm,
) {
    let pair = Pair::start(route, &["--max-message-size", "64KiB"]).await;
    let picture = large(100_000, 8);
    let image = owed_picture(&picture, digest);
    match route {
        Route::Exchange | Route::WebSocket => {
            let connecting = pair.link(&["--chunk-size", "65KiB"]);
            let refused = connecting
                .connect()
                .await
                .err()
                .expect("chunks above the limit");
            assert!(matches!(refused, LinkError::Protocol { .. }), "{refused}");
            let text = refused.to_string();
            assert!(text.contains("RECEIVER_MAX_MESSAGE_SIZE"), "{text}");
            assert!(text.contains("TRANSMITTER_CHUNK_SIZE"), "{text}");
        }
        // A transmitter that listens waits for a receiver that suits it.
        Route::Listen => {}
        Route::Put => {
            let connection = pair.connect(&["--chunk-size", "16KiB"]).await;
            let reject = deliver(&*connection, &image).await.unwrap_err();
            assert_eq!(reject.reason, RejectReason::Limit);
            assert!(
                reject.message.contains("RECEIVER_MAX_MESSAGE_SIZE"),
                "{reject}"
            );
            assert!(!reject.retryable, "{reject:?}");
            goes_on(&*connection, digest).await;
            return;
        }
        // A body has no messages.
        Route::Rest => {}
    }
    let connection = pair.connect(&["--chunk-size", "64KiB"]).await;
    let receipt = deliver(&*connection, &image)
        .await
        .expect("a chunk of just the limit passes");
    assert_eq!(receipt.digest, digest.digest(&picture.bytes));
}

async fn an_image_larger_than_window_and_credit_passes(route: Route, digest: DigestAlgorithm) {
    // One message must hold the whole image on `Put`, and the credit that message.
    let (message, credit) = if route == Route::Put {
        ("4MiB", "4MiB")
    } else {
        ("64KiB", "64KiB")
    };
    let limits = [
        "--max-message-size",
        message,
        "--credit",
        credit,
        "--max-memory",
        "4MiB",
    ];
    let pair = Pair::start(route, &limits).await;
    let folder = tempfile::tempdir().unwrap();
    let (small, big) = (jpeg(9), large(1_500_000, 9));
    for (name, picture) in [("a.jpg", &small), ("b.png", &big), ("c.jpg", &small)] {
        write_file(&folder.path().join(name), &picture.bytes);
    }
    let path = folder.path().to_str().unwrap();
    let sizes = [
        "--window",
        "32KiB",
        "--chunk-size",
        "16KiB",
        "--digest",
        digest.key(),
    ];
    let source = ["--folder", path, "--once", "--run", "big"];
    let summary = pair.transmit(&[&source[..], &sizes].concat()).await;
    assert_eq!(summary.outcome, RunOutcome::Delivered);
    let report = pair.station.report("big").await;
    reconciles(&report, &totals(&summary.reports), 3);
    let row = report
        .images
        .iter()
        .find(|row| row.name.as_deref() == Some("b.png"))
        .unwrap();
    let stored = pair
        .station
        .get(&format!("/v1/images/{}", row.image_id))
        .await;
    assert_eq!(stored.body, big.bytes);
}

fn totals(reports: &[Report]) -> Report {
    let [report] = reports else {
        panic!("one transport, one report: {reports:?}")
    };
    report.clone()
}

/// Both sides tell the same of `captured` images, and the sums are right.
fn reconciles(receiver: &Report, transmitter: &Report, captured: u64) {
    for report in [receiver, transmitter] {
        let sum = &report.totals;
        assert_eq!(sum.captured, captured, "{sum:?}");
        let parts = sum.delivered + sum.duplicates + sum.quarantined + sum.lost + sum.owed;
        assert_eq!(parts, captured, "{sum:?}");
        assert!(sum.reconciles, "{sum:?}");
        let count = |outcome| {
            report
                .images
                .iter()
                .filter(|row| row.outcome == outcome)
                .count() as u64
        };
        assert_eq!(count(Outcome::Delivered), sum.delivered, "{sum:?}");
        assert_eq!(count(Outcome::Quarantined), sum.quarantined, "{sum:?}");
        let clock = report.clock.expect("an estimate of the clocks' offset");
        assert!(clock.samples > 0 && clock.error_ns > 0, "{clock:?}");
        let delivered = report
            .images
            .iter()
            .filter(|row| row.outcome == Outcome::Delivered);
        let mut bytes = 0;
        for row in delivered {
            bytes += row.size;
            assert!(row.transmission_ns.is_some(), "{row:?}");
            assert!(row.delivery_ns.is_some_and(|time| time > 0), "{row:?}");
            let times = [row.first_byte, row.last_byte, row.verified, row.durable];
            assert!(times.iter().all(Option::is_some), "{row:?}");
            assert!(row.captured.is_some() && row.queued.is_some(), "{row:?}");
        }
        assert_eq!(bytes, sum.bytes);
        assert_eq!(report.transmission.is_some(), sum.delivered > 0);
        assert_eq!(report.delivery.is_some(), sum.delivered > 0);
    }
    let facts = |report: &Report| {
        let mut rows: Vec<_> = report
            .images
            .iter()
            .filter(|row| matches!(row.outcome, Outcome::Delivered | Outcome::Quarantined))
            .map(|row| {
                (
                    row.sequence,
                    row.image_id,
                    row.name.clone(),
                    row.size,
                    row.delivery_ns,
                )
            })
            .collect();
        rows.sort();
        rows
    };
    assert_eq!(facts(receiver), facts(transmitter));
    let (one, other) = (&receiver.totals, &transmitter.totals);
    assert_eq!((one.retries, one.bytes), (other.retries, other.bytes));
}

/// Names that a folder may hold and a careless program stumbles over.
const NAMES: [&str; 6] = [
    "with some  spaces.jpg",
    "Grüße aus 東京 🗼.jpg",
    "twice..dotted...jpg",
    "100% \"quoted\", and; more=.jpg",
    "-rf.jpg",
    "back\\slash\\..\\.jpg",
];

async fn many_images_in_flight_all_arrive_and_the_reports_reconcile(
    route: Route,
    digest: DigestAlgorithm,
) {
    const PLAIN: usize = 94;
    let pair = Pair::start(route, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let mut sent = Vec::new();
    for (seed, name) in (0..).zip(NAMES) {
        sent.push((name.to_owned(), jpeg(100 + seed).bytes));
    }
    for index in 0..PLAIN {
        sent.push((format!("frame-{index:03}.png"), png(index as u32).bytes));
    }
    for (name, bytes) in &sent {
        write_file(&folder.path().join(name), bytes);
    }
    let path = folder.path().to_str().unwrap();
    let flags = [
        "--folder",
        path,
        "--once",
        "--run",
        "many",
        "--digest",
        digest.key(),
    ];
    // A socket that waits takes one receiver at a time.
    let connections = if route == Route::Listen { "1" } else { "2" };
    let summary = pair
        .transmit(&[&flags[..], &["--connections", connections]].concat())
        .await;
    assert_eq!(summary.outcome, RunOutcome::Delivered);
    let report = pair.station.report("many").await;
    reconciles(&report, &totals(&summary.reports), sent.len() as u64);
    assert_eq!(report.totals.delivered, sent.len() as u64);
    assert_eq!(report.totals.retries, 0);
    for (name, bytes) in &sent {
        let row = report
            .images
            .iter()
            .find(|row| row.name.as_ref() == Some(name));
        let row = row.unwrap_or_else(|| panic!("{name:?} is in the report"));
        let stored = pair
            .station
            .get(&format!("/v1/images/{}", row.image_id))
            .await;
        assert!(stored.body == *bytes, "{name:?} came through unchanged");
    }
    assert_eq!(pair.station.data().images().len(), sent.len());
}

async fn names_are_text_and_never_paths(route: Route, digest: DigestAlgorithm) {
    let pair = Pair::start(route, &[]).await;
    let connection = pair.connect(&[]).await;
    let outside = pair.station.data().path().with_file_name("outside.jpg");
    let absolute = outside.to_str().unwrap().to_owned();
    let names = [
        "../../outside.jpg",
        &absolute,
        "..",
        "a/../../b.jpg",
        "line\nbreak.jpg",
        "..\\up.jpg",
    ];
    for (seed, name) in (0..).zip(names) {
        let picture = jpeg(200 + seed);
        let image = owed(&picture.bytes, name, picture.media_type, digest);
        deliver(&*connection, &image).await.unwrap();
        let facts = pair
            .station
            .get(&format!("/v1/images/{}/timeline", image.meta.id))
            .await;
        assert_eq!(facts.json()["name"], *name, "the name is kept as it was");
    }
    assert!(!outside.exists());
    let root = pair.station.data().path().join("images");
    let files = pair.station.data().images();
    assert_eq!(files.len(), names.len());
    for file in files {
        let below = file
            .strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-/.".contains(letter);
        assert!(below.chars().all(plain) && !below.contains(".."), "{below}");
    }
}

async fn quarantined_images_are_accounted_for_on_both_sides(route: Route, digest: DigestAlgorithm) {
    let pair = Pair::start(route, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, ..) in improper() {
        write_file(&folder.path().join(name), &bytes);
    }
    for seed in 0..3 {
        write_file(
            &folder.path().join(format!("{seed}.webp")),
            &webp(seed).bytes,
        );
    }
    let path = folder.path().to_str().unwrap();
    let flags = [
        "--folder",
        path,
        "--once",
        "--run",
        "mixed",
        "--digest",
        digest.key(),
    ];
    let summary = pair.transmit(&flags).await;
    assert_eq!(summary.outcome, RunOutcome::Quarantined);
    let report = pair.station.report("mixed").await;
    let captured = report.totals.captured;
    reconciles(&report, &totals(&summary.reports), captured);
    assert_eq!(report.totals.delivered, 3);
    // A folder may leave an empty file alone: it could be one that is still to be written.
    let quarantined = report.totals.quarantined as usize;
    assert_eq!(quarantined, improper().len(), "{:#?}", report.images);
    for (name, _, _, reason) in improper() {
        let told = summary.reports[0]
            .images
            .iter()
            .find(|row| row.name.as_deref() == Some(name));
        let told = told
            .unwrap_or_else(|| panic!("{name} is in the report"))
            .reason
            .clone();
        assert!(told.unwrap().starts_with(reason.key()), "{name}");
    }
}

async fn lost_images_are_accounted_for_on_both_sides(route: Route, digest: DigestAlgorithm) {
    let pair = Pair::start(route, &["--max-image-size", "50KiB"]).await;
    let folder = tempfile::tempdir().unwrap();
    let pictures: [(&str, Picture); 3] = [
        ("a.jpg", jpeg(1)),
        ("b.png", large(80_000, 2)),
        ("c.webp", pictures::webp(3)),
    ];
    for (name, picture) in &pictures {
        write_file(&folder.path().join(name), &picture.bytes);
    }
    let path = folder.path().to_str().unwrap();
    let flags = [
        "--folder",
        path,
        "--once",
        "--run",
        "limits",
        "--digest",
        digest.key(),
    ];
    let summary = pair.transmit(&flags).await;
    assert_eq!(summary.outcome, RunOutcome::Lost);
    let report = pair.station.report("limits").await;
    reconciles(&report, &totals(&summary.reports), 3);
    assert_eq!((report.totals.delivered, report.totals.lost), (2, 1));
    assert_eq!(report.totals.rejected, 1);
    let lost = summary.reports[0]
        .images
        .iter()
        .find(|row| row.outcome == Outcome::Lost)
        .unwrap();
    assert_eq!(lost.name.as_deref(), Some("b.png"));
    assert!(
        lost.reason
            .as_ref()
            .unwrap()
            .contains("RECEIVER_MAX_IMAGE_SIZE"),
        "{lost:?}"
    );
    assert_eq!(route::NAME, report.transmitter);
}
