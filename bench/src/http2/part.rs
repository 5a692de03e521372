//! One part of the measurement, in the form in which it is shown.

use serde::Serialize;

use super::chart::Chart;
use super::verdict::{Check, conclusion};

/// A table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Grid {
    /// The first column is text, the others are figures.
    pub(crate) header: Vec<&'static str>,
    /// As many cells each.
    pub(crate) rows: Vec<Vec<String>>,
}

/// One part.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Part {
    /// Short name.
    pub(crate) key: &'static str,
    /// What it is about.
    pub(crate) title: &'static str,
    /// What is measured, how, and why it is so.
    pub(crate) about: String,
    /// The main figures.
    pub(crate) table: Grid,
    /// What was promised.
    pub(crate) checks: Vec<Check>,
    /// One sentence, computed from the checks.
    pub(crate) conclusion: String,
    /// All figures.
    pub(crate) figures: serde_json::Value,
    /// The picture.
    #[serde(skip)]
    pub(crate) chart: Chart,
}

impl Part {
    /// Draws the conclusion.
    pub(crate) fn concluded(mut self, summary: &str) -> Self {
        self.conclusion = conclusion(&self.checks, summary);
        self
    }

    /// Keeps the figures.
    pub(crate) fn with_figures(mut self, figures: &impl Serialize) -> Self {
        self.figures = serde_json::to_value(figures).unwrap_or_default();
        self
    }
}
