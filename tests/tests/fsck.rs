//! `pantelegraph-receiver fsck`, and what a receiver finds that was killed, as processes.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::Path;

use pantelegraph_tests::pictures::{Picture, png};
use pantelegraph_tests::process::{Finished, Process, addresses, run};
use pantelegraph_tests::raw::{RawSession, begin, chunk, end};
use pantelegraph_tests::station::files_below;
use rustix::process::Signal;
use serde_json::Value;
use shared::image::ImageId;
use shared::receipt::ReceiptStatus;
use shared::wire::ClientMessage;

const RECEIVER: &str = env!("CARGO_BIN_EXE_receiver-under-test");

/// Starts a receiver on the folder `data`, and a session with it.
async fn receiver(folder: &Path) -> (Process, RawSession) {
    let args = [
        "--grpc-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
        "--data",
        "data",
    ];
    let mut process = Process::start(RECEIVER, folder, &args);
    let (grpc, _) = addresses(&process.line().await);
    let mut session = RawSession::grpc(grpc).await;
    session.hello().await;
    (process, session)
}

async fn store(session: &mut RawSession, picture: &Picture) -> ImageId {
    let (id, begin) = begin(picture);
    session.send(begin).await;
    session.send(chunk(id, 0, &picture.bytes)).await;
    session.send(end(id)).await;
    let receipt = session.answer().await.unwrap();
    assert_eq!(receipt.status, ReceiptStatus::Stored);
    id
}

async fn fsck(folder: &Path, flags: &[&str]) -> Finished {
    let args = [&["fsck", "--data", "data"], flags].concat();
    run(RECEIVER, folder, &args).await
}

async fn findings(folder: &Path, flags: &[&str]) -> (i32, Value) {
    let finished = fsck(folder, &[&["--output", "json"], flags].concat()).await;
    let found = serde_json::from_str(&finished.stdout);
    (
        finished.code(),
        found.unwrap_or_else(|error| panic!("{error}: {finished:?}")),
    )
}

#[tokio::test]
async fn a_folder_in_order_is_found_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let (process, mut session) = receiver(folder.path()).await;
    for seed in 0..3 {
        store(&mut session, &png(seed)).await;
    }
    drop(session);
    let busy = fsck(folder.path(), &[]).await;
    assert_eq!(busy.code(), 74, "{busy:?}");
    assert!(
        busy.stderr.contains(&format!("process {}", process.id())),
        "{busy:?}"
    );
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.code(), 0);

    let finished = fsck(folder.path(), &[]).await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(
        finished.stdout.contains("Everything is in order"),
        "{finished:?}"
    );
    assert_eq!(finished.stderr, "", "no bar in a pipe");
    let (code, found) = findings(folder.path(), &[]).await;
    assert_eq!(code, 0);
    assert_eq!(
        (&found["entries"], &found["good"]),
        (&Value::from(3), &Value::from(3))
    );
    assert_eq!(found["stopped_in_order"], true);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_put_in_order_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let (process, mut session) = receiver(folder.path()).await;
    let picture = png(1);
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(store(&mut session, &picture).await);
    }
    drop(session);
    process.signal(Signal::TERM);
    process.end().await;
    let data = folder.path().join("data");
    let files = files_below(&data.join("images"));
    let of = |id: &ImageId| {
        let name = id.to_string();
        let mut files = files.iter();
        files
            .find(|file| file.to_str().unwrap().contains(&name))
            .unwrap()
    };
    std::fs::remove_file(of(&ids[0])).unwrap();
    let mut bytes = std::fs::read(of(&ids[1])).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(of(&ids[1]), &bytes).unwrap();
    std::fs::write(of(&ids[2]), b"short").unwrap();
    let orphan = of(&ids[3]).with_file_name(format!("{}.png", ImageId::new()));
    std::fs::write(&orphan, &picture.bytes).unwrap();

    for flags in [&[][..], &["--repair"]] {
        let (code, found) = findings(folder.path(), flags).await;
        let count = |key: &str| found[key].as_u64().unwrap();
        assert_eq!(
            (count("missing"), count("damaged"), count("orphans")),
            (1, 2, 1)
        );
        assert_eq!(count("good"), 1);
        assert_eq!(count("repaired"), if flags.is_empty() { 0 } else { 4 });
        assert_eq!(code, i32::from(flags.is_empty()));
    }
    let text = fsck(folder.path(), &[]).await;
    assert_eq!(text.code(), 0, "{text:?}");
    assert_eq!(files_below(&data.join("orphans")).len(), 3);
    assert_eq!(files_below(&data.join("images")), [of(&ids[3]).clone()]);

    // What is lost is welcome again, and no duplicate.
    let (process, mut session) = receiver(folder.path()).await;
    for id in &ids[..3] {
        let picture = png(1);
        let (_, begin) = begin(&picture);
        session.send(with_id(begin, *id)).await;
        session.send(chunk(*id, 0, &picture.bytes)).await;
        session.send(end(*id)).await;
        let receipt = session.answer().await.unwrap();
        assert_eq!(
            (receipt.image_id, receipt.status),
            (*id, ReceiptStatus::Stored)
        );
    }
    process.signal(Signal::TERM);
    process.end().await;
    assert_eq!(fsck(folder.path(), &[]).await.code(), 0);
}

