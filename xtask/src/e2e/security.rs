//! Who gets in, seen by programs that nobody here wrote: OpenSSL, curl and Python's gRPC; certificates that
//! are renewed during a transfer; and a crowd that only wants to be in the way.

mod crowd;
mod peers;
mod renewal;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::process::Process;
use super::stations::{self, STOP};
use super::{PANTELEGRAPH, RECEIVER, Site, photograph, tools};
use crate::console;

/// Time for a command.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the suite.
pub(crate) fn run(site: &Site) -> Result<()> {
    tools::need(site, "curl", &["curl"])?;
    tools::need(site, "openssl", &["openssl"])?;
    let keys = Keys::make(site)?;
    let image = site.folder("image")?.join("photo.jpg");
    std::fs::write(&image, photograph::jpeg(1_200, 900, 1_865)?)?;
    peers::run(site, &keys, &image).context("programs of others")?;
    renewal::run(site, &keys).context("renewal during a transfer")?;
    crowd::run(site, &keys).context("a crowd")
}

/// What `pantelegraph keys` made.
struct Keys {
    folder: PathBuf,
    program: PathBuf,
}

impl Keys {
    fn make(site: &Site) -> Result<Self> {
        let keys = Self {
            folder: site.work.join("keys"),
            program: site.program(PANTELEGRAPH),
        };
        keys.call(&["init", "--trust-domain", "e2e.example"])?;
        let gateway = ["--name", "localhost", "--ip", "127.0.0.1"];
        keys.call(&[&["issue", "receiver", "gw"][..], &gateway].concat())?;
        for (role, name) in [
            ("transmitter", "e2e"),
            ("transmitter", "cam-2"),
            ("transmitter", "stolen"),
            ("reader", "eye"),
            ("admin", "root"),
        ] {
            keys.call(&["issue", role, name])?;
        }
        keys.call(&["revoke", "stolen"])?;
        Ok(keys)
    }

    /// A command of `pantelegraph keys`, which must succeed; what it printed.
    fn call(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .arg("keys")
            .arg("--dir")
            .arg(&self.folder)
            .args(args);
        let output = command.output().context("running pantelegraph keys")?;
        ensure!(
            output.status.success(),
            "pantelegraph keys {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A file below the folder.
    fn file(&self, name: &str) -> Result<String> {
        Ok(tools::text(&self.folder.join(name))?.to_owned())
    }

    /// Flags of a receiver that asks for certificates.
    fn receiver(&self) -> Result<Vec<String>> {
        let mut flags = Vec::new();
        for (flag, name) in [
            ("--tls-cert", "gw/cert.pem"),
            ("--tls-key", "gw/key.pem"),
            ("--tls-client-ca", "gw/ca.pem"),
            ("--tls-crl", "revoked.pem"),
        ] {
            flags.extend([flag.to_owned(), self.file(name)?]);
        }
        Ok(flags)
    }

    /// Flags of a transmitter that shows the certificate of this station.
    fn transmitter(&self, name: &str) -> Result<Vec<String>> {
        let mut flags = Vec::new();
        for (flag, file) in [
            ("--tls-ca", "ca.pem"),
            ("--tls-cert", "cert.pem"),
            ("--tls-key", "key.pem"),
        ] {
            flags.extend([flag.to_owned(), self.file(&format!("{name}/{file}"))?]);
        }
        Ok(flags)
    }
}

/// A receiver that is reached over TLS.
struct Receiver {
    process: Process,
    grpc: String,
    http: String,
    data: PathBuf,
}

impl Receiver {
    fn start(site: &Site, folder: &Path, flags: &[String]) -> Result<Self> {
        let data = folder.join("data");
        let mut command = stations::program(&site.program(RECEIVER));
        command
            .args([
                "--grpc-listen",
                "127.0.0.1:0",
                "--http-listen",
                "127.0.0.1:0",
            ])
            .args(["--name", "e2e", "--data"])
            .arg(&data)
            .args(flags);
        let mut process = Process::start("receiver", &mut command, folder)?;
        let ready = process.ready()?;
        let (grpc, http) = stations::addresses(&ready)
            .with_context(|| format!("the receiver says {ready:?}, which names no addresses"))?;
        Ok(Self {
            process,
            grpc,
            http,
            data,
        })
    }

    /// What `--to` needs for all transports.
    fn destinations(&self) -> String {
        let Self { grpc, http, .. } = self;
        format!("grpc=https://{grpc},websocket=wss://{http}/v1/stream,rest=https://{http}")
    }

    fn log(&self) -> String {
        self.process.log()
    }

    fn stop(self) -> Result<()> {
        self.process.terminate(STOP).map(|_| ())
    }
}

/// An answer that curl got.
struct Curled {
    /// 0 when there was none.
    status: u16,
    body: Vec<u8>,
    /// What curl says of it.
    words: String,
}

/// Asks `url` as this station, or as nobody.
fn curl(keys: &Keys, who: Option<&str>, url: &str, args: &[&str]) -> Result<Curled> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--tlsv1.3"]);
    command.args(["--cacert", &keys.file("ca.pem")?]);
    if let Some(who) = who {
        command.args(["--cert", &keys.file(&format!("{who}/cert.pem"))?]);
        command.args(["--key", &keys.file(&format!("{who}/key.pem"))?]);
    }
    command
        .args(["--write-out", "\n%{http_code}"])
        .args(args)
        .arg(url);
    let output = command.output().context("running curl")?;
    let end = output.stdout.iter().rposition(|byte| *byte == b'\n');
    let (body, status) = output.stdout.split_at(end.unwrap_or(0));
    let status = String::from_utf8_lossy(status).trim().parse().unwrap_or(0);
    Ok(Curled {
        status,
        body: body.to_vec(),
        words: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Checks that curl got this status.
fn expect_status(what: &str, curled: &Curled, status: u16) -> Result<()> {
    ensure!(
        curled.status == status,
        "{what}: {} instead of {status}: {}{}",
        curled.status,
        String::from_utf8_lossy(&curled.body),
        curled.words
    );
    console::passed(format_args!("curl, {what}: {status}"));
    Ok(())
}
