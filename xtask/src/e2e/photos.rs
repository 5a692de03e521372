//! A folder of photographs of many formats, sizes and names, and one that is being filled.

mod collection;
mod watched;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stations::{Station, transmitter, written_reports};
use super::{Site, check};
use crate::console;
use collection::Collection;

/// Time for all photographs over one transport, on a slow medium.
const LIMIT: Duration = Duration::from_secs(300);

const TRANSPORTS: [&str; 3] = ["websocket", "grpc", "rest"];

/// Runs the suite; `photographs` are sent too.
pub(crate) fn run(site: &Site, photographs: Option<&Path>) -> Result<()> {
    console::begin("drawing photographs");
    let collection = Collection::make(&site.folder("photos")?, photographs)?;
    console::note(format_args!("{collection}"));
    for transport in TRANSPORTS {
        each(site, &collection, transport).with_context(|| format!("photos over {transport}"))?;
        console::passed(format_args!(
            "{transport}: {} photographs arrived byte for byte, both reports reconcile",
            collection.sent.len()
        ));
    }
    archived(site, &collection).context("all transports in one go, with an archive")?;
    console::passed("websocket,grpc,rest in one go; every file is in the archive, once");
    for transport in TRANSPORTS {
        watched::run(site, transport).with_context(|| format!("watching, over {transport}"))?;
    }
    Ok(())
}

/// The folder over one transport, all files left where they are.
fn each(site: &Site, collection: &Collection, transport: &str) -> Result<()> {
    let folder = site.folder(transport)?;
    let station = Station::start(site, &folder, &[])?;
    let report = folder.join("report.json");
    send(
        site,
        &folder,
        &station,
        collection,
        transport,
        &["--report"],
        &[&report],
    )?;
    check::stored(&station, "photos", &collection.sent)?;
    check::nothing_else(&station, collection.sent.len())?;
    let expected = check::Expected::of(&collection.sent)?;
    let written = written_reports(&report)?;
    ensure!(
        written.len() == 1,
        "{} reports for one transport",
        written.len()
    );
    check::report(&written[0], expected).context("the transmitter's report")?;
    let received = station.json("/v1/report?run=photos")?;
    check::report(&received, expected).context("the receiver's report")?;
    ensure!(
        received["usage"]["transmitter"].is_object() && received["ended"].is_number(),
        "the transmitter's last account did not reach the receiver"
    );
    collection.is_untouched()?;
    station.stop()?;
    Ok(fs::remove_dir_all(&folder)?)
}

/// All transports over the same files, which go to the archive after the last receipt.
fn archived(site: &Site, collection: &Collection) -> Result<()> {
    let folder = site.folder("archived")?;
    let archive = folder.join("archive");
    let station = Station::start(site, &folder, &[])?;
    let report = folder.join("report.json");
    let before = collection.contents()?;
    let policy = format!("archive:{}", archive.display());
    let (flags, values) = (
        ["--report", "--after-delivery"],
        [&report, &PathBuf::from(policy)],
    );
    let expected = check::Expected::of(&collection.sent)?;
    send(
        site,
        &folder,
        &station,
        collection,
        &TRANSPORTS.join(","),
        &flags,
        &values,
    )?;
    let written = written_reports(&report)?;
    ensure!(
        written.len() == TRANSPORTS.len(),
        "{} reports were written",
        written.len()
    );
    for (transport, own) in TRANSPORTS.iter().zip(&written) {
        ensure!(
            own["transport"] == *transport,
            "{} in place of {transport}",
            own["transport"]
        );
        check::report(own, expected).with_context(|| format!("own report, {transport}"))?;
        let query = format!("/v1/report?run=photos&transport={transport}");
        check::report(&station.json(&query)?, expected)
            .with_context(|| format!("the receiver's report, {transport}"))?;
    }
    check::nothing_else(&station, collection.sent.len() * TRANSPORTS.len())?;
    let left = check::files_below(&collection.folder)?;
    ensure!(
        left == collection.others,
        "in the folder there are {left:?}"
    );
    let mut after = BTreeMap::new();
    for path in check::files_below(&archive)? {
        let name = collection::name_below(&archive, &path)?;
        after.insert(name, fs::read(&path)?);
    }
    ensure!(
        after == before,
        "the archive does not hold what was in the folder"
    );
    station.stop()?;
    Ok(())
}

/// Sends the collection once; `values` go with `flags`.
fn send(
    site: &Site,
    folder: &Path,
    station: &Station,
    collection: &Collection,
    transport: &str,
    flags: &[&str],
    values: &[&PathBuf],
) -> Result<()> {
    let mut args = vec!["--folder".as_ref(), collection.folder.as_os_str()];
    let words = [
        "--once",
        "--recursive",
        "--run",
        "photos",
        "--transport",
        transport,
    ];
    args.extend(words.iter().map(AsRef::<OsStr>::as_ref));
    for (flag, value) in flags.iter().zip(values) {
        args.extend([flag.as_ref(), value.as_os_str()]);
    }
    transmitter(site, folder, Some(station), args)?.succeed(LIMIT)?;
    Ok(())
}
