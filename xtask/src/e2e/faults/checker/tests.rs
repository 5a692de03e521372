//! Disks made by hand, right and wrong in every way that the checker looks for.

use std::fs;

use redb::TableDefinition;
use rusqlite::{Connection, params};
use serde_json::json;
use tempfile::TempDir;

use super::*;

const OUTBOX: [u8; 16] = [9; 16];

/// Both disks with three images: number 1 stored, number 2 owed, number 3 lost.
struct Stand {
    folder: TempDir,
    truth: Truth,
    history: History,
}

fn id(number: u64) -> [u8; 16] {
    [number as u8; 16]
}

fn content(number: u64) -> Vec<u8> {
    format!("image {number}").into_bytes()
}

fn digest(number: u64) -> Vec<u8> {
    let sum = twox_hash::XxHash3_128::oneshot(&content(number));
    sum.to_be_bytes().to_vec()
}

impl Stand {
    fn new() -> Self {
        let mut stand = Self {
            folder: tempfile::tempdir().unwrap(),
            truth: Truth::default(),
            history: History::default(),
        };
        for number in 1..=3 {
            stand
                .truth
                .add(format!("image {number}"), &content(number), true, true);
        }
        fs::create_dir_all(stand.path("data/images/2026-01-02")).unwrap();
        fs::create_dir_all(stand.path("outbox/images/000")).unwrap();
        let catalogue = stand.catalogue();
        catalogue
            .execute_batch(
                "CREATE TABLE images (id BLOB, outbox BLOB, sequence INTEGER, digest BLOB,
                     size INTEGER, reason TEXT, location TEXT, verified INTEGER);
                 CREATE TABLE losses (outbox BLOB, sequence INTEGER, image_id BLOB, digest BLOB,
                     reason TEXT);
                 CREATE TABLE gaps (first INTEGER);
                 CREATE TABLE reuses (first INTEGER);
                 CREATE TABLE streams (outbox BLOB, floor INTEGER);",
            )
            .unwrap();
        stand.store(1, 1, id(1), 1);
        stand.receipt(1, "stored");
        stand.own(2);
        stand.index(4, &[2], &[3]);
        stand
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn catalogue(&self) -> Connection {
        Connection::open(self.path("data/catalog.sqlite")).unwrap()
    }

    /// The receiver has the bytes of image `number` as `id` with `sequence`.
    fn store(&self, number: u64, sequence: u64, id: [u8; 16], copy: u32) {
        let location = format!("images/2026-01-02/{}.{copy}.jpg", id_text(&id));
        fs::write(self.path("data").join(&location), content(number)).unwrap();
        self.catalogue()
            .execute(
                "INSERT INTO images VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?6, 5)",
                params![
                    id,
                    OUTBOX,
                    sequence as i64,
                    digest(number),
                    content(number).len() as i64,
                    location
                ],
            )
            .unwrap();
    }

    /// The receiver was told that image `number` is lost.
    fn told(&self, number: u64, reason: &str) {
        self.catalogue()
            .execute(
                "INSERT INTO losses VALUES (?1, ?2, ?3, ?4, ?5)",
                params![OUTBOX, number as i64, id(number), digest(number), reason],
            )
            .unwrap();
    }

    /// The receiver keeps image `number` apart for a reason, or not.
    fn judge(&self, number: u64, reason: Option<&str>) {
        self.catalogue()
            .execute(
                "UPDATE images SET reason = ?1 WHERE id = ?2",
                params![reason, id(number)],
            )
            .unwrap();
    }

    fn stored(&self, number: u64) -> PathBuf {
        let name = format!("data/images/2026-01-02/{}.1.jpg", id_text(&id(number)));
        self.path(&name)
    }

    fn receipt(&self, number: u64, status: &str) {
        let line = json!({
            "image_id": id_text(&id(number)), "outbox": id_text(&OUTBOX), "sequence": number,
            "digest": format!("xxh3-128:{}", hex(&digest(number))), "status": status,
            "size": content(number).len(), "durability": "synced",
            "verified_unix_ns": 5,
        });
        let path = self.path("receipts");
        let mut before = fs::read_to_string(&path).unwrap_or_default();
        // A line that was torn is ended before the next.
        if !before.is_empty() && !before.ends_with('\n') {
            before.push('\n');
        }
        fs::write(path, format!("{before}{line}\n{{\"torn")).unwrap();
    }

    fn owned(&self, number: u64) -> PathBuf {
        let (id, digest) = (id_text(&id(number)), hex(&digest(number)));
        self.path(&format!("outbox/images/000/{number:020}-{id}-x{digest}-g"))
    }

