//! The settings of a transmitter, checked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use shared::digest::DigestAlgorithm;
use shared::image::Transport;
use shared::security::settings::ClientSettings;
use shared::settings::units::{Bandwidth, ByteSize};
use shared::telemetry::LogFormat;
use shared::telemetry::otlp::OtlpSettings;
use url::Url;

mod addresses;
mod read;
mod security;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
mod words;

/// Everything a transmitter needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Identity of this transmitter.
    pub name: String,
    /// Label of the run; made from the time when not set.
    pub run: Option<String>,
    /// Where images come from.
    pub source: SourceOptions,
    /// When they are taken.
    pub pace: PaceOptions,
    /// Transports, used in turn over the same images.
    pub transports: Vec<Transport>,
    /// Where each of them goes.
    pub to: BTreeMap<Transport, Url>,
    /// Wait here for a receiver to dial in, instead of dialling one (WebSocket only).
    pub listen: Option<SocketAddr>,
    /// What is shown to receivers, and which of them are trusted.
    pub security: ClientSettings,
    /// Listeners that everybody in the network can use are meant.
    pub insecure: bool,
    /// How images travel.
    pub link: LinkOptions,
    /// How their digests are made.
    pub digest: DigestAlgorithm,
    /// Where images wait for their receipts.
    pub outbox: OutboxOptions,
    /// Which of the waiting images goes first.
    pub order: Order,
    /// What happens after a failure.
    pub retry: RetryOptions,
    /// Time to finish what is in flight after SIGTERM or SIGINT.
    pub grace: Duration,
    /// Whether progress is drawn.
    pub progress: When,
    /// File for the report as JSON.
    pub report: Option<PathBuf>,
    /// File that gets a line for each image that is not owed any more.
    pub receipts: Option<PathBuf>,
    /// Listener for health and metrics.
    pub status_listen: Option<SocketAddr>,
    /// Filter of the log, in the syntax of `RUST_LOG`.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Whom to tell of traces and figures.
    pub telemetry: OtlpSettings,
}

/// Where images wait for their receipts.
#[derive(Debug, Clone)]
pub struct OutboxOptions {
    /// On disk or in memory.
    pub place: OutboxPlace,
    /// Bytes that may wait in memory ([`OutboxPlace::Memory`]).
    pub memory: ByteSize,
    /// Bytes that may wait on disk.
    pub limit: ByteSize,
    /// Bytes of the file system that stay free.
    pub min_free: ByteSize,
    /// What happens when there is no room.
    pub when_full: WhenFull,
    /// How firmly an image is kept before its source may go on.
    pub durability: OutboxDurability,
    /// How files of a folder source come into the outbox.
    pub files: OutboxFiles,
}

/// Where an outbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxPlace {
    /// Gone with the process.
    Memory,
    /// In this folder.
    Folder(PathBuf),
}

/// What happens when the outbox has no room for a new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The source waits.
    #[default]
    Block,
    /// The oldest waiting images give way.
    DropOldest,
    /// The new image is dropped.
    DropNewest,
    /// The waiting images are thinned out: of each row of so many, all but one give way, the
    /// oldest rows first, until there is room. At least 2.
    Thin(u32),
}

/// How firmly the outbox keeps an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutboxDurability {
    /// Handed to the operating system: survives the end of the process.
    Written,
    /// On the medium: survives power loss.
    #[default]
    Synced,
}

/// How files of a folder source come into the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutboxFiles {
    /// By a second name (hard link) where outbox and source share a file system, else copied.
    #[default]
    Link,
    /// Copied.
    Copy,
    /// Left where they are: the outbox knows only their paths.
    Reference,
}

/// Which of the waiting images goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The one that waits longest.
    #[default]
    OldestFirst,
    /// The one that was captured last.
    NewestFirst,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// When stderr is a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where images come from.
#[derive(Debug, Clone)]
pub enum SourceOptions {
    /// One file, sent several times.
    File {
        /// The file.
        path: PathBuf,
        /// How often.
        repeat: u64,
    },
    /// A folder.
    Folder(FolderOptions),
    /// Generated images.
    Pattern(PatternOptions),
    /// A camera with an HTTP address.
    Snapshot {
        /// Its address: a single image, or `multipart/x-mixed-replace`.
        url: Url,
        /// Time for one request.
        timeout: Duration,
    },
    /// A program that writes images to its standard output.
    Command {
        /// Its command line, split into words as a shell does; no shell runs.
        command: String,
    },
}

