//! All parts at once, against the real service: what is counted must be right on any machine.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use super::*;

fn number(report: &Report, part: &str, pointer: &str) -> u64 {
    let part = report.parts.iter().find(|one| one.key == part).unwrap();
    let figure = part.figures.pointer(pointer);
    let figure = figure.unwrap_or_else(|| panic!("{pointer} is not in {}", part.figures));
    figure.as_u64().unwrap()
}

#[test]
fn what_the_protocol_promises_holds() {
    let options = Options::quick();
    let mut told = Vec::new();
    let report = measure(&options, |done, _| told.push(done)).unwrap();
    assert_eq!(told, (0..PARTS).collect::<Vec<_>>());
    assert_eq!(report.parts.len(), PARTS);
    let broken = report.broken();
    assert!(broken.is_empty(), "{broken:#?}");

    let calls = options.calls as u64;
    for row in ["/0", "/1"] {
        let figure = |name: &str| number(&report, "connections", &format!("{row}/{name}"));
        assert_eq!(figure("tcp_connections"), 1);
        assert_eq!(figure("http2_streams"), calls);
    }
    assert_eq!(number(&report, "connections", "/2/tcp_connections"), 1);
    assert_eq!(number(&report, "connections", "/4/tcp_connections"), calls);

    let compression = |row: usize, call: usize| {
        number(
            &report,
            "compression",
            &format!("/{row}/calls/{call}/request"),
        )
    };
    let (last, first) = (options.calls - 1, 0);
    for (http2, http1) in [(0, 1), (2, 3)] {
        assert!(compression(http2, last) < compression(http2, first));
        assert!(compression(http2, last) < compression(http1, last));
        assert_eq!(compression(http1, last), compression(http1, first));
    }

    for row in ["/0", "/1"] {
        let figure = |name: &str| number(&report, "flow", &format!("{row}/{name}"));
        assert!(figure("sent_of_stream") <= figure("granted_to_stream"));
        assert!(figure("sent_of_connection") <= figure("granted_to_connection"));
        assert_eq!(figure("users_read"), figure("users_expected"));
    }
    assert_eq!(number(&report, "stopping", "/http2/0/reset_code"), 8);
    assert_eq!(number(&report, "stopping", "/http1_connections"), 2);
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let part = Part {
        key: "key",
        title: "A <title>",
        about: "5 < 6 & 7".to_owned(),
        table: part::Grid {
            header: vec!["", "figure"],
            rows: vec![vec!["row".to_owned(), "1".to_owned()]],
        },
        checks: vec![Check::promise("claim", "found", true)],
        conclusion: "Reproduced: so it is.".to_owned(),
        figures: serde_json::Value::Null,
        chart: chart::Chart {
            title: "picture",
            x: chart::Axis::linear("time, ms"),
            y: chart::Axis::names(["name"]),
            series: vec![chart::Series::new(
                "series",
                chart::Marks::Bars(vec![(0.0, 3.0)]),
            )],
            levels: Vec::new(),
        },
    };
    let report = Report {
        schema: "schema",
        version: "1",
        is_optimised: true,
        parts: vec![part],
    };
    let page = page::page(&report).unwrap();
    assert!(page.contains("A &lt;title&gt;") && page.contains("5 &lt; 6 &amp; 7"));
    assert_eq!(page.matches("<svg").count(), 2);
    for foreign in ["<script", "<link", "<img", "@import", "url(", "src="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    // The name of a vocabulary, which nobody asks for.
    let addresses = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!addresses.contains("http://") && !addresses.contains("https://"));
}

#[test]
fn figures_are_put_in_short() {
    let times = Times::of((1..=100).rev().map(f64::from));
    assert_eq!(
        (times.min, times.median, times.p99, times.max),
        (1.0, 50.0, 99.0, 100.0)
    );
    assert!(Times::of(std::iter::empty()).median.is_nan());
}
