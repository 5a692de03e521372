//! From which byte an image is sent.

use std::collections::BTreeMap;

use shared::image::ImageId;

use super::Session;
use crate::link::Attempt;
use crate::link::unfinished::MAX_UNFINISHED;
use crate::outbox::Owed;

/// What the receiver holds of images, as far as it was asked over this connection or follows from
/// what was sent over it.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<ImageId, Held>);

#[derive(Debug)]
struct Held {
    /// Of the attempt after which this was so; `None` when this process had made none.
    mark: Option<u64>,
    offset: u64,
}

/// A mark that no attempt has, for an image that was asked for without one.
const NONE: u64 = u64::MAX;

impl Known {
    /// The receiver was asked for these images, with their marks at that time, and holds `held`.
    pub(super) fn learn(&mut self, asked: &[(ImageId, u64)], held: &[(ImageId, u64)]) {
        // Whatever else it says it holds is none of ours.
        let offsets: BTreeMap<ImageId, u64> = held.iter().copied().collect();
        let asked = asked.iter().map(|(id, mark)| {
            let mark = (*mark != NONE).then_some(*mark);
            let offset = offsets.get(id).copied().unwrap_or(0);
            (*id, Held { mark, offset })
        });
        self.0 = asked.collect();
    }

    fn set(&mut self, id: ImageId, mark: Option<u64>, offset: u64) {
        if self.0.len() >= 2 * MAX_UNFINISHED {
            // Images that were tried again elsewhere. Of the others the receiver can be asked.
            self.0.clear();
        }
        self.0.insert(id, Held { mark, offset });
    }

    /// What is held of an image whose last attempt has this mark; told once.
    fn take(&mut self, id: ImageId, mark: Option<u64>) -> Option<u64> {
        let held = self.0.remove(&id)?;
        (held.mark == mark).then_some(held.offset)
    }
}

impl Session {
    /// The byte from which to send the image: what the receiver said it holds, is asked for now, or
    /// else 0.
    pub(super) async fn resume_at(&self, image: &Owed, attempt: Attempt<'_>) -> u64 {
        let (id, size) = (image.meta.id, image.payload.size());
        if let Some(offset) = self.known_offset(id) {
            return within(offset, size);
        }
        // Begun over another connection after this one was welcomed: the question costs a round
        // trip, which a single chunk is not worth.
        let begun =
            self.identity.unfinished.mark(id).is_some() && size > u64::from(self.chunk_size);
        // Perhaps begun by an earlier process. Of smaller images no more is sent again than of any
        // that a break interrupts.
        let carried = image.carried && attempt.number == 1 && size > self.window;
        if !begun && !carried {
            return 0;
        }
        // That takes time, which is not for the others to wait.
        attempt.pass();
        let _asking = self.asking.lock().await;
        // Whoever was before asked for all that are unfinished.
        if let Some(offset) = self.known_offset(id) {
            return within(offset, size);
        }
        let mut unfinished = self.identity.unfinished.list();
        if !unfinished.iter().any(|(listed, _)| *listed == id) {
            unfinished.insert(0, (id, NONE));
        }
        if let Err(error) = self.hello(unfinished).await {
            tracing::debug!(image = %id, "what is held of it is not known: {error}");
        }
        within(self.known_offset(id).unwrap_or(0), size)
    }

    fn known_offset(&self, id: ImageId) -> Option<u64> {
        let mark = self.identity.unfinished.mark(id);
        self.known.lock().take(id, mark)
    }

    /// What was known of the image is of no use.
    pub(super) fn forget(&self, id: ImageId) {
        self.known.lock().0.remove(&id);
    }

    /// The receiver keeps what was sent of the image: `offset` bytes.
    pub(super) fn left_at(&self, id: ImageId, offset: u64) {
        let mark = self.identity.unfinished.mark(id);
        self.known.lock().set(id, mark, offset);
    }
}

/// Nobody can hold more of an image than there is.
fn within(offset: u64, size: u64) -> u64 {
    if offset <= size { offset } else { 0 }
}
