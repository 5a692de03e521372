//! Bad media, and what people do to files.

use super::*;

/// An outbox with three images, left by a crash; their ids.
async fn left(disk: &SimDisk, options: &OutboxOptions) -> Vec<ImageId> {
    let outbox = begun(disk, options).await;
    let mut ids = Vec::new();
    for size in [1_000, 2_000, 3_000] {
        let image = image(size);
        ids.push(image.meta.id);
        outbox.push(image).await.expect("room");
    }
    ids
}

fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

async fn taken(disk: &SimDisk, outbox: &DiskOutbox, number: usize) -> Vec<(u64, ImageId)> {
    let mut taken = Vec::new();
    for _ in 0..number {
        let image = outbox.take().await.expect("it is owed");
        let bytes = content(disk, &image).expect("its file");
        let digest = image.meta.digest.expect("it has one");
        assert_eq!(digest.algorithm().digest(&bytes), digest);
        taken.push((image.meta.sequence, image.meta.id));
    }
    taken
}

#[tokio::test]
async fn a_lost_index_is_made_again_from_the_names() {
    for damage in ["gone", "empty", "garbage", "torn"] {
        let disk = sim();
        let ids = left(&disk, &options()).await;
        let before = open(&disk, &options());
        let id = before.id();
        drop(before);
        let index = path("index.redb");
        match damage {
            "gone" => disk.remove(&index).expect("power"),
            "empty" => disk
                .open(&index, true)
                .and_then(|file| file.set_len(0))
                .expect("power"),
            "torn" => disk
                .open(&index, true)
                .and_then(|file| file.set_len(file.len()? / 3))
                .expect("power"),
            _ => disk
                .open(&index, true)
                .and_then(|file| file.write_at(&[Bytes::from(vec![0xab; 300_000])], 0))
                .expect("power"),
        }
        let outbox = open(&disk, &options());
        assert_ne!(outbox.id(), id, "{damage}");
        let expected: Vec<_> = (1..).zip(ids).collect();
        assert_eq!(taken(&disk, &outbox, 3).await, expected, "{damage}");
        outbox.begin_series(series()).await.expect("a series");
        let pushed = outbox.push(image(5)).await.expect("room");
        assert!(pushed.sequence > 10_000, "{damage}: {}", pushed.sequence);
        if damage != "gone" {
            assert!(disk.content(&path("quarantine/index.redb")).is_some());
        }
        drop(outbox);
        assert_eq!(open(&disk, &options()).backlog().images, 4, "{damage}");
    }
}

#[tokio::test]
async fn bits_that_flip_in_the_index_never_panic_and_lose_no_image() {
    let disk = sim();
    let ids = left(&disk, &options()).await;
    let length = disk.content(&path("index.redb")).expect("an index").len();
    let mut dice = 1_u64;
    for _ in 0..50 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let left = disk.crash(1);
        // The first pages matter most.
        let byte = match dice % 3 {
            0 => (dice >> 33) as usize % 512,
            1 => (dice >> 33) as usize % 40_000,
            _ => (dice >> 33) as usize % length,
        };
        left.flip_bit(&path("index.redb"), byte);
        let outbox = open(&left, &options());
        let owed = outbox.backlog().images;
        assert_eq!(owed, 3, "byte {byte}");
        let found = taken(&left, &outbox, 3).await;
        let found: Vec<ImageId> = found.into_iter().map(|(_, id)| id).collect();
        assert_eq!(found, ids, "byte {byte}");
    }
}

