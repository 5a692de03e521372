//! Bodies of requests on their way into an upload, or to nowhere.

use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use shared::chunk::Segments;
use shared::receipt::Reject;

use crate::budget::{Holder, REVOKED};
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
    let mut portion = Segments::new();
    loop {
        let next = tokio::select! {
            biased;
            () = &mut interrupt => Err(Stopped::Interrupted),
            next = leased_piece(&memory, body, idle) => next,
        };
        let ended = !matches!(next, Ok(Some(_)));
        if let Ok(Some(piece)) = &next {
            each(piece);
            portion.push(piece.clone());
        }
        if portion.len() >= PORTION || (ended && !portion.is_empty()) {
            let offset = upload.received();
            memory.serve();
            let pushed = upload
                .push(offset, None, std::mem::take(&mut portion))
                .await;
            pushed.map_err(Stopped::Rejected)?;
            if !memory.keep(PORTION_LEASE + upload.buffered()) {
                upload.write_out().await.map_err(Stopped::Rejected)?;
                memory.clear();
            }
        }
        if ended {
            upload.hold(memory.part(upload.buffered()));
            return next.map(drop);
        }
    }
}

/// The next piece, and the memory for a portion. A piece that is given up while it waits for that
/// never came, as far as its sender is told.
async fn leased_piece(
    memory: &Holder,
    body: &mut Body,
    idle: Duration,
) -> Result<Option<Bytes>, Stopped> {
    let piece = tokio::select! {
        piece = next_piece(body, idle) => piece?,
        () = memory.revoked() => return Err(Stopped::Broken(REVOKED.to_owned())),
    };
    if piece.is_some() && memory.is_empty() {
        let leased = memory.lease(PORTION_LEASE).await;
        leased.map_err(|revoked| Stopped::Broken(revoked.to_string()))?;
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
pub(super) async fn discard(body: &mut Body, limit: u64) -> bool {
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
pub(super) fn close(response: &mut Response) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}
