//! Losses that a transmitter tells of, and where its outbox stands.

use shared::receipt::{Reject, RejectReason};
use shared::security::access::Caller;
use shared::wire::{LossReport, MAX_LOSSES};

use super::{Intake, MAX_NAME, forbidden};

/// Highest sequence number. An outbox that gives a million a second gets there in 290,000 years.
const MAX_SEQUENCE: u64 = i64::MAX as u64;

impl Intake {
    /// Keeps losses as durably as receipts promise, and looks for sequence numbers that are missing
    /// without a word. `report.transmitter` is who tells them. A report that tells of nothing is how one
    /// asks beforehand whether images under this name get in.
    ///
    /// # Errors
    /// When `caller` may not speak for that transmitter, the report breaks a limit or a rule, or the
    /// catalogue fails, which is worth another try.
    pub async fn keep_losses(&self, mut report: LossReport, caller: &Caller) -> Result<(), Reject> {
        check(&report)?;
        if report.transmitter.is_empty() {
            let name = caller.name().unwrap_or("anonymous");
            name.clone_into(&mut report.transmitter);
        }
        let allowed = caller.may_upload_as(&report.transmitter);
        allowed.map_err(|denied| forbidden(None, &denied))?;
        if report.losses.is_empty() && report.standing.is_none() {
            return Ok(());
        }
        let told = report.clone();
        let kept = match self.catalog().keep_losses(report).await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::error!(transmitter = told.transmitter, "losses not kept");
                return Err(self.catalog_failed(None, &error));
            }
        };
        let fresh = kept.fresh.iter().filter_map(|at| told.losses.get(*at));
        for loss in fresh {
            self.metrics().lost(&loss.reason);
            tracing::debug!(
                transmitter = told.transmitter,
                sequence = loss.sequence,
                image = %loss.image_id,
                run = loss.run,
                "lost at the transmitter: {}",
                loss.reason
            );
        }
        if !kept.fresh.is_empty() {
            tracing::warn!(
                transmitter = told.transmitter,
                losses = kept.fresh.len(),
                "the transmitter lost images; GET /v1/losses lists them"
            );
        }
        Ok(())
    }
}

fn check(report: &LossReport) -> Result<(), Reject> {
    let limit = |message: String| Err(Reject::new(None, RejectReason::Limit, message));
    let invalid = |message: String| Err(Reject::new(None, RejectReason::Invalid, message));
    let losses = report.losses.len();
    if losses > MAX_LOSSES {
        return limit(format!(
            "{losses} losses in one message; tell at most {MAX_LOSSES} at a time"
        ));
    }
    let names = report.losses.iter().map(|loss| ("run", &loss.run));
    for (what, name) in names.chain([("transmitter", &report.transmitter)]) {
        if name.len() > MAX_NAME {
            return limit(format!(
                "losses are not kept under a {what} of {} bytes; shorten it to {MAX_NAME}",
                name.len()
            ));
        }
    }
    if let Some(standing) = &report.standing {
        let (first, next) = (standing.first_owed, standing.next_sequence);
        if first > next || next > MAX_SEQUENCE {
            return invalid(format!(
                "standing.first_owed of {first} with standing.next_sequence of {next}; the first \
                 cannot be above the second, nor that above {MAX_SEQUENCE}"
            ));
        }
    }
    let over = |sequence: u64| sequence > MAX_SEQUENCE;
    match report.losses.iter().find(|loss| over(loss.sequence)) {
        Some(loss) => invalid(format!(
            "loss.sequence of {} is above {MAX_SEQUENCE}",
            loss.sequence
        )),
        None => Ok(()),
    }
}
