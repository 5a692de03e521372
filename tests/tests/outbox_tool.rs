//! `pantelegraph-transmitter outbox`, as a process.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::{Path, PathBuf};

use pantelegraph_tests::process::{Finished, Process, run};
use serde_json::Value;

const TRANSMITTER: &str = env!("CARGO_BIN_EXE_transmitter-under-test");

/// A folder with an outbox that `images` generated images were put into, and no receiver.
async fn left(images: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let count = images.to_string();
    let args = [
        "--pattern",
        "64x64",
        "--count",
        &count,
        "--outbox",
        "outbox",
        "--run",
        "night",
        "--to",
        "http://127.0.0.1:9",
        "--give-up-after",
        "1ms",
        "--retry-initial",
        "1ms",
        "--progress",
        "never",
    ];
    loop {
        // It gives up as soon as nobody answers; started again, it goes on with what it owes.
        run(TRANSMITTER, folder.path(), &args).await;
        let owed = listed(folder.path(), &[]).await.len();
        if owed >= images as usize {
            return folder;
        }
    }
}

async fn outbox(folder: &Path, args: &[&str]) -> Finished {
    run(TRANSMITTER, folder, &[&["outbox"], args].concat()).await
}

async fn listed(folder: &Path, args: &[&str]) -> Vec<Value> {
    let args = [&["list", "--output", "json", "--limit", "all"], args].concat();
    let finished = outbox(folder, &args).await;
    if finished.code() == 4 {
        return Vec::new();
    }
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
async fn a_running_transmitter_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "--pattern",
        "64x64",
        "--count",
        "1",
        "--outbox",
        "outbox",
        "--listen",
        "127.0.0.1:0",
        "--transport",
        "websocket",
    ];
    let mut process = Process::start(TRANSMITTER, folder.path(), &args);
    process.line().await;
    // Its outbox is opened soon after.
    let finished = loop {
        let finished = outbox(folder.path(), &["list"]).await;
        if finished.code() != 4 && finished.code() != 0 {
            break finished;
        }
    };
    assert_eq!(finished.code(), 3, "{finished:?}");
    let pid = format!("process {}", process.id());
    assert!(finished.stderr.contains(&pid), "{}", finished.stderr);
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
