//! A camera with an HTTP address.
//!
//! An address that gives one image is asked each time an image is wanted. One that gives
//! `multipart/x-mixed-replace` (MJPEG) is read all the time, and the newest frame is what is
//! given: a consumer that is slower than the camera skips frames but never falls behind. A camera
//! that is off, busy or misconfigured is asked again until it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use shared::clock::UnixNanos;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::{Capture, CaptureError, Captured, MAX_IMAGE};
use http::{Connection, FetchError, Target, check_status, content_type, image_type, read_body};
use multipart::{Part, Parts};
use newest::Newest;

mod http;
mod multipart;
mod newest;

const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest time between two attempts while the camera gives nothing.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Asks one camera.
pub(super) struct SnapshotSource {
    camera: Arc<Camera>,
    state: State,
    images: u64,
}

enum State {
    Idle(Option<Connection>),
    /// A task, so that a caller who gives up waiting and asks again does not begin anew.
    Asking(AbortOnDropHandle<Answer>),
    Live {
        frames: Arc<Newest<Frame>>,
        _reader: AbortOnDropHandle<()>,
    },
}

struct Camera {
    target: Target,
    timeout: Duration,
    /// Time to the second attempt while the camera gives nothing. It doubles from there.
    first_wait: Duration,
    /// Attempts since the last image that gave none.
    failures: AtomicU32,
}

/// An image of the camera.
#[derive(Debug)]
struct Frame {
    bytes: bytes::Bytes,
    media_type: String,
    taken: UnixNanos,
}

enum Answer {
    Image(Frame, Connection),
    Stream(Box<Stream>),
}

struct Stream {
    parts: Parts,
    body: Incoming,
    connection: Connection,
}

