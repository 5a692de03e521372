use super::*;

#[test]
fn totals_are_those_of_the_account() {
    let report = ten();
    assert_eq!(
        report.totals,
        Totals {
            captured: 10,
            delivered: 10,
            bytes: 10_000,
            reconciles: true,
            ..Totals::default()
        }
    );
    assert_eq!(report.total_time_ns, 9_024_000_000);
    assert_eq!(report.sum_transmission_ns, 55_000_000);
    // Nine delays of a second leave 24 ms, less than the transmissions took: jitter.
    let throughput = report.throughput_bytes_per_second.expect("bytes and time");
    assert!((throughput - 10_000.0 / 0.055).abs() < 1.0, "{throughput}");
    let wire = report.wire.expect("an account came");
    assert!((wire.overhead_percent.expect("images came") - 1.0).abs() < 1e-9);
}

#[test]
fn without_an_account_every_row_counts_as_captured() {
    let rows = [
        row(0, 5),
        unlike(row(0, 5), Outcome::Quarantined, Some("x")),
        ImageRow {
            attempts: 4,
            ..row(0, 7)
        },
    ];
    let mut builder = ReportBuilder::new(header(Transport::Rest));
    rows.iter().for_each(|row| {
        builder.add(row);
    });
    builder.duplicates(2).rejected(5);
    let report = builder.finish();
    let Totals {
        captured,
        delivered,
        duplicates,
        quarantined,
        retries,
        rejected,
        ..
    } = report.totals;
    assert_eq!((captured, delivered, duplicates, quarantined), (5, 2, 2, 1));
    assert_eq!((retries, rejected), (3, 5));
    assert!(report.totals.reconciles);
    // From the first byte's arrival to the last image's end, by the receiver's clock alone.
    assert_eq!(report.total_time_ns, 6_000_000);
    assert_eq!(report.wire, None);
}

#[test]
fn an_empty_report_has_no_figures() {
    let report = ReportBuilder::new(header(Transport::Grpc)).finish();
    assert_eq!(
        report.totals,
        Totals {
            reconciles: true,
            ..Totals::default()
        }
    );
    assert_eq!(
        (report.transmission, report.sizes, report.started),
        (None, None, None)
    );
    assert_eq!(report.throughput_bytes_per_second, None);
    assert_eq!(report.total_time_ns, 0);
}

#[test]
fn counts_that_do_not_add_up_are_said_not_to() {
    let rows: Vec<ImageRow> = (1..=3).map(|n| row(n, 1)).collect();
    let missing_row = build(&rows, Some(&account(4)));
    assert!(!missing_row.totals.reconciles);
    let mut odd = account(3);
    odd.captured = 4;
    assert!(!build(&rows, Some(&odd)).totals.reconciles);
    odd.lost = 1;
    assert!(build(&rows, Some(&odd)).totals.reconciles);
    let surplus_row = build(&rows, Some(&account(2)));
    assert!(!surplus_row.totals.reconciles);
    let going_on = RunAccount {
        finished: false,
        ended: None,
        ..account(2)
    };
    assert!(
        build(&rows, Some(&going_on)).totals.reconciles,
        "rows are ahead of the account"
    );
}

#[test]
fn an_image_whose_receipt_got_lost_is_a_duplicate_in_the_account_and_a_row_all_the_same() {
    let rows: Vec<ImageRow> = (1..=3).map(|n| row(n, 1)).collect();
    let account = RunAccount {
        delivered: 2,
        duplicates: 1,
        ..account(3)
    };
    let report = build(&rows, Some(&account));
    assert!(report.totals.reconciles);
    assert_eq!((report.totals.delivered, report.totals.duplicates), (2, 1));
}

#[test]
fn image_bytes_that_were_sent_again_are_told() {
    let account = RunAccount {
        image_bytes_sent: 3_500_000,
        image_bytes_resent: 500_000,
        ..account(3)
    };
    let report = build(&[row(1, 1)], Some(&account));
    let wire = report.wire.expect("an account came");
    assert_eq!(
        (wire.image_bytes_sent, wire.image_bytes_resent),
        (3_500_000, 500_000)
    );
    let line = "3.50 MB, of which 500 kB again";
    assert!(report.table().contains(line), "{}", report.table());
}

#[test]
fn images_of_earlier_runs_on_the_same_sockets_are_no_overhead() {
    let account = RunAccount {
        wire_bytes_sent: 4_040_000,
        image_bytes_sent: 4_500_000,
        image_bytes_resent: 500_000,
        cpu_seconds: 2.0,
        ..account(1)
    };
    let report = build(&[row(1, 1)], Some(&account));
    let overhead = report.wire.and_then(|wire| wire.overhead_percent);
    assert!((overhead.expect("images came") - 1.0).abs() < 1e-9);
    let line = "2.00 s (500 s/GB)";
    assert!(report.table().contains(line), "{}", report.table());
}

