//! `pantelegraph bench http2`: what HTTP/2 and gRPC promise, measured (R2).
//!
//! The user service runs in this process, on a thread and free loopback ports of its own; clients
//! and a proxy that reads the frames in passing (`tap`) run on another. Each part measures one
//! promise beside the same over HTTP/1.1, and draws its conclusion from its figures.

mod chart;
mod compression;
mod connections;
mod decoding;
mod duplex;
mod flow;
mod frames;
mod http1;
mod modes;
mod multiplexing;
pub(crate) mod page;
pub(crate) mod part;
mod rig;
mod stopping;
mod tap;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;
mod witness;

use std::time::Duration;

use serde::Serialize;

use part::Part;
use rig::Rig;
use verdict::Check;

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Calls, or messages, of each kind.
    pub(crate) calls: usize,
    /// Delay of the slow call, and fast calls beside it.
    pub(crate) slow_call: Duration,
    /// See `slow_call`.
    pub(crate) fast_calls: usize,
    /// Messages at a steady pace in both directions.
    pub(crate) messages: usize,
    /// Users of the list whose reader stops.
    pub(crate) listed: usize,
    /// Calls that are given up.
    pub(crate) trials: usize,
    /// Deadline of calls that take longer.
    pub(crate) deadline: Duration,
    /// Rounds of encoding and decoding, and records of each round.
    pub(crate) rounds: usize,
    /// See `rounds`.
    pub(crate) records: usize,
}

impl Options {
    /// As much as figures need that can be trusted.
    pub(crate) fn full() -> Self {
        Self {
            calls: 1_000,
            slow_call: Duration::from_millis(500),
            fast_calls: 100,
            messages: 50,
            listed: 40_000,
            trials: 50,
            deadline: Duration::from_millis(300),
            rounds: 21,
            records: 20_000,
        }
    }

    /// As much as shows that everything works.
    pub(crate) fn quick() -> Self {
        Self {
            calls: 40,
            fast_calls: 20,
            messages: 10,
            listed: 10_000,
            trials: 3,
            deadline: Duration::from_millis(50),
            rounds: 3,
            records: 500,
            ..Self::full()
        }
    }
}

/// Everything measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Names this form.
    pub(crate) schema: &'static str,
    /// Version of this program.
    pub(crate) version: &'static str,
    /// The build is one whose times can be trusted.
    pub(crate) is_optimised: bool,
    /// What was measured.
    pub(crate) parts: Vec<Part>,
}

impl Report {
    /// Promises of the protocol that did not hold.
    pub(crate) fn broken(&self) -> Vec<&Check> {
        let checks = self.parts.iter().flat_map(|part| &part.checks);
        checks.filter(|check| check.is_broken()).collect()
    }
}

/// Parts of the measurement.
pub(crate) const PARTS: usize = 8;

/// Measures; `progress` is told how many parts are done, and what comes next.
pub(crate) fn measure(
    options: &Options,
    mut progress: impl FnMut(usize, &'static str),
) -> Result<Report, String> {
    let rig = Rig::start()?;
    let runtime = rig::runtime()?;
    let mut parts: Vec<Part> = Vec::with_capacity(PARTS);
    runtime.block_on(async {
        let mut next = |done: &Vec<Part>, what| progress(done.len(), what);
        next(&parts, "connections");
        parts.push(connections::measure(&rig, options).await?);
        next(&parts, "multiplexing");
        parts.push(multiplexing::measure(&rig, options).await?);
        next(&parts, "header compression");
        parts.push(compression::measure(&rig, options).await?);
        next(&parts, "both directions");
        parts.push(duplex::measure(&rig, options).await?);
        next(&parts, "modes");
        parts.push(modes::measure(&rig, options).await?);
        next(&parts, "flow control");
        parts.push(flow::measure(&rig, options).await?);
        next(&parts, "cancellation and deadlines");
        parts.push(stopping::measure(&rig, options).await?);
        next(&parts, "decoding");
        parts.push(decoding::measure(options)?);
        Ok::<(), String>(())
    })?;
    Ok(Report {
        schema: "pantelegraph.http2.v1",
        version: env!("CARGO_PKG_VERSION"),
        is_optimised: !cfg!(debug_assertions),
        parts,
    })
}

/// Some figures in short.
#[derive(Debug, Clone, Copy)]
struct Times {
    min: f64,
    median: f64,
    p99: f64,
    max: f64,
}

impl Times {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        // The nearest rank.
        let at = |share: f64| {
            let rank = (values.len() as f64 * share).ceil() as usize;
            values
                .get(rank.saturating_sub(1))
                .copied()
                .unwrap_or(f64::NAN)
        };
        Self {
            min: at(0.0),
            median: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