fn with_id(message: ClientMessage, id: ImageId) -> ClientMessage {
    match message {
        ClientMessage::Begin(mut begin) => {
            begin.meta.id = id;
            ClientMessage::Begin(begin)
        }
        other => other,
    }
}

#[tokio::test]
async fn a_killed_receiver_leaves_what_it_had_and_the_next_one_puts_the_rest_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (process, mut session) = receiver(folder.path()).await;
    let stored = store(&mut session, &png(1)).await;
    process.signal(Signal::KILL);
    drop(session);
    process.end().await;
    let data = folder.path().join("data");
    let file = files_below(&data.join("images")).remove(0);
    let orphan = file.with_file_name(format!("{}.png", ImageId::new()));
    std::fs::write(&orphan, b"placed, not catalogued").unwrap();
    let (_, found) = findings(folder.path(), &[]).await;
    assert_eq!(found["stopped_in_order"], false);
    assert_eq!(found["orphans"], 1);

    let (mut process, session) = receiver(folder.path()).await;
    process.logged("files and catalogue agree again").await;
    assert!(!orphan.exists() && file.exists());
    drop(session);
    process.signal(Signal::TERM);
    process.end().await;
    let (code, found) = findings(folder.path(), &[]).await;
    assert_eq!((code, &found["stopped_in_order"]), (0, &Value::Bool(true)));
    assert!(file.to_str().unwrap().contains(&stored.to_string()));
}

#[tokio::test]
async fn a_folder_that_is_no_receivers_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let finished = fsck(folder.path(), &[]).await;
    assert_eq!(finished.code(), 74, "{finished:?}");
    assert!(!folder.path().join("data").exists());
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let finished = fsck(folder.path(), &[]).await;
    assert_eq!(finished.code(), 74, "{finished:?}");
    assert!(finished.stderr.contains("--data"), "{finished:?}");
    let help = run(RECEIVER, folder.path(), &["fsck", "--help"]).await;
    assert_eq!(help.code(), 0);
    for word in ["--repair", "Examples:", "Exit codes:", "orphans/"] {
        assert!(help.stdout.contains(word), "{help:?}");
    }
    let wrong = fsck(folder.path(), &["--output", "xml"]).await;
    assert_eq!(wrong.code(), 2, "{wrong:?}");
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (process, mut session) = receiver(folder.path()).await;
    for seed in 0..3 {
        store(&mut session, &png(seed)).await;
    }
    drop(session);
    process.signal(Signal::TERM);
    process.end().await;
    let data = folder.path().join("data");
    let file = files_below(&data.join("images")).remove(0);
    // For now, and for every user: a name that leads round in a circle.
    let away = folder.path().join("away");
    std::fs::rename(&file, &away).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    for flags in [&[][..], &["--repair"], &["--repair", "--accept-missing"]] {
        let (code, found) = findings(folder.path(), flags).await;
        assert_eq!(code, 1, "{found}");
        let figures = ["unreadable", "damaged", "missing", "repaired", "good"];
        let figures = figures.map(|key| found[key].as_u64().unwrap());
        assert_eq!(figures, [1, 0, 0, 0, 2], "{found}");
        assert_eq!(found["problems"][0]["kind"], "unreadable");
    }
    let text = fsck(folder.path(), &["--repair"]).await;
    assert!(text.stdout.contains("what cannot be read"), "{text:?}");
    assert!(!data.join("orphans").exists());
    std::fs::remove_file(&file).unwrap();
    std::fs::rename(&away, &file).unwrap();
    let (code, found) = findings(folder.path(), &[]).await;
    assert_eq!((code, &found["good"]), (0, &Value::from(3)));
}

#[tokio::test]
async fn images_that_are_all_missing_are_given_up_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let (process, mut session) = receiver(folder.path()).await;
    for seed in 0..3 {
        store(&mut session, &png(seed)).await;
    }
    drop(session);
    process.signal(Signal::TERM);
    process.end().await;
    let (images, away) = (
        folder.path().join("data/images"),
        folder.path().join("away"),
    );
    std::fs::rename(&images, &away).unwrap();
    // Not there, and there without anything in it, as where nothing is mounted.
    for make in [false, true] {
        if make {
            std::fs::create_dir(&images).unwrap();
        }
        let (code, found) = findings(folder.path(), &[]).await;
        assert_eq!((code, &found["missing"]), (1, &Value::from(3)));
        let refused = fsck(folder.path(), &["--repair"]).await;
        assert_eq!(refused.code(), 74, "{refused:?}");
        for words in ["3 of 3 images are missing", "mount", "--accept-missing"] {
            assert!(refused.stderr.contains(words), "{refused:?}");
        }
    }
    std::fs::remove_dir(&images).unwrap();
    std::fs::rename(&away, &images).unwrap();
    let (code, found) = findings(folder.path(), &["--repair"]).await;
    assert_eq!((code, &found["good"]), (0, &Value::from(3)));
    std::fs::rename(&images, &away).unwrap();
    let (code, found) = findings(folder.path(), &["--repair", "--accept-missing"]).await;
    assert_eq!((code, &found["repaired"]), (0, &Value::from(3)));
}
