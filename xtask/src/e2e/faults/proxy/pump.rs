//! Bytes from one socket to the other, with what happens to them on the way.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Shared;
use super::fate::{Fate, Fault};

/// Bytes that are taken at a time.
const PIECE: usize = 64 << 10;
/// Bytes that can come again.
const REMEMBERED: usize = 512;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Close,
    Reset,
}

/// Why a direction ends.
enum Stopped {
    /// Its sender has closed it.
    Finished,
    /// Both directions are to end.
    All(End),
    /// Both directions are to carry nothing any more.
    Dead,
}

/// Carries both directions until the connection is over.
pub(super) async fn both(
    shared: &Shared,
    client: &TcpStream,
    server: &TcpStream,
    fate: Fate,
) -> End {
    let up = pump(shared, client, server, fate.up, true);
    let down = pump(shared, server, client, fate.down, false);
    tokio::pin!(up, down);
    let (mut up_open, mut down_open) = (true, true);
    while up_open || down_open {
        let stopped = tokio::select! {
            stopped = &mut up, if up_open => {
                up_open = false;
                stopped
            }
            stopped = &mut down, if down_open => {
                down_open = false;
                stopped
            }
        };
        match stopped {
            Stopped::Finished => {}
            Stopped::All(end) => return end,
            // Until the proxy breaks everything, or ends.
            Stopped::Dead => return pending().await,
        }
    }
    End::Close
}

/// Carries one direction.
async fn pump(
    shared: &Shared,
    from: &TcpStream,
    to: &TcpStream,
    faults: Vec<(u64, Fault)>,
    is_up: bool,
) -> Stopped {
    let mut direction = Direction {
        shared,
        to,
        is_up,
        last: VecDeque::with_capacity(REMEMBERED),
        dribble: 0,
    };
    let mut faults = VecDeque::from(faults);
    let mut buffer = vec![0; PIECE];
    let mut position = 0_u64;
    loop {
        let read = match read(from, &mut buffer).await {
            Ok(0) => {
                // The other direction may go on. A socket that is gone already is closed as well.
                let _ = socket2::SockRef::from(to).shutdown(std::net::Shutdown::Write);
                return Stopped::Finished;
            }
            Ok(read) => read,
            Err(_) => return Stopped::All(End::Reset),
        };
        let carried = direction.carry(&mut buffer[..read], position, &mut faults);
        if let Err(stopped) = carried.await {
            return stopped;
        }
        position += read as u64;
    }
}

async fn read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

struct Direction<'a> {
    shared: &'a Shared,
    to: &'a TcpStream,
    is_up: bool,
    /// What was sent last.
    last: VecDeque<u8>,
    /// Bytes that are still to come one by one.
    dribble: usize,
}

impl Direction<'_> {
    /// Sends `piece`, which begins at `position`, and lets happen what lies in it.
    async fn carry(
        &mut self,
        piece: &mut [u8],
        position: u64,
        faults: &mut VecDeque<(u64, Fault)>,
    ) -> Result<(), Stopped> {
        let mut sent = 0;
        while let Some((at, fault)) = faults.front().copied() {
            // What lies behind, after bytes that passed a healed link, happens now.
            let at = usize::try_from(at.saturating_sub(position)).unwrap_or(usize::MAX);
            let at = at.max(sent);
            if at >= piece.len() {
                break;
            }
            faults.pop_front();
            if !self.shared.is_faulty() {
                continue;
            }
            self.send(&piece[sent..at]).await?;
            sent = at;
            self.shared.count(fault.kind());
            match fault {
                Fault::Close => return Err(Stopped::All(End::Close)),
                Fault::Reset => return Err(Stopped::All(End::Reset)),
                Fault::Dead => return Err(Stopped::Dead),
                Fault::HalfOpen => return pending().await,
                Fault::Flip(bit) => piece[at] ^= 1 << bit,
                Fault::Truncate => {
                    // What was read beyond is never sent, and the end looks like an orderly one.
                    self.send(&piece[at..at + (piece.len() - at) / 2]).await?;
                    return Err(Stopped::All(End::Close));
                }
                Fault::Repeat(count) => {
                    let from = self.last.len().saturating_sub(count);
                    let again: Vec<u8> = self.last.range(from..).copied().collect();
                    self.send(&again).await?;
                }
                Fault::Stall(time) => sleep(time).await,
                Fault::Dribble(count) => self.dribble = count,
            }
        }
        self.send(&piece[sent..]).await
    }

    async fn send(&mut self, data: &[u8]) -> Result<(), Stopped> {
        let slow = data.len().min(self.dribble);
        self.dribble -= slow;
        let (single, rest) = data.split_at(slow);
        for byte in single.chunks(1).chain([rest]) {
            if self.write(byte).await.is_err() {
                return Err(Stopped::All(End::Reset));
            }
        }
        let forgotten = (self.last.len() + data.len()).saturating_sub(REMEMBERED);
        self.last.drain(..forgotten.min(self.last.len()));
        let kept = data.len().saturating_sub(REMEMBERED);
        self.last.extend(&data[kept..]);
        Ok(())
    }

    async fn write(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            self.to.writable().await?;
            match self.to.try_write(data) {
                Ok(written) => {
                    data = &data[written..];
                    if self.is_up {
                        self.shared.up.fetch_add(written as u64, Ordering::Relaxed);
                        self.pace(written).await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits as long as `bytes` take at the rate of the link.
    async fn pace(&self, bytes: usize) {
        let rate = self.shared.rate.load(Ordering::Relaxed);
        if rate > 0 {
            sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
        }
    }
}
