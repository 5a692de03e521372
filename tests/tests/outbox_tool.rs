//! `pantelegraph-transmitter outbox`, as a process.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use pantelegraph_tests::process::{Finished, run};
use pantelegraph_transmitter::config::{
    Order, OutboxDurability, OutboxFiles, OutboxOptions, OutboxPlace, WhenFull,
};
use pantelegraph_transmitter::outbox::{Owed, SeriesKey, open};
use pantelegraph_transmitter::payload::Payload;
use serde_json::Value;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::settings::units::ByteSize;

const TRANSMITTER: &str = env!("CARGO_BIN_EXE_transmitter-under-test");

fn options(folder: &Path) -> OutboxOptions {
    OutboxOptions {
        place: OutboxPlace::Folder(folder.join("outbox")),
        memory: ByteSize::mib(1),
        limit: ByteSize::mib(64),
        min_free: ByteSize(0),
        when_full: WhenFull::Block,
        durability: OutboxDurability::Synced,
        files: OutboxFiles::Link,
    }
}

/// A folder with an outbox that a transmitter has left `images` images in.
async fn left(images: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&options(folder.path()), Order::OldestFirst)
        .await
        .unwrap();
    let series = SeriesKey {
        run: "night".to_owned(),
        transport: Transport::Grpc,
    };
    opened.outbox.begin_series(series).await.unwrap();
    for number in 0..images {
        let bytes = Bytes::from(vec![7; 1_000 + number as usize]);
        let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
        meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
        let image = Owed {
            meta,
            payload: Payload::Memory(bytes),
            source_file: None,
            source_mark: None,
            carried: false,
        };
        opened.outbox.push(image).await.unwrap();
    }
    opened.outbox.shut().await;
    folder
}

async fn outbox(folder: &Path, args: &[&str]) -> Finished {
    run(TRANSMITTER, folder, &[&["outbox"], args].concat()).await
}

