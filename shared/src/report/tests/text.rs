use super::csv::CsvRow;
use super::*;

#[test]
fn the_block_has_the_published_form() {
    let mut rows: Vec<ImageRow> = (1..=3).rev().map(|n| row(n, 14)).collect();
    rows[0].transmission_ns = Some(310_000);
    let report = build(&rows, Some(&account(3)));
    assert_eq!(
        report.block(),
        "=== gRPC performance test: 3 images transfer ===\n\
         Image 1 transmission time: 14ms\n\
         Image 2 transmission time: 14ms\n\
         Image 3 transmission time: 0.31ms\n\
         Total transfer time (including 1s delays): 9024ms\n\
         Sum of transmission times: 28ms\n"
    );
}

#[test]
fn images_without_a_transmission_time_say_why() {
    let rows = [
        unlike(
            row(1, 1),
            Outcome::Quarantined,
            Some("truncated-image: breaks\noff\u{1b}[2J"),
        ),
        unlike(row(2, 1), Outcome::Lost, None),
        unlike(row(3, 1), Outcome::Delivered, None),
        ImageRow {
            outcome: Outcome::Duplicate,
            ..row(4, 20)
        },
    ];
    let account = RunAccount {
        captured: 7,
        delivered: 1,
        duplicates: 1,
        quarantined: 1,
        lost: 3,
        owed: 1,
        delay_ns: 0,
        ..account(0)
    };
    let block = build(&rows, Some(&account)).block();
    let lines: Vec<&str> = block.lines().collect();
    assert_eq!(
        lines[..7],
        [
            "=== gRPC performance test: 7 images transfer ===",
            "Image 1: quarantined (truncated-image: breaks\u{FFFD}off\u{FFFD}[2J)",
            "Image 2: lost",
            "Image 3: delivered (transmission time not known)",
            "Image 4 transmission time: 20ms",
            "Images not in this list: 2 lost, 1 owed",
            "Total transfer time (including 0s delays): 9024ms",
        ]
    );
}

#[test]
fn the_block_shows_a_thousand_images_at_most() {
    let mut builder = ReportBuilder::new(header(Transport::WebSocket));
    builder.keep_rows(1_500);
    for sequence in 1..=2_000 {
        builder.add(&row(sequence, 1));
    }
    let block = builder.finish().block();
    assert!(block.contains("\nImage 1000 transmission time: 1.00ms\n... and 1000 more\nTotal"));
    assert!(!block.contains("Image 1001"));
}

fn fits(text: &str) {
    for line in text.lines() {
        assert!(
            line.chars().count() <= 80,
            "{} characters: {line}",
            line.chars().count()
        );
        assert_eq!(line, line.trim_end());
    }
}

#[test]
fn the_table_fits_and_says_everything() {
    let mut report = ten();
    report.totals.retries = 7;
    let table = report.table();
    fits(&table);
    for part in [
        "gRPC transfer, run demo",
        "from cam-1 to hub",
        "Images captured           10",
        "  adds up                 yes",
        "Retries                   7",
        "min 1.00 kB, mean 1.00 kB, max 1.00 kB",
        "9024ms (including 1s delays)",
        "10.1 kB sent, 120 B received, overhead 1.00 %",
        "-12.3µs ± 40.0µs (8 samples)",
        "0.500 s (50000 s/GB)",
        "20.0 MB",
        "30.0 MB",
        "p99.9           10ms      11ms",
    ] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
}

#[test]
fn the_table_of_hostile_or_missing_names_fits_too() {
    let mut report = build(&[], None);
    report.run = "\u{1b}]0;x\u{7}".repeat(50);
    report.transmitter = "x".repeat(500);
    let table = report.table();
    fits(&table);
    assert!(!table.contains(|c: char| c.is_control() && c != '\n'));
}

#[test]
fn the_comparison_fits_and_has_a_column_for_each_report() {
    let reports: Vec<Report> = Transport::ALL
        .map(|transport| Report { transport, ..ten() })
        .into_iter()
        .collect();
    let text = comparison(&reports);
    fits(&text);
    let lines: Vec<&str> = text.lines().collect();
    let names: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(names, ["WebSocket", "gRPC", "REST"]);
    let p50 = lines
        .iter()
        .find(|line| line.starts_with("Transmission p50"))
        .expect("there is one");
    assert_eq!(p50.matches("5.00ms").count(), 3, "{p50}");
    for name in [
        "Images delivered",
        "Bytes delivered",
        "Transmission p99",
        "Delivery p50",
        "Delivery p99",
        "Throughput",
        "Wire overhead",
        "CPU, both ends",
        "Real-time bidirectional",
        "Type safety",
        "Browser compatibility",
        "Ease of implementation",
        "Recommended for",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(name)), "{name}");
    }
    let four: Vec<Report> = [&reports[..], &[ten()]].concat();
    fits(&comparison(&four));
    assert_eq!(comparison(&[]), "");
}

/// Reads RFC 4180, as strictly as it is written.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line
        .strip_suffix("\r\n")
        .expect("lines end in CR LF")
        .chars()
        .peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("there is a first field");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}

#[test]
fn csv_lines_have_the_fields_of_the_header() {
    let names = fields(csv::HEADER);
    let image = row(7, 3);
    let line = CsvRow {
        run: "r",
        transport: Transport::Rest,
        transmitter: "t",
        image: &image,
    };
    let values = fields(&line.to_string());
    assert_eq!(values.len(), names.len());
    let value = |name: &str| &values[names.iter().position(|n| n == name).expect(name)];
    assert_eq!(value("sequence"), "7");
    assert_eq!(value("outcome"), "delivered");
    assert_eq!(value("image_id"), "00000000-0000-0000-0000-000000000008");
    assert_eq!(value("transport"), "rest");
    assert_eq!(value("size_bytes"), "1000");
    assert_eq!(value("reason"), "");
    assert_eq!(value("durable_unix_ns"), "1700000007007000000");
    assert_eq!(value("delivery_ns"), "4000000");
}

#[test]
fn csv_text_survives_and_cannot_become_a_formula() {
    let at = fields(csv::HEADER)
        .iter()
        .position(|name| name == "name")
        .expect("name");
    for (name, read) in [
        ("a, \"b\"\r\nc.jpg", "a, \"b\"\r\nc.jpg"),
        (" blanks ", " blanks "),
        ("größe.png", "größe.png"),
        ("=HYPERLINK(\"x\",\"y\")", "'=HYPERLINK(\"x\",\"y\")"),
        ("-1+1", "'-1+1"),
        ("@x", "'@x"),
        ("a=b", "a=b"),
        ("nul\0,", "nul\u{FFFD},"),
    ] {
        let image = ImageRow {
            name: Some(name.to_owned()),
            ..row(1, 1)
        };
        let line = CsvRow {
            run: "=1",
            transport: Transport::Grpc,
            transmitter: "",
            image: &image,
        };
        let values = fields(&line.to_string());
        assert_eq!(values[at], read);
        assert_eq!(values[0], "'=1");
        assert_eq!(values.len(), fields(csv::HEADER).len(), "{name:?}");
    }
}