    fn own(&self, number: u64) {
        fs::write(self.owned(number), content(number)).unwrap();
    }

    /// An index with these images and losses.
    fn index(&self, next: u64, images: &[u64], lost: &[u64]) {
        self.index_with(next, images, lost, (false, "evicted: the outbox was full"));
    }

    /// And whether the losses were told, and their reason.
    fn index_with(&self, next: u64, images: &[u64], lost: &[u64], (told, reason): (bool, &str)) {
        let path = self.path("outbox/index.redb");
        let _ = fs::remove_file(&path);
        let database = redb::Database::create(path).unwrap();
        let write = database.begin_write().unwrap();
        {
            let meta: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
            let mut meta = write.open_table(meta).unwrap();
            meta.insert("format", &1_u32.to_le_bytes()[..]).unwrap();
            meta.insert("outbox", &OUTBOX[..]).unwrap();
            meta.insert("next", &next.to_le_bytes()[..]).unwrap();
            let table: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("images");
            let mut table = write.open_table(table).unwrap();
            for number in images {
                let mut value = vec![1];
                value.extend(id(*number));
                value.push(1);
                value.extend(digest(*number));
                value.extend((content(*number).len() as u64).to_le_bytes());
                value.extend(1_u32.to_le_bytes());
                value.extend([0; 8]);
                table.insert(*number, &value[..]).unwrap();
            }
            let ledger: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ledger");
            let mut ledger = write.open_table(ledger).unwrap();
            for number in lost {
                let mut value = vec![1, u8::from(told)];
                value.extend(id(*number));
                value.extend([1, 1]);
                value.extend(digest(*number));
                value.extend([0; 16]);
                value.extend([0; 4]);
                value.extend((reason.len() as u32).to_le_bytes());
                value.extend(reason.as_bytes());
                value.push(0);
                ledger.insert(*number, &value[..]).unwrap();
            }
        }
        write.commit().unwrap();
    }

    fn look(&mut self, expect: Expect) -> (Summary, Findings) {
        let (data, outbox) = (self.path("data"), self.path("outbox"));
        let (receipts, scratch) = (self.path("receipts"), self.path("scratch"));
        let disks = Disks {
            data: &data,
            outbox: &outbox,
            receipts: &receipts,
            scratch: &scratch,
        };
        check(&disks, Some(&self.truth), expect, &mut self.history).unwrap()
    }

    /// Fails unless something with these words is found.
    fn finds(&mut self, words: &str) {
        self.finds_when(RUNNING, words);
    }

    fn finds_when(&mut self, expect: Expect, words: &str) {
        let (_, findings) = self.look(expect);
        let found = findings.iter().any(|finding| finding.contains(words));
        assert!(found, "{words:?} is not among {findings:?}");
    }
}

const RUNNING: Expect = Expect {
    receiver_stopped: false,
    drained: false,
    gives_way: true,
};

/// Nothing gives way.
const BLOCKS: Expect = Expect {
    gives_way: false,
    ..RUNNING
};

#[test]
fn disks_on_which_everything_is_somewhere_are_right() {
    let mut stand = Stand::new();
    let (summary, findings) = stand.look(RUNNING);
    assert_eq!(findings, Findings::new());
    let expected = Summary {
        stored: 1,
        owed: 1,
        lost: 1,
        receipts: 1,
        ..Summary::default()
    };
    assert_eq!(summary, expected);
}

#[test]
fn folders_in_which_nothing_ever_ran_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let disks = Disks {
        data: &missing,
        outbox: &missing,
        receipts: &missing,
        scratch: &folder.path().join("scratch"),
    };
    let looked = check(&disks, None, RUNNING, &mut History::default()).unwrap();
    assert_eq!(looked, (Summary::default(), Findings::new()));
}

#[test]
fn an_image_that_is_nowhere_is_found() {
    let mut stand = Stand::new();
    stand.index(4, &[], &[3]);
    stand.finds("number 2 was given and nobody has its image");
    fs::remove_file(stand.owned(2)).unwrap();
    let drained = Expect {
        receiver_stopped: true,
        drained: true,
        ..RUNNING
    };
    stand.finds_when(drained, "image 2 is neither");
}

#[test]
fn a_receipt_without_the_image_is_found() {
    let mut stand = Stand::new();
    stand.receipt(2, "stored");
    stand.finds("the receiver does not know the image");
}

