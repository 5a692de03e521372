use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use shared::digest::DigestAlgorithm;
use shared::image::ImageMeta;
use shared::receipt::{Durability, Receipt, ReceiptStatus, ReceiverTimeline, RejectReason};

use super::*;
use crate::delivery::LossKind;
use crate::outbox::Owed;
use crate::payload::Payload;

fn settled(settlement: impl FnOnce(&ImageMeta) -> Settlement) -> Settled {
    let bytes = Bytes::from_static(b"an image");
    let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
    meta.sequence = 7;
    meta.run = "a \"run\"".to_owned();
    let settlement = settlement(&meta);
    Settled {
        image: Arc::new(Owed {
            meta,
            payload: Payload::Memory(bytes),
            source_file: None,
            source_mark: None,
            carried: false,
        }),
        own: true,
        settlement,
        started: UnixNanos(1),
        delivery: Duration::from_millis(1),
        attempts: 1,
        clock: None,
    }
}

fn receipt(status: ReceiptStatus) -> Settled {
    let at = UnixNanos(1);
    settled(|meta| {
        Settlement::Receipt(Receipt {
            image_id: meta.id,
            status,
            size: meta.size,
            digest: meta.digest.expect("given above"),
            durability: Durability::Synced,
            format: String::new(),
            width: 1,
            height: 1,
            timeline: ReceiverTimeline {
                first_byte: at,
                last_byte: at,
                verified: at,
                durable: at,
            },
            receiver: "station".to_owned(),
        })
    })
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the file is there");
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or(Value::Null))
        .collect()
}

#[tokio::test]
async fn a_duplicate_of_an_earlier_process_is_told_as_the_receiver_said_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("receipts");
    let log = ReceiptLog::open(&path, OutboxId::new()).expect("it can be made");
    let mut again = receipt(ReceiptStatus::Duplicate);
    again.attempts = 2;
    log.write(&again, Transport::Grpc).await.expect("room");
    assert_eq!(lines(&path)[0]["status"], "duplicate");
}

#[tokio::test]
async fn each_answer_is_a_line_of_json_and_a_loss_has_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("receipts");
    let outbox = OutboxId::new();
    let log = ReceiptLog::open(&path, outbox).expect("it can be made");
    let stored = receipt(ReceiptStatus::Stored);
    let reject = |meta: &ImageMeta| {
        let mut reject = Reject::new(meta.id, RejectReason::NotAnImage, "no image");
        reject.quarantined = true;
        Settlement::Quarantined(reject)
    };
    for one in [
        stored.clone(),
        receipt(ReceiptStatus::Duplicate),
        settled(reject),
        settled(|_| Settlement::Lost(LossKind::Changed, "changed".to_owned())),
    ] {
        log.write(&one, Transport::WebSocket).await.expect("room");
    }
    let lines = lines(&path);
    let status: Vec<_> = lines.iter().map(|line| line["status"].as_str()).collect();
    assert_eq!(
        status,
        [Some("stored"), Some("duplicate"), Some("quarantined")]
    );
    let line = &lines[0];
    let meta = &stored.image.meta;
    assert_eq!(line["image_id"], meta.id.to_string());
    assert_eq!(line["sequence"], 7);
    assert_eq!(line["outbox"], outbox.to_string());
    assert_eq!(line["run"], "a \"run\"");
    assert_eq!(line["transport"], "websocket");
    assert_eq!(line["size"], 8);
    assert_eq!(line["durability"], "synced");
    assert_eq!(line["verified_unix_ns"], 1);
    assert_eq!(line["receiver"], "station");
    assert_eq!(
        line["digest"],
        meta.digest.expect("given above").to_string()
    );
    let at = line["at"].as_str().unwrap_or_default();
    at.parse::<jiff::Timestamp>().expect("RFC 3339");
    assert_eq!(lines[2]["durability"], Value::Null);
}

#[tokio::test]
async fn a_line_that_was_cut_short_is_ended_at_the_next_start_and_all_others_stand_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("receipts");
    let write = async || {
        let log = ReceiptLog::open(&path, OutboxId::new()).expect("it can be opened");
        let image = receipt(ReceiptStatus::Stored);
        log.write(&image, Transport::Grpc).await.expect("room");
    };
    write().await;
    let whole = std::fs::read(&path).expect("the file is there");
    for kept in [0, 1, whole.len() / 2, whole.len() - 1, whole.len()] {
        std::fs::write(&path, &whole[..kept]).expect("room");
        write().await;
        write().await;
        let lines = lines(&path);
        let proper = lines.iter().filter(|line| line.is_object()).count();
        // Only the newline may be missing for the first one to be whole.
        let first = usize::from(kept + 1 >= whole.len());
        assert_eq!(proper, 2 + first, "{kept} bytes were kept");
        assert!(lines.len() <= 3);
    }
}

/// Takes so many bytes at a time, and then no more until it gets more room.
struct Narrow {
    taken: Vec<u8>,
    at_a_time: usize,
    room: usize,
}

impl Write for Narrow {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(self.at_a_time).min(self.room);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= count;
        self.taken.extend_from_slice(&data[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_is_full_at_any_byte_leaves_whole_lines_once_there_is_room() {
    let (first, second) = (ImageId::new(), ImageId::new());
    for room in 0..12 {
        for at_a_time in 1..4 {
            let mut writer = Writer::new(Narrow {
                taken: Vec::new(),
                at_a_time,
                room,
            });
            let fitted = writer.write(first, b"first\n").is_ok();
            let fitted_too = writer.write(second, b"second\n").is_ok();
            writer.to.room = 100;
            // Whatever failed is tried again, in any order.
            if !fitted_too {
                writer.write(second, b"second\n").expect("room");
            }
            if !fitted {
                writer.write(first, b"first\n").expect("room");
            }
            let text = String::from_utf8(writer.to.taken).expect("text");
            let lines: Vec<&str> = text.lines().collect();
            assert!(
                lines.contains(&"first") && lines.contains(&"second"),
                "{text:?}"
            );
            let proper = lines.iter().all(|line| ["first", "second"].contains(line));
            assert!(
                proper && text.ends_with('\n'),
                "{text:?} with room for {room}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_known_until_it_works_again() {
    let log = ReceiptLog::open(Path::new("/dev/full"), OutboxId::new()).expect("a device");
    let image = receipt(ReceiptStatus::Stored);
    log.write(&image, Transport::Grpc)
        .await
        .expect_err("it is always full");
    let problem = log.health().expect_err("it does not work");
    assert!(problem.contains("/dev/full"), "{problem}");
    *log.writer.lock() = Writer::new(File::create("/dev/null").expect("a device"));
    log.write(&image, Transport::Grpc).await.expect("room");
    assert_eq!(log.health(), Ok(()));
}
