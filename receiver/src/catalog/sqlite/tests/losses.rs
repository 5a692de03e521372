//! Losses, gaps and numbers given twice.

use shared::clock::UnixNanos;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, OutboxId, Transport};
use shared::wire::{Loss, LossReport, Standing};
use tempfile::TempDir;

use super::{open, path};
use crate::catalog::sample::{entry, quarantined};
use crate::catalog::sqlite::SqliteCatalog;
use crate::catalog::{Catalog, Entry, Filter, Integrity, Kept, LossFilter, Repeat};

/// A catalogue, and an outbox of `camera`.
struct Rig {
    folder: TempDir,
    catalog: SqliteCatalog,
    outbox: OutboxId,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            catalog: open(&folder),
            folder,
            outbox: OutboxId::new(),
        }
    }

    fn entry(&self, sequence: u64) -> Entry {
        Entry {
            outbox: Some(self.outbox),
            ..entry(sequence)
        }
    }

    async fn store(&self, sequences: impl IntoIterator<Item = u64>) {
        for sequence in sequences {
            self.catalog.insert(self.entry(sequence)).await.unwrap();
        }
    }

    async fn tell(&self, losses: &[Loss], first_owed: u64) -> Kept {
        let report = LossReport {
            id: 1,
            standing: Some(Standing {
                outbox: self.outbox,
                first_owed,
                next_sequence: first_owed.max(10),
            }),
            losses: losses.to_vec(),
            transmitter: "camera".to_owned(),
        };
        self.catalog.keep_losses(report).await.unwrap()
    }

    /// First, last and missing of each gap.
    async fn gaps(&self) -> Vec<(u64, u64, u64)> {
        let gaps = self.catalog.gaps(LossFilter::default(), 10_000).await;
        let gaps = gaps.unwrap();
        gaps.iter()
            .map(|gap| (gap.first, gap.last, gap.missing))
            .collect()
    }

    async fn integrity(&self) -> Integrity {
        self.catalog.integrity().await.unwrap()
    }
}

fn loss(sequence: u64) -> Loss {
    Loss {
        sequence,
        image_id: ImageId::new(),
        digest: Some(DigestAlgorithm::Blake3.digest(b"x")),
        reason: "evicted: the outbox is full".to_owned(),
        at: UnixNanos(1_767_312_000_000_000_000),
        run: "run".to_owned(),
    }
}

#[tokio::test]
async fn losses_are_kept_once_and_read_back_as_they_were_after_a_restart() {
    let rig = Rig::new();
    let losses = [loss(1), loss(2)];
    assert_eq!(rig.tell(&losses, 3).await.fresh, [0, 1]);
    let again = [losses[1].clone(), loss(3)];
    assert_eq!(rig.tell(&again, 4).await.fresh, [1], "one of them is new");
    rig.catalog.close().await;

    let catalog = open(&rig.folder);
    let found = catalog.losses(LossFilter::default(), 0, 10).await.unwrap();
    let told: Vec<&Loss> = found.iter().map(|kept| &kept.loss).collect();
    assert_eq!(told, [&losses[0], &losses[1], &again[1]]);
    assert!(found.iter().all(|kept| kept.outbox == Some(rig.outbox)));
    assert!(found.iter().all(|kept| kept.transmitter == "camera"));
    let rest = catalog.losses(LossFilter::default(), found[0].number, 1);
    assert_eq!(rest.await.unwrap(), found[1..2]);
}

#[tokio::test]
async fn losses_without_an_outbox_are_kept_once_too() {
    let rig = Rig::new();
    let report = LossReport {
        losses: vec![loss(7)],
        transmitter: "camera".to_owned(),
        ..LossReport::default()
    };
    let first = rig.catalog.keep_losses(report.clone()).await.unwrap();
    let second = rig.catalog.keep_losses(report).await.unwrap();
    assert_eq!((first.fresh.len(), second.fresh.len()), (1, 0));
    let found = rig.catalog.losses(LossFilter::default(), 0, 10).await;
    assert_eq!(found.unwrap()[0].outbox, None);
}

