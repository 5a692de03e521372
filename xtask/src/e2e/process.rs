//! Child processes that do not outlive their owner.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Time between two looks at a process. Peak memory only grows, so that looks may be far apart;
/// what a process takes in the last moments before its end is missed at most.
const LOOK: Duration = Duration::from_millis(5);
/// Time for a daemon to be ready.
const START: Duration = Duration::from_secs(20);
/// Time for lines that a process wrote before it ended.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Lines of output that are kept for the error.
const KEPT_LINES: usize = 20;

/// A process that is killed when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    output: Vec<String>,
    log: PathBuf,
    peak_memory: u64,
}

/// How a process ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Lines of standard output.
    pub(crate) output: Vec<String>,
    /// Highest resident memory that was seen, bytes.
    pub(crate) peak_memory: u64,
}

/// What a process takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Resident memory, bytes.
    pub(crate) memory: u64,
    /// Open file descriptors.
    pub(crate) files: u64,
    /// Time of processors in the program itself.
    pub(crate) user: Duration,
    /// Time of processors, that of the kernel for it included.
    pub(crate) cpu: Duration,
}

impl Process {
    /// Starts `command`. Its log (standard error) goes to `NAME.log` in `folder`, which is its
    /// working folder too.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let mut child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("{} cannot be run", command.get_program().display()))?;
        let stdout = child.stdout.take().context("standard output is a pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let mut stdout = BufReader::new(stdout);
            while stdout
                .read_until(b'\n', &mut bytes)
                .is_ok_and(|read| read > 0)
            {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        let name = name.to_owned();
        Ok(Self {
            name,
            child,
            lines,
            output: Vec::new(),
            log,
            peak_memory: 0,
        })
    }

    /// Waits for the line that begins with `ready: `, and gives the rest of it.
    pub(crate) fn ready(&mut self) -> Result<String> {
        let deadline = Instant::now() + START;
        loop {
            let line = match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failed(&format!("is not ready after {START:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failed("ended before it was ready"));
                }
            };
            let ready = line.strip_prefix("ready: ").map(str::to_owned);
            self.output.push(line);
            if let Some(ready) = ready {
                return Ok(ready);
            }
        }
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self, limit: Duration) -> Result<Ended> {
        let start = Instant::now();
        loop {
            self.look();
            if let Some(status) = self.child.try_wait().context("waiting for a process")? {
                // The channel ends with the pipe, unless a child of the process holds it open.
                while let Ok(line) = self.lines.recv_timeout(LAST_LINES) {
                    self.output.push(line);
                }
                return Ok(Ended {
                    status,
                    output: std::mem::take(&mut self.output),
                    peak_memory: self.peak_memory,
                });
            }
            if start.elapsed() > limit {
                return Err(self.failed(&format!("did not end within {limit:?}")));
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits until it ends by itself, with exit code 0.
    pub(crate) fn succeed(self, limit: Duration) -> Result<Ended> {
        let (name, log) = (self.name.clone(), self.log.clone());
        let ended = self.wait(limit)?;
        ensure!(
            ended.status.success(),
            "{name} ended with {}{}",
            ended.status,
            words(&ended.output, &log)
        );
        Ok(ended)
    }

    /// Asks it to stop (SIGTERM), and waits until it has, with exit code 0.
    pub(crate) fn terminate(mut self, limit: Duration) -> Result<Ended> {
        self.look();
        self.ask_to_stop()?;
        self.succeed(limit)
    }

    /// Asks it to stop (SIGTERM), and waits until it has, whatever its exit code.
    pub(crate) fn stop(self, limit: Duration) -> Result<Ended> {
        self.ask_to_stop()?;
        self.wait(limit)
    }

    /// Ends it at once (SIGKILL), and waits until it is gone.
    pub(crate) fn kill(mut self) -> Result<()> {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let waited = self.child.wait();
        waited.with_context(|| format!("waiting for {}", self.name))?;
        Ok(())
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("looking at a process")
    }

    /// What it takes now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let process = Path::new("/proc").join(self.child.id().to_string());
        let read = |name: &str| {
            std::fs::read_to_string(process.join(name))
                .with_context(|| format!("{} has ended", self.name))
        };
        let (status, stat) = (read("status")?, read("stat")?);
        let files = std::fs::read_dir(process.join("fd"))
            .with_context(|| format!("{} has ended", self.name))?;
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / per_second);
        let [user, system] = cpu_ticks(&stat)
            .with_context(|| format!("the times of {} cannot be read", self.name))?;
        Ok(Usage {
            memory: kibibytes(&status, "VmRSS:").unwrap_or(0),
            files: files.count() as u64,
            user: time(user),
            cpu: time(user + system),
        })
    }

    fn ask_to_stop(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process has an id above 0")?;
        kill_process(pid, Signal::TERM).with_context(|| format!("stopping {}", self.name))
    }

    /// Highest resident memory so far, bytes.
    pub(crate) fn peak_memory(&mut self) -> u64 {
        self.look();
        self.peak_memory
    }

    /// Where its log is.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// What it wrote to its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn look(&mut self) {
        // There is nothing to be read once the process has ended.
        let path = format!("/proc/{}/status", self.child.id());
        let Ok(status) = std::fs::read_to_string(path) else {
            return;
        };
        if let Some(peak) = peak_of(&status) {
            self.peak_memory = self.peak_memory.max(peak);
        }
    }

    fn failed(&mut self, what: &str) -> anyhow::Error {
        self.output.extend(self.lines.try_iter());
        anyhow!("{} {what}{}", self.name, words(&self.output, &self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `VmHWM` of `/proc/PID/status`, bytes.
fn peak_of(status: &str) -> Option<u64> {
    kibibytes(status, "VmHWM:")
}

/// A size in `/proc/PID/status`, which is in units of 1024 bytes (proc_pid_status(5)).
fn kibibytes(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

/// `utime` and `stime` of `/proc/PID/stat`, fields 14 and 15, clock ticks (proc_pid_stat(5)). The
/// name, field 2, is in parentheses and may hold anything.
fn cpu_ticks(stat: &str) -> Option<[u64; 2]> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some([user, system])
}

/// The last lines of output and log, for an error.
fn words(output: &[String], log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = output.iter().map(String::as_str).chain(text.lines());
    let mut last = VecDeque::with_capacity(KEPT_LINES);
    for line in lines {
        if last.len() == KEPT_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    if last.is_empty() {
        return "; it said nothing".to_owned();
    }
    last.iter()
        .fold("; its last words were:".to_owned(), |text, line| {
            text + "\n  | " + line
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (Process, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        let process = Process::start("shell", command.args(["-c", script]), folder.path());
        (process.unwrap(), folder)
    }

    #[test]
    fn reads_processor_time_whatever_the_name_is() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14";
        assert_eq!(cpu_ticks(stat), Some([30, 12]));
        assert_eq!(cpu_ticks("7 (a"), None);
    }

    #[test]
    fn reads_the_peak_in_bytes() {
        let status = "Name:\tx\nVmPeak:\t  9000 kB\nVmHWM:\t  1234 kB\nVmRSS:\t  10 kB\n";
        assert_eq!(peak_of(status), Some(1_234 * 1_024));
        assert_eq!(peak_of("Name:\tzombie\nState:\tZ\n"), None);
    }

    #[test]
    fn waits_for_the_ready_line_and_stops_with_code_0() {
        let (mut process, _folder) = shell(
            "sleep 600 >&- 2>&- & trap \"kill $!; echo bye; exit 0\" TERM
             echo hello; echo 'ready: 1 2'; wait",
        );
        assert_eq!(process.ready().unwrap(), "1 2");
        assert!(process.peak_memory() > 0);
        let ended = process.terminate(Duration::from_secs(10)).unwrap();
        assert_eq!(ended.output, ["hello", "ready: 1 2", "bye"]);
    }

    #[test]
    fn a_process_that_ends_early_is_told_with_its_last_words() {
        let (mut process, _folder) = shell("echo out; echo trouble >&2; exit 3");
        let error = process.ready().unwrap_err().to_string();
        assert!(error.contains("ended before it was ready"), "{error}");
        assert!(error.contains("| out"), "{error}");
    }

    #[test]
    fn another_exit_code_than_0_is_a_failure() {
        let (process, _folder) = shell("echo trouble >&2; exit 3");
        let error = process
            .succeed(Duration::from_secs(10))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("| trouble"), "{error}");
    }
}
