//! Keeps what is settled: rows for the report, figures for the receiver, files to clean up.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::clock::{ClockEstimate, UnixNanos};
use shared::image::{ImageId, ImageMeta, Transport};
use shared::report::{ImageAccount, Outcome, Report, ReportBuilder, RunAccount};
use shared::telemetry::chain;
use tokio::sync::Notify;

use super::Stage;
use super::carried::Carried;
use super::rows::{header_of, row_of, settled_row};
use super::untold::Untold;
use crate::capture::{Settled as FileSettled, Taken, settle_file};
use crate::config::{AfterDelivery, OutboxFiles, OutboxPlace, SourceOptions};
use crate::delivery::{Ledger, LossKind, Settled, Settlement, Traces};
use crate::outbox::{FileMark, Owed};
use crate::receipts::ReceiptLog;
use crate::workers::FILES;

/// What one series leaves behind.
pub(super) struct Record {
    account: RunAccount,
    state: Mutex<State>,
    /// An image was settled.
    progress: Notify,
    carried: Arc<Carried>,
    receipts: Option<Arc<ReceiptLog>>,
    after_delivery: AfterDelivery,
    root: Option<PathBuf>,
    /// The transport after which a file is not needed any more.
    last_transport: Transport,
    files: Files,
    traces: Traces,
    keep_waiting: bool,
}

/// What the outbox does with the files of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    /// Nothing that shows.
    Untouched,
    /// It gives them a second name, which changes their change time.
    Linked,
    /// It knows only their paths.
    Referred,
}

struct State {
    report: ReportBuilder,
    untold: Untold,
    clock: Option<ClockEstimate>,
    /// Settled images that a closed loop has yet to notice.
    settled: HashSet<ImageId>,
    receiver: Option<String>,
}

impl Record {
    pub(super) fn new(account: RunAccount, stage: &Stage<'_>, last_transport: Transport) -> Self {
        let config = stage.config;
        let (after_delivery, root) = match &config.source {
            SourceOptions::Folder(folder) => {
                (folder.after_delivery.clone(), Some(folder.path.clone()))
            }
            _ => (AfterDelivery::Keep, None),
        };
        let files = match (&config.outbox.place, config.outbox.files) {
            (OutboxPlace::Folder(_), OutboxFiles::Link) => Files::Linked,
            (OutboxPlace::Folder(_), OutboxFiles::Reference) => Files::Referred,
            _ => Files::Untouched,
        };
        let header = header_of(&account);
        Self {
            traces: Traces::new(stage.spans.clone(), account.transport),
            keep_waiting: !config.pace.delay.is_zero() && config.pace.rate.is_none(),
            account,
            state: Mutex::new(State {
                report: ReportBuilder::new(header),
                untold: Untold::default(),
                clock: None,
                settled: HashSet::new(),
                receiver: None,
            }),
            progress: Notify::new(),
            carried: Arc::clone(&stage.carried),
            receipts: stage.receipts.clone(),
            after_delivery,
            root,
            last_transport,
            files,
        }
    }

    /// The account as it was at the start.
    pub(super) fn account(&self) -> RunAccount {
        self.account.clone()
    }

    /// The receiver's clock as it was estimated last.
    pub(super) fn clock(&self) -> Option<ClockEstimate> {
        self.state.lock().clock
    }

    /// Waits until an image is settled.
    pub(super) async fn settled(&self, id: ImageId) {
        loop {
            let progress = self.progress.notified();
            if self.state.lock().settled.remove(&id) {
                return;
            }
            progress.await;
        }
    }

    /// The next portion of figures that the receiver has not been told, and whether there are more.
    pub(super) fn take_untold(&self) -> (Vec<ImageAccount>, bool) {
        let mut state = self.state.lock();
        (state.untold.take(), !state.untold.is_empty())
    }

    /// A portion could not be told.
    pub(super) fn tell_later(&self, portion: Vec<ImageAccount>) {
        self.state.lock().untold.put_back(portion);
    }

    /// An image was lost while it waited, or before.
    pub(super) fn lose(&self, meta: &ImageMeta, own: bool, kind: LossKind, reason: &str) {
        self.traces.lost(meta, kind.key(), reason);
        let name = meta.name.as_deref();
        if kind == LossKind::Evicted {
            // Who sees to the pushing says once that images give way.
            tracing::debug!(image = %meta.id, name, sequence = meta.sequence, "lost: {reason}");
        } else {
            tracing::error!(image = %meta.id, name, sequence = meta.sequence, "lost: {reason}");
        }
        if !own {
            self.carried.lost(meta, self.account.transport);
            return;
        }
        let mut state = self.state.lock();
        let row = row_of(meta, Outcome::Lost, Some(reason.to_owned()), 0);
        state.report.add(&row);
        if self.keep_waiting {
            state.settled.insert(meta.id);
        }
        drop(state);
        self.progress.notify_waiters();
    }

