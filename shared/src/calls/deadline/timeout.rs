//! `TimeoutValue` and `TimeoutUnit` of "gRPC over HTTP2"
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>): at most eight digits and
//! one letter.

use std::time::Duration;

use http::HeaderValue;

/// One more than eight digits can say.
const TOO_MANY: u128 = 100_000_000;

/// Each unit's letter and its length in nanoseconds, the finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60 * 1_000_000_000),
    (b'H', 3_600 * 1_000_000_000),
];

/// A `grpc-timeout` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "grpc-timeout {value:?} is malformed; send at most eight digits and one of H, M, S, m, u, n, as in 5000m"
)]
pub struct InvalidTimeout {
    /// What was sent.
    pub value: String,
}

/// The header's value for `timeout`, in the finest unit that eight digits can say it in. Rounded
/// up: a server that gives up just after its client does no harm, one that gives up before it would
/// turn a good answer into an error. What is longer than eight digits of hours becomes that.
pub fn format_timeout(timeout: Duration) -> HeaderValue {
    let nanos = timeout.as_nanos();
    let text = UNITS
        .iter()
        .map(|(letter, length)| (letter, nanos.div_ceil(*length)))
        .find(|(_, count)| *count < TOO_MANY)
        .map_or_else(
            || format!("{}H", TOO_MANY - 1),
            |(letter, count)| format!("{count}{}", char::from(*letter)),
        );
    HeaderValue::try_from(text).expect("digits and a letter are visible ASCII")
}

/// What the header's value says.
///
/// # Errors
/// When it is not one to eight digits and a unit.
pub fn parse_timeout(value: &[u8]) -> Result<Duration, InvalidTimeout> {
    parse(value).ok_or_else(|| InvalidTimeout {
        value: String::from_utf8_lossy(value).into_owned(),
    })
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (_, length) = UNITS.iter().find(|(letter, _)| letter == unit)?;
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    // Eight digits of hours are less than 2^39 seconds, and what is left is below a second.
    let nanos = u128::from(count) * length;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let rest = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn says_a_time_in_the_finest_unit_with_room_for_it() {
        let cases = [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_000), "100000u"),
            (Duration::from_secs(5), "5000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(99_999_999), "99999999S"),
            (Duration::from_secs(100_000_000), "1666667M"),
            (Duration::MAX, "99999999H"),
        ];
        for (time, text) in cases {
            assert_eq!(format_timeout(time), text);
        }
    }

    #[test]
    fn rounds_up_and_into_the_next_unit() {
        assert_eq!(format_timeout(Duration::from_nanos(100_000_001)), "100001u");
        let almost = Duration::from_micros(99_999_999) + Duration::from_nanos(1);
        assert_eq!(format_timeout(almost), "100000m");
    }

    #[test]
    fn reads_every_unit() {
        let cases = [
            ("1n", Duration::from_nanos(1)),
            ("20u", Duration::from_micros(20)),
            ("00000300m", Duration::from_millis(300)),
            ("4S", Duration::from_secs(4)),
            ("5M", Duration::from_secs(300)),
            ("99999999H", Duration::from_secs(99_999_999 * 3_600)),
        ];
        for (text, time) in cases {
            if text.len() <= 9 {
                assert_eq!(parse_timeout(text.as_bytes()), Ok(time));
            }
        }
    }

    #[test]
    fn refuses_all_else_and_says_what_to_send() {
        for text in [
            "",
            "S",
            "5",
            "5s",
            "-1S",
            "+1S",
            " 1S",
            "1.5S",
            "123456789n",
            "٣S",
        ] {
            let error = parse_timeout(text.as_bytes()).unwrap_err();
            assert!(
                error.to_string().contains("send at most eight digits"),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_says_less_than_it_was_given(nanos in 0..u64::MAX) {
            let time = Duration::from_nanos(nanos);
            let read = parse_timeout(format_timeout(time).as_bytes()).unwrap();
            prop_assert!(read >= time);
            // Eight digits: what rounding adds is less than 1 in 10^5, even between minutes and hours.
            prop_assert!(read - time <= time / 100_000);
        }
    }
}
