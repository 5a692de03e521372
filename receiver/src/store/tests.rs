use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use shared::chunk::Segments;
use shared::clock::UnixNanos;
use shared::digest::{Digest, DigestAlgorithm};
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::Durability;

use super::files::FileStore;
use super::memory::MemoryStore;
use super::{About, Area, ImageStore, ImageWriter, Placement, StoreError};

/// 2026-01-02T23:59:59.999999999Z, so that a local time zone would show.
const RECEIVED: UnixNanos = UnixNanos(1_767_398_399_999_999_999);

/// For those who do not go on with anything.
const ANY: Digest = Digest::Xxh3([0; 16]);

fn about(id: ImageId) -> About {
    About {
        meta: Arc::new(ImageMeta::new(id, 10_000_000)),
        transmitter: "camera".into(),
        outbox: None,
        transport: Transport::Grpc,
        algorithm: DigestAlgorithm::Xxh3,
    }
}

fn placement(id: ImageId) -> Placement {
    Placement {
        id,
        area: Area::Images,
        extension: "jpg",
        received: RECEIVED,
    }
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed)
        .collect()
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found.sort();
    found
}

async fn write(writer: &mut Box<dyn ImageWriter>, bytes: &[u8], step: usize) {
    for piece in bytes.chunks(step) {
        writer
            .write(Bytes::copy_from_slice(piece).into(), ANY)
            .await
            .unwrap();
    }
}

async fn read(store: &dyn ImageStore, location: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    store
        .open(location)
        .await
        .unwrap()?
        .read_to_end(&mut bytes)
        .unwrap();
    Some(bytes)
}

/// What every store must keep, whether it keeps bytes or not.
async fn conforms(store: &dyn ImageStore, keeps_bytes: bool) {
    store.check().await.unwrap();
    for (len, step) in [
        (0, 1),
        (1, 1),
        (10_000, 7),
        (3_000_000, 64 << 10),
        (5_000_001, 2 << 20),
    ] {
        let id = ImageId::new();
        let bytes = noise(len, 1);
        let mut writer = store.create(about(id)).await.unwrap();
        write(&mut writer, &bytes, step).await;
        let location = writer.commit(placement(id)).await.unwrap();
        assert_eq!(location.is_empty(), !keeps_bytes);
        let read = read(store, &location).await;
        assert!(
            read == keeps_bytes.then_some(bytes),
            "{len} bytes in steps of {step}"
        );
    }

    // Cut back within the file, within what is not in the file yet, and beyond the end.
    for (len, cut) in [
        (3_000_000, 1_000_000),
        (1_500_000, 1_400_000),
        (2_000, 700),
        (10, 20),
    ] {
        let id = ImageId::new();
        let first = noise(len, 2);
        let then = noise(300_000, 3);
        let mut writer = store.create(about(id)).await.unwrap();
        write(&mut writer, &first, 100_000).await;
        writer.truncate(cut as u64, ANY).await.unwrap();
        let closer = writer.reopen().await.unwrap();
        assert_eq!(closer.is_some(), keeps_bytes);
        write(&mut writer, &then, 50_000).await;
        let location = writer.commit(placement(id)).await.unwrap();
        let expected = [&first[..cut.min(len)], &then].concat();
        let read = read(store, &location).await;
        assert!(
            read == keeps_bytes.then_some(expected),
            "{len} bytes cut at {cut}"
        );
    }
}

#[tokio::test]
async fn every_store_gives_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    for durability in [Durability::Synced, Durability::Written] {
        let store = FileStore::open(&folder.path().join(durability.key()), durability, 0).unwrap();
        conforms(&store, true).await;
    }
    conforms(&MemoryStore, false).await;
}

#[tokio::test]
async fn an_image_lies_by_its_utc_day_and_leaves_nothing_in_incoming() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), Durability::Synced, 0).unwrap();
    let id = ImageId::new();
    let mut writer = store.create(about(id)).await.unwrap();
    write(&mut writer, b"image", 5).await;
    assert_eq!(
        files_below(&folder.path().join("images")),
        [] as [String; 0]
    );
    let location = writer.commit(placement(id)).await.unwrap();
    assert_eq!(location, format!("images/2026-01-02/{id}.jpg"));
    assert_eq!(fs::read(folder.path().join(&location)).unwrap(), b"image");

    let mut writer = store.create(about(id)).await.unwrap();
    write(&mut writer, b"scrap", 5).await;
    let apart = Placement {
        area: Area::Quarantine,
        extension: "bin",
        ..placement(id)
    };
    let location = writer.commit(apart).await.unwrap();
    assert_eq!(location, format!("quarantine/2026-01-02/{id}.bin"));
    assert_eq!(
        files_below(&folder.path().join("incoming")),
        [] as [String; 0]
    );
}

#[tokio::test]
async fn reopen_shows_all_bytes_before_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), Durability::Written, 0).unwrap();
    let mut writer = store.create(about(ImageId::new())).await.unwrap();
    let bytes = noise(1_200_000, 4);
    write(&mut writer, &bytes, 70_000).await;
    let mut seen = Vec::new();
    writer
        .reopen()
        .await
        .unwrap()
        .unwrap()
        .read_to_end(&mut seen)
        .unwrap();
    assert!(seen == bytes);
}