/// A folder that is watched.
#[derive(Debug, Clone)]
pub struct FolderOptions {
    /// The folder.
    pub path: PathBuf,
    /// Folders below it too.
    pub recursive: bool,
    /// Names that are taken, for example `*.jpg`; any of them matches. Empty: all known endings.
    pub include: Vec<String>,
    /// Take what is there, then end.
    pub once: bool,
    /// Time between full scans, which find what the watch missed.
    pub rescan: Duration,
    /// What is done with a file after its receipt.
    pub after_delivery: AfterDelivery,
    /// Files that an earlier process captured are captured again.
    pub recapture: bool,
}

/// What is done with a file after its receipt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AfterDelivery {
    /// Nothing.
    #[default]
    Keep,
    /// It is deleted.
    Delete,
    /// It is moved into this folder.
    Archive(PathBuf),
}

/// Generated, photo-like images, each different.
#[derive(Debug, Clone)]
pub struct PatternOptions {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// How they are encoded.
    pub format: PatternFormat,
    /// Same seed, same images.
    pub seed: u64,
}

/// Encoding of generated images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "named by themselves")]
pub enum PatternFormat {
    #[default]
    Jpeg,
    Png,
    WebP,
}

/// When images are taken.
#[derive(Debug, Clone, PartialEq)]
pub struct PaceOptions {
    /// Time between the end of one image's delivery and the next capture when `rate` is not set.
    pub delay: Duration,
    /// Time before the first image.
    pub initial_delay: Duration,
    /// Each waiting time is changed at random by up to this much, either way.
    pub jitter: Duration,
    /// Images per second from a fixed timetable, whatever delivery does.
    pub rate: Option<f64>,
    /// Form of that timetable.
    pub schedule: Schedule,
    /// Images in all.
    pub count: Option<u64>,
    /// Time in all.
    pub run_for: Option<Duration>,
}

/// Form of a timetable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// Equal intervals.
    #[default]
    Fixed,
    /// Exponentially distributed intervals with the same mean.
    Poisson,
}

/// How images travel.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Bytes of an image in one message.
    pub chunk_size: ByteSize,
    /// gRPC call that carries images.
    pub grpc_call: GrpcCall,
    /// Largest image that gRPC `Put` sends in one message.
    pub message_size: ByteSize,
    /// Bytes in flight that have no receipt yet.
    pub window: ByteSize,
    /// Connections side by side.
    pub connections: usize,
    /// Largest HTTP/2 DATA frame that this side sends; the receiver's own limit applies too.
    pub http2_frame_size: ByteSize,
    /// Time to connect and to be welcomed.
    pub connect_timeout: Duration,
    /// Time without any sign of the receiver after which a connection is given up.
    pub idle_timeout: Duration,
    /// Time between measurements of the receiver's clock.
    pub clock_interval: Duration,
    /// Image bytes per second at most.
    pub bandwidth: BandwidthOptions,
}

/// Caps on image bytes per second, of all connections together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BandwidthOptions {
    /// At times that no entry of the schedule covers; `None`: no cap.
    pub base: Option<Bandwidth>,
    /// By the time of day, local time.
    pub schedule: Vec<BandwidthWindow>,
}

/// A cap for a part of the day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BandwidthWindow {
    /// First minute of the day, 0 to 1439.
    pub from: u16,
    /// Minute of the day after the last one; smaller than `from` when midnight lies between.
    pub to: u16,
    /// The cap; `None`: none in this part of the day.
    pub cap: Option<Bandwidth>,
}

/// gRPC call that carries images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GrpcCall {
    /// One long-lived bidirectional stream.
    #[default]
    Exchange,
    /// One unary call an image, in one message.
    Put,
}

/// What happens after a failure.
#[derive(Debug, Clone)]
pub struct RetryOptions {
    /// First waiting time.
    pub initial: Duration,
    /// Longest waiting time.
    pub max: Duration,
    /// Attempts for one image before it is given up; `None`: no limit.
    pub attempts: Option<u32>,
    /// Time without any receiver after which the program gives up; `None`: never.
    pub give_up_after: Option<Duration>,
}
