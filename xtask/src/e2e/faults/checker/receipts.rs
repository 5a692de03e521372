//! The transmitter's receipts: what it was told that the receiver has.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::Findings;

/// A line of `--receipts`.
pub(super) struct Receipt {
    pub(super) id: [u8; 16],
    pub(super) outbox: Option<[u8; 16]>,
    pub(super) sequence: u64,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) status: String,
    pub(super) durability: String,
    /// When the receiver found the image right; of a quarantined one it does not tell.
    pub(super) verified: Option<i64>,
}

/// Reads `--receipts`. A line that a kill tore is none.
pub(super) fn read(path: &Path, findings: &mut Findings) -> Result<Vec<Receipt>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut receipts = Vec::new();
    for line in text.lines() {
        // Only a line that was written to its end can be read to its end.
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        match receipt(&line) {
            Some(receipt) => receipts.push(receipt),
            None => findings.push(format!("a line of the receipts lacks a field: {line}")),
        }
    }
    Ok(receipts)
}

fn receipt(line: &Value) -> Option<Receipt> {
    let id = |field: &str| {
        Some(
            uuid::Uuid::try_parse(line[field].as_str()?)
                .ok()?
                .into_bytes(),
        )
    };
    Some(Receipt {
        id: id("image_id")?,
        outbox: id("outbox"),
        sequence: line["sequence"].as_u64()?,
        digest: line["digest"].as_str()?.to_owned(),
        size: line["size"].as_u64()?,
        status: line["status"].as_str()?.to_owned(),
        durability: line["durability"].as_str().unwrap_or_default().to_owned(),
        verified: line["verified_unix_ns"].as_i64(),
    })
}
