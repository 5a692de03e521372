//! A large image over a link that breaks every second: it goes on where it was.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::faults::images::{Maker, Shape};
use super::faults::proxy::Proxy;
use super::stations::{Station, transmitter_to, written_reports};
use super::{Site, check};
use crate::console;

/// Size of the image.
const IMAGE: usize = 200_000_000;
/// What the link carries, bytes a second: the image takes about twelve seconds.
const RATE: u64 = 16 << 20;
/// Time between two breaks.
const EVERY: Duration = Duration::from_secs(1);
/// What may be in flight, and so be lost with a connection.
const WINDOW: u64 = 4 << 20;
/// What a connection costs beside image bytes: handshakes, heads, clock messages.
const OVERHEAD: u64 = 64 << 10;
/// Time for one transport.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs the suite.
pub(crate) fn run(site: &Site) -> Result<()> {
    let folder = site.folder("image")?;
    let file = folder.join("large.bmp");
    console::begin("making an image of 200 MB");
    let image = Maker::new()?.make(Shape::Bmp, IMAGE, &mut fastrand::Rng::with_seed(1));
    std::fs::write(&file, &image)?;
    console::note(
        "transport  breaks  seconds  by the report: sent  image bytes  again     allowed   passed the link",
    );
    for transport in ["grpc", "websocket", "rest"] {
        let folder = site.folder(transport)?;
        let station = Station::start(site, &folder, &[])?;
        let proxy = Proxy::start()?;
        proxy.lead_to(Some((station.grpc.parse()?, station.http.parse()?)));
        proxy.limit(RATE);
        let report = folder.join("report.json");
        let args = [
            "--transport".as_ref(),
            transport.as_ref(),
            "--run".as_ref(),
            "breaks".as_ref(),
            "--window".as_ref(),
            "4MiB".as_ref(),
            "--retry-initial".as_ref(),
            "20ms".as_ref(),
            "--retry-max".as_ref(),
            "100ms".as_ref(),
            "--outbox-min-free".as_ref(),
            "0".as_ref(),
            "--file".as_ref(),
            file.as_os_str(),
            "--report".as_ref(),
            report.as_os_str(),
        ];
        let start = Instant::now();
        let process = transmitter_to(site, &folder, &proxy.destinations(), args)?;
        let (done, breaks) = (AtomicBool::new(false), AtomicU64::new(0));
        let ended = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::thread::park_timeout(EVERY);
                    if !done.load(Ordering::Relaxed) {
                        proxy.break_all();
                        breaks.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let ended = process.succeed(LIMIT);
            done.store(true, Ordering::Relaxed);
            ended
        });
        ended.with_context(|| transport.to_owned())?;
        let seconds = start.elapsed().as_secs_f64();
        let images = station.images("breaks")?;
        ensure!(images.len() == 1, "{} images are catalogued", images.len());
        check::one_stored(&station, &images[0], &image).context(transport)?;
        let reports = written_reports(&report)?;
        let wire = &reports.first().context("no report")?["wire"];
        let told = |field: &str| {
            wire[field]
                .as_u64()
                .with_context(|| format!("the report does not say {field}"))
        };
        let (written, sent, resent) = (
            told("sent")?,
            told("image_bytes_sent")?,
            told("image_bytes_resent")?,
        );
        let (breaks, passed) = (breaks.into_inner(), proxy.bytes_up());
        let allowed = breaks * WINDOW;
        console::note(format_args!(
            "{transport:<9}  {breaks:>6}  {seconds:>7.1}  {:>16.1} MB  {:>8.1} MB  {:>4.1} MB  {:>5.1} MB  {:>12.1} MB",
            written as f64 / 1e6,
            sent as f64 / 1e6,
            resent as f64 / 1e6,
            allowed as f64 / 1e6,
            passed as f64 / 1e6,
        ));
        ensure!(
            breaks >= 5,
            "the link broke {breaks} times only: nothing is shown"
        );
        ensure!(
            resent <= allowed,
            "{transport}: {resent} bytes were sent again, more than {breaks} windows"
        );
        ensure!(
            sent == image.len() as u64 + resent && written >= image.len() as u64,
            "{transport}: the report does not add up: {written} bytes sent, {sent} of the image, {resent} of them again"
        );
        // What a connection still held when it broke has not passed the link: less passes than was
        // handed to the transport.
        let most = image.len() as u64
            + allowed
            + image.len() as u64 / 100
            + OVERHEAD * proxy.connections();
        ensure!(
            passed <= most,
            "{transport}: {passed} bytes passed the link, more than {most}"
        );
        station.stop()?;
    }
    console::passed("200 MB arrive over each transport, and no break costs more than a window");
    Ok(())
}
