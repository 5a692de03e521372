//! Bytes of one request on their way into an upload.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use shared::image::ImageId;
use shared::receipt::{Receipt, Reject, RejectReason};

use super::checksum::Checksum;
use super::table::{Fate, Turn};
use super::{Refusal, Rest, Tus};
use crate::endpoint::rest::body::{self, Stopped};
use crate::intake::{Checkpoint, Held, Proof, Upload};
use crate::problem::Problem;

/// How far an upload is.
pub(super) enum Progress {
    /// Bytes are missing.
    Held(Held),
    /// The image is stored.
    Complete(Arc<Receipt>),
}

/// The checksum extension's own status.
const CHECKSUM_MISMATCH: u16 = 460;

/// An upload and the body that brings more of it.
pub(super) struct Delivery {
    pub(super) tus: Tus,
    pub(super) turn: Turn,
    pub(super) upload: Upload,
    pub(super) checksum: Option<Checksum>,
    /// Declared length of the body.
    pub(super) length: Option<u64>,
    /// Whether the client will know the upload's name even if this request fails.
    pub(super) named: bool,
}

impl Delivery {
    /// Runs in a task of its own: whatever happens to the connection, and with it to the request's
    /// handler, what has come ends up with the intake. Whoever stops the receiver waits for it.
    pub(super) async fn detached(self, body: &mut Body) -> Result<Progress, Refusal> {
        let mut moved = std::mem::take(body);
        let (tus, id, named) = (self.tus.clone(), self.upload.meta().id, self.named);
        let task = self.tus.tasks.clone().spawn(async move {
            let progress = self.run(&mut moved).await;
            if progress.is_err() && !named {
                tus.intake.forget(id).await;
                tus.table.forget(id);
            }
            (progress, moved)
        });
        match task.await {
            Ok((progress, moved)) => {
                *body = moved;
                progress
            }
            Err(panic) => Err(Problem::internal(&panic).into()),
        }
    }

    async fn run(mut self, body: &mut Body) -> Result<Progress, Refusal> {
        let start = self.upload.received();
        let proof = match self.checksum {
            Some(_) => Proof::Follows,
            None => Proof::Needless,
        };
        let checkpoint = match self.upload.checkpoint(proof).await {
            Ok(checkpoint) => checkpoint,
            Err(reject) => return Err(self.give_up(reject)),
        };
        match self.stream(start, body).await {
            Ok(()) => {}
            Err(Stopped::Rejected(reject)) => return self.refused(reject, checkpoint).await,
            Err(stopped) if proof == Proof::Follows => {
                let refusal = self.unfinished(stopped, start);
                return self.back_to(checkpoint, refusal).await;
            }
            Err(_) if self.is_complete() => {}
            Err(stopped) => {
                let refusal = self.unfinished(stopped, self.upload.received());
                self.keep().await?;
                return Err(refusal);
            }
        }
        if let Some(checksum) = self.checksum.take() {
            if let Err(message) = checksum.check() {
                let refusal = self.mismatch(message);
                return self.back_to(checkpoint, refusal).await;
            }
            if let Err(reject) = self.upload.prove().await {
                return Err(self.give_up(reject));
            }
        }
        if self.is_complete() {
            // What came by earlier requests must not be lost for want of space for the last bytes.
            if start > 0
                && self.upload.buffered() > 0
                && let Err(reject) = self.upload.write_out().await
            {
                return self.refused(reject, checkpoint).await;
            }
            return self.finish().await;
        }
        let (id, came) = (self.upload.meta().id, self.upload.received());
        match self.keep().await? {
            Progress::Held(held) if held.received < came => {
                let message = format!(
                    "the receiver has no space left; go on at byte {} later",
                    held.received
                );
                let reject = Reject::new(id, RejectReason::Unavailable, message);
                Err(Refusal::begun(reject.into()))
            }
            progress => Ok(progress),
        }
    }

    async fn stream(&mut self, start: u64, body: &mut Body) -> Result<(), Stopped> {
        let idle = self.tus.intake.limits().idle_timeout;
        let checksum = &mut self.checksum;
        let streamed = body::stream(
            &mut self.upload,
            body,
            idle,
            self.turn.interrupted(),
            |piece| {
                if let Some(checksum) = checksum {
                    checksum.update(piece);
                }
            },
        );
        streamed.await?;
        let came = self.upload.received() - start;
        match self.length {
            Some(length) if came < length => {
                Err(Stopped::Broken(format!("{came} of {length} bytes came")))
            }
            _ => Ok(()),
        }
    }

