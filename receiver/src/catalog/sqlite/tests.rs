mod losses;

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use shared::clock::{ClockEstimate, UnixNanos};
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, Transport};
use shared::receipt::{Durability, RejectReason};
use shared::report::ImageAccount;
use tempfile::TempDir;

use super::{Readers, SqliteCatalog, schema};
use crate::catalog::sample::{account, entry, quarantined};
use crate::catalog::{Catalog, Entry, Fault, Filter, Inserted, Tally, TallyKind};

fn path(folder: &TempDir) -> PathBuf {
    folder.path().join("catalogue.sqlite")
}

fn open(folder: &TempDir) -> SqliteCatalog {
    SqliteCatalog::open(&path(folder), Durability::Written).unwrap()
}

/// Every field away from its default, numbers at their limits.
fn extreme() -> Entry {
    let mut extreme = quarantined(1);
    extreme.meta.sequence = u64::MAX;
    extreme.meta.size = u64::MAX;
    extreme.meta.digest = None;
    extreme.meta.name = Some("../../etc/pässwd \u{1F4F7}\n'; DROP TABLE images; --".to_owned());
    extreme.meta.captured = Some(UnixNanos(i64::MIN));
    extreme.meta.queued = None;
    extreme.meta.clock = Some(ClockEstimate {
        offset_ns: i64::MIN,
        error_ns: u64::MAX,
        samples: u32::MAX,
    });
    extreme.meta.attempt = u32::MAX;
    extreme.digest = DigestAlgorithm::Blake3.digest(b"x");
    extreme.width = u32::MAX;
    extreme.timeline.durable = UnixNanos(i64::MAX);
    extreme
}

#[tokio::test]
async fn an_entry_reads_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    let mut bare = entry(2);
    bare.meta.content_type = None;
    bare.meta.name = None;
    bare.meta.clock = None;
    bare.location = String::new();
    bare.durability = Durability::Memory;
    bare.transport = Transport::WebSocket;
    for entry in [entry(1), extreme(), bare] {
        assert_eq!(catalog.insert(entry.clone()).await.unwrap(), Inserted::New);
        let found = catalog.find(entry.meta.id).await.unwrap().unwrap();
        assert_eq!(found.entry, entry);
        assert_eq!((found.delivery_ns, found.attempts), (None, None));
    }
    assert_eq!(catalog.find(ImageId::new()).await.unwrap(), None);
}

#[tokio::test]
async fn a_second_entry_with_the_same_id_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    let first = entry(1);
    catalog.insert(first.clone()).await.unwrap();
    let mut second = entry(2);
    second.meta.id = first.meta.id;
    let present = catalog.insert(second).await.unwrap();
    assert_eq!(present, Inserted::Present(Box::new(first.clone())));
    assert_eq!(
        catalog.find(first.meta.id).await.unwrap().unwrap().entry,
        first
    );
    let series = catalog.series(Filter::default()).await.unwrap();
    assert_eq!((series[0].stored, series[0].bytes), (1, 1_000));
}

#[tokio::test]
async fn a_thousand_concurrent_inserts_share_commits() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Arc::new(SqliteCatalog::open(&path(&folder), Durability::Synced).unwrap());
    // Another writer keeps the thread from committing until all have queued up.
    let other = rusqlite::Connection::open(path(&folder)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting = Vec::new();
    for sequence in 0..1_000 {
        let catalog = Arc::clone(&catalog);
        let mut insert = Box::pin(async move { catalog.insert(entry(sequence)).await });
        assert!(matches!(insert.as_mut().poll(&mut context), Poll::Pending));
        waiting.push(insert);
    }
    other.execute_batch("COMMIT").unwrap();
    for insert in waiting {
        assert_eq!(insert.await.unwrap(), Inserted::New);
    }
    // The thread had taken some when it was kept waiting; the rest goes in one transaction.
    assert!(
        (1..=2).contains(&catalog.commits()),
        "{} commits",
        catalog.commits()
    );
    let series = catalog.series(Filter::default()).await.unwrap();
    assert_eq!((series[0].stored, series[0].bytes), (1_000, 1_000_000));
}

