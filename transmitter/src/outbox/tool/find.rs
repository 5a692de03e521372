//! Finding images by what people call them.

use std::collections::HashMap;

use super::{Image, ToolError, unreadable};
use crate::outbox::disk::core::Core;
use crate::outbox::disk::layout::FileName;
use crate::outbox::disk::record::{Entry, LossEntry};

/// Owed images with their numbers, in the order in which they were named.
pub(super) fn owed(core: &Core, images: &[Image]) -> Result<Vec<(u64, Entry)>, ToolError> {
    let mut found: HashMap<Image, (u64, Entry)> = HashMap::new();
    let mut ids = 0;
    core.index
        .read(|view| {
            for image in images {
                match image {
                    Image::Sequence(sequence) => {
                        let entry = view.image(*sequence)?;
                        found.extend(entry.map(|entry| (*image, (*sequence, entry))));
                    }
                    Image::Id(_) => ids += 1,
                }
            }
            if ids == 0 {
                return Ok(());
            }
            // The index is by number; one look at all of them finds all ids.
            view.images(.., false, |(sequence, entry)| {
                if let Ok(entry) = entry {
                    let image = Image::Id(entry.id);
                    if images.contains(&image) {
                        found.insert(image, (sequence, entry));
                    }
                }
                true
            })
        })
        .map_err(unreadable)?;
    images
        .iter()
        .map(|image| {
            found.get(image).cloned().ok_or(ToolError::NotFound {
                image: *image,
                whence: "owed",
                flag: "",
            })
        })
        .collect()
}

/// An entry of the ledger: the latest one of an id.
pub(super) fn lost(core: &Core, image: Image) -> Result<Option<(u64, LossEntry)>, ToolError> {
    let mut found = None;
    core.index
        .read(|view| match image {
            Image::Sequence(sequence) => {
                found = view.loss(sequence)?.map(|entry| (sequence, entry));
                Ok(())
            }
            Image::Id(id) => view.ledger(.., |sequence, entry| {
                if entry.id == id {
                    found = Some((sequence, entry));
                }
                true
            }),
        })
        .map_err(unreadable)?;
    Ok(found)
}

/// A file in quarantine: the latest one of an id.
pub(super) fn aside(core: &Core, image: Image) -> Result<Option<FileName>, ToolError> {
    let mut names = core.quarantined()?;
    names.retain(|name| match image {
        Image::Id(id) => name.id == id,
        Image::Sequence(sequence) => name.sequence == sequence,
    });
    Ok(names.pop())
}
