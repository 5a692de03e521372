//! Notes why the other side hangs up: TLS 1.3 tells it behind the handshake, where libraries lose it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use shared::security::tls::turned_down;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The reason, once it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Reason(Arc<OnceLock<String>>);

impl Reason {
    pub(super) fn get(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, plain or encrypted.
pub(super) struct Noting {
    inner: Box<dyn Duplex>,
    reason: Reason,
}

impl Noting {
    pub(super) fn new(inner: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            inner: Box::new(inner),
            reason: Reason::default(),
        }
    }

    pub(super) fn reason(&self) -> Reason {
        self.reason.clone()
    }
}

impl AsyncRead for Noting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        if let Some(words) = read.as_ref().err().and_then(turned_down) {
            // The first counts: whatever comes later follows from it.
            let _ = self.reason.0.set(words);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, data));
        if written.is_err() && self.reason.0.get().is_none() {
            // Who turns this side down hangs up, which may be noticed before the reason is read.
            let mut scratch = [0; 1 << 10];
            let mut buffer = ReadBuf::new(&mut scratch);
            let _ = self.as_mut().poll_read(context, &mut buffer);
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
