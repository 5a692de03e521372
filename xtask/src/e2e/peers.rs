//! Clients that nobody here wrote: each delivers the same image and gets the same receipt.

mod curl;
mod metrics;
mod scripts;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stations::Station;
use super::{Site, check, photograph, tools};
use crate::console;

/// Label of what must be stored; what must not goes under [`HOSTILE`].
const RUN: &str = "peers";
const HOSTILE: &str = "peers-hostile";
/// Smaller than the default, so that messages above it need no large memory.
const MAX_MESSAGE: u64 = 2 << 20;
/// More than one chunk, and less than a message.
const SIZES: std::ops::Range<usize> = 600_000..1_900_000;

/// A receipt as a client got it.
pub(super) struct Told {
    how: String,
    receipt: Value,
}

/// What all peers work with.
struct Meeting<'a> {
    site: &'a Site,
    station: &'a Station,
    /// The image that all send.
    image: PathBuf,
    bytes: Vec<u8>,
}

/// Runs the suite.
pub(crate) fn run(site: &Site) -> Result<()> {
    tools::need(site, "curl", &["curl"])?;
    let bytes = photograph::jpeg(2_000, 1_500, 1_865)?;
    ensure!(
        SIZES.contains(&bytes.len()),
        "the image has {} bytes",
        bytes.len()
    );
    let image = site.folder("image")?.join("photo.jpg");
    fs::write(&image, &bytes)?;
    let folder = site.folder("station")?;
    let station = Station::start(site, &folder, &["--max-message-size", "2MiB"])?;
    let meeting = Meeting {
        site,
        station: &station,
        image,
        bytes,
    };
    let mut told = curl::run(&meeting).context("curl")?;
    told.extend(scripts::python(&meeting)?);
    told.extend(scripts::node(&meeting)?);
    meeting.compare(&told)?;
    console::passed(format_args!(
        "{} deliveries, one receipt: {}",
        told.len(),
        same(&told[0])
    ));
    let examples = scripts::examples(&meeting)?;
    meeting.reports(&told)?;
    metrics::check(&station, &told, examples).context("GET /metrics")?;
    let images = check::files_below(&station.data.join("images"))?.len();
    console::passed(format_args!(
        "/v1/report and /metrics agree with {images} stored files"
    ));
    let log = station.log();
    ensure!(
        !log.contains(" ERROR "),
        "the receiver logged errors:\n{log}"
    );
    station.stop()?;
    Ok(())
}

/// Fields that must be the same whoever sent the image, and however.
const SAME: [&str; 7] = [
    "status",
    "size",
    "digest",
    "durability",
    "format",
    "width",
    "height",
];

fn same(told: &Told) -> String {
    let fields = SAME
        .iter()
        .map(|field| format!("{field} {}", told.receipt[*field]));
    fields.collect::<Vec<_>>().join(", ").replace('"', "")
}

impl Meeting<'_> {
    /// Checks every receipt against the image, the first receipt, and what the receiver has.
    fn compare(&self, told: &[Told]) -> Result<()> {
        let first = told.first().context("nobody delivered anything")?;
        ensure!(
            first.receipt["size"] == self.bytes.len(),
            "the size is {}",
            first.receipt["size"]
        );
        ensure!(
            first.receipt["format"] == "jpeg",
            "the format is {}",
            first.receipt["format"]
        );
        let (width, height) = (&first.receipt["width"], &first.receipt["height"]);
        ensure!(
            *width == 2_000 && *height == 1_500,
            "the image is {width}x{height}"
        );
        let images = self.station.images(RUN)?;
        let mut ids = BTreeSet::new();
        for one in told {
            let id = one.receipt["image_id"].as_str();
            let id = id.with_context(|| format!("{}: no image id", one.how))?;
            ensure!(ids.insert(id), "{}: the id {id} came twice", one.how);
            self.compare_one(one, first, id, &images)
                .with_context(|| one.how.clone())?;
        }
        ensure!(
            images.len() == told.len(),
            "{} images of {}",
            images.len(),
            told.len()
        );
        Ok(())
    }

    fn compare_one(&self, one: &Told, first: &Told, id: &str, images: &[Value]) -> Result<()> {
        for field in SAME {
            let (this, that) = (&one.receipt[field], &first.receipt[field]);
            ensure!(this == that, "{field} is {this}, others were told {that}");
        }
        let kept = self.station.json(&format!("/v1/images/{id}/receipt"))?;
        let object = one
            .receipt
            .as_object()
            .context("the receipt is no object")?;
        for (field, value) in object.iter().filter(|(field, _)| *field != "timeline") {
            ensure!(
                kept[field] == *value,
                "{field} was {value}, later it is {}",
                kept[field]
            );
        }
        let told = &one.receipt["timeline"];
        if told.is_object() {
            same_timeline(told, &kept["timeline"])?;
        }
        let image = images.iter().find(|image| image["image_id"] == id);
        let image = image.context("it is not in the catalogue")?;
        check::one_stored(self.station, image, &self.bytes)
    }

    /// Checks the reports of both runs.
    fn reports(&self, told: &[Told]) -> Result<()> {
        let mut delivered = 0;
        for report in self.reports_of(RUN)? {
            check::reconciles(&report).with_context(|| {
                format!("{} over {}", report["transmitter"], report["transport"])
            })?;
            delivered += report["totals"]["delivered"].as_u64().unwrap_or(0);
            let quarantined = &report["totals"]["quarantined"];
            ensure!(
                *quarantined == 0,
                "{} quarantined {quarantined}",
                report["transmitter"]
            );
        }
        ensure!(
            delivered == told.len() as u64,
            "{delivered} of {} were delivered",
            told.len()
        );
        let mut quarantined = 0;
        for report in self.reports_of(HOSTILE)? {
            check::reconciles(&report)
                .with_context(|| format!("{}, hostile", report["transmitter"]))?;
            quarantined += report["totals"]["quarantined"].as_u64().unwrap_or(0);
        }
        let kept = check::files_below(&self.station.data.join("quarantine"))?.len() as u64;
        ensure!(
            quarantined > 0 && quarantined == kept,
            "{quarantined} quarantined, {kept} files"
        );
        Ok(())
    }

    /// One report for each client.
    fn reports_of(&self, run: &str) -> Result<Vec<Value>> {
        let mut answer = self.station.json(&format!("/v1/report?run={run}"))?;
        let reports = answer["reports"].take();
        let Value::Array(reports) = reports else {
            return Ok(vec![answer]);
        };
        Ok(reports)
    }

    /// The folder of the peers' scripts.
    fn scripts(&self) -> PathBuf {
        self.site.root.join("tests/e2e/peers")
    }

    fn proto(&self) -> PathBuf {
        self.site.root.join("proto")
    }
}

/// A receipt is made when the catalogue has committed; the time in the catalogue is that of just
/// before, because it is part of what is committed.
fn same_timeline(told: &Value, kept: &Value) -> Result<()> {
    for field in ["first_byte", "last_byte", "verified"] {
        let (told, kept) = (&told[field], &kept[field]);
        ensure!(told == kept, "{field} was {told}, later it is {kept}");
    }
    let (told, kept) = (told["durable"].as_i64(), kept["durable"].as_i64());
    ensure!(
        kept.is_some() && told >= kept,
        "durable was {told:?}, later it is {kept:?}"
    );
    Ok(())
}

/// The contract, below `proto/`.
const CONTRACT: &str = "pantelegraph/transfer/v1/transfer.proto";
