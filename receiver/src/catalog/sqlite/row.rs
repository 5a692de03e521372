//! Entries and series as rows.

use std::str::FromStr;

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Row, named_params};
use shared::clock::{ClockEstimate, UnixNanos};
use shared::digest::Digest;
use shared::image::{ImageId, ImageMeta, OutboxId};
use shared::receipt::ReceiverTimeline;
use shared::wire::Loss;

use crate::catalog::{Entry, Gap, KeptLoss, Numbered, Series, Verdict};

/// Adds an entry unless its id is there. Parameters by name: see [`insert`].
const INSERT: &str = "
    INSERT INTO images (
        id, series, size, declared_digest, content_type, name, sequence, captured, queued,
        send_started, clock_offset, clock_error, clock_samples, attempt, digest, reason, message,
        format, media_type, width, height, location, durability, first_byte, last_byte, verified,
        durable, outbox, stream
    ) VALUES (
        :id, :series, :size, :declared_digest, :content_type, :name, :sequence, :captured, :queued,
        :send_started, :clock_offset, :clock_error, :clock_samples, :attempt, :digest, :reason,
        :message, :format, :media_type, :width, :height, :location, :durability, :first_byte,
        :last_byte, :verified, :durable, :outbox, :stream
    ) ON CONFLICT (id) DO NOTHING";

/// Reads entries; what follows is a `WHERE` clause over `i` (images) and `s` (series).
pub(super) const SELECT: &str = "
    SELECT i.*, s.run, s.transport, s.transmitter
    FROM images i CROSS JOIN series s ON s.series = i.series";

/// Adds an entry to a series and, if its sequence number counts in one, to a stream; `false` when
/// its id was there.
pub(super) fn insert(
    connection: &rusqlite::Connection,
    series: i64,
    stream: Option<i64>,
    entry: &Entry,
) -> rusqlite::Result<bool> {
    let meta = &entry.meta;
    let clock = meta.clock.as_ref();
    let (reason, message) = match &entry.verdict {
        Verdict::Stored => (None, None),
        Verdict::Quarantined { reason, message } => (Some(reason.key()), Some(message)),
    };
    let changed = connection.prepare_cached(INSERT)?.execute(named_params! {
        ":id": id_bytes(meta.id),
        ":series": series,
        ":size": meta.size.cast_signed(),
        ":declared_digest": meta.digest.as_ref().map(Digest::as_bytes),
        ":content_type": meta.content_type,
        ":name": meta.name,
        ":sequence": meta.sequence.cast_signed(),
        ":captured": meta.captured.map(|time| time.0),
        ":queued": meta.queued.map(|time| time.0),
        ":send_started": meta.send_started.map(|time| time.0),
        ":clock_offset": clock.map(|clock| clock.offset_ns),
        ":clock_error": clock.map(|clock| clock.error_ns.cast_signed()),
        ":clock_samples": clock.map(|clock| clock.samples),
        ":attempt": meta.attempt,
        ":digest": entry.digest.as_bytes(),
        ":reason": reason,
        ":message": message,
        ":format": entry.format,
        ":media_type": entry.media_type,
        ":width": entry.width,
        ":height": entry.height,
        ":location": entry.location,
        ":durability": entry.durability.key(),
        ":first_byte": entry.timeline.first_byte.0,
        ":last_byte": entry.timeline.last_byte.0,
        ":verified": entry.timeline.verified.0,
        ":durable": entry.timeline.durable.0,
        ":outbox": entry.outbox.map(outbox_bytes),
        ":stream": stream,
    })?;
    Ok(changed > 0)
}

/// The bytes of an id, in the order of its text.
pub(super) fn id_bytes(id: ImageId) -> [u8; 16] {
    id.as_u128().to_be_bytes()
}

/// The bytes of an outbox' id, in the order of its text.
pub(super) fn outbox_bytes(id: OutboxId) -> [u8; 16] {
    id.as_u128().to_be_bytes()
}

/// The entry of a row of [`SELECT`].
pub(super) fn numbered(row: &Row<'_>) -> rusqlite::Result<Numbered> {
    Ok(Numbered {
        number: row.get("number")?,
        entry: Entry {
            meta: meta(row)?,
            transmitter: row.get("transmitter")?,
            outbox: outbox(row)?,
            transport: word(row, "transport")?,
            digest: digest(row.get_ref("digest")?.as_blob()?)?,
            verdict: verdict(row)?,
            format: row.get("format")?,
            media_type: row.get("media_type")?,
            width: row.get("width")?,
            height: row.get("height")?,
            location: row.get("location")?,
            durability: word(row, "durability")?,
            timeline: ReceiverTimeline {
                first_byte: UnixNanos(row.get("first_byte")?),
                last_byte: UnixNanos(row.get("last_byte")?),
                verified: UnixNanos(row.get("verified")?),
                durable: UnixNanos(row.get("durable")?),
            },
        },
        delivery_ns: row
            .get::<_, Option<i64>>("delivery_ns")?
            .map(i64::cast_unsigned),
        attempts: row.get("attempts")?,
    })
}

