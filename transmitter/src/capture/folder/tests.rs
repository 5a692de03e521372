use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::capture::{Settled, Taken, settle_file};
use crate::config::AfterDelivery;

const HOUR: Duration = Duration::from_secs(3600);

fn options(dir: &TempDir) -> FolderOptions {
    FolderOptions {
        path: dir.path().to_owned(),
        recursive: true,
        include: Vec::new(),
        once: false,
        rescan: HOUR,
        after_delivery: AfterDelivery::Keep,
        recapture: false,
    }
}

fn once(dir: &TempDir) -> FolderOptions {
    FolderOptions {
        once: true,
        ..options(dir)
    }
}

/// A source that is told nothing by the system, for tests in which time is invented.
async fn scanning(options: FolderOptions) -> FolderSource {
    let mut source = FolderSource::open(&FolderOptions {
        rescan: Duration::from_secs(30),
        ..options
    })
    .await
    .unwrap();
    source.watch = None;
    source
}

/// A source that takes only what the system tells: scans find files but never finish them.
async fn watching(options: FolderOptions) -> FolderSource {
    let mut source = FolderSource::open(&options).await.unwrap();
    assert!(source.watch.is_some());
    source.settling = Settling::new(HOUR);
    source
}

fn write(dir: &TempDir, name: &str, content: &str, age: Duration) -> PathBuf {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    set_modified(&path, SystemTime::now() - age);
    path
}

fn set_modified(path: &Path, time: SystemTime) {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

async fn take(source: &mut FolderSource) -> Captured {
    // Far more than is ever needed, in real or invented time.
    timeout(HOUR / 2, source.next())
        .await
        .expect("in time")
        .unwrap()
        .expect("an image")
}

async fn name_of_next(source: &mut FolderSource) -> String {
    take(source).await.name.unwrap()
}

async fn takes_nothing_for(source: &mut FolderSource, time: Duration) {
    assert!(timeout(time, source.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn once_takes_what_is_there_oldest_first_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "b.jpg", "1", HOUR);
    write(&dir, "sub/wörld 2.PNG", "22", 2 * HOUR);
    write(&dir, "a.jpg", "", HOUR / 2);
    write(&dir, "note.txt", "no image", HOUR);
    let mut source = FolderSource::open(&once(&dir)).await.unwrap();
    assert!(source.is_finite());
    let first = take(&mut source).await;
    assert_eq!(first.name.as_deref(), Some("sub/wörld 2.PNG"));
    assert_eq!(first.content_type.as_deref(), Some("image/png"));
    assert_eq!(first.payload.size(), 2);
    assert_eq!(first.source_file, Some(dir.path().join("sub/wörld 2.PNG")));
    assert_eq!(name_of_next(&mut source).await, "b.jpg");
    assert_eq!(name_of_next(&mut source).await, "a.jpg");
    for _ in 0..2 {
        assert!(source.next().await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn once_of_an_empty_folder_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = FolderSource::open(&once(&dir)).await.unwrap();
    assert!(source.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn once_waits_for_a_file_that_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "a.jpg", "part", Duration::ZERO);
    // A date in the future says nothing of its age, however slow the test is.
    let future = SystemTime::now() + HOUR;
    set_modified(&path, future);
    let mut source = FolderSource::open(&once(&dir)).await.unwrap();
    takes_nothing_for(&mut source, SETTLING * 9 / 10).await;
    fs::write(&path, "the whole").unwrap();
    set_modified(&path, future);
    takes_nothing_for(&mut source, SETTLING * 9 / 10).await;
    assert_eq!(take(&mut source).await.payload.size(), 9);
    assert!(source.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_vanishes_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "a.jpg", "1", 2 * HOUR);
    let vanishing = write(&dir, "b.jpg", "1", HOUR);
    let mut source = FolderSource::open(&once(&dir)).await.unwrap();
    take(&mut source).await;
    fs::remove_file(vanishing).unwrap();
    assert!(source.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_vanishes_while_it_settles_ends_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "a.jpg", "1", Duration::ZERO);
    set_modified(&path, SystemTime::now() + HOUR);
    let mut source = FolderSource::open(&once(&dir)).await.unwrap();
    takes_nothing_for(&mut source, SETTLING / 2).await;
    fs::remove_file(path).unwrap();
    assert!(source.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changes_before_its_turn_settles_again() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "a.jpg", "1", 2 * HOUR);
    write(&dir, "b.jpg", "1", HOUR);
    let mut source = FolderSource::open(&once(&dir)).await.unwrap();
    take(&mut source).await;
    write(&dir, "b.jpg", "longer", HOUR);
    takes_nothing_for(&mut source, SETTLING / 2).await;
    assert_eq!(take(&mut source).await.payload.size(), 6);
}

#[tokio::test(start_paused = true)]
async fn scans_find_new_and_rewritten_files_and_take_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = scanning(options(&dir)).await;
    assert!(!source.is_finite());
    takes_nothing_for(&mut source, HOUR / 4).await;
    write(&dir, "new/a.jpg", "1", HOUR);
    let first = take(&mut source).await;
    takes_nothing_for(&mut source, HOUR / 4).await;
    write(&dir, "new/a.jpg", "rewritten", HOUR);
    let second = take(&mut source).await;
    assert_ne!(first.id, second.id);
    assert_eq!(
        (second.name.as_deref(), second.payload.size()),
        (Some("new/a.jpg"), 9)
    );
    takes_nothing_for(&mut source, HOUR / 4).await;
}

#[tokio::test(start_paused = true)]
async fn giving_up_waiting_loses_no_image() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.jpg", "b.jpg", "c.jpg"] {
        write(&dir, name, "1", HOUR);
    }
    let mut source = FolderSource::open(&once(&dir)).await.unwrap();
    let mut names = Vec::new();
    loop {
        // Polled once and dropped, as in a select that something else wins.
        match futures_util::FutureExt::now_or_never(source.next()) {
            Some(image) => match image.unwrap() {
                Some(image) => names.push(image.name.unwrap()),
                None => break,
            },
            None => tokio::task::yield_now().await,
        }
        if names.len() == 1 {
            names.push(name_of_next(&mut source).await);
        }
    }
    assert_eq!(names, ["a.jpg", "b.jpg", "c.jpg"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_archived_within_the_folder_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("./sub/../done/2024");
    fs::create_dir(dir.path().join("sub")).unwrap();
    let policy = AfterDelivery::Archive(archive);
    let mut source = scanning(FolderOptions {
        after_delivery: policy.clone(),
        ..options(&dir)
    })
    .await;
    write(&dir, "sub/a.jpg", "1", HOUR);
    let image = take(&mut source).await;
    let taken = Taken {
        size: image.payload.size(),
        captured: image.captured,
        linked: None,
    };
    let file = image.source_file.unwrap();
    let settled = settle_file(&policy, Some(dir.path()), &file, &taken).unwrap();
    let Settled::Archived(to) = settled else {
        panic!("{settled:?}")
    };
    assert!(to.exists() && to.ends_with("done/2024/sub/a.jpg"));
    takes_nothing_for(&mut source, HOUR / 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_comes_back_is_watched_on() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("stick");
    fs::create_dir(&root).unwrap();
    let mut source = scanning(FolderOptions {
        path: root.clone(),
        ..options(&dir)
    })
    .await;
    takes_nothing_for(&mut source, HOUR / 4).await;
    fs::remove_dir(&root).unwrap();
    takes_nothing_for(&mut source, HOUR / 4).await;
    write(&dir, "stick/a.jpg", "1", HOUR);
    assert_eq!(name_of_next(&mut source).await, "a.jpg");
    assert!(source.watch.is_some());
}

#[tokio::test]
async fn a_file_is_taken_when_its_writer_closes_it_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = watching(options(&dir)).await;
    let mut open = fs::File::create(dir.path().join("open.jpg")).unwrap();
    open.write_all(b"part").unwrap();
    fs::write(dir.path().join("closed.jpg"), "1").unwrap();
    assert_eq!(name_of_next(&mut source).await, "closed.jpg");
    open.write_all(b" and rest").unwrap();
    drop(open);
    let image = take(&mut source).await;
    assert_eq!(
        (image.name.as_deref(), image.payload.size()),
        (Some("open.jpg"), 13)
    );
}

#[tokio::test]
async fn a_file_is_taken_when_it_gets_its_final_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = watching(options(&dir)).await;
    let partial = dir.path().join("a.jpg.part");
    fs::write(&partial, "1").unwrap();
    fs::rename(&partial, dir.path().join("a.jpg")).unwrap();
    assert_eq!(name_of_next(&mut source).await, "a.jpg");
    fs::write(dir.path().join("b.jpg"), "1").unwrap();
    assert_eq!(
        name_of_next(&mut source).await,
        "b.jpg",
        "the first was taken once"
    );
}

#[tokio::test]
async fn a_file_that_is_rewritten_is_a_new_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = watching(options(&dir)).await;
    for content in ["1", "22", "333"] {
        fs::write(dir.path().join("latest.jpg"), content).unwrap();
        assert_eq!(take(&mut source).await.payload.size(), content.len() as u64);
    }
}

#[tokio::test]
async fn folders_that_are_made_later_are_watched_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = FolderSource::open(&options(&dir)).await.unwrap();
    write(&dir, "new/deep/a.jpg", "1", HOUR);
    assert_eq!(name_of_next(&mut source).await, "new/deep/a.jpg");
    fs::write(dir.path().join("new/deep/b.jpg"), "1").unwrap();
    assert_eq!(name_of_next(&mut source).await, "new/deep/b.jpg");
}

