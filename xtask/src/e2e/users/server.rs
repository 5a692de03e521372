//! A server of users, as a person would run it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::e2e::process::{Ended, Process};
use crate::e2e::{PANTELEGRAPH, Site, stations};

/// Time for a server to stop, its delay and its grace period included.
const STOP: Duration = Duration::from_secs(30);
/// A port that the system chooses.
const ANY: &str = "127.0.0.1:0";

/// `pantelegraph users serve`, with its users in memory.
pub(crate) struct Server {
    process: Process,
    /// Where gRPC is served.
    pub(crate) grpc: String,
    /// Where REST and GraphQL are served.
    pub(crate) http: String,
    /// The file with the key that tokens are signed with.
    pub(crate) key: PathBuf,
}

impl Server {
    /// Starts one on free ports; its log is `NAME.log` in `folder`.
    pub(crate) fn start(site: &Site, folder: &Path, name: &str, args: &[&str]) -> Result<Self> {
        Self::start_at(site, folder, name, ANY, args)
    }

    /// As [`Self::start`], with gRPC at this address.
    pub(crate) fn start_at(
        site: &Site,
        folder: &Path,
        name: &str,
        grpc: &str,
        args: &[&str],
    ) -> Result<Self> {
        let key = folder.join("users.key");
        if !key.exists() {
            let secret = std::iter::repeat_with(fastrand::alphanumeric).take(64);
            std::fs::write(&key, secret.collect::<String>())?;
        }
        let mut command = stations::program(&site.program(PANTELEGRAPH));
        command
            .args(["users", "serve", "--http-listen", ANY])
            .args(["--grpc-listen", grpc])
            .arg("--token-key-file")
            .arg(&key)
            .arg("--allow-anonymous")
            .args(args);
        let mut process = Process::start(name, &mut command, folder)?;
        let ready = process.ready()?;
        let addresses = ready
            .strip_prefix("gRPC ")
            .and_then(|rest| rest.split_once(", HTTP "));
        let (grpc, http) = addresses
            .with_context(|| format!("the server says {ready:?}, which names no addresses"))?;
        let (grpc, http) = (grpc.to_owned(), http.to_owned());
        Ok(Self {
            process,
            grpc,
            http,
            key,
        })
    }

    /// Highest resident memory so far, bytes.
    pub(crate) fn peak_memory(&mut self) -> u64 {
        self.process.peak_memory()
    }

    /// Counts its calls, also when it is no more.
    pub(crate) fn counter(&self) -> Counter {
        Counter {
            log: self.process.log_file(),
        }
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(self) -> Result<()> {
        self.process.kill()
    }

    /// Stops it (SIGTERM), which must end with exit code 0 and without an error in its log.
    pub(crate) fn stop(self) -> Result<Ended> {
        let log = self.process.log_file();
        let ended = self.process.terminate(STOP)?;
        let log = std::fs::read_to_string(log)?;
        let errors: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(" ERROR "))
            .collect();
        ensure!(
            errors.is_empty(),
            "the server logged errors:\n{}",
            errors.join("\n")
        );
        Ok(ended)
    }
}

/// Calls that a server has told of in its log.
pub(crate) struct Counter {
    log: PathBuf,
}

impl Counter {
    /// Those of one method of the service.
    pub(crate) fn of(&self, method: &str) -> usize {
        self.count(&format!("{method} "))
    }

    /// Those of all methods.
    pub(crate) fn all(&self) -> usize {
        self.count("")
    }

    fn count(&self, method: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let call = format!(" call=/user.v1.UserService/{method}");
        log.matches(&call).count()
    }
}
