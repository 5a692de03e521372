//! What the kernel says.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::{Asked, Facts};

/// Asks it, of the daemon where that runs.
pub(crate) fn facts(asked: &Asked) -> Facts {
    let process = asked
        .process
        .map_or_else(|| "self".to_owned(), |id| id.to_string());
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let of_daemon = asked
        .process
        .and_then(|_| files(&read(&format!("/proc/{process}/limits"))?));
    let buffer = |path: &str| read(path)?.split_whitespace().nth(2)?.parse::<u64>().ok();
    let inotify = |name: &str| number(&format!("/proc/sys/fs/inotify/{name}"));
    Facts {
        files: Some(of_daemon.unwrap_or_else(|| {
            let limit = getrlimit(Resource::Nofile);
            (
                limit.current.unwrap_or(u64::MAX),
                limit.maximum.unwrap_or(u64::MAX),
            )
        })),
        watches: inotify("max_user_watches").zip(inotify("max_user_instances")),
        group_memory: read(&format!("/proc/{process}/cgroup"))
            .and_then(|groups| group_limit(&groups)),
        available: read("/proc/meminfo").and_then(|table| available(&table)),
        buffers: buffer("/proc/sys/net/ipv4/tcp_rmem").zip(buffer("/proc/sys/net/ipv4/tcp_wmem")),
        backlog: number("/proc/sys/net/core/somaxconn"),
        processors: std::thread::available_parallelism().ok().map(Into::into),
        aes: shared::security::tls::has_aes(),
    }
}

/// The line `Max open files` of proc_pid_limits(5).
fn files(limits: &str) -> Option<(u64, u64)> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let mut words = line.split_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        word => word.parse().ok(),
    });
    words.next().flatten().zip(words.next().flatten())
}

/// The least limit of the control group and those above it (cgroups(7), version 2).
fn group_limit(groups: &str) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let group = root.join(group);
    let limits = group.ancestors().take_while(|path| path.starts_with(root));
    let limits = limits.filter_map(|path| std::fs::read_to_string(path.join("memory.max")).ok());
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
}

/// What programs can take without swapping (proc_meminfo(5)).
fn available(table: &str) -> Option<u64> {
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_kernel_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 unlimited            files\n";
        assert_eq!(files(limits), Some((1_024, u64::MAX)));
        assert_eq!(
            available("MemTotal: 1 kB\nMemAvailable:    2048 kB\n"),
            Some(2 << 20)
        );
        let facts = facts(&Asked::default());
        assert!(facts.files.is_some() && facts.processors.unwrap() > 0);
    }
}
