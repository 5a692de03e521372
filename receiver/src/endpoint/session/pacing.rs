//! Holds a session back whose client begins more images than it may.
//!
//! Nothing is turned down at first: the session just does not read on, so its client is slowed down by
//! the flow control of its transport, sends nothing twice, and loses no attempt.

use std::time::Duration;

use shared::image::ImageMeta;

use super::Session;
use crate::endpoint::gate::often;

/// Longest time for which a session is held back. Its client has answers and signs of life to wait for;
/// only many sessions of one client, or a rate of less than one in this time, come to that.
const MOST_HELD: Duration = Duration::from_secs(5);

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It may go on.
    Passed,
    /// Its turn did not come; it might after this time.
    TooLong(Duration),
    /// The session has to end meanwhile.
    Over,
}

impl Session {
    /// Waits until the client may ask for something again.
    pub(super) async fn hold_back(&mut self) -> Held {
        if self.pace.take().is_ok() {
            return Held::Passed;
        }
        self.intake.metrics().held_back(self.origin.transport);
        // Nobody waits while holding memory that others could have.
        self.flush().await;
        let waiting = self.pace.wait(MOST_HELD);
        tokio::select! {
            biased;
            // Who stops waits for nobody.
            () = self.patience.stop.cancelled() => Held::Passed,
            waited = self.memory.for_client(waiting) => match waited {
                Ok(Ok(())) => Held::Passed,
                Ok(Err(time)) => Held::TooLong(time),
                Err(_) => {
                    self.unread = true;
                    Held::Over
                }
            },
        }
    }

    /// Turns an image down, whose client is to try it again later.
    pub(super) async fn begins_too_often(&mut self, meta: &ImageMeta, time: Duration) {
        let mut reject = often::reject(time);
        reject.image_id = Some(meta.id);
        // A second announcement replaces the first.
        drop(self.take(meta.id));
        let reject = self.intake.turn_down(meta, &self.origin, reject);
        self.intake.room_to_count().await;
        self.answer(meta.id, Err(reject)).await;
    }
}
