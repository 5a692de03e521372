//! A limit to the time that a new connection takes to say what it speaks.
//!
//! hyper's timeouts begin once it knows whether a connection is HTTP/1 or HTTP/2, and for HTTP/2
//! once the preface is there. Until then a silent client would hold its place for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose reads fail after a while, unless it has begun with the whole preface of
/// HTTP/2 or with something else.
#[derive(Debug)]
pub struct Opening<S> {
    stream: S,
    /// Bytes of the preface that have come.
    matched: usize,
    /// `None` once it is known what is spoken.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<S> Opening<S> {
    /// Gives `stream` this time.
    pub fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            matched: 0,
            limit: Some(Box::pin(tokio::time::sleep(limit))),
        }
    }

    fn look_at(&mut self, bytes: &[u8]) {
        let expected = &PREFACE[self.matched..];
        let common = bytes.len().min(expected.len());
        self.matched += common;
        if bytes[..common] != expected[..common] || self.matched == PREFACE.len() {
            self.limit = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                if self.limit.is_some() {
                    self.look_at(&buffer.filled()[before..]);
                }
                Poll::Ready(result)
            }
            Poll::Pending => match &mut self.limit {
                Some(limit) => limit
                    .as_mut()
                    .poll(context)
                    .map(|()| Err(io::ErrorKind::TimedOut.into())),
                None => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Whether a read after `beginning` and an hour of silence fails.
    async fn runs_out_after(beginning: &[&[u8]]) -> bool {
        let (near, mut far) = tokio::io::duplex(100);
        let mut opening = Opening::new(near, Duration::from_secs(30));
        for piece in beginning {
            far.write_all(piece).await.expect("room");
            let mut buffer = vec![0; piece.len()];
            opening.read_exact(&mut buffer).await.expect("it is there");
            assert_eq!(&buffer, piece);
        }
        let mut byte = [0];
        let reading = tokio::time::timeout(Duration::from_secs(3_600), opening.read(&mut byte));
        match reading.await {
            Ok(read) => {
                let error = read.expect_err("nothing was sent");
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                true
            }
            Err(_) => false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_limited_until_it_is_known_what_is_spoken() {
        assert!(runs_out_after(&[]).await);
        assert!(runs_out_after(&[b"PRI"]).await);
        assert!(runs_out_after(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r"]).await);
        assert!(!runs_out_after(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\n"]).await);
        assert!(!runs_out_after(&[PREFACE, b"and more"]).await);
        assert!(!runs_out_after(&[b"P", b"UT /v1/images"]).await);
        assert!(!runs_out_after(&[b"GET / HTTP/1.1\r\n"]).await);
    }
}
