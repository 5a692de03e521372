use super::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn options() -> PaceOptions {
    PaceOptions {
        delay: Duration::ZERO,
        initial_delay: Duration::ZERO,
        jitter: Duration::ZERO,
        rate: None,
        schedule: Schedule::Fixed,
        count: None,
        run_for: None,
    }
}

/// Due times of the next `n` images, asked for at `now`.
fn times(pace: &mut Pace, now: Duration, n: usize) -> Vec<Duration> {
    (0..n)
        .map(|_| match pace.next(now) {
            Next::At(due) => due,
            Next::Done => panic!("ended early"),
        })
        .collect()
}

#[test]
fn delay_counts_from_the_end_of_the_former_delivery() {
    let mut pace = Pace::new(
        &PaceOptions {
            delay: ms(1000),
            ..options()
        },
        1,
    );
    assert!(pace.waits_for_delivery());
    assert_eq!(pace.next(ms(0)), Next::At(ms(0)));
    pace.delivered(ms(700));
    assert_eq!(pace.next(ms(720)), Next::At(ms(1700)));
    pace.delivered(ms(9_000));
    assert_eq!(pace.next(ms(9_000)), Next::At(ms(10_000)));
}

#[test]
fn without_a_delivery_the_delay_counts_from_now() {
    let mut pace = Pace::new(
        &PaceOptions {
            delay: ms(1000),
            ..options()
        },
        1,
    );
    pace.next(ms(0));
    pace.delivered(ms(100));
    pace.next(ms(100));
    assert_eq!(
        pace.next(ms(5_000)),
        Next::At(ms(6_000)),
        "an old delivery is not used twice"
    );
}

#[test]
fn no_delay_waits_for_nothing() {
    let mut pace = Pace::new(&options(), 1);
    assert!(!pace.waits_for_delivery());
    assert_eq!(times(&mut pace, ms(0), 2), [ms(0), ms(0)]);
    assert_eq!(pace.next(ms(30)), Next::At(ms(30)));
}

#[test]
fn a_rate_waits_for_no_delivery_even_with_a_delay() {
    let set = PaceOptions {
        delay: ms(1000),
        rate: Some(5.0),
        ..options()
    };
    let mut pace = Pace::new(&set, 1);
    assert!(!pace.waits_for_delivery());
    pace.next(ms(0));
    pace.delivered(ms(4_000));
    assert_eq!(pace.next(ms(4_000)), Next::At(ms(200)));
}

#[test]
fn late_images_are_due_at_their_intended_times_until_caught_up() {
    let set = PaceOptions {
        rate: Some(10.0),
        initial_delay: ms(50),
        ..options()
    };
    let mut pace = Pace::new(&set, 1);
    assert_eq!(pace.next(ms(0)), Next::At(ms(50)));
    assert_eq!(
        times(&mut pace, ms(420), 5),
        [ms(150), ms(250), ms(350), ms(450), ms(550)]
    );
}

#[test]
fn a_timetable_does_not_drift_in_a_million_images() {
    let set = PaceOptions {
        rate: Some(30.0),
        ..options()
    };
    let mut pace = Pace::new(&set, 1);
    let last = times(&mut pace, ms(0), 900_001)[900_000];
    assert_eq!(last.as_millis(), 30_000_000);
}

#[test]
fn poisson_intervals_have_the_mean_and_the_spread_of_their_rate() {
    let set = PaceOptions {
        rate: Some(50.0),
        schedule: Schedule::Poisson,
        ..options()
    };
    let due = times(&mut Pace::new(&set, 7), ms(0), 20_000);
    assert!(due.is_sorted());
    let gaps: Vec<f64> = due
        .windows(2)
        .map(|two| (two[1] - two[0]).as_secs_f64())
        .collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    assert!((mean - 0.02).abs() < 0.001, "mean {mean}");
    assert!(
        (variance.sqrt() - 0.02).abs() < 0.002,
        "an exponential's deviation is its mean"
    );
}

#[test]
fn jitter_stays_within_its_bounds_and_does_not_add_up() {
    let set = PaceOptions {
        rate: Some(10.0),
        jitter: ms(20),
        ..options()
    };
    let due = times(&mut Pace::new(&set, 3), ms(0), 5_000);
    let mut moved = 0;
    for (index, due) in due.iter().enumerate() {
        let exact = ms(100 * index as u64);
        assert!(
            due.abs_diff(exact) <= ms(20),
            "image {index} due at {due:?}"
        );
        moved += usize::from(due.abs_diff(exact) > ms(10));
    }
    assert!(
        (2_000..3_000).contains(&moved),
        "uniform: half of them move by more than half"
    );
}

