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
pub(super) struct Refusal(Arc<Noted>);

#[derive(Debug, Default)]
struct Noted {
    words: OnceLock<String>,
    /// What may be the reason, of one who went away without a word.
    guess: OnceLock<&'static str>,
}

impl Refusal {
    /// The first reason counts.
    pub(super) fn set(&self, words: String) {
        // Whatever comes later follows from it.
        let _ = self.0.words.set(words);
    }

    pub(super) fn get(&self) -> Option<&str> {
        self.0.words.get().map(String::as_str)
    }

    /// The problem, with what may be the reason for it, if there is a guess.
    pub(super) fn explain(&self, problem: String) -> String {
        match self.0.guess.get() {
            Some(guess) => format!("{problem}; {guess}"),
            None => problem,
        }
    }
}

/// What to think of a receiver that was dialled and goes away without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// It speaks TLS, and was not spoken to so.
    Encrypted,
    /// It asks for a certificate, and none was shown. Its alert comes after this side's handshake is
    /// done, and is gone where it hangs up on what was sent meanwhile.
    Certificate,
}

impl Suspicion {
    fn words(self) -> &'static str {
        match self {
            Self::Encrypted => {
                "it went away without a word; is this a TLS port? use https://, wss:// for WebSocket"
            }
            Self::Certificate => {
                "it went away right after the TLS handshake; it may ask for a client certificate: show \
                 one with --tls-cert and --tls-key"
            }
        }
    }
}

/// What a TLS port answers to something else: an alert (RFC 8446, sections 5.1 and 6).
const ALERT: [u8; 2] = [0x15, 0x03];

const TLS_PORT: &str = "this is a TLS port; use https://, wss:// for WebSocket";

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection's bytes.
pub(super) struct Stream {
    inner: Box<dyn Duplex>,
    refusal: Refusal,
    /// Nothing was read yet: what comes first may be a refusal.
    unheard: bool,
    suspicion: Option<Suspicion>,
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
            suspicion: None,
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

    /// With this to be thought of the receiver if it goes away without a word.
    pub(super) fn suspecting(self, suspicion: Option<Suspicion>) -> Self {
        Self {
            unheard: true,
            suspicion,
            ..self
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

    /// The receiver went away.
    fn suspect(&self) {
        if let (true, Some(suspicion)) = (self.unheard, self.suspicion) {
            // What is suspected of a stream stays the same.
            let _ = self.refusal.0.guess.set(suspicion.words());
        }
    }

    /// That the first bytes are of a TLS port, if they are.
    fn is_alert(&self, first: &[u8]) -> Option<io::Error> {
        let suspects = self.unheard && self.suspicion == Some(Suspicion::Encrypted);
        (suspects && first.starts_with(&ALERT)).then(|| {
            self.refusal.set(TLS_PORT.to_owned());
            io::Error::new(io::ErrorKind::InvalidData, TLS_PORT)
        })
    }

    fn in_words(&self, error: io::Error) -> io::Error {
        let Some(words) = turned_down(&error) else {
            self.suspect();
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
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                if let Some(alert) = self.is_alert(buffer.filled()) {
                    return Poll::Ready(Err(alert));
                }
                self.unheard = false;
                self.held = Bytes::copy_from_slice(buffer.filled());
                Poll::Ready(Err(error))
            }
            Poll::Ready(_) | Poll::Pending => {
                self.suspect();
                Poll::Ready(Err(error))
            }
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
        let before = buffer.filled().len();
        match ready!(Pin::new(&mut *self.inner).poll_read(context, buffer)) {
            Ok(()) => {
                let came = &buffer.filled()[before..];
                if came.is_empty() {
                    self.suspect();
                } else if let Some(alert) = self.is_alert(came) {
                    buffer.set_filled(before);
                    return Poll::Ready(Err(alert));
                }
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
