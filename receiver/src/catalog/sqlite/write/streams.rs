//! Sequence numbers: which came, which were told as lost, and which are missing.
//!
//! Each stream has a floor, told by its transmitter, below which every number came or was told as
//! lost. What is neither becomes a gap when the floor passes it, and a number that comes late after
//! all ends its gap. A floor may be any number, and a gap may be as long, so nothing here is done
//! number by number: only those that came are walked over, once each, and a bounded number of them
//! at a time.

mod gaps;

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, named_params, params};
use shared::clock::UnixNanos;
use shared::image::{ImageId, OutboxId};
use shared::wire::{LossReport, Standing};

use crate::catalog::sqlite::row::{id_bytes, outbox_bytes};
use crate::catalog::{Entry, FILE_MISSING, Kept, Repeat};

pub(super) use gaps::check;

/// Streams that are followed at most. Each takes a row; a client that makes up outboxes gets no
/// more.
const MAX_STREAMS: i64 = 100_000;

/// Longest reason that is kept, in bytes.
const REASON_KEPT: usize = 1_024;

/// An outbox of a transmitter.
#[derive(Debug)]
struct Stream {
    number: i64,
    transmitter: String,
    outbox: OutboxId,
    floor: Option<i64>,
    next: i64,
    checked: i64,
    /// No higher number came or was told as lost.
    highest: i64,
}

/// The streams that a transaction has to do with.
#[derive(Debug, Default)]
pub(super) struct Streams {
    known: HashMap<(String, OutboxId), Option<Stream>>,
    /// Streams whose numbers below the floor are not all walked over.
    unchecked: Vec<i64>,
}

/// An image or loss under a number.
struct Arrival<'a> {
    sequence: i64,
    image_id: [u8; 16],
    run: &'a str,
    /// Its image is in the catalogue already, and is itself no sign that the number is taken.
    is_image: bool,
}

impl Streams {
    /// The number of the stream that an image belongs to; `None` when there are too many.
    pub(super) fn number(
        &mut self,
        connection: &Connection,
        transmitter: &str,
        outbox: OutboxId,
    ) -> rusqlite::Result<Option<i64>> {
        let stream = self.stream(connection, transmitter, outbox)?;
        Ok(stream.map(|stream| stream.number))
    }

    /// An image was added to a stream.
    pub(super) fn image(
        &mut self,
        connection: &Connection,
        transmitter: &str,
        outbox: OutboxId,
        arrival: (u64, ImageId, &str),
    ) -> rusqlite::Result<()> {
        let (sequence, id, run) = arrival;
        let arrival = Arrival {
            sequence: sequence.cast_signed(),
            image_id: id_bytes(id),
            run,
            is_image: true,
        };
        match self.stream(connection, transmitter, outbox)? {
            Some(stream) => stream.arrived(connection, &arrival),
            None => Ok(()),
        }
    }

