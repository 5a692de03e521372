//! Reports: what a run did, in total and by image.

use std::sync::Arc;
use std::vec;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use shared::report::csv::{self, CsvRow};
use shared::report::{Report, comparison};

use super::ReadState;
use super::query::Query;
use crate::catalog::{Catalog, CatalogError, Series};
use crate::problem::Problem;
use crate::report::{self, Rows};

/// Series of one answer that is not streamed.
const MAX_REPORTS: usize = 64;

/// Images of one answer that is not streamed; the reports count the others.
const MAX_ROWS: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Text,
    Csv,
}

/// Reports of several series.
#[derive(Serialize)]
struct Reports {
    reports: Vec<Report>,
}

/// `GET /v1/report`
pub(super) async fn report(
    State(state): State<ReadState>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = query.only(&["run", "transport", "transmitter", "format"])?;
    let words = [
        ("json", Format::Json),
        ("text", Format::Text),
        ("csv", Format::Csv),
    ];
    let format = query
        .word("format", &words)?
        .unwrap_or_else(|| accepted(&headers));
    let mut series = state.catalog.series(query.filter()?).await?;
    if series.is_empty() {
        let detail = "no run, transport and transmitter match; see /v1/runs for those known";
        return Err(Problem::not_found(detail).about("/v1/report"));
    }
    // In the order in which they ran.
    series.reverse();
    if format == Format::Csv {
        return Ok(table(Arc::clone(&state.catalog), series));
    }
    if series.len() > MAX_REPORTS {
        let detail = format!(
            "{} series match, a report has {MAX_REPORTS} at most: narrow it by run, transport \
             and transmitter, or ask for format=csv",
            series.len()
        );
        let title = "too many series for one report";
        return Err(
            Problem::new(StatusCode::BAD_REQUEST, "too-many-series", title, detail)
                .with("series", series.len()),
        );
    }
    let mut reports = Vec::with_capacity(series.len());
    for one in &series {
        let keep_rows = MAX_ROWS / series.len();
        reports.push(report::build(&state.catalog, one, &state.name, keep_rows).await?);
    }
    Ok(match format {
        Format::Text => (
            [(CONTENT_TYPE, "text/plain; charset=utf-8")],
            text(&reports),
        )
            .into_response(),
        _ => match <[Report; 1]>::try_from(reports) {
            Ok([only]) => Json(only).into_response(),
            Err(reports) => Json(Reports { reports }).into_response(),
        },
    })
}

fn text(reports: &[Report]) -> String {
    let mut parts: Vec<String> = reports
        .iter()
        .map(|report| {
            format!(
                "{}\n\n{}",
                report.block().trim_end(),
                report.table().trim_end()
            )
        })
        .collect();
    if reports.len() > 1 {
        parts.push(comparison(reports).trim_end().to_owned());
    }
    parts.join("\n\n") + "\n"
}

/// The first known type of the most wanted ones; JSON when the client does not say.
fn accepted(headers: &HeaderMap) -> Format {
    let mut best = (Format::Json, 0.0);
    let lists = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    for range in lists.flat_map(|list| list.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let format = match parts
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
            .as_str()
        {
            "application/json" | "application/*" | "*/*" => Format::Json,
            "text/plain" | "text/*" => Format::Text,
            "text/csv" => Format::Csv,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        if weight > best.1 {
            best = (format, weight);
        }
    }
    best.0
}

/// All images of all series, a page at a time.
fn table(catalog: Arc<dyn Catalog>, series: Vec<Series>) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/csv; charset=utf-8; header=present"),
        (CONTENT_DISPOSITION, "attachment; filename=\"report.csv\""),
    ];
    (headers, Body::from_stream(lines(catalog, series))).into_response()
}

fn lines(
    catalog: Arc<dyn Catalog>,
    series: Vec<Series>,
) -> impl Stream<Item = Result<Bytes, CatalogError>> {
    let start = Lines {
        catalog,
        waiting: series.into_iter(),
        current: None,
        begun: false,
    };
    stream::try_unfold(start, |mut lines| async move {
        let page = lines.next().await;
        if let Err(error) = &page {
            // The answer has begun: the client sees it break off, the reason stays here.
            tracing::error!(%error, "a report broke off");
        }
        Ok(page?.map(|page| (page, lines)))
    })
}

struct Lines {
    catalog: Arc<dyn Catalog>,
    waiting: vec::IntoIter<Series>,
    current: Option<(Series, Rows)>,
    begun: bool,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Bytes>, CatalogError> {
        if !self.begun {
            self.begun = true;
            return Ok(Some(Bytes::from_static(csv::HEADER.as_bytes())));
        }
        loop {
            if self.current.is_none() {
                let Some(series) = self.waiting.next() else {
                    return Ok(None);
                };
                let rows = Rows::of(Arc::clone(&self.catalog), &series);
                self.current = Some((series, rows));
            }
            let Some((series, rows)) = &mut self.current else {
                continue;
            };
            let page = rows.next().await?;
            if page.is_empty() {
                self.current = None;
                continue;
            }
            let Series {
                run,
                transport,
                transmitter,
                ..
            } = &*series;
            let page: String = page
                .iter()
                .map(|image| {
                    CsvRow {
                        run,
                        transport: *transport,
                        transmitter,
                        image,
                    }
                    .to_string()
                })
                .collect();
            return Ok(Some(page.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_wanted_known_type_is_given() {
        for (accept, expected) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("text/csv", Format::Csv),
            ("TEXT/Plain; charset=utf-8", Format::Text),
            ("text/html, text/csv;q=0.5, text/plain;q=0.9", Format::Text),
            ("text/csv, */*;q=0.1", Format::Csv),
            ("text/csv;q=0", Format::Json),
            ("image/png", Format::Json),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            assert_eq!(accepted(&headers), expected, "{accept}");
        }
    }
}
