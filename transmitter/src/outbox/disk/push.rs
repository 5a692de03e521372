//! Taking images in: room first, then their bytes, then the writer.

use std::sync::Arc;

use shared::image::ImageMeta;
use tokio::sync::oneshot;

use super::DiskOutbox;
use super::core::says_full;
use super::files::{NotStaged, Staged};
use super::index::is_full;
use super::job::{Job, NotPushed, PushJob};
use super::record::ENTRY_BYTES;
use super::state::Admission;
use crate::config::{OutboxFiles, WhenFull};
use crate::outbox::{Lost, OutboxError, Owed, Pushed};
use crate::payload::Payload;

/// Tries for what the medium refuses.
const TRIES: usize = 3;

/// Marks of refused images that are remembered at most: each is told to be lost at once.
const MOST_REFUSED: usize = 1_024;

/// No room, and what is missing.
struct NoRoom {
    /// What the image counts for.
    cost: u64,
    bytes: u64,
    /// On the medium, not in the limit: nobody says when it comes.
    on_disk: bool,
}

impl DiskOutbox {
    pub(super) async fn push_image(&self, image: Owed) -> Result<Pushed, OutboxError> {
        let cost = self.cost(&image.payload);
        let limit = self.shared.limit;
        let pushed = if cost > limit {
            Err(OutboxError::TooLarge {
                size: image.meta.size,
                limit,
                setting: "TRANSMITTER_OUTBOX_LIMIT",
            })
        } else {
            self.push_in(&image, cost).await
        };
        if matches!(&pushed, Err(error) if !matches!(error, OutboxError::Closed))
            && let Some(mark) = &image.source_mark
        {
            let mut state = self.shared.state.lock();
            if state.refused.len() < MOST_REFUSED {
                state.refused.insert(image.meta.id, mark.clone());
            }
        }
        pushed
    }

    fn cost(&self, payload: &Payload) -> u64 {
        let stored = match payload {
            Payload::File { .. } if self.intake.files == OutboxFiles::Reference => 0,
            payload => payload.size(),
        };
        stored.saturating_add(ENTRY_BYTES)
    }

    async fn push_in(&self, image: &Owed, cost: u64) -> Result<Pushed, OutboxError> {
        let mut lost = Claimed::new(self);
        let mut failures = 0;
        // After a write that found no space, a look at the free space may not see why.
        let mut refused = None;
        loop {
            let admitted = match refused.take() {
                Some(no_room) => Err(no_room),
                None => self.admit(cost)?,
            };
            let admission = match admitted {
                Ok(admission) => admission,
                Err(no_room) => {
                    let made = self.make_room(image, &no_room, &mut lost.lost).await;
                    if matches!(&made, Err(error) if says_full(error)) {
                        // Not even for the ledger.
                        tokio::time::sleep(self.full_retry).await;
                        continue;
                    }
                    if let Some(newest) = made? {
                        let sequence = newest.meta.sequence;
                        lost.lost.push(newest);
                        return Ok(lost.pushed(sequence));
                    }
                    continue;
                }
            };
            match self.try_push(image, admission).await? {
                Ok(sequence) => return Ok(lost.pushed(sequence)),
                Err(NotPushed::Full) => {
                    refused = Some(NoRoom {
                        cost,
                        bytes: cost.saturating_mul(2),
                        on_disk: true,
                    });
                }
                Err(NotPushed::Failed(source)) => {
                    failures += 1;
                    if failures == TRIES {
                        return Err(OutboxError::Io {
                            action: format!("writing of image {}", image.meta.id),
                            source,
                        });
                    }
                }
            }
        }
    }

