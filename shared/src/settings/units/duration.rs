//! Durations: `500ms`, `1s`, `1m30s`, `2h`.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Units from the longest to the shortest, in nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Ten years. Longer ones are slips of the pen, and would overflow when added to a clock.
const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);

/// Reads `500ms`, `1s`, `1.5s`, `1m30s`, `2h` or `0`. Units: `d`, `h`, `m`, `s`, `ms`, `us`, `ns`,
/// each at most once and from the longest to the shortest.
///
/// # Errors
/// When it is something else (a number without a unit, other than 0), or longer than ten years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    if !trimmed.is_empty()
        && trimmed
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Err(format!(
            "{text:?} has no unit; write {trimmed}s, {trimmed}m, {trimmed}h or {trimmed}d"
        ));
    }
    let invalid = || format!("{text:?} is not a duration such as 500ms, 1s, 1m30s or 2h");
    let mut rest = trimmed;
    let mut units = UNITS.iter();
    let mut total: u128 = 0;
    loop {
        let (number, after) = split_where(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_where(after, |c| !c.is_ascii_alphabetic());
        // The search goes on from the last unit, which is what keeps them in order.
        let (_, nanos) = units.find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        let part = scaled(number, *nanos).ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    if total > LONGEST.as_nanos() {
        return Err(format!("{text:?} is too long; use at most 3650d"));
    }
    u64::try_from(total)
        .map(Duration::from_nanos)
        .map_err(|_| invalid())
}

fn split_where(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

/// A decimal number times `factor`, `None` when that is no whole number.
fn scaled(number: &str, factor: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.len() > 14 {
        return None;
    }
    let parts = fraction.parse::<u128>().ok()?.checked_mul(factor)?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    if !parts.is_multiple_of(scale) {
        return None;
    }
    whole
        .parse::<u128>()
        .ok()?
        .checked_mul(factor)?
        .checked_add(parts / scale)
}

/// The exact text of a duration, as [`parse_duration`] reads it: `1m30s`, `250ms`, `0`.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    // Days are only read: `24h` and `36h` say more than `1d` and `1d12h`.
    for (name, nanos) in &UNITS[1..] {
        if rest >= *nanos {
            let _ = write!(text, "{}{name}", rest / nanos);
            rest %= nanos;
        }
    }
    if text.is_empty() {
        "0".to_owned()
    } else {
        text
    }
}

/// Reads durations that lie in `range`.
pub fn duration_within(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let duration = parse_duration(text)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [start, end] = [range.start(), range.end()].map(|end| format_duration(*end));
        Err(format!(
            "{} is out of range; use {start} to {end}",
            format_duration(duration)
        ))
    }
}
