//! Words and numbers for people.

use shared::clock::UnixNanos;

/// A size in a few characters: `545.8 kB`.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    for unit in ["kB", "MB", "GB", "TB"] {
        value /= 1_000.0;
        if value < 999.95 {
            return format!("{value:.1} {unit}");
        }
    }
    format!("{:.1} PB", value / 1_000.0)
}

/// A time to the second, `-` for none.
pub(super) fn time(time: Option<UnixNanos>) -> String {
    let Some(time) = time else {
        return "-".to_owned();
    };
    let text = time.to_string();
    let second: String = text.chars().take(19).collect();
    format!("{second}Z")
}

/// Text of a sender, without anything that a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| {
            if letter.is_control() {
                '\u{fffd}'
            } else {
                letter
            }
        })
        .collect()
}

/// The beginning of a line that fits.
pub(super) fn fitted(line: &str, columns: Option<usize>) -> String {
    match columns {
        Some(columns) if line.chars().count() > columns => {
            let kept = columns.saturating_sub(1);
            let mut fitted: String = line.chars().take(kept).collect();
            fitted.push('…');
            fitted
        }
        _ => line.trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (545_801, "545.8 kB"),
            (999_960, "1.0 MB"),
            (2_147_483_648, "2.1 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_terminal_is_not_led_astray() {
        assert_eq!(plain("a\u{1b}[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(fitted("abcdef", Some(4)), "abc…");
        assert_eq!(fitted("abcdef  ", None), "abcdef");
    }
}
