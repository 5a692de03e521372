//! Bodies of requests.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use shared::chunk::slices;
use shared::image::ImageId;
use tokio::sync::mpsc;

use crate::limiter::Limiter;
use crate::link::Identity;
use crate::payload::Reader;

/// Under a cap a piece is what may go in this part of a second, so that the receiver, which gives up
/// a request that stands still, sees it move.
const PIECES_PER_SECOND: u64 = 4;
const LEAST_PIECE: u64 = 256;

/// Slices handed to the connection so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Why the bytes of an image ended before their time.
pub(super) type Problem = Arc<Mutex<Option<std::io::Error>>>;

/// A part of an image that is to be sent.
pub(super) struct Part {
    pub(super) id: ImageId,
    pub(super) reader: Reader,
    /// First byte, and the one behind the last.
    pub(super) from: u64,
    pub(super) to: u64,
    /// Bytes of a slice.
    pub(super) slice: u32,
}

/// An image, or part of one, as a request's body, in slices.
pub(super) enum ImageBody {
    /// In one piece; no image.
    Whole(Option<Bytes>),
    /// In memory: sliced here.
    Memory {
        bytes: Bytes,
        slice: usize,
        meter: Meter,
    },
    /// Read ahead, and held back, by a task.
    Fed {
        slices: mpsc::Receiver<Bytes>,
        left: u64,
        meter: Meter,
    },
}

/// Counts what is handed to the connection.
pub(super) struct Meter {
    identity: Identity,
    id: ImageId,
    next: u64,
    moved: Progress,
}

impl Meter {
    fn count(&mut self, piece: Option<&Bytes>) {
        self.moved.0.fetch_add(1, Relaxed);
        let len = piece.map_or(0, |piece| piece.len() as u64);
        let again = self.identity.unfinished.sent(self.id, self.next, len);
        self.identity.wire.add_image_bytes(len, again);
        self.next += len;
    }
}

impl ImageBody {
    pub(super) fn empty() -> Self {
        Self::Whole(None)
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }

    /// The message that it is, before anything of it was sent; empty for an image.
    pub(super) fn message(&self) -> &[u8] {
        match self {
            Self::Whole(Some(message)) => message,
            _ => b"",
        }
    }

    /// The body, how far it is, and why it ended early, if it does.
    pub(super) fn of(part: Part, identity: &Identity) -> (Self, Progress, Problem) {
        let (moved, problem) = (Progress::default(), Problem::default());
        let meter = Meter {
            identity: identity.clone(),
            id: part.id,
            next: part.from,
            moved: moved.clone(),
        };
        let body = match &part.reader {
            Reader::Memory(bytes) if identity.limiter.lowest_cap().is_none() => {
                let range = usize::try_from(part.from).ok().zip(part.to.try_into().ok());
                Self::Memory {
                    bytes: range.map_or_else(Bytes::new, |(from, to)| bytes.slice(from..to)),
                    slice: part.slice as usize,
                    meter,
                }
            }
            _ => {
                let (sender, slices) = mpsc::channel(2);
                let left = part.to - part.from;
                let limiter = identity.limiter.clone();
                tokio::spawn(feed(part, limiter, sender, Arc::clone(&problem)));
                Self::Fed {
                    slices,
                    left,
                    meter,
                }
            }
        };
        (body, moved, problem)
    }
}

/// Reads the part, and waits for each piece of it until it may be sent.
async fn feed(part: Part, limiter: Limiter, sender: mpsc::Sender<Bytes>, problem: Problem) {
    for (offset, len) in slices(part.to, part.from, part.slice) {
        let read = tokio::select! {
            read = part.reader.read(offset, len) => read,
            // Nobody wants it any more.
            () = sender.closed() => return,
        };
        let mut slice = match read {
            Ok(slice) => slice,
            Err(error) => {
                *problem.lock() = Some(error);
                return;
            }
        };
        while !slice.is_empty() {
            let most = limiter
                .cap()
                .map_or(u64::MAX, |cap| (cap / PIECES_PER_SECOND).max(LEAST_PIECE));
            let len = usize::try_from(most).unwrap_or(usize::MAX).min(slice.len());
            let piece = slice.split_to(len);
            tokio::select! {
                () = limiter.take(len as u64) => {}
                () = sender.closed() => return,
            }
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    }
}

impl Body for ImageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Memory {
                bytes,
                slice,
                meter,
            } => {
                let piece = (!bytes.is_empty()).then(|| bytes.split_to((*slice).min(bytes.len())));
                meter.count(piece.as_ref());
                piece
            }
            Self::Fed {
                slices,
                left,
                meter,
            } => {
                let piece = std::task::ready!(slices.poll_recv(context));
                meter.count(piece.as_ref());
                *left -= piece
                    .as_ref()
                    .map_or(0, |piece| piece.len() as u64)
                    .min(*left);
                piece
            }
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Memory { bytes, .. } => bytes.is_empty(),
            Self::Fed { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Memory { bytes, .. } => bytes.len() as u64,
            Self::Fed { left, .. } => *left,
        })
    }
}
