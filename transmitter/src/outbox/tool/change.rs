//! `outbox requeue` and `outbox drop`.

use serde_json::json;

use super::list::{write_json, write_line};
use super::{Console, End, Image, Output, ToolError, find, unreadable, unwritable};
use crate::outbox::Lost;
use crate::outbox::disk::core::Core;
use crate::outbox::disk::files;
use crate::outbox::disk::record::Entry;

/// Images that are dropped in one transaction.
const PORTION: usize = 500;

pub(super) fn requeue(
    core: &mut Core,
    images: &[Image],
    output: Output,
    console: &mut Console<'_>,
) -> Result<End, ToolError> {
    for image in images {
        let name = find::aside(core, *image)?.ok_or(ToolError::NotFound {
            image: *image,
            whence: "in quarantine",
            flag: "--quarantine",
        })?;
        let unfit = |reason: String| ToolError::Unfit {
            image: *image,
            reason,
        };
        let path = core.quarantined_path(&name);
        let fault = files::fault(&*core.disk, &path, None, &name.digest, true);
        match fault {
            Ok(None) => {}
            Ok(Some(reason)) => return Err(unfit(reason)),
            Err(error) => return Err(unfit(error.to_string())),
        }
        let lost = find::lost(core, Image::Sequence(name.sequence))?
            .map(|(_, entry)| entry)
            .filter(|entry| entry.id == name.id);
        let sequence = core
            .requeue(&name, lost.as_ref())
            .map_err(|error| unfit(shared::telemetry::chain(&error)))?;
        match output {
            Output::Json => write_json(
                console,
                &json!({ "image_id": name.id, "was": name.sequence, "sequence": sequence }),
            )?,
            Output::Text => write_line(
                console,
                &format!(
                    "{} waits again, as number {sequence} (it was {})",
                    name.id, name.sequence
                ),
            )?,
        }
    }
    Ok(End::Well)
}

pub(super) fn drop(
    core: &mut Core,
    images: &[Image],
    yes: bool,
    output: Output,
    console: &mut Console<'_>,
) -> Result<End, ToolError> {
    let all = images.is_empty();
    let named = if all {
        Vec::new()
    } else {
        find::owed(core, images)?
    };
    let number = if all {
        core.counters()?.images
    } else {
        named.len() as u64
    };
    if number == 0 {
        return conclude(0, output, console);
    }
    if !yes {
        let Some(ask) = &mut console.ask else {
            return Err(ToolError::NobodyToAsk(number));
        };
        let question = format!("Drop {number} images that were not delivered, for good?");
        if !ask(&question) {
            return Ok(End::Declined);
        }
    }
    let mut dropped = 0;
    if all {
        loop {
            let mut portion = Vec::new();
            core.index
                .read(|view| {
                    view.images(.., false, |(sequence, entry)| {
                        portion.push((sequence, entry.ok()));
                        portion.len() < PORTION
                    })
                })
                .map_err(unreadable)?;
            if portion.is_empty() {
                break;
            }
            dropped += give_up(core, portion)?;
            (console.progress)(dropped, number);
        }
    } else {
        let named = named
            .into_iter()
            .map(|(number, entry)| (number, Some(entry)));
        dropped = give_up(core, named.collect())?;
    }
    conclude(dropped, output, console)
}

fn give_up(core: &mut Core, images: Vec<(u64, Option<Entry>)>) -> Result<u64, ToolError> {
    let series = core.series()?;
    let mut losses = Vec::with_capacity(images.len());
    for (sequence, entry) in &images {
        let number = entry.as_ref().map_or(0, |entry| entry.series);
        let run = series.get(&number).map_or("", |key| key.run.as_str());
        let meta = match entry {
            Some(entry) => entry.meta(*sequence, run),
            None => core.meta_by_file(*sequence, core.find(*sequence).as_ref()),
        };
        let lost = Lost {
            meta,
            reason: "dropped by hand".to_owned(),
        };
        losses.push((lost, number, entry.is_none()));
    }
    core.give_all_up(losses).map_err(unwritable)?;
    for (sequence, entry) in &images {
        if entry
            .as_ref()
            .is_none_or(|entry| entry.referenced.is_none())
            && let Some(name) = core.find_named(*sequence, entry.as_ref(), &series)
        {
            core.remove_file(&name);
        }
    }
    Ok(images.len() as u64)
}

fn conclude(dropped: u64, output: Output, console: &mut Console<'_>) -> Result<End, ToolError> {
    match output {
        Output::Json => write_json(console, &json!({ "dropped": dropped }))?,
        Output::Text => write_line(console, &format!("{dropped} images dropped"))?,
    }
    Ok(End::Well)
}