#[tokio::test]
async fn filters_choose_losses_and_gaps() {
    let rig = Rig::new();
    rig.tell(&[], 1).await;
    rig.store([1, 3]).await;
    let mut other = loss(4);
    other.run = "other".to_owned();
    rig.tell(&[loss(5), other], 6).await;
    let filters = [
        (LossFilter::default(), 2, 1),
        (
            LossFilter {
                run: Some("run".to_owned()),
                ..LossFilter::default()
            },
            1,
            1,
        ),
        (
            LossFilter {
                run: Some("other".to_owned()),
                ..LossFilter::default()
            },
            1,
            0,
        ),
        (
            LossFilter {
                transmitter: Some("camera".to_owned()),
                outbox: Some(rig.outbox),
                ..LossFilter::default()
            },
            2,
            1,
        ),
        (
            LossFilter {
                outbox: Some(OutboxId::new()),
                ..LossFilter::default()
            },
            0,
            0,
        ),
        (
            LossFilter {
                since: Some(UnixNanos(i64::MAX)),
                ..LossFilter::default()
            },
            0,
            0,
        ),
    ];
    for (filter, losses, gaps) in filters {
        let found = rig.catalog.losses(filter.clone(), 0, 10).await.unwrap();
        assert_eq!(found.len(), losses, "{filter:?}");
        let found = rig.catalog.gaps(filter.clone(), 10).await.unwrap();
        assert_eq!(found.len(), gaps, "{filter:?}");
    }
}

#[tokio::test]
async fn what_neither_came_nor_was_told_is_a_gap_and_nothing_else() {
    let rig = Rig::new();
    rig.tell(&[], 1).await;
    rig.store([1, 2, 4, 9]).await;
    let apart = Entry {
        outbox: Some(rig.outbox),
        ..quarantined(5)
    };
    rig.catalog.insert(apart).await.unwrap();
    let kept = rig.tell(&[loss(6)], 9).await;
    assert_eq!(kept.missing, 3);
    assert_eq!(rig.gaps().await, [(3, 3, 1), (7, 8, 2)]);
    let gaps = rig.catalog.gaps(LossFilter::default(), 10).await.unwrap();
    assert!(gaps.iter().all(|gap| gap.run == "run"));
    assert!(
        gaps.iter()
            .all(|gap| gap.transport == Some(Transport::Grpc))
    );
    let integrity = rig.integrity().await;
    assert_eq!((integrity.missing, integrity.owed), (3, 1));
    // Looked at once.
    assert_eq!(rig.tell(&[], 9).await.missing, 0);
    assert_eq!(rig.tell(&[], 10).await.missing, 0, "9 came");
    assert_eq!(rig.gaps().await, [(3, 3, 1), (7, 8, 2)]);
}

#[tokio::test]
async fn a_late_arrival_ends_its_part_of_a_gap() {
    let rig = Rig::new();
    rig.tell(&[], 1).await;
    rig.tell(&[], 10).await;
    assert_eq!(rig.gaps().await, [(1, 9, 9)]);
    rig.store([5]).await;
    assert_eq!(rig.gaps().await, [(1, 4, 4), (6, 9, 4)]);
    rig.tell(&[loss(1), loss(9)], 10).await;
    assert_eq!(rig.gaps().await, [(2, 4, 3), (6, 8, 3)]);
    rig.store([2, 3, 4]).await;
    rig.store([8, 7, 6]).await;
    assert_eq!(rig.gaps().await, []);
    assert_eq!(rig.integrity().await.missing, 0);
    rig.store([6]).await;
    assert_eq!(rig.integrity().await.reused, 1, "another image came as 6");
}

#[tokio::test]
async fn what_an_outbox_sent_elsewhere_before_its_first_word_is_no_gap() {
    let rig = Rig::new();
    assert_eq!(rig.tell(&[], 1_000_001).await.missing, 0);
    rig.store([1_000_001]).await;
    assert_eq!(rig.tell(&[], 1_000_003).await.missing, 1);
    assert_eq!(rig.gaps().await, [(1_000_002, 1_000_002, 1)]);
    // An image of before, which another receiver may have.
    rig.store([17]).await;
    assert_eq!(rig.integrity().await.missing, 1);
}

