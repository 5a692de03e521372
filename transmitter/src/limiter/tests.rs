use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use shared::settings::units::Bandwidth;

use super::schedule::{cap_at, minute_at};
use super::*;
use crate::config::BandwidthWindow;

fn bandwidth(bytes_per_second: u64) -> Option<Bandwidth> {
    Some(Bandwidth { bytes_per_second })
}

fn window(text: &str) -> BandwidthWindow {
    text.parse().expect("a window")
}

/// A cap for all day.
fn always(bytes_per_second: u64) -> Limiter {
    let options = BandwidthOptions {
        base: bandwidth(bytes_per_second),
        schedule: Vec::new(),
    };
    Limiter::with_time_of_day(options, || 0)
}

/// What `senders` get through in a time, each sending one chunk after the other.
async fn sent(limiter: &Limiter, senders: u64, chunk: u64, time: Duration) -> u64 {
    let sent = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..senders {
        let (limiter, sent) = (limiter.clone(), Arc::clone(&sent));
        tasks.spawn(async move {
            loop {
                limiter.take(chunk).await;
                sent.fetch_add(chunk, Relaxed);
            }
        });
    }
    tokio::time::sleep(time).await;
    sent.load(Relaxed)
}

#[tokio::test(start_paused = true)]
async fn over_time_exactly_the_cap_goes_through_whatever_the_chunks_and_senders() {
    for (cap, chunk, senders) in [
        (62_500_u64, 1_000_u64, 1),
        (62_500, 262_144, 4),
        (250_000, 16_384, 7),
        (125_000_000, 262_144, 2),
        (1_000, 1, 3),
    ] {
        let limiter = always(cap);
        let seconds = 600 * chunk.div_ceil(cap).max(1);
        let through = sent(&limiter, senders, chunk, Duration::from_secs(seconds)).await;
        let allowed = cap * seconds;
        let off = through.abs_diff(allowed) as f64 / allowed as f64;
        assert!(off < 0.01, "{through} of {allowed} at {cap} in {chunk}s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_sender_saves_up_no_more_than_a_tenth_of_a_second() {
    let limiter = always(10_000);
    limiter.take(1).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let begun = Instant::now();
    for _ in 0..20 {
        limiter.take(100).await;
    }
    // A thousand bytes were saved, and the last hundred are paid for afterwards.
    assert_eq!(begun.elapsed().as_millis(), 90);
}

#[tokio::test(start_paused = true)]
async fn without_a_cap_nobody_waits() {
    let begun = Instant::now();
    let limiter = Limiter::new(BandwidthOptions::default());
    for _ in 0..1_000 {
        limiter.take(u64::MAX).await;
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(limiter.cap(), None);
}

#[tokio::test(start_paused = true)]
async fn whoever_came_first_goes_first() {
    let limiter = always(1_000);
    limiter.take(5_000).await;
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..10 {
        let (turn, order) = (limiter.clone(), Arc::clone(&order));
        tasks.spawn(async move {
            // Large ones in between do not let small ones past.
            turn.take(if number % 2 == 0 { 3_000 } else { 1 }).await;
            order.lock().push(number);
        });
        tokio::task::yield_now().await;
    }
    while tasks.join_next().await.is_some() {}
    assert_eq!(*order.lock(), (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn one_who_gives_up_waiting_costs_nothing_and_holds_up_nobody() {
    let limiter = always(1_000);
    limiter.take(1_000).await;
    let begun = Instant::now();
    for _ in 0..50 {
        let waiting = limiter.take(1_000_000);
        let _ = tokio::time::timeout(Duration::from_millis(1), waiting).await;
    }
    limiter.take(1).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_new_cap_counts_within_a_second_even_for_one_who_waits_already() {
    let minute = Arc::new(AtomicU16::new(12 * 60));
    let options = BandwidthOptions {
        base: None,
        schedule: vec![window("08:00-18:00=1kbit/s"), window("18:00-19:00=8kbit/s")],
    };
    let clock = Arc::clone(&minute);
    let limiter = Limiter::with_time_of_day(options, move || clock.load(Relaxed));
    assert_eq!(
        (limiter.cap(), limiter.lowest_cap()),
        (Some(125), Some(125))
    );
    limiter.take(1_000_000).await;
    let waiting = tokio::spawn({
        let limiter = limiter.clone();
        async move {
            limiter.take(1).await;
            Instant::now()
        }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    // The cap is off from here on.
    minute.store(20 * 60, Relaxed);
    let changed = Instant::now();
    let went = waiting.await.expect("no panic");
    assert!(
        went - changed <= Duration::from_secs(1),
        "{:?}",
        went - changed
    );
    assert_eq!(limiter.cap(), None);

    // What is owed is paid at the new rate.
    minute.store(12 * 60, Relaxed);
    limiter.take(1_000).await;
    minute.store(18 * 60, Relaxed);
    let changed = Instant::now();
    limiter.take(1).await;
    assert_eq!(changed.elapsed(), Duration::from_secs(1));
}

#[test]
fn the_first_entry_that_covers_a_minute_counts() {
    let options = BandwidthOptions {
        base: bandwidth(1),
        schedule: vec![
            window("22:00-06:00=off"),
            window("05:00-18:00=16kbit/s"),
            window("17:00-24:00=24kbit/s"),
        ],
    };
    let at = |hours: u16, minutes: u16| cap_at(&options, hours * 60 + minutes);
    assert_eq!(at(21, 59), Some(3_000));
    assert_eq!(at(22, 0), None);
    assert_eq!(at(0, 0), None);
    assert_eq!(at(5, 59), None);
    assert_eq!(at(6, 0), Some(2_000));
    assert_eq!(at(17, 59), Some(2_000));
    assert_eq!(at(18, 0), Some(3_000));
    let nights = BandwidthOptions {
        base: bandwidth(500),
        schedule: vec![window("23:30-00:30=off")],
    };
    assert_eq!(cap_at(&nights, 23 * 60 + 29), Some(500));
    assert_eq!(cap_at(&nights, 23 * 60 + 30), None);
    assert_eq!(cap_at(&nights, 29), None);
    assert_eq!(cap_at(&nights, 30), Some(500));
}

#[test]
fn the_clock_on_the_wall_counts_when_summer_time_begins_and_ends() {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
    let local = |text: &str| {
        let moment: Timestamp = text.parse().expect("a moment");
        minute_at(moment, &zone)
    };
    // In the night in spring the hour from two to three is left out.
    assert_eq!(local("2026-03-29T00:59:59Z"), 60 + 59);
    assert_eq!(local("2026-03-29T01:00:00Z"), 3 * 60);
    // In autumn it comes twice.
    assert_eq!(local("2026-10-25T00:30:00Z"), 2 * 60 + 30);
    assert_eq!(local("2026-10-25T01:30:00Z"), 2 * 60 + 30);
    assert_eq!(local("2026-10-25T02:00:00Z"), 3 * 60);
}

#[tokio::test(start_paused = true)]
async fn a_new_cap_counts_for_those_who_wait_too() {
    let limiter = Limiter::default();
    let begun = Instant::now();
    limiter.take(1 << 40).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "no cap yet");
    let cap = |bytes_per_second| BandwidthOptions {
        base: bandwidth(bytes_per_second),
        schedule: Vec::new(),
    };
    limiter.change(cap(1));
    assert_eq!((limiter.cap(), limiter.lowest_cap()), (Some(1), Some(1)));
    limiter.take(3_600).await;
    let waiting = limiter.clone();
    let waiting = tokio::spawn(async move { waiting.take(1).await });
    tokio::task::yield_now().await;
    limiter.change(cap(3_600));
    waiting.await.expect("it passes");
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "and not in an hour"
    );
    limiter.take(1 << 40).await;
    limiter.change(BandwidthOptions::default());
    let begun = Instant::now();
    limiter.take(1).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "what was owed is forgiven");
}
