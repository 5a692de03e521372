//! All settings of the server.

use shared::settings::{Group, Setting};
use shared::telemetry::otlp::TELEMETRY;

/// The settings in the order of the help.
pub(super) static GROUPS: &[Group] = &[
    Group {
        heading: "Connections",
        settings: CONNECTIONS,
    },
    Group {
        heading: "Users",
        settings: USERS,
    },
    Group {
        heading: "Security",
        settings: shared::security::settings::SERVER,
    },
    Group {
        heading: "Callers without a name",
        settings: ANONYMOUS,
    },
    Group {
        heading: "Limits",
        settings: LIMITS,
    },
    Group {
        heading: "Stopping and output",
        settings: OUTPUT,
    },
    Group {
        heading: "Telemetry",
        settings: TELEMETRY,
    },
];

static CONNECTIONS: &[Setting] = &[
    Setting::value(
        "grpc-listen",
        "ADDR|off",
        "Listen here for gRPC and gRPC-Web",
    )
    .default("127.0.0.1:50051")
    .long("127.0.0.1 is this machine only; 0.0.0.0 is all networks. Port 0 takes a free one."),
    Setting::value(
        "http-listen",
        "ADDR|off",
        "Listen here for REST, GraphQL, metrics",
    )
    .default("127.0.0.1:8000")
    .long("127.0.0.1 is this machine only; 0.0.0.0 is all networks. Port 0 takes a free one."),
    Setting::value(
        "listen-all",
        "ADDR|off",
        "Listen here for all of them on one port",
    )
    .default("off")
    .long("gRPC is told apart by its type of content."),
    Setting::list(
        "cors-origin",
        "ORIGIN",
        "Pages of these origins may call from a browser",
    )
    .long(
        "For example https://app.example or http://localhost:*; :* is any port; * alone is every page \
         there is. Without it, only the pages of this server itself.",
    ),
    Setting::flag("open-metrics", "Show /metrics to everybody")
        .long("Otherwise it takes the scope read where callers are asked who they are."),
];

static USERS: &[Setting] = &[Setting::value(
    "data",
    "FILE",
    "Keep the users in this file [default: in memory]",
)
.long(
    "SQLite; made with five users when it is not there. One server has it at a time. A user is in \
         it, synced, before the answer says so.",
)];

static ANONYMOUS: &[Setting] = &[Setting::flag(
    "allow-anonymous",
    "Callers who show nothing may do all but give the role admin",
)
.long(
    "Where callers are asked for tokens or certificates; a token that is shown has to be good all the \
     same. Otherwise reading needs the scope read, creating users and saying something in the chat the \
     scope upload. The role admin is given only by callers who have the scope admin.",
)];

static LIMITS: &[Setting] = &[
    Setting::value("max-users", "N", "Most users").default("1000000"),
    Setting::value("max-batch", "N", "Most users of one batch").default("100000"),
    Setting::value(
        "max-message-size",
        "SIZE",
        "Largest message of gRPC, largest body of HTTP",
    )
    .default("4MiB"),
    Setting::value("max-connections", "N", "Most connections of each listener").default("1024"),
    Setting::value(
        "max-connections-per-peer",
        "N",
        "Most connections of one address, of each listener",
    )
    .default("256")
    .long(
        "Behind a gateway or NAT many callers share one. With IPv6, of one /64 network. Callers on this \
         machine have no such bound.",
    ),
    Setting::value(
        "max-requests-per-second",
        "N|off",
        "Most requests of one caller in a second",
    )
    .default("off")
    .long(
        "Of one identity, or of one address (IPv6: one /64 network) of those without a name. As many may \
         come at once. Beyond that they get 429 or RESOURCE_EXHAUSTED, and the time to wait. Operations on \
         a GraphQL WebSocket and in a batch count, messages of a stream do not. Health and what is the \
         same at every server are not counted.",
    ),
    Setting::value("max-streams", "N", "Most calls that one connection has open").default("1024"),
    Setting::value("max-chat-clients", "N", "Most clients of the chat").default("1024"),
    Setting::value(
        "chat-patience",
        "DURATION",
        "A full chat waits this long for a client that reads nothing",
    )
    .default("5s")
    .long(
        "The chat keeps 16,384 messages or 16 MiB for those who have not read them. When that is full, \
         clients that are far behind for a second while at least half of the others keep up are cut off, \
         and those that have read nothing for this time in any case.",
    ),
    Setting::value(
        "handshake-timeout",
        "DURATION",
        "Time for the handshake of TLS, and again until a request begins",
    )
    .default("10s"),
    Setting::value("head-timeout", "DURATION", "Time for the head of an HTTP/1 request")
        .default("30s"),
];

static OUTPUT: &[Setting] = &[
    Setting::value(
        "drain-delay",
        "DURATION",
        "Serve on for this long after health says NOT_SERVING",
    )
    .default("1s")
    .long("Give load balancers the time to see it: more than the interval of their checks.")
    .reloadable(),
    Setting::value(
        "grace",
        "DURATION",
        "Then let calls in flight go on for this long",
    )
    .default("10s")
    .reloadable(),
    Setting::value(
        "log",
        "FILTER",
        "What is logged: error, warn, info, debug, trace",
    )
    .default("info")
    .long("info has a line for each call; in the syntax of RUST_LOG also by part.")
    .reloadable(),
    Setting::value("log-format", "text|json", "Form of the log").default("text"),
];
