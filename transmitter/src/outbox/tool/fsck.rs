//! `outbox fsck`.

use std::collections::HashMap;
use std::ops::Bound;

use serde_json::json;

use super::list::{write_json, write_line};
use super::{Console, End, Output, ToolError, unreadable, unwritable};
use crate::outbox::disk::core::Core;
use crate::outbox::disk::files;
use crate::outbox::disk::layout::FileName;
use crate::outbox::disk::record::Entry;
use crate::outbox::{Lost, SeriesKey};

/// Images that are read from the index at a time.
const PORTION: usize = 500;

/// Something that is not as it should be.
struct Fault {
    sequence: u64,
    entry: Option<Entry>,
    reason: String,
}

#[derive(Default)]
struct Found {
    checked: u64,
    faults: u64,
    leftovers: u64,
    foreign: u64,
    /// Images in folders that are away or empty: not mounted, perhaps.
    away: u64,
}

pub(super) fn fsck(
    core: &mut Core,
    repair: bool,
    output: Output,
    console: &mut Console<'_>,
) -> Result<End, ToolError> {
    let series = core.series()?;
    let all = core.counters()?.images;
    let mut found = Found::default();
    let mut inhabited = HashMap::new();
    let mut after = 0;
    loop {
        let images = portion(core, after)?;
        let Some((last, _)) = images.last() else {
            break;
        };
        after = *last;
        for (sequence, entry) in images {
            (console.progress)(found.checked, all);
            found.checked += 1;
            if is_away(core, entry.as_ref(), &mut inhabited) {
                found.away += 1;
                continue;
            }
            let Some(reason) = check(core, sequence, entry.as_ref(), &series) else {
                continue;
            };
            found.faults += 1;
            let fault = Fault {
                sequence,
                entry,
                reason,
            };
            tell(&fault, output, console)?;
            if repair {
                give_up(core, &fault, &series)?;
            }
        }
    }
    (console.progress)(all, all);
    strays(core, repair, output, console, &mut found)?;
    conclude(&found, repair, output, console)
}

fn portion(core: &Core, after: u64) -> Result<Vec<(u64, Option<Entry>)>, ToolError> {
    let mut images = Vec::new();
    core.index
        .read(|view| {
            let range = (Bound::Excluded(after), Bound::Unbounded);
            view.images(range, false, |(sequence, entry)| {
                images.push((sequence, entry.ok()));
                images.len() < PORTION
            })
        })
        .map_err(unreadable)?;
    Ok(images)
}

/// Whether an image's bytes are elsewhere, in a folder that is not there just now.
fn is_away(
    core: &Core,
    entry: Option<&Entry>,
    inhabited: &mut HashMap<std::path::PathBuf, bool>,
) -> bool {
    let path = entry.and_then(|entry| entry.referenced.as_ref());
    path.is_some_and(|path| files::is_away(&*core.disk, path, inhabited))
}

/// What is wrong with an image.
fn check(
    core: &Core,
    sequence: u64,
    entry: Option<&Entry>,
    series: &HashMap<u32, SeriesKey>,
) -> Option<String> {
    let Some(entry) = entry else {
        return Some("its entry cannot be read".to_owned());
    };
    let Some(key) = series.get(&entry.series) else {
        return Some("its series is not known".to_owned());
    };
    let path = core.place(sequence, entry, Some(key));
    files::fault(&*core.disk, &path, Some(entry.size), &entry.digest, true)
        .unwrap_or_else(|error| Some(format!("its file cannot be read: {error}")))
}

fn tell(fault: &Fault, output: Output, console: &mut Console<'_>) -> Result<(), ToolError> {
    let id = fault.entry.as_ref().map(|entry| entry.id);
    match output {
        Output::Json => write_json(
            console,
            &json!({ "sequence": fault.sequence, "image_id": id, "fault": fault.reason }),
        ),
        Output::Text => {
            let id = id.map_or_else(|| "-".to_owned(), |id| id.to_string());
            let line = format!("{:>10}  {id:<36}  {}", fault.sequence, fault.reason);
            write_line(console, &line)
        }
    }
}

/// Enters a damaged image into the ledger and puts its file aside.
fn give_up(
    core: &mut Core,
    fault: &Fault,
    series: &HashMap<u32, SeriesKey>,
) -> Result<(), ToolError> {
    let file = core.find(fault.sequence);
    let number = fault.entry.as_ref().map_or(0, |entry| entry.series);
    let run = series.get(&number).map_or("", |key| key.run.as_str());
    let meta = match &fault.entry {
        Some(entry) => entry.meta(fault.sequence, run),
        None => core.meta_by_file(fault.sequence, file.as_ref()),
    };
    let lost = Lost {
        meta,
        reason: format!("found by fsck: {}", fault.reason),
    };
    let unreadable = fault.entry.is_none();
    core.give_up(lost, number, unreadable).map_err(unwritable)?;
    if let Some(file) = file {
        core.quarantine(&file);
    }
    Ok(())
}

/// Files that belong to no image.
fn strays(
    core: &mut Core,
    repair: bool,
    output: Output,
    console: &mut Console<'_>,
    found: &mut Found,
) -> Result<(), ToolError> {
    let mut leftovers: Vec<FileName> = Vec::new();
    core.strays(|stray| {
        let (name, kind) = match &stray {
            Ok(name) => (name.to_string(), "left over from a settled image"),
            Err(path) => (path.display().to_string(), "not the outbox's, left alone"),
        };
        match stray {
            Ok(name) => {
                found.leftovers += 1;
                if repair {
                    leftovers.push(name);
                }
            }
            Err(_) => found.foreign += 1,
        }
        match output {
            Output::Json => write_json(console, &json!({ "file": name, "note": kind })),
            Output::Text => write_line(console, &format!("{name}: {kind}")),
        }
    })?;
    for name in &leftovers {
        core.remove_file(name);
    }
    if repair {
        core.swept();
    }
    Ok(())
}

fn conclude(
    found: &Found,
    repair: bool,
    output: Output,
    console: &mut Console<'_>,
) -> Result<End, ToolError> {
    let Found {
        checked,
        faults,
        leftovers,
        foreign,
        away,
    } = found;
    match output {
        Output::Json => write_json(
            console,
            &json!({
                "checked": checked,
                "damaged": faults,
                "left_over": leftovers,
                "foreign": foreign,
                "away": away,
                "repaired": repair,
            }),
        )?,
        Output::Text => {
            let done = match (repair, *faults + *leftovers) {
                (_, 0) => "",
                (true, _) => "; put right",
                (false, _) => "; put right with --repair",
            };
            let gone = match away {
                0 => String::new(),
                _ => format!("; {away} not checked, since their folders are away or empty"),
            };
            let words = format!(
                "{checked} images checked: {faults} damaged, {leftovers} files left over, {foreign} \
                 not the outbox's{done}{gone}"
            );
            write_line(console, &words)?;
        }
    }
    Ok(if *faults > 0 && !repair {
        End::Damaged
    } else {
        End::Well
    })
}
