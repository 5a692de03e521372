//! No room: by the limit, and on the disk.

use super::*;

fn small(when_full: WhenFull, images: u64) -> OutboxOptions {
    OutboxOptions {
        limit: ByteSize(images * (1_000 + ENTRY_BYTES)),
        when_full,
        ..options()
    }
}

async fn waiting(outbox: &DiskOutbox) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut ids = Vec::new();
    while outbox.backlog().images > ids.len() as u64 {
        let image = outbox.take().await.expect("it is owed");
        numbers.push(image.meta.sequence);
        ids.push(image.meta.id);
    }
    for id in ids {
        outbox.give_back(id).await;
    }
    numbers
}

fn numbers(lost: &[Lost]) -> Vec<u64> {
    lost.iter().map(|lost| lost.meta.sequence).collect()
}

#[tokio::test]
async fn the_oldest_that_is_not_taken_gives_way() {
    let disk = sim();
    let outbox = begun(&disk, &small(WhenFull::DropOldest, 3)).await;
    for _ in 0..3 {
        outbox.push(image(1_000)).await.expect("room");
    }
    outbox.take().await.expect("three are waiting");
    let pushed = outbox.push(image(1_000)).await.expect("room");
    assert_eq!(numbers(&pushed.lost), [2]);
    assert_eq!(pushed.sequence, 4);
    assert_eq!(files(&disk).len(), 3);
    let (losses, standing) = outbox.losses(10).await;
    assert_eq!(losses[0].sequence, 2);
    assert_eq!(losses[0].reason, "evicted: the outbox was full");
    assert_eq!(standing.first_owed, 1);
    outbox.take().await.expect("two are waiting");
    outbox.take().await.expect("one is waiting");
    let pushed = outbox.push(image(1_000)).await.expect("an answer");
    assert_eq!(numbers(&pushed.lost), [5], "all others are taken");
    assert_eq!(pushed.sequence, 5);
    // As they are on the disk.
    drop(outbox);
    let outbox = open(&disk.crash(1), &options());
    assert_eq!(outbox.backlog().images, 3);
    let (_, counts, _) = outbox.series().await.remove(0);
    assert_eq!((counts.captured, counts.lost), (5, 2));
}

#[tokio::test]
async fn the_newest_is_dropped_with_its_mark() {
    let disk = sim();
    let outbox = begun(&disk, &small(WhenFull::DropNewest, 1)).await;
    outbox.push(image(1_000)).await.expect("room");
    let mark = FileMark {
        path: "/source/a".into(),
        size: 1,
        modified: 1,
        transport: Transport::Grpc,
    };
    let newest = Owed {
        source_mark: Some(mark.clone()),
        ..image(1)
    };
    let id = newest.meta.id;
    let pushed = outbox.push(newest).await.expect("an answer");
    assert_eq!(numbers(&pushed.lost), [2]);
    assert_eq!(pushed.lost[0].meta.id, id);
    assert!(outbox.knows(&mark).await.expect("power"));
    assert_eq!(waiting(&outbox).await, [1]);
}

#[tokio::test]
async fn of_each_row_one_stays_the_oldest_rows_first() {
    let disk = sim();
    let outbox = begun(&disk, &small(WhenFull::Thin(3), 9)).await;
    for _ in 0..9 {
        outbox.push(image(1_000)).await.expect("room");
    }
    let mut lost = Vec::new();
    for _ in 0..7 {
        let pushed = outbox.push(image(1_000)).await.expect("room");
        lost.push(numbers(&pushed.lost));
    }
    // Two give way at a time; then there is room for the next as well.
    assert_eq!(
        lost,
        [
            vec![2, 3],
            vec![],
            vec![5, 6],
            vec![],
            vec![8, 9],
            vec![],
            vec![11, 12]
        ]
    );
    assert_eq!(waiting(&outbox).await, [1, 4, 7, 10, 13, 14, 15, 16]);
    // Where it has come to outlasts a restart.
    outbox.shut().await;
    let outbox = begun(&disk, &small(WhenFull::Thin(3), 9)).await;
    outbox.push(image(1_000)).await.expect("room");
    let pushed = outbox.push(image(1_000)).await.expect("room");
    assert_eq!(numbers(&pushed.lost), [14, 15]);
}

#[tokio::test]
async fn with_less_than_a_row_one_stays_too() {
    let disk = sim();
    let outbox = begun(&disk, &small(WhenFull::Thin(10), 3)).await;
    for _ in 0..3 {
        outbox.push(image(1_000)).await.expect("room");
    }
    let pushed = outbox.push(image(1_000)).await.expect("room");
    assert_eq!(numbers(&pushed.lost), [2, 3]);
    let pushed = outbox.push(image(3_000)).await.expect("room");
    assert_eq!(numbers(&pushed.lost), [4]);
    assert_eq!(waiting(&outbox).await, [1, 5]);
}

