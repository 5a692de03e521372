//! The report as one HTML file: no scripts, nothing from elsewhere.

use std::fmt::Write as _;

use super::Report;
use super::chart::SERIES;
use super::part::{Grid, Part};
use super::verdict::{Check, Verdict};

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub(crate) fn page(report: &Report) -> Result<String, String> {
    let mut sections = String::new();
    let mut contents = String::new();
    for (index, part) in report.parts.iter().enumerate() {
        let (key, title) = (part.key, escaped(part.title));
        let verdicts = verdicts(part);
        let _ = writeln!(
            contents,
            "<li><a href=\"#{key}\">{title}</a> {verdicts}</li>"
        );
        sections.push_str(&section(index + 1, part)?);
    }
    let version = report.version;
    let warning = match report.is_optimised {
        true => "",
        false => {
            "<p class=\"warning\">This program was built without optimisation: counts are right, \
             times are not.</p>\n"
        }
    };
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>What HTTP/2 promises, measured</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <main>\n<h1>What HTTP/2 and gRPC promise, measured</h1>\n\
         <p>Made by <code>pantelegraph bench http2</code> (version {version}): the user service and \
         its clients in one process, over loopback. A proxy between them counts connections and \
         reads HTTP/2's frames. What is said of a promise is computed from the figures beside \
         it.</p>\n{warning}<ol class=\"contents\">\n{contents}</ol>\n{sections}</main>\n</body>\n\
         </html>\n"
    ))
}

/// How many checks of a part hold.
fn verdicts(part: &Part) -> String {
    let held = |check: &&Check| check.verdict == Verdict::Reproduced;
    let (held, all) = (part.checks.iter().filter(held).count(), part.checks.len());
    let class = if held == all { "good" } else { "bad" };
    format!("<span class=\"{class}\">{held} of {all} reproduced</span>")
}

fn section(number: usize, part: &Part) -> Result<String, String> {
    let [wide, narrow] = part.chart.draw()?;
    let mut legend = String::new();
    for (index, series) in part.chart.series.iter().take(SERIES.len()).enumerate() {
        let name = escaped(&series.name);
        let _ = write!(
            legend,
            "<li><span class=\"key s{index}\"></span>{name}</li>"
        );
    }
    let mut checks = String::new();
    for check in &part.checks {
        let class = match check.verdict {
            Verdict::Reproduced => "good",
            Verdict::NotReproduced => "bad",
        };
        let _ = writeln!(
            checks,
            "<li><span class=\"{class}\">{}</span> {}<br><span class=\"found\">found: {}</span></li>",
            check.verdict.words(),
            escaped(&check.claim),
            escaped(&check.found)
        );
    }
    Ok(format!(
        "<section id=\"{key}\">\n<h2>{number}. {title}</h2>\n<p>{about}</p>\n<figure>\n\
         <figcaption>{caption}</figcaption>\n<ul class=\"legend\">{legend}</ul>\n\
         <div class=\"wide\" role=\"img\" aria-label=\"{caption}\">{wide}</div>\n\
         <div class=\"narrow\" role=\"img\" aria-label=\"{caption}\">{narrow}</div>\n</figure>\n\
         {table}<ul class=\"checks\">\n{checks}</ul>\n<p class=\"conclusion\">{conclusion}</p>\n\
         </section>\n",
        key = part.key,
        title = escaped(part.title),
        about = escaped(&part.about),
        caption = escaped(part.chart.title),
        table = table(&part.table),
        conclusion = escaped(&part.conclusion),
    ))
}

fn table(grid: &Grid) -> String {
    let mut html = "<div class=\"scroll\"><table>\n<thead><tr>".to_owned();
    for title in &grid.header {
        let _ = write!(html, "<th>{}</th>", escaped(title));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in &grid.rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let kind = if column == 0 { "th" } else { "td" };
            let _ = write!(html, "<{kind}>{}</{kind}>", escaped(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter => safe.push(letter),
        }
    }
    safe
}
