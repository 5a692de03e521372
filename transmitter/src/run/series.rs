//! One series: the images of the source over one transport.

use std::sync::Arc;

use shared::image::Transport;
use shared::report::Report;
use shared::telemetry::{Usage, WireCount};
use tokio_util::sync::CancellationToken;

use super::accounts::Accounts;
use super::capturing::Capturing;
use super::record::Record;
use super::{RunError, RunOutcome, Stage};
use crate::capture::{self, Capture};
use crate::config::{OutboxPlace, SourceOptions};
use crate::delivery::{Delivery, End, Means, PARTING, Tally};
use crate::link::Link;
use crate::outbox::SeriesKey;
use crate::progress;

pub(super) struct Series<'a> {
    pub(super) stage: &'a Stage<'a>,
    pub(super) transport: Transport,
    pub(super) wire: WireCount,
    pub(super) link: Arc<dyn Link>,
    pub(super) last_transport: Transport,
}

impl Series<'_> {
    /// Captures and delivers until the source has ended and nothing is owed, or the run is stopped.
    pub(super) async fn run(
        self,
        stop: CancellationToken,
    ) -> Result<(Report, RunOutcome), RunError> {
        let stage = self.stage;
        let config = stage.config;
        let outbox = &stage.outbox;
        let (capture, unopened) = self.open_source().await?;
        let key = SeriesKey {
            run: stage.label.clone(),
            transport: self.transport,
        };
        let begun = outbox.begin_series(key.clone()).await;
        begun.map_err(|source| stage.outbox_failed(source))?;
        let own_from = outbox.standing().next_sequence;
        let total = self.expected_images();
        let tally = Arc::new(Tally::new(self.transport, total, Some(Arc::clone(outbox))));
        let usage = Usage::now();
        let account = super::accounts::new_account(stage, self.transport);
        let record = Arc::new(Record::new(account, stage, self.last_transport));
        let delivery = Delivery::new(Means {
            outbox: Arc::clone(outbox),
            link: Arc::clone(&self.link),
            ledger: Arc::clone(&record) as _,
            tally: Arc::clone(&tally),
            options: stage.link_options(),
            retry: config.retry.clone(),
            own_from,
            spans: stage.spans.clone(),
        });
        stage.status.begin(&tally, &self.wire, &delivery);
        let accounts = Accounts::new(stage, key, &self, usage, &record, &tally, &delivery);
        accounts.save(false).await;
        let capturing = Capturing::new(stage, self.transport, own_from, &record, &tally);
        let shown = CancellationToken::new();
        let progress = progress::spawn(Arc::clone(&tally) as _, config.progress, shown.clone());
        let silent = CancellationToken::new();
        let capturing = async {
            let failure = match capture {
                Some(capture) => capturing.all(capture, &stop).await,
                None => unopened,
            };
            outbox.close();
            tally.draining();
            failure
        };
        let delivering = async {
            let last_account = || async {
                silent.cancel();
                accounts.tell_the_end().await;
            };
            let end = delivery.run(last_account).await;
            // Whether or not there was time for the last one.
            silent.cancel();
            end
        };
        let stopping = async {
            stop.cancelled().await;
            // The last words belong to the grace period, too.
            let parting = PARTING.min(config.grace / 2);
            tokio::time::sleep(config.grace - parting).await;
            delivery.stop();
            std::future::pending::<std::convert::Infallible>().await
        };
        let work = async {
            let gone = CancellationToken::new();
            let capturing = async {
                tokio::select! {
                    failure = capturing => failure,
                    () = gone.cancelled() => None,
                }
            };
            let delivering = async {
                let end = delivering.await;
                // Nobody takes images any more.
                gone.cancel();
                end
            };
            tokio::join!(capturing, delivering)
        };
        let ((failure, end), ()) = tokio::select! {
            done = async { tokio::join!(work, accounts.report_regularly(&silent)) } => done,
            never = stopping => match never {},
        };
        shown.cancel();
        let _ = progress.await;
        accounts.end().await;
        let outcome = self.outcome(&tally, failure, end);
        Ok((record.finish(accounts.local(true)), outcome))
    }

    /// A source that cannot be opened does not keep what is owed already from being delivered.
    async fn open_source(&self) -> Result<(Option<Box<dyn Capture>>, Option<String>), RunError> {
        match capture::open(&self.stage.config.source).await {
            Ok(capture) => Ok((Some(capture), None)),
            Err(error) if self.stage.outbox.backlog().images > 0 => {
                tracing::error!(
                    "source: {error}; what is owed from before is delivered, then it ends"
                );
                Ok((None, Some(error.to_string())))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn expected_images(&self) -> Option<u64> {
        let source = match &self.stage.config.source {
            SourceOptions::File { repeat, .. } => Some(*repeat),
            _ => None,
        };
        match (source, self.stage.config.pace.count) {
            (Some(source), Some(count)) => Some(source.min(count)),
            (one, other) => one.or(other),
        }
    }

    fn outcome(&self, tally: &Tally, failure: Option<String>, end: End) -> RunOutcome {
        if let End::GaveUp { problem } = end {
            return RunOutcome::Unreachable(problem);
        }
        if let Some(failure) = failure {
            return RunOutcome::SourceFailed(failure);
        }
        let (own, earlier) = (tally.totals(), tally.earlier());
        let owing = own.owed() > 0 || self.stage.outbox.backlog().images > 0;
        let is_kept = matches!(self.stage.config.outbox.place, OutboxPlace::Folder(_));
        if owing && !is_kept {
            return RunOutcome::Owed;
        }
        if own.lost + earlier.lost > 0 {
            RunOutcome::Lost
        } else if own.quarantined + earlier.quarantined > 0 {
            RunOutcome::Quarantined
        } else if owing {
            RunOutcome::Kept
        } else {
            RunOutcome::Delivered
        }
    }
}