#[tokio::test]
async fn two_uploads_of_one_image_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), Durability::Written, 0).unwrap();
    let id = ImageId::new();
    let (mut one, mut two) = (
        store.create(about(id)).await.unwrap(),
        store.create(about(id)).await.unwrap(),
    );
    let (first, second) = (noise(2_500_000, 5), noise(2_500_000, 6));
    for (a, b) in first.chunks(600_000).zip(second.chunks(600_000)) {
        one.write(Bytes::copy_from_slice(a).into(), ANY)
            .await
            .unwrap();
        two.write(Bytes::copy_from_slice(b).into(), ANY)
            .await
            .unwrap();
    }
    let location = one.commit(placement(id)).await.unwrap();
    assert!(read(&store, &location).await.unwrap() == first);
    assert_eq!(two.commit(placement(id)).await.unwrap(), location);
    assert!(
        read(&store, &location).await.unwrap() == second,
        "the later commit replaces"
    );
}

#[tokio::test]
async fn a_dropped_writer_removes_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), Durability::Written, 0).unwrap();
    let mut writer = store.create(about(ImageId::new())).await.unwrap();
    write(&mut writer, &noise(2_000_000, 7), 500_000).await;
    assert_eq!(files_below(&folder.path().join("incoming")).len(), 1);
    drop(writer);
    assert_eq!(
        files_below(&folder.path().join("incoming")),
        [] as [String; 0]
    );
}

#[tokio::test]
async fn a_cancelled_write_cannot_leave_a_hole() {
    use std::task::{Context, Waker};

    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), Durability::Written, 0).unwrap();
    let id = ImageId::new();
    let mut writer = store.create(about(id)).await.unwrap();
    let mut write = writer.write(Segments::from(noise(2_000_000, 8)), ANY);
    let polled = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(write);
    if polled.is_pending() {
        let again = writer.write(Segments::from(vec![1]), ANY).await;
        assert!(matches!(again, Err(StoreError::Broken { .. })), "{again:?}");
        let committed = writer.commit(placement(id)).await;
        assert!(
            matches!(committed, Err(StoreError::Broken { .. })),
            "{committed:?}"
        );
        assert_eq!(
            files_below(&folder.path().join("images")),
            [] as [String; 0]
        );
    }
}

#[tokio::test]
async fn leftovers_of_an_earlier_process_are_removed_at_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), Durability::Synced, 0).unwrap();
    let id = ImageId::new();
    let mut writer = store.create(about(id)).await.unwrap();
    write(&mut writer, b"kept", 4).await;
    let location = writer.commit(placement(id)).await.unwrap();
    drop(store);
    let leftover = folder
        .path()
        .join("incoming/0190b3a0-0000-7000-8000-000000000001.3.part");
    fs::write(&leftover, b"half an ima").unwrap();

    let store = FileStore::open(folder.path(), Durability::Synced, 0).unwrap();
    assert!(!leftover.exists());
    assert_eq!(read(&store, &location).await.unwrap(), b"kept");
}

#[tokio::test]
async fn a_folder_in_use_is_refused_with_the_holder() {
    let folder = tempfile::tempdir().unwrap();
    let first = FileStore::open(folder.path(), Durability::Written, 0).unwrap();
    let error = FileStore::open(folder.path(), Durability::Written, 0).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("in use by process {}", std::process::id())),
        "{text}"
    );
    drop(first);
    FileStore::open(folder.path(), Durability::Written, 0).unwrap();
}

#[tokio::test]
async fn only_locations_of_the_store_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), b"secret").unwrap();
    let root = folder.path().join("data");
    let store = FileStore::open(&root, Durability::Written, 0).unwrap();
    let absolute = folder.path().join("secret");
    for location in [
        "",
        "..",
        "../secret",
        "images/../../secret",
        "images/2026-01-02/../../../secret",
        "images/2026-01-02",
        "images/2026-01-02/a/b",
        "incoming/x/y",
        "receiver.lock",
        "images/2026-01-02/a\0b",
        absolute.to_str().unwrap(),
        "/etc/passwd",
    ] {
        let opened = store.open(location).await;
        assert!(
            matches!(opened, Err(StoreError::Location { .. })),
            "{location:?}: {opened:?}"
        );
    }
    assert!(
        store
            .open("images/2026-01-02/absent.jpg")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_day_folder_that_somebody_removed_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), Durability::Synced, 0).unwrap();
    for _ in 0..2 {
        let id = ImageId::new();
        let mut writer = store.create(about(id)).await.unwrap();
        write(&mut writer, b"image", 5).await;
        let location = writer.commit(placement(id)).await.unwrap();
        assert_eq!(read(&store, &location).await.unwrap(), b"image");
        fs::remove_dir_all(folder.path().join("images/2026-01-02")).unwrap();
    }
}

#[tokio::test]
async fn a_failed_commit_shows_nothing_and_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), Durability::Written, 0).unwrap();
    fs::write(
        folder.path().join("images/2026-01-02"),
        b"a file where a folder belongs",
    )
    .unwrap();
    let id = ImageId::new();
    let mut writer = store.create(about(id)).await.unwrap();
    write(&mut writer, b"image", 5).await;
    let error = writer.commit(placement(id)).await.unwrap_err();
    assert!(error.to_string().contains("2026-01-02"), "{error}");
    assert_eq!(
        files_below(&folder.path().join("incoming")),
        [] as [String; 0]
    );
}

#[test]
fn a_full_disk_has_its_own_error() {
    let error = StoreError::io("writing", Path::new("x"), rustix::io::Errno::NOSPC.into());
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let error = StoreError::io("writing", Path::new("x"), rustix::io::Errno::IO.into());
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
}
