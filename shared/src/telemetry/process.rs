//! What a process takes of its machine, as figures under the names that programs of all kinds have for
//! it (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).

use std::fmt::Write as _;
use std::sync::OnceLock;

use super::Usage;
use crate::clock::UnixNanos;

/// The figures of now, in the text format of Prometheus. Those that the system does not tell are left
/// out.
pub fn figures() -> String {
    static START: OnceLock<Option<f64>> = OnceLock::new();
    let usage = Usage::now();
    let mut text = String::new();
    let mut figure = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a text cannot fail.
        let _ = write!(
            text,
            "# HELP process_{name} {help}\n# TYPE process_{name} {kind}\nprocess_{name} {value}\n"
        );
    };
    let cpu = usage.cpu.as_secs_f64();
    figure(
        "cpu_seconds_total",
        "counter",
        "Time on processors, of all threads.",
        cpu,
    );
    if usage.memory > 0 {
        let memory = usage.memory as f64;
        figure(
            "resident_memory_bytes",
            "gauge",
            "Memory that is in use.",
            memory,
        );
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let open = open.count().saturating_sub(1) as f64;
        figure(
            "open_fds",
            "gauge",
            "Files and sockets that are open.",
            open,
        );
    }
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(most) = most {
        figure(
            "max_fds",
            "gauge",
            "Files and sockets that may be open.",
            most as f64,
        );
    }
    if let Some(start) = START.get_or_init(started) {
        figure(
            "start_time_seconds",
            "gauge",
            "Start of the process, Unix time.",
            *start,
        );
    }
    text
}

/// The kernel counts from its own start, and tells when that was to the second only. A hundredth of a
/// second is as fine as it tells anything here.
fn started() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may have spaces and parentheses in it.
    let after = stat.rsplit_once(')')?.1;
    let ticks: f64 = after.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let now = UnixNanos::now().0 as f64 / 1e9;
    let since = ticks / rustix::param::clock_ticks_per_second() as f64;
    Some(((now - uptime + since) * 100.0).round() / 100.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let text = figures();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
                .trim()
                .parse()
                .unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_open_fds ") <= value("process_max_fds "));
        let age = UnixNanos::now().0 as f64 / 1e9 - value("process_start_time_seconds ");
        assert!((-1.0..86_400.0).contains(&age), "{age}");
        assert_eq!(figures().matches("# TYPE").count(), 5);
    }
}
