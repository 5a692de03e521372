//! `--receipts FILE`: a line of JSON for each image that the receiver has answered for.
//!
//! A line is with the operating system before the outbox forgets the image. While the file cannot
//! be written, images stay owed. Only what a SIGKILL or a power loss cuts short is ever half a
//! line, and the next start ends it, so that every line after it stands alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;
use shared::clock::UnixNanos;
use shared::image::{ImageId, OutboxId, Transport};
use shared::receipt::{ReceiptStatus, Reject};

use crate::delivery::{Settled, Settlement};
use crate::workers::RECEIPTS;

#[cfg(test)]
mod tests;

/// The file that receipts are written to.
pub struct ReceiptLog {
    path: PathBuf,
    outbox: OutboxId,
    /// One writer at a time, the others wait without a thread.
    turn: Arc<tokio::sync::Mutex<()>>,
    writer: Arc<Mutex<Writer<File>>>,
    problem: Mutex<Option<String>>,
}

impl ReceiptLog {
    /// Opens the file at `path`, or makes it, and ends a line that was cut short. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path, outbox: OutboxId) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        if file.metadata()?.is_file() && ends_within_a_line(&mut file)? {
            file.write_all(b"\n")?;
        }
        Ok(Self {
            path: path.to_owned(),
            outbox,
            turn: Arc::default(),
            writer: Arc::new(Mutex::new(Writer::new(file))),
            problem: Mutex::default(),
        })
    }

    /// Writes the line of a settled image; one that is lost has none. Dropping the future leaves
    /// the line written, or not, but never cut short.
    ///
    /// # Errors
    /// When it cannot be written now. It may be tried again.
    pub async fn write(&self, settled: &Settled, transport: Transport) -> io::Result<()> {
        let Some(line) = self.line(settled, transport) else {
            return Ok(());
        };
        let id = settled.image.meta.id;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let writer = Arc::clone(&self.writer);
        let written = RECEIPTS
            .work(move || {
                let written = writer.lock().write(id, line.as_bytes());
                drop(turn);
                written
            })
            .await;
        self.note(written.as_ref().err());
        written
    }

    /// What keeps lines from being written.
    ///
    /// # Errors
    /// The problem, if the last attempt met one.
    pub fn health(&self) -> Result<(), String> {
        self.problem.lock().clone().map_or(Ok(()), Err)
    }

    /// Says so when it fails and when it works again, once each.
    fn note(&self, error: Option<&io::Error>) {
        let mut problem = self.problem.lock();
        let path = self.path.display();
        match (error, problem.is_some()) {
            (Some(error), known) => {
                let text = format!("receipts cannot be written to {path}: {error}");
                if !known {
                    tracing::warn!("{text}; answered images stay owed until they can be");
                }
                *problem = Some(text);
            }
            (None, true) => {
                *problem = None;
                tracing::info!("receipts are written to {path} again");
            }
            (None, false) => {}
        }
    }

    fn line(&self, settled: &Settled, transport: Transport) -> Option<String> {
        let meta = &settled.image.meta;
        let receipt = match &settled.settlement {
            Settlement::Receipt(receipt) => Some(receipt),
            Settlement::Quarantined(Reject { .. }) => None,
            Settlement::Lost(..) => return None,
        };
        // The receiver's word, whatever it means for this run: whoever compares both sides wants
        // to see what was promised.
        let status = match receipt.map(|receipt| receipt.status) {
            Some(ReceiptStatus::Stored) => "stored",
            Some(ReceiptStatus::Duplicate) => "duplicate",
            None => "quarantined",
        };
        let digest = receipt.map_or(meta.digest, |receipt| Some(receipt.digest));
        let object = json!({
            "at": UnixNanos::now().to_string(),
            "image_id": meta.id.to_string(),
            "sequence": meta.sequence,
            "outbox": self.outbox.to_string(),
            "run": meta.run,
            "transport": transport.key(),
            "digest": digest.map(|digest| digest.to_string()),
            "size": meta.size,
            "status": status,
            "durability": receipt.map(|receipt| receipt.durability.key()),
            "verified_unix_ns": receipt.map(|receipt| receipt.timeline.verified.0),
            "receiver": receipt.map(|receipt| &receipt.receiver),
        });
        Some(format!("{object}\n"))
    }
}

fn ends_within_a_line(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != [b'\n'])
}

/// Writes whole lines to what may take a part of them only.
struct Writer<W> {
    to: W,
    /// The image whose line was written in part, and what is left of the line.
    rest: Option<(ImageId, Vec<u8>)>,
}

impl<W: Write> Writer<W> {
    fn new(to: W) -> Self {
        Self { to, rest: None }
    }

    /// Writes a line; first what is left of another one.
    fn write(&mut self, id: ImageId, line: &[u8]) -> io::Result<()> {
        if let Some((begun, mut rest)) = self.rest.take() {
            let written = write_some(&mut self.to, &mut rest);
            if written.is_err() {
                self.rest = Some((begun, rest));
                return written;
            }
            if begun == id {
                return Ok(());
            }
        }
        let mut rest = line.to_vec();
        let written = write_some(&mut self.to, &mut rest);
        if written.is_err() && rest.len() < line.len() {
            self.rest = Some((id, rest));
        }
        written
    }
}

/// Writes as much as goes, and takes that from `rest`.
fn write_some(to: &mut impl Write, rest: &mut Vec<u8>) -> io::Result<()> {
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => drop(rest.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    to.flush()
}