#[test]
fn jitter_larger_than_the_interval_never_runs_backwards() {
    let set = PaceOptions {
        rate: Some(100.0),
        jitter: ms(500),
        ..options()
    };
    assert!(times(&mut Pace::new(&set, 3), ms(0), 1_000).is_sorted());
}

#[test]
fn jitter_of_a_closed_loop_is_never_before_the_delivery() {
    let set = PaceOptions {
        delay: ms(10),
        jitter: ms(1_000),
        ..options()
    };
    let mut pace = Pace::new(&set, 5);
    for turn in 0..100 {
        let now = ms(10_000 * turn);
        pace.delivered(now);
        let Next::At(due) = pace.next(now) else {
            panic!("ended early")
        };
        assert!(turn == 0 || (now..=now + ms(1_010)).contains(&due));
    }
}

#[test]
fn same_seed_same_times() {
    let set = PaceOptions {
        rate: Some(3.0),
        schedule: Schedule::Poisson,
        jitter: ms(100),
        ..options()
    };
    let of = |seed| times(&mut Pace::new(&set, seed), ms(0), 50);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn count_limits_images() {
    let mut pace = Pace::new(
        &PaceOptions {
            count: Some(2),
            ..options()
        },
        1,
    );
    times(&mut pace, ms(0), 2);
    assert_eq!(pace.next(ms(0)), Next::Done);
    let mut none = Pace::new(
        &PaceOptions {
            count: Some(0),
            ..options()
        },
        1,
    );
    assert_eq!(none.next(ms(0)), Next::Done);
}

#[test]
fn nothing_is_due_at_or_after_the_end() {
    let set = PaceOptions {
        rate: Some(10.0),
        run_for: Some(ms(300)),
        ..options()
    };
    let mut pace = Pace::new(&set, 1);
    assert_eq!(times(&mut pace, ms(0), 3), [ms(0), ms(100), ms(200)]);
    assert_eq!(pace.next(ms(0)), Next::Done);

    let mut late = Pace::new(&set, 1);
    times(&mut late, ms(0), 1);
    assert_eq!(
        late.next(ms(300)),
        Next::Done,
        "late images are not caught up after the end"
    );

    let closed = PaceOptions {
        delay: ms(200),
        run_for: Some(ms(300)),
        ..options()
    };
    let mut closed = Pace::new(&closed, 1);
    closed.next(ms(0));
    closed.delivered(ms(100));
    assert_eq!(
        closed.next(ms(100)),
        Next::Done,
        "it would be due at the very end"
    );
}

#[test]
fn initial_delay_comes_before_the_first_image_only() {
    let set = PaceOptions {
        initial_delay: ms(500),
        delay: ms(100),
        ..options()
    };
    let mut pace = Pace::new(&set, 1);
    assert_eq!(pace.next(ms(0)), Next::At(ms(500)));
    pace.delivered(ms(600));
    assert_eq!(pace.next(ms(600)), Next::At(ms(700)));
}

#[test]
fn a_rate_that_is_no_rate_is_ignored_and_a_tiny_one_does_not_overflow() {
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut pace = Pace::new(
            &PaceOptions {
                rate: Some(rate),
                ..options()
            },
            1,
        );
        assert_eq!(times(&mut pace, ms(3), 2)[1], ms(3));
    }
    let mut slow = Pace::new(
        &PaceOptions {
            rate: Some(f64::MIN_POSITIVE),
            ..options()
        },
        1,
    );
    assert_eq!(times(&mut slow, ms(0), 2)[1], FAR);
}

#[test]
fn other_times_between_images_count_from_the_next_one_on() {
    let second = Duration::from_secs(1);
    let set = PaceOptions {
        delay: 60 * second,
        ..options()
    };
    let mut pace = Pace::new(&set, 1);
    assert_eq!(pace.next(Duration::ZERO), Next::At(Duration::ZERO));
    pace.delivered(second);
    let (delay, jitter) = (2 * second, Duration::ZERO);
    pace.wait(Waits { delay, jitter });
    assert_eq!(pace.next(second), Next::At(3 * second));
    assert!(pace.waits_for_delivery());
    let delay = Duration::ZERO;
    pace.wait(Waits { delay, jitter });
    assert!(!pace.waits_for_delivery());
    assert_eq!(pace.next(5 * second), Next::At(5 * second));
}
