//! Figures for Prometheus.
//!
//! Each server has a recorder of its own and no global one is installed, because several servers may run
//! in one process. Labels have few values, all of which are this program's own words.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use parking_lot::Mutex;
use shared::door::Guests;

const CALLS: &str = "pantelegraph_users_calls_total";
const SECONDS: &str = "pantelegraph_users_call_seconds";
const IN_FLIGHT: &str = "pantelegraph_users_calls_in_flight";
const RECEIVED: &str = "pantelegraph_users_received_bytes_total";
const SENT: &str = "pantelegraph_users_sent_bytes_total";
const CONNECTIONS: &str = "pantelegraph_users_connections";
const MAX_CONNECTIONS: &str = "pantelegraph_users_connections_limit";
const SOCKETS: &str = "pantelegraph_users_websockets";
const REFUSED: &str = "pantelegraph_refused_total";
const KNOWN: &str = "pantelegraph_users_known";
const MAX_KNOWN: &str = "pantelegraph_users_known_limit";
const LISTS: &str = "pantelegraph_users_lists";
const WRITES: &str = "pantelegraph_users_writes_waiting";
const MAX_WRITES: &str = "pantelegraph_users_writes_waiting_limit";
const SEATS: &str = "pantelegraph_users_chat_seats";
const MAX_SEATS: &str = "pantelegraph_users_chat_seats_limit";
const UNREAD: &str = "pantelegraph_users_chat_unread";
const MAX_UNREAD: &str = "pantelegraph_users_chat_unread_limit";
const CHAT_FULL: &str = "pantelegraph_users_chat_full";
const SAID: &str = "pantelegraph_users_chat_messages_total";
const CUT_OFF: &str = "pantelegraph_users_chat_cut_off_total";
const BUILD: &str = "pantelegraph_build_info";

/// From a user in memory to one on a disk that is busy, a chat of a day, in seconds.
const BUCKETS: [f64; 16] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 60.0,
    3_600.0, 86_400.0,
];

/// Observations after which histograms are drained if nobody asks for them: they are kept one by
/// one until then, 8 bytes each.
const DRAIN: u64 = 10_000;

const METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Over which of the faces something is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// gRPC and gRPC-Web.
    Grpc,
    /// REST, and what the server says about itself.
    Rest,
    /// GraphQL, over HTTP and WebSocket.
    Graphql,
}

impl Face {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Grpc, Self::Rest, Self::Graphql];

    /// Its label.
    pub fn key(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Rest => "rest",
            Self::Graphql => "graphql",
        }
    }
}

/// How a call went, in words of which there are few.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What was called.
    pub method: Cow<'static, str>,
    /// How it ended: a code of gRPC, or a status of HTTP.
    pub code: Cow<'static, str>,
    /// Whether its length is the client's affair, or that of what there is to tell.
    pub streams: bool,
}

/// The state of what may fill up.
#[derive(Debug, Clone, Copy, Default)]
pub struct State {
    /// Users.
    pub users: usize,
    /// Most of them.
    pub max_users: usize,
    /// Lists of users that are being sent, those included that wait for news.
    pub lists: usize,
    /// Requests that wait to be written to the file, and most of them.
    pub writes: Option<(usize, usize)>,
    /// Of the chat.
    pub chat: Chat,
}

/// The state of the chat.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chat {
    /// Clients.
    pub seats: usize,
    /// Most of them.
    pub max_seats: usize,
    /// Messages that the slowest client has not read yet.
    pub unread: u64,
    /// Most that are kept.
    pub max_unread: usize,
    /// Whether speakers have to wait.
    pub full: bool,
    /// Messages so far.
    pub said: u64,
    /// Clients that were too slow, so far.
    pub cut_off: u64,
}

