//! Going on with what an earlier process left.

use std::sync::Arc;

use bytes::Bytes;
use shared::chunk::Segments;
use shared::digest::Digest;

use super::body::{Body, Checkpoint};
use crate::intake::Intake;
use crate::store::{Partial, Replay};

/// Verifies what an earlier process left of an image that is not in the catalogue; `None` when
/// nothing can be gone on with. May block for as long as it takes to read it.
pub(in crate::intake) fn recover(
    intake: &Arc<Intake>,
    partial: Box<dyn Partial>,
) -> Option<Box<Body>> {
    let about = partial.about().clone();
    let id = about.meta.id;
    let mut body = Body::of_partial(Arc::clone(intake), about);
    let mut tape = Tape {
        good: body.state.clone(),
        now: body.state.clone(),
        torn: false,
    };
    match partial.recover(&mut tape) {
        Ok(writer) => body.goes_on(writer, tape.good),
        Err(error) => {
            tracing::warn!(image = %id, %error, "an unfinished image is dropped");
            return None;
        }
    }
    tracing::info!(image = %id, bytes = body.received(), "an unfinished image was verified");
    Some(Box::new(body))
}

/// Makes the state of an upload from its bytes.
struct Tape {
    good: Checkpoint,
    now: Checkpoint,
    /// The bytes are more than the image can have.
    torn: bool,
}

impl Replay for Tape {
    fn take(&mut self, bytes: Bytes) {
        let (offset, data) = (self.now.assembler.received(), Segments::from(bytes));
        match self.now.assembler.push(offset, None, &data) {
            Ok(()) => self.now.look_at(&data),
            Err(_) => self.torn = true,
        }
    }

    fn check(&mut self, digest: &Digest) -> bool {
        let right = !self.torn && self.now.assembler.digest_so_far() == *digest;
        if right {
            self.good = self.now.clone();
        }
        right
    }
}