    /// An image that was there came again under another number.
    pub(super) fn repeat(
        &mut self,
        connection: &Connection,
        repeat: &Repeat,
    ) -> rusqlite::Result<()> {
        let Some(stream) = self.stream(connection, &repeat.transmitter, repeat.outbox)? else {
            return Ok(());
        };
        let arrival = Arrival {
            sequence: repeat.sequence.cast_signed(),
            image_id: id_bytes(repeat.image_id),
            run: &repeat.run,
            is_image: false,
        };
        stream.arrived(connection, &arrival)?;
        connection
            .prepare_cached(
                "INSERT INTO repeats (stream, sequence, image_id) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![stream.number, arrival.sequence, arrival.image_id])?;
        Ok(())
    }

    /// Keeps the losses of a report, and looks for gaps up to where the outbox stands.
    pub(super) fn keep(
        &mut self,
        connection: &Connection,
        report: &LossReport,
    ) -> rusqlite::Result<Kept> {
        let standing = report.standing;
        let mut stream = match standing {
            Some(standing) => self.stream(connection, &report.transmitter, standing.outbox)?,
            None => None,
        };
        let mut kept = Kept::default();
        let mut insert = connection.prepare_cached(
            "INSERT INTO losses (transmitter, outbox, sequence, image_id, digest, reason, at, run,
                 received)
             VALUES (:transmitter, :outbox, :sequence, :image_id, :digest, :reason, :at, :run,
                 :received)
             ON CONFLICT (transmitter, outbox, sequence, image_id) DO NOTHING",
        )?;
        let outbox = standing.map(|standing| outbox_bytes(standing.outbox));
        let now = UnixNanos::now();
        for (at, loss) in report.losses.iter().enumerate() {
            let arrival = Arrival {
                sequence: loss.sequence.cast_signed(),
                image_id: id_bytes(loss.image_id),
                run: &loss.run,
                is_image: false,
            };
            if let Some(stream) = &mut stream {
                stream.arrived(connection, &arrival)?;
            }
            let changed = insert.execute(named_params! {
                ":transmitter": report.transmitter,
                ":outbox": outbox.as_ref().map_or(&[][..], |outbox| &outbox[..]),
                ":sequence": arrival.sequence,
                ":image_id": arrival.image_id,
                ":digest": loss.digest.as_ref().map(shared::digest::Digest::as_bytes),
                ":reason": shortened(&loss.reason),
                ":at": loss.at.0,
                ":run": loss.run,
                ":received": now.0,
            })?;
            if changed > 0 {
                kept.fresh.push(at);
            }
        }
        if let (Some(stream), Some(standing)) = (stream, standing) {
            stream.stands(connection, &standing)?;
            kept.missing = check(connection, stream.number)?;
            if !is_checked(connection, stream)? {
                let number = stream.number;
                self.unchecked.push(number);
            }
        }
        Ok(kept)
    }

    /// Streams whose numbers below the floor are not all walked over.
    pub(super) fn unchecked(&self) -> &[i64] {
        &self.unchecked
    }

    fn stream(
        &mut self,
        connection: &Connection,
        transmitter: &str,
        outbox: OutboxId,
    ) -> rusqlite::Result<Option<&mut Stream>> {
        use std::collections::hash_map::Entry as Slot;
        let slot = match self.known.entry((transmitter.to_owned(), outbox)) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(slot) => {
                let stream = Stream::open(connection, transmitter, outbox)?;
                slot.insert(stream)
            }
        };
        Ok(slot.as_mut())
    }
}

impl Stream {
    /// The stream, which is made when it is not there, unless there are too many.
    fn open(
        connection: &Connection,
        transmitter: &str,
        outbox: OutboxId,
    ) -> rusqlite::Result<Option<Self>> {
        let found = connection
            .prepare_cached(
                "SELECT stream, floor, next_sequence, checked FROM streams
                 WHERE transmitter = ?1 AND outbox = ?2",
            )?
            .query_row(params![transmitter, outbox_bytes(outbox)], |row| {
                Ok(Self {
                    number: row.get(0)?,
                    transmitter: transmitter.to_owned(),
                    outbox,
                    floor: row.get(1)?,
                    next: row.get(2)?,
                    checked: row.get(3)?,
                    highest: 0,
                })
            })
            .optional()?;
        if let Some(mut stream) = found {
            stream.highest = stream.highest(connection)?;
            return Ok(Some(stream));
        }
        let streams: i64 = connection
            .prepare_cached("SELECT count(*) FROM streams")?
            .query_row([], |row| row.get(0))?;
        if streams >= MAX_STREAMS {
            tracing::error!(
                transmitter,
                %outbox,
                "sequence numbers of this outbox are not followed: {MAX_STREAMS} outboxes are \
                 known already"
            );
            return Ok(None);
        }
        connection
            .prepare_cached(
                "INSERT INTO streams (transmitter, outbox, floor, next_sequence, checked, changed)
                 VALUES (?1, ?2, NULL, 0, 0, ?3)",
            )?
            .execute(params![
                transmitter,
                outbox_bytes(outbox),
                UnixNanos::now().0
            ])?;
        Ok(Some(Self {
            number: connection.last_insert_rowid(),
            transmitter: transmitter.to_owned(),
            outbox,
            floor: None,
            next: 0,
            checked: 0,
            // Losses may have been told while there were too many streams.
            highest: i64::MAX,
        }))
    }

