//! Reports side by side: what was measured, and what each transport is good for.

use super::align::{Column, Side, align};
use super::model::Report;
use super::{Distribution, format};
use crate::image::Transport;

/// Columns of reports side by side within 80 characters; further ones go below.
const SIDE_BY_SIDE: usize = 3;

/// Width of the names in front.
const NAMES: usize = 23;

/// Width of a report's column.
const CELLS: usize = 17;

/// One column for each report, measured rows first.
pub fn comparison(reports: &[Report]) -> String {
    let tables: Vec<String> = reports.chunks(SIDE_BY_SIDE).map(table).collect();
    tables.join("\n")
}

fn table(reports: &[Report]) -> String {
    let mut columns = vec![Column {
        side: Side::Left,
        most: NAMES,
    }];
    columns.resize(
        reports.len() + 1,
        Column {
            side: Side::Left,
            most: CELLS,
        },
    );
    let row = |name: &str, cell: &dyn Fn(&Report) -> String| {
        let mut row = vec![name.to_owned()];
        row.extend(reports.iter().map(cell));
        row
    };
    let rows = [
        row("", &|report| report.transport.to_string()),
        Vec::new(),
        row("Images delivered", &|report| {
            format!("{} of {}", report.totals.delivered, report.totals.captured)
        }),
        row("Bytes delivered", &|report| {
            format::bytes(report.totals.bytes)
        }),
        row("Transmission p50", &|report| {
            time(report.transmission, |times| times.p50)
        }),
        row("Transmission p99", &|report| {
            time(report.transmission, |times| times.p99)
        }),
        row("Delivery p50", &|report| {
            time(report.delivery, |times| times.p50)
        }),
        row("Delivery p99", &|report| {
            time(report.delivery, |times| times.p99)
        }),
        row("Throughput", &|report| {
            known(report.throughput_bytes_per_second, format::rate)
        }),
        row("Wire overhead", &|report| {
            known(
                report.wire.and_then(|wire| wire.overhead_percent),
                format::percent,
            )
        }),
        row("CPU, both ends", &|report| {
            known(report.cpu_seconds_per_gigabyte(), |each| {
                format!("{}/GB", format::seconds(each))
            })
        }),
        Vec::new(),
        row("Real-time bidirectional", &|report| {
            Traits::of(report.transport).both_ways.to_owned()
        }),
        row("Type safety", &|report| {
            Traits::of(report.transport).type_safety.to_owned()
        }),
        row("Browser compatibility", &|report| {
            Traits::of(report.transport).browsers.to_owned()
        }),
        row("Ease of implementation", &|report| {
            Traits::of(report.transport).implementation.to_owned()
        }),
        row("Recommended for", &|report| {
            Traits::of(report.transport).use_for.to_owned()
        }),
    ];
    align(&columns, &rows)
}

fn known(figure: Option<f64>, write: impl Fn(f64) -> String) -> String {
    figure.map_or_else(|| "-".to_owned(), write)
}

fn time(times: Option<Distribution>, pick: fn(&Distribution) -> u64) -> String {
    times.map_or_else(|| "-".to_owned(), |times| format::millis(pick(&times)))
}

/// What cannot be measured.
struct Traits {
    both_ways: &'static str,
    type_safety: &'static str,
    browsers: &'static str,
    implementation: &'static str,
    use_for: &'static str,
}

impl Traits {
    fn of(transport: Transport) -> Self {
        match transport {
            Transport::WebSocket => Self {
                both_ways: "yes, one socket",
                type_safety: "yes here: the same protobuf messages, as binary frames",
                browsers: "all, natively",
                implementation: "medium: the session is one's own to write",
                use_for: "browsers, live views, devices behind proxies or that are dialled",
            },
            Transport::Grpc => Self {
                both_ways: "yes, streams over HTTP/2",
                type_safety: "yes: code generated from the contract",
                browsers: "no; gRPC-Web only, through a proxy",
                implementation: "medium: tools first, then little code",
                use_for: "devices and services that stream for long, in many languages",
            },
            Transport::Rest => Self {
                both_ways: "no: requests and answers",
                type_safety: "no: headers and JSON by document",
                browsers: "all, natively",
                implementation: "easy: any HTTP client will do",
                use_for: "foreign clients, single uploads, large files that resume (tus)",
            },
        }
    }
}
