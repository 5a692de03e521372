use super::*;

mod schema;
mod text;
mod totals;

const SECOND: i64 = 1_000_000_000;

fn header(transport: Transport) -> Header {
    Header {
        run: "demo".to_owned(),
        transport,
        transmitter: "cam-1".to_owned(),
        receiver: Some("hub".to_owned()),
        generated_at: UnixNanos(1_700_000_100 * SECOND),
    }
}

/// A delivered image of 1000 bytes whose transmission took `millis`, delivery one more.
fn row(sequence: u64, millis: u64) -> ImageRow {
    let sent = UnixNanos(1_700_000_000 * SECOND + i64::try_from(sequence).expect("small") * SECOND);
    let after = |millis: i64| Some(UnixNanos(sent.0 + millis * 1_000_000));
    ImageRow {
        sequence,
        image_id: ImageId::from_u128(u128::from(sequence) + 1).expect("not zero"),
        name: Some(format!("{sequence}.jpg")),
        size: 1_000,
        outcome: Outcome::Delivered,
        reason: None,
        attempts: 1,
        captured: Some(sent),
        queued: Some(sent),
        send_started: Some(sent),
        first_byte: after(1),
        last_byte: after(5),
        verified: after(6),
        durable: after(7),
        transmission_ns: Some(millis * 1_000_000),
        transmission_error_ns: Some(20_000),
        delivery_ns: Some((millis + 1) * 1_000_000),
    }
}

fn unlike(row: ImageRow, outcome: Outcome, reason: Option<&str>) -> ImageRow {
    ImageRow {
        outcome,
        reason: reason.map(str::to_owned),
        transmission_ns: None,
        ..row
    }
}

fn account(delivered: u64) -> RunAccount {
    RunAccount {
        run: "demo".to_owned(),
        transport: Transport::Grpc,
        transmitter: "cam-1".to_owned(),
        captured: delivered,
        delivered,
        duplicates: 0,
        quarantined: 0,
        owed: 0,
        lost: 0,
        retries: 0,
        wire_bytes_sent: delivered * 1_010,
        wire_bytes_received: 120,
        image_bytes_sent: delivered * 1_000,
        image_bytes_resent: 0,
        cpu_seconds: 0.5,
        peak_memory_bytes: 20_000_000,
        delay_ns: 1_000_000_000,
        started: UnixNanos(1_700_000_000 * SECOND),
        ended: Some(UnixNanos(1_700_000_009 * SECOND + 24_000_000)),
        clock: Some(ClockEstimate {
            offset_ns: -12_345,
            error_ns: 40_000,
            samples: 8,
        }),
        images: Vec::new(),
        finished: true,
        shared_process: false,
    }
}

fn build(rows: &[ImageRow], account: Option<&RunAccount>) -> Report {
    let mut builder = ReportBuilder::new(header(Transport::Grpc));
    for row in rows {
        builder.add(row);
    }
    if let Some(account) = account {
        builder.account(account);
    }
    builder.receiver_usage(Usage {
        cpu_seconds: 0.25,
        peak_memory_bytes: 30_000_000,
    });
    builder.finish()
}

fn ten() -> Report {
    let rows: Vec<ImageRow> = (1..=10).map(|n| row(n, n)).collect();
    build(&rows, Some(&account(10)))
}
