//! From the source into the outbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::image::{ImageMeta, Transport};
use shared::telemetry::chain;
use tokio_util::sync::CancellationToken;

use super::Stage;
use super::record::Record;
use crate::capture::{Capture, CaptureError, Captured};
use crate::config::SourceOptions;
use crate::delivery::{LossKind, Tally};
use crate::outbox::{FULL_RETRY, FileMark, OutboxError, Owed, Pushed};
use crate::pace::{Next, Pace};

/// A source that gives nothing for this long has told of all files that were captured before.
const QUIET: Duration = Duration::from_secs(1);

pub(super) struct Capturing<'a> {
    stage: &'a Stage<'a>,
    transport: Transport,
    /// Images with lower sequence numbers are of earlier series.
    own_from: u64,
    record: Arc<Record>,
    tally: Arc<Tally>,
    /// Images that gave way to others since there was room for the last time.
    evicted: Mutex<u64>,
}

/// What became of a captured image.
enum Kept {
    /// It is in the outbox, or lost.
    Yes,
    /// The outbox takes no more.
    Closed,
}

impl<'a> Capturing<'a> {
    pub(super) fn new(
        stage: &'a Stage<'a>,
        transport: Transport,
        own_from: u64,
        record: &Arc<Record>,
        tally: &Arc<Tally>,
    ) -> Self {
        Self {
            stage,
            transport,
            own_from,
            record: Arc::clone(record),
            tally: Arc::clone(tally),
            evicted: Mutex::new(0),
        }
    }

    /// Takes images from the source until it ends or the run is stopped; the failure of the
    /// source, if it failed.
    pub(super) async fn all(
        &self,
        mut capture: Box<dyn Capture>,
        stop: &CancellationToken,
    ) -> Option<String> {
        let start = Instant::now();
        let mut pace = Pace::new(&self.stage.config.pace, fastrand::u64(..));
        let mut skipped = Skipped::default();
        loop {
            pace.wait(*self.stage.waits.lock());
            let due = match pace.next(start.elapsed()) {
                Next::At(due) => due,
                Next::Done => return None,
            };
            let captured = tokio::select! {
                captured = async {
                    tokio::time::sleep_until((start + due).into()).await;
                    self.next_image(capture.as_mut(), start, &mut skipped).await
                } => captured,
                () = stop.cancelled() => return None,
            };
            skipped.tell(&self.stage.config.source);
            let captured = match captured {
                Ok(Some(captured)) => captured,
                Ok(None) => return None,
                Err(error) => return Some(error.to_string()),
            };
            let id = captured.id;
            match self.keep(captured, stop).await {
                Kept::Yes => {}
                Kept::Closed => return None,
            }
            if pace.waits_for_delivery() {
                tokio::select! {
                    () = self.record.settled(id) => pace.delivered(start.elapsed()),
                    () = stop.cancelled() => return None,
                }
            }
        }
    }

    /// The next image of the source, unless the time of the run is over before.
    async fn next_image(
        &self,
        capture: &mut dyn Capture,
        start: Instant,
        skipped: &mut Skipped,
    ) -> Result<Option<Captured>, CaptureError> {
        let fresh = self.next_fresh(capture, skipped);
        match self.stage.config.pace.run_for {
            None => fresh.await,
            Some(run_for) => {
                let left = run_for.saturating_sub(start.elapsed());
                let fresh = tokio::time::timeout(left, fresh).await;
                fresh.unwrap_or(Ok(None))
            }
        }
    }

    /// The next image that was not captured before.
    async fn next_fresh(
        &self,
        capture: &mut dyn Capture,
        skipped: &mut Skipped,
    ) -> Result<Option<Captured>, CaptureError> {
        loop {
            let captured = tokio::select! {
                captured = capture.next() => captured?,
                () = tokio::time::sleep(QUIET), if skipped.untold > 0 => {
                    skipped.tell(&self.stage.config.source);
                    continue;
                }
            };
            let Some(captured) = captured else {
                return Ok(None);
            };
            match self.mark(&captured) {
                Some(mark) if self.is_old(&mark).await => skipped.untold += 1,
                _ => return Ok(Some(captured)),
            }
        }
    }

    async fn is_old(&self, mark: &FileMark) -> bool {
        let again = match &self.stage.config.source {
            SourceOptions::Folder(folder) => folder.recapture,
            _ => true,
        };
        if again {
            return false;
        }
        let mut warned = false;
        loop {
            match self.stage.outbox.knows(mark).await {
                Ok(known) => return known,
                Err(error) if !std::mem::replace(&mut warned, true) => tracing::warn!(
                    "whether {} was captured before is not known: {}; capture waits until it is",
                    mark.path.display(),
                    chain(&error)
                ),
                Err(_) => {}
            }
            // Captured again, it would be stored twice. The caller heeds the end of the run.
            tokio::time::sleep(FULL_RETRY).await;
        }
    }

