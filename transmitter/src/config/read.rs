//! From settings to a checked configuration.

use std::path::PathBuf;
use std::time::Duration;

use shared::settings::address::parse_plain_url;
use shared::settings::units::{
    ByteSize, Dimensions, Rate, duration_within, number_within, parse_duration, size_within,
};
use shared::settings::{self, Values};
use shared::telemetry::otlp::OtlpSettings;

use super::{
    AfterDelivery, BandwidthOptions, Config, FolderOptions, LinkOptions, OutboxOptions,
    OutboxPlace, PaceOptions, PatternOptions, RetryOptions, SourceOptions, addresses, security,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

impl Config {
    /// Reads all settings. What is wrong is noted in `values`; the result counts only when
    /// [`Values::finish`] finds nothing.
    pub fn from_values(values: &mut Values) -> Self {
        let source = source(values);
        let pace = pace(values);
        let addresses = addresses::read(values);
        let source_ends = match &source {
            SourceOptions::File { .. } => true,
            SourceOptions::Folder(folder) => folder.once,
            SourceOptions::Pattern(_)
            | SourceOptions::Snapshot { .. }
            | SourceOptions::Command { .. } => false,
        };
        let ends = source_ends || pace.count.is_some() || pace.run_for.is_some();
        let known = values.is_known(&["transport", "count", "for", "once"]);
        if !ends && addresses.transports.len() > 1 && known {
            let problem = "several transports need a source that ends; add --count or --for, or \
                           --once with --folder";
            values.mistake("transport", problem);
        }
        let status_listen = values.required("status-listen", addresses::listener_or_off);
        let (security, insecure) = security::read(values, addresses.listen, status_listen);
        values.derive("name", vec![settings::host_name()], "the host name");
        Self {
            name: values.optional("name", settings::label).unwrap_or_default(),
            run: values.optional("run", settings::label),
            source,
            pace,
            transports: addresses.transports,
            to: addresses.to,
            listen: addresses.listen,
            security,
            insecure,
            link: link(values),
            digest: values.required("digest", str::parse),
            outbox: outbox(values),
            order: values.required("order", str::parse),
            retry: retry(values),
            grace: values.required("grace", duration_within(Duration::ZERO..=DAY)),
            progress: values.required("progress", str::parse),
            report: values.optional("report", path),
            receipts: values.optional("receipts", path),
            status_listen,
            log: values.required("log", settings::log_filter),
            log_format: values.required("log-format", str::parse),
            telemetry: OtlpSettings::from_values(values),
        }
    }
}

/// Beyond the memory of any machine this is made for.
const LARGEST: ByteSize = ByteSize::mib(1 << 20);

const SOURCES: [&str; 5] = ["file", "folder", "pattern", "snapshot-url", "command"];

/// Settings that mean nothing without another one.
const DETAILS: [(&str, &str); 10] = [
    ("repeat", "file"),
    ("recursive", "folder"),
    ("include", "folder"),
    ("once", "folder"),
    ("rescan", "folder"),
    ("after-delivery", "folder"),
    ("folder-recapture", "folder"),
    ("format", "pattern"),
    ("seed", "pattern"),
    ("snapshot-timeout", "snapshot-url"),
];

fn source(values: &mut Values) -> SourceOptions {
    let given = values.keep_strongest(&SOURCES);
    let chosen = given.first().copied();
    match given.as_slice() {
        [] if values.is_complete() && values.is_known(&SOURCES) => values.general_mistake(
            "no source of images; give exactly one of --file, --folder, --pattern, --snapshot-url \
             or --command, for example --pattern 1920x1080 --count 10",
        ),
        [] => {}
        [_] => {
            let chosen = chosen.unwrap_or_default();
            for (detail, source) in DETAILS {
                if source != chosen && values.is_on_command_line(detail) {
                    let problem = format!("means nothing with --{chosen}; it goes with --{source}");
                    values.mistake(detail, &problem);
                }
            }
        }
        [_, others @ ..] => {
            for other in others {
                let first = chosen.unwrap_or_default();
                let problem = format!("a second source beside {first}; give exactly one");
                values.mistake(other, &problem);
            }
        }
    }
    // All of them are read, so that mistakes in any of them are found.
    let file = file(values);
    let folder = folder(values);
    let pattern = pattern(values);
    let snapshot = snapshot(values);
    let command = command(values);
    match chosen {
        Some("folder") => folder,
        Some("pattern") => pattern,
        Some("snapshot-url") => snapshot,
        Some("command") => command,
        // Also what a configuration with mistakes holds, which nobody gets to see.
        _ => file,
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') {
        return Err("a path cannot contain a zero byte".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn file(values: &mut Values) -> SourceOptions {
    SourceOptions::File {
        path: values.optional("file", path).unwrap_or_default(),
        repeat: values.required("repeat", number_within(1..=u64::MAX)),
    }
}

fn folder(values: &mut Values) -> SourceOptions {
    let glob = |text: &str| match glob::Pattern::new(text) {
        Ok(_) if text.contains('/') => Err(format!(
            "{text:?} is compared with file names; leave the folders out"
        )),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{text:?} is not a pattern such as *.jpg: {}",
            error.msg
        )),
    };
    let options = FolderOptions {
        path: values.optional("folder", path).unwrap_or_default(),
        recursive: values.flag("recursive"),
        include: values.list("include", glob),
        once: values.flag("once"),
        rescan: values.required("rescan", duration_within(MILLISECOND * 100..=DAY)),
        after_delivery: values.required("after-delivery", str::parse),
        recapture: values.flag("folder-recapture"),
    };
    if let AfterDelivery::Archive(archive) = &options.after_delivery {
        // Files there would be found and sent again, for ever.
        let inside = options.recursive && archive.starts_with(&options.path);
        if values.is_given("folder") && (inside || *archive == options.path) {
            let problem = "this archive would be searched for new images; choose a folder outside";
            values.mistake("after-delivery", problem);
        }
    }
    SourceOptions::Folder(options)
}

fn pattern(values: &mut Values) -> SourceOptions {
    let dimensions = values.optional("pattern", |text| {
        let dimensions: Dimensions = text.parse()?;
        let Dimensions { width, height } = dimensions;
        let allowed = 1..=16_384;
        if allowed.contains(&width) && allowed.contains(&height) {
            return Ok(dimensions);
        }
        Err(format!(
            "{dimensions} is out of range; use 1 to 16384 pixels each way"
        ))
    });
    let Dimensions { width, height } = dimensions.unwrap_or(Dimensions {
        width: 1,
        height: 1,
    });
    SourceOptions::Pattern(PatternOptions {
        width,
        height,
        format: values.required("format", str::parse),
        seed: values.required("seed", number_within(0..=u64::MAX)),
    })
}

fn snapshot(values: &mut Values) -> SourceOptions {
    let http = |text: &str| parse_plain_url(text, &["http"]);
    let url = values.optional("snapshot-url", http);
    let timeout = values.required("snapshot-timeout", duration_within(MILLISECOND..=DAY));
    match url {
        Some(url) => SourceOptions::Snapshot { url, timeout },
        None => SourceOptions::Command {
            command: String::new(),
        },
    }
}

fn command(values: &mut Values) -> SourceOptions {
    let command = values.optional("command", |text| match shlex::split(text) {
        Some(words) if words.first().is_some_and(|program| !program.is_empty()) => {
            Ok(text.to_owned())
        }
        Some(_) => Err("no program in it; write 'PROGRAM ARGUMENTS'".to_owned()),
        None => {
            Err("a quote is not closed, or a backslash ends it; write it as for a shell".to_owned())
        }
    });
    SourceOptions::Command {
        command: command.unwrap_or_default(),
    }
}

fn pace(values: &mut Values) -> PaceOptions {
    // A delay of zero from a file or a variable is what everybody has, no wish against a rate.
    let waits = |text: &str| Ok(parse_duration(text) != Ok(Duration::ZERO));
    let has_delay = values.is_given("delay") && values.required("delay", waits);
    if has_delay || values.is_on_command_line("delay") {
        let both = values.keep_strongest(&["rate", "delay"]).len() > 1;
        if both && has_delay {
            let problem = "a timetable leaves no room for --delay; give one of them";
            values.mistake("rate", problem);
        }
    }
    if values.is_on_command_line("schedule")
        && !values.is_given("rate")
        && values.is_known(&["rate"])
    {
        values.mistake("schedule", "means nothing without --rate");
    }
    let wait = || duration_within(Duration::ZERO..=YEAR);
    PaceOptions {
        delay: values.required("delay", wait()),
        initial_delay: values.required("initial-delay", wait()),
        jitter: values.required("jitter", wait()),
        rate: values
            .optional("rate", str::parse::<Rate>)
            .map(|rate| rate.per_second),
        schedule: values.required("schedule", str::parse),
        count: values.optional("count", number_within(1..=u64::MAX)),
        run_for: values.optional("for", duration_within(MILLISECOND..=YEAR)),
    }
}

fn link(values: &mut Values) -> LinkOptions {
    let (kib, mib) = (ByteSize::kib, ByteSize::mib);
    // Shorter ones would fill the link with signs of life.
    let time = || duration_within(MILLISECOND * 100..=DAY);
    let largest_frame = ByteSize(mib(16).0 - 1);
    let connections = values.required("connections", number_within(1..=64));
    let options = LinkOptions {
        chunk_size: values.required("chunk-size", size_within(kib(1)..=mib(16))),
        grpc_call: values.required("grpc-call", str::parse),
        message_size: values.required("message-size", size_within(kib(64)..=mib(1024))),
        window: values.required("window", size_within(kib(1)..=LARGEST)),
        connections: usize::try_from(connections).unwrap_or(1),
        http2_frame_size: values.required("http2-frame-size", size_within(kib(16)..=largest_frame)),
        connect_timeout: values.required("connect-timeout", time()),
        idle_timeout: values.required("idle-timeout", time()),
        clock_interval: values.required("clock-interval", time()),
        bandwidth: bandwidth(values),
    };
    if options.window < options.chunk_size && values.is_known(&["window", "chunk-size"]) {
        let LinkOptions {
            window, chunk_size, ..
        } = options;
        let problem = format!(
            "{window} in flight is less than one chunk of {chunk_size}; raise --window or lower \
             --chunk-size"
        );
        values.mistake("window", &problem);
    }
    let times = ["idle-timeout", "clock-interval"];
    if options.idle_timeout <= options.clock_interval && values.is_known(&times) {
        let problem = "without images, only the clock messages show that the receiver lives; \
                       make it longer than --clock-interval";
        values.mistake("idle-timeout", problem);
    }
    options
}

fn bandwidth(values: &mut Values) -> BandwidthOptions {
    let cap = |text: &str| match text {
        "off" => Ok(None),
        _ => text.parse().map(Some),
    };
    BandwidthOptions {
        base: values.required("bandwidth", cap),
        schedule: values.list("bandwidth-schedule", str::parse),
    }
}

fn outbox(values: &mut Values) -> OutboxOptions {
    let size = || size_within(ByteSize::mib(1)..=LARGEST);
    OutboxOptions {
        place: values.required("outbox", |text| match text {
            "memory" => Ok(OutboxPlace::Memory),
            _ => path(text).map(OutboxPlace::Folder),
        }),
        memory: values.required("outbox-memory", size()),
        limit: values.required("outbox-limit", size()),
        min_free: values.required("outbox-min-free", size_within(ByteSize(0)..=LARGEST)),
        when_full: values.required("when-full", str::parse),
        durability: values.required("outbox-durability", str::parse),
        files: values.required("outbox-files", str::parse),
    }
}

fn retry(values: &mut Values) -> RetryOptions {
    let attempts = values.optional("retry-attempts", number_within(1..=u64::from(u32::MAX)));
    let options = RetryOptions {
        initial: values.required("retry-initial", duration_within(MILLISECOND..=DAY)),
        max: values.required("retry-max", duration_within(MILLISECOND..=DAY)),
        attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()),
        give_up_after: values.optional("give-up-after", duration_within(MILLISECOND..=YEAR)),
    };
    if options.max < options.initial && values.is_known(&["retry-initial", "retry-max"]) {
        values.mistake("retry-max", "is shorter than --retry-initial; raise it");
    }
    options
}
