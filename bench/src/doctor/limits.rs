//! What the system allows this station.

mod system;

use shared::report::format::bytes;
use shared::settings::units::ByteSize;
use transmitter::config::SourceOptions;

use super::holder::Holder;
use super::{Finding, Group, Kind, Level};

pub(crate) use system::facts;

const GROUP: Group = Group::Limits;

/// What a station wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// The daemon that runs, whose limits count rather than those of this shell.
    pub(super) process: Option<u32>,
    /// Connections at a time, and the setting.
    connections: Option<(u64, &'static str)>,
    /// Memory, and the setting.
    memory: Option<(u64, &'static str)>,
    /// Bytes under way on one connection, and the setting.
    window: Option<(u64, &'static str)>,
    /// Whether it mostly sends.
    sends: bool,
    /// Whether it watches folders.
    watches: bool,
    /// Whether it encrypts.
    encrypts: bool,
    /// Whether others connect to it.
    listens: bool,
}

impl Asked {
    pub(crate) fn of(station: &Kind, holder: &Holder) -> Self {
        let process = holder.process();
        match station {
            Kind::Transmitter(config) => {
                let in_memory = config.outbox.place == transmitter::config::OutboxPlace::Memory;
                Self {
                    process,
                    memory: in_memory.then_some((config.outbox.memory.0, "--outbox-memory")),
                    window: Some((config.link.window.0, "--window")),
                    sends: true,
                    watches: matches!(&config.source, SourceOptions::Folder(folder) if !folder.once),
                    encrypts: config.dials_encrypted() || config.listener_files().is_some(),
                    ..Self::default()
                }
            }
            Kind::Receiver(config) => Self {
                process,
                connections: Some((config.limits.max_connections as u64, "--max-connections")),
                memory: Some((config.limits.max_memory.0, "--max-memory")),
                window: Some((config.link.http2_window.0, "--http2-window")),
                encrypts: config.security.tls.is_some(),
                listens: true,
                ..Self::default()
            },
            Kind::Users(config) => Self {
                process,
                // Of each of its two listeners.
                connections: Some((config.connections.max as u64 * 2, "--max-connections")),
                encrypts: config.security.tls.is_some(),
                listens: true,
                ..Self::default()
            },
        }
    }
}

/// What the system says; nothing where it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Open files: the limit that counts, and up to which it may be raised.
    pub(super) files: Option<(u64, u64)>,
    /// Watches and instances of inotify.
    pub(super) watches: Option<(u64, u64)>,
    /// The limit of the control group.
    pub(super) group_memory: Option<u64>,
    /// What programs can still take.
    pub(super) available: Option<u64>,
    /// Largest buffers of a connection, for receiving and sending.
    pub(super) buffers: Option<(u64, u64)>,
    /// Connections that wait to be accepted.
    pub(super) backlog: Option<u64>,
    pub(super) processors: Option<usize>,
    pub(super) aes: bool,
}

/// Judges what there is against what is wanted.
pub(crate) fn judge(asked: &Asked, facts: &Facts) -> Vec<Finding> {
    let judged = [
        open_files(asked, facts),
        memory(asked, facts),
        watches(asked, facts),
        buffers(asked, facts),
        backlog(asked, facts),
        processors(asked, facts),
    ];
    judged.into_iter().flatten().collect()
}

/// Files beside connections: catalogue, log, images that are being written, and folders.
const OTHER_FILES: u64 = 128;

fn open_files(asked: &Asked, facts: &Facts) -> Option<Finding> {
    let place = (GROUP, "open-files");
    let (soft, hard) = facts.files?;
    let whose = match asked.process {
        Some(process) => format!("process {process}, the daemon,"),
        None => "this shell".to_owned(),
    };
    // Each connection has its socket, and may have an image under way.
    let wanted = asked
        .connections
        .map_or(256, |(count, _)| count.saturating_mul(2))
        + OTHER_FILES;
    let finding = if soft < wanted {
        let what = match asked.connections {
            Some((count, setting)) => {
                format!("{count} connections ({setting}) with an image each take up to {wanted}")
            }
            None => format!("it may take up to {wanted}"),
        };
        let found = format!("{whose} may open {soft} files; {what}");
        let shell = match hard < wanted {
            true => format!("; in a shell, `ulimit -Hn {wanted} -Sn {wanted}` as root"),
            false => format!("; in a shell, `ulimit -n {wanted}` before the start"),
        };
        let fix = format!("LimitNOFILE={wanted} in the unit of systemd{shell}");
        Finding::bad(Level::Warning, place, found, fix)
    } else {
        Finding::ok(
            place.0,
            place.1,
            format!("{whose} may open {soft} files, {wanted} are enough"),
        )
    };
    Some(finding.with("limit", soft).with("wanted", wanted))
}

fn memory(asked: &Asked, facts: &Facts) -> Option<Finding> {
    let place = (GROUP, "memory");
    let (wanted, setting) = asked.memory?;
    let shown = ByteSize(wanted);
    let group = facts
        .group_memory
        .map(|limit| (limit, "the control group allows"));
    // What a daemon that runs has taken is missing from what is left.
    let left = facts.available.filter(|_| asked.process.is_none());
    let left = left.map(|available| (available, "can still be taken on this machine"));
    let (least, what) = [group, left]
        .into_iter()
        .flatten()
        .min_by_key(|(bytes, _)| *bytes)?;
    let finding = if least < wanted {
        let found = format!(
            "{shown} of memory ({setting}) are more than the {} that {what}",
            bytes(least)
        );
        let lower = ByteSize::mib((least >> 20) * 3 / 4);
        let fix = format!(
            "{setting} {lower}, or MemoryMax= of the unit, or more memory: else the kernel ends the daemon"
        );
        Finding::bad(Level::Problem, place, found, fix)
    } else {
        Finding::ok(
            place.0,
            place.1,
            format!(
                "{shown} of memory ({setting}) fit into the {} that {what}",
                bytes(least)
            ),
        )
    };
    Some(
        finding
            .with("wanted_bytes", wanted)
            .with("available_bytes", least),
    )
}

/// Fewer watches than this are soon used up by folders within folders, and by other programs of the user.
const FEW_WATCHES: u64 = 8_192;

fn watches(asked: &Asked, facts: &Facts) -> Option<Finding> {
    let place = (GROUP, "watches");
    let (watches, instances) = facts.watches.filter(|_| asked.watches)?;
    let finding = if watches < FEW_WATCHES || instances < 16 {
        let found = format!(
            "a user may watch {watches} folders with {instances} programs (inotify); what is not watched is found by scans, later"
        );
        let fix = "`sysctl -w fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=128`, and the same in /etc/sysctl.d";
        Finding::bad(Level::Note, place, found, fix)
    } else {
        Finding::ok(
            place.0,
            place.1,
            format!("a user may watch {watches} folders (inotify)"),
        )
    };
    Some(
        finding
            .with("watches", watches)
            .with("instances", instances),
    )
}

fn buffers(asked: &Asked, facts: &Facts) -> Option<Finding> {
    let place = (GROUP, "tcp-buffers");
    let (receive, send) = facts.buffers?;
    let (window, setting) = asked.window?;
    let (largest, name) = match asked.sends {
        true => (send, "net.ipv4.tcp_wmem"),
        false => (receive, "net.ipv4.tcp_rmem"),
    };
    let finding = if largest < window {
        let found = format!(
            "TCP buffers grow to {} ({name}), less than the {} of {setting}: on a long way less is under way than could be",
            bytes(largest),
            ByteSize(window)
        );
        let fix = format!(
            "only for ways of much bandwidth and delay: `sysctl -w {name}='4096 131072 {}'`",
            window.saturating_mul(2)
        );
        Finding::bad(Level::Note, place, found, fix)
    } else {
        Finding::ok(
            place.0,
            place.1,
            format!("TCP buffers grow to {} ({name})", bytes(largest)),
        )
    };
    Some(finding.with("largest_bytes", largest))
}

fn backlog(asked: &Asked, facts: &Facts) -> Option<Finding> {
    let place = (GROUP, "backlog");
    let backlog = facts.backlog.filter(|_| asked.listens)?;
    let finding = if backlog < 1_024 {
        let found = format!(
            "{backlog} connections may wait to be accepted (net.core.somaxconn): when all stations come at once, some are late"
        );
        Finding::bad(
            Level::Note,
            place,
            found,
            "`sysctl -w net.core.somaxconn=4096`, and the same in /etc/sysctl.d",
        )
    } else {
        Finding::ok(
            place.0,
            place.1,
            format!("{backlog} connections may wait to be accepted"),
        )
    };
    Some(finding.with("backlog", backlog))
}

fn processors(asked: &Asked, facts: &Facts) -> Option<Finding> {
    let count = facts.processors?;
    let cipher = match (asked.encrypts, facts.aes) {
        (false, _) => "",
        (true, true) => ", with instructions for AES, which is preferred",
        (true, false) => ", without instructions for AES, so that ChaCha20 is preferred",
    };
    let found = format!("{count} processors{cipher}");
    Some(
        Finding::ok(GROUP, "processors", found)
            .with("processors", count)
            .with("aes", facts.aes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            connections: Some((1_024, "--max-connections")),
            memory: Some((256 << 20, "--max-memory")),
            window: Some((4 << 20, "--http2-window")),
            watches: true,
            listens: true,
            ..Asked::default()
        }
    }

    fn facts() -> Facts {
        Facts {
            files: Some((2_176, 1 << 20)),
            watches: Some((8_192, 128)),
            group_memory: None,
            available: Some(256 << 20),
            buffers: Some((4 << 20, 1 << 20)),
            backlog: Some(1_024),
            processors: Some(2),
            aes: true,
        }
    }

    fn levels(asked: &Asked, facts: &Facts) -> Vec<(&'static str, Level)> {
        let bad = judge(asked, facts)
            .into_iter()
            .filter(|it| it.level > Level::Ok);
        bad.map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn what_is_just_enough_is_enough() {
        assert_eq!(levels(&asked(), &facts()), []);
        assert_eq!(judge(&asked(), &facts()).len(), 6);
    }

    #[test]
    fn what_is_too_little_is_told() {
        let little = Facts {
            files: Some((2_175, 1 << 20)),
            watches: Some((8_191, 128)),
            group_memory: Some((256 << 20) - 1),
            available: Some(1 << 40),
            buffers: Some(((4 << 20) - 1, 1 << 30)),
            backlog: Some(1_023),
            ..facts()
        };
        let expected = [
            ("open-files", Level::Warning),
            ("memory", Level::Problem),
            ("watches", Level::Note),
            ("tcp-buffers", Level::Note),
            ("backlog", Level::Note),
        ];
        assert_eq!(levels(&asked(), &little), expected);
    }

    #[test]
    fn a_daemon_that_runs_has_its_memory_already() {
        let low = Facts {
            available: Some(1),
            ..facts()
        };
        assert_eq!(levels(&asked(), &low), [("memory", Level::Problem)]);
        let running = Asked {
            process: Some(1),
            ..asked()
        };
        assert_eq!(levels(&running, &low), []);
    }
}
