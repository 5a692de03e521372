//! All settings of the transmitter.

use shared::security::settings::{CLIENT, INSECURE};
use shared::settings::{Group, Setting};
use shared::telemetry::otlp::TELEMETRY;

/// The settings in the order of the help.
pub(super) static GROUPS: &[Group] = &[
    Group {
        heading: "Source (exactly one)",
        settings: SOURCE,
    },
    Group {
        heading: "Source details",
        settings: SOURCE_DETAILS,
    },
    Group {
        heading: "Pace",
        settings: PACE,
    },
    Group {
        heading: "Transport",
        settings: TRANSPORT,
    },
    Group {
        heading: "Security",
        settings: CLIENT,
    },
    Group {
        heading: "Outbox",
        settings: OUTBOX,
    },
    Group {
        heading: "Failures",
        settings: FAILURES,
    },
    Group {
        heading: "Identity and output",
        settings: OUTPUT,
    },
    Group {
        heading: "Telemetry",
        settings: TELEMETRY,
    },
];

static SOURCE: &[Setting] = &[
    Setting::value("file", "PATH", "Send this image file"),
    Setting::value(
        "folder",
        "DIR",
        "Send the images of this folder, and new ones as they come",
    )
    .long("A file that is still being written is not taken."),
    Setting::value(
        "pattern",
        "WIDTHxHEIGHT",
        "Send generated, photo-like images, each different",
    ),
    Setting::value(
        "snapshot-url",
        "URL",
        "Send what a camera gives at this HTTP address",
    )
    .long("Either one image per request, or an endless multipart/x-mixed-replace answer."),
    Setting::value(
        "command",
        "CMD",
        "Send the images that this command writes to its output",
    )
    .long(
        "MJPEG or images one after another. The command line is split into words as a shell \
             does it, but no shell runs.",
    ),
];

static SOURCE_DETAILS: &[Setting] = &[
    Setting::value("repeat", "N", "With --file: send it this often").default("1"),
    Setting::flag("recursive", "With --folder: folders below it too"),
    Setting::list(
        "include",
        "GLOB",
        "With --folder: only files with names like *.jpg",
    )
    .long("Without it, all endings of known image formats are taken."),
    Setting::flag("once", "With --folder: send what is there, then end"),
    Setting::value(
        "rescan",
        "DURATION",
        "With --folder: time between full scans",
    )
    .default("30s"),
    Setting::value(
        "after-delivery",
        "keep|delete|archive:DIR",
        "With --folder: what is done with a file after its receipt",
    )
    .default("keep"),
    Setting::flag(
        "folder-recapture",
        "With --folder: send files again that an earlier start captured",
    )
    .long(
        "Without it, an outbox in a folder knows them by path, size and time of change, and they \
         are skipped.",
    ),
    Setting::value("format", "jpeg|png|webp", "With --pattern: encoding").default("jpeg"),
    Setting::value("seed", "N", "With --pattern: same seed, same images").default("1"),
    Setting::value(
        "snapshot-timeout",
        "DURATION",
        "With --snapshot-url: time for one request",
    )
    .default("10s"),
];

static PACE: &[Setting] = &[
    Setting::value(
        "delay",
        "DURATION",
        "Wait this long between one image and the next",
    )
    .default("0")
    .reloadable(),
    Setting::value(
        "initial-delay",
        "DURATION",
        "Wait this long before the first image",
    )
    .default("0"),
    Setting::value(
        "jitter",
        "DURATION",
        "Change each wait at random by up to this much",
    )
    .default("0")
    .reloadable(),
    Setting::value(
        "rate",
        "RATE",
        "Take images by a timetable: 5/s, 30/m; instead of --delay",
    ),
    Setting::value(
        "schedule",
        "fixed|poisson",
        "With --rate: form of the timetable",
    )
    .default("fixed"),
    Setting::value("count", "N", "End after this many images"),
    Setting::value("for", "DURATION", "End after this time"),
];

static TRANSPORT: &[Setting] = &[
    Setting::list(
        "transport",
        "grpc|websocket|rest",
        "Transports, each in turn over all images",
    )
    .default("grpc")
    .long("With several of them the source must end: the same images go over each."),
    Setting::list("to", "[TRANSPORT=|all=]URL", "Where the receiver is").long(
        "By default on this machine: grpc=http://127.0.0.1:50051, \
         websocket=ws://127.0.0.1:8080/v1/stream, rest=http://127.0.0.1:8080. A URL without a \
         port means the port that the transport has there. Without TRANSPORT= it belongs to \
         WebSocket when it begins with ws:// or wss://, else to the transport in use; with several \
         transports, http://HOST stands for all of them, and all=https://HOST:PORT for all of them \
         on one port (--listen-all of the receiver). https:// and wss:// are encrypted, with TLS \
         1.3.",
    ),
    Setting::value(
        "listen",
        "ADDR",
        "Wait here for a receiver to dial in, instead of dialling one",
    )
    .long(
        "For WebSocket. The receiver is started with --pull ws://DEVICE:PORT/v1/stream. With \
         --tls-cert and --tls-key it is encrypted (wss://), and with --tls-ca only receivers with a \
         certificate of that CA may come.",
    ),
    INSECURE,
    Setting::value("chunk-size", "SIZE", "Bytes of an image in one message").default("256KiB"),
    Setting::value("grpc-call", "exchange|put", "gRPC call that carries images")
        .default("exchange")
        .long("exchange: one long stream for all. put: a call for each image, in one message."),
    Setting::value("message-size", "SIZE", "Largest image for --grpc-call put")
        .default("4MiB")
        .long("Images that are larger than this or --window go over the session beside."),
    Setting::value("window", "SIZE", "Bytes in flight that have no receipt yet").default("4MiB"),
    Setting::value("connections", "N", "Connections side by side")
        .default("2")
        .long(
            "With two, REST sends an image while the one before it is checked. --listen uses one.",
        ),
    Setting::value(
        "http2-frame-size",
        "SIZE",
        "gRPC: largest DATA frame that this side sends",
    )
    .default("256KiB"),
    Setting::value(
        "connect-timeout",
        "DURATION",
        "Time to connect and to be welcomed",
    )
    .default("5s"),
    Setting::value(
        "idle-timeout",
        "DURATION",
        "Give up a connection that is silent for this long",
    )
    .default("30s"),
    Setting::value(
        "clock-interval",
        "DURATION",
        "Time between looks at the receiver's clock",
    )
    .default("10s"),
    Setting::value(
        "bandwidth",
        "BANDWIDTH|off",
        "Send at most so many image bytes a second: 2Mbit/s, 500kB/s",
    )
    .default("off")
    .reloadable(),
    Setting::list(
        "bandwidth-schedule",
        "HH:MM-HH:MM=BANDWIDTH|off",
        "Other caps by the time of day: 08:00-18:00=500kbit/s",
    )
    .long("Local time. Where several cover a minute the first counts; elsewhere --bandwidth.")
    .reloadable(),
    Setting::value("digest", "xxh3-128|blake3", "Digest over each image")
        .default("xxh3-128")
        .long("xxh3-128 finds every accident; blake3 finds tampering too, and costs more."),
];

