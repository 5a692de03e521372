//! What the receiver is told of runs, and what is kept of them for a later process.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::clock::UnixNanos;
use shared::image::Transport;
use shared::report::RunAccount;
use shared::telemetry::{Usage, WireCount};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Stage;
use super::record::Record;
use super::series::Series;
use crate::config::OutboxPlace;
use crate::delivery::{Delivery, Tally};
use crate::link::{Connection, Link, LinkError};
use crate::outbox::SeriesKey;

/// Time between accounts to the receiver.
const ACCOUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two times that an account is kept: it costs a write to the medium.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Accounts<'a> {
    stage: &'a Stage<'a>,
    key: SeriesKey,
    wire: WireCount,
    link: Arc<dyn Link>,
    /// What the process had used when the series began.
    before: Usage,
    record: Arc<Record>,
    tally: Arc<Tally>,
    delivery: Arc<Delivery>,
    /// The counts of the account that was kept last, and when that was.
    saved: Mutex<Option<(Instant, u64, u64)>>,
    /// The receiver knows that the series is over.
    told_end: Mutex<bool>,
}

impl<'a> Accounts<'a> {
    pub(super) fn new(
        stage: &'a Stage<'a>,
        key: SeriesKey,
        series: &Series<'_>,
        before: Usage,
        record: &Arc<Record>,
        tally: &Arc<Tally>,
        delivery: &Arc<Delivery>,
    ) -> Self {
        Self {
            stage,
            key,
            wire: series.wire.clone(),
            link: Arc::clone(&series.link),
            before,
            record: Arc::clone(record),
            tally: Arc::clone(tally),
            delivery: Arc::clone(delivery),
            saved: Mutex::default(),
            told_end: Mutex::default(),
        }
    }

    /// Tells the receiver how things stand, every second, until `stop`.
    pub(super) async fn report_regularly(&self, stop: &CancellationToken) {
        let mut ticks = tokio::time::interval(ACCOUNT_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            self.stage.watch_health();
            if let Some(connection) = self.delivery.connection() {
                self.tell(&*connection, false, stop).await;
                self.tell_earlier(&*connection, stop).await;
            }
            self.save(false).await;
        }
    }

    /// Tells the receiver how the run ended.
    pub(super) async fn tell_the_end(&self) {
        // Whoever waits for this has a limit of its own.
        let never = CancellationToken::new();
        let Some(connection) = self.delivery.connection() else {
            return;
        };
        let told = self.tell(&*connection, true, &never).await
            && self.tell_earlier(&*connection, &never).await;
        if told || self.tally.totals().owed() > 0 {
            return;
        }
        // A receiver that has just answered the last image is there: its report should not lack
        // the account because the connection broke in between.
        let timeout = self.stage.config.link.connect_timeout;
        if let Ok(Ok(connection)) = tokio::time::timeout(timeout, self.link.connect()).await {
            self.tell(&*connection, true, &never).await;
            self.tell_earlier(&*connection, &never).await;
            connection.close().await;
        }
    }

    /// The series is over as far as this process is concerned.
    pub(super) async fn end(&self) {
        self.save(true).await;
        if self.tally.totals().owed() > 0 {
            self.stage.carried.adopt(self.key.clone(), self.told(true));
        }
    }

    /// Tells the receiver how the series stands, in portions, unless it is interrupted; whether it
    /// went out.
    async fn tell(
        &self,
        connection: &dyn Connection,
        finished: bool,
        interrupt: &CancellationToken,
    ) -> bool {
        loop {
            let mut account = self.told(finished);
            account.clock = connection.clock();
            let (mut images, mut more) = self.record.take_untold();
            if !more {
                let earlier = self.stage.carried.take_untold(&self.key);
                more = !earlier.is_empty();
                images.extend(earlier);
            }
            account.images.clone_from(&images);
            // What stays in the outbox goes on, and so does the series.
            account.finished = finished && !more && (account.owed == 0 || !self.is_kept());
            account.ended = account.finished.then(UnixNanos::now);
            let ends = account.finished;
            if let Err(error) = send(connection, account, interrupt).await {
                tracing::debug!("the receiver was not told of the run: {error}");
                self.record.tell_later(images);
                return false;
            }
            *self.told_end.lock() = ends;
            if !more {
                return true;
            }
        }
    }

