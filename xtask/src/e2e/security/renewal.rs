//! Certificates of both sides are renewed while images pass: nothing is lost, and the next connection
//! shows the new ones.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Keys, Receiver};
use crate::console;
use crate::e2e::Site;
use crate::e2e::check;
use crate::e2e::stations;

const IMAGES: u64 = 400;
/// Time for all of it.
const LIMIT: Duration = Duration::from_secs(120);

pub(super) fn run(site: &Site, keys: &Keys) -> Result<()> {
    let folder = site.folder("renewal")?;
    let receiver = Receiver::start(site, &folder, &keys.receiver()?)?;
    let report = folder.join("report.json");
    let mut flags = keys.transmitter("e2e")?;
    let count = IMAGES.to_string();
    flags.extend(
        [
            "--pattern",
            "320x240",
            "--count",
            &count,
            "--rate",
            "60/s",
            "--transport",
            "grpc,websocket,rest",
            "--report",
        ]
        .map(str::to_owned),
    );
    flags.push(report.display().to_string());
    let mut sender = stations::transmitter_to(site, &folder, &receiver.destinations(), flags)?;
    let images = receiver.data.join("images");
    wait(|| {
        let ended = sender.ended()?;
        ensure!(
            ended.is_none(),
            "the transmitter has ended: {}",
            sender.log()
        );
        Ok(images.is_dir() && check::files_below(&images)?.len() > 30)
    })?;
    let before = serial(&receiver)?;
    keys.call(&["renew", "gw", "e2e"])?;
    wait(|| Ok(serial(&receiver)? != before))?;
    console::passed("the new certificate is shown to the next, while images pass");
    // Open connections have stayed; what is made from now on shows the transmitter's new one.
    sender.succeed(LIMIT)?;
    let stored = check::files_below(&images)?.len() as u64;
    ensure!(
        stored == 3 * IMAGES,
        "{stored} images are stored, not {}",
        3 * IMAGES
    );
    for report in stations::written_reports(&report)? {
        ensure!(
            report["lost"] == 0 || report["lost"].is_null(),
            "images were lost: {report}"
        );
    }
    console::passed(format_args!(
        "{stored} images over three transports, none lost"
    ));
    receiver.stop()
}

fn wait(mut until: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !until()? {
        ensure!(
            begun.elapsed() < LIMIT,
            "it did not happen within {LIMIT:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Number of the certificate that the receiver shows.
fn serial(receiver: &Receiver) -> Result<String> {
    let shown = Command::new("openssl")
        .args(["s_client", "-connect", &receiver.http])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("running openssl s_client")?;
    let mut reading = Command::new("openssl")
        .args(["x509", "-noout", "-serial"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("running openssl x509")?;
    if let Some(mut stdin) = reading.stdin.take() {
        std::io::Write::write_all(&mut stdin, &shown.stdout)?;
    }
    let output = reading.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
