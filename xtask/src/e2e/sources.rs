//! Where images come from besides files: commands, cameras, and receivers that dial the device.

mod camera;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stations::{Station, transmitter};
use super::{Site, check, photograph, tools};
use crate::console;
use camera::Camera;

/// Time for the few images of one source.
const LIMIT: Duration = Duration::from_secs(60);
const FRAMES: usize = 8;
/// What ffmpeg makes: `-bitexact`, so that it makes the same each time.
const FFMPEG: &str = "ffmpeg -nostdin -loglevel error -f lavfi \
     -i testsrc=size=640x480:rate=10:duration=3 -flags bitexact -f image2pipe -c:v mjpeg -";

/// Runs the suite.
pub(crate) fn run(site: &Site) -> Result<()> {
    let frames = (0..FRAMES as u64)
        .map(|seed| photograph::jpeg(960, 540, seed))
        .collect::<Result<Vec<_>>>()?;
    concatenated(site, &frames).context("--command with concatenated images")?;
    ffmpeg(site).context("--command with ffmpeg")?;
    cameras(site, &frames).context("--snapshot-url")?;
    pulled(site, &frames).context("--listen and --pull")
}

fn concatenated(site: &Site, frames: &[Vec<u8>]) -> Result<()> {
    let folder = site.folder("a command")?;
    let stream = folder.join("frames.mjpeg");
    fs::write(&stream, frames.concat())?;
    let station = Station::start(site, &folder, &[])?;
    let command = format!("cat {}", tools::quoted(&stream)?);
    let args = ["--run", "cat", "--command", &command];
    transmitter(site, &folder, Some(&station), args)?.succeed(LIMIT)?;
    in_order(&station, "cat", frames)?;
    station.stop()?;
    console::passed(format_args!(
        "--command 'cat ...': {} images, cut apart",
        frames.len()
    ));
    Ok(())
}

fn ffmpeg(site: &Site) -> Result<()> {
    tools::need(site, "ffmpeg", &["ffmpeg"])?;
    let folder = site.folder("ffmpeg")?;
    let output = folder.join("expected.mjpeg");
    let shell = format!("{FFMPEG} > {}", tools::quoted(&output)?);
    tools::run(site, "ffmpeg", Path::new("sh"), ["-c", &shell])?;
    let expected = fs::read(&output)?;
    for transport in ["grpc", "websocket", "rest"] {
        let folder = site.folder(&format!("ffmpeg {transport}"))?;
        let station = Station::start(site, &folder, &["--verify", "full"])?;
        let args = [
            "--run",
            "ffmpeg",
            "--transport",
            transport,
            "--command",
            FFMPEG,
        ];
        transmitter(site, &folder, Some(&station), args)?.succeed(LIMIT)?;
        let images = sorted(station.images("ffmpeg")?);
        ensure!(images.len() == 30, "{} images of 30 came", images.len());
        let mut all = Vec::new();
        for image in &images {
            let id = image["image_id"].as_str().context("an image without id")?;
            all.extend(station.body(&format!("/v1/images/{id}"))?);
        }
        ensure!(all == expected, "together they are not what ffmpeg made");
        station.stop()?;
    }
    console::passed("--command 'ffmpeg ...': 30 images over each transport, byte for byte");
    Ok(())
}

fn cameras(site: &Site, frames: &[Vec<u8>]) -> Result<()> {
    let camera = Camera::start(frames.to_vec())?;
    let kinds = [
        ("snapshot.jpg", "one image a request"),
        (
            "stream",
            "multipart/x-mixed-replace with the length of each part",
        ),
        ("plain-stream", "multipart/x-mixed-replace without lengths"),
    ];
    for (path, kind) in kinds {
        let folder = site.folder(&format!("camera {path}"))?;
        let station = Station::start(site, &folder, &[])?;
        let url = format!("http://{}/{path}", camera.address());
        let args = [
            "--run",
            "camera",
            "--count",
            "5",
            "--delay",
            "20ms",
            "--snapshot-url",
            &url,
        ];
        transmitter(site, &folder, Some(&station), args)?.succeed(LIMIT)?;
        let images = station.images("camera")?;
        ensure!(
            images.len() == 5,
            "{kind}: {} images of 5 came",
            images.len()
        );
        let mut seen = BTreeSet::new();
        for image in &images {
            let id = image["image_id"].as_str().context("an image without id")?;
            let bytes = station.body(&format!("/v1/images/{id}"))?;
            let frame = frames.iter().position(|frame| *frame == bytes);
            let frame = frame.with_context(|| format!("{kind}: it is no frame of the camera"))?;
            check::one_stored(&station, image, &frames[frame])?;
            seen.insert(frame);
        }
        ensure!(
            seen.len() > 1,
            "{kind}: the same frame came again and again"
        );
        check::nothing_else(&station, 5)?;
        station.stop()?;
        console::passed(format_args!("--snapshot-url: {kind}"));
    }
    Ok(())
}

/// The device listens, the receiver dials.
fn pulled(site: &Site, frames: &[Vec<u8>]) -> Result<()> {
    let folder = site.folder("pulled")?;
    let stream = folder.join("frames.mjpeg");
    fs::write(&stream, frames.concat())?;
    let command = format!("cat {}", tools::quoted(&stream)?);
    let args = [
        "--run",
        "pulled",
        "--transport",
        "websocket",
        "--listen",
        "127.0.0.1:0",
        "--command",
    ];
    let args = args.into_iter().chain([command.as_str()]);
    let mut sender = transmitter(site, &folder, None, args)?;
    let ready = sender.ready()?;
    let address = ready
        .strip_prefix("WebSocket ")
        .context("no address in the ready line")?;
    let url = format!("ws://{address}/v1/stream");
    let station = Station::start(site, &folder, &["--pull", &url])?;
    sender.succeed(LIMIT)?;
    in_order(&station, "pulled", frames)?;
    let report = station.json("/v1/report?run=pulled")?;
    let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
    check::report(
        &report,
        check::Expected {
            images: frames.len() as u64,
            bytes,
        },
    )?;
    station.stop()?;
    console::passed("--listen and --pull: the receiver dials the device");
    Ok(())
}

/// Checks that the images of a run are `frames`, in their order, and nothing else was stored.
fn in_order(station: &Station, run: &str, frames: &[Vec<u8>]) -> Result<()> {
    let images = sorted(station.images(run)?);
    ensure!(
        images.len() == frames.len(),
        "{} images of {} came",
        images.len(),
        frames.len()
    );
    for (image, frame) in images.iter().zip(frames) {
        check::one_stored(station, image, frame)
            .with_context(|| format!("image {} of run {run}", image["sequence"]))?;
    }
    check::nothing_else(station, frames.len())
}

/// In the order in which the transmitter took them.
fn sorted(mut images: Vec<Value>) -> Vec<Value> {
    images.sort_by_key(|image| image["sequence"].as_u64());
    images
}