#[tokio::test]
async fn what_nobody_waits_for_is_seen_by_the_next_reader() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    let first = entry(1);
    catalog.insert_later(first.clone());
    catalog.insert_later(first.clone());
    for kind in [
        TallyKind::Duplicate,
        TallyKind::Rejected(RejectReason::Limit),
    ] {
        let transmitter = "camera".to_owned();
        let tally = Tally {
            run: "run".to_owned(),
            transport: Transport::Grpc,
            transmitter,
            kind,
        };
        catalog.tally(tally);
    }
    let series = catalog.series(Filter::default()).await.unwrap();
    assert_eq!(series.len(), 1);
    assert_eq!(
        (series[0].stored, series[0].duplicates, series[0].rejected),
        (1, 2, 1)
    );
    assert_eq!(
        catalog.list(Filter::default(), 0, 10).await.unwrap()[0].entry,
        first
    );
    assert_eq!(catalog.lost(), 0);
}

#[tokio::test]
async fn series_add_up_what_their_entries_say() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    for sequence in 1..=6 {
        let mut entry = if sequence == 3 {
            quarantined(3)
        } else {
            entry(sequence)
        };
        entry.meta.size = sequence * 100;
        if sequence > 4 {
            entry.transport = Transport::Rest;
        }
        catalog.insert(entry).await.unwrap();
    }
    let series = catalog.series(Filter::default()).await.unwrap();
    assert_eq!(series.len(), 2);
    let (last, first) = (&series[0], &series[1]);
    assert_eq!(
        (first.transport, first.stored, first.quarantined),
        (Transport::Grpc, 3, 1)
    );
    assert_eq!(first.bytes, 100 + 200 + 400, "of stored images only");
    assert_eq!(first.first_ns, entry(1).timeline.last_byte.0);
    assert_eq!(first.last_ns, entry(4).timeline.last_byte.0);
    assert_eq!(
        (last.transport, last.stored, last.quarantined),
        (Transport::Rest, 2, 0)
    );

    let filter = Filter {
        quarantined: Some(true),
        ..Filter::default()
    };
    assert_eq!(
        catalog.series(filter).await.unwrap(),
        std::slice::from_ref(first)
    );
    let filter = Filter {
        transport: Some(Transport::Rest),
        ..Filter::default()
    };
    assert_eq!(
        catalog.series(filter).await.unwrap(),
        std::slice::from_ref(last)
    );
    let filter = Filter {
        run: Some("another".to_owned()),
        ..Filter::default()
    };
    assert_eq!(catalog.series(filter).await.unwrap(), []);
}

#[tokio::test]
async fn sizes_beyond_the_range_do_not_stop_the_count() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    for sequence in 1..=2 {
        let mut huge = entry(sequence);
        huge.meta.size = u64::MAX;
        assert_eq!(catalog.insert(huge).await.unwrap(), Inserted::New);
    }
    let series = catalog.series(Filter::default()).await.unwrap();
    assert_eq!(
        (series[0].stored, series[0].bytes),
        (2, i64::MAX.unsigned_abs())
    );
}

#[tokio::test]
async fn pages_follow_each_other_under_every_filter() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    let mut all = Vec::new();
    for sequence in 0..60 {
        let mut entry = if sequence % 5 == 0 {
            quarantined(sequence)
        } else {
            entry(sequence)
        };
        entry.meta.run = ["night", "day"][usize::from(sequence % 2 == 0)].to_owned();
        entry.transport = Transport::ALL[usize::try_from(sequence % 3).unwrap()];
        entry.transmitter = ["a", "b"][usize::from(sequence % 7 == 0)].to_owned();
        catalog.insert(entry.clone()).await.unwrap();
        all.push(entry);
    }
    let runs = [None, Some("day".to_owned()), Some("absent".to_owned())];
    for run in runs {
        for transport in [None, Some(Transport::Rest)] {
            for transmitter in [None, Some("b".to_owned())] {
                for quarantined in [None, Some(false), Some(true)] {
                    let filter = Filter {
                        run: run.clone(),
                        transport,
                        transmitter: transmitter.clone(),
                        quarantined,
                    };
                    let expected: Vec<_> = all.iter().filter(|e| fits(e, &filter)).collect();
                    let found = paged(&catalog, &filter, 7).await;
                    assert!(
                        found.iter().eq(expected),
                        "{filter:?}: {} found",
                        found.len()
                    );
                }
            }
        }
    }
}