#[tokio::test]
async fn a_standing_that_only_names_the_outbox_is_no_word_of_where_it_is() {
    let rig = Rig::new();
    let report = LossReport {
        standing: Some(Standing::unsaid(rig.outbox)),
        losses: vec![loss(999_990)],
        transmitter: "camera".to_owned(),
        ..LossReport::default()
    };
    let kept = rig.catalog.keep_losses(report).await.unwrap();
    assert_eq!((kept.fresh.len(), kept.missing), (1, 0));
    assert_eq!(rig.tell(&[], 1_000_001).await.missing, 0);
    assert_eq!(rig.gaps().await, []);
}

#[tokio::test]
async fn what_came_before_the_first_word_is_where_a_stream_begins() {
    let rig = Rig::new();
    rig.store([4, 6]).await;
    assert_eq!(rig.tell(&[], 8).await.missing, 2);
    assert_eq!(rig.gaps().await, [(5, 5, 1), (7, 7, 1)]);
}

#[tokio::test]
async fn a_floor_only_rises() {
    let rig = Rig::new();
    rig.tell(&[], 1).await;
    rig.store([1, 2, 3]).await;
    rig.tell(&[], 4).await;
    rig.tell(&[], 2).await;
    assert_eq!(rig.integrity().await.owed, 6, "next is 10");
    assert_eq!(rig.tell(&[], 5).await.missing, 1);
    assert_eq!(rig.gaps().await, [(4, 4, 1)]);
}

#[tokio::test]
async fn streams_are_apart_by_transmitter_and_outbox() {
    let rig = Rig::new();
    rig.tell(&[], 1).await;
    rig.store([1, 2]).await;
    let other = OutboxId::new();
    for (transmitter, outbox) in [("camera", other), ("another", rig.outbox)] {
        for (first_owed, missing) in [(1, 0), (3, 2)] {
            let report = LossReport {
                standing: Some(Standing {
                    outbox,
                    first_owed,
                    next_sequence: 3,
                }),
                transmitter: transmitter.to_owned(),
                ..LossReport::default()
            };
            let kept = rig.catalog.keep_losses(report).await.unwrap();
            assert_eq!(kept.missing, missing, "{transmitter}");
        }
    }
    assert_eq!(rig.tell(&[], 3).await.missing, 0);
}

#[tokio::test]
async fn a_number_given_to_two_images_is_noticed_whatever_became_of_them() {
    let rig = Rig::new();
    rig.store([1, 2, 3]).await;
    assert_eq!(rig.integrity().await.reused, 0);
    rig.store([2]).await;
    assert_eq!(rig.integrity().await.reused, 1);
    rig.tell(&[loss(3)], 4).await;
    assert_eq!(rig.integrity().await.reused, 2);
    let mut same = loss(1);
    let stored = rig.catalog.list(Filter::default(), 0, 1).await.unwrap();
    same.image_id = stored[0].entry.meta.id;
    rig.tell(&[same.clone()], 4).await;
    assert_eq!(
        rig.integrity().await.reused,
        2,
        "given up, and stored all the same: one image"
    );
    rig.tell(&[same, loss(3)], 4).await;
    assert_eq!(rig.integrity().await.reused, 3);
    // A client that does not count.
    rig.store([0, 0]).await;
    assert_eq!(rig.integrity().await.reused, 3);

    let series = rig.catalog.series(Filter::default()).await.unwrap();
    let ledger = rig.catalog.ledger(&series[0]).await.unwrap();
    assert_eq!((ledger.reused, ledger.named, ledger.missing), (3, 3, 0));
    assert_eq!(
        ledger.reasons,
        [("evicted: the outbox is full".to_owned(), 3)]
    );
}

#[tokio::test]
async fn an_image_that_came_again_under_another_number_is_no_gap() {
    let rig = Rig::new();
    rig.tell(&[], 1).await;
    let before = entry(1);
    rig.catalog.insert(before.clone()).await.unwrap();
    let repeat = Repeat {
        transmitter: "camera".to_owned(),
        outbox: rig.outbox,
        sequence: 1,
        image_id: before.meta.id,
        run: "run".to_owned(),
    };
    rig.catalog.repeat(repeat.clone()).await.unwrap();
    assert_eq!(rig.tell(&[], 3).await.missing, 1, "2");
    rig.catalog
        .repeat(Repeat {
            sequence: 2,
            ..repeat
        })
        .await
        .unwrap();
    assert_eq!(
        rig.integrity().await,
        Integrity {
            owed: 7,
            ..Integrity::default()
        }
    );
}