async fn listed(folder: &Path, args: &[&str]) -> Vec<Value> {
    let args = [&["list", "--output", "json", "--limit", "all"], args].concat();
    let finished = outbox(folder, &args).await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let lines = finished.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn image_files(folder: &Path) -> Vec<PathBuf> {
    let segments = std::fs::read_dir(folder.join("outbox/images")).unwrap();
    let mut files: Vec<PathBuf> = segments
        .flat_map(|segment| std::fs::read_dir(segment.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_owed_is_listed_and_shown() {
    let folder = left(3).await;
    let images = listed(folder.path(), &[]).await;
    let numbers: Vec<u64> = images
        .iter()
        .map(|image| image["sequence"].as_u64().unwrap())
        .collect();
    assert!(numbers.is_sorted() && numbers.len() >= 3, "{numbers:?}");
    assert_eq!(images[0]["run"], "night");
    let finished = outbox(folder.path(), &["list", "--limit", "2"]).await;
    assert_eq!(
        (finished.code(), &*finished.stderr),
        (0, ""),
        "{finished:?}"
    );
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(
        lines.len(),
        4,
        "heading, two, and that there are more: {lines:?}"
    );
    assert!(lines[3].contains("--limit all"), "{}", lines[3]);
    assert!(!finished.stdout.contains('\u{1b}'));
    let id = text(&images[1]["image_id"]);
    for name in [id.clone(), numbers[1].to_string()] {
        let finished = outbox(folder.path(), &["show", &name]).await;
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert!(finished.stdout.contains(&id) && finished.stdout.contains("whole"));
    }
    let finished = outbox(folder.path(), &["show", "999999"]).await;
    assert_eq!(finished.code(), 4, "{finished:?}");
    assert!(finished.stderr.contains("999999"), "{}", finished.stderr);
}

#[tokio::test]
async fn a_damaged_image_is_found_repaired_and_not_put_back() {
    let folder = left(2).await;
    let owed = listed(folder.path(), &[]).await.len();
    let files = image_files(folder.path());
    let mut bytes = std::fs::read(&files[0]).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&files[0], &bytes).unwrap();
    std::fs::write(folder.path().join("outbox/images/000/notes.txt"), "mine").unwrap();
    let finished = outbox(folder.path(), &["fsck"]).await;
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stdout.contains("1 damaged"), "{}", finished.stdout);
    assert!(finished.stdout.contains("notes.txt"), "{}", finished.stdout);
    assert_eq!(
        listed(folder.path(), &[]).await.len(),
        owed,
        "nothing is changed"
    );
    let finished = outbox(folder.path(), &["fsck", "--repair"]).await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let lost = listed(folder.path(), &["--ledger"]).await;
    assert_eq!(lost.len(), 1);
    assert!(text(&lost[0]["reason"]).contains("found by fsck"));
    assert_eq!(listed(folder.path(), &[]).await.len(), owed - 1);
    let finished = outbox(folder.path(), &["fsck"]).await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let id = text(&lost[0]["image_id"]);
    assert_eq!(listed(folder.path(), &["--quarantine"]).await.len(), 1);
    let finished = outbox(folder.path(), &["requeue", &id]).await;
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.contains("digest"), "{}", finished.stderr);
    // Whole again, it may go back.
    *bytes.last_mut().unwrap() ^= 1;
    let name = files[0].file_name().unwrap();
    std::fs::write(folder.path().join("outbox/quarantine").join(name), &bytes).unwrap();
    let finished = outbox(folder.path(), &["requeue", &id]).await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let images = listed(folder.path(), &[]).await;
    assert_eq!(images.len(), owed);
    let last = images.last().unwrap();
    assert_eq!(
        text(&last["image_id"]),
        id,
        "with a new number, the highest"
    );
    assert!(folder.path().join("outbox/images/000/notes.txt").exists());
}

#[tokio::test]
async fn what_is_dropped_is_on_the_ledger() {
    let folder = left(3).await;
    let owed = listed(folder.path(), &[]).await.len();
    let first = image_files(folder.path()).len();
    assert_eq!(first, owed);
    let finished = outbox(folder.path(), &["drop", "1"]).await;
    assert_eq!(finished.code(), 2, "nobody can be asked: {finished:?}");
    assert!(finished.stderr.contains("--yes"), "{}", finished.stderr);
    let finished = outbox(folder.path(), &["drop", "1", "--yes"]).await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let lost = listed(folder.path(), &["--ledger"]).await;
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0]["reason"], "dropped by hand");
    assert_eq!(lost[0]["told"], false);
    assert_eq!(image_files(folder.path()).len(), owed - 1);
    let finished = outbox(folder.path(), &["drop", "--all", "--yes"]).await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_eq!(listed(folder.path(), &["--ledger"]).await.len(), owed);
    assert_eq!(image_files(folder.path()), [] as [PathBuf; 0]);
    let finished = outbox(folder.path(), &["list"]).await;
    assert_eq!(finished.stdout, "nothing is owed\n");
}

#[tokio::test]
async fn whoever_has_it_open_is_named() {
    let folder = left(1).await;
    let opened = open(&options(folder.path()), Order::OldestFirst)
        .await
        .unwrap();
    for args in [
        &["list"][..],
        &["fsck", "--repair"],
        &["drop", "--all", "--yes"],
    ] {
        let finished = outbox(folder.path(), args).await;
        assert_eq!(finished.code(), 3, "{finished:?}");
        let process = format!("process {}", std::process::id());
        assert!(finished.stderr.contains(&process), "{}", finished.stderr);
    }
    assert_eq!(opened.outbox.backlog().images, 1);
}

#[tokio::test]
async fn help_and_mistakes_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let finished = outbox(folder.path(), &["--help"]).await;
    assert_eq!(
        (finished.code(), &*finished.stderr),
        (0, ""),
        "{finished:?}"
    );
    for word in ["Examples:", "Exit codes:", "requeue", "--outbox"] {
        assert!(
            finished.stdout.contains(word),
            "{word}: {}",
            finished.stdout
        );
    }
    let finished = outbox(folder.path(), &["mend"]).await;
    assert_eq!(finished.code(), 2, "{finished:?}");
    let finished = outbox(folder.path(), &["list", "--outbox", "nowhere"]).await;
    assert_eq!(finished.code(), 4, "{finished:?}");
    assert!(finished.stderr.contains("nowhere"), "{}", finished.stderr);
    assert!(!folder.path().join("nowhere").exists(), "it is not made");
}
