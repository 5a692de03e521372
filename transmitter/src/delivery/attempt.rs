//! One attempt to send an image, what its result means, and what follows from that.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use shared::clock::UnixNanos;
use shared::disk::OsDisk;
use shared::receipt::{Receipt, Reject, RejectReason};
use shared::telemetry::chain;
use tokio::time::Instant;

use super::backoff::pause;
use super::retries::{Job, Tries};
use super::{Delivery, LossKind, Settled, Settlement};
use crate::link::{Attempt, Connection, DeliveryError, Turn, unreadable};
use crate::outbox::disk::files;
use crate::outbox::{FULL_RETRY, Owed};
use crate::payload::Payload;

/// A connection that broke after less than this says that the image may be the cause: it then waits
/// for longer and longer. After more, something of it has arrived, and it goes on at once.
const SHORT: Duration = Duration::from_millis(500);

/// Receipts of something else after which there is no hope for a proper one. The first may have
/// been damaged on its way.
const MOST_CONTRADICTIONS: u32 = 5;

/// Refusals after which one is believed. What was refused may be what a link has made of the image's
/// metadata, for which not every receiver and every call has a checksum. That an image is too large
/// is believed at once: it happens, and its size is a few bytes among hundreds.
const MOST_REFUSALS: u32 = 3;

/// Longest time to wait because a receiver says so whose quota is used up.
const LONGEST_QUOTA_PAUSE: Duration = Duration::from_secs(300);

/// After this time a receiver that was asked too often lets a second's worth in again. Until then the
/// place of the image that was turned down on its connection stays empty, or every image that waits
/// would be sent to be turned down.
const RATE_PAUSE: Duration = Duration::from_secs(1);

enum Judgement {
    Settle(Settlement),
    Again {
        after: Duration,
    },
    /// The same, and no other image takes its place on the connection for a while.
    TooOften {
        after: Duration,
    },
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempted {
    /// The image was answered for good.
    Answered,
    /// It comes again.
    Unanswered,
    /// It comes again, and the receiver wants fewer requests.
    TooOften,
}

impl Delivery {
    /// Sends an image once and draws the conclusion.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        connection: &Arc<dyn Connection>,
        mut job: Job,
        turn: Option<Turn>,
    ) -> Attempted {
        job.tries.attempts = job.tries.attempts.saturating_add(1);
        job.tries.sent = job.tries.sent.saturating_add(1);
        let (number, is_again) = (job.tries.attempts, job.tries.sent > 1);
        let started = UnixNanos::now();
        let clock = Instant::now();
        let own = job.image.meta.sequence >= self.own_from;
        let flight = self.tally.flight(job.image.meta.size, is_again, own);
        let trace = self.traces.begin(job.image.meta.id, number, started);
        let attempt = Attempt {
            number,
            started,
            turn: turn.as_ref(),
            trace: trace.map(|begun| begun.context),
        };
        let result = tokio::select! {
            biased;
            result = connection.deliver(&job.image, attempt) => result,
            () = self.stop.cancelled() => {
                self.traces.end(trace, clock.elapsed(), Some("stopped".to_owned()));
                // It is owed still, however few attempts it has.
                self.give_back(job).await;
                return Attempted::Unanswered;
            }
        };
        let delivery = clock.elapsed();
        let failure = result.as_ref().err().map(ToString::to_string);
        self.traces.end(trace, delivery, failure);
        drop((flight, turn));
        let Job { image, mut tries } = job;
        let settlement = match self.judge(&image, &mut tries, delivery, result).await {
            Judgement::Settle(settlement) => settlement,
            Judgement::Again { after } => {
                self.rest(Job { image, tries }, after);
                return Attempted::Unanswered;
            }
            Judgement::TooOften { after } => {
                self.rest(Job { image, tries }, after);
                return Attempted::TooOften;
            }
        };
        self.turned_away.store(false, Relaxed);
        *self.last_contact.lock() = Instant::now();
        let settled = Settled {
            own,
            clock: connection.clock(),
            image,
            settlement,
            started,
            delivery,
            attempts: number,
        };
        self.ration.is_there();
        self.settle(settled).await;
        Attempted::Answered
    }