#[tokio::test]
async fn a_large_image_takes_the_room_of_many_small_ones() {
    let disk = sim();
    let options = OutboxOptions {
        limit: ByteSize(3_000 * (10 + ENTRY_BYTES)),
        when_full: WhenFull::DropOldest,
        durability: OutboxDurability::Written,
        ..options()
    };
    let outbox = begun(&disk, &options).await;
    for _ in 0..1_500 {
        outbox.push(image(1)).await.expect("room");
    }
    let pushed = outbox.push(image(3_000_000)).await.expect("room");
    assert!(pushed.lost.len() > 1_024, "{}", pushed.lost.len());
    let expected: Vec<u64> = (1..=pushed.lost.len() as u64).collect();
    assert_eq!(numbers(&pushed.lost), expected);
}

#[tokio::test]
async fn what_others_leave_on_the_disk_is_heeded() {
    let disk = sim();
    disk.set_capacity(4 << 20);
    let options = OutboxOptions {
        min_free: ByteSize::mib(1),
        when_full: WhenFull::DropNewest,
        ..options()
    };
    let outbox = begun(&disk, &options).await;
    outbox.push(image(1_000)).await.expect("room");
    let free = disk.free(Path::new(ROOT)).expect("power");
    let other = disk.create(Path::new("/source/other")).expect("new");
    other
        .set_len(free - (1 << 20) - 2_000)
        .expect("there is space");
    let pushed = outbox.push(image(100_000)).await.expect("an answer");
    assert_eq!(numbers(&pushed.lost), [2]);
    other.set_len(0).expect("power");
    let pushed = outbox.push(image(100_000)).await.expect("room");
    assert!(pushed.lost.is_empty());
}

#[tokio::test]
async fn a_full_outbox_names_the_setting_that_says_so() {
    let fifty = "--outbox-min-free keeps 52428800";
    for (limit, min_free, named) in [
        (
            ByteSize::mib(1),
            ByteSize(0),
            "--outbox-limit is 1048576 bytes",
        ),
        (ByteSize::mib(63), ByteSize::mib(50), fifty),
    ] {
        let disk = sim();
        disk.set_capacity(64 << 20);
        let options = OutboxOptions {
            limit,
            min_free,
            ..options()
        };
        let outbox = begun(&disk, &options).await;
        outbox.push(image(1_000)).await.expect("room");
        let mut pushing = Box::pin(async {
            loop {
                outbox.push(image(600_000)).await.expect("an answer");
            }
        });
        let trouble = loop {
            assert!(futures_util::poll!(&mut pushing).is_pending());
            if let Err(trouble) = outbox.health() {
                break trouble;
            }
            tokio::task::yield_now().await;
        };
        assert!(trouble.contains(named), "{trouble}");
    }
}

/// Fills the disk but for so many bytes.
fn fill(disk: &SimDisk, leave: u64) -> Box<dyn shared::disk::DiskFile> {
    let free = disk.free(Path::new(ROOT)).expect("power");
    let other = disk.create(Path::new("/source/other")).expect("new");
    other.set_len(free - leave).expect("there is space");
    other
}

#[tokio::test]
async fn on_a_full_disk_the_source_waits_and_goes_on_by_itself() {
    let disk = sim();
    disk.set_capacity(8 << 20);
    let outbox = begun(&disk, &options()).await;
    outbox.push(image(1_000)).await.expect("room");
    let other = fill(&disk, 500);
    let mut pushing = Box::pin(outbox.push(image(100_000)));
    let trouble = loop {
        assert!(futures_util::poll!(&mut pushing).is_pending());
        if let Err(trouble) = outbox.health() {
            break trouble;
        }
        tokio::task::yield_now().await;
    };
    assert!(trouble.contains("no space"), "{trouble}");
    assert_eq!(files(&disk).len(), 1, "nothing partial is to be seen");
    other.set_len(0).expect("power");
    let pushed = pushing.await.expect("space");
    assert_eq!(pushed.sequence, 2);
    assert_eq!(outbox.health(), Ok(()));
}

