//! What a process says and uses: log output, CPU time, memory, bytes on sockets.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod log;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod process;
pub mod spans;

pub use log::{Log, LogFormat, chain, log_to, say};

/// CPU time and memory of this process so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu: Duration,
    /// Highest resident memory, bytes.
    pub peak_memory: u64,
    /// Resident memory now, bytes.
    pub memory: u64,
}

impl Usage {
    /// Reads them from the kernel; a figure that it does not give is zero.
    pub fn now() -> Self {
        let cpu = rustix::time_of_process();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            cpu,
            peak_memory: kib(&status, "VmHWM:"),
            memory: kib(&status, "VmRSS:"),
        }
    }
}

fn kib(status: &str, key: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

mod rustix {
    use std::time::Duration;

    /// CPU time of all threads of this process.
    pub(super) fn time_of_process() -> Duration {
        let time = ::rustix::time::clock_gettime(::rustix::time::ClockId::ProcessCPUTime);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        )
    }
}

/// Counts of bytes that went through sockets, and of those of images among them.
#[derive(Debug, Clone, Default)]
pub struct WireCount {
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    image_bytes_sent: Arc<AtomicU64>,
    image_bytes_resent: Arc<AtomicU64>,
}

impl WireCount {
    /// Bytes written so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes read so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts bytes of an image that were handed to the transport, `again` of which had been sent
    /// before.
    pub fn add_image_bytes(&self, bytes: u64, again: u64) {
        self.image_bytes_sent.fetch_add(bytes, Ordering::Relaxed);
        self.image_bytes_resent.fetch_add(again, Ordering::Relaxed);
    }

    /// Bytes of images, without framing, those sent more than once included.
    pub fn image_bytes_sent(&self) -> u64 {
        self.image_bytes_sent.load(Ordering::Relaxed)
    }

    /// How many of them had been sent before.
    pub fn image_bytes_resent(&self) -> u64 {
        self.image_bytes_resent.load(Ordering::Relaxed)
    }
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    count: WireCount,
}

impl<S> Counted<S> {
    /// Counts the bytes of `stream` in `count`.
    pub fn new(stream: S, count: WireCount) -> Self {
        Self { stream, count }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.count
            .received
            .fetch_add(read as u64, Ordering::Relaxed);
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, data);
        if let Poll::Ready(Ok(written)) = &poll {
            self.count
                .sent
                .fetch_add(*written as u64, Ordering::Relaxed);
        }
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        if let Poll::Ready(Ok(written)) = &poll {
            self.count
                .sent
                .fetch_add(*written as u64, Ordering::Relaxed);
        }
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