#[test]
fn an_image_that_was_stored_again_is_found_and_a_duplicate_is_none() {
    let mut stand = Stand::new();
    stand.receipt(1, "duplicate");
    stand.receipt(1, "stored");
    assert_eq!(stand.look(RUNNING).1, Findings::new());
    let text = fs::read_to_string(stand.path("receipts")).unwrap();
    let again = text.replace("\"verified_unix_ns\":5", "\"verified_unix_ns\":6");
    fs::write(stand.path("receipts"), again).unwrap();
    stand.finds("stored at another time as well");
}

#[test]
fn an_answered_image_that_is_named_as_lost_is_found_unless_images_give_way() {
    let mut stand = Stand::new();
    stand.store(3, 3, id(3), 1);
    stand.receipt(3, "stored");
    assert_eq!(stand.look(RUNNING).1, Findings::new());
    stand.finds_when(BLOCKS, "has its receipt and is named as lost: evicted");
}

#[test]
fn a_loss_without_need_is_found_on_either_side() {
    let mut stand = Stand::new();
    stand.finds_when(BLOCKS, "is lost without need, says the transmitter");
    stand.index_with(4, &[2], &[3], (false, "its file cannot be read"));
    stand.finds("is lost without need, says the transmitter: \"its file");
    stand.index(4, &[2], &[3]);
    stand.told(3, "abandoned");
    stand.finds("is lost without need, says the receiver: \"abandoned\"");
}

#[test]
fn a_loss_that_was_told_and_that_the_receiver_does_not_know_is_found() {
    let mut stand = Stand::new();
    stand.index_with(4, &[2], &[3], (true, "evicted: the outbox was full"));
    stand.finds("was told and the receiver does not know it");
    stand.told(3, "evicted: the outbox was full");
    assert_eq!(stand.look(RUNNING).1, Findings::new());
}

#[test]
fn an_image_that_was_forgotten_without_a_receipt_is_found() {
    let mut stand = Stand::new();
    fs::remove_file(stand.path("receipts")).unwrap();
    stand.finds("is stored and not owed any more, and has no line among the receipts");
}

#[test]
fn a_wrong_judgement_of_an_image_is_found() {
    let mut stand = Stand::new();
    stand.judge(1, Some("no image"));
    stand.finds("image 1 is a proper image and kept apart");
    let mut stand = Stand::new();
    stand.truth.add("image 1", &content(1), true, false);
    stand.finds("image 1 is no proper image and stored as one");
}

#[test]
fn a_catalogue_without_the_tables_of_losses_and_gaps_is_an_error() {
    for table in ["losses", "gaps", "reuses"] {
        let stand = Stand::new();
        let dropped = format!("DROP TABLE {table}");
        stand.catalogue().execute_batch(&dropped).unwrap();
        let scratch = stand.path("scratch");
        fs::create_dir_all(&scratch).unwrap();
        let looked = receiver::read(&stand.path("data"), &scratch, &mut Findings::new());
        assert!(looked.is_err(), "{table}");
    }
}

#[test]
fn what_is_owed_although_everything_was_to_be_delivered_is_found() {
    let mut stand = Stand::new();
    let drained = Expect {
        drained: true,
        ..RUNNING
    };
    stand.finds_when(drained, "these are owed: [2]");
    let told = "nothing is owed below number 4, and the receiver was told";
    stand.finds_when(drained, told);
    let floor = "INSERT INTO streams VALUES (?1, 4)";
    stand.catalogue().execute(floor, [OUTBOX]).unwrap();
    let (_, findings) = stand.look(drained);
    assert!(!findings.iter().any(|finding| finding.contains(told)));
}

#[test]
fn a_receipt_for_other_bytes_is_found() {
    let mut stand = Stand::new();
    let text = fs::read_to_string(stand.path("receipts")).unwrap();
    fs::write(
        stand.path("receipts"),
        text.replace(&hex(&digest(1)), &hex(&digest(2))),
    )
    .unwrap();
    stand.finds("the receiver has other bytes");
}

#[test]
fn a_receipt_that_promises_less_is_found() {
    let mut stand = Stand::new();
    let text = fs::read_to_string(stand.path("receipts")).unwrap();
    fs::write(stand.path("receipts"), text.replace("synced", "written")).unwrap();
    stand.finds("promises \"written\" only");
}

#[test]
fn an_entry_without_its_file_is_found() {
    let mut stand = Stand::new();
    fs::remove_file(stand.stored(1)).unwrap();
    stand.finds("is catalogued and not there");
}

