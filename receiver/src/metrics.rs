//! Figures for Prometheus.
//!
//! Each receiver has a recorder of its own and no global one is installed, because several
//! receivers may run in one process.

mod load;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use shared::image::Transport;
use shared::receipt::RejectReason;

use crate::budget::Usage;
use crate::catalog::Integrity;

pub use load::{Going, Load, Pool, load};

const RECEIVED: &str = "pantelegraph_images_received_total";
const DUPLICATE: &str = "pantelegraph_images_duplicate_total";
const QUARANTINED: &str = "pantelegraph_images_quarantined_total";
const REJECTS: &str = "pantelegraph_rejects_total";
const BYTES: &str = "pantelegraph_received_bytes_total";
const TRANSMISSION: &str = "pantelegraph_transmission_seconds";
const STORE: &str = "pantelegraph_store_seconds";
const SESSIONS: &str = "pantelegraph_sessions";
const MEMORY: &str = "pantelegraph_memory_leased_bytes";
const MEMORY_PEAK: &str = "pantelegraph_memory_leased_peak_bytes";
const REVOKED: &str = "pantelegraph_memory_revoked_total";
const MISSING: &str = "pantelegraph_images_missing_total";
const FREE: &str = "pantelegraph_store_free_bytes";
const FULL: &str = "pantelegraph_store_full";
const FAILING: &str = "pantelegraph_catalogue_failing";
const LOSSES: &str = "pantelegraph_losses_total";
const GAPS: &str = "pantelegraph_sequence_gaps";
const REUSED: &str = "pantelegraph_sequence_reused_total";
const OWED: &str = "pantelegraph_sequence_floor_lag";
const HELD_BACK: &str = "pantelegraph_held_back_total";
const REFUSED: &str = "pantelegraph_refused_total";
const BUILD: &str = "pantelegraph_build_info";

/// From a small image on a local network to a large one on a bad link, in seconds.
const TRANSMISSION_BUCKETS: [f64; 18] = [
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
    30.0, 60.0, 300.0,
];