static OUTBOX: &[Setting] = &[
    Setting::value(
        "outbox",
        "DIR|memory",
        "Where images wait for their receipts",
    )
    .default("./outbox")
    .long(
        "In a folder they survive the end of the program and power loss; its next start goes on \
         with them. memory is for benchmarks, and for devices that may lose what they owe.",
    ),
    Setting::value(
        "outbox-limit",
        "SIZE",
        "Images in the folder take at most this much",
    )
    .default("2GiB"),
    Setting::value(
        "outbox-min-free",
        "SIZE",
        "This much of the folder's file system stays free",
    )
    .default("500MiB"),
    Setting::value(
        "when-full",
        "block|drop-oldest|drop-newest|thin:N",
        "What gives way when the outbox is full",
    )
    .default("block")
    .long(
        "block: the source waits. thin:N: of N waiting images one stays, the oldest first. \
         Whatever is dropped is named in the loss ledger, which the receiver gets.",
    ),
    Setting::value(
        "outbox-durability",
        "written|synced",
        "How firmly an image is kept before the next is taken",
    )
    .default("synced")
    .long("synced: survives power loss. written: survives the end of the program."),
    Setting::value(
        "outbox-files",
        "link|copy|reference",
        "With --folder: how its files come into the outbox",
    )
    .default("link")
    .long(
        "link: by a second name where both are on one file system, else copied. copy: always \
         copied. reference: left where they are, which asks that nobody touches them before \
         their receipt.",
    ),
    Setting::value(
        "outbox-memory",
        "SIZE",
        "With --outbox memory: images that wait may take this much",
    )
    .default("256MiB"),
    Setting::value(
        "order",
        "oldest-first|newest-first",
        "Which of the waiting images goes first",
    )
    .default("oldest-first"),
];

static FAILURES: &[Setting] = &[
    Setting::value(
        "retry-initial",
        "DURATION",
        "Wait this long after the first failure",
    )
    .default("100ms")
    .long("Doubled with each failure in a row, up to --retry-max, and varied at random."),
    Setting::value("retry-max", "DURATION", "Wait at most this long").default("30s"),
    Setting::value(
        "retry-attempts",
        "N",
        "Give up an image after this many attempts",
    )
    .long("Without it, an image is never given up."),
    Setting::value(
        "give-up-after",
        "DURATION",
        "End when no receiver answers for this long",
    )
    .long(
        "Without it, the transmitter waits for ever. A receiver that does not let this station in \
         counts as none; one that is busy, or has no quota left, does not.",
    ),
    Setting::value(
        "grace",
        "DURATION",
        "Time to finish what is in flight when stopped",
    )
    .default("10s"),
];

static OUTPUT: &[Setting] = &[
    Setting::value(
        "name",
        "NAME",
        "Name of this transmitter [default: the host name]",
    ),
    Setting::value(
        "run",
        "LABEL",
        "Label of this run in reports [default: made from the time]",
    ),
    Setting::value(
        "progress",
        "auto|always|never",
        "Draw progress; auto: on a terminal",
    )
    .default("auto"),
    Setting::value(
        "receipts",
        "FILE",
        "Append a line of JSON to this file for each image that the receiver answered for",
    )
    .long(
        "Stored, duplicate or quarantined: id, sequence, digest, size, durability. A line is \
         written before the outbox forgets the image; while it cannot be, the image stays owed.",
    ),
    Setting::value(
        "status-listen",
        "ADDR|off",
        "Serve /healthz, /readyz and /metrics here",
    )
    .long(
        "When it is open, the line `ready: status ADDR` is printed. Anybody who reaches it may \
         read it, so that beyond this machine it needs --insecure.",
    )
    .default("off"),
    Setting::value(
        "report",
        "FILE",
        "Write the report of the run as JSON to this file",
    ),
    Setting::value(
        "log",
        "FILTER",
        "What is logged: error, warn, info, debug, trace",
    )
    .default("info")
    .long("Also by part, in the syntax of RUST_LOG: info,pantelegraph_transmitter=debug.")
    .reloadable(),
    Setting::value("log-format", "text|json", "Form of the log").default("text"),
];