#[test]
fn torn_and_changed_bytes_are_found() {
    let mut stand = Stand::new();
    fs::write(stand.stored(1), b"imag").unwrap();
    stand.finds("bytes, not");
    fs::write(stand.stored(1), b"imagE 1").unwrap();
    stand.finds("has another digest than its entry");
}

#[test]
fn bytes_that_nobody_captured_are_found() {
    let mut stand = Stand::new();
    stand.store(77, 4, id(77), 1);
    stand.finds("was never captured");
}

#[test]
fn an_image_that_is_stored_twice_is_found() {
    let mut stand = Stand::new();
    stand.store(1, 4, id(4), 1);
    stand.finds("image 1 is stored 2 times");
    let mut stand = Stand::new();
    stand.store(1, 1, id(1), 2);
    stand.finds("is catalogued twice");
}

#[test]
fn an_image_that_was_captured_twice_is_found() {
    let mut stand = Stand::new();
    stand.store(2, 4, id(4), 1);
    stand.finds("image 2 was captured more than once");
}

#[test]
fn a_number_that_was_given_twice_is_found_also_when_its_first_image_is_gone() {
    let mut stand = Stand::new();
    stand.store(3, 2, id(4), 1);
    stand.finds("number 2 was given twice");
    let mut stand = Stand::new();
    stand.look(RUNNING);
    stand
        .catalogue()
        .execute("UPDATE images SET id = ?1", [id(50)])
        .unwrap();
    stand.finds("number 1 was given twice");
}

#[test]
fn an_owed_image_without_its_bytes_is_found() {
    let mut stand = Stand::new();
    fs::write(stand.owned(2), b"imagE 2").unwrap();
    stand.finds("the bytes of image 2");
    fs::remove_file(stand.owned(2)).unwrap();
    stand.finds("is owed and has no file");
}

#[test]
fn what_was_written_and_not_yet_entered_counts_as_owed() {
    let mut stand = Stand::new();
    stand.index(2, &[], &[]);
    stand.own(3);
    let (summary, findings) = stand.look(RUNNING);
    assert_eq!(findings, Findings::new());
    assert_eq!(summary.owed, 2);
}

#[test]
fn a_file_without_an_entry_is_found_after_an_orderly_stop_or_when_it_stays() {
    let mut stand = Stand::new();
    fs::copy(
        stand.stored(1),
        stand.path("data/images/2026-01-02/other.jpg"),
    )
    .unwrap();
    let stopped = Expect {
        receiver_stopped: true,
        ..RUNNING
    };
    assert_eq!(stand.look(RUNNING).1, Findings::new());
    assert!(stand.look(stopped).1[0].contains("has no entry"));
    stand.finds("has no entry");
}

#[test]
fn a_part_of_an_image_that_is_visible_is_found() {
    let mut stand = Stand::new();
    fs::write(stand.path("data/images/2026-01-02/other.jpg"), b"imag").unwrap();
    stand.finds("is visible and incomplete");
}

#[test]
fn what_the_receiver_found_out_itself_is_found() {
    let mut stand = Stand::new();
    for (table, what) in [
        ("gaps", "the receiver reports numbers that are missing"),
        ("reuses", "the receiver reports numbers given twice"),
    ] {
        let entry = format!("INSERT INTO {table} VALUES (1)");
        stand.catalogue().execute(&entry, []).unwrap();
        stand.finds(what);
    }
}

/// The checker would be no proof if it made the same mistakes.
#[test]
fn the_checker_shares_no_code_with_the_programs() {
    let manifest = include_str!("../../../../Cargo.toml");
    for program in ["shared", "transmitter", "receiver", "bench"] {
        let named = manifest
            .lines()
            .any(|line| line.starts_with(program) || line.contains("pantelegraph"));
        assert!(!named, "{program} is a dependency");
    }
    let sources = [
        include_str!("../checker.rs"),
        include_str!("books.rs"),
        include_str!("outbox.rs"),
        include_str!("receipts.rs"),
        include_str!("receiver.rs"),
        include_str!("truth.rs"),
    ];
    let allowed = [
        "std",
        "anyhow",
        "redb",
        "rusqlite",
        "serde_json",
        "sha2",
        "super",
        "crate",
        "books",
        "truth",
    ];
    for source in sources {
        for line in source.lines() {
            let Some(path) = line
                .trim_start()
                .strip_prefix("use ")
                .or_else(|| line.trim_start().strip_prefix("pub(crate) use "))
            else {
                continue;
            };
            let root = path.split([':', ';']).next().unwrap_or_default();
            assert!(allowed.contains(&root), "{line}");
        }
    }
}
