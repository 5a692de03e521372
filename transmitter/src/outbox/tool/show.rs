//! `outbox show`.

use serde_json::{Value, json};

use super::list::{write_json, write_line};
use super::text::{plain, size, time};
use super::{Console, End, Image, Output, ToolError, find};
use crate::outbox::SeriesKey;
use crate::outbox::disk::core::Core;
use crate::outbox::disk::files;
use crate::outbox::disk::record::{Entry, LossEntry};

pub(super) fn show(
    core: &Core,
    image: Image,
    output: Output,
    console: &mut Console<'_>,
) -> Result<End, ToolError> {
    let owed = match find::owed(core, &[image]) {
        Ok(owed) => owed.into_iter().next(),
        Err(ToolError::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    let lost = find::lost(core, image)?;
    let aside = find::aside(core, image)?;
    if owed.is_none() && lost.is_none() && aside.is_none() {
        return Err(ToolError::NotFound {
            image,
            whence: "owed, on the ledger or in quarantine",
            flag: "[--ledger|--quarantine]",
        });
    }
    let series = core.series()?;
    let mut damaged = false;
    if let Some((sequence, entry)) = owed {
        let key = series.get(&entry.series);
        let path = core.place(sequence, &entry, key);
        let fault = files::fault(&*core.disk, &path, Some(entry.size), &entry.digest, true);
        let fault = fault.unwrap_or_else(|error| Some(error.to_string()));
        damaged = fault.is_some();
        match output {
            Output::Json => {
                let mut value = entry_json(sequence, &entry, key);
                value["state"] = json!("owed");
                value["file"] = json!(path.to_string_lossy());
                value["fault"] = json!(fault);
                write_json(console, &value)?;
            }
            Output::Text => {
                for (name, value) in owed_lines(sequence, &entry, key) {
                    write_line(console, &format!("{name:<12}{value}"))?;
                }
                write_line(console, &format!("{:<12}{}", "file", path.display()))?;
                let whole = fault.unwrap_or_else(|| "whole, by its digest".to_owned());
                write_line(console, &format!("{:<12}{whole}", "bytes"))?;
            }
        }
    }
    if let Some((sequence, entry)) = lost {
        match output {
            Output::Json => write_json(console, &loss_json(sequence, &entry))?,
            Output::Text => {
                for (name, value) in loss_lines(sequence, &entry) {
                    write_line(console, &format!("{name:<12}{value}"))?;
                }
            }
        }
    }
    if let Some(name) = aside {
        match output {
            Output::Json => write_json(
                console,
                &json!({
                    "state": "quarantined",
                    "sequence": name.sequence,
                    "image_id": name.id,
                    "digest": name.digest,
                    "size": core.quarantined_size(&name),
                }),
            )?,
            Output::Text => write_line(console, &format!("{:<12}{name}", "quarantine"))?,
        }
    }
    Ok(if damaged { End::Damaged } else { End::Well })
}

fn owed_lines(
    sequence: u64,
    entry: &Entry,
    key: Option<&SeriesKey>,
) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("image", entry.id.to_string()),
        ("sequence", sequence.to_string()),
        ("state", "owed".to_owned()),
        (
            "size",
            format!("{} bytes ({})", entry.size, size(entry.size)),
        ),
        ("digest", entry.digest.to_string()),
        ("captured", time(entry.captured)),
        ("queued", time(entry.queued)),
    ];
    if let Some(key) = key {
        lines.push(("run", plain(&key.run)));
        lines.push(("transport", key.transport.to_string()));
    }
    let optional = [
        ("name", entry.name.clone()),
        ("media type", entry.content_type.clone()),
        (
            "source",
            entry
                .source_file
                .as_ref()
                .map(|path| path.display().to_string()),
        ),
    ];
    for (name, value) in optional {
        lines.extend(value.map(|value| (name, plain(&value))));
    }
    lines
}

fn loss_lines(sequence: u64, entry: &LossEntry) -> Vec<(&'static str, String)> {
    let digest = entry.digest.map(|digest| digest.to_string());
    vec![
        ("image", entry.id.to_string()),
        ("sequence", sequence.to_string()),
        ("state", "lost".to_owned()),
        ("reason", plain(&entry.reason)),
        ("lost", time(Some(entry.at))),
        ("told", if entry.told { "yes" } else { "no" }.to_owned()),
        ("run", plain(&entry.run)),
        ("digest", digest.unwrap_or_else(|| "-".to_owned())),
        (
            "size",
            format!("{} bytes ({})", entry.size, size(entry.size)),
        ),
    ]
}

/// An owed image.
pub(super) fn entry_json(sequence: u64, entry: &Entry, key: Option<&SeriesKey>) -> Value {
    json!({
        "sequence": sequence,
        "image_id": entry.id,
        "size": entry.size,
        "digest": entry.digest,
        "run": key.map(|key| key.run.as_str()),
        "transport": key.map(|key| key.transport),
        "captured": entry.captured.map(|time| time.to_string()),
        "queued": entry.queued.map(|time| time.to_string()),
        "name": entry.name,
        "content_type": entry.content_type,
        "source_file": entry.source_file.as_ref().map(|path| path.to_string_lossy()),
        "referenced": entry.referenced.is_some(),
    })
}

/// An image on the ledger.
pub(super) fn loss_json(sequence: u64, entry: &LossEntry) -> Value {
    json!({
        "state": "lost",
        "sequence": sequence,
        "image_id": entry.id,
        "digest": entry.digest,
        "size": entry.size,
        "run": entry.run,
        "reason": entry.reason,
        "lost": entry.at.to_string(),
        "told": entry.told,
        "name": entry.name,
    })
}