/// What a server counts and measures.
#[derive(Clone)]
pub struct UsersMetrics {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// In the order of [`Face::ALL`].
    faces: [PerFace; 3],
    sockets: Gauge,
    /// Who is connected where, by the listener's name, and most of them.
    listeners: Mutex<Vec<(&'static str, Arc<Guests>, usize)>>,
    observations: AtomicU64,
}

/// Made once, so that counting is a few atomic additions.
struct PerFace {
    unary: Histogram,
    streams: Histogram,
    in_flight: Gauge,
    received: Counter,
    sent: Counter,
}

/// Something that is open, counted in a gauge until this is dropped.
#[must_use = "it ends when this is dropped"]
pub struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Open")
    }
}

impl Default for UsersMetrics {
    fn default() -> Self {
        Self::new(env!("CARGO_PKG_VERSION"))
    }
}

impl UsersMetrics {
    /// All figures at zero. `version` is that of the program.
    pub fn new(version: &'static str) -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(SECONDS.to_owned()), &BUCKETS)
            .expect("the buckets are not empty")
            .build_recorder();
        describe(&recorder);
        let build = Key::from_parts(BUILD, vec![Label::from_static_parts("version", version)]);
        recorder.register_gauge(&build, &METADATA).set(1.0);
        let inner = Inner {
            handle: recorder.handle(),
            faces: Face::ALL.map(|face| PerFace::new(&recorder, face)),
            sockets: recorder.register_gauge(&Key::from_static_name(SOCKETS), &METADATA),
            listeners: Mutex::default(),
            observations: AtomicU64::new(0),
            recorder,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A call begins; it is open until the answer is dropped.
    pub fn call(&self, face: Face) -> Open {
        Open::new(&self.of(face).in_flight)
    }

    /// A call has ended after this time.
    pub fn called(&self, face: Face, ended: &Ended, time: Duration) {
        let labels = vec![
            Label::from_static_parts("face", face.key()),
            Label::new("method", ended.method.clone()),
            Label::new("code", ended.code.clone()),
        ];
        self.counter(CALLS, labels).increment(1);
        let figures = self.of(face);
        match ended.streams {
            true => figures.streams.record(time),
            false => figures.unary.record(time),
        }
        if self.inner.observations.fetch_add(1, Ordering::Relaxed) % DRAIN == DRAIN - 1 {
            self.inner.handle.run_upkeep();
        }
    }

    /// Bytes of requests.
    pub fn received(&self, face: Face) -> Counter {
        self.of(face).received.clone()
    }

    /// Bytes of answers.
    pub fn sent(&self, face: Face) -> Counter {
        self.of(face).sent.clone()
    }

    /// A WebSocket is open until the answer is dropped.
    pub fn socket(&self) -> Open {
        Open::new(&self.inner.sockets)
    }

    /// A connection or a request was turned away because of who it came from, for this reason, of
    /// which there are few.
    pub fn refused(&self, reason: &'static str) {
        let labels = vec![Label::from_static_parts("reason", reason)];
        self.counter(REFUSED, labels).increment(1);
    }

    /// Who is connected to the listener with this name, of whom there are `most`.
    pub fn listener(&self, name: &'static str, guests: Arc<Guests>, most: usize) {
        self.inner.listeners.lock().push((name, guests, most));
    }

    /// The figures of now, in Prometheus' text format.
    pub fn render(&self, state: &State) -> String {
        for (listener, guests, most) in self.inner.listeners.lock().iter() {
            let label = || vec![Label::from_static_parts("listener", listener)];
            self.set(CONNECTIONS, label(), guests.count() as f64);
            self.set(MAX_CONNECTIONS, label(), *most as f64);
        }
        let chat = &state.chat;
        for (name, value) in [
            (KNOWN, state.users as f64),
            (MAX_KNOWN, state.max_users as f64),
            (LISTS, state.lists as f64),
            (SEATS, chat.seats as f64),
            (MAX_SEATS, chat.max_seats as f64),
            (UNREAD, chat.unread as f64),
            (MAX_UNREAD, chat.max_unread as f64),
            (CHAT_FULL, f64::from(u8::from(chat.full))),
        ] {
            self.set(name, Vec::new(), value);
        }
        if let Some((waiting, most)) = state.writes {
            self.set(WRITES, Vec::new(), waiting as f64);
            self.set(MAX_WRITES, Vec::new(), most as f64);
        }
        self.counter(SAID, Vec::new()).absolute(chat.said);
        self.counter(CUT_OFF, Vec::new()).absolute(chat.cut_off);
        self.inner.handle.render()
    }

    fn of(&self, face: Face) -> &PerFace {
        &self.inner.faces[face as usize]
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        let key = Key::from_parts(name, labels);
        self.inner.recorder.register_counter(&key, &METADATA)
    }

    fn set(&self, name: &'static str, labels: Vec<Label>, value: f64) {
        let key = Key::from_parts(name, labels);
        let gauge = self.inner.recorder.register_gauge(&key, &METADATA);
        gauge.set(value);
    }
}

impl fmt::Debug for UsersMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsersMetrics").finish_non_exhaustive()
    }
}

