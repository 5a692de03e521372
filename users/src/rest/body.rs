//! Bodies of requests: as a whole up to a limit, or line by line.

use axum::body::{Body, BodyDataStream, Bytes};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use super::problem::Problem;

/// One JSON document.
pub(super) const JSON: &str = "application/json";
/// One JSON document per line.
pub(super) const LINES: &str = "application/x-ndjson";

/// Which of `offers` the body is.
///
/// # Errors
/// When it is none of them, or its type is not given.
pub(super) fn media_type(
    headers: &HeaderMap,
    offers: &[&'static str],
) -> Result<&'static str, Problem> {
    let value = headers.get(CONTENT_TYPE);
    let value = value.map(|value| value.to_str().unwrap_or("unreadable"));
    let essence = value
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    offers
        .iter()
        .find(|offer| essence.is_some_and(|essence| essence.eq_ignore_ascii_case(offer)))
        .copied()
        .ok_or_else(|| Problem::media_type(essence, offers))
}

/// The body, if it is JSON of at most `limit` bytes.
///
/// # Errors
/// When it is of another type, too large or breaks off. Of a body that is too large, no more than
/// the limit is read; nothing, if it says how large it is.
pub(super) async fn json(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    media_type(headers, &[JSON])?;
    whole(headers, body, limit).await
}

/// The body, whatever its type; otherwise as [`json`].
///
/// # Errors
/// As [`json`].
pub(super) async fn whole(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let declared = headers.get(CONTENT_LENGTH);
    let declared = declared
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    let known = http_body::Body::size_hint(&body).lower();
    if declared.unwrap_or(known).max(known) > limit as u64 {
        return Err(Problem::too_large("the body", limit));
    }
    let mut frames = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| Problem::malformed("the body broke off"))?;
        if whole.len() + frame.len() > limit {
            return Err(Problem::too_large("the body", limit));
        }
        whole.extend_from_slice(&frame);
    }
    Ok(whole.into())
}

/// A body line by line.
#[derive(Debug)]
pub(super) struct Lines {
    body: Option<BodyDataStream>,
    buffer: BytesMut,
    /// Bytes of the buffer in which no line ends.
    searched: usize,
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub(super) fn new(body: Body, limit: usize) -> Self {
        Self {
            body: Some(body.into_data_stream()),
            buffer: BytesMut::new(),
            searched: 0,
            limit,
        }
    }

    /// The next line that is not blank, `None` after the last. May be dropped while it waits.
    ///
    /// # Errors
    /// When a line is too long or the body breaks off; nothing comes after that.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        loop {
            if let Some(line) = self.take() {
                if line.len() > self.limit {
                    return Some(Err(self.too_long()));
                }
                if !line.trim_ascii().is_empty() {
                    return Some(Ok(line));
                }
                continue;
            }
            if self.buffer.len() > self.limit {
                return Some(Err(self.too_long()));
            }
            match self.body.as_mut()?.next().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame),
                Some(Err(_)) => {
                    self.end();
                    return Some(Err(Problem::malformed("the body broke off")));
                }
                None => {
                    self.body = None;
                    self.searched = 0;
                    let last = self.buffer.split().freeze();
                    let is_line = !last.trim_ascii().is_empty();
                    return is_line.then_some(Ok(last));
                }
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let unseen = &self.buffer[self.searched..];
        let Some(end) = unseen.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = self.searched + end;
        self.searched = 0;
        let mut line = self.buffer.split_to(end + 1);
        line.truncate(end);
        Some(line.freeze())
    }

    fn too_long(&mut self) -> Problem {
        self.end();
        Problem::too_large("a line", self.limit)
    }

    fn end(&mut self) {
        self.body = None;
        self.buffer.clear();
        self.searched = 0;
    }
}
