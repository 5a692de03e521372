use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::ProgressDrawTarget;
use tracing::field::{Field, Visit};
use tracing::span;

use super::bar::{Ansi, message};
use super::*;

const SNAPSHOT: Snapshot = Snapshot {
    captured: 6,
    delivered: 3,
    duplicates: 1,
    quarantined: 1,
    lost: 0,
    owed: 1,
    carried: 0,
    retries: 2,
    bytes_delivered: 3_000_000,
    in_flight_bytes: 1_000_000,
    total: Some(10),
    transport: Transport::WebSocket,
    state: State::Sending,
};

/// Delivers one image of a megabyte at each look.
struct Steady(AtomicU64);

impl Source for Steady {
    fn snapshot(&self) -> Snapshot {
        let delivered = self.0.fetch_add(1, Ordering::Relaxed);
        Snapshot {
            delivered,
            duplicates: 0,
            quarantined: 0,
            bytes_delivered: delivered * 1_000_000,
            ..SNAPSHOT
        }
    }
}

/// Remembers what it was shown, and stops the run after some of it.
struct Recorder {
    shown: Vec<(u64, Rates)>,
    end: Option<Rates>,
    stop_after: usize,
    stop: CancellationToken,
}

impl Display for Recorder {
    const INTERVAL: Duration = Duration::from_secs(2);

    fn show(&mut self, snapshot: &Snapshot, rates: Rates) {
        self.shown.push((snapshot.delivered, rates));
        if self.shown.len() == self.stop_after {
            self.stop.cancel();
        }
    }

    fn end(&mut self, _snapshot: &Snapshot, rates: Rates) {
        self.end = Some(rates);
    }
}

#[tokio::test(start_paused = true)]
async fn looks_at_the_source_at_each_interval_until_stopped() {
    let stop = CancellationToken::new();
    let mut recorder = Recorder {
        shown: Vec::new(),
        end: None,
        stop_after: 20,
        stop: stop.clone(),
    };
    show(&Steady(AtomicU64::new(0)), &mut recorder, stop).await;
    let delivered: Vec<u64> = recorder
        .shown
        .iter()
        .map(|(delivered, _)| *delivered)
        .collect();
    assert_eq!(delivered, (1..=20).collect::<Vec<_>>());
    let steady = Rates {
        bytes_per_second: 500_000.0,
        images_per_second: 0.5,
    };
    assert!(
        recorder.shown.iter().all(|(_, rates)| *rates == steady),
        "{:?}",
        recorder.shown
    );
    // The last look comes right after the twentieth, forty seconds in.
    assert_eq!(
        recorder.end.map(|rates| rates.bytes_per_second),
        Some(21_000_000.0 / 40.0)
    );
}

#[tokio::test]
async fn never_shows_nothing_and_ends_at_once() {
    // No other mode here: they would share stderr with the other tests.
    let source = Arc::new(Steady(AtomicU64::new(0)));
    let running = CancellationToken::new();
    spawn(source.clone(), When::Never, running)
        .await
        .expect("ends by itself");
    assert_eq!(source.0.load(Ordering::Relaxed), 0);
}

#[test]
fn rates_follow_a_change_within_ten_seconds() {
    let start = Instant::now();
    let look = |seconds: u64, bytes: u64| {
        let snapshot = Snapshot {
            bytes_delivered: bytes,
            ..SNAPSHOT
        };
        (start + Duration::from_secs(seconds), snapshot)
    };
    let (at, snapshot) = look(0, 0);
    let mut speed = Speed::new(at, &snapshot);
    for second in 1..=100 {
        let (at, snapshot) = look(second, second * 1_000);
        speed.update(at, &snapshot);
    }
    for second in 101..=111 {
        let (at, snapshot) = look(second, 100_000);
        let rates = speed.update(at, &snapshot);
        assert_eq!(
            rates.bytes_per_second == 0.0,
            second >= 110,
            "second {second}"
        );
    }
    let (at, snapshot) = look(200, 100_000);
    assert_eq!(speed.overall(at, &snapshot).bytes_per_second, 500.0);
}

#[test]
fn the_next_transport_starts_from_zero() {
    let start = Instant::now();
    let mut speed = Speed::new(start, &SNAPSHOT);
    let second = |n| start + Duration::from_secs(n);
    speed.update(
        second(10),
        &Snapshot {
            bytes_delivered: 9_000_000,
            ..SNAPSHOT
        },
    );
    let next = Snapshot {
        bytes_delivered: 1_000,
        transport: Transport::Grpc,
        ..SNAPSHOT
    };
    assert_eq!(speed.update(second(11), &next).bytes_per_second, 1_000.0);
    let later = Snapshot {
        bytes_delivered: 5_000,
        ..next
    };
    assert_eq!(speed.overall(second(12), &later).bytes_per_second, 2_500.0);
    assert_eq!(
        speed.update(second(11), &later),
        Rates {
            bytes_per_second: 5_000.0,
            images_per_second: 5.0
        }
    );
}

