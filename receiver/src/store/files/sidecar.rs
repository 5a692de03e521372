//! The file beside an unfinished image, by which another process can go on with it.
//!
//! ```text
//! "PGPART1\n"  length of the head (u32)  head (JSON)  CRC-32C of all before it (u32)
//! record 0, record 1, ...
//! ```
//!
//! A record has [`RECORD`] bytes: where a stretch of the image ends (u64), when it was written
//! (i64, nanoseconds since 1970), the digest of all bytes up to there (32 bytes, those that the
//! algorithm does not use are 0), and the CRC-32C of the record before it and of the head (u32), all
//! little-endian. The digest is the one that is made anyway while the image comes; asked for in the
//! middle it tells whether the bytes up to there are as they were. Nothing of this is synced: what a
//! power loss tears does not fit its sums, and the records before it still stand.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared::chunk::crc32c;
use shared::clock::{ClockEstimate, UnixNanos};
use shared::digest::{Digest, DigestAlgorithm};
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};

use crate::store::About;

const MAGIC: &[u8; 8] = b"PGPART1\n";

/// Bytes of a record.
pub(super) const RECORD: usize = 8 + 8 + 32 + 4;

/// A head of more bytes was not written here: metadata of 1 MiB, which is the most by setting, as
/// JSON in which every byte takes six.
const MAX_HEAD: usize = 8 << 20;

/// Bytes of a sidecar at most: a record for each MiB of the largest image.
pub(super) const MAX_BYTES: u64 = (MAX_HEAD as u64) + (1 << 26);

/// Up to where the bytes are known to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) end: u64,
    pub(super) at: UnixNanos,
    pub(super) digest: Digest,
}

/// What a sidecar says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sidecar {
    pub(super) about: About,
    /// When it was begun.
    pub(super) since: UnixNanos,
    pub(super) records: Vec<Record>,
    /// Bytes of the head, before the first record.
    pub(super) head: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    id: ImageId,
    size: u64,
    digest: Option<Digest>,
    content_type: Option<String>,
    name: Option<String>,
    run: String,
    sequence: u64,
    captured: Option<UnixNanos>,
    queued: Option<UnixNanos>,
    send_started: Option<UnixNanos>,
    clock: Option<ClockEstimate>,
    attempt: u32,
    transmitter: String,
    outbox: Option<OutboxId>,
    transport: Transport,
    algorithm: String,
    since: UnixNanos,
}

/// The head of a sidecar.
pub(super) fn head(about: &About, since: UnixNanos) -> Vec<u8> {
    let meta = ImageMeta::clone(&about.meta);
    let head = Head {
        id: meta.id,
        size: meta.size,
        digest: meta.digest,
        content_type: meta.content_type,
        name: meta.name,
        run: meta.run,
        sequence: meta.sequence,
        captured: meta.captured,
        queued: meta.queued,
        send_started: meta.send_started,
        clock: meta.clock,
        attempt: meta.attempt,
        transmitter: about.transmitter.to_string(),
        outbox: about.outbox,
        transport: about.transport,
        algorithm: about.algorithm.key().to_owned(),
        since,
    };
    let json = serde_json::to_vec(&head).expect("plain fields become JSON");
    let length = u32::try_from(json.len()).expect("metadata is limited to far less");
    let mut bytes = Vec::with_capacity(json.len() + 16);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&json);
    let sum = crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// A record, in a file whose head has this sum. With it, a record of an earlier file that lay in