/// From memory to an SD card that is busy, in seconds.
const STORE_BUCKETS: [f64; 14] = [
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// Observations after which histograms are drained if nobody asks for them: they are kept one by
/// one until then, 8 bytes each.
const DRAIN: u64 = 10_000;

const METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// What a receiver counts and measures.
#[derive(Clone)]
pub struct ReceiverMetrics {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// In the order of [`Transport::ALL`].
    transports: [PerTransport; 3],
    store: Histogram,
    memory: Gauge,
    memory_peak: Gauge,
    revoked: Counter,
    missing: Counter,
    free: Gauge,
    full: Gauge,
    failing: Gauge,
    gaps: Gauge,
    owed: Gauge,
    reused: Counter,
    observations: AtomicU64,
}

/// Made once, so that counting an image is a few atomic additions.
struct PerTransport {
    received: Counter,
    duplicate: Counter,
    bytes: Counter,
    transmission: Histogram,
    held_back: Counter,
    sessions: Gauge,
}

/// One session, counted in the gauge of its transport until it is dropped.
#[must_use = "the session ends when this is dropped"]
pub struct SessionCount {
    sessions: Gauge,
}

impl Drop for SessionCount {
    fn drop(&mut self) {
        self.sessions.decrement(1.0);
    }
}

impl ReceiverMetrics {
    /// All figures at zero. `version` is that of the program.
    pub fn new(version: &'static str) -> Self {
        const NOT_EMPTY: &str = "the buckets are not empty";
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(
                Matcher::Full(TRANSMISSION.to_owned()),
                &TRANSMISSION_BUCKETS,
            )
            .expect(NOT_EMPTY)
            .set_buckets_for_metric(Matcher::Full(STORE.to_owned()), &STORE_BUCKETS)
            .expect(NOT_EMPTY)
            .build_recorder();
        describe(&recorder);
        let build = Key::from_parts(BUILD, vec![Label::from_static_parts("version", version)]);
        recorder.register_gauge(&build, &METADATA).set(1.0);
        let inner = Inner {
            handle: recorder.handle(),
            transports: Transport::ALL.map(|transport| PerTransport::new(&recorder, transport)),
            store: recorder.register_histogram(&Key::from_static_name(STORE), &METADATA),
            memory: recorder.register_gauge(&Key::from_static_name(MEMORY), &METADATA),
            memory_peak: recorder.register_gauge(&Key::from_static_name(MEMORY_PEAK), &METADATA),
            revoked: recorder.register_counter(&Key::from_static_name(REVOKED), &METADATA),
            missing: recorder.register_counter(&Key::from_static_name(MISSING), &METADATA),
            free: recorder.register_gauge(&Key::from_static_name(FREE), &METADATA),
            full: recorder.register_gauge(&Key::from_static_name(FULL), &METADATA),
            failing: recorder.register_gauge(&Key::from_static_name(FAILING), &METADATA),
            gaps: recorder.register_gauge(&Key::from_static_name(GAPS), &METADATA),
            owed: recorder.register_gauge(&Key::from_static_name(OWED), &METADATA),
            reused: recorder.register_counter(&Key::from_static_name(REUSED), &METADATA),
            recorder,
            observations: AtomicU64::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// For the metrics route.
    pub fn handle(&self) -> PrometheusHandle {
        self.inner.handle.clone()
    }

    /// An image was stored. `transmission` is the time on the way, where the clocks tell it,
    /// `store` that from its last byte until it was durable.
    pub fn image_stored(
        &self,
        transport: Transport,
        bytes: u64,
        transmission: Option<Duration>,
        store: Duration,
    ) {
        let figures = self.of(transport);
        figures.received.increment(1);
        figures.bytes.increment(bytes);
        if let Some(transmission) = transmission {
            figures.transmission.record(transmission);
        }
        self.inner.store.record(store);
        if self.inner.observations.fetch_add(1, Ordering::Relaxed) % DRAIN == DRAIN - 1 {
            self.inner.handle.run_upkeep();
        }
    }

    /// Images stored so far.
    pub fn stored(&self) -> u64 {
        self.inner.observations.load(Ordering::Relaxed)
    }

    /// An image came that had been stored before.
    pub fn image_duplicate(&self, transport: Transport, bytes: u64) {
        let figures = self.of(transport);
        figures.duplicate.increment(1);
        figures.bytes.increment(bytes);
    }

    /// An image came whole and was kept apart.
    pub fn image_quarantined(&self, transport: Transport, reason: RejectReason, bytes: u64) {
        self.of(transport).bytes.increment(bytes);
        self.reasoned(QUARANTINED, transport, reason).increment(1);
    }

    /// An attempt was turned down.
    pub fn rejected(&self, transport: Transport, reason: RejectReason) {
        self.reasoned(REJECTS, transport, reason).increment(1);
    }

    /// A session began; it ends when the answer is dropped.
    pub fn session(&self, transport: Transport) -> SessionCount {
        let sessions = self.of(transport).sessions.clone();
        sessions.increment(1.0);
        SessionCount { sessions }
    }

    /// A session waits because its client begins more images than it may.
    pub fn held_back(&self, transport: Transport) {
        self.of(transport).held_back.increment(1);
    }

    /// What clients made the receiver take of its memory.
    pub fn memory(&self, usage: &Usage) {
        self.inner.memory.set(usage.leased as f64);
        self.inner.memory_peak.set(usage.peak as f64);
        self.inner.revoked.absolute(usage.revoked);
    }

    /// The bytes of a catalogued image were not there.
    pub fn image_missing(&self) {
        self.inner.missing.increment(1);
    }

    /// Room in the store.
    pub fn room(&self, free: u64, full: bool) {
        self.inner.free.set(free as f64);
        self.inner.full.set(f64::from(u8::from(full)));
    }

    /// Whether the catalogue could not be written the last time.
    pub fn catalogue(&self, failing: bool) {
        self.inner.failing.set(f64::from(u8::from(failing)));
    }

    /// A transmitter told of a loss, for this reason.
    pub fn lost(&self, reason: &str) {
        let labels = vec![Label::from_static_parts("reason", loss_class(reason))];
        let key = Key::from_parts(LOSSES, labels);
        let counter = self.inner.recorder.register_counter(&key, &METADATA);
        counter.increment(1);
    }

    /// A connection or a request was turned away because of who it came from, for this reason, of
    /// which there are few.
    pub fn refused(&self, reason: &'static str) {
        let labels = vec![Label::from_static_parts("reason", reason)];
        let key = Key::from_parts(REFUSED, labels);
        let counter = self.inner.recorder.register_counter(&key, &METADATA);
        counter.increment(1);
    }

    /// The state of the sequence numbers now.
    pub fn integrity(&self, integrity: &Integrity) {
        self.inner.gaps.set(integrity.missing as f64);
        self.inner.owed.set(integrity.owed as f64);
        self.inner.reused.absolute(integrity.reused);
    }

    fn of(&self, transport: Transport) -> &PerTransport {
        let at = Transport::ALL.iter().position(|one| *one == transport);
        &self.inner.transports[at.expect("ALL has every transport")]
    }

    /// Reasons are few, and known here only: the number of series stays small.
    fn reasoned(&self, name: &'static str, transport: Transport, reason: RejectReason) -> Counter {
        let labels = vec![
            Label::from_static_parts("transport", transport.key()),
            Label::from_static_parts("reason", reason.key()),
        ];
        self.inner
            .recorder
            .register_counter(&Key::from_parts(name, labels), &METADATA)
    }
}

/// The first word of a reason, if it is one that transmitters of this project give: reasons are
/// text from outside, and each word makes a series.
fn loss_class(reason: &str) -> &'static str {
    const OWN: [&str; 7] = [
        "evicted",
        "dropped",
        "thinned",
        "unreadable",
        "abandoned",
        "torn",
        "full",
    ];
    let end = reason.find(|letter: char| letter != '-' && !letter.is_ascii_lowercase());
    let word = &reason[..end.unwrap_or(reason.len())];
    let own = OWN.into_iter().find(|own| *own == word);
    own.or_else(|| word.parse().ok().map(RejectReason::key))
        .unwrap_or("other")
}

impl fmt::Debug for ReceiverMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiverMetrics").finish_non_exhaustive()
    }
}