    fn is_complete(&self) -> bool {
        self.upload.received() == self.upload.size()
    }

    async fn finish(self) -> Result<Progress, Refusal> {
        let Self {
            tus, turn, upload, ..
        } = self;
        let id = upload.meta().id;
        let finished = upload.finish(None).await;
        let receipt = finished.map_err(|reject| rejected(&tus, id, reject))?;
        let receipt = Arc::new(receipt);
        let fate = Fate::Complete {
            receipt: Arc::clone(&receipt),
            at_once: false,
        };
        tus.table.settle(id, fate);
        drop(turn);
        Ok(Progress::Complete(receipt))
    }

    /// Keeps the upload for the next request.
    pub(super) async fn keep(self) -> Result<Progress, Refusal> {
        let Self {
            tus, turn, upload, ..
        } = self;
        let id = upload.meta().id;
        tus.intake.keep(upload).await;
        tus.table.touch(id);
        let held = tus.intake.unfinished(id).await;
        drop(turn);
        // Not kept: it failed, expired at once, or the receiver is stopping.
        held.map(Progress::Held).ok_or_else(|| {
            let message = "the receiver could not keep the upload; create a new one";
            let reject = Reject::new(id, RejectReason::Unavailable, message);
            Refusal::begun(reject.into())
        })
    }

    /// Nothing of the body counts.
    async fn back_to(
        mut self,
        checkpoint: Checkpoint,
        refusal: Refusal,
    ) -> Result<Progress, Refusal> {
        if let Err(reject) = self.upload.roll_back(checkpoint).await {
            return Err(self.give_up(reject));
        }
        self.keep().await?;
        Err(refusal)
    }

    /// The body is not taken. What came before it stays, where nothing speaks against that.
    async fn refused(mut self, reject: Reject, start: Checkpoint) -> Result<Progress, Refusal> {
        let back = match reject.reason {
            // It is this request that is wrong, or comes too early.
            RejectReason::Overflow | RejectReason::Quota => self.upload.roll_back(start).await,
            // There is no space, which may be again.
            RejectReason::Unavailable => self.upload.retreat().await,
            _ => return Err(self.give_up(reject)),
        };
        if let Err(error) = back {
            return Err(self.give_up(error));
        }
        self.keep().await?;
        Err(Refusal::begun(reject.into()))
    }

    /// The upload cannot be completed.
    fn give_up(self, reject: Reject) -> Refusal {
        rejected(&self.tus, self.upload.meta().id, reject)
    }

    fn mismatch(&self, message: String) -> Refusal {
        let (meta, origin) = (self.upload.meta(), self.upload.origin());
        let reject = Reject::new(meta.id, RejectReason::ChunkChecksum, message);
        let reject = self.tus.intake.turn_down(meta, origin, reject);
        let mut problem = Problem::from(reject);
        problem.status = StatusCode::from_u16(CHECKSUM_MISMATCH).unwrap_or(problem.status);
        Refusal::begun(problem)
    }

    /// The body did not come to its end; `held` bytes stay.
    fn unfinished(&self, stopped: Stopped, held: u64) -> Refusal {
        let id = self.upload.meta().id;
        let problem = match stopped {
            Stopped::Interrupted => return interrupted(id),
            Stopped::Rejected(reject) => return Refusal::begun(reject.into()),
            Stopped::Silent(idle) => format!("no byte for {idle:?} (RECEIVER_IDLE_TIMEOUT)"),
            Stopped::Broken(error) => format!("the connection broke ({error})"),
        };
        tracing::debug!(image = %id, held, "upload interrupted: {problem}");
        let message = format!("{problem}; go on at byte {held}");
        let problem = Reject::new(id, RejectReason::Unavailable, message).into();
        Refusal {
            body: Rest::Abandoned,
            ..Refusal::begun(problem)
        }
    }
}

impl Refusal {
    fn begun(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            body: Rest::Begun,
        }
    }
}

/// The image is refused: its upload is gone, unless a newer one has its place.
fn rejected(tus: &Tus, id: ImageId, reject: Reject) -> Refusal {
    if reject.reason != RejectReason::Superseded {
        let why = reject.message.as_str().into();
        tus.table.settle(id, Fate::Gone(why));
    }
    Refusal::begun(reject.into())
}

pub(super) fn interrupted(id: ImageId) -> Refusal {
    let message = "a newer request of this upload took over; ask for its offset with HEAD";
    let problem = Reject::new(id, RejectReason::Superseded, message).into();
    Refusal {
        body: Rest::Abandoned,
        ..Refusal::begun(problem)
    }
}
