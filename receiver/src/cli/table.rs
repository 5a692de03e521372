//! All settings of the receiver.

use shared::security::settings::SERVER;
use shared::settings::{Group, Setting};
use shared::telemetry::otlp::TELEMETRY;

/// The settings in the order of the help.
pub(super) static GROUPS: &[Group] = &[
    Group {
        heading: "Connections",
        settings: CONNECTIONS,
    },
    Group {
        heading: "Security",
        settings: SERVER,
    },
    Group {
        heading: "Images",
        settings: IMAGES,
    },
    Group {
        heading: "Limits",
        settings: LIMITS,
    },
    Group {
        heading: "Tuning",
        settings: TUNING,
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

static CONNECTIONS: &[Setting] = &[
    Setting::value("grpc-listen", "ADDR|off", "Listen here for gRPC")
        .default("127.0.0.1:50051")
        .long("127.0.0.1 is this machine only; 0.0.0.0 is all networks. Port 0 takes a free one."),
    Setting::value(
        "http-listen",
        "ADDR|off",
        "Listen here for REST, WebSocket, reports, metrics",
    )
    .default("127.0.0.1:8080")
    .long("127.0.0.1 is this machine only; 0.0.0.0 is all networks. Port 0 takes a free one."),
    Setting::value(
        "listen-all",
        "ADDR|off",
        "Listen here for all of them on one port",
    )
    .default("off")
    .long(
        "gRPC is told apart by its paths. Transmitters reach it with --to https://HOST:PORT, or with \
         --to all=https://HOST:PORT when they use several transports.",
    ),
    Setting::list(
        "pull",
        "URL",
        "Dial these transmitters, which wait with --listen",
    )
    .long(
        "For example wss://camera.example:8081. The path is /v1/stream unless one is given. Encrypted, its \
         certificate has to be signed by --tls-client-ca, and says who it is.",
    ),
    Setting::flag("open-metrics", "Show /metrics to everybody")
        .long("Otherwise it takes the scope read where callers are asked who they are.")
        .reloadable(),
];

static IMAGES: &[Setting] = &[
    Setting::value("data", "DIR", "Folder for images and catalogue").default("./data"),
    Setting::value(
        "durability",
        "memory|written|synced",
        "How firmly an image is kept at receipt",
    )
    .default("synced")
    .long(
        "synced: on the medium with its catalogue entry, survives power loss. written: handed \
             to the operating system, survives the end of the program. memory: verified and \
             counted but not kept, for benchmarks only.",
    ),
    Setting::value("verify", "header|full", "How closely images are looked at")
        .default("header")
        .long("header: format, dimensions and a proper end. full: all pixels are decoded."),
    Setting::value(
        "partial-ttl",
        "DURATION",
        "Keep unfinished uploads this long",
    )
    .default("24h")
    .long(
        "Also across restarts of the receiver, from which on the time counts anew. 1,024 of them \
         at most, the newest.",
    ),
    Setting::value(
        "partial-limit",
        "SIZE",
        "Most bytes of unfinished uploads that nobody sends",
    )
    .default("4GiB")
    .long("Beyond, the oldest is dropped, and sent again from its start."),
    Setting::value(
        "quota-bytes",
        "SIZE|off",
        "Most bytes of images that one transmitter brings in within --quota-period",
    )
    .default("off")
    .long(
        "What is stored or quarantined counts, once, and what is under way. An image beyond it is turned \
         down before its bytes come; transmitters keep it and bring it later. Where nobody is asked who it \
         is, the name that a transmitter gives itself counts, which protects against mistakes only.",
    ),
    Setting::value(
        "quota-images",
        "N|off",
        "Most images that one transmitter brings in within --quota-period",
    )
    .default("off"),
    Setting::value(
        "quota-period",
        "DURATION",
        "How long what a transmitter brought in counts towards its quota",
    )
    .default("24h")
    .long("It goes along with the time, in sixtieths, and across restarts of the receiver."),
    Setting::value(
        "min-free",
        "SIZE",
        "Take no images while less is free on the disk",
    )
    .default("64MiB")
    .long("They are turned down for a later try until there is more. 0 uses all there is."),
];

static LIMITS: &[Setting] = &[
    Setting::value("max-image-size", "SIZE", "Largest image").default("512MiB"),
    Setting::value("max-message-size", "SIZE", "Largest message").default("4MiB"),
    Setting::value("max-chunks", "N", "Most chunks of one image").default("1000000"),
    Setting::value(
        "max-metadata",
        "SIZE",
        "Most metadata of one image: name, type, run, identity",
    )
    .default("16KiB"),
    Setting::value(
        "max-pixels",
        "N",
        "Most pixels of one image, with --verify full",
    )
    .default("500000000")
    .long("Looked at before anything is decoded. Without --verify full nothing is, and any number is taken."),
    Setting::value(
        "decode-timeout",
        "DURATION",
        "Time to decode one image, with --verify full",
    )
    .default("30s")
    .long("An image that takes longer is quarantined: its bytes are kept, apart from the others."),
    Setting::value("max-connections", "N", "Most connections in all").default("1024"),
    Setting::value(
        "max-connections-per-peer",
        "N",
        "Most connections of one address",
    )
    .default("256")
    .long("Behind a gateway or NAT many stations share one. With IPv6, of one /64 network."),
    Setting::value(
        "max-requests-per-second",
        "N|off",
        "Most requests of one caller in a second; images of sessions count too",
    )
    .default("off")
    .long(
        "Of one identity, or of one address (IPv6: one /64 network) where nobody is asked who it is. As many \
         may come at once. Beyond that, requests get 429 or RESOURCE_EXHAUSTED and the time to wait, and a \
         session (WebSocket, Exchange, Upload) in which more images begin is read on later. Transmitters \
         wait, and lose nothing. A transmitter with small images makes thousands a second; /healthz and \
         /readyz are not counted.",
    ),
    Setting::value(
        "handshake-timeout",
        "DURATION",
        "Time for TLS, and for the beginning of the first request",
    )
    .default("10s"),
    Setting::value(
        "max-unfinished",
        "N",
        "Most unfinished images of one connection",
    )
    .default("64"),
    Setting::value(
        "max-memory",
        "SIZE",
        "Memory that the receiver may take with all its clients",
    )
    .default("256MiB")
    .long(
        "For bytes that have come and are not on disk, and for connections and their buffers. \
             Where it is short, senders are held back, and a connection that makes no progress ends. \
             32 MiB of it (a quarter of less) are for the program, and 128 KiB for each connection; 16 \
             MiB are left for messages however many connections there are, so a small setting with very \
             many of them is exceeded. Decoding (--verify full) comes on top.",
    ),
    Setting::value(
        "idle-timeout",
        "DURATION",
        "Close a connection that is silent for this long",
    )
    .default("60s"),
];

static TUNING: &[Setting] = &[
    Setting::value(
        "credit",
        "SIZE",
        "Image bytes that one session may have under way",
    )
    .default("8MiB"),
    Setting::value(
        "http2-frame-size",
        "SIZE",
        "gRPC: frame size that this side accepts",
    )
    .default("256KiB"),
    Setting::value(
        "http2-window",
        "SIZE",
        "gRPC: flow-control window of stream and connection",
    )
    .default("4MiB")
    .long(
        "About twice bandwidth times round trip: 4MiB carries 40 MB/s over 50 ms. A slow reader \
         of the receiver's may cost up to twice this much memory for each connection.",
    ),
];

static OUTPUT: &[Setting] = &[
    Setting::value(
        "name",
        "NAME",
        "Name of this receiver [default: the host name]",
    ),
    Setting::value(
        "grace",
        "DURATION",
        "Time to finish what is in flight when stopped",
    )
    .default("10s")
    .reloadable(),
    Setting::value(
        "log",
        "FILTER",
        "What is logged: error, warn, info, debug, trace",
    )
    .default("info")
    .long("Also by part, in the syntax of RUST_LOG: info,pantelegraph_receiver=debug.")
    .reloadable(),
    Setting::value("log-format", "text|json", "Form of the log").default("text"),
];
