//! A connection's bytes: plain or encrypted, dialled or accepted.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use shared::security::tls::turned_down;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Why the receiver does not let this side in, once that is known: libraries may hand on less of it
/// than it said.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusal(Arc<OnceLock<String>>);

impl Refusal {
    /// The first reason counts.
    pub(super) fn set(&self, words: String) {
        // Whatever comes later follows from it.
        let _ = self.0.set(words);
    }

    pub(super) fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection's bytes.
pub(super) struct Stream {
    inner: Box<dyn Duplex>,
    refusal: Refusal,
    /// An encrypted one from which nothing was read yet: what comes first may be a refusal.
    unheard: bool,
    /// What was read in looking for that, and was none.
    held: Bytes,
}

/// Bytes that are read in looking for a refusal.
const LOOK: usize = 1 << 10;

impl Stream {
    /// A connection without encryption.
    pub(super) fn plain(inner: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            inner: Box::new(inner),
            refusal: Refusal::default(),
            unheard: false,
            held: Bytes::new(),
        }
    }

    /// One whose handshake is done.
    pub(super) fn encrypted(inner: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            unheard: true,
            ..Self::plain(inner)
        }
    }

    /// With this as the place where it is noted that the other side turned this one down.
    pub(super) fn noting(self, refusal: Refusal) -> Self {
        Self { refusal, ..self }
    }

    /// Where it is noted that the other side turned this one down.
    pub(super) fn refusal(&self) -> Refusal {
        self.refusal.clone()
    }

    fn in_words(&self, error: io::Error) -> io::Error {
        let Some(words) = turned_down(&error) else {
            return error;
        };
        self.refusal.set(words.clone());
        io::Error::new(error.kind(), words)
    }

    /// Who turns this side down says why and hangs up, and the first that is seen of it may be that
    /// nothing can be written any more.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let error = match written {
            Poll::Ready(Err(error)) if self.unheard => error,
            other => return other,
        };
        let mut buffer = [0; LOOK];
        let mut buffer = ReadBuf::new(&mut buffer);
        match Pin::new(&mut *self.inner).poll_read(context, &mut buffer) {
            Poll::Ready(Err(reason)) if turned_down(&reason).is_some() => {
                Poll::Ready(Err(self.in_words(reason)))
            }
            Poll::Ready(Ok(())) => {
                self.unheard = false;
                self.held = Bytes::copy_from_slice(buffer.filled());
                Poll::Ready(Err(error))
            }
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            let len = self.held.len().min(buffer.remaining());
            buffer.put_slice(&self.held[..len]);
            self.held.advance(len);
            return Poll::Ready(Ok(()));
        }
        match ready!(Pin::new(&mut *self.inner).poll_read(context, buffer)) {
            Ok(()) => {
                self.unheard = false;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.in_words(error))),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.inner).poll_write(context, data);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.inner).poll_write_vectored(context, data);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut *self.inner).poll_flush(context);
        self.written(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(context)
    }
}