    /// The receiver was asked too often: leaves a place on the connection empty for a while.
    pub(super) async fn hold_off(&self, connection: &Arc<dyn Connection>) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            _ = connection.closed() => {}
            () = tokio::time::sleep(RATE_PAUSE) => {}
        }
    }

    /// Takes a settled image out of the outbox. What cannot be written down just now stays owed and
    /// is tried again, while others go on.
    async fn settle(self: &Arc<Self>, settled: Settled) {
        let mut prepared = false;
        if self.try_settle(&settled, &mut prepared).await {
            return;
        }
        self.held.fetch_add(1, Relaxed);
        let delivery = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(FULL_RETRY) => {}
                    () = delivery.stop.cancelled() => break,
                    () = delivery.gave_up.cancelled() => break,
                }
                if delivery.try_settle(&settled, &mut prepared).await {
                    delivery.held.fetch_sub(1, Relaxed);
                    delivery.changed.notify_waiters();
                    return;
                }
            }
            delivery.held.fetch_sub(1, Relaxed);
            let (image, tries) = (settled.image, Tries::default());
            delivery.give_back(Job { image, tries }).await;
        });
    }

    async fn try_settle(&self, settled: &Settled, prepared: &mut bool) -> bool {
        if !*prepared && self.ledger.prepare(settled).await.is_err() {
            return false;
        }
        *prepared = true;
        let id = settled.image.meta.id;
        if let Err(error) = self.outbox.settle(id, settled.outcome()).await {
            if !self.unsettled.swap(true, Relaxed) {
                let problem = chain(&error);
                tracing::warn!(image = %id, "{problem}; answered images stay owed meanwhile");
            }
            return false;
        }
        if self.unsettled.swap(false, Relaxed) {
            tracing::info!("the outbox can be written again");
        }
        self.link.forget(id);
        self.tally.settle(settled);
        self.traces.settled(settled);
        self.ledger.settled(settled).await;
        self.let_go();
        true
    }

    async fn judge(
        &self,
        image: &Owed,
        tries: &mut Tries,
        took: Duration,
        result: Result<Receipt, DeliveryError>,
    ) -> Judgement {
        let id = image.meta.id;
        let attempt = tries.attempts;
        let reject = match result {
            Ok(receipt) => {
                let Some(problem) = contradiction(image, &receipt) else {
                    return Judgement::Settle(Settlement::Receipt(receipt));
                };
                tries.contradictions += 1;
                if tries.contradictions >= MOST_CONTRADICTIONS {
                    return lost(LossKind::Contradicted, problem);
                }
                tracing::warn!(image = %id, attempt, "{problem}");
                return self.again(tries, &problem);
            }
            Err(DeliveryError::Lost(reason)) => {
                tracing::debug!(image = %id, attempt, "not delivered: {reason}");
                if took < SHORT {
                    return self.again(tries, &reason);
                }
                tries.failures = 0;
                return match self.again(tries, &reason) {
                    Judgement::Again { .. } => Judgement::Again {
                        after: Duration::ZERO,
                    },
                    other => other,
                };
            }
            Err(DeliveryError::Refused(reason)) => {
                // The connection ends with the same words, which are logged then.
                tracing::debug!(image = %id, attempt, "not delivered: {reason}");
                return self.unattempted(tries);
            }
            Err(DeliveryError::Unreadable(problem)) => {
                return self.unreadable(image, tries, problem).await;
            }
            Err(DeliveryError::Unavailable(problem)) => {
                tracing::warn!(image = %id, attempt, "unreadable: {problem}");
                return self.again(tries, &problem);
            }
            Err(DeliveryError::Rejected(reject)) => reject,
        };
        if reject.quarantined {
            return Judgement::Settle(Settlement::Quarantined(reject));
        }
        if reject.reason == RejectReason::Forbidden {
            tracing::warn!(image = %id, attempt, "forbidden, and tried again later: {reject}");
            return self.unattempted(tries);
        }
        if let RejectReason::Rate | RejectReason::Quota = reject.reason {
            tracing::debug!(image = %id, attempt, "tried again later: {reject}");
            return self.rationed(tries, &reject);
        }
        if !reject.retryable {
            return self.refused(image, tries, reject);
        }
        if reject.reason == RejectReason::DigestMismatch {
            match examine(image).await {
                Ok(None) => {}
                Ok(Some(change)) => {
                    let reason = format!("payload changed since capture: {change}");
                    return lost(LossKind::Changed, reason);
                }
                Err(DeliveryError::Unreadable(problem)) => {
                    return self.unreadable(image, tries, problem).await;
                }
                Err(error) => tracing::warn!(image = %id, "{error}"),
            }
        }
        tracing::warn!(image = %id, attempt, "rejected: {reject}");
        self.again(tries, &reject.to_string())
    }

    /// The file of an image cannot be read: for good, unless its whole folder is away, and may come
    /// back. That counts as no attempt.
    async fn unreadable(&self, image: &Owed, tries: &mut Tries, problem: String) -> Judgement {
        if !is_away(image).await {
            return lost(LossKind::Unreadable, format!("unreadable: {problem}"));
        }
        let id = image.meta.id;
        if tries.failures == 0 {
            tracing::warn!(image = %id, "its folder is away: it waits until that is back: {problem}");
        }
        self.unattempted(tries)
    }

    /// What stands against the image now lies with an operator, not with the image: however long it takes
    /// to be mended, that is no attempt.
    fn unattempted(&self, tries: &mut Tries) -> Judgement {
        Judgement::Again {
            after: self.later(tries),
        }
    }

    /// The time after which it is sent again, as if it had not been sent.
    fn later(&self, tries: &mut Tries) -> Duration {
        tries.attempts = tries.attempts.saturating_sub(1);
        tries.failures = tries.failures.saturating_add(1);
        pause(&self.retry, tries.failures)
    }

    /// The receiver takes no more of this station for now. That is no attempt, and the image comes again
    /// when there may be room: how long that takes is known to the receiver, but an operator may raise
    /// what it allows, so it is asked now and then.
    fn rationed(&self, tries: &mut Tries, reject: &Reject) -> Judgement {
        let own = self.later(tries);
        let told = Duration::from_millis(reject.retry_after_ms.unwrap_or(0));
        let is_quota = reject.reason == RejectReason::Quota;
        let least = match is_quota {
            // It is not known when: the image is more than all that is allowed, or others are on their way.
            true if told.is_zero() => LONGEST_QUOTA_PAUSE,
            true => told.min(LONGEST_QUOTA_PAUSE),
            false => told.min(RATE_PAUSE),
        };
        if is_quota && !told.is_zero() {
            self.ration.is_used_up_for(least);
        }
        // Not all of them at the same moment.
        let after = own.max(least + least.mul_f64(fastrand::f64() / 2.0));
        match reject.reason {
            RejectReason::Rate => Judgement::TooOften { after },
            _ => Judgement::Again { after },
        }
    }

    /// The receiver will never take what it got.
    fn refused(&self, image: &Owed, tries: &mut Tries, reject: Reject) -> Judgement {
        tries.refusals = tries.refusals.saturating_add(1);
        let is_doubtful = reject.reason != RejectReason::Limit && tries.refusals < MOST_REFUSALS;
        if is_doubtful && !self.was_last(tries) {
            let (id, attempt) = (image.meta.id, tries.attempts);
            tracing::warn!(image = %id, attempt, "refused, and asked again: {reject}");
            return self.again(tries, &reject.to_string());
        }
        let kind = match reject.reason {
            RejectReason::Conflict => LossKind::Conflict,
            _ => LossKind::Rejected,
        };
        lost(kind, format!("{}: {reject}", reject.reason))
    }

    /// By the settings there is no other attempt.
    fn was_last(&self, tries: &Tries) -> bool {
        let limit = self.retry.attempts;
        limit.is_some_and(|limit| tries.attempts >= limit)
    }

    fn again(&self, tries: &mut Tries, reason: &str) -> Judgement {
        let number = tries.attempts;
        if self.was_last(tries) {
            let reason = format!("abandoned after {number} attempts: {reason}");
            return lost(LossKind::Abandoned, reason);
        }
        tries.failures = tries.failures.saturating_add(1);
        Judgement::Again {
            after: pause(&self.retry, tries.failures),
        }
    }
}

