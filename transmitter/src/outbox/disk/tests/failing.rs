//! A medium whose syncs fail, and what was meant to be there.

use super::*;

fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// All that is owed; nothing is afterwards.
async fn owed(outbox: &DiskOutbox) -> Vec<ImageId> {
    let mut ids = Vec::new();
    outbox.close();
    while let Some(image) = outbox.take().await {
        ids.push(image.meta.id);
        let settled = outbox.settle(image.meta.id, Outcome::Delivered).await;
        settled.expect("power");
    }
    ids
}

/// A sync that failed once has lost what it was to write, though everybody still reads it.
#[tokio::test]
async fn what_counts_as_kept_after_a_failed_sync_outlasts_a_power_loss() {
    for good in 0..12 {
        for bad in [1, 2, 4] {
            let disk = sim();
            let outbox = begun(&disk, &options()).await;
            outbox.push(image(100)).await.expect("room");
            disk.fail_syncs_after(good, bad);
            let mut kept = Vec::new();
            for _ in 0..4 {
                let image = image(100);
                let id = image.meta.id;
                if outbox.push(image).await.is_ok() {
                    kept.push(id);
                }
            }
            for seed in 0..4 {
                let left = open(&disk.crash(seed), &options());
                assert_eq!(left.id(), outbox.id(), "{good}, {bad}, seed {seed}");
                let owed = owed(&left).await;
                let lost = kept.iter().find(|id| !owed.contains(id));
                assert_eq!(lost, None, "{good}, {bad}, seed {seed}");
            }
        }
    }
}

#[tokio::test]
async fn an_index_is_written_anew_in_its_place_where_there_is_no_space_for_another() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    outbox.push(image(100)).await.expect("room");
    let mark = disk.used();
    disk.set_capacity(mark + 1_000);
    // The payload, its folder, and the index.
    disk.fail_syncs_after(2, 1);
    outbox.push(image(100)).await.expect("it is tried again");
    assert!(disk.content(&path("incoming/index.copy")).is_none());
    for seed in 0..4 {
        let left = open(&disk.crash(seed), &options());
        assert_eq!(left.backlog().images, 2, "seed {seed}");
    }
}

#[tokio::test]
async fn an_index_that_could_not_be_made_again_for_lack_of_space_is_later() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    for _ in 0..3 {
        outbox.push(image(100)).await.expect("room");
    }
    let index = disk.open(&path("index.redb"), true).expect("power");
    let length = usize::try_from(index.len().expect("power")).expect("small");
    index
        .write_at(&[Bytes::from(vec![0xab; length])], 0)
        .expect("space");
    disk.set_capacity(disk.used() - (32 << 10));
    let job = |reply| Job::Kept {
        sequences: vec![1],
        reply,
    };
    outbox
        .send(Job::Damaged("for a test".to_owned()))
        .expect("it is open");
    outbox.ask(job).await.expect_err("there is no space");
    // An unfinished one of the first attempt is no obstacle.
    disk.set_capacity(u64::MAX);
    outbox.ask(job).await.expect("there is space");
    outbox.push(image(100)).await.expect("room");
    assert_eq!(owed(&outbox).await.len(), 4);
}

#[tokio::test]
async fn an_index_that_is_whole_is_not_made_again_whatever_a_reader_found() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    outbox.push(image(100)).await.expect("room");
    let lost = image(100);
    outbox.lose(lost.meta, "a test").await.expect("a ledger");
    let damaged = Job::Damaged("of the one before this".to_owned());
    outbox.send(damaged).expect("it is open");
    let _ = outbox.flush().await;
    assert_eq!(outbox.losses(10).await.0.len(), 1, "the ledger is there");
    assert!(disk.content(&path("quarantine/index.redb")).is_none());
}

