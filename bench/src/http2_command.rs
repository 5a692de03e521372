//! `pantelegraph bench http2` as a command: options in; text, JSON or a page out.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use shared::telemetry::say;

use crate::cli::Http2Options;
use crate::http2::page::page;
use crate::http2::part::{Grid, Part};
use crate::http2::{Options, PARTS, Report, measure};

/// Columns of prose.
const WIDTH: usize = 100;

/// Measures and shows.
pub(crate) fn run(options: &Http2Options) -> ExitCode {
    match show(options) {
        Ok(report) => {
            let broken = report.broken();
            for check in &broken {
                say(format_args!(
                    "pantelegraph: {} (found: {})",
                    check.claim, check.found
                ));
            }
            ExitCode::from(u8::from(!broken.is_empty()))
        }
        Err(problem) => {
            say(format_args!("pantelegraph: not measured: {problem}"));
            ExitCode::FAILURE
        }
    }
}

fn show(options: &Http2Options) -> Result<Report, String> {
    let mut how = match options.quick {
        true => Options::quick(),
        false => Options::full(),
    };
    if let Some(calls) = options.calls {
        how.calls = usize::try_from(calls).unwrap_or(how.calls);
    }
    // Hidden when standard error is no terminal.
    let bar = ProgressBar::new(PARTS as u64);
    bar.set_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let measured = measure(&how, |done, next| {
        bar.set_position(done as u64);
        bar.set_message(next);
    });
    bar.finish_and_clear();
    let report = measured?;
    if let Some(path) = &options.output {
        std::fs::write(path, page(&report)?)
            .map_err(|error| format!("--output {}: {error}", path.display()))?;
    }
    let mut shown = match options.json {
        true => serde_json::to_string_pretty(&report).map_err(|error| error.to_string())? + "\n",
        false => report
            .parts
            .iter()
            .enumerate()
            .map(|(i, part)| text(i + 1, part))
            .collect(),
    };
    if let (Some(path), false) = (&options.output, options.json) {
        let _ = writeln!(shown, "Report: {}", path.display());
    }
    // A reader that has gone (`| head`) is no failure.
    let _ = std::io::stdout().lock().write_all(shown.as_bytes());
    Ok(report)
}

fn text(number: usize, part: &Part) -> String {
    let mut text = format!("{number}. {}\n\n", part.title);
    let _ = writeln!(
        text,
        "{}\n\n{}\n",
        wrapped(&part.about, ""),
        table(&part.table)
    );
    for check in &part.checks {
        let line = format!(
            "- {}: {}; found: {}",
            check.verdict.words(),
            check.claim,
            check.found
        );
        let _ = writeln!(text, "{}", wrapped(&line, "  "));
    }
    let _ = writeln!(text, "\n{}\n", wrapped(&part.conclusion, ""));
    text
}

/// Prose in lines of a readable length.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let letters = word.chars().count();
        if length > 0 && length + 1 + letters > WIDTH {
            lines.push('\n');
            lines.push_str(indent);
            length = indent.len();
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += letters;
    }
    lines
}

fn table(grid: &Grid) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(&grid.header);
    for column in 1..grid.header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in &grid.rows {
        table.add_row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_wrapped_between_words() {
        let words = "word ".repeat(50);
        let lines = wrapped(&words, "  ");
        assert!(lines.lines().count() == 3, "{lines}");
        assert!(lines.lines().all(|line| line.len() <= WIDTH));
        assert!(lines.lines().skip(1).all(|line| line.starts_with("  word")));
    }
}