impl PerFace {
    fn new(recorder: &PrometheusRecorder, face: Face) -> Self {
        let label = Label::from_static_parts("face", face.key());
        let key = |name: &'static str| Key::from_parts(name, vec![label.clone()]);
        let seconds = |kind| {
            let labels = vec![label.clone(), Label::from_static_parts("kind", kind)];
            recorder.register_histogram(&Key::from_parts(SECONDS, labels), &METADATA)
        };
        Self {
            unary: seconds("unary"),
            streams: seconds("stream"),
            in_flight: recorder.register_gauge(&key(IN_FLIGHT), &METADATA),
            received: recorder.register_counter(&key(RECEIVED), &METADATA),
            sent: recorder.register_counter(&key(SENT), &METADATA),
        }
    }
}

fn describe(recorder: &PrometheusRecorder) {
    for (name, unit, help) in [
        (CALLS, Unit::Count, "Calls that have ended."),
        (
            RECEIVED,
            Unit::Bytes,
            "Bytes of bodies and messages of clients.",
        ),
        (
            SENT,
            Unit::Bytes,
            "Bytes of bodies and messages to clients.",
        ),
        (
            REFUSED,
            Unit::Count,
            "Connections and requests that were turned away because of who they came from, or how often.",
        ),
        (SAID, Unit::Count, "Messages that were said in the chat."),
        (
            CUT_OFF,
            Unit::Count,
            "Clients of the chat that were cut off because they were too slow.",
        ),
    ] {
        recorder.describe_counter(name.into(), Some(unit), help.into());
    }
    recorder.describe_histogram(
        SECONDS.into(),
        Some(Unit::Seconds),
        "From the head of a call to the last byte of its answer.".into(),
    );
    for (name, help) in [
        (IN_FLIGHT, "Calls that are open, streams included."),
        (CONNECTIONS, "Connections that are open."),
        (MAX_CONNECTIONS, "Most of them, --max-connections."),
        (SOCKETS, "WebSockets that are open."),
        (KNOWN, "Users."),
        (MAX_KNOWN, "Most of them, --max-users."),
        (
            LISTS,
            "Lists of users that are being sent, or wait for users to come.",
        ),
        (WRITES, "Requests that wait to be written to the file."),
        (MAX_WRITES, "Most of them; more wait in their calls."),
        (SEATS, "Clients of the chat."),
        (MAX_SEATS, "Most of them, --max-chat-clients."),
        (
            UNREAD,
            "Messages that the slowest client of the chat has not read.",
        ),
        (MAX_UNREAD, "Most messages that the chat keeps."),
        (
            CHAT_FULL,
            "1 while those who say something in the chat wait for slow clients.",
        ),
        (BUILD, "Always 1; the label is the version of the program."),
    ] {
        recorder.describe_gauge(name.into(), Some(Unit::Count), help.into());
    }
}