#[tokio::test]
async fn images_that_were_to_give_way_when_the_medium_failed_are_handed_out() {
    let disk = sim();
    let options = OutboxOptions {
        limit: ByteSize(3 * (1_000 + ENTRY_BYTES)),
        when_full: WhenFull::DropOldest,
        ..options()
    };
    let outbox = begun(&disk, &options).await;
    for _ in 0..3 {
        outbox.push(image(1_000)).await.expect("room");
    }
    // The window is filled while two of them are on their way out.
    {
        let shared = &outbox.shared;
        shared.state.lock().window.clear();
        shared.state.lock().leaving.extend([1, 2]);
        let portion = shared.read_portion();
        assert_eq!(shared.put_into_window(portion).len(), 0);
        shared.state.lock().leaving.clear();
    }
    disk.fail_syncs(1_000);
    let pushed = outbox.push(image(1_000)).await;
    pushed.expect_err("whether one gave way is not known");
    disk.fail_syncs(0);
    let owed = owed(&outbox).await.len();
    assert_eq!(owed + outbox.losses(10).await.0.len(), 3);
    assert!(owed >= 2);
}

#[tokio::test]
async fn an_image_that_is_coming_in_is_not_handed_out_before_it_counts() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    for _ in 0..2 {
        outbox.push(image(10)).await.expect("room");
    }
    let shared = &outbox.shared;
    shared.state.lock().window.clear();
    shared.state.lock().entering.insert(2);
    let portion = shared.read_portion();
    assert_eq!(shared.put_into_window(portion).len(), 0);
    let first = outbox.take().await.expect("one is in");
    assert_eq!(first.meta.sequence, 1);
    let mut second = Box::pin(outbox.take());
    assert!(futures_util::poll!(&mut second).is_pending());
}

#[tokio::test]
async fn a_number_that_is_another_images_is_not_given() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    outbox.push(image(10)).await.expect("room");
    outbox
        .lose(image(1).meta, "a test")
        .await
        .expect("a ledger");
    let index = &outbox.shared.index;
    let entry = index.read(|view| view.image(1)).expect("power");
    let entry = record::Entry {
        id: ImageId::new(),
        ..entry.expect("it is there")
    };
    let insert = job::Step::Insert { sequence: 1, entry };
    let inserted = index.write(|change| insert.apply(change));
    assert!(matches!(inserted, Err(IndexError::Taken(1))));
    let mut meta = image(1).meta;
    meta.sequence = 2;
    let lose = job::Step::Lose {
        lost: Lost {
            meta,
            reason: "a test".to_owned(),
        },
        series: 1,
        mark: None,
    };
    let lost = index.write(|change| lose.apply(change));
    assert!(matches!(lost, Err(IndexError::Taken(2))));
}

#[tokio::test]
async fn an_image_that_cannot_be_put_back_stays_in_quarantine() {
    for good in 0..12 {
        let disk = sim();
        let outbox = begun(&disk, &options()).await;
        outbox.push(image(100)).await.expect("room");
        let image = outbox.take().await.expect("one is waiting");
        let lost = Outcome::Lost("a test".to_owned());
        outbox.settle(image.meta.id, lost).await.expect("settled");
        outbox.shut().await;
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let core = recovery::open(&shared, Path::new(ROOT), &core_options(&options(), boot()));
        let mut core = core.expect("an outbox");
        let name = core.quarantined().expect("power").remove(0);
        disk.fail_syncs_after(good, 100);
        let requeued = core.requeue(&name, None);
        disk.fail_syncs(0);
        drop(core);
        let outbox = open(&disk, &options());
        let aside = path("quarantine").join(name.to_string());
        match requeued {
            Ok(_) => assert_eq!(owed(&outbox).await, [name.id]),
            Err(_) => assert!(
                disk.content(&aside).is_some() || owed(&outbox).await == [name.id],
                "after {good} syncs"
            ),
        }
    }
}

