//! `outbox list`.

use std::collections::HashMap;
use std::ops::Bound;

use serde_json::json;
use shared::image::Transport;

use super::text::{fitted, plain, size, time};
use super::{Console, End, Output, Part, ToolError, unreadable};
use crate::outbox::SeriesKey;
use crate::outbox::disk::core::Core;

/// Rows that are read at a time: the list may be of a million.
const PORTION: usize = 1_000;

/// A row of a list.
struct Row {
    sequence: u64,
    text: String,
    json: serde_json::Value,
}

pub(super) fn list(
    core: &Core,
    part: Part,
    mut after: u64,
    limit: Option<u64>,
    output: Output,
    console: &mut Console<'_>,
) -> Result<End, ToolError> {
    let series = core.series()?;
    let mut left = limit.unwrap_or(u64::MAX);
    let mut listed = 0_u64;
    loop {
        // One more than is shown says whether there are more.
        let portion = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX);
        let rows = rows(core, part, after, portion.min(PORTION), &series)?;
        let Some(last) = rows.last().map(|row| row.sequence) else {
            break;
        };
        if listed == 0 && left > 0 && output == Output::Text {
            write_line(console, heading(part))?;
        }
        for row in rows {
            if left == 0 {
                return more(core, part, listed, after, output, console);
            }
            left -= 1;
            listed += 1;
            after = row.sequence;
            match output {
                Output::Text => write_line(console, &row.text)?,
                Output::Json => write_json(console, &row.json)?,
            }
        }
        after = last;
    }
    if listed == 0 && output == Output::Text {
        let nothing = match part {
            Part::Owed => "nothing is owed",
            Part::Ledger => "nothing is lost",
            Part::Quarantine => "nothing is in quarantine",
        };
        write_line(console, nothing)?;
    }
    Ok(End::Well)
}

/// Says that there are more.
fn more(
    core: &Core,
    part: Part,
    listed: u64,
    after: u64,
    output: Output,
    console: &mut Console<'_>,
) -> Result<End, ToolError> {
    if output == Output::Text {
        let all = match part {
            Part::Owed => {
                let counters = core.counters()?;
                format!(" of {}, {} in all", counters.images, size(counters.bytes))
            }
            Part::Ledger | Part::Quarantine => String::new(),
        };
        let words = format!("{listed} listed{all}; more with --after {after} or --limit all");
        write_line(console, &words)?;
    }
    Ok(End::Well)
}

fn heading(part: Part) -> &'static str {
    match part {
        Part::Owed => {
            "  SEQUENCE  IMAGE                                       SIZE  CAPTURED              \
             TRANSPORT  RUN / NAME"
        }
        Part::Ledger => {
            "  SEQUENCE  IMAGE                                 LOST                  TOLD  REASON"
        }
        Part::Quarantine => {
            "  SEQUENCE  IMAGE                                       SIZE  TRANSPORT  DIGEST"
        }
    }
}

fn rows(
    core: &Core,
    part: Part,
    after: u64,
    portion: usize,
    series: &HashMap<u32, SeriesKey>,
) -> Result<Vec<Row>, ToolError> {
    let range = (Bound::Excluded(after), Bound::Unbounded);
    let mut rows = Vec::new();
    match part {
        Part::Owed => core.index.read(|view| {
            view.images(range, false, |(sequence, entry)| {
                rows.push(owed_row(sequence, entry.ok(), series));
                rows.len() < portion
            })
        }),
        Part::Ledger => core.index.read(|view| {
            view.ledger(range, |sequence, entry| {
                let told = if entry.told { "yes" } else { "no" };
                rows.push(Row {
                    sequence,
                    text: format!(
                        "{sequence:>10}  {}  {}  {told:<4}  {}",
                        entry.id,
                        time(Some(entry.at)),
                        plain(&entry.reason)
                    ),
                    json: super::show::loss_json(sequence, &entry),
                });
                rows.len() < portion
            })
        }),
        Part::Quarantine => {
            for name in core.quarantined()? {
                if name.sequence <= after || rows.len() == portion {
                    continue;
                }
                let bytes = core.quarantined_size(&name);
                rows.push(Row {
                    sequence: name.sequence,
                    text: format!(
                        "{:>10}  {}  {:>9}  {:<9}  {}",
                        name.sequence,
                        name.id,
                        size(bytes),
                        name.transport,
                        name.digest
                    ),
                    json: json!({
                        "sequence": name.sequence,
                        "image_id": name.id,
                        "size": bytes,
                        "transport": name.transport,
                        "digest": name.digest,
                    }),
                });
            }
            Ok(())
        }
    }
    .map_err(unreadable)?;
    Ok(rows)
}

fn owed_row(
    sequence: u64,
    entry: Option<crate::outbox::disk::record::Entry>,
    series: &HashMap<u32, SeriesKey>,
) -> Row {
    let Some(entry) = entry else {
        return Row {
            sequence,
            text: format!("{sequence:>10}  its entry cannot be read; see outbox fsck"),
            json: json!({ "sequence": sequence, "unreadable": true }),
        };
    };
    let key = series.get(&entry.series);
    let transport = key.map(|key| key.transport);
    let run = key.map_or("", |key| key.run.as_str());
    let name = entry.name.as_deref().unwrap_or("-");
    Row {
        sequence,
        text: format!(
            "{sequence:>10}  {}  {:>9}  {:<20}  {:<9}  {} / {}",
            entry.id,
            size(entry.size),
            time(entry.captured),
            transport
                .as_ref()
                .map_or(String::new(), Transport::to_string),
            plain(run),
            plain(name)
        ),
        json: super::show::entry_json(sequence, &entry, key),
    }
}

pub(super) fn write_line(console: &mut Console<'_>, line: &str) -> Result<(), ToolError> {
    let line = fitted(line, console.columns);
    writeln!(console.out, "{line}").map_err(ToolError::Output)
}

pub(super) fn write_json(
    console: &mut Console<'_>,
    value: &serde_json::Value,
) -> Result<(), ToolError> {
    writeln!(console.out, "{value}").map_err(ToolError::Output)
}
