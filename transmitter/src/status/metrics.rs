//! The figures in the text format of Prometheus, written by hand: a recorder for them would be the
//! largest part of a small program.

use std::fmt::Write as _;

use shared::clock::UnixNanos;

use super::{Part, Seen, Status};
use crate::outbox::Extent;
use crate::workers::{FILES, RECEIPTS};

/// Everything that is counted.
pub(super) async fn text(status: &Status, now: UnixNanos) -> String {
    let extent = status.outbox.extent().await;
    let mut page = Page::default();
    page.family("build_info", "gauge", "Version of the program.");
    page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let series = status.series.lock().clone();
    images(&mut page, &series);
    traffic(&mut page, &series);
    backlog(&mut page, status, extent, now);
    let connections = status
        .delivery()
        .map_or(0, |delivery| delivery.connections());
    page.family("connections", "gauge", "Connections to the receiver.");
    page.sample("connections", &[], connections as u64);
    if let Some(cap) = status.limiter.cap() {
        let name = "bandwidth_cap_bytes_per_second";
        page.family(name, "gauge", "Cap on image bytes that holds now.");
        page.sample(name, &[], cap);
    }
    let help = "Whether this part works: 1, or 0.";
    page.family("healthy", "gauge", help);
    for Part { name, state } in status.parts() {
        page.sample("healthy", &[("reason", name)], u64::from(state.is_ok()));
    }
    saturation(&mut page, status);
    page.0 + &shared::telemetry::process::figures()
}

/// How much of what is limited is in use.
fn saturation(page: &mut Page, status: &Status) {
    if let Some(delivery) = status.delivery() {
        let (taken, window) = delivery.window();
        page.family(
            "window_used_bytes",
            "gauge",
            "Bytes of images that are on their way without a receipt, in whole KiB.",
        );
        page.sample("window_used_bytes", &[], taken);
        page.family("window_bytes", "gauge", "Bytes that may be.");
        page.sample("window_bytes", &[], window);
    }
    let pools = [("files", &*FILES), ("receipts", &*RECEIPTS)];
    let help = "Of a pool of threads, what is at work.";
    page.family("pool_busy", "gauge", help);
    for (name, pool) in pools {
        page.sample("pool_busy", &[("pool", name)], pool.busy() as u64);
    }
    let help = "Of a pool of threads, what may be at work while nothing hangs.";
    page.family("pool_size", "gauge", help);
    for (name, pool) in pools {
        page.sample("pool_size", &[("pool", name)], pool.size() as u64);
    }
    let help = "Threads of a pool, those that hang included.";
    page.family("pool_threads", "gauge", help);
    for (name, pool) in pools {
        page.sample("pool_threads", &[("pool", name)], pool.threads() as u64);
    }
}

fn images(page: &mut Page, series: &[Seen]) {
    type Figure = fn(&Seen) -> u64;
    let figures: [(&str, &str, Figure); 5] = [
        (
            "images_captured_total",
            "Images taken from the source.",
            |seen| seen.tally.totals().captured,
        ),
        (
            "images_delivered_total",
            "Images with a receipt, those of earlier runs included.",
            |seen| seen.tally.totals().delivered + seen.tally.earlier().delivered,
        ),
        (
            "images_duplicate_total",
            "Images that the receiver had before.",
            |seen| seen.tally.totals().duplicates + seen.tally.earlier().duplicates,
        ),
        (
            "images_quarantined_total",
            "Images that the receiver keeps apart.",
            |seen| seen.tally.totals().quarantined + seen.tally.earlier().quarantined,
        ),
        (
            "retries_total",
            "Times that images were sent again.",
            |seen| seen.tally.totals().retries + seen.tally.earlier().retries,
        ),
    ];
    for (name, help, figure) in figures {
        page.family(name, "counter", help);
        for seen in series {
            page.sample(name, &[transport(seen)], figure(seen));
        }
    }
    let name = "images_lost_total";
    page.family(name, "counter", "Images that will never arrive, by reason.");
    for seen in series {
        for (kind, count) in seen.tally.lost_by_kind() {
            page.sample(name, &[transport(seen), ("reason", kind.key())], count);
        }
    }
}

fn traffic(page: &mut Page, series: &[Seen]) {
    type Figure = fn(&Seen) -> u64;
    let figures: [(&str, &str, Figure); 3] = [
        (
            "delivered_bytes_total",
            "Bytes of delivered images.",
            |seen| seen.tally.bytes_delivered(),
        ),
        (
            "wire_sent_bytes_total",
            "Bytes written to sockets, framing included.",
            |seen| seen.wire.sent(),
        ),
        (
            "wire_received_bytes_total",
            "Bytes read from sockets, framing included.",
            |seen| seen.wire.received(),
        ),
    ];
    for (name, help, figure) in figures {
        page.family(name, "counter", help);
        for seen in series {
            page.sample(name, &[transport(seen)], figure(seen));
        }
    }
}

fn backlog(page: &mut Page, status: &Status, extent: Extent, now: UnixNanos) {
    let backlog = status.outbox.backlog();
    let age = extent.oldest.map_or(0, |oldest| now.since(oldest).max(0));
    let figures = [
        (
            "backlog_images",
            "Images that are owed.",
            Some(backlog.images),
        ),
        ("backlog_bytes", "Their bytes.", Some(backlog.bytes)),
        (
            "backlog_oldest_age_seconds",
            "Time since the oldest of them came into the outbox.",
            Some(u64::try_from(age).unwrap_or(0) / 1_000_000_000),
        ),
        (
            "outbox_limit_bytes",
            "Bytes that the outbox may take.",
            extent.limit,
        ),
        (
            "outbox_free_bytes",
            "Bytes that the outbox can still take.",
            extent.free,
        ),
    ];
    for (name, help, value) in figures {
        let Some(value) = value else {
            continue;
        };
        page.family(name, "gauge", help);
        page.sample(name, &[], value);
    }
}

fn transport(seen: &Seen) -> (&'static str, &'static str) {
    ("transport", seen.tally.transport().key())
}

/// The page in the making. Labels are words of this program and need no escaping.
#[derive(Default)]
struct Page(String);

const PREFIX: &str = "pantelegraph_transmitter_";

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text cannot fail.
        let _ = write!(
            self.0,
            "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, word)| format!("{label}=\"{word}\""))
            .collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "{PREFIX}{name}{labels} {value}");
    }
}