#[tokio::test]
async fn a_medium_that_takes_nothing_holds_up_the_settling_and_not_the_stop() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    outbox.push(image(10)).await.expect("room");
    let image = outbox.take().await.expect("one is waiting");
    disk.fail_syncs(u64::MAX);
    {
        let mut state = outbox.shared.state.lock();
        let taken = state.taken.get(&image.meta.id).cloned();
        let taken = taken.expect("it was taken");
        let settled = (1_000..).take(MOST_SETTLED).map(|sequence| Leaving {
            taken: state::TakenImage {
                sequence,
                ..taken.clone()
            },
            outcome: Departure::Delivered,
        });
        state.settled.extend(settled);
    }
    let id = image.meta.id;
    let settled = outbox.settle(id, Outcome::Delivered).await;
    settled.expect_err("it is tried again by whoever heeds the stop");
    assert_eq!(outbox.backlog().images, 1);
    disk.fail_syncs(0);
    let settled = outbox.settle(id, Outcome::Delivered).await;
    settled.expect("the medium works");
    assert_eq!(outbox.backlog().images, 0);
}

/// Its owner removes the file once it is settled.
#[tokio::test]
async fn an_image_whose_bytes_are_elsewhere_is_not_settled_before_the_index_says_so() {
    let disk = sim();
    let options = OutboxOptions {
        files: OutboxFiles::Reference,
        ..options()
    };
    write(&disk, "/source/a");
    let outbox = begun(&disk, &options).await;
    outbox.push(referred("/source/a")).await.expect("room");
    let id = outbox.take().await.expect("one is waiting").meta.id;
    disk.fail_syncs(1_000);
    for _ in 0..2 {
        let settled = outbox.settle(id, Outcome::Delivered).await;
        settled.expect_err("it is not on the medium");
    }
    disk.fail_syncs(0);
    let settled = outbox.settle(id, Outcome::Delivered).await;
    settled.expect("the medium works");
    let left = open(&disk.crash(1), &options);
    assert_eq!(left.backlog().images, 0);
}

fn write(disk: &SimDisk, path: &str) {
    let file = disk.create(Path::new(path)).expect("new");
    file.write_at(&[Bytes::from_static(b"pixels")], 0)
        .expect("space");
}

fn referred(path: &str) -> Owed {
    let mut referred = image(6);
    referred.meta.digest = None;
    referred.payload = Payload::File {
        path: path.into(),
        size: 6,
    };
    referred
}

#[tokio::test]
async fn images_of_a_folder_that_is_away_wait_for_it_and_hold_up_no_others() {
    let disk = sim();
    let options = OutboxOptions {
        files: OutboxFiles::Reference,
        ..options()
    };
    for path in ["/away/a", "/source/b", "/source/c"] {
        write(&disk, path);
    }
    let outbox = begun(&disk, &options).await;
    for path in ["/away/a", "/source/b", "/source/c"] {
        outbox.push(referred(path)).await.expect("room");
    }
    drop(outbox);
    // One medium is taken out; on the other a file is removed.
    disk.remove(Path::new("/away/a")).expect("power");
    disk.remove(Path::new("/source/b")).expect("power");
    let outbox = open(&disk, &options);
    let image = outbox.take().await.expect("it is there");
    assert_eq!(image.meta.sequence, 3);
    outbox.loss_waits().await;
    let _ = outbox.flush().await;
    let (losses, _) = outbox.losses(10).await;
    let lost: Vec<u64> = losses.iter().map(|loss| loss.sequence).collect();
    assert_eq!(lost, [2]);
    assert_eq!(outbox.backlog().images, 2);
    write(&disk, "/away/a");
    let image = outbox.take().await.expect("it is back");
    assert_eq!(image.meta.sequence, 1);
}

#[tokio::test]
async fn whether_a_file_was_captured_is_not_guessed_when_the_index_cannot_be_read() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    let mark = FileMark {
        path: "/source/a".into(),
        size: 1,
        modified: 1,
        transport: Transport::Grpc,
    };
    assert!(!outbox.knows(&mark).await.expect("power"));
    // From here on nothing can open it again, which the outbox tries by itself.
    disk.lose_power_after(0);
    let _ = outbox.shared.index.close();
    outbox.knows(&mark).await.expect_err("it is closed");
}