/// the same place does not pass.
pub(super) fn record(record: &Record, head_sum: u32) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..8].copy_from_slice(&record.end.to_le_bytes());
    bytes[8..16].copy_from_slice(&record.at.0.to_le_bytes());
    let digest = record.digest.as_bytes();
    bytes[16..16 + digest.len()].copy_from_slice(digest);
    let sum = sum_of(&bytes[..RECORD - 4], head_sum);
    bytes[RECORD - 4..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn sum_of(record: &[u8], head_sum: u32) -> u32 {
    crc32c(&[record, &head_sum.to_le_bytes()].concat())
}

/// The sum of a head that [`head`] made.
pub(super) fn head_sum(head: &[u8]) -> u32 {
    head.last_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Reads a sidecar; `None` when its head is not whole. Records count up to the first that is not
/// right, or does not go on from the one before it.
pub(super) fn read(bytes: &[u8]) -> Option<Sidecar> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if length > MAX_HEAD {
        return None;
    }
    let (json, rest) = rest.split_at_checked(length)?;
    let (sum, records) = rest.split_first_chunk()?;
    let sum = u32::from_le_bytes(*sum);
    let head_length = bytes.len() - records.len();
    if crc32c(bytes.get(..head_length - 4)?) != sum {
        return None;
    }
    let head: Head = serde_json::from_slice(json).ok()?;
    let algorithm: DigestAlgorithm = head.algorithm.parse().ok()?;
    let mut known = Vec::new();
    let mut before = 0;
    for bytes in records.chunks_exact(RECORD) {
        match read_record(bytes, sum, algorithm) {
            Some(record) if record.end >= before && record.end <= head.size => {
                before = record.end;
                known.push(record);
            }
            _ => break,
        }
    }
    Some(Sidecar {
        since: head.since,
        head: head_length as u64,
        records: known,
        about: About {
            transmitter: head.transmitter.as_str().into(),
            outbox: head.outbox,
            transport: head.transport,
            algorithm,
            meta: Arc::new(ImageMeta {
                id: head.id,
                size: head.size,
                digest: head.digest,
                content_type: head.content_type,
                name: head.name,
                run: head.run,
                sequence: head.sequence,
                captured: head.captured,
                queued: head.queued,
                send_started: head.send_started,
                clock: head.clock,
                attempt: head.attempt,
                trace: None,
            }),
        },
    })
}

fn read_record(bytes: &[u8], head_sum: u32, algorithm: DigestAlgorithm) -> Option<Record> {
    let (content, sum) = bytes.split_last_chunk()?;
    if u32::from_le_bytes(*sum) != sum_of(content, head_sum) {
        return None;
    }
    let (end, content) = content.split_first_chunk()?;
    let (at, digest) = content.split_first_chunk()?;
    Some(Record {
        end: u64::from_le_bytes(*end),
        at: UnixNanos(i64::from_le_bytes(*at)),
        digest: Digest::new(algorithm, digest.get(..algorithm.length())?)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn about(algorithm: DigestAlgorithm) -> About {
        About {
            meta: Arc::new(ImageMeta {
                name: Some("\u{1}ä\"".to_owned()),
                run: "run".to_owned(),
                sequence: 7,
                clock: Some(ClockEstimate {
                    offset_ns: -5,
                    error_ns: 6,
                    samples: 7,
                }),
                captured: Some(UnixNanos(-1)),
                attempt: 3,
                trace: None,
                ..ImageMeta::new(ImageId::new(), 3 << 20)
            }),
            transmitter: "camera".into(),
            outbox: Some(OutboxId::new()),
            transport: Transport::Rest,
            algorithm,
        }
    }

    fn sample(algorithm: DigestAlgorithm) -> (Vec<u8>, Sidecar) {
        let about = about(algorithm);
        let since = UnixNanos(5);
        let mut bytes = head(&about, since);
        let head = bytes.len() as u64;
        let sum = head_sum(&bytes);
        let records: Vec<Record> = (1..=3)
            .map(|number| Record {
                end: number << 20,
                at: UnixNanos(number.cast_signed()),
                digest: algorithm.digest(&[number as u8]),
            })
            .collect();
        for one in &records {
            bytes.extend_from_slice(&record(one, sum));
        }
        let sidecar = Sidecar {
            about,
            since,
            records,
            head,
        };
        (bytes, sidecar)
    }

    #[test]
    fn what_was_written_reads_back() {
        for algorithm in [DigestAlgorithm::Xxh3, DigestAlgorithm::Blake3] {
            let (bytes, sidecar) = sample(algorithm);
            assert_eq!(read(&bytes), Some(sidecar));
        }
    }

    #[test]
    fn torn_at_any_byte_the_whole_records_before_it_count() {
        let (bytes, sidecar) = sample(DigestAlgorithm::Xxh3);
        let head = usize::try_from(sidecar.head).unwrap();
        for length in 0..bytes.len() {
            match read(&bytes[..length]) {
                None => assert!(length < head, "{length}"),
                Some(found) => {
                    let whole = (length - head) / RECORD;
                    assert_eq!(found.records, sidecar.records[..whole]);
                }
            }
        }
    }

    #[test]
    fn a_wrong_byte_anywhere_is_noticed() {
        let (bytes, sidecar) = sample(DigestAlgorithm::Blake3);
        let head = usize::try_from(sidecar.head).unwrap();
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x10;
            let found = read(&wrong);
            match at.checked_sub(head) {
                None => assert_eq!(found, None, "{at}"),
                Some(at) => {
                    let found = found.unwrap();
                    assert_eq!(found.records, sidecar.records[..at / RECORD], "{at}");
                }
            }
        }
    }

    #[test]
    fn records_of_another_file_and_records_that_go_back_do_not_count() {
        let (bytes, sidecar) = sample(DigestAlgorithm::Xxh3);
        let head_length = usize::try_from(sidecar.head).unwrap();
        let mut other = head(&about(DigestAlgorithm::Xxh3), UnixNanos(6));
        other.extend_from_slice(&bytes[head_length..]);
        assert_eq!(read(&other).unwrap().records, []);

        let mut bytes = bytes[..head_length].to_vec();
        let sum = head_sum(&bytes);
        for one in [1, 0, 2].map(|at| &sidecar.records[at]) {
            bytes.extend_from_slice(&record(one, sum));
        }
        assert_eq!(read(&bytes).unwrap().records, sidecar.records[1..2]);
    }
}