fn meta(row: &Row<'_>) -> rusqlite::Result<ImageMeta> {
    let id = image_id(row, "id")?;
    let clock = match row.get::<_, Option<i64>>("clock_offset")? {
        Some(offset_ns) => Some(ClockEstimate {
            offset_ns,
            error_ns: row.get::<_, i64>("clock_error")?.cast_unsigned(),
            samples: row.get("clock_samples")?,
        }),
        None => None,
    };
    Ok(ImageMeta {
        id,
        size: row.get::<_, i64>("size")?.cast_unsigned(),
        digest: row
            .get_ref("declared_digest")?
            .as_blob_or_null()?
            .map(digest)
            .transpose()?,
        content_type: row.get("content_type")?,
        name: row.get("name")?,
        run: row.get("run")?,
        sequence: row.get::<_, i64>("sequence")?.cast_unsigned(),
        captured: row.get::<_, Option<i64>>("captured")?.map(UnixNanos),
        queued: row.get::<_, Option<i64>>("queued")?.map(UnixNanos),
        send_started: row.get::<_, Option<i64>>("send_started")?.map(UnixNanos),
        clock,
        attempt: row.get("attempt")?,
        trace: None,
    })
}

/// The outbox of a row, if there is one.
fn outbox(row: &Row<'_>) -> rusqlite::Result<Option<OutboxId>> {
    match row.get_ref("outbox")?.as_blob_or_null()? {
        None | Some([]) => Ok(None),
        Some(bytes) => {
            let bytes = bytes.try_into().ok().map(u128::from_be_bytes);
            match bytes.and_then(OutboxId::from_u128) {
                Some(outbox) => Ok(Some(outbox)),
                None => Err(malformed("an outbox id that is none".to_owned())),
            }
        }
    }
}

/// The loss of a row of the table of that name.
pub(super) fn loss(row: &Row<'_>) -> rusqlite::Result<KeptLoss> {
    Ok(KeptLoss {
        number: row.get("number")?,
        transmitter: row.get("transmitter")?,
        outbox: outbox(row)?,
        loss: Loss {
            sequence: row.get::<_, i64>("sequence")?.cast_unsigned(),
            image_id: image_id(row, "image_id")?,
            digest: row
                .get_ref("digest")?
                .as_blob_or_null()?
                .map(digest)
                .transpose()?,
            reason: row.get("reason")?,
            at: UnixNanos(row.get("at")?),
            run: row.get("run")?,
        },
        received: UnixNanos(row.get("received")?),
    })
}

/// The gap of a row of the table of that name, with the names of its stream.
pub(super) fn gap(row: &Row<'_>) -> rusqlite::Result<Gap> {
    let number = |column: &str| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let transport = row.get_ref("transport")?.as_str_or_null()?;
    Ok(Gap {
        transmitter: row.get("transmitter")?,
        outbox: outbox(row)?.ok_or_else(|| malformed("a gap without an outbox".to_owned()))?,
        first: number("first")?,
        last: number("last")?,
        missing: number("missing")?,
        run: row.get("run")?,
        transport: transport.map(str::parse).transpose().map_err(malformed)?,
        found: UnixNanos(row.get("found")?),
    })
}

fn image_id(row: &Row<'_>, column: &str) -> rusqlite::Result<ImageId> {
    let id: [u8; 16] = row.get(column)?;
    ImageId::from_u128(u128::from_be_bytes(id))
        .ok_or_else(|| malformed("an image id of zeros".to_owned()))
}

fn verdict(row: &Row<'_>) -> rusqlite::Result<Verdict> {
    if row.get_ref("reason")?.as_str_or_null()?.is_none() {
        return Ok(Verdict::Stored);
    }
    let message: Option<String> = row.get("message")?;
    Ok(Verdict::Quarantined {
        reason: word(row, "reason")?,
        message: message.unwrap_or_default(),
    })
}

fn digest(bytes: &[u8]) -> rusqlite::Result<Digest> {
    if let Ok(value) = bytes.try_into() {
        return Ok(Digest::Xxh3(value));
    }
    match bytes.try_into() {
        Ok(value) => Ok(Digest::Blake3(value)),
        Err(_) => Err(malformed(format!("a digest of {} bytes", bytes.len()))),
    }
}

/// The series of a row of the table of that name.
pub(super) fn series(row: &Row<'_>) -> rusqlite::Result<Series> {
    let count = |column: &str| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let account = row.get_ref("account")?.as_str_or_null()?;
    Ok(Series {
        run: row.get("run")?,
        transport: word(row, "transport")?,
        transmitter: row.get("transmitter")?,
        stored: count("stored")?,
        quarantined: count("quarantined")?,
        duplicates: count("duplicates")?,
        rejected: count("rejected")?,
        bytes: count("bytes")?,
        first_ns: row.get("first_ns")?,
        last_ns: row.get("last_ns")?,
        cpu_ns: count("cpu_ns")?,
        peak_memory_bytes: count("peak_memory")?,
        account: account
            .map(serde_json::from_str)
            .transpose()
            .map_err(|error| malformed(format!("an account that cannot be read ({error})")))?,
    })
}

/// A value that is stored as its word.
fn word<T: FromStr<Err = String>>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    row.get_ref(column)?.as_str()?.parse().map_err(malformed)
}

fn malformed(problem: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        0,
        Type::Null,
        Box::new(FromSqlError::Other(
            format!("the catalogue holds {problem}").into(),
        )),
    )
}