#[tokio::test]
async fn a_full_disk_is_emptied_by_deliveries_losses_and_evictions() {
    for seed in 0..5 {
        let disk = sim();
        disk.set_capacity(8 << 20);
        let outbox = begun(&disk, &options()).await;
        for _ in 0..60 {
            outbox.push(image(2_000)).await.expect("room");
        }
        let _other = fill(&disk, seed * 2_000);
        for number in 0..60 {
            let image = outbox.take().await.expect("some are waiting");
            let outcome = match number % 3 {
                0 => Outcome::Lost("gone".to_owned()),
                _ => Outcome::Delivered,
            };
            outbox
                .settle(image.meta.id, outcome)
                .await
                .expect("the ballast is for this");
            let _ = outbox.flush().await;
        }
        let (losses, _) = outbox.losses(100).await;
        assert_eq!(losses.len(), 20);
        outbox.shut().await;
        let left = disk.crash(seed);
        let outbox = open(&left, &options());
        assert_eq!(outbox.backlog(), Backlog::default());
        assert_eq!(outbox.losses(100).await.0.len(), 20);
    }
}

#[tokio::test]
async fn on_a_full_disk_the_oldest_gives_way_by_policy() {
    let disk = sim();
    disk.set_capacity(8 << 20);
    let options = OutboxOptions {
        when_full: WhenFull::DropOldest,
        ..options()
    };
    let outbox = begun(&disk, &options).await;
    for _ in 0..20 {
        outbox.push(image(50_000)).await.expect("room");
    }
    let _other = fill(&disk, 1_000);
    for _ in 0..20 {
        let pushed = outbox.push(image(50_000)).await.expect("room is made");
        assert!(pushed.lost.len() <= 3, "{:?}", numbers(&pushed.lost));
    }
    assert!(outbox.backlog().images >= 10);
    let (losses, _) = outbox.losses(100).await;
    assert_eq!(losses.len() as u64 + outbox.backlog().images, 40);
}

#[tokio::test]
async fn failing_syncs_are_tried_again() {
    let disk = sim();
    let outbox = begun(&disk, &options()).await;
    for failing in 1..6 {
        disk.fail_syncs(failing);
        let pushed = outbox.push(image(100)).await;
        disk.fail_syncs(0);
        match pushed {
            Ok(_) => assert!(failing < 6),
            Err(error) => assert!(matches!(error, OutboxError::Io { .. }), "{error}"),
        }
        outbox.push(image(100)).await.expect("the disk works again");
        assert_eq!(outbox.health(), Ok(()));
    }
    let images = outbox.backlog().images;
    drop(outbox);
    let outbox = open(&disk.crash(3), &options());
    assert_eq!(outbox.backlog().images, images);
    assert_eq!(waiting(&outbox).await.len() as u64, images);
}

/// With a folder on a small file system of its own, such as
/// `mount -t tmpfs -o size=24m none /mnt/small; PANTELEGRAPH_SMALL_DISK=/mnt/small cargo test ...`
#[tokio::test]
async fn a_real_disk_that_fills_up_is_emptied_and_goes_on() {
    let Ok(folder) = std::env::var("PANTELEGRAPH_SMALL_DISK") else {
        return;
    };
    let root = Path::new(&folder).join("outbox");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let options = OutboxOptions {
        limit: ByteSize::mib(1 << 10),
        ..options()
    };
    let outbox = DiskOutbox::open(disk, &root, &options, Order::OldestFirst);
    let mut outbox = outbox.expect("an outbox");
    outbox.full_retry = Duration::from_millis(1);
    outbox.begin_series(series()).await.expect("a series");
    let outbox = Arc::new(outbox);
    for size in [40_000, 300] {
        let pushing = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { while outbox.push(image(size)).await.is_ok() {} }
        });
        while outbox.health().is_ok() {
            tokio::task::yield_now().await;
        }
        pushing.abort();
        assert!(pushing.await.is_err(), "it waits for space");
    }
    let before = outbox.backlog().images;
    assert!(before > 100);
    for number in 0..before {
        let image = outbox.take().await.expect("some are waiting");
        let Payload::File { path, size } = &image.payload else {
            panic!("it is in a file");
        };
        let found = std::fs::metadata(path).expect("its file").len();
        assert_eq!(found, *size, "nothing partial is to be seen");
        let outcome = match number % 2 {
            0 => Outcome::Lost("gone".to_owned()),
            _ => Outcome::Delivered,
        };
        outbox
            .settle(image.meta.id, outcome)
            .await
            .expect("the ballast is for this");
        if number == 10 {
            // Lost files stay in quarantine; somebody makes room.
            let quarantine = root.join("quarantine");
            for file in std::fs::read_dir(quarantine).expect("a folder") {
                std::fs::remove_file(file.expect("a file").path()).expect("removed");
            }
        }
    }
    let _ = outbox.flush().await;
    let pushed = outbox.push(image(40_000)).await.expect("space");
    assert!(pushed.lost.is_empty());
    assert_eq!(outbox.health(), Ok(()));
    outbox.shut().await;
}