    fn mark(&self, captured: &Captured) -> Option<FileMark> {
        Some(FileMark {
            path: captured.source_file.clone()?,
            size: captured.payload.size(),
            modified: captured.modified?,
            transport: self.transport,
        })
    }

    /// Puts an image into the outbox.
    async fn keep(&self, captured: Captured, stop: &CancellationToken) -> Kept {
        let mut meta = ImageMeta::new(captured.id, captured.payload.size());
        meta.captured = Some(captured.captured);
        meta.run.clone_from(&self.stage.label);
        let mark = self.mark(&captured);
        meta.name = captured.name;
        meta.content_type = captured.content_type;
        // Counted before the outbox has it: an image is never settled before it is captured.
        self.tally.capture();
        match captured.payload.digest(self.stage.config.digest).await {
            Ok(digest) => meta.digest = Some(digest),
            Err(error) => {
                let reason = format!("unreadable: {error}");
                return self.lose(meta, LossKind::Unreadable, &reason, stop).await;
            }
        }
        let lost_meta = meta.clone();
        let owed = Owed {
            meta,
            payload: captured.payload,
            source_file: captured.source_file,
            source_mark: mark,
            carried: false,
        };
        match self.push(owed, stop).await {
            Ok(pushed) => {
                self.evict(pushed);
                Kept::Yes
            }
            Err(OutboxError::Closed) => {
                self.tally.uncapture();
                Kept::Closed
            }
            Err(error) => {
                let reason = chain(&error);
                self.lose(lost_meta, LossKind::NotKept, &reason, stop).await
            }
        }
    }

    async fn push(&self, owed: Owed, stop: &CancellationToken) -> Result<Pushed, OutboxError> {
        let outbox = &self.stage.outbox;
        let mut pushing = outbox.push(owed);
        tokio::select! {
            pushed = &mut pushing => return pushed,
            () = stop.cancelled() => {}
        }
        // A closed outbox answers whether it has the image or not: dropped, it would not say.
        outbox.close();
        pushing.await
    }

    /// Enters an image that cannot be kept into the ledger.
    async fn lose(
        &self,
        meta: ImageMeta,
        kind: LossKind,
        reason: &str,
        stop: &CancellationToken,
    ) -> Kept {
        let mut warned = false;
        let lost = loop {
            match self.stage.outbox.lose(meta.clone(), reason).await {
                Ok(lost) => break lost.meta,
                Err(error) if !std::mem::replace(&mut warned, true) => tracing::error!(
                    "the loss of an image cannot be written down: {}; capture waits until it can",
                    chain(&error)
                ),
                Err(_) => {}
            }
            // Nothing is lost without being named: no image is taken meanwhile.
            tokio::select! {
                () = tokio::time::sleep(FULL_RETRY) => {}
                () = stop.cancelled() => break meta,
            }
        };
        self.tally.lose(true, kind);
        self.record.lose(&lost, true, kind, reason);
        Kept::Yes
    }

    /// Counts what gave way to a new image.
    fn evict(&self, pushed: Pushed) {
        let mut evicted = self.evicted.lock();
        match (pushed.lost.is_empty(), *evicted) {
            (true, 0) => return,
            (true, images) => {
                tracing::info!(images, "the outbox has room again; so many gave way");
                *evicted = 0;
            }
            (false, 0) => tracing::warn!(
                "the outbox is full: images give way (--when-full) and enter the loss ledger"
            ),
            (false, _) => {}
        }
        for lost in pushed.lost {
            *evicted += 1;
            let own = lost.meta.sequence >= self.own_from;
            self.tally.lose(own, LossKind::Evicted);
            self.record
                .lose(&lost.meta, own, LossKind::Evicted, &lost.reason);
        }
    }
}

/// Files that are not captured a second time.
#[derive(Debug, Default)]
struct Skipped {
    untold: u64,
}

impl Skipped {
    /// Says how many there were since it was said last.
    fn tell(&mut self, source: &SourceOptions) {
        let files = std::mem::take(&mut self.untold);
        if let (1.., SourceOptions::Folder(folder)) = (files, source) {
            tracing::info!(
                "{files} files of {} were captured before and are skipped; --folder-recapture \
                 sends them again",
                folder.path.display()
            );
        }
    }
}