fn fits(entry: &Entry, filter: &Filter) -> bool {
    let quarantined = entry.verdict != crate::catalog::Verdict::Stored;
    filter.run.as_ref().is_none_or(|run| *run == entry.meta.run)
        && filter
            .transport
            .is_none_or(|transport| transport == entry.transport)
        && filter
            .transmitter
            .as_ref()
            .is_none_or(|name| *name == entry.transmitter)
        && filter
            .quarantined
            .is_none_or(|wanted| wanted == quarantined)
}

async fn paged(catalog: &SqliteCatalog, filter: &Filter, limit: usize) -> Vec<Entry> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = catalog.list(filter.clone(), after, limit).await.unwrap();
        assert!(page.len() <= limit);
        let Some(last) = page.last() else {
            return found;
        };
        assert!(last.number > after);
        after = last.number;
        found.extend(page.into_iter().map(|numbered| numbered.entry));
    }
}

#[tokio::test]
async fn an_account_replaces_the_one_before_and_tells_of_its_own_images() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    let mine = entry(1);
    let mut foreign = entry(2);
    foreign.transmitter = "another camera".to_owned();
    let ids = [mine.meta.id, foreign.meta.id, ImageId::new()];
    // What was handed over before an account is there when the account comes.
    catalog.insert_later(mine);
    catalog.insert_later(foreign);
    let images = ids
        .map(|image_id| ImageAccount {
            image_id,
            delivery_ns: u64::MAX,
            attempts: 3,
        })
        .to_vec();
    let mut told = account(images);
    told.cpu_seconds = f64::NAN;
    catalog.account(told).await.unwrap();
    let found = catalog.find(ids[0]).await.unwrap().unwrap();
    assert_eq!(
        (found.delivery_ns, found.attempts),
        (Some(u64::MAX), Some(3))
    );
    let other = catalog.find(ids[1]).await.unwrap().unwrap();
    assert_eq!((other.delivery_ns, other.attempts), (None, None));

    let mut last = account(Vec::new());
    last.delivered = 4;
    last.finished = true;
    catalog.account(last.clone()).await.unwrap();
    let filter = Filter {
        transmitter: Some("camera".to_owned()),
        ..Filter::default()
    };
    let series = catalog.series(filter).await.unwrap();
    assert_eq!(series[0].account, Some(last));
    assert_eq!(series[0].stored, 1);
}

#[tokio::test]
async fn closing_writes_everything_and_a_second_life_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    let (first, second) = (entry(1), entry(2));
    catalog.insert_later(first.clone());
    catalog.insert_later(second.clone());
    catalog.close().await;
    catalog.close().await;
    assert!(!folder.path().join("catalogue.sqlite-wal").exists());
    assert!(catalog.find(first.meta.id).await.is_err());
    let error = catalog.insert(entry(3)).await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    catalog.insert_later(entry(4));
    assert_eq!(catalog.lost(), 1);

    let catalog = open(&folder);
    let found = catalog.list(Filter::default(), 0, 10).await.unwrap();
    assert_eq!(
        found.into_iter().map(|n| n.entry).collect::<Vec<_>>(),
        [first, second]
    );
}

#[tokio::test]
async fn an_entry_that_cannot_be_written_takes_no_other_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    let other = rusqlite::Connection::open(path(&folder)).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON images WHEN NEW.name = 'poison'
             BEGIN SELECT RAISE(ABORT, 'refused for the test'); END;
             BEGIN IMMEDIATE",
        )
        .unwrap();
    let mut poison = entry(2);
    poison.meta.name = Some("poison".to_owned());
    let mut context = Context::from_waker(Waker::noop());
    let mut one = pin!(catalog.insert(entry(1)));
    let mut bad = pin!(catalog.insert(poison.clone()));
    let mut two = pin!(catalog.insert(entry(3)));
    for insert in [&mut one, &mut bad, &mut two] {
        assert!(insert.as_mut().poll(&mut context).is_pending());
    }
    catalog.insert_later(poison.clone());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(one.await.unwrap(), Inserted::New);
    let error = bad.await.unwrap_err();
    assert!(
        error.to_string().contains("refused for the test"),
        "{error}"
    );
    assert_eq!(two.await.unwrap(), Inserted::New);
    let series = catalog.series(Filter::default()).await.unwrap();
    assert_eq!(series[0].stored, 2);
    assert_eq!(catalog.lost(), 1);

    other.execute_batch("DROP TRIGGER refuse").unwrap();
    assert_eq!(catalog.insert(poison).await.unwrap(), Inserted::New);
}