    /// Does with a delivered file what the settings ask for.
    async fn clean_up(&self, image: &Owed) {
        let Some(file) = image.source_file.clone() else {
            return;
        };
        let mark = image.source_mark.as_ref();
        let transport = mark.map_or(self.account.transport, |mark| mark.transport);
        if self.after_delivery == AfterDelivery::Keep || transport != self.last_transport {
            return;
        }
        let (policy, root) = (self.after_delivery.clone(), self.root.clone());
        let meta = &image.meta;
        let taken = Taken {
            size: meta.size,
            captured: meta.captured.unwrap_or_else(UnixNanos::now),
            linked: mark
                .filter(|_| self.files == Files::Linked)
                .map(|FileMark { modified, .. }| *modified),
        };
        let work = move || {
            let done = settle_file(&policy, root.as_deref(), &file, &taken);
            Ok((file, done))
        };
        match FILES.work(work).await {
            Ok((file, Ok(FileSettled::Changed))) => tracing::warn!(
                image = %meta.id, file = %file.display(),
                "the file was changed after it was captured and is left alone"
            ),
            Ok((_, Ok(_))) => {}
            Ok((_, Err(error))) => tracing::error!(image = %meta.id, "{}", chain(&error)),
            Err(error) => tracing::error!(image = %meta.id, "{error}"),
        }
    }

    /// The report of the series.
    pub(super) fn finish(&self, account: RunAccount) -> Report {
        let mut state = self.state.lock();
        let header = header_of(&account);
        let mut report = std::mem::replace(&mut state.report, ReportBuilder::new(header));
        report.account(&account);
        let mut report = report.finish();
        report.receiver.clone_from(&state.receiver);
        report.generated_at = UnixNanos::now();
        report
    }
}

#[async_trait]
impl Ledger for Record {
    async fn prepare(&self, settled: &Settled) -> std::io::Result<()> {
        if let Some(receipts) = &self.receipts {
            receipts.write(settled, self.account.transport).await?;
        }
        // Where the outbox has the bytes, the file goes first: if the process ends in between, the
        // image is sent again, found to be there, and settled. Where it has only the path, the file
        // goes last: without it, the image would be taken for lost.
        if self.files != Files::Referred && matches!(settled.settlement, Settlement::Receipt(_)) {
            self.clean_up(&settled.image).await;
        }
        Ok(())
    }

    async fn settled(&self, settled: &Settled) {
        if self.files == Files::Referred && matches!(settled.settlement, Settlement::Receipt(_)) {
            self.clean_up(&settled.image).await;
        }
        log(settled);
        let meta = &settled.image.meta;
        if !settled.own {
            let mut state = self.state.lock();
            state.clock = settled.clock.or(state.clock);
            drop(state);
            self.carried.settled(settled, self.account.transport);
            return;
        }
        let row = settled_row(settled);
        let mut state = self.state.lock();
        state.report.add(&row);
        state.clock = settled.clock.or(state.clock);
        if let Settlement::Receipt(receipt) = &settled.settlement {
            state
                .receiver
                .get_or_insert_with(|| receipt.receiver.clone());
        }
        if row.delivery_ns.is_some() {
            state.untold.push(ImageAccount {
                image_id: meta.id,
                delivery_ns: row.delivery_ns.unwrap_or(0),
                attempts: settled.attempts,
            });
        }
        if self.keep_waiting {
            state.settled.insert(meta.id);
        }
        drop(state);
        self.progress.notify_waiters();
    }
}

fn log(settled: &Settled) {
    let meta = &settled.image.meta;
    let (name, sequence) = (meta.name.as_deref(), meta.sequence);
    match &settled.settlement {
        Settlement::Receipt(_) => tracing::debug!(
            image = %meta.id, name, sequence, took = ?settled.delivery, "delivered"
        ),
        Settlement::Quarantined(reject) => tracing::warn!(
            image = %meta.id, name, sequence, reason = %reject.reason,
            "quarantined by the receiver: {reject}"
        ),
        Settlement::Lost(LossKind::Conflict, reason) => tracing::error!(
            image = %meta.id, name, sequence, run = meta.run,
            "LOST: the receiver has another image with this id, which never happens by itself; \
             look for a second transmitter on a copy of this outbox: {reason}"
        ),
        Settlement::Lost(_, reason) => tracing::error!(
            image = %meta.id, name, sequence, "lost: {reason}"
        ),
    }
}
