//! How a run ended.

use std::path::PathBuf;

use shared::report::Report;

use super::carried::CarriedSeries;

/// Blocks of carried series that are printed; beyond that only their number.
const BLOCKS: usize = 20;

/// How a run ended.
#[derive(Debug, Default)]
pub struct Summary {
    /// One report a transport, in order: what this process captured, and what became of it.
    pub reports: Vec<Report>,
    /// What became of images that earlier processes captured.
    pub carried: Vec<CarriedSeries>,
    /// What is owed still.
    pub left: Option<Left>,
    /// The worst that happened.
    pub outcome: RunOutcome,
}

/// Images that are owed at the end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// How many.
    pub images: u64,
    /// The folder that keeps them; `None` when they are gone with the process.
    pub folder: Option<PathBuf>,
}

/// The worst that happened in a run, from good to bad.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunOutcome {
    /// Every captured image has its receipt.
    #[default]
    Delivered,
    /// Stopped; what is owed is kept in the outbox on disk, and goes on at the next start.
    Kept,
    /// The receiver quarantined some.
    Quarantined,
    /// Some will never arrive.
    Lost,
    /// Stopped while images were still owed, and nothing keeps them.
    Owed,
    /// The source failed.
    SourceFailed(String),
    /// No receiver was reached.
    Unreachable(String),
}

impl Summary {
    /// Blocks and tables of all transports, and their comparison, for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for report in &self.reports {
            text.push_str(&report.block());
            text.push('\n');
            text.push_str(&report.table());
            text.push('\n');
        }
        if self.reports.len() > 1 {
            text.push_str(&shared::report::comparison(&self.reports));
        }
        for series in self.carried.iter().take(BLOCKS) {
            text.push_str(&series.block());
            text.push('\n');
        }
        if let Some(more) = self
            .carried
            .len()
            .checked_sub(BLOCKS)
            .filter(|more| *more > 0)
        {
            text.push_str(&format!("... and {more} more series carried over\n"));
        }
        text
    }

    /// All reports as JSON.
    pub fn json(&self) -> String {
        let mut reports = serde_json::json!({ "reports": self.reports });
        if !self.carried.is_empty() {
            let carried: Vec<_> = self.carried.iter().map(CarriedSeries::json).collect();
            reports["carried"] = carried.into();
        }
        format!("{reports:#}\n")
    }
}
