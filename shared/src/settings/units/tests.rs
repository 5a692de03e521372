use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn sizes_read_in_decimal_and_binary_units() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("1B", 1),
        ("64KiB", 65_536),
        ("1MB", 1_000_000),
        ("1.5 GiB", 1_610_612_736),
        (" 2k ", 2_000),
    ] {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
    }
    for text in [
        "",
        "KiB",
        "-1",
        "1XB",
        "1.2.3MB",
        "99999999999TiB",
        "1e3",
        ".",
    ] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn durations_read_with_units_from_long_to_short() {
    for (text, nanos) in [
        ("0", 0),
        ("0s", 0),
        ("500ms", 500_000_000),
        ("1s", 1_000_000_000),
        ("1.5s", 1_500_000_000),
        ("1m30s", 90_000_000_000),
        ("2h", 7_200_000_000_000),
        ("1d", 86_400_000_000_000),
        ("1h0.25s", 3_600_250_000_000),
        ("3us", 3_000),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_nanos(nanos)),
            "{text}"
        );
    }
    for text in [
        "", "s", "1", "30", "1.5", "-1s", "30s1m", "1s1s", "1x", "1s2", "0.1ns", "1..5s", "1sm",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[test]
fn a_duration_without_unit_says_what_to_write() {
    let problem = parse_duration("30").unwrap_err();
    assert_eq!(problem, "\"30\" has no unit; write 30s, 30m, 30h or 30d");
}

#[test]
fn durations_that_no_clock_can_hold_are_refused() {
    assert!(parse_duration("3650d").is_ok());
    for text in [
        "3651d",
        "99999999999999999999999999999999999999999d",
        "18446744073709551615s",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[test]
fn rates_read_per_second_minute_and_hour() {
    for (text, per_second) in [("5/s", 5.0), ("30/m", 0.5), ("0.5/s", 0.5), ("36/h", 0.01)] {
        assert_eq!(text.parse(), Ok(Rate { per_second }), "{text}");
    }
    for text in [
        "5", "5/", "/s", "0/s", "-1/s", "NaN/s", "inf/s", "1e9/s", "1e-12/s", "5/d",
    ] {
        assert!(text.parse::<Rate>().is_err(), "{text}");
    }
}

#[test]
fn dimensions_take_two_plain_numbers() {
    assert_eq!(
        "1920x1080".parse(),
        Ok(Dimensions {
            width: 1920,
            height: 1080
        })
    );
    for text in [
        "1920",
        "x",
        "1920x",
        "+1x2",
        "1x2x3",
        "1.5x2",
        "-1x2",
        "99999999999x1",
    ] {
        assert!(text.parse::<Dimensions>().is_err(), "{text}");
    }
}

#[test]
fn limits_name_both_ends() {
    let connections = number_within(1..=64);
    assert_eq!(connections("64"), Ok(64));
    assert!(connections("65").unwrap_err().contains("from 1 to 64"));
    assert!(
        number_within(1..=u64::MAX)("0")
            .unwrap_err()
            .contains("at least 1")
    );
    let size = size_within(ByteSize::kib(16)..=ByteSize::mib(16));
    assert_eq!(size("16KiB"), Ok(ByteSize::kib(16)));
    assert!(size("17MiB").unwrap_err().contains("use 16KiB to 16MiB"));
    let time = duration_within(Duration::from_millis(1)..=Duration::from_secs(60));
    assert!(time("0").unwrap_err().contains("use 1ms to 1m"));
}

#[test]
fn unknown_words_list_the_known_ones() {
    assert_eq!(word("B", &[("a", 1), ("b", 2)]), Ok(2));
    let problem = word("d", &[("a", 1), ("b", 2), ("c", 3)]).unwrap_err();
    assert_eq!(problem, "\"d\" is unknown; use a, b or c");
}

proptest! {
    #[test]
    fn every_size_reads_back(bytes in prop_oneof![any::<u64>(), (0..99_u64).prop_map(|n| n << 20)]) {
        let size = ByteSize(bytes);
        prop_assert_eq!(size.to_string().parse(), Ok(size));
    }

    #[test]
    fn every_duration_up_to_ten_years_reads_back(nanos in prop_oneof![
        0..3_650 * 86_400_000_000_000_u64,
        (0..10_000_u64).prop_map(|millis| millis * 1_000_000),
    ]) {
        let duration = Duration::from_nanos(nanos);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn every_rate_reads_back(per_second in 3e-9..1e6) {
        let rate = Rate { per_second };
        prop_assert_eq!(rate.to_string().parse(), Ok(rate));
    }

    #[test]
    fn all_dimensions_read_back(width: u32, height: u32) {
        let dimensions = Dimensions { width, height };
        prop_assert_eq!(dimensions.to_string().parse(), Ok(dimensions));
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in "[0-9.xsmhdun/KMGiB eé+-]{0,24}") {
        let _ = text.parse::<ByteSize>();
        let _ = parse_duration(&text);
        let _ = text.parse::<Rate>();
        let _ = text.parse::<Dimensions>();
    }
}

#[test]
fn bandwidths_in_bits_and_bytes() {
    let bytes = |text: &str| text.parse::<Bandwidth>().map(|b| b.bytes_per_second);
    assert_eq!(bytes("2Mbit/s"), Ok(250_000));
    assert_eq!(bytes("500 kbit/s"), Ok(62_500));
    assert_eq!(bytes("1MiB/s"), Ok(1 << 20));
    assert_eq!(bytes("1.5MB/s"), Ok(1_500_000));
    for wrong in [
        "2Mbit", "2", "2M/s", "0bit/s", "-1kbit/s", "bit/s", "NaNMB/s",
    ] {
        assert!(bytes(wrong).is_err(), "{wrong}");
    }
    let bandwidth: Bandwidth = "500kbit/s".parse().unwrap();
    assert_eq!(bandwidth.to_string(), "500kbit/s");
}
