//! Bodies of requests on their way into an upload, or to nowhere.

use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use shared::chunk::Gathering;
use shared::receipt::Reject;

use crate::budget::{Holder, REVOKED, Revoked};
use crate::intake::Upload;

/// Bytes of a refused request that are read and thrown away, so that the connection can go on with
/// the next one; beyond, it is closed.
const MAX_DRAINED: u64 = 64 << 20;

/// Silence, and time in all, after which a refused request is not read on.
const DRAIN_IDLE: Duration = Duration::from_secs(5);
const DRAIN_TIME: Duration = Duration::from_secs(60);

/// Pieces of a body that go to the intake together at least, unless the body ends.
const PORTION: usize = 128 << 10;

/// What a portion takes in memory: it ends with the piece that makes it large enough.
const PORTION_LEASE: u64 = 2 * PORTION as u64;

/// Why a body did not come to its end.
pub(super) enum Stopped {
    /// The upload does not take it.
    Rejected(Reject),
    /// Nothing came for this long.
    Silent(Duration),
    /// The connection broke.
    Broken(String),
    /// The caller's wish.
    Interrupted,
}

/// Moves the body into the upload, in portions, so that small pieces cost little each, and shows
/// every piece to `each`. What has come is in the upload, whatever stops it.
pub(super) async fn stream(
    upload: &mut Upload,
    body: &mut Body,
    idle: Duration,
    interrupt: impl Future<Output = ()>,
    mut each: impl FnMut(&[u8]),
) -> Result<(), Stopped> {
    tokio::pin!(interrupt);
    let memory = upload.budget().holder();
    let said = upload.said();
    // Small pieces are joined: each would take more than it is leased for.
    let mut portion = Gathering::default();
    let mut leased = 0;
    loop {
        let next = tokio::select! {
            biased;
            () = &mut interrupt => Err(Stopped::Interrupted),
            next = leased_piece(&memory, said, &mut leased, body, idle) => next,
        };
        let ended = !matches!(next, Ok(Some(_)));
        if let Ok(Some(piece)) = &next {
            each(piece);
            portion.push(piece.clone());
        }
        if portion.len() >= PORTION || (ended && !portion.is_empty()) {
            let offset = upload.received();
            memory.serve();
            let whole = std::mem::take(portion.settled());
            let pushed = upload.push(offset, None, whole).await;
            pushed.map_err(Stopped::Rejected)?;
            memory.progressed();
            if !memory.keep(said + PORTION_LEASE + upload.buffered()) {
                upload.write_out().await.map_err(Stopped::Rejected)?;
                // It was leased before, so there is no other answer.
                let _ = memory.keep(said);
                leased = said;
            }
        }
        if ended {
            upload.hold(memory.part(said + upload.buffered()));
            return next.map(drop);
        }
    }
}

/// The next piece, and the memory for a portion and for what is said of the image. A piece that is
/// given up while it waits for that never came, as far as its sender is told.
async fn leased_piece(
    memory: &Holder,
    said: u64,
    leased: &mut u64,
    body: &mut Body,
    idle: Duration,
) -> Result<Option<Bytes>, Stopped> {
    let revoked = |revoked: Revoked| Stopped::Broken(revoked.to_string());
    if *leased < said {
        memory.lease(said).await.map_err(revoked)?;
        *leased = said;
    }
    let piece = tokio::select! {
        piece = next_piece(body, idle) => piece?,
        () = memory.revoked() => return Err(Stopped::Broken(REVOKED.to_owned())),
    };
    if piece.is_some() && *leased < said + PORTION_LEASE {
        memory.lease(PORTION_LEASE).await.map_err(revoked)?;
        *leased = said + PORTION_LEASE;
    }
    Ok(piece)
}

async fn next_piece(body: &mut Body, idle: Duration) -> Result<Option<Bytes>, Stopped> {
    loop {
        match tokio::time::timeout(idle, body.frame()).await {
            Err(_) => return Err(Stopped::Silent(idle)),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Stopped::Broken(error.to_string())),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Reads a body that is not wanted, up to `limit` bytes; whether it came to its end.
pub(in crate::endpoint) async fn discard(body: &mut Body, limit: u64) -> bool {
    let reading = async {
        let mut read = 0;
        loop {
            match next_piece(body, DRAIN_IDLE).await {
                Ok(None) => return true,
                Ok(Some(piece)) => read += piece.len() as u64,
                Err(_) => return false,
            }
            if read > limit {
                return false;
            }
        }
    };
    tokio::time::timeout(DRAIN_TIME, reading)
        .await
        .unwrap_or(false)
}

/// Sees to the rest of a refused request: reads a body that is being sent anyway, lest its sender
/// finds the connection reset before it reads the answer, or closes the connection after it.
pub(super) async fn refuse(body: &mut Body, response: &mut Response) {
    if !discard(body, MAX_DRAINED).await {
        close(response);
    }
}

/// Closes the connection after `response`.
pub(in crate::endpoint) fn close(response: &mut Response) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}
