//! Times, sizes and rates as people read them.

/// A time in milliseconds: whole from 10 ms up, with two decimals below: `9024ms`, `14ms`, `0.31ms`.
pub fn millis(nanos: u64) -> String {
    let hundredths = rounded(nanos, 10_000);
    if hundredths < 1_000 {
        format!("{}.{:02}ms", hundredths / 100, hundredths % 100)
    } else {
        format!("{}ms", rounded(nanos, 1_000_000))
    }
}

/// A set time in its largest whole unit: `1s`, `200ms`, `1500ms`, `0s`.
pub fn delay(nanos: u64) -> String {
    for (unit, size) in [("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1_000)] {
        if nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    format!("{nanos}ns")
}

/// A measured time with three significant digits in a fitting unit: `850ns`, `12.3µs`, `2.50s`.
pub fn duration(nanos: u64) -> String {
    scaled(
        nanos as f64,
        &[("ns", 1e3), ("µs", 1e3), ("ms", 1e3), ("s", f64::INFINITY)],
        "",
    )
}

/// A signed time, for offsets: `+12.3µs`, `-2.50s`.
pub fn signed_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { '-' } else { '+' };
    format!("{sign}{}", duration(nanos.unsigned_abs()))
}

/// A size with three significant digits in a decimal unit: `999 B`, `546 kB`, `1.50 GB`.
pub fn bytes(count: u64) -> String {
    decimal(count as f64)
}

/// A rate in bytes per second: `60.5 MB/s`.
pub fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", decimal(bytes_per_second))
}

/// Seconds with the decimals that matter: `0.123 s`, `12.3 s`, `4567 s`.
pub fn seconds(seconds: f64) -> String {
    format!("{} s", significant(seconds, 3))
}

/// A share of a hundred: `0.21 %`, `259 %`.
pub fn percent(percent: f64) -> String {
    if percent < 10.0 {
        format!("{percent:.2} %")
    } else {
        format!("{} %", significant(percent, 0))
    }
}

/// Text from outside, fit for a terminal: on one line, no longer than `limit` characters, without
/// control characters or such that change the direction of writing.
pub fn printable(text: &str, limit: usize) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count + 1 >= limit && text.chars().nth(limit).is_some() {
            shown.push('…');
            break;
        }
        let hidden = c.is_control()
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}');
        shown.push(if hidden { '\u{FFFD}' } else { c });
    }
    shown
}

fn decimal(count: f64) -> String {
    let units = [
        ("B", 1e3),
        ("kB", 1e3),
        ("MB", 1e3),
        ("GB", 1e3),
        ("TB", f64::INFINITY),
    ];
    scaled(count, &units, " ")
}

/// `value` in the first unit in which it stays below the unit's step, whole in the smallest unit.
fn scaled(value: f64, units: &[(&str, f64)], space: &str) -> String {
    let mut value = if value.is_finite() {
        value.max(0.0)
    } else {
        0.0
    };
    for (at, (unit, step)) in units.iter().enumerate() {
        let text = if at == 0 {
            format!("{value:.0}")
        } else {
            significant(value, 2)
        };
        // Rounding may reach the next unit: 999.6 kB is 1.00 MB.
        if text.parse::<f64>().is_ok_and(|rounded| rounded < *step) {
            return format!("{text}{space}{unit}");
        }
        value /= step;
    }
    String::new()
}

/// Three significant digits, but no more than `decimals` behind the point.
fn significant(value: f64, decimals: usize) -> String {
    let places = match value.abs() {
        value if value < 1.0 => 3,
        // Each limit is where rounding to the places before it would add a digit.
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.0$}", places.min(decimals))
}

/// `value / unit`, rounded half up.
fn rounded(value: u64, unit: u64) -> u64 {
    value / unit + u64::from(value % unit >= unit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_decimals_only_below_ten() {
        for (nanos, text) in [
            (0, "0.00ms"),
            (310_000, "0.31ms"),
            (4_999, "0.00ms"),
            (5_000, "0.01ms"),
            (9_990_000, "9.99ms"),
            (9_994_999, "9.99ms"),
            (9_995_000, "10ms"),
            (10_000_000, "10ms"),
            (14_499_999, "14ms"),
            (14_500_000, "15ms"),
            (9_024_000_000, "9024ms"),
            (u64::MAX, "18446744073710ms"),
        ] {
            assert_eq!(millis(nanos), text, "{nanos}");
        }
    }

    #[test]
    fn delays_are_written_as_they_are_set() {
        for (nanos, text) in [
            (0, "0s"),
            (1_000_000_000, "1s"),
            (90_000_000_000, "90s"),
            (200_000_000, "200ms"),
            (1_500_000_000, "1500ms"),
            (250_000, "250µs"),
            (1, "1ns"),
        ] {
            assert_eq!(delay(nanos), text);
        }
    }

    #[test]
    fn measured_times_have_three_digits() {
        for (nanos, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1.00µs"),
            (12_345, "12.3µs"),
            (999_600, "1.00ms"),
            (99_960_000, "100ms"),
            (2_500_000_000, "2.50s"),
            (86_400_000_000_000, "86400s"),
        ] {
            assert_eq!(duration(nanos), text);
        }
        assert_eq!(signed_duration(-12_345), "-12.3µs");
        assert_eq!(signed_duration(0), "+0ns");
        assert_eq!(signed_duration(i64::MIN), "-9223372037s");
    }

    #[test]
    fn sizes_and_rates_have_decimal_units() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (545_801, "546 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (5_458_010, "5.46 MB"),
            (1_500_000_000, "1.50 GB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(rate(60_512_345.6), "60.5 MB/s");
        assert_eq!(rate(f64::NAN), "0 B/s");
        assert_eq!(rate(-1.0), "0 B/s");
    }

    #[test]
    fn seconds_and_percent_keep_what_matters() {
        assert_eq!(seconds(0.0), "0.000 s");
        assert_eq!(seconds(0.1234), "0.123 s");
        assert_eq!(seconds(1.236), "1.24 s");
        assert_eq!(seconds(4_567.8), "4568 s");
        assert_eq!(percent(0.213), "0.21 %");
        assert_eq!(percent(259.4), "259 %");
    }

    #[test]
    fn text_from_outside_cannot_steer_a_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\r\nc", 20),
            "a\u{FFFD}[2Jb\u{FFFD}\u{FFFD}c"
        );
        assert_eq!(printable("gpj.\u{202E}exe", 20), "gpj.\u{FFFD}exe");
        assert_eq!(printable("größe", 5), "größe");
        assert_eq!(printable("abcdef", 5), "abcd…");
        assert_eq!(printable("", 5), "");
    }
}