struct CloseOnDrop(Arc<Newest<Frame>>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl SnapshotSource {
    pub(super) fn open(url: &Url, timeout: Duration) -> Result<Self, CaptureError> {
        let camera = Camera {
            target: Target::new(url)?,
            timeout,
            first_wait: FIRST_WAIT,
            failures: AtomicU32::new(0),
        };
        Ok(Self {
            camera: Arc::new(camera),
            state: State::Idle(None),
            images: 0,
        })
    }

    async fn next_frame(&mut self) -> Frame {
        loop {
            match &mut self.state {
                State::Idle(kept) => {
                    let (camera, kept) = (Arc::clone(&self.camera), kept.take());
                    let asking = tokio::spawn(async move { camera.ask(kept).await });
                    self.state = State::Asking(AbortOnDropHandle::new(asking));
                }
                State::Asking(asking) => match asking.await {
                    Ok(Answer::Image(frame, connection)) => {
                        self.state = State::Idle(Some(connection));
                        return frame;
                    }
                    Ok(Answer::Stream(stream)) => {
                        let frames = Arc::new(Newest::new());
                        let (camera, slot) = (Arc::clone(&self.camera), Arc::clone(&frames));
                        let reader = tokio::spawn(async move { camera.read(stream, slot).await });
                        let reader = AbortOnDropHandle::new(reader);
                        self.state = State::Live {
                            frames,
                            _reader: reader,
                        };
                    }
                    Err(error) => {
                        tracing::error!(url = self.camera.target.shown(), %error, "asking the camera failed");
                        self.camera.wait_after_failure().await;
                        self.state = State::Idle(None);
                    }
                },
                State::Live { frames, .. } => match frames.take().await {
                    Some(frame) => return frame,
                    None => self.state = State::Idle(None),
                },
            }
        }
    }
}

#[async_trait]
impl Capture for SnapshotSource {
    async fn next(&mut self) -> Result<Option<Captured>, CaptureError> {
        let frame = self.next_frame().await;
        self.images += 1;
        let ending = frame.media_type.strip_prefix("image/").unwrap_or_default();
        let ending = ending.replace("jpeg", "jpg");
        let name = format!("{}-{:06}.{ending}", self.camera.target.host(), self.images);
        let captured = Captured::from_memory(frame.bytes, name, frame.media_type);
        Ok(Some(Captured {
            captured: frame.taken,
            ..captured
        }))
    }

    fn is_finite(&self) -> bool {
        false
    }
}

impl Camera {
    /// Asks until the camera answers with an image or a stream.
    async fn ask(&self, mut kept: Option<Connection>) -> Answer {
        loop {
            match self.ask_once(kept.take()).await {
                Ok(answer) => {
                    if matches!(answer, Answer::Image(..)) {
                        self.failures.store(0, Ordering::Relaxed);
                    }
                    return answer;
                }
                Err(error) => {
                    tracing::warn!(url = self.target.shown(), %error, "no image from the camera; it is asked again");
                    self.wait_after_failure().await;
                }
            }
        }
    }

    async fn ask_once(&self, kept: Option<Connection>) -> Result<Answer, FetchError> {
        let asked = async {
            let (connection, response) = self.target.get(kept).await?;
            check_status(&response)?;
            let declared = content_type(&response).to_owned();
            if let Some(boundary) = multipart::boundary_of(&declared) {
                let parts = Parts::new(&boundary, MAX_IMAGE);
                return Ok(Answer::Stream(Box::new(Stream {
                    parts,
                    body: response.into_body(),
                    connection,
                })));
            }
            let bytes = read_body(response.into_body()).await?;
            let taken = UnixNanos::now();
            match image_type(&declared, &bytes) {
                Some(media_type) => Ok(Answer::Image(
                    Frame {
                        bytes,
                        media_type,
                        taken,
                    },
                    connection,
                )),
                None => Err(no_image(&declared, bytes.len())),
            }
        };
        timeout(self.timeout, asked)
            .await
            .unwrap_or(Err(FetchError::Timeout(self.timeout)))
    }

    /// Reads a stream to its end, and says in the log how it ended. A stream that gave nothing
    /// counts as a failure, so that a camera that ends its streams at once is not asked at once.
    async fn read(&self, mut stream: Box<Stream>, frames: Arc<Newest<Frame>>) {
        // However this ends, nobody waits for frames that will not come.
        let frames = CloseOnDrop(frames);
        let mut count = 0_u64;
        let outcome = self.read_frames(&mut stream, &frames.0, &mut count).await;
        let error = outcome.err().map(|error| error.to_string());
        let skipped = frames.0.replaced();
        tracing::warn!(
            url = self.target.shown(),
            frames = count,
            skipped,
            error,
            "the camera's stream ended; it is asked again"
        );
        drop(stream.connection);
        if count > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.wait_after_failure().await;
    }

    async fn read_frames(
        &self,
        stream: &mut Stream,
        frames: &Newest<Frame>,
        count: &mut u64,
    ) -> Result<(), FetchError> {
        while !stream.parts.ended() {
            let piece = timeout(self.timeout, stream.body.frame())
                .await
                .map_err(|_| FetchError::Timeout(self.timeout))?;
            let Some(piece) = piece else { break };
            let Ok(data) = piece?.into_data() else {
                continue;
            };
            stream.parts.push(&data);
            loop {
                let part = stream.parts.next_part();
                let part = part.map_err(|error| FetchError::Stream(error.to_string()))?;
                let Some(Part { media_type, bytes }) = part else {
                    break;
                };
                let taken = UnixNanos::now();
                let declared = media_type.unwrap_or_default();
                if let Some(media_type) = image_type(&declared, &bytes) {
                    frames.put(Frame {
                        bytes,
                        media_type,
                        taken,
                    });
                    *count += 1;
                } else {
                    let error = no_image(&declared, bytes.len());
                    tracing::debug!(url = self.target.shown(), %error, "part skipped");
                }
            }
        }
        Ok(())
    }

    /// Waits a time that doubles with each failure, with a random part so that many devices do
    /// not ask in step.
    async fn wait_after_failure(&self) {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let doubled = 1 << failures.saturating_sub(1).min(16);
        let wait = self.first_wait.saturating_mul(doubled).min(LONGEST_WAIT);
        tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
    }
}

fn no_image(declared: &str, bytes: usize) -> FetchError {
    let declared: String = declared
        .chars()
        .filter(|c| !c.is_control())
        .take(100)
        .collect();
    FetchError::NoImage(format!("{bytes} bytes of type {declared:?}"))
}

#[cfg(test)]
mod tests;