    /// The highest number that came or was told as lost. Each is the last of an index.
    fn highest(&self, connection: &Connection) -> rusqlite::Result<i64> {
        connection
            .prepare_cached(
                "SELECT max(
                     coalesce((SELECT max(sequence) FROM images WHERE stream = ?1), 0),
                     coalesce((SELECT max(sequence) FROM repeats WHERE stream = ?1), 0),
                     coalesce((SELECT max(sequence) FROM losses
                               WHERE transmitter = ?2 AND outbox = ?3), 0))",
            )?
            .query_row(
                params![self.number, self.transmitter, outbox_bytes(self.outbox)],
                |row| row.get(0),
            )
    }

    /// An image or a loss is there under a number: it is no gap any more, and nobody else should
    /// be there.
    fn arrived(&mut self, connection: &Connection, arrival: &Arrival<'_>) -> rusqlite::Result<()> {
        // 0 stands for a client that does not count, what is negative here for a number above all
        // that an outbox can give.
        if arrival.sequence <= 0 {
            return Ok(());
        }
        let mut is_taken = false;
        if arrival.sequence <= self.highest {
            let others = self.others(connection, arrival)?;
            is_taken = !others.is_empty();
            if arrival.is_image && others.contains(&arrival.image_id) {
                self.found_again(connection, arrival)?;
            }
            if let Some(other) = others.into_iter().find(|other| *other != arrival.image_id) {
                self.reused(connection, arrival, other)?;
            }
        }
        self.highest = self.highest.max(arrival.sequence);
        if !is_taken && arrival.sequence < self.checked {
            gaps::close(connection, self.number, arrival.sequence)?;
        }
        Ok(())
    }

    /// An image whose bytes were lost here has come again.
    fn found_again(&self, connection: &Connection, arrival: &Arrival<'_>) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "DELETE FROM losses WHERE transmitter = ?1 AND outbox = ?2 AND sequence = ?3
                     AND image_id = ?4 AND reason = ?5",
            )?
            .execute(params![
                self.transmitter,
                outbox_bytes(self.outbox),
                arrival.sequence,
                arrival.image_id,
                FILE_MISSING
            ])?;
        Ok(())
    }

    /// Ids of the images that came or were lost under the number before, a few of them.
    fn others(
        &self,
        connection: &Connection,
        arrival: &Arrival<'_>,
    ) -> rusqlite::Result<Vec<[u8; 16]>> {
        let itself: &[u8] = match arrival.is_image {
            true => &arrival.image_id,
            false => &[],
        };
        connection
            .prepare_cached(
                "SELECT id FROM images
                 WHERE stream = :stream AND sequence = :sequence AND id <> :itself
                 UNION ALL
                 SELECT image_id FROM repeats WHERE stream = :stream AND sequence = :sequence
                 UNION ALL
                 SELECT image_id FROM losses WHERE transmitter = :transmitter AND outbox = :outbox
                     AND sequence = :sequence
                 LIMIT 4",
            )?
            .query_map(
                named_params! {
                    ":stream": self.number,
                    ":sequence": arrival.sequence,
                    ":itself": itself,
                    ":transmitter": self.transmitter,
                    ":outbox": outbox_bytes(self.outbox),
                },
                |row| row.get(0),
            )?
            .collect()
    }

    fn reused(
        &self,
        connection: &Connection,
        arrival: &Arrival<'_>,
        other: [u8; 16],
    ) -> rusqlite::Result<()> {
        let new = connection
            .prepare_cached(
                "INSERT INTO reuses (stream, sequence, image_id, other_id, run, at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                self.number,
                arrival.sequence,
                arrival.image_id,
                other,
                arrival.run,
                UnixNanos::now().0
            ])?;
        if new > 0 {
            let id = |bytes: [u8; 16]| ImageId::from_u128(u128::from_be_bytes(bytes));
            tracing::error!(
                transmitter = self.transmitter,
                outbox = %self.outbox,
                sequence = arrival.sequence,
                image = id(arrival.image_id).map(tracing::field::display),
                other = id(other).map(tracing::field::display),
                "sequence number reused: two images have it; the outbox was copied or set back"
            );
        }
        Ok(())
    }

    /// Takes in where the outbox stands. An older message may come after a newer one.
    fn stands(&mut self, connection: &Connection, standing: &Standing) -> rusqlite::Result<()> {
        if standing.next_sequence == 0 {
            // It only names the outbox. A floor would make gaps of all that went elsewhere before.
            return Ok(());
        }
        let told = standing.first_owed.cast_signed().max(1);
        if self.floor.is_none() {
            // What was before the first word of this outbox went elsewhere, unless some of it came
            // here.
            let lowest: Option<i64> = connection
                .prepare_cached(
                    "SELECT min(sequence) FROM images WHERE stream = ?1 AND sequence > 0",
                )?
                .query_row([self.number], |row| row.get(0))?;
            self.checked = lowest.map_or(told, |lowest| lowest.min(told));
        }
        let floor = self.floor.map_or(told, |floor| floor.max(told));
        let next = self.next.max(standing.next_sequence.cast_signed());
        if self.floor == Some(floor) && self.next == next {
            return Ok(());
        }
        (self.floor, self.next) = (Some(floor), next);
        connection
            .prepare_cached(
                "UPDATE streams SET floor = ?2, next_sequence = ?3, checked = ?4, changed = ?5
                 WHERE stream = ?1",
            )?
            .execute(params![
                self.number,
                floor,
                next,
                self.checked,
                UnixNanos::now().0
            ])?;
        Ok(())
    }
}

