//! An outbox in memory: for benchmarks and tests, and for devices that may lose what they owe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::clock::UnixNanos;
use shared::image::ImageId;
use tokio::sync::Notify;

use super::{Backlog, Outbox, OutboxError, Owed};

/// Bytes that an image of a file source counts for: its metadata.
const ENTRY_BYTES: u64 = 1_024;

/// Images in memory, oldest first.
pub struct MemoryOutbox {
    limit: u64,
    state: Mutex<State>,
    /// Room may have been made.
    room: Notify,
    /// Something may be waiting, or the end has come.
    work: Notify,
}

#[derive(Default)]
struct State {
    next_sequence: u64,
    images: BTreeMap<u64, Arc<Owed>>,
    waiting: BTreeSet<u64>,
    sequences: HashMap<ImageId, u64>,
    backlog: Backlog,
    memory: u64,
    closed: bool,
}

impl MemoryOutbox {
    /// An empty outbox for `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            state: Mutex::default(),
            room: Notify::new(),
            work: Notify::new(),
        }
    }

    fn cost(image: &Owed) -> u64 {
        image.payload.memory() + ENTRY_BYTES
    }

    /// Takes the image in if there is room for it.
    fn try_push(&self, image: &mut Option<Owed>, cost: u64) -> Result<Option<u64>, OutboxError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(OutboxError::Closed);
        }
        if state.memory + cost > self.limit && !state.images.is_empty() {
            return Ok(None);
        }
        let Some(mut image) = image.take() else {
            return Ok(None);
        };
        state.next_sequence += 1;
        let sequence = state.next_sequence;
        image.meta.sequence = sequence;
        image.meta.queued = Some(UnixNanos::now());
        state.backlog.images += 1;
        state.backlog.bytes += image.meta.size;
        state.memory += cost;
        state.sequences.insert(image.meta.id, sequence);
        state.waiting.insert(sequence);
        state.images.insert(sequence, Arc::new(image));
        Ok(Some(sequence))
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    async fn push(&self, image: Owed) -> Result<u64, OutboxError> {
        let cost = Self::cost(&image);
        if cost > self.limit {
            return Err(OutboxError::TooLarge {
                size: image.meta.size,
                limit: self.limit,
            });
        }
        let mut image = Some(image);
        loop {
            // Registered before the look, so that room made in between is not missed.
            let room = self.room.notified();
            if let Some(sequence) = self.try_push(&mut image, cost)? {
                self.work.notify_one();
                return Ok(sequence);
            }
            room.await;
        }
    }

    async fn take(&self) -> Option<Arc<Owed>> {
        loop {
            let work = self.work.notified();
            {
                let mut state = self.state.lock();
                if let Some(sequence) = state.waiting.pop_first() {
                    let more = !state.waiting.is_empty();
                    let image = state.images.get(&sequence).cloned();
                    drop(state);
                    if more {
                        self.work.notify_one();
                    }
                    if image.is_some() {
                        return image;
                    }
                    continue;
                }
                if state.closed && state.images.is_empty() {
                    drop(state);
                    self.work.notify_waiters();
                    return None;
                }
            }
            work.await;
        }
    }

    async fn settle(&self, id: ImageId) {
        let mut state = self.state.lock();
        let Some(sequence) = state.sequences.remove(&id) else {
            return;
        };
        state.waiting.remove(&sequence);
        if let Some(image) = state.images.remove(&sequence) {
            state.backlog.images -= 1;
            state.backlog.bytes -= image.meta.size;
            state.memory -= Self::cost(&image);
        }
        let ended = state.closed && state.images.is_empty();
        drop(state);
        self.room.notify_one();
        if ended {
            self.work.notify_waiters();
            self.work.notify_one();
        }
    }

    async fn give_back(&self, id: ImageId) {
        let mut state = self.state.lock();
        let Some(sequence) = state.sequences.get(&id).copied() else {
            return;
        };
        state.waiting.insert(sequence);
        drop(state);
        self.work.notify_one();
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.room.notify_waiters();
        self.work.notify_waiters();
        self.work.notify_one();
    }

    fn backlog(&self) -> Backlog {
        self.state.lock().backlog
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;
    use bytes::Bytes;
    use shared::image::ImageMeta;

    fn image(size: usize) -> Owed {
        Owed {
            meta: ImageMeta::new(ImageId::new(), size as u64),
            payload: Payload::Memory(Bytes::from(vec![0; size])),
            source_file: None,
        }
    }

    #[tokio::test]
    async fn hands_out_in_order_and_again_what_was_given_back() {
        let outbox = MemoryOutbox::new(1 << 20);
        for _ in 0..3 {
            outbox.push(image(10)).await.expect("room");
        }
        let first = outbox.take().await.expect("three are waiting");
        let second = outbox.take().await.expect("two are waiting");
        assert_eq!((first.meta.sequence, second.meta.sequence), (1, 2));
        outbox.give_back(first.meta.id).await;
        assert_eq!(
            outbox.take().await.map(|image| image.meta.sequence),
            Some(1)
        );
        outbox.settle(first.meta.id).await;
        outbox.settle(second.meta.id).await;
        assert_eq!(
            outbox.backlog(),
            Backlog {
                images: 1,
                bytes: 10
            }
        );
    }

    #[tokio::test]
    async fn a_full_outbox_makes_the_source_wait_until_there_is_room() {
        let outbox = Arc::new(MemoryOutbox::new(3_000));
        outbox.push(image(1_500)).await.expect("room");
        let pushing = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.push(image(1_500)).await }
        });
        let first = outbox.take().await.expect("one is waiting");
        assert_eq!(outbox.backlog().images, 1);
        outbox.settle(first.meta.id).await;
        assert_eq!(pushing.await.expect("no panic").expect("room now"), 2);
    }

    #[tokio::test]
    async fn an_image_that_can_never_fit_is_refused() {
        let outbox = MemoryOutbox::new(3_000);
        assert!(matches!(
            outbox.push(image(4_000)).await,
            Err(OutboxError::TooLarge { .. })
        ));
    }

    #[tokio::test]
    async fn every_taker_learns_that_the_end_has_come() {
        let outbox = Arc::new(MemoryOutbox::new(1 << 20));
        outbox.push(image(1)).await.expect("room");
        let last = outbox.take().await.expect("one is waiting");
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let outbox = Arc::clone(&outbox);
                tokio::spawn(async move { outbox.take().await.is_none() })
            })
            .collect();
        tokio::task::yield_now().await;
        outbox.close();
        outbox.settle(last.meta.id).await;
        for taker in takers {
            assert!(taker.await.expect("no panic"));
        }
    }
}
