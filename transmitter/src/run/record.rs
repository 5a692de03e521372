//! Keeps what is settled: rows for the report, figures for the receiver, files to clean up.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::clock::{ClockEstimate, UnixNanos};
use shared::image::{ImageId, ImageMeta};
use shared::report::{Header, ImageAccount, ImageRow, Outcome, Report, ReportBuilder, RunAccount};
use shared::telemetry::chain;
use tokio::sync::Notify;

use crate::capture::{Settled as FileSettled, Taken, settle_file};
use crate::config::{AfterDelivery, Config, SourceOptions};
use crate::delivery::{Ledger, Settled, Settlement};

/// Images told to the receiver in one account.
const PORTION: usize = 1_000;

/// What one series leaves behind.
pub(super) struct Record {
    account: RunAccount,
    state: Mutex<State>,
    /// An image was settled.
    progress: Notify,
    after_delivery: AfterDelivery,
    root: Option<PathBuf>,
    keep_waiting: bool,
}

struct State {
    report: ReportBuilder,
    unreported: VecDeque<ImageAccount>,
    clock: Option<ClockEstimate>,
    /// Settled images that a closed loop has yet to notice.
    settled: HashSet<ImageId>,
    receiver: Option<String>,
}

impl Record {
    pub(super) fn new(account: RunAccount, config: &Config, final_pass: bool) -> Self {
        let (after_delivery, root) = match &config.source {
            SourceOptions::Folder(folder) if final_pass => {
                (folder.after_delivery.clone(), Some(folder.path.clone()))
            }
            _ => (AfterDelivery::Keep, None),
        };
        let header = header_of(&account);
        Self {
            keep_waiting: !config.pace.delay.is_zero() && config.pace.rate.is_none(),
            account,
            state: Mutex::new(State {
                report: ReportBuilder::new(header),
                unreported: VecDeque::new(),
                clock: None,
                settled: HashSet::new(),
                receiver: None,
            }),
            progress: Notify::new(),
            after_delivery,
            root,
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
    pub(super) fn unreported(&self) -> (Vec<ImageAccount>, bool) {
        let mut state = self.state.lock();
        let count = state.unreported.len().min(PORTION);
        let portion = state.unreported.drain(..count).collect();
        (portion, !state.unreported.is_empty())
    }

    /// A portion could not be told.
    pub(super) fn report_later(&self, portion: Vec<ImageAccount>) {
        let mut state = self.state.lock();
        for image in portion.into_iter().rev() {
            state.unreported.push_front(image);
        }
    }

    /// An image was lost before it came into the outbox.
    pub(super) fn lose(&self, meta: &ImageMeta, reason: &str) {
        tracing::error!(image = %meta.id, name = meta.name.as_deref(), "lost: {reason}");
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
    async fn clean_up(&self, meta: &ImageMeta, file: PathBuf) {
        if self.after_delivery == AfterDelivery::Keep {
            return;
        }
        let (policy, root) = (self.after_delivery.clone(), self.root.clone());
        let taken = Taken {
            size: meta.size,
            captured: meta.captured.unwrap_or_else(UnixNanos::now),
        };
        let done = tokio::task::spawn_blocking(move || {
            let done = settle_file(&policy, root.as_deref(), &file, &taken);
            (file, done)
        });
        match done.await {
            Ok((file, Ok(FileSettled::Changed))) => tracing::warn!(
                image = %meta.id, file = %file.display(),
                "the file was changed after it was captured and is left alone"
            ),
            Ok((_, Ok(_))) => {}
            Ok((_, Err(error))) => tracing::error!(image = %meta.id, "{}", chain(&error)),
            Err(panic) => tracing::error!(image = %meta.id, "{panic}"),
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
    async fn settled(&self, settled: &Settled) {
        let image = &settled.image;
        let meta = &image.meta;
        let stored = matches!(settled.settlement, Settlement::Receipt(_));
        if let (true, Some(file)) = (stored, image.source_file.clone()) {
            self.clean_up(meta, file).await;
        }
        match &settled.settlement {
            Settlement::Receipt(_) => tracing::debug!(
                image = %meta.id, name = meta.name.as_deref(), sequence = meta.sequence,
                took = ?settled.delivery, "delivered"
            ),
            Settlement::Quarantined(reject) => tracing::warn!(
                image = %meta.id, name = meta.name.as_deref(), sequence = meta.sequence,
                reason = %reject.reason, "quarantined by the receiver: {reject}"
            ),
            Settlement::Lost(reason) => tracing::error!(
                image = %meta.id, name = meta.name.as_deref(), sequence = meta.sequence,
                "lost: {reason}"
            ),
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
            state.unreported.push_back(ImageAccount {
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

fn header_of(account: &RunAccount) -> Header {
    Header {
        run: account.run.clone(),
        transport: account.transport,
        transmitter: account.transmitter.clone(),
        receiver: None,
        generated_at: UnixNanos::now(),
    }
}

fn row_of(meta: &ImageMeta, outcome: Outcome, reason: Option<String>, attempts: u32) -> ImageRow {
    ImageRow {
        sequence: meta.sequence,
        image_id: meta.id,
        name: meta.name.clone(),
        size: meta.size,
        outcome,
        reason,
        attempts,
        captured: meta.captured,
        queued: meta.queued,
        send_started: None,
        first_byte: None,
        last_byte: None,
        verified: None,
        durable: None,
        transmission_ns: None,
        transmission_error_ns: None,
        delivery_ns: None,
    }
}

fn settled_row(settled: &Settled) -> ImageRow {
    let meta = &settled.image.meta;
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (outcome, reason) = match &settled.settlement {
        Settlement::Receipt(_) if settled.is_duplicate() => (Outcome::Duplicate, None),
        Settlement::Receipt(_) => (Outcome::Delivered, None),
        Settlement::Quarantined(reject) => (
            Outcome::Quarantined,
            Some(format!("{}: {reject}", reject.reason)),
        ),
        Settlement::Lost(reason) => (Outcome::Lost, Some(reason.clone())),
    };
    let mut row = row_of(meta, outcome, reason, settled.attempts);
    row.send_started = Some(settled.started);
    if let Settlement::Receipt(receipt) = &settled.settlement {
        row.delivery_ns = Some(nanos(settled.delivery));
        let times = receipt.timeline;
        row.first_byte = Some(times.first_byte);
        row.last_byte = Some(times.last_byte);
        row.verified = Some(times.verified);
        row.durable = Some(times.durable);
        // A duplicate's times are those of another attempt.
        if receipt.status == shared::receipt::ReceiptStatus::Stored {
            row.transmission_ns = Some(nanos(match settled.clock {
                Some(clock) => clock.one_way(settled.started, times.last_byte),
                None => std::time::Duration::from_nanos(
                    times.last_byte.since(settled.started).max(0).unsigned_abs(),
                ),
            }));
            row.transmission_error_ns = settled.clock.map(|clock| clock.error_ns);
        }
    }
    row
}