/// Keeps an image as a loss that was in the catalogue and whose bytes are gone. If it comes again,
/// it is none any more.
pub(super) fn lose(connection: &Connection, entry: &Entry, reason: &str) -> rusqlite::Result<()> {
    let outbox = entry.outbox.map(outbox_bytes);
    let now = UnixNanos::now().0;
    connection
        .prepare_cached(
            "INSERT INTO losses (transmitter, outbox, sequence, image_id, digest, reason, at, run,
                 received)
             VALUES (:transmitter, :outbox, :sequence, :image_id, :digest, :reason, :now, :run,
                 :now)
             ON CONFLICT (transmitter, outbox, sequence, image_id) DO NOTHING",
        )?
        .execute(named_params! {
            ":transmitter": entry.transmitter,
            ":outbox": outbox.as_ref().map_or(&[][..], |outbox| &outbox[..]),
            ":sequence": entry.meta.sequence.cast_signed(),
            ":image_id": id_bytes(entry.meta.id),
            ":digest": entry.digest.as_bytes(),
            ":reason": reason,
            ":run": entry.meta.run,
            ":now": now,
        })?;
    Ok(())
}

/// Reads how far a stream is walked over; whether that is up to its floor.
fn is_checked(connection: &Connection, stream: &mut Stream) -> rusqlite::Result<bool> {
    stream.checked = connection
        .prepare_cached("SELECT checked FROM streams WHERE stream = ?1")?
        .query_row([stream.number], |row| row.get(0))?;
    Ok(stream.floor.is_none_or(|floor| floor <= stream.checked))
}

/// The beginning of a reason.
fn shortened(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_KEPT)]
}
