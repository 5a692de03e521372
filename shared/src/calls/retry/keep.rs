//! A request's body, kept for the next attempt if it is not too large.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tonic::Status;
use tonic::body::Body;

/// What became of a body that was to be kept.
pub(super) enum Kept {
    /// All of it.
    Whole(Pieces),
    /// More than was to be kept. It can be sent once.
    TooLarge(Body),
}

/// The data of a body. Cloning copies no bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// A body to send.
    pub(super) fn to_body(&self) -> Body {
        Body::new(Replay {
            pieces: self.clone(),
            rest: Body::empty(),
        })
    }
}

/// Reads `body` to its end, unless it is longer than `limit` bytes.
pub(super) async fn keep(mut body: Body, limit: usize) -> Result<Kept, Status> {
    let mut pieces = Pieces::default();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        // Requests of gRPC have no trailers.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        length += data.len();
        pieces.0.push_back(data);
        if length > limit {
            return Ok(Kept::TooLarge(Body::new(Replay { pieces, rest: body })));
        }
    }
    Ok(Kept::Whole(pieces))
}

/// Pieces that were read already, and then what was not.
struct Replay {
    pieces: Pieces,
    rest: Body,
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match this.pieces.0.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(&mut this.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.0.is_empty() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    async fn read(body: Body) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_small_body_can_be_sent_again_and_again() {
        let body = Body::new(Full::new(Bytes::from_static(b"12345678")));
        let Ok(Kept::Whole(pieces)) = keep(body, 8).await else {
            panic!("not kept");
        };
        for _ in 0..3 {
            assert_eq!(read(pieces.to_body()).await, "12345678");
        }
    }

    #[tokio::test]
    async fn a_large_body_is_sent_whole_but_once() {
        let first = Full::new(Bytes::from_static(b"12345678"));
        let body = Body::new(Replay {
            pieces: Pieces(VecDeque::from([Bytes::from_static(b"abc")])),
            rest: Body::new(first),
        });
        let Ok(Kept::TooLarge(body)) = keep(body, 2).await else {
            panic!("kept");
        };
        assert_eq!(read(body).await, "abc12345678");
    }
}
