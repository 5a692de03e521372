//! What must hold after images were sent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::stations::Station;

/// Most folders within each other. Those that are made here have four at most.
const MAX_DEPTH: usize = 16;

/// All files below `folder`, sorted.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(folder, MAX_DEPTH, &mut files)
        .with_context(|| format!("reading folder {}", folder.display()))?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            files.push(entry.path());
        } else if depth > 0 {
            collect(&entry.path(), depth - 1, files)?;
        }
    }
    Ok(())
}

/// Checks that the run stored exactly `sent` (name and file): each is catalogued once under its
/// name, the receiver gives out its bytes, and the files in its folder are these and no others.
pub(crate) fn stored(station: &Station, run: &str, sent: &BTreeMap<String, PathBuf>) -> Result<()> {
    let images = station.images(run)?;
    ensure!(
        images.len() == sent.len(),
        "{} images of {} are catalogued",
        images.len(),
        sent.len()
    );
    for (name, path) in sent {
        let mut named = images.iter().filter(|image| image["name"] == name.as_str());
        let (Some(image), None) = (named.next(), named.next()) else {
            bail!("there is not exactly one image with the name {name:?}");
        };
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        one_stored(station, image, &bytes).with_context(|| format!("image {name:?}"))?;
    }
    Ok(())
}

/// Checks one entry of the catalogue against the bytes that were sent.
pub(crate) fn one_stored(station: &Station, image: &Value, bytes: &[u8]) -> Result<()> {
    ensure!(
        image["status"] == "stored",
        "it is {}, {}",
        image["status"],
        image["message"]
    );
    ensure!(
        image["size"] == bytes.len(),
        "it has {} bytes, not {}",
        image["size"],
        bytes.len()
    );
    let id = image["image_id"].as_str().context("it has no id")?;
    ensure!(
        station.body(&format!("/v1/images/{id}"))? == bytes,
        "other bytes came back"
    );
    let file = file_of(station, id)?;
    let kept = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    ensure!(kept == bytes, "{} holds other bytes", file.display());
    Ok(())
}

/// The file of an image in the receiver's folder.
fn file_of(station: &Station, id: &str) -> Result<PathBuf> {
    let files = files_below(&station.data.join("images"))?;
    let is_named = |file: &&PathBuf| {
        file.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(id))
    };
    let mut found = files.iter().filter(is_named);
    match (found.next(), found.next()) {
        (Some(file), None) => Ok(file.clone()),
        (None, _) => bail!("no file in {} belongs to {id}", station.data.display()),
        _ => bail!("several files in {} belong to {id}", station.data.display()),
    }
}

/// Checks that the receiver's folder holds `images` files, no quarantined and no unfinished ones.
pub(crate) fn nothing_else(station: &Station, images: usize) -> Result<()> {
    for (folder, expected) in [("images", images), ("quarantine", 0), ("incoming", 0)] {
        let files = files_below(&station.data.join(folder))?.len();
        ensure!(
            files == expected,
            "{files} files in {folder}/, not {expected}"
        );
    }
    Ok(())
}

/// What a report must say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) images: u64,
    pub(crate) bytes: u64,
}

impl Expected {
    /// All files of `sent`.
    pub(crate) fn of(sent: &BTreeMap<String, PathBuf>) -> Result<Self> {
        let mut bytes = 0;
        for path in sent.values() {
            bytes += fs::metadata(path)
                .with_context(|| format!("{}", path.display()))?
                .len();
        }
        Ok(Self {
            images: sent.len() as u64,
            bytes,
        })
    }
}

/// Checks that a report tells of `expected` images, all delivered, and reconciles.
pub(crate) fn report(report: &Value, expected: Expected) -> Result<()> {
    reconciles(report)?;
    let totals = &report["totals"];
    for (field, value) in [
        ("captured", expected.images),
        ("delivered", expected.images),
        ("bytes", expected.bytes),
        ("duplicates", 0),
        ("quarantined", 0),
        ("lost", 0),
        ("owed", 0),
        ("rejected", 0),
    ] {
        ensure!(
            totals[field] == value,
            "totals.{field} is {}, not {value}",
            totals[field]
        );
    }
    for field in ["transmission", "delivery"] {
        let count = &report[field]["count"];
        ensure!(
            *count == expected.images,
            "{field}.count is {count}, not {}",
            expected.images
        );
    }
    Ok(())
}

/// Checks that the totals of a report add up, by themselves and with its rows.
pub(crate) fn reconciles(report: &Value) -> Result<()> {
    let totals = &report["totals"];
    let count = |field: &str| {
        totals[field]
            .as_u64()
            .with_context(|| format!("totals.{field} is no number"))
    };
    let mut sum = 0;
    for field in ["delivered", "duplicates", "quarantined", "lost", "owed"] {
        sum += count(field)?;
    }
    let captured = count("captured")?;
    ensure!(
        captured == sum,
        "{captured} were captured, the others add up to {sum}"
    );
    ensure!(
        totals["reconciles"] == true,
        "the report says itself that it does not reconcile"
    );
    let rows = report["images"]
        .as_array()
        .context("a report without rows")?;
    let omitted = report["rows_omitted"]
        .as_u64()
        .context("rows_omitted is no number")?;
    let delivered: Vec<&Value> = rows
        .iter()
        .filter(|row| row["outcome"] == "delivered")
        .collect();
    if omitted == 0 {
        let bytes: u64 = delivered
            .iter()
            .filter_map(|row| row["size"].as_u64())
            .sum();
        ensure!(
            delivered.len() as u64 == count("delivered")? && bytes == count("bytes")?,
            "{} rows of {bytes} bytes are delivered, the totals say {} of {}",
            delivered.len(),
            count("delivered")?,
            count("bytes")?
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        json!({
            "totals": {
                "captured": 3, "delivered": 2, "duplicates": 0, "quarantined": 1, "lost": 0,
                "owed": 0, "rejected": 0, "bytes": 30, "reconciles": true
            },
            "images": [
                { "outcome": "delivered", "size": 10 },
                { "outcome": "quarantined", "size": 5 },
                { "outcome": "delivered", "size": 20 }
            ],
            "rows_omitted": 0
        })
    }

    #[test]
    fn totals_and_rows_that_add_up_reconcile() {
        reconciles(&sample()).unwrap();
    }

    #[test]
    fn a_count_or_a_row_that_is_off_is_found() {
        for (pointer, value) in [
            ("/totals/captured", json!(4)),
            ("/totals/lost", json!(1)),
            ("/totals/bytes", json!(31)),
            ("/totals/reconciles", json!(false)),
            ("/images/0/size", json!(11)),
            ("/images/1/outcome", json!("delivered")),
            ("/rows_omitted", json!(null)),
        ] {
            let mut report = sample();
            *report.pointer_mut(pointer).unwrap() = value;
            assert!(reconciles(&report).is_err(), "{pointer}");
        }
    }
}