    /// Takes room for an image, if there is some.
    fn admit(&self, cost: u64) -> Result<Result<Admission, NoRoom>, OutboxError> {
        let free = self.shared.free_space();
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(OutboxError::Closed);
        }
        let beyond = (state.used + cost).saturating_sub(self.shared.limit);
        if beyond > 0 {
            return Ok(Err(NoRoom {
                cost,
                bytes: beyond,
                on_disk: false,
            }));
        }
        let missing = (state.coming + cost).saturating_sub(free);
        if missing > 0 {
            return Ok(Err(NoRoom {
                cost,
                bytes: missing,
                on_disk: true,
            }));
        }
        Ok(Ok(Admission::new(&self.shared, &mut state, cost)))
    }

    /// Waits until there may be room, or makes some by the policy, or gives the new image up, which
    /// is returned then.
    async fn make_room(
        &self,
        image: &Owed,
        no_room: &NoRoom,
        lost: &mut Vec<Lost>,
    ) -> Result<Option<Lost>, OutboxError> {
        match self.shared.when_full {
            WhenFull::Block => {
                self.wait_for_room(no_room).await;
                return Ok(None);
            }
            WhenFull::DropNewest => {}
            WhenFull::DropOldest | WhenFull::Thin(_) => {
                let needed = no_room.bytes;
                let evicted = self.ask(|reply| Job::Evict { needed, reply }).await?;
                if !evicted.is_empty() {
                    lost.extend(evicted);
                    return Ok(None);
                }
            }
        }
        // Nothing else can give way.
        let reason = "dropped: the outbox was full";
        let series = self.present(&image.meta).await?;
        let newest = self
            .ask(|reply| Job::Lose {
                meta: Box::new(image.meta.clone()),
                reason: reason.to_owned(),
                mark: image.source_mark.clone(),
                series,
                reply,
            })
            .await?;
        Ok(Some(newest))
    }

    async fn wait_for_room(&self, no_room: &NoRoom) {
        let room = self.shared.room.notified();
        tokio::pin!(room);
        room.as_mut().enable();
        let _waiting = Waiting::new(self);
        if no_room.on_disk {
            tokio::select! {
                () = room => {}
                () = tokio::time::sleep(self.full_retry) => {}
            }
            return;
        }
        let none_since = {
            let state = self.shared.state.lock();
            state.used + no_room.cost > self.shared.limit && !state.closed
        };
        if none_since {
            room.await;
        }
    }

    /// Writes the bytes and hands them to the writer.
    async fn try_push(
        &self,
        image: &Owed,
        admission: Admission,
    ) -> Result<Result<u64, NotPushed>, OutboxError> {
        let series = self.present(&image.meta).await?;
        let (staged, admission) = match self.stage(image, admission).await {
            Ok(staged) => staged,
            Err(NotStaged::Unreadable(error)) => return Err(OutboxError::Unreadable(error)),
            Err(NotStaged::Unwritable(error)) if is_full(&error) => {
                self.say(format!("no space for new images: {error}"));
                return Ok(Err(NotPushed::Full));
            }
            Err(NotStaged::Unwritable(error)) => {
                self.say(format!("new images cannot be written: {error}"));
                return Ok(Err(NotPushed::Failed(error)));
            }
        };
        let (reply, answer) = oneshot::channel();
        let meta: ImageMeta = image.meta.clone();
        self.send(Job::Push(Box::new(PushJob {
            meta,
            source_file: image.source_file.clone(),
            mark: image.source_mark.clone(),
            staged,
            series,
            admission,
            reply,
        })))?;
        answer.await.map_err(|_| OutboxError::Closed)
    }

    /// What is wrong, for `health`.
    fn say(&self, problem: String) {
        let mut state = self.shared.state.lock();
        if state.trouble.as_ref() != Some(&problem) {
            tracing::error!("outbox: {problem}");
            state.trouble = Some(problem);
        }
    }

    async fn stage(
        &self,
        image: &Owed,
        admission: Admission,
    ) -> Result<(Staged, Admission), NotStaged> {
        let intake = self.intake.clone();
        let payload = image.payload.clone();
        let (id, digest) = (image.meta.id, image.meta.digest);
        // A file whose writing nobody waits for any more is removed when it is written.
        let staged = tokio::task::spawn_blocking(move || {
            let staged = intake.stage(&payload, id, digest)?;
            // The room is taken until its file is removed.
            Ok((staged, admission))
        });
        let staged = staged.await;
        staged.unwrap_or_else(|error| Err(NotStaged::Unwritable(std::io::Error::other(error))))
    }
}

/// Losses because of a push. If that fails, or nobody waits for it, the next one tells of them.
struct Claimed {
    shared: Arc<super::state::Shared>,
    lost: Vec<Lost>,
}

impl Claimed {
    fn new(outbox: &DiskOutbox) -> Self {
        Self {
            shared: Arc::clone(&outbox.shared),
            lost: Vec::new(),
        }
    }

    /// The answer, with losses that others did not wait for.
    fn pushed(mut self, sequence: u64) -> Pushed {
        let mut lost = std::mem::take(&mut self.lost);
        lost.append(&mut self.shared.state.lock().unclaimed);
        Pushed { sequence, lost }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.lost.is_empty() {
            self.shared.state.lock().unclaimed.append(&mut self.lost);
        }
    }
}

/// Somebody waits for room.
struct Waiting(Arc<super::state::Shared>);

impl Waiting {
    fn new(outbox: &DiskOutbox) -> Self {
        outbox.shared.state.lock().waiting_for_room += 1;
        Self(Arc::clone(&outbox.shared))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.state.lock().waiting_for_room -= 1;
    }
}