#[test]
fn the_time_left_is_told_when_total_and_speed_are_known() {
    let rates = Rates {
        bytes_per_second: 0.0,
        images_per_second: 0.5,
    };
    assert_eq!(rates.left(&SNAPSHOT), Some(Duration::from_secs(10)));
    assert_eq!(
        rates.left(&Snapshot {
            total: None,
            ..SNAPSHOT
        }),
        None
    );
    assert_eq!(
        rates.left(&Snapshot {
            total: Some(5),
            ..SNAPSHOT
        }),
        None
    );
    assert_eq!(
        rates.left(&Snapshot {
            total: Some(4),
            ..SNAPSHOT
        }),
        None
    );
    assert_eq!(
        rates.left(&Snapshot {
            total: Some(u64::MAX),
            ..SNAPSHOT
        }),
        None
    );
    assert_eq!(Rates::default().left(&SNAPSHOT), None);
}

#[test]
fn the_message_names_only_what_happened() {
    let rates = Rates {
        bytes_per_second: 250_000.0,
        images_per_second: 0.025,
    };
    assert_eq!(
        message(&SNAPSHOT, rates),
        "3.00 MB, 250 kB/s, in flight 1.00 MB, retries 2, duplicates 1, quarantined 1, 3m20s left"
    );
    let waiting = State::Waiting(Duration::from_millis(1_500));
    let calm = Snapshot {
        retries: 0,
        duplicates: 0,
        quarantined: 0,
        total: None,
        state: waiting,
        ..SNAPSHOT
    };
    assert_eq!(
        message(&calm, rates),
        "waiting 1.5s, 3.00 MB, 250 kB/s, in flight 1.00 MB"
    );
}

/// Memory to write into from several places.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("not poisoned")).into_owned()
    }
}

impl io::Write for Screen {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bar_on(screen: &Screen) -> Bar {
    let ansi = Ansi {
        out: Mutex::new(screen.clone()),
        width: 100,
    };
    // More often than it is drawn here, so that no draw is left out.
    Bar::on(ProgressDrawTarget::term_like_with_hz(Box::new(ansi), 255))
}

#[test]
fn the_bar_shows_images_and_clears_itself() {
    let screen = Screen::default();
    let mut bar = bar_on(&screen);
    bar.show(&SNAPSHOT, Rates::default());
    let text = screen.text();
    assert!(
        text.contains("WebSocket [==========>         ] 5/10 3.00 MB"),
        "{text:?}"
    );
    bar.end(&SNAPSHOT, Rates::default());
    assert!(screen.text().ends_with("\r\x1b[2K"), "{:?}", screen.text());

    let screen = Screen::default();
    bar_on(&screen).show(
        &Snapshot {
            total: None,
            ..SNAPSHOT
        },
        Rates::default(),
    );
    assert!(
        screen.text().contains("5 images 3.00 MB"),
        "{:?}",
        screen.text()
    );
}

#[test]
fn log_lines_lift_the_bar() {
    let screen = Screen::default();
    let mut bar = bar_on(&screen);
    bar.show(&SNAPSHOT, Rates::default());
    announce(Some(bar.handle()));
    let before = screen.text().len();
    suspend(|| screen.clone().write_all(b"a log line\n")).expect("writes into memory");
    announce(None);
    let after = screen.text().split_off(before);
    let (lifted, redrawn) = after.split_once("a log line\n").expect("was written");
    assert!(lifted.ends_with("\r\x1b[2K"), "{after:?}");
    assert!(redrawn.contains("5/10"), "{after:?}");
}

/// Keeps the fields of events as text.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Events {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("not poisoned").push(text.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn lines_have_a_key_for_every_figure() {
    let events = Events::default();
    tracing::subscriber::with_default(events.clone(), || {
        let rates = Rates {
            bytes_per_second: 1_500_000.0,
            images_per_second: 1.0,
        };
        Lines.show(&SNAPSHOT, rates);
        Lines.end(
            &Snapshot {
                total: None,
                ..SNAPSHOT
            },
            rates,
        );
    });
    let lines = events.0.lock().expect("not poisoned").clone();
    assert_eq!(lines.len(), 2);
    for part in [
        "message=progress ",
        "transport=\"websocket\" ",
        "state=sending ",
        "captured=6 ",
        "total=10 ",
        "delivered=3 ",
        "duplicates=1 ",
        "quarantined=1 ",
        "lost=0 ",
        "owed=1 ",
        "retries=2 ",
        "bytes=3000000 ",
        "in_flight_bytes=1000000 ",
        "rate=1.50MB/s ",
        "eta_seconds=5 ",
    ] {
        assert!(lines[0].contains(part), "{part:?} is not in {}", lines[0]);
    }
    assert!(
        lines[1].contains("message=progress at the end"),
        "{}",
        lines[1]
    );
    assert!(
        !lines[1].contains("total=") && !lines[1].contains("eta"),
        "{}",
        lines[1]
    );
}