fn refusal(folder: &TempDir) -> String {
    let error = SqliteCatalog::open(&path(folder), Durability::Synced)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("catalogue.sqlite"),
        "names the file: {error}"
    );
    error
}

#[tokio::test]
async fn a_damaged_file_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(path(&folder), [0xA5; 8192]).unwrap();
    assert!(refusal(&folder).contains("damaged"));

    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    for sequence in 0..200 {
        catalog.insert_later(entry(sequence));
    }
    catalog.close().await;
    let mut bytes = std::fs::read(path(&folder)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xA5);
    std::fs::write(path(&folder), bytes).unwrap();
    assert!(refusal(&folder).contains("damaged"));
}

#[test]
fn a_file_that_is_no_catalogue_of_this_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = rusqlite::Connection::open(path(&folder)).unwrap();
    foreign
        .execute_batch("CREATE TABLE music (title TEXT)")
        .unwrap();
    assert!(refusal(&folder).contains("another program"));

    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    let newer = rusqlite::Connection::open(path(&folder)).unwrap();
    newer.execute_batch("PRAGMA user_version = 99").unwrap();
    let error = refusal(&folder);
    assert!(
        error.contains("version 99") && error.contains("newer"),
        "{error}"
    );

    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent").join("catalogue.sqlite");
    let error = SqliteCatalog::open(&absent, Durability::Synced)
        .unwrap_err()
        .to_string();
    assert!(error.contains("check that the folder exists"), "{error}");
}

#[tokio::test]
async fn what_the_process_used_is_divided_by_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    let other = rusqlite::Connection::open(path(&folder)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // All in one transaction but perhaps the first.
    catalog.insert_later(entry(1));
    for sequence in 2..=900 {
        let mut entry = entry(sequence);
        entry.transport = if sequence % 2 == 0 {
            Transport::Grpc
        } else {
            Transport::Rest
        };
        entry.meta.size = if sequence % 2 == 0 { 999_000 } else { 1_000 };
        catalog.insert_later(entry);
    }
    other.execute_batch("COMMIT").unwrap();
    let series = catalog.series(Filter::default()).await.unwrap();
    let of = |transport| {
        series
            .iter()
            .find(|series| series.transport == transport)
            .unwrap()
    };
    let (large, small) = (of(Transport::Grpc), of(Transport::Rest));
    assert!(
        large.cpu_ns > small.cpu_ns * 100,
        "{} and {}",
        large.cpu_ns,
        small.cpu_ns
    );
    assert!(large.peak_memory_bytes > 1 << 20);
}

#[tokio::test]
async fn a_catalogue_that_cannot_be_written_says_so_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    let connection = schema::open(&path, Durability::Written).unwrap();
    let pages: i64 = connection
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    connection
        .pragma_update(None, "max_page_count", pages + 8)
        .unwrap();
    let catalog = SqliteCatalog::over(connection, Readers::open(&path).unwrap()).unwrap();
    assert!(catalog.failure().is_none());
    let mut stored = Vec::new();
    let error = loop {
        let mut entry = entry(stored.len() as u64 + 1);
        entry.meta.name = Some("n".repeat(2_000));
        match catalog.insert(entry.clone()).await {
            Ok(_) => stored.push(entry),
            Err(error) => break error,
        }
    };
    assert_eq!(error.fault, Fault::NoSpace, "{error}");
    assert_eq!(catalog.failure().unwrap().fault, Fault::NoSpace);
    assert!(
        catalog.list(Filter::default(), 0, 1).await.is_ok(),
        "it is read"
    );
    // Nothing grows when it is only tried.
    catalog.try_to_write().await.unwrap();
    assert!(catalog.failure().is_none());
}
