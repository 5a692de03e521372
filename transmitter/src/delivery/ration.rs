//! A station that has no quota left sends no more of what would be turned down: over REST and in calls
//! of `Put` each image goes whole before its answer comes. One image is tried now and then, because an
//! operator may raise what the receiver allows.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Whether images may be sent, as far as the receiver's quota goes.
#[derive(Debug, Default)]
pub(super) struct Ration {
    /// `None` while nothing was turned down.
    used_up: Mutex<Option<UsedUp>>,
    changed: Notify,
}

#[derive(Debug)]
struct UsedUp {
    until: Instant,
    /// One image is on its way to find out.
    asking: bool,
}

/// The right to send an image.
#[derive(Debug)]
pub(super) struct Share {
    ration: Arc<Ration>,
    /// It is the one that finds out.
    asks: bool,
}

impl Ration {
    /// Waits until an image may be sent. The right is given back when it is dropped, whatever came of it.
    pub(super) async fn share(self: &Arc<Self>) -> Share {
        let share = |asks| Share {
            ration: Arc::clone(self),
            asks,
        };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = match &mut *self.used_up.lock() {
                None => return share(false),
                Some(used_up) if used_up.asking => None,
                Some(used_up) if used_up.until <= Instant::now() => {
                    used_up.asking = true;
                    return share(true);
                }
                Some(used_up) => Some(used_up.until),
            };
            let time = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = time => {}
            }
        }
    }

    /// An image was turned down. None is sent for so long, and then one.
    pub(super) fn is_used_up_for(&self, pause: Duration) {
        let until = Instant::now() + pause;
        *self.used_up.lock() = Some(UsedUp {
            until,
            asking: false,
        });
        self.changed.notify_waiters();
    }

    /// An image was taken: others may follow.
    pub(super) fn is_there(&self) {
        if self.used_up.lock().take().is_some() {
            self.changed.notify_waiters();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !self.asks {
            return;
        }
        if let Some(used_up) = &mut *self.ration.used_up.lock() {
            used_up.asking = false;
        }
        self.ration.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn one_image_asks_and_the_others_follow_when_it_is_taken() {
        let ration = Arc::new(Ration::default());
        drop(ration.share().await);
        ration.is_used_up_for(PAUSE);
        assert!(ration.share().now_or_never().is_none());
        let begun = Instant::now();
        let asking = ration.share().await;
        assert_eq!(begun.elapsed(), PAUSE);
        assert!(
            ration.share().now_or_never().is_none(),
            "one asks at a time"
        );
        ration.is_there();
        drop(asking);
        let (one, two) = (ration.share().await, ration.share().await);
        drop((one, two));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_and_gets_no_answer_lets_another_one_ask() {
        let ration = Arc::new(Ration::default());
        ration.is_used_up_for(PAUSE);
        let asking = ration.share().await;
        let waiting = ration.share();
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(asking);
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_refusal_counts_from_its_own_time() {
        let ration = Arc::new(Ration::default());
        ration.is_used_up_for(PAUSE);
        let asking = ration.share().await;
        let begun = Instant::now();
        ration.is_used_up_for(PAUSE * 2);
        drop(asking);
        drop(ration.share().await);
        assert_eq!(begun.elapsed(), PAUSE * 2);
    }
}