fn lost(kind: LossKind, reason: String) -> Judgement {
    Judgement::Settle(Settlement::Lost(kind, reason))
}

/// What in a receipt is not of the image that was sent: it proves nothing.
fn contradiction(image: &Owed, receipt: &Receipt) -> Option<String> {
    let meta = &image.meta;
    // An image that is sent without a digest gets the receiver's own.
    let other_digest = meta.digest.is_some_and(|digest| digest != receipt.digest);
    (receipt.image_id != meta.id || receipt.size != meta.size || other_digest).then(|| {
        format!(
            "the receipt is of image {} with {} bytes and digest {}, which was not sent",
            receipt.image_id, receipt.size, receipt.digest
        )
    })
}

/// Whether the image is a file of somebody else in a folder that is away.
async fn is_away(image: &Owed) -> bool {
    let Payload::File { path, .. } = &image.payload else {
        return false;
    };
    if image.source_file.as_ref() != Some(path) {
        return false;
    }
    let path = path.clone();
    let looked = tokio::task::spawn_blocking(move || {
        files::is_away(&OsDisk, &path, &mut std::collections::HashMap::new())
    });
    looked.await.unwrap_or(false)
}

/// In what the payload is not any more what it was at capture.
async fn examine(image: &Owed) -> Result<Option<String>, DeliveryError> {
    let Some(then) = image.meta.digest else {
        return Ok(None);
    };
    match image.payload.digest(then.algorithm()).await {
        Ok(now) if now == then => Ok(None),
        Ok(now) => Ok(Some(format!("its digest was {then} and is {now}"))),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Ok(Some(error.to_string()))
        }
        Err(error) => Err(unreadable(error)),
    }
}