#[tokio::test]
async fn a_garbage_mark_gives_no_number_twice() {
    let disk = sim();
    left(&disk, &options()).await;
    for mark in ["garbage", "gone"] {
        match mark {
            "gone" => disk.remove(&path("mark")).expect("power"),
            _ => disk
                .open(&path("mark"), true)
                .and_then(|file| file.write_at(&[Bytes::from(vec![7; 5_000])], 0))
                .expect("power"),
        }
        let outbox = open(&disk, &options());
        outbox.begin_series(series()).await.expect("a series");
        let pushed = outbox.push(image(1)).await.expect("room");
        assert!(pushed.sequence > 3, "{}", pushed.sequence);
    }
    // Both at once.
    disk.remove(&path("mark")).expect("power");
    disk.remove(&path("index.redb")).expect("power");
    let outbox = open(&disk, &options());
    assert_eq!(outbox.backlog().images, 5);
    outbox.begin_series(series()).await.expect("a series");
    let pushed = outbox.push(image(1)).await.expect("room");
    assert!(pushed.sequence > 20_000, "{}", pushed.sequence);
}

#[tokio::test]
async fn an_image_whose_file_is_gone_or_short_is_lost_by_name() {
    let disk = sim();
    let ids = left(&disk, &options()).await;
    let files = files(&disk);
    disk.remove(&files[0]).expect("power");
    disk.open(&files[1], true)
        .and_then(|file| file.set_len(5))
        .expect("power");
    let outbox = open(&disk, &options());
    let image = outbox.take().await.expect("one is whole");
    assert_eq!(image.meta.id, ids[2]);
    outbox.loss_waits().await;
    let _ = outbox.flush().await;
    let (losses, standing) = outbox.losses(10).await;
    let lost: Vec<_> = losses.iter().map(|loss| loss.image_id).collect();
    assert_eq!(lost, ids[..2]);
    assert_eq!(losses[0].reason, "its file is gone");
    assert!(losses[1].reason.contains("5 bytes"), "{}", losses[1].reason);
    assert!(losses.iter().all(|loss| loss.digest.is_some()));
    assert_eq!(standing.first_owed, 3);
    assert_eq!(outbox.backlog().images, 1);
    let torn = path("quarantine").join(files[1].file_name().expect("a name"));
    assert!(disk.content(&torn).is_some());
}

#[tokio::test]
async fn a_suspect_image_is_read_before_it_is_sent() {
    let disk = sim();
    let options = OutboxOptions {
        durability: OutboxDurability::Written,
        ..options()
    };
    let ids = left(&disk, &options).await;
    let files = files(&disk);
    assert!(disk.flip_bit(&files[1], 100));
    // A new boot: the power was lost while nothing was synced.
    let outbox = open(&disk, &options);
    let expected = vec![(1, ids[0]), (3, ids[2])];
    assert_eq!(taken(&disk, &outbox, 2).await, expected);
    let _ = outbox.flush().await;
    let (losses, _) = outbox.losses(10).await;
    assert_eq!(losses.len(), 1);
    assert!(losses[0].reason.contains("torn"), "{}", losses[0].reason);
}

#[tokio::test]
async fn a_process_that_was_killed_leaves_nothing_suspect() {
    let disk = sim();
    let options = OutboxOptions {
        durability: OutboxDurability::Written,
        ..options()
    };
    let boot = boot();
    let open = || open_as(&disk, &options, Order::OldestFirst, boot).expect("an outbox");
    let outbox = open();
    outbox.begin_series(series()).await.expect("a series");
    outbox.push(image(10)).await.expect("room");
    let id = outbox.id();
    drop(outbox);
    let outbox = open();
    assert_eq!(outbox.id(), id);
    let counters = outbox.shared.index.read(View::counters);
    assert_eq!(counters.expect("power").suspect_to, 0);
}

