//! A program that writes images to its standard output: ffmpeg, libcamera-vid, GStreamer, `cat`.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shared::lifecycle::manager;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::task::AbortOnDropHandle;

use super::split::{Piece, Splitter};
use super::{Capture, CaptureError, Captured, MAX_IMAGE};

/// Bytes that are read at once; with an image that is not complete, all that is read ahead. The
/// program waits when its pipe is full, so that no image is lost to a slow link.
const READ: usize = 64 << 10;
/// Longest line of the program's messages; the rest of a longer one is left out.
const MAX_LINE: usize = 512;
/// Time for the last messages after the program ended. Its own children may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the program while it lives. Dropping it kills the program.
#[derive(Debug)]
pub(super) struct CommandSource {
    command: String,
    /// What its images are named after.
    program: String,
    child: Child,
    stdout: ChildStdout,
    buffer: Vec<u8>,
    /// Taken away at the end of the output.
    splitter: Option<Splitter>,
    images: u64,
    messages: Option<AbortOnDropHandle<()>>,
    last_message: Arc<Mutex<String>>,
    ended: bool,
}

impl CommandSource {
    pub(super) fn open(command: &str) -> Result<Self, CaptureError> {
        let failed = |problem: String| CaptureError::Command {
            command: command.into(),
            problem,
        };
        let words = shlex::split(command)
            .ok_or_else(|| failed("a quotation mark is not closed; close it".into()))?;
        let Some((program, arguments)) = words.split_first() else {
            return Err(failed("is empty; name a program that writes images".into()));
        };
        let mut command_line = Command::new(program);
        // The service manager is this program's, not the child's.
        for variable in manager::VARIABLES {
            command_line.env_remove(variable);
        }
        let mut child = command_line
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                failed(match error.kind() {
                    std::io::ErrorKind::NotFound => format!(
                        "there is no program {program:?}; install it or give its full path (no \
                         shell runs: for shell syntax use sh -c '...')"
                    ),
                    _ => format!("cannot be started: {error}"),
                })
            })?;
        let stdout = child.stdout.take().expect("stdout was asked for");
        let stderr = child.stderr.take().expect("stderr was asked for");
        let program = program.rsplit('/').next().unwrap_or(program).to_owned();
        let last_message = Arc::default();
        let messages = tokio::spawn(log_messages(
            stderr,
            program.clone(),
            Arc::clone(&last_message),
        ));
        Ok(Self {
            command: command.to_owned(),
            program,
            child,
            stdout,
            buffer: vec![0; READ],
            splitter: Some(Splitter::new(MAX_IMAGE)),
            images: 0,
            messages: Some(AbortOnDropHandle::new(messages)),
            last_message,
            ended: false,
        })
    }

    fn failed(&self, problem: String) -> CaptureError {
        CaptureError::Command {
            command: self.command.clone(),
            problem,
        }
    }

    /// The next image of the output; `None` at its end. Reading is all that is waited for, and
    /// what was read is in the splitter, so nothing is lost when the wait is given up.
    async fn next_piece(&mut self) -> Result<Option<Piece>, CaptureError> {
        loop {
            let Some(splitter) = &mut self.splitter else {
                return Ok(None);
            };
            match splitter.next_image() {
                Ok(Some(piece)) => return Ok(Some(piece)),
                Ok(None) => {}
                Err(error) => return Err(self.failed(format!("its output has {error}"))),
            }
            match self.stdout.read(&mut self.buffer).await {
                Ok(0) => self.end_of_output(),
                Ok(read) => splitter.push(&self.buffer[..read]),
                Err(error) => return Err(self.failed(format!("cannot be read: {error}"))),
            }
        }
    }

    fn end_of_output(&mut self) {
        let Some(splitter) = self.splitter.take() else {
            return;
        };
        let (skipped, incomplete) = splitter.finish();
        let (command, images) = (&self.command, self.images);
        if let Some(rest) = incomplete {
            tracing::warn!(
                command,
                images,
                media_type = rest.media_type,
                bytes = rest.bytes,
                "the command's output ended within an image; the image is left out"
            );
        }
        if skipped > 0 {
            tracing::warn!(
                command,
                images,
                skipped,
                "bytes of the command's output belong to no image"
            );
        }
    }

    /// Waits for the program after its output ended, and judges how it ended.
    async fn exit(&mut self) -> Result<(), CaptureError> {
        let status = self.child.wait().await;
        if let Some(messages) = self.messages.take() {
            // It stays silent about what is lost here: only the last line is used.
            let _ = tokio::time::timeout(LAST_WORDS, messages).await;
        }
        let status = status.map_err(|error| self.failed(format!("was lost: {error}")))?;
        if status.success() {
            tracing::debug!(
                command = self.command,
                images = self.images,
                "the command ended"
            );
            return Ok(());
        }
        let mut problem = format!("{} after {} images", describe(status), self.images);
        let last = self
            .last_message
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last.is_empty() {
            problem.push_str(" and said nothing; run it by hand to see why");
        } else {
            problem.push_str(&format!("; its last message: {last}"));
        }
        Err(self.failed(problem))
    }
}

#[async_trait]
impl Capture for CommandSource {
    async fn next(&mut self) -> Result<Option<Captured>, CaptureError> {
        if self.ended {
            return Ok(None);
        }
        let piece = match self.next_piece().await {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                let outcome = self.exit().await;
                self.ended = true;
                return outcome.map(|()| None);
            }
            Err(error) => {
                self.ended = true;
                // What it would write further cannot be used.
                let _ = self.child.start_kill();
                return Err(error);
            }
        };
        self.images += 1;
        let ending = piece.media_type.strip_prefix("image/").unwrap_or_default();
        let name = format!(
            "{}-{:06}.{}",
            self.program,
            self.images,
            ending.replace("jpeg", "jpg")
        );
        Ok(Some(Captured::from_memory(
            piece.bytes,
            name,
            piece.media_type,
        )))
    }

    /// Whether the program ends by itself is not known.
    fn is_finite(&self) -> bool {
        false
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// Puts what the program says into the log, line by line, and keeps the last line. Progress
/// displays end their lines with a carriage return.
async fn log_messages(
    mut stderr: impl AsyncRead + Unpin,
    program: String,
    last: Arc<Mutex<String>>,
) {
    let mut buffer = [0; 1024];
    let mut line = Vec::new();
    loop {
        // An error ends the messages, not the images.
        let read = stderr.read(&mut buffer).await.unwrap_or(0);
        let ended = read == 0;
        let bytes = if ended { &b"\n"[..] } else { &buffer[..read] };
        for byte in bytes {
            if !matches!(byte, b'\n' | b'\r') {
                if line.len() < MAX_LINE {
                    line.push(*byte);
                }
                continue;
            }
            // Control characters of the program must not reach the terminal of the log.
            let text: String = String::from_utf8_lossy(&line)
                .chars()
                .filter(|c| !c.is_control())
                .collect();
            line.clear();
            if !text.trim().is_empty() {
                tracing::info!(program, "{text}");
                *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
            }
        }
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
