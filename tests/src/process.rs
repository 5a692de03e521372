//! The daemons as processes.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::within;

/// What a process left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output since it was last read.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Its exit code.
    ///
    /// # Panics
    /// When a signal ended it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }
}

/// A daemon; it is killed with the test.
pub struct Process {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    /// Lines of standard error, read all the time so that the daemon never waits.
    stderr: mpsc::UnboundedReceiver<String>,
    log: String,
}

/// A daemon's command line, in a folder and with an environment that hold nothing of the machine's.
fn command(program: &str, folder: &Path, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Process {
    /// Starts `program` in `folder`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(program: &str, folder: &Path, args: &[impl AsRef<OsStr>]) -> Self {
        Self::spawn(command(program, folder, args), true)
    }

    /// The same with variables in its environment.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with(
        program: &str,
        folder: &Path,
        args: &[impl AsRef<OsStr>],
        variables: &[(&str, &OsStr)],
    ) -> Self {
        let mut command = command(program, folder, args);
        command.envs(variables.iter().copied());
        Self::spawn(command, true)
    }

    /// Starts `program` in `folder`; nobody reads its log, whose pipe is broken.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_unheard(program: &str, folder: &Path, args: &[impl AsRef<OsStr>]) -> Self {
        Self::spawn(command(program, folder, args), false)
    }

    fn spawn(mut command: Command, is_heard: bool) -> Self {
        let mut child = command.spawn().expect("the program was built");
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let (lines, log) = mpsc::unbounded_channel();
        if is_heard {
            tokio::spawn(async move {
                let mut stderr = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = stderr.next_line().await {
                    let _ = lines.send(line);
                }
            });
        }
        let stdout = BufReader::new(stdout).lines();
        Self {
            child,
            stdout,
            stderr: log,
            log: String::new(),
        }
    }

    /// The next line of its standard output.
    ///
    /// # Panics
    /// When it ends before.
    pub async fn line(&mut self) -> String {
        let line = within("a line of output", self.stdout.next_line()).await;
        let Ok(Some(line)) = line else {
            self.take_log().await;
            panic!("no line but {line:?}; its log: {}", self.log);
        };
        line
    }

    /// Waits until it has logged a line with `words`.
    ///
    /// # Panics
    /// When it ends before.
    pub async fn logged(&mut self, words: &str) {
        loop {
            match within(words, self.stderr.recv()).await {
                Some(line) if line.contains(words) => return,
                Some(line) => self.keep(&line),
                None => panic!("{words:?} was not logged, but: {}", self.log),
            }
        }
    }

    fn keep(&mut self, line: &str) {
        self.log.push_str(line);
        self.log.push('\n');
    }

    /// Reads its log to the end.
    async fn take_log(&mut self) {
        while let Some(line) = within("the end of its log", self.stderr.recv()).await {
            self.keep(&line);
        }
    }

    /// Its number.
    ///
    /// # Panics
    /// When it has ended.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it has not ended")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        let id = id.expect("the numbers of processes are positive");
        kill_process(id, signal).expect("it is this user's");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn end(mut self) -> Finished {
        let mut stdout = String::new();
        while let Ok(Some(line)) = within("its output", self.stdout.next_line()).await {
            stdout.push_str(&line);
            stdout.push('\n');
        }
        let status = within("its end", self.child.wait())
            .await
            .expect("a child can be waited for");
        self.take_log().await;
        Finished {
            status,
            stdout,
            stderr: self.log,
        }
    }
}

/// Runs `program` in `folder` to its end.
pub async fn run(program: &str, folder: &Path, args: &[impl AsRef<OsStr>]) -> Finished {
    Process::start(program, folder, args).end().await
}

/// The two addresses in the line by which a receiver says that it is ready: gRPC, then HTTP.
///
/// # Panics
/// When it is another line.
pub fn addresses(ready: &str) -> (std::net::SocketAddr, std::net::SocketAddr) {
    let address = |label: &str| {
        let rest = ready.split_once(label).map(|(_, rest)| rest);
        let text = rest.and_then(|rest| rest.split(',').next());
        text.and_then(|text| text.trim().parse().ok())
            .unwrap_or_else(|| panic!("no address of {label} in {ready:?}"))
    };
    (address("gRPC "), address("HTTP "))
}