#[tokio::test]
async fn a_floor_beyond_all_measure_costs_one_row() {
    let rig = Rig::new();
    rig.tell(&[], 1).await;
    rig.store([5]).await;
    let most = i64::MAX as u64;
    rig.tell(&[], most).await;
    assert_eq!(rig.gaps().await, [(1, 4, 4), (6, most - 1, most - 6)]);
    rig.store([1 << 40]).await;
    assert_eq!(rig.gaps().await.len(), 3);
    // Numbers above that an outbox cannot have; they are not followed.
    rig.store([u64::MAX, most + 1]).await;
    assert_eq!(rig.integrity().await.reused, 0);
}

#[tokio::test]
async fn gaps_without_number_are_put_into_one_and_still_counted() {
    let rig = Rig::new();
    rig.tell(&[], 1).await;
    let count = 4_200;
    let losses: Vec<Loss> = (1..=count).map(|number| loss(number * 2)).collect();
    let kept = rig.tell(&losses, count * 2 + 1).await;
    assert_eq!(kept.missing, count);
    let gaps = rig.gaps().await;
    assert_eq!(gaps.len(), 4_096);
    assert_eq!(gaps[4_095], (8_191, 8_399, 105));
    assert_eq!(rig.integrity().await.missing, count);
    // One that is missing there comes, and one that was told there comes too.
    rig.store([8_395]).await;
    assert_eq!(rig.integrity().await.missing, count - 1);
    let mut told = rig.entry(8_396);
    told.meta.id = losses[4_197].image_id;
    rig.catalog.insert(told).await.unwrap();
    assert_eq!(rig.integrity().await.missing, count - 1);
    // In the middle of a gap that could be cut in two, there is no row for it.
    rig.tell(&[], count * 2 + 100).await;
    assert_eq!(rig.gaps().await.len(), 4_096);
    assert_eq!(rig.integrity().await.missing, count - 1 + 99);
}

#[tokio::test]
async fn a_long_stretch_is_walked_over_in_steps_and_gone_on_with_after_a_restart() {
    let rig = Rig::new();
    rig.store([1]).await;
    let other = rusqlite::Connection::open(path(&rig.folder)).unwrap();
    // As many as take several steps; 2 and the last one are missing.
    other
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i < 120000)
             INSERT INTO repeats (stream, sequence, image_id) SELECT 1, i, randomblob(16) FROM n",
        )
        .unwrap();
    assert_eq!(rig.tell(&[], 120_002).await.missing, 1, "the first step");
    rig.catalog.close().await;
    drop(rig.catalog);
    let catalog = open(&rig.folder);
    // The writer is done with it when it is closed after a job: it works in between.
    while catalog.integrity().await.unwrap().missing < 2 {
        catalog.keep_losses(LossReport::default()).await.unwrap();
    }
    let gaps = catalog.gaps(LossFilter::default(), 10).await.unwrap();
    let found: Vec<u64> = gaps.iter().map(|gap| gap.first).collect();
    assert_eq!(found, [2, 120_001]);
}

#[tokio::test]
async fn a_catalogue_of_the_first_form_is_brought_to_the_present_one() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder);
    let old = entry(1);
    catalog.insert(old.clone()).await.unwrap();
    catalog.close().await;
    drop(catalog);
    let before = rusqlite::Connection::open(path(&folder)).unwrap();
    before
        .execute_batch(
            "DROP INDEX images_by_sequence;
             ALTER TABLE images DROP COLUMN outbox; ALTER TABLE images DROP COLUMN stream;
             DROP TABLE streams; DROP TABLE losses; DROP TABLE repeats; DROP TABLE gaps;
             DROP TABLE reuses; PRAGMA user_version = 1",
        )
        .unwrap();
    drop(before);
    let catalog = open(&folder);
    let found = catalog.find(old.meta.id).await.unwrap().unwrap();
    assert_eq!(found.entry, old);
    let new = Entry {
        outbox: Some(OutboxId::new()),
        ..entry(2)
    };
    catalog.insert(new.clone()).await.unwrap();
    let found = catalog.find(new.meta.id).await.unwrap().unwrap();
    assert_eq!(found.entry, new);
}
