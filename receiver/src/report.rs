//! Adds up what the catalogue knows: one report per series, that is, per run, transport and
//! transmitter.

use std::sync::Arc;

use shared::clock::UnixNanos;
use shared::report::{Header, ImageRow, Ledger, LossReason, Report, ReportBuilder, Usage};

use crate::catalog::{Catalog, CatalogError, Filter, RunLedger, Series, report_row};

/// Rows that are in memory at a time.
const PAGE: usize = 1_000;

/// The images of a series in order of arrival, a page at a time: as many as there were when the
/// series was asked for, so that a run that still goes on has an end.
pub struct Rows {
    catalog: Arc<dyn Catalog>,
    filter: Filter,
    after: i64,
    left: u64,
}

impl Rows {
    /// The images of `series`.
    pub fn of(catalog: Arc<dyn Catalog>, series: &Series) -> Self {
        let filter = Filter {
            run: Some(series.run.clone()),
            transport: Some(series.transport),
            transmitter: Some(series.transmitter.clone()),
            quarantined: None,
        };
        let left = series.stored.saturating_add(series.quarantined);
        Self {
            catalog,
            filter,
            after: 0,
            left,
        }
    }

    /// The next page; an empty one is the end.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub async fn next(&mut self) -> Result<Vec<ImageRow>, CatalogError> {
        let limit = PAGE.min(usize::try_from(self.left).unwrap_or(PAGE));
        if limit == 0 {
            return Ok(Vec::new());
        }
        let page = self
            .catalog
            .list(self.filter.clone(), self.after, limit)
            .await?;
        match page.last() {
            Some(last) => {
                self.after = last.number;
                self.left = self.left.saturating_sub(page.len() as u64);
            }
            None => self.left = 0,
        }
        Ok(page.iter().map(report_row).collect())
    }
}

/// The report of a series with its first `keep_rows` images; the others are only counted.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn build(
    catalog: &Arc<dyn Catalog>,
    series: &Series,
    receiver: &str,
    keep_rows: usize,
) -> Result<Report, CatalogError> {
    let mut builder = ReportBuilder::new(Header {
        run: series.run.clone(),
        transport: series.transport,
        transmitter: series.transmitter.clone(),
        receiver: Some(receiver.to_owned()),
        generated_at: UnixNanos::now(),
    });
    builder
        .keep_rows(keep_rows)
        .duplicates(series.duplicates)
        .rejected(series.rejected);
    if let Some(account) = &series.account {
        builder.account(account);
    }
    if series.peak_memory_bytes > 0 {
        builder.receiver_usage(Usage {
            cpu_seconds: series.cpu_ns as f64 / 1e9,
            peak_memory_bytes: series.peak_memory_bytes,
        });
    }
    let RunLedger {
        named,
        reasons,
        missing,
        reused,
    } = catalog.ledger(series).await?;
    let reasons = reasons
        .into_iter()
        .map(|(reason, images)| LossReason { reason, images })
        .collect();
    builder.ledger(Ledger {
        named,
        reasons,
        missing,
        reused,
    });
    let mut rows = Rows::of(Arc::clone(catalog), series);
    loop {
        let page = rows.next().await?;
        if page.is_empty() {
            return Ok(builder.finish());
        }
        for row in &page {
            builder.add(row);
        }
    }
}
