//! `pantelegraph bench path` as a command: options in, table or JSON out.

use std::io::Write;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use shared::telemetry::say;

use crate::cli::PathOptions;
use crate::path::{Options, PathReport, Sample, Spread, Way, measure};

/// Measures and prints.
pub(crate) fn run(options: &PathOptions) -> ExitCode {
    let options_of_path = Options {
        transports: options.transport.clone(),
        image_size: options.image_size,
        volume: options.volume,
        rounds: usize::try_from(options.rounds).unwrap_or(1),
        chunk_size: options.chunk_size,
        window: options.window,
        connections: usize::try_from(options.connections).unwrap_or(1),
        http2_frame_size: options.http2_frame_size,
        http2_window: options.http2_window,
        latency_size: options.latency_size,
        latency_images: usize::try_from(options.latency_images).unwrap_or(1),
        tls: options.tls,
    };
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} measurements, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let measured = measure(&options_of_path, |done, steps| {
        bar.set_length(steps as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let report = match measured {
        Ok(report) => report,
        Err(problem) => {
            say(format_args!("pantelegraph: not measured: {problem}"));
            return ExitCode::FAILURE;
        }
    };
    let text = if options.json {
        json(&report)
    } else {
        table(&report, &options_of_path)
    };
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn json(report: &PathReport) -> String {
    serde_json::to_string_pretty(report).map_or_else(|error| error.to_string(), |json| json + "\n")
}

fn table(report: &PathReport, options: &Options) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "",
        "GB/s",
        "ratio to raw TCP",
        "CPU-s per GB, both ends",
        "ratio",
        "delivery p50",
        "ratio",
    ]);
    for column in 1..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (index, way) in report.ways.iter().enumerate() {
        let ratio = |figure: fn(&Sample) -> f64| match index {
            0 => "1".to_owned(),
            _ => spread(report.ratio(way, figure), 2, ""),
        };
        let figure = |way: &Way, figure: fn(&Sample) -> f64, digits, unit| {
            spread(PathReport::spread(way, figure), digits, unit)
        };
        table.add_row([
            way.name.clone(),
            figure(way, |s| s.bytes_per_second / 1e9, 2, ""),
            ratio(|s| s.bytes_per_second),
            figure(way, |s| s.cpu_seconds_per_gb, 2, ""),
            ratio(|s| s.cpu_seconds_per_gb),
            figure(way, |s| s.delivery_p50_ns as f64 / 1e3, 0, " us"),
            ratio(|s| s.delivery_p50_ns as f64),
        ]);
    }
    let costs = report.ways.iter().filter_map(|way| {
        let plain = report.plain_of(way)?;
        let ratio = |figure: fn(&Sample) -> f64| spread(Spread::between(way, plain, figure), 2, "");
        Some(format!(
            "{}: {} of the throughput of {}, {} of its CPU time, {} of its delivery p50\n",
            way.name,
            ratio(|s| s.bytes_per_second),
            plain.name,
            ratio(|s| s.cpu_seconds_per_gb),
            ratio(|s| s.delivery_p50_ns as f64),
        ))
    });
    let costs: String = costs.collect();
    format!(
        "Loopback, {} rounds in rotating order; each cell: median (minimum to maximum); ratios \
         are taken round by round.\nThroughput: images of {} bytes, {} a round, chunks of {}, \
         window {}, {} connection(s), HTTP/2 frames {} and window {}.\nLatency: {} images of {} \
         bytes a round, one at a time.\n\n{table}\n{costs}",
        options.rounds,
        options.image_size.0,
        shared::report::format::bytes(options.volume.0),
        options.chunk_size,
        options.window,
        options.connections,
        options.http2_frame_size,
        options.http2_window,
        options.latency_images,
        options.latency_size.0,
    )
}

fn spread(spread: Spread, digits: usize, unit: &str) -> String {
    let Spread { min, median, max } = spread;
    format!("{median:.digits$}{unit} ({min:.digits$} to {max:.digits$})")
}