    /// Tells of series of earlier processes, where something is new; whether all of it went out.
    async fn tell_earlier(
        &self,
        connection: &dyn Connection,
        interrupt: &CancellationToken,
    ) -> bool {
        let carried = &self.stage.carried;
        while let Some(message) = carried.message(&self.key, &self.stage.config.name) {
            if let Err(error) = send(connection, message.account.clone(), interrupt).await {
                tracing::debug!("the receiver was not told of an earlier run: {error}");
                carried.tell_later(message);
                return false;
            }
            carried.told(&message);
            let (finished, mut account) = (message.account.finished, message.account);
            account.images.clear();
            let outbox = &self.stage.outbox;
            outbox.save_account(&message.key, account, finished).await;
        }
        true
    }

    /// Keeps the account for a later process, if there is something new.
    pub(super) async fn save(&self, at_once: bool) {
        let account = self.told(at_once);
        let answered = account.captured - account.owed.min(account.captured);
        let now = Instant::now();
        {
            let mut saved = self.saved.lock();
            let is_due = saved.is_none_or(|(at, captured, before)| {
                now - at >= SAVE_INTERVAL && (captured, before) != (account.captured, answered)
            });
            if !is_due && !at_once {
                return;
            }
            *saved = Some((now, account.captured, answered));
        }
        let told_end = *self.told_end.lock();
        let outbox = &self.stage.outbox;
        outbox.save_account(&self.key, account, told_end).await;
    }

    fn is_kept(&self) -> bool {
        matches!(self.stage.config.outbox.place, OutboxPlace::Folder(_))
    }

    /// What the receiver is told: this series, and what earlier processes did of it.
    fn told(&self, finished: bool) -> RunAccount {
        let local = self.local(finished);
        self.stage.carried.continued(&self.key, local)
    }

    /// What this process did of this series.
    pub(super) fn local(&self, finished: bool) -> RunAccount {
        let totals = self.tally.totals();
        let usage = Usage::now();
        RunAccount {
            captured: totals.captured,
            delivered: totals.delivered,
            duplicates: totals.duplicates,
            quarantined: totals.quarantined,
            owed: totals.owed(),
            lost: totals.lost,
            retries: totals.retries,
            wire_bytes_sent: self.wire.sent(),
            wire_bytes_received: self.wire.received(),
            image_bytes_sent: self.wire.image_bytes_sent(),
            image_bytes_resent: self.wire.image_bytes_resent(),
            cpu_seconds: usage.cpu.saturating_sub(self.before.cpu).as_secs_f64(),
            peak_memory_bytes: usage.peak_memory,
            clock: self.record.clock(),
            ended: finished.then(UnixNanos::now),
            finished,
            ..self.record.account()
        }
    }
}

async fn send(
    connection: &dyn Connection,
    account: RunAccount,
    interrupt: &CancellationToken,
) -> Result<(), LinkError> {
    tokio::select! {
        biased;
        told = connection.account(account) => told,
        () = interrupt.cancelled() => Err(LinkError::Lost("no time left".to_owned())),
    }
}

/// The account of a series that begins.
pub(super) fn new_account(stage: &Stage<'_>, transport: Transport) -> RunAccount {
    let delay = stage.config.pace.delay.as_nanos();
    RunAccount {
        run: stage.label.clone(),
        transport,
        transmitter: stage.config.name.clone(),
        captured: 0,
        delivered: 0,
        duplicates: 0,
        quarantined: 0,
        owed: 0,
        lost: 0,
        retries: 0,
        wire_bytes_sent: 0,
        wire_bytes_received: 0,
        image_bytes_sent: 0,
        image_bytes_resent: 0,
        cpu_seconds: 0.0,
        peak_memory_bytes: 0,
        delay_ns: u64::try_from(delay).unwrap_or(u64::MAX),
        started: UnixNanos::now(),
        ended: None,
        clock: None,
        images: Vec::new(),
        finished: false,
        shared_process: stage.shared_process,
    }
}
