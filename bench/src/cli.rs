//! The command line of `pantelegraph`.

pub(crate) mod doctor;
pub(crate) mod keys;
pub(crate) mod users;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use shared::image::Transport;
use shared::settings::units::{ByteSize, parse_duration};

/// Moves images off edge devices, provably without loss, and shows which transport does it best.
#[derive(Debug, Parser)]
#[command(name = "pantelegraph", version, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  pantelegraph demo                              the main job in ten seconds
  pantelegraph demo --image photo.jpg --delay 1s the scenario of the report, with your image
  pantelegraph bench path                        each transport as a ratio to raw TCP
  pantelegraph bench http2 --output report.html  what HTTP/2 promises, measured
  pantelegraph users demo                        gRPC in all of its modes, in some seconds
  pantelegraph keys init                         a private CA; then keys issue, keys token
  pantelegraph doctor receiver --data ./data     what is wrong with a station, and how to put it right

The daemons are pantelegraph-transmitter and pantelegraph-receiver.

Exit codes: 0 done; 1 something was not delivered or not measured; 2 usage")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts a receiver and a transmitter here, sends one image several times over each
    /// transport, and shows what each of them did.
    Demo(DemoOptions),
    /// Measures.
    Bench {
        #[command(subcommand)]
        bench: Bench,
    },
    /// The user service: one contract as gRPC, REST and GraphQL.
    Users {
        #[command(subcommand)]
        users: users::Users,
    },
    /// A private CA and tokens: who is let in.
    Keys(keys::Keys),
    /// Says what is wrong with a station, and how to put it right, before it hurts.
    #[command(after_help = "\
Examples:
  pantelegraph doctor receiver --data /srv/images
  pantelegraph doctor transmitter --config cam-1.toml     what the daemon would read, read here
  pantelegraph doctor --only reachability,clock transmitter --to https://station.example --pattern 1x1
  pantelegraph doctor --format json --strict receiver > findings.json

Run it as the user, in the folder and with the variables of the daemon. Options of the doctor stand before the
word transmitter, receiver or users; what stands behind it are the station's own settings, all of which
`doctor receiver --help` shows. It may run beside the daemon. Nothing is changed; a few small files are written to
the folder of the images for a moment, to time the disk, unless --no-disk-test is given.

JSON: station, worst (ok, note, warning or problem) and findings, each with group, check (a word that stays), level,
found, fix (null when all is well) and figures (sizes in bytes, times in the unit that the name ends with; target
is the URL that it is about).

Exit codes: 0 nothing is wrong, though there may be notes and warnings; 1 there are problems (--strict: or warnings);
2 usage, or mistakes in the settings; 130 Ctrl-C")]
    Doctor(doctor::Doctor),
    /// Prints a completion script for a shell.
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Throughput, CPU time and latency of each transport on the loopback path, with all checks
    /// on, as ratios to raw TCP measured in the same rounds.
    Path(PathOptions),
    /// Many clients in the user service's chat: each must hear every message once, in the same
    /// order; and how fast that goes.
    #[command(after_help = "\
Examples:
  pantelegraph bench chat                         500 clients, 100 messages each: 25 million deliveries
  pantelegraph bench chat --stalled 5             five more who never read, and must be cut off

Exit codes: 0 everybody heard everything once; 1 somebody did not; 2 usage")]
    Chat(ChatOptions),
    /// What HTTP/2 and gRPC promise, shown on the user service beside HTTP/1.1: connections and
    /// streams, multiplexing, header compression, both directions at once, the modes, flow control,
    /// cancellation, deadlines, and the cost of decoding. Starts its own server, on free ports.
    #[command(after_help = "\
Examples:
  pantelegraph bench http2                        tables and conclusions
  pantelegraph bench http2 --output report.html   and a page with pictures
  pantelegraph bench http2 --json > http2.json    every figure

Exit codes: 0 done; 1 a promise of the protocol did not hold, or nothing was measured; 2 usage")]
    Http2(Http2Options),
}

#[derive(Debug, Args)]
pub(crate) struct Http2Options {
    /// Calls of each kind [default: 1000, with --quick 40]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(16..=100_000))]
    pub(crate) calls: Option<u64>,
    /// Writes a page with tables and pictures, which needs nothing from elsewhere
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Prints every figure as JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Measures little: enough to see that everything works
    #[arg(long)]
    pub(crate) quick: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Image to send [default: a generated photo-like JPEG of 1920x1080]
    #[arg(long, value_name = "PATH")]
    pub(crate) image: Option<PathBuf>,
    /// Times that the image is sent over each transport
    #[arg(long, default_value_t = 10, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) count: u64,
    /// Pause between two images
    #[arg(long, default_value = "200ms", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) delay: Duration,
    /// Transports, in this order
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "websocket,grpc,rest",
        value_name = "TRANSPORT"
    )]
    pub(crate) transport: Vec<Transport>,
    /// Folder for images and report [default: a new one among the temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PathOptions {
    /// Transports, beside raw TCP
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "grpc,websocket,rest",
        value_name = "TRANSPORT"
    )]
    pub(crate) transport: Vec<Transport>,
    /// Size of an image in the throughput part
    #[arg(long, default_value = "1MB", value_name = "SIZE")]
    pub(crate) image_size: ByteSize,
    /// Bytes that each transport moves in a round
    #[arg(long, default_value = "2GB", value_name = "SIZE")]
    pub(crate) volume: ByteSize,
    /// Rounds; each measures every transport once, in another order
    #[arg(long, default_value_t = 7, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) rounds: u64,
    /// Bytes of an image in one message
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    pub(crate) chunk_size: ByteSize,
    /// Bytes in flight that have no receipt yet
    #[arg(long, default_value = "4MiB", value_name = "SIZE")]
    pub(crate) window: ByteSize,
    /// Connections side by side
    #[arg(long, default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) connections: u64,
    /// HTTP/2 frame size
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    pub(crate) http2_frame_size: ByteSize,
    /// HTTP/2 flow-control window
    #[arg(long, default_value = "4MiB", value_name = "SIZE")]
    pub(crate) http2_window: ByteSize,
    /// Size of an image in the latency part
    #[arg(long, default_value = "545801B", value_name = "SIZE")]
    pub(crate) latency_size: ByteSize,
    /// Images sent one at a time in each round
    #[arg(long, default_value_t = 300, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) latency_images: u64,
    /// Measures each transport over TLS too, in the same rounds, and what it costs
    #[arg(long)]
    pub(crate) tls: bool,
    /// Prints every sample as JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints the completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut command = Cli::command();
    clap_complete::generate(shell, &mut command, "pantelegraph", &mut std::io::stdout());
    ExitCode::SUCCESS
}

#[derive(Debug, Args)]
pub(crate) struct ChatOptions {
    /// Server that runs already, which nobody else talks to [default: one is started]
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Clients
    #[arg(long, default_value_t = 500, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) clients: u64,
    /// Messages that each of them says
    #[arg(long, default_value_t = 100, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) messages: u64,
    /// Connections that the clients share
    #[arg(long, default_value_t = 8, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) connections: u64,
    /// Clients beside them that never read, and must be cut off
    #[arg(long, default_value_t = 0, value_name = "N",
          value_parser = clap::value_parser!(u64).range(0..=100))]
    pub(crate) stalled: u64,
    /// Bytes of a message's text
    #[arg(long, default_value_t = 64, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=4_096))]
    pub(crate) text: u64,
}