#[tokio::test]
async fn files_that_no_index_knows_are_taken_in_or_put_aside_by_name() {
    let disk = sim();
    left(&disk, &options()).await;
    let write = |name: &FileName, bytes: &'static [u8]| {
        let path = Layout::new(Path::new(ROOT)).image(name);
        let file = disk.create(&path).expect("new");
        file.write_at(&[Bytes::from_static(bytes)], 0)
            .expect("space");
        path
    };
    let name = |sequence, bytes: &[u8]| FileName {
        sequence,
        id: ImageId::new(),
        digest: DigestAlgorithm::Blake3.digest(bytes),
        transport: Transport::Rest,
        mark: Some(77),
    };
    let whole = name(4, b"whole");
    let torn = name(5, b"torn in the middle");
    let settled = name(2, b"settled long ago");
    write(&whole, b"whole");
    write(&torn, b"torn in");
    let leftover = write(&settled, b"settled long ago");
    let foreign = disk.create(&path("images/000/README")).expect("new");
    drop(foreign);
    // Number 2 is not settled, though: it is another image's.
    let outbox = open(&disk, &options());
    assert_eq!(outbox.backlog().images, 4);
    let found = taken(&disk, &outbox, 4).await;
    assert_eq!(found[3], (4, whole.id));
    let (losses, _) = outbox.losses(10).await;
    assert_eq!(losses.len(), 1);
    assert_eq!((losses[0].sequence, losses[0].image_id), (5, torn.id));
    assert_eq!(losses[0].digest, Some(torn.digest));
    let known = outbox.shared.index.read(|view| view.has_mark(77));
    assert!(known.expect("power"), "it is not captured again");
    outbox.begin_series(series()).await.expect("a series");
    let pushed = outbox.push(image(1)).await.expect("room");
    assert_eq!(pushed.sequence, 6);
    outbox.shut().await;
    assert!(disk.content(&path("images/000/README")).is_some());
    assert!(
        disk.content(&leftover).is_some(),
        "another image has its number"
    );
}

#[tokio::test]
async fn leftovers_of_settled_images_are_swept_up() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    for _ in 0..3 {
        outbox.push(image(10)).await.expect("room");
    }
    let before: Vec<(PathBuf, Vec<u8>)> = files(&disk)
        .into_iter()
        .map(|path| (path.clone(), disk.content(&path).expect("a file")))
        .collect();
    for _ in 0..3 {
        let image = outbox.take().await.expect("some are waiting");
        outbox
            .settle(image.meta.id, Outcome::Delivered)
            .await
            .expect("settled");
    }
    let _ = outbox.flush().await;
    drop(outbox);
    // Their removal did not reach the medium.
    for (path, bytes) in before {
        let file = disk.create(&path).expect("it was removed");
        file.write_at(&[bytes.into()], 0).expect("space");
    }
    let core = recovery::open(
        &(Arc::new(disk.clone()) as Arc<dyn Disk>),
        Path::new(ROOT),
        &core_options(&options(), boot()),
    );
    let mut core = core.expect("an outbox");
    assert_eq!(core.index.read(View::counters).expect("power").images, 0);
    while core.sweep_one().expect("power") {}
    assert_eq!(files(&disk), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn an_index_that_breaks_while_it_is_used_is_made_again() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    for _ in 0..5 {
        outbox.push(image(10)).await.expect("room");
    }
    let first = outbox.take().await.expect("five are waiting");
    let index = disk.open(&path("index.redb"), true).expect("power");
    let length = index.len().expect("power");
    let garbage = usize::try_from(length).expect("small");
    index
        .write_at(&[Bytes::from(vec![0xab; garbage])], 0)
        .expect("space");
    // redb has some pages in memory, so that it may take a while to be seen.
    for _ in 0..5 {
        outbox.push(image(10)).await.expect("it is made again");
    }
    drop(outbox);
    let outbox = open(&disk, &options());
    assert_eq!(outbox.backlog().images, 10);
    let again = outbox.take().await.expect("ten are waiting");
    assert_eq!(again.meta.id, first.meta.id);
}

#[test]
fn a_newer_format_is_refused_and_not_made_again() {
    let disk = sim();
    let dynamic: Arc<dyn Disk> = Arc::new(disk.clone());
    let index = index::Index::make(&dynamic, &path("index.redb")).expect("new");
    index
        .write(|change| {
            change.name(OutboxId::new())?;
            change.set_format(2)
        })
        .expect("power");
    drop(index);
    let opened = open_as(&disk, &options(), Order::OldestFirst, boot());
    let error = opened.err().expect("it is of a later program");
    let text = shared::telemetry::chain(&error);
    assert!(text.contains("format 2"), "{text}");
}