impl PerTransport {
    fn new(recorder: &PrometheusRecorder, transport: Transport) -> Self {
        let key = |name: &'static str| {
            Key::from_parts(
                name,
                vec![Label::from_static_parts("transport", transport.key())],
            )
        };
        Self {
            received: recorder.register_counter(&key(RECEIVED), &METADATA),
            duplicate: recorder.register_counter(&key(DUPLICATE), &METADATA),
            bytes: recorder.register_counter(&key(BYTES), &METADATA),
            transmission: recorder.register_histogram(&key(TRANSMISSION), &METADATA),
            held_back: recorder.register_counter(&key(HELD_BACK), &METADATA),
            sessions: recorder.register_gauge(&key(SESSIONS), &METADATA),
        }
    }
}

fn describe(recorder: &PrometheusRecorder) {
    for (name, unit, help) in [
        (
            RECEIVED,
            Unit::Count,
            "Images that were verified and stored.",
        ),
        (
            DUPLICATE,
            Unit::Count,
            "Images that had been stored before.",
        ),
        (
            QUARANTINED,
            Unit::Count,
            "Images that came whole and are no proper image.",
        ),
        (REJECTS, Unit::Count, "Attempts that were turned down."),
        (
            LOSSES,
            Unit::Count,
            "Images that transmitters told to be lost.",
        ),
        (
            REFUSED,
            Unit::Count,
            "Connections and requests that were turned away because of who they came from, or how often.",
        ),
        (
            HELD_BACK,
            Unit::Count,
            "Times a session waited because its client asks more often than it may.",
        ),
        (
            REVOKED,
            Unit::Count,
            "Connections that ended because they held memory without progress and others waited.",
        ),
        (
            REUSED,
            Unit::Count,
            "Sequence numbers under which several images came.",
        ),
        (BYTES, Unit::Bytes, "Bytes of images that came whole."),
        (
            MISSING,
            Unit::Count,
            "Catalogued images whose files were not there: lost.",
        ),
    ] {
        recorder.describe_counter(name.into(), Some(unit), help.into());
    }
    for (name, help) in [
        (
            TRANSMISSION,
            "Start of sending to last byte, corrected by the offset of the clocks.",
        ),
        (STORE, "Last byte to durable and catalogued."),
    ] {
        recorder.describe_histogram(name.into(), Some(Unit::Seconds), help.into());
    }
    for (name, unit, help) in [
        (SESSIONS, Unit::Count, "Sessions that are open."),
        (
            MEMORY,
            Unit::Bytes,
            "Bytes from clients in memory, of at most three quarters of what --max-memory leaves for them.",
        ),
        (
            MEMORY_PEAK,
            Unit::Bytes,
            "The most of them at a time since the start.",
        ),
        (FREE, Unit::Bytes, "Bytes that are free for images."),
        (
            FULL,
            Unit::Count,
            "1 while no images are taken for want of space.",
        ),
        (
            FAILING,
            Unit::Count,
            "1 while the catalogue could not be written the last time.",
        ),
        (
            GAPS,
            Unit::Count,
            "Images that neither came nor were told to be lost.",
        ),
        (
            OWED,
            Unit::Count,
            "Images that transmitters still owe, by what they told last.",
        ),
        (
            BUILD,
            Unit::Count,
            "Always 1; the label is the version of the program.",
        ),
    ] {
        recorder.describe_gauge(name.into(), Some(unit), help.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_appear_under_their_names_with_labels() {
        let metrics = ReceiverMetrics::new("1.2.3");
        let (transmission, store) = (Duration::from_millis(15), Duration::from_micros(700));
        metrics.image_stored(Transport::Grpc, 1_000, Some(transmission), store);
        metrics.image_stored(Transport::Grpc, 500, None, store);
        metrics.image_duplicate(Transport::Rest, 7);
        metrics.image_quarantined(Transport::WebSocket, RejectReason::NotAnImage, 3);
        metrics.rejected(Transport::Rest, RejectReason::Limit);
        metrics.memory(&Usage {
            leased: 4_096,
            peak: 8_192,
            capacity: 10_000,
            revoked: 3,
        });
        metrics.integrity(&Integrity {
            missing: 5,
            reused: 2,
            owed: 7,
        });
        for reason in [
            "evicted: full",
            "evicted: full",
            "conflict: x",
            "ha\"ck",
            "",
        ] {
            metrics.lost(reason);
        }
        let open = metrics.session(Transport::WebSocket);
        drop(metrics.session(Transport::WebSocket));
        let text = metrics.handle().render();
        drop(open);
        for line in [
            "# HELP pantelegraph_images_received_total Images that were verified and stored.",
            "# TYPE pantelegraph_images_received_total counter",
            "pantelegraph_images_received_total{transport=\"grpc\"} 2",
            "pantelegraph_images_received_total{transport=\"rest\"} 0",
            "pantelegraph_images_duplicate_total{transport=\"rest\"} 1",
            "pantelegraph_images_quarantined_total{transport=\"websocket\",reason=\"not-an-image\"} 1",
            "pantelegraph_rejects_total{transport=\"rest\",reason=\"limit\"} 1",
            "pantelegraph_received_bytes_total{transport=\"grpc\"} 1500",
            "pantelegraph_received_bytes_total{transport=\"websocket\"} 3",
            "# TYPE pantelegraph_transmission_seconds histogram",
            "pantelegraph_transmission_seconds_bucket{transport=\"grpc\",le=\"0.01\"} 0",
            "pantelegraph_transmission_seconds_bucket{transport=\"grpc\",le=\"0.02\"} 1",
            "pantelegraph_transmission_seconds_count{transport=\"grpc\"} 1",
            "pantelegraph_store_seconds_count 2",
            "pantelegraph_sessions{transport=\"websocket\"} 1",
            "pantelegraph_memory_leased_bytes 4096",
            "pantelegraph_memory_leased_peak_bytes 8192",
            "pantelegraph_memory_revoked_total 3",
            "pantelegraph_sequence_gaps 5",
            "pantelegraph_sequence_reused_total 2",
            "pantelegraph_sequence_floor_lag 7",
            "pantelegraph_losses_total{reason=\"evicted\"} 2",
            "pantelegraph_losses_total{reason=\"conflict\"} 1",
            "pantelegraph_losses_total{reason=\"other\"} 2",
            "pantelegraph_build_info{version=\"1.2.3\"} 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
    }

    #[test]
    fn receivers_in_one_process_count_apart() {
        let (one, two) = (ReceiverMetrics::new("1"), ReceiverMetrics::new("1"));
        one.image_stored(Transport::Rest, 1, None, Duration::ZERO);
        let line = "pantelegraph_images_received_total{transport=\"rest\"} 0";
        assert!(two.handle().render().contains(line));
        assert!(!one.handle().render().contains(line));
    }
}