#[tokio::test]
async fn a_relative_folder_is_watched_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let here = std::env::current_dir().unwrap();
    let mut path: PathBuf = here.components().skip(1).map(|_| "..").collect();
    path.push(dir.path().strip_prefix("/").unwrap());
    assert!(path.is_relative());
    let mut source = watching(FolderOptions {
        path,
        ..options(&dir)
    })
    .await;
    fs::write(dir.path().join("a.jpg"), "1").unwrap();
    assert_eq!(name_of_next(&mut source).await, "a.jpg");
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, "a.jpg", "1", HOUR);
    let problem = async |options: FolderOptions| {
        FolderSource::open(&options)
            .await
            .err()
            .expect("an error")
            .to_string()
    };
    let at = |path: PathBuf| FolderOptions {
        path,
        ..options(&dir)
    };
    assert!(
        problem(at(dir.path().join("none")))
            .await
            .contains("no such folder")
    );
    assert!(problem(at(file)).await.contains("use --file"));
    let globs = FolderOptions {
        include: vec!["a[".into()],
        ..options(&dir)
    };
    assert!(problem(globs).await.contains("\"a[\" is no glob"));
    for archive in [
        dir.path().to_owned(),
        dir.path().parent().unwrap().to_owned(),
    ] {
        let after_delivery = AfterDelivery::Archive(archive);
        let error = problem(FolderOptions {
            after_delivery,
            ..options(&dir)
        })
        .await;
        assert!(
            error.contains("the archive holds the watched folder"),
            "{error}"
        );
    }
}
