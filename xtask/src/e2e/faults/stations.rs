//! Both programs as this suite runs them: impatient, on small disks, over the bad link.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::medium::Medium;
use super::plan::{Event, Stop};
use crate::e2e::process::Process;
use crate::e2e::stations::{addresses, program};

/// Time for a program to stop when asked, its own grace period included.
const STOP: Duration = Duration::from_secs(15);
/// Exit codes that nothing here may bring about: wrong settings, a panic, a defect.
const DEFECTS: [i32; 3] = [2, 101, 70];
/// Number of the signal that asks a process to stop.
const SIGTERM: i32 = 15;
/// What a log never has.
const PANIC: &str = "panicked at";
/// Settings of the transmitter that make a round short.
const IMPATIENT: [&str; 18] = [
    "--progress",
    "never",
    "--connect-timeout",
    "1s",
    "--idle-timeout",
    "2s",
    "--clock-interval",
    "500ms",
    "--retry-initial",
    "10ms",
    "--retry-max",
    "150ms",
    "--grace",
    "1s",
    "--outbox-min-free",
    "0",
    "--window",
    "1MiB",
];

/// A program, its disk and what is to be known of its past.
pub(crate) struct Side {
    name: &'static str,
    binary: PathBuf,
    sabotage: Option<&'static str>,
    /// Where its logs go.
    folder: PathBuf,
    pub(crate) medium: Medium,
    process: Option<Process>,
    starts: u32,
    /// Its disk may be full.
    pub(crate) is_full: bool,
}

impl Side {
    pub(crate) fn new(
        name: &'static str,
        binary: &Path,
        sabotage: Option<&'static str>,
        folder: &Path,
        medium: Medium,
    ) -> Self {
        Self {
            name,
            binary: binary.to_owned(),
            sabotage,
            folder: folder.to_owned(),
            medium,
            process: None,
            starts: 0,
            is_full: false,
        }
    }

    fn spawn(&mut self, args: &[String]) -> Result<()> {
        self.starts += 1;
        let mut command = program(&self.binary);
        command.args(args);
        if let Some(key) = self.sabotage {
            command.env("PANTELEGRAPH_SABOTAGE", key);
        }
        let name = format!("{}-{:03}", self.name, self.starts);
        self.process = Some(Process::start(&name, &mut command, &self.folder)?);
        Ok(())
    }

    /// Starts the receiver; its addresses. `None` when its disk is full and it ended therefore.
    pub(crate) fn start_receiver(
        &mut self,
        args: &[String],
    ) -> Result<Option<(SocketAddr, SocketAddr)>> {
        let data = self.medium.place().join("data");
        let mut all: Vec<String> = [
            "--grpc-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
        ]
        .map(str::to_owned)
        .to_vec();
        all.extend(
            ["--name", "faults", "--idle-timeout", "5s", "--grace", "1s"].map(str::to_owned),
        );
        all.extend(["--data".to_owned(), data.display().to_string()]);
        all.extend_from_slice(args);
        self.spawn(&all)?;
        let process = self.process.as_mut().context("it was started just now")?;
        match process.ready() {
            Ok(ready) => {
                let (grpc, http) = addresses(&ready).context("the receiver names no addresses")?;
                Ok(Some((grpc.parse()?, http.parse()?)))
            }
            Err(_) if self.is_full => {
                if let Some(process) = self.process.take() {
                    let log = process.log_file();
                    self.examine(process.wait(STOP)?.status, &read(&log))?;
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Starts the transmitter.
    pub(crate) fn start_transmitter(&mut self, args: &[String]) -> Result<()> {
        let mut all: Vec<String> = IMPATIENT.map(str::to_owned).to_vec();
        all.extend_from_slice(args);
        self.spawn(&all)
    }

    /// Whether it runs.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        let Some(process) = &mut self.process else {
            return Ok(false);
        };
        match process.ended()? {
            None => Ok(true),
            Some(status) => {
                let log = process.log();
                self.examine(status, &log)?;
                Ok(false)
            }
        }
    }

    /// Fails when it ended as no program may that was not killed from here.
    fn examine(&self, status: ExitStatus, log: &str) -> Result<()> {
        let is_defect = status.code().is_none_or(|code| DEFECTS.contains(&code));
        if is_defect || log.contains(PANIC) {
            bail!("{} ended with {status}: {}", self.name, last_of(log));
        }
        Ok(())
    }

    /// The last words of its log.
    pub(crate) fn last_words(&self) -> String {
        last_of(&self.process.as_ref().map(Process::log).unwrap_or_default())
    }

    /// Waits until it ends by itself, with one of these exit codes.
    pub(crate) fn wait(&mut self, limit: Duration, codes: &[i32]) -> Result<()> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        let log = process.log_file();
        let ended = process.wait(limit)?;
        self.examine(ended.status, &read(&log))?;
        if !ended
            .status
            .code()
            .is_some_and(|code| codes.contains(&code))
        {
            bail!("{} ended with {}", self.name, ended.status);
        }
        Ok(())
    }

    /// Stops it; whether it stopped in order.
    pub(crate) fn stop(&mut self, stop: Stop, random: &mut fastrand::Rng) -> Result<bool> {
        let mut in_order = false;
        if let Some(mut process) = self.process.take() {
            let log = process.log_file();
            // One that has ended by itself has nothing to be asked.
            if let Some(status) = process.ended()? {
                self.examine(status, &read(&log))?;
            } else if stop == Stop::Terminate {
                let status = process.stop(STOP)?.status;
                // One that was asked before it could listen has done nothing yet.
                in_order = status.signal() != Some(SIGTERM);
                if in_order {
                    self.examine(status, &read(&log))?;
                }
            } else {
                process.kill()?;
                // A task may have panicked without ending the program.
                if read(&log).contains(PANIC) {
                    bail!("a task of the {} panicked: {}", self.name, log.display());
                }
            }
        }
        if stop == Stop::Cut {
            self.medium.cut(random)?;
        }
        Ok(in_order)
    }

    /// What happens to its disk.
    pub(crate) fn disk(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Fill(_, left) => {
                self.is_full = true;
                self.medium.fill(left)
            }
            Event::Release(_) => {
                self.medium.release()?;
                self.is_full = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn read(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

fn last_of(log: &str) -> String {
    let panic = log.lines().position(|line| line.contains(PANIC));
    let lines: Vec<&str> = log.lines().collect();
    let from = panic.unwrap_or(lines.len().saturating_sub(3));
    lines[from..lines.len().min(from + 3)].join("; ")
}
