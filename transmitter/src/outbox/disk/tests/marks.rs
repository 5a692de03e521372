//! Files of a folder source, and the marks that tell them from new ones.

use super::*;

fn mark(path: &str) -> FileMark {
    FileMark {
        path: path.into(),
        size: 6,
        modified: 5,
        transport: Transport::Grpc,
    }
}

fn from_file(path: &str, bytes: &[u8]) -> Owed {
    let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
    meta.digest = Some(DigestAlgorithm::Blake3.digest(bytes));
    Owed {
        meta,
        payload: Payload::File {
            path: path.into(),
            size: bytes.len() as u64,
        },
        source_file: Some(path.into()),
        source_mark: Some(mark(path)),
        carried: false,
    }
}

fn write(disk: &SimDisk, path: &str, bytes: &'static [u8]) {
    let file = disk.create(Path::new(path)).expect("new");
    file.write_at(&[Bytes::from_static(bytes)], 0)
        .expect("space");
}

#[tokio::test]
async fn files_come_in_by_a_second_name_a_copy_or_a_reference() {
    for files in [OutboxFiles::Link, OutboxFiles::Copy, OutboxFiles::Reference] {
        let disk = sim();
        let options = OutboxOptions { files, ..options() };
        write(&disk, "/source/a", b"pixels");
        disk.sync_folder(Path::new("/source")).expect("power");
        disk.open(Path::new("/source/a"), true)
            .and_then(|file| file.sync())
            .expect("power");
        let outbox = begun(&disk, &options).await;
        outbox
            .push(from_file("/source/a", b"pixels"))
            .await
            .expect("room");
        drop(outbox);
        let disk = disk.crash(1);
        let outbox = open(&disk, &options);
        let image = outbox.take().await.expect("one is waiting");
        assert_eq!(image.source_file.as_deref(), Some(Path::new("/source/a")));
        assert_eq!(image.source_mark, Some(mark("/source/a")));
        assert_eq!(content(&disk, &image).as_deref(), Some(&b"pixels"[..]));
        let own = matches!(&image.payload, Payload::File { path, .. } if path.starts_with(ROOT));
        assert_eq!(own, files != OutboxFiles::Reference);
    }
}

#[tokio::test]
async fn an_answered_image_whose_bytes_are_elsewhere_is_not_owed_after_a_power_loss() {
    let disk = sim();
    let files = OutboxFiles::Reference;
    let options = OutboxOptions { files, ..options() };
    write(&disk, "/source/a", b"pixels");
    let outbox = begun(&disk, &options).await;
    let image = from_file("/source/a", b"pixels");
    outbox.push(image).await.expect("room");
    let image = outbox.take().await.expect("one is waiting");
    let settled = outbox.settle(image.meta.id, Outcome::Delivered).await;
    settled.expect("settled");
    // Its owner may remove the file now, and then the power goes.
    let disk = disk.crash(1);
    drop(outbox);
    let outbox = open(&disk, &options);
    assert_eq!(outbox.backlog().images, 0);
}

#[tokio::test]
async fn a_file_that_changed_since_it_was_captured_is_unreadable() {
    for files in [OutboxFiles::Copy, OutboxFiles::Link, OutboxFiles::Reference] {
        let disk = sim();
        write(&disk, "/source/a", b"pixels and more");
        let outbox = begun(&disk, &OutboxOptions { files, ..options() }).await;
        let image = from_file("/source/a", b"pixels");
        let meta = image.meta.clone();
        let error = outbox.push(image).await.expect_err("it changed");
        let text = shared::telemetry::chain(&error);
        assert!(text.contains("changed"), "{text}");
        outbox.lose(meta, "unreadable").await.expect("a ledger");
        assert!(
            outbox.knows(&mark("/source/a")).await.expect("power"),
            "it was lost"
        );
        let missing = outbox.push(from_file("/source/b", b"pixels")).await;
        assert!(matches!(missing, Err(OutboxError::Unreadable(_))));
        outbox.shut().await;
        assert_eq!(super::files(&disk), [] as [PathBuf; 0]);
    }
}

#[tokio::test]
async fn a_mark_lasts_beyond_its_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.jpg");
    std::fs::write(&path, b"pixels").expect("a file");
    let path = path.to_str().expect("text").to_owned();
    let root = folder.path().join("outbox");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let open = || DiskOutbox::open(Arc::clone(&disk), &root, &options(), Order::OldestFirst);
    let outbox = open().expect("an outbox");
    outbox.begin_series(series()).await.expect("a series");
    assert!(!outbox.knows(&mark(&path)).await.expect("power"));
    outbox
        .push(from_file(&path, b"pixels"))
        .await
        .expect("room");
    assert!(outbox.knows(&mark(&path)).await.expect("power"));
    let image = outbox.take().await.expect("one is waiting");
    outbox
        .settle(image.meta.id, Outcome::Delivered)
        .await
        .expect("settled");
    outbox.shut().await;
    let outbox = open().expect("an outbox");
    assert!(outbox.knows(&mark(&path)).await.expect("power"));
    for another in [
        FileMark {
            modified: 6,
            ..mark(&path)
        },
        FileMark {
            transport: Transport::Rest,
            ..mark(&path)
        },
    ] {
        assert!(!outbox.knows(&another).await.expect("power"));
    }
    outbox.shut().await;
    assert!(Path::new(&path).exists(), "the source is not the outbox's");
}

#[test]
fn marks_of_files_that_are_gone_are_forgotten_unless_the_folder_is() {
    let disk = sim();
    write(&disk, "/source/other", b"x");
    let shared_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let core = recovery::open(
        &shared_disk,
        Path::new(ROOT),
        &core_options(&options(), boot()),
    )
    .expect("an outbox");
    let marks = ["/source/a", "/away/b", "/source/other"].map(mark);
    core.index
        .write(|change| marks.iter().try_for_each(|mark| change.put_mark(1, mark)))
        .expect("power");
    let counters = core.index.read(View::counters).expect("power");
    let index = Arc::clone(&core.index);
    let shared = Arc::new(Shared {
        disk: shared_disk,
        layout: core.layout.clone(),
        index: Arc::clone(&index),
        outbox: core.outbox,
        limit: 1,
        min_free: 0,
        when_full: WhenFull::Block,
        began_at: 1,
        state: Mutex::new(State::new(Order::OldestFirst, &counters, Vec::new())),
        room: Notify::new(),
        work: Notify::new(),
        loss: Notify::new(),
    });
    let (_jobs, receiver) = mpsc::channel();
    let mut writer = Writer::new(core, shared, receiver);
    assert!(!writer.prune_marks().expect("power"));
    let known = marks.map(|mark| {
        let key = mark_key(&mark);
        index.read(|view| view.has_mark(key)).expect("power")
    });
    // One folder is there without the file; the other is empty, and perhaps not mounted.
    assert_eq!(known, [false, true, true]);
}
