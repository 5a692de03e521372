//! A socket whose writing half can be taken away from the one who reads.
//!
//! tungstenite owns the stream during the handshake. After it, data frames are written by us, and
//! what tungstenite wants to write (pongs, the answer to a close frame; each handed over in one
//! piece) is diverted to the same writer, so that frames never mix.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::link::stream::Stream;

/// Writes to the socket.
pub(super) type SocketWriter = WriteHalf<Stream>;

/// The socket as tungstenite sees it.
pub(super) struct Halves {
    read: ReadHalf<Stream>,
    write: Writing,
}

enum Writing {
    Direct(SocketWriter),
    Diverted(mpsc::Sender<Vec<u8>>),
}

impl Halves {
    pub(super) fn new(read: ReadHalf<Stream>, write: SocketWriter) -> Self {
        Self {
            read,
            write: Writing::Direct(write),
        }
    }

    /// From now on what is written goes to `control`; the writing half is handed out, once.
    pub(super) fn divert(&mut self, control: mpsc::Sender<Vec<u8>>) -> Option<SocketWriter> {
        match std::mem::replace(&mut self.write, Writing::Diverted(control)) {
            Writing::Direct(writer) => Some(writer),
            Writing::Diverted(_) => None,
        }
    }
}

impl AsyncRead for Halves {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, buffer)
    }
}

impl AsyncWrite for Halves {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.write {
            Writing::Direct(writer) => Pin::new(writer).poll_write(context, data),
            Writing::Diverted(control) => match control.try_send(data.to_vec()) {
                // Pongs to one who pings without reading need not go out, and must not pile up.
                Ok(()) | Err(TrySendError::Full(_)) => Poll::Ready(Ok(data.len())),
                Err(TrySendError::Closed(_)) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.write {
            Writing::Direct(writer) => Pin::new(writer).poll_flush(context),
            Writing::Diverted(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.write {
            Writing::Direct(writer) => Pin::new(writer).poll_shutdown(context),
            Writing::Diverted(_) => Poll::Ready(Ok(())),
        }
    }
}