#[test]
fn a_later_account_replaces_the_earlier_one_and_other_transmitters_add_up() {
    let rows: Vec<ImageRow> = (1..=5).map(|n| row(n, 1)).collect();
    let mut builder = ReportBuilder::new(header(Transport::Grpc));
    rows.iter().for_each(|row| {
        builder.add(row);
    });
    builder.account(&account(1)).account(&account(3));
    let mut other = RunAccount {
        transmitter: "cam-2".to_owned(),
        ..account(2)
    };
    other.ended = None;
    other.clock = Some(ClockEstimate {
        offset_ns: 9,
        error_ns: 90_000,
        samples: 1,
    });
    builder.account(&other);
    let report = builder.finish();
    assert_eq!((report.totals.captured, report.totals.delivered), (5, 5));
    assert!(report.totals.reconciles);
    assert_eq!(report.clock.map(|clock| clock.error_ns), Some(90_000));
    assert_eq!(
        report.usage.transmitter.map(|usage| usage.cpu_seconds),
        Some(1.0)
    );
    // One of them goes on, so the last image ends the time, on the transmitters' clock.
    assert_eq!(report.total_time_ns, 5_007_000_000 - 9);
}

#[test]
fn rows_beyond_the_limit_are_counted_only() {
    let mut builder = ReportBuilder::new(header(Transport::Grpc));
    builder.keep_rows(2);
    for sequence in [5, 1, 3, 4] {
        builder.add(&row(sequence, sequence));
    }
    let report = builder.finish();
    let sequences: Vec<u64> = report.images.iter().map(|row| row.sequence).collect();
    assert_eq!((sequences, report.rows_omitted), (vec![1, 5], 2));
    assert_eq!(report.totals.delivered, 4);
    assert_eq!(report.transmission.map(|times| times.sum), Some(13_000_000));
}

#[test]
fn percentiles_are_right_to_three_digits_and_never_beyond_the_extremes() {
    let mut builder = ReportBuilder::new(header(Transport::Grpc));
    for nanos in 1..=10_000_u64 {
        builder.add(&ImageRow {
            transmission_ns: Some(nanos * 1_000),
            ..row(nanos, 0)
        });
    }
    let times = builder.finish().transmission.expect("ten thousand images");
    let expected = [
        (times.p50, 5_000_000),
        (times.p90, 9_000_000),
        (times.p95, 9_500_000),
        (times.p99, 9_900_000),
        (times.p99_9, 9_990_000),
    ];
    for (found, right) in expected {
        assert!(
            u64::abs_diff(found, right) * 1_000 <= right,
            "{found} instead of {right}"
        );
    }
    assert_eq!(
        (times.min, times.max, times.count),
        (1_000, 10_000_000, 10_000)
    );
    assert_eq!((times.mean, times.sum), (5_000_500, 50_005_000_000));

    let single = build(
        &[ImageRow {
            transmission_ns: Some(1_234_567),
            ..row(1, 0)
        }],
        None,
    );
    let single = single.transmission.expect("one image");
    assert_eq!((single.p50, single.p99_9), (1_234_567, 1_234_567));
}

#[test]
fn times_beyond_an_hour_do_not_break_the_histogram() {
    let rows = [u64::MAX, u64::MAX, 0].map(|nanos| ImageRow {
        transmission_ns: Some(nanos),
        delivery_ns: Some(0),
        ..row(1, 0)
    });
    let report = build(&rows, None);
    let times = report.transmission.expect("three images");
    assert_eq!((times.min, times.max, times.sum), (0, u64::MAX, u64::MAX));
    assert_eq!(report.delivery.map(|times| times.max), Some(0));
}

#[test]
fn cpu_time_of_a_shared_process_is_not_counted_twice() {
    let usage = |cpu_seconds| {
        Some(Usage {
            cpu_seconds,
            peak_memory_bytes: 1,
        })
    };
    let both = |transmitter, receiver, shared_process| {
        UsageOfBoth {
            transmitter,
            receiver,
            shared_process,
        }
        .cpu_seconds()
    };
    assert_eq!(both(usage(2.0), usage(3.0), false), Some(5.0));
    assert_eq!(both(usage(2.0), usage(3.0), true), Some(3.0));
    assert_eq!(both(usage(2.0), None, true), Some(2.0));
    assert_eq!(both(usage(2.0), None, false), None);
}

#[test]
fn what_is_missing_without_a_word_keeps_a_report_from_adding_up() {
    for (missing, reused, adds_up) in [(0, 0, true), (1, 0, false), (0, 1, false)] {
        let mut builder = ReportBuilder::new(header(Transport::Grpc));
        builder.account(&account(1)).add(&row(1, 5));
        builder.ledger(Ledger {
            named: 3,
            reasons: vec![LossReason {
                reason: "evicted: full".to_owned(),
                images: 2,
            }],
            missing,
            reused,
        });
        let report = builder.finish();
        assert_eq!(report.totals.reconciles, adds_up);
        let table = report.table();
        assert!(table.contains("3, 2 of them evicted: full"), "{table}");
        let line = table
            .lines()
            .find(|line| line.starts_with("Missing without a word"));
        let line = line.expect("it is said");
        assert!(line.ends_with(&format!(" {missing}")), "{line}");
        assert_eq!(table.contains("Numbers given twice"), reused > 0);
    }
}
