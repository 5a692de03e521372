//! The two daemons, as a person would run them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::process::{Ended, Process, Usage};
use super::{RECEIVER, Site, TRANSMITTER};

/// Time for a daemon to stop, its own grace period included.
pub(crate) const STOP: Duration = Duration::from_secs(20);
/// Time for one answer of the receiver.
const ANSWER: Duration = Duration::from_secs(60);
/// Largest answer: an image of the largest size that is sent here, and some more.
const MAX_ANSWER: u64 = 256 << 20;

/// A receiver daemon with its data in a folder of its own.
pub(crate) struct Station {
    process: Process,
    /// Address of gRPC, or `off`.
    pub(crate) grpc: String,
    /// Address of REST, WebSocket and reports.
    pub(crate) http: String,
    /// Its data folder.
    pub(crate) data: PathBuf,
    agent: ureq::Agent,
}

/// An answer of the receiver over HTTP.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Station {
    /// Starts a receiver on free ports, with its data in `folder/data`.
    pub(crate) fn start(site: &Site, folder: &Path, args: &[&str]) -> Result<Self> {
        let data = folder.join("data");
        let mut command = program(&site.program(RECEIVER));
        command.args([
            "--grpc-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
        ]);
        command
            .arg("--data")
            .arg(&data)
            .args(["--name", "e2e"])
            .args(args);
        let mut process = Process::start("receiver", &mut command, folder)?;
        let ready = process.ready()?;
        let (grpc, http) = addresses(&ready)
            .with_context(|| format!("the receiver says {ready:?}, which names no addresses"))?;
        let agent = agent();
        Ok(Self {
            process,
            grpc,
            http,
            data,
            agent,
        })
    }

    /// What `--to` needs for all transports.
    pub(crate) fn destinations(&self) -> String {
        let Self { grpc, http, .. } = self;
        format!("grpc=http://{grpc},websocket=ws://{http}/v1/stream,rest=http://{http}")
    }

    /// Images that it has stored since it was started.
    pub(crate) fn received(&self) -> Result<u64> {
        let metrics = self.body("/metrics")?;
        let name = "pantelegraph_images_received_total{";
        let values = String::from_utf8_lossy(&metrics)
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
        Ok(values as u64)
    }

    /// What it takes now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    /// `GET path`.
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        ask(&self.agent, &self.http, path)
    }

    /// `GET path`, whose answer must be good.
    pub(crate) fn body(&self, path: &str) -> Result<Vec<u8>> {
        let answer = self.get(path)?;
        ensure!(
            answer.status == 200,
            "GET {path} was answered with {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Ok(answer.body)
    }

    /// `GET path`, whose answer must be JSON.
    pub(crate) fn json(&self, path: &str) -> Result<Value> {
        let body = self.body(path)?;
        serde_json::from_slice(&body).with_context(|| format!("the answer to GET {path}"))
    }

    /// All images of a run that the catalogue knows.
    pub(crate) fn images(&self, run: &str) -> Result<Vec<Value>> {
        let mut images = Vec::new();
        let mut after = 0;
        loop {
            let page = self.json(&format!("/v1/images?run={run}&after={after}&limit=1000"))?;
            let items = page["images"].as_array().context("a page without images")?;
            images.extend(items.iter().cloned());
            match page["next"].as_i64() {
                Some(next) => after = next,
                None => return Ok(images),
            }
        }
    }

    /// Highest resident memory so far, bytes.
    pub(crate) fn peak_memory(&mut self) -> u64 {
        self.process.peak_memory()
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Stops it, which must end with exit code 0.
    pub(crate) fn stop(self) -> Result<Ended> {
        self.process.terminate(STOP)
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER))
        .http_status_as_error(false)
        .build()
        .into()
}

/// `GET path` of the program at `address`.
pub(crate) fn get(address: &str, path: &str) -> Result<Answer> {
    ask(&agent(), address, path)
}

fn ask(agent: &ureq::Agent, address: &str, path: &str) -> Result<Answer> {
    let url = format!("http://{address}{path}");
    let mut response = agent
        .get(&url)
        .call()
        .with_context(|| format!("GET {path}"))?;
    let body = response
        .body_mut()
        .with_config()
        .limit(MAX_ANSWER)
        .read_to_vec();
    Ok(Answer {
        status: response.status().as_u16(),
        body: body.with_context(|| format!("reading the answer to GET {path}"))?,
    })
}

/// Starts a transmitter that dials `station` if one is given.
pub(crate) fn transmitter<I, A>(
    site: &Site,
    folder: &Path,
    station: Option<&Station>,
    args: I,
) -> Result<Process>
where
    I: IntoIterator<Item = A>,
    A: AsRef<OsStr>,
{
    let mut command = program(&site.program(TRANSMITTER));
    command
        .args(["--name", "e2e", "--progress", "never"])
        .args(args);
    if let Some(station) = station {
        command.args(["--to", &station.destinations(), "--give-up-after", "30s"]);
    }
    Process::start("transmitter", &mut command, folder)
}

/// Starts a transmitter with its outbox in `folder`, which dials `destinations`.
pub(crate) fn transmitter_to<I, A>(
    site: &Site,
    folder: &Path,
    destinations: &str,
    args: I,
) -> Result<Process>
where
    I: IntoIterator<Item = A>,
    A: AsRef<OsStr>,
{
    let mut command = program(&site.program(TRANSMITTER));
    command
        .args(["--name", "e2e", "--progress", "never", "--to", destinations])
        .arg("--outbox")
        .arg(folder.join("outbox"))
        .args(args);
    Process::start("transmitter", &mut command, folder)
}

/// The reports that a transmitter wrote with `--report`, one for each transport.
pub(crate) fn written_reports(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the transmitter's report {}", path.display()))?;
    match serde_json::from_str(&text).context("the transmitter's report")? {
        Value::Object(mut object) => match object.remove("reports") {
            Some(Value::Array(reports)) => Ok(reports),
            _ => bail!("the transmitter's report has no list of reports"),
        },
        _ => bail!("the transmitter's report is no object"),
    }
}

/// A command without the settings of whoever runs the checks.
pub(crate) fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        let name_bytes = name.as_encoded_bytes();
        if ["RECEIVER_", "TRANSMITTER_", "USERS_", "OTEL_"]
            .iter()
            .any(|prefix| name_bytes.starts_with(prefix.as_bytes()))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Of `gRPC ADDR, HTTP ADDR, data DIR`.
pub(crate) fn addresses(ready: &str) -> Option<(String, String)> {
    let grpc = ready.strip_prefix("gRPC ")?;
    let (grpc, rest) = grpc.split_once(", HTTP ")?;
    let (http, _) = rest.split_once(", data ")?;
    Some((grpc.to_owned(), http.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_both_addresses() {
        let ready = "gRPC 127.0.0.1:5, HTTP [::1]:6, data /a, b";
        assert_eq!(
            addresses(ready),
            Some(("127.0.0.1:5".to_owned(), "[::1]:6".to_owned()))
        );
        assert_eq!(addresses("WebSocket 127.0.0.1:5"), None);
    }
}
