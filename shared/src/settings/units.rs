//! Sizes, durations, rates and image dimensions as people write them.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

mod bandwidth;
mod dimensions;
mod duration;
mod rate;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

pub use bandwidth::Bandwidth;
pub use dimensions::Dimensions;
pub use duration::{duration_within, format_duration, parse_duration};
pub use rate::Rate;

/// A number of bytes. Reads `64KiB`, `1MB`, `1.5 GiB`, `4096`; decimal and binary units differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The number as an index.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// The largest binary unit that gives a short exact number, else bytes: `64KiB`, `1500B`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 > 0 && self.0.is_multiple_of(size) {
                return f.pad(&format!("{}{unit}", self.0 / size));
            }
        }
        f.pad(&format!("{}B", self.0))
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || format!("{text:?} is not a size such as 64KiB, 1MB or 4096");
        let trimmed = text.trim();
        let end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1_000,
            "kib" => 1 << 10,
            "m" | "mb" => 1_000_000,
            "mib" => 1 << 20,
            "g" | "gb" => 1_000_000_000,
            "gib" => 1 << 30,
            "t" | "tb" => 1_000_000_000_000,
            "tib" => 1 << 40,
            _ => return Err(invalid()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            let bytes = whole.checked_mul(factor);
            return bytes
                .map(Self)
                .ok_or_else(|| format!("{text:?} is too large"));
        }
        let value: f64 = number.parse().map_err(|_| invalid())?;
        let bytes = value * factor as f64;
        if !(0.0..9e18).contains(&bytes) {
            return Err(invalid());
        }
        Ok(Self(bytes.round() as u64))
    }
}

/// Reads sizes that lie in `range`.
pub fn size_within(range: RangeInclusive<ByteSize>) -> impl Fn(&str) -> Result<ByteSize, String> {
    move |text| {
        let size: ByteSize = text.parse()?;
        if range.contains(&size) {
            return Ok(size);
        }
        let (start, end) = (range.start(), range.end());
        Err(format!("{size} is out of range; use {start} to {end}"))
    }
}

/// Reads whole numbers that lie in `range`.
pub fn number_within(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |text| match text.parse::<u64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ if *range.end() == u64::MAX => Err(format!(
            "{text:?} is not a whole number of at least {}",
            range.start()
        )),
        _ => {
            let (start, end) = (range.start(), range.end());
            Err(format!(
                "{text:?} is not a whole number from {start} to {end}"
            ))
        }
    }
}

/// Reads `off`, or what `read` reads.
pub fn or_off<T>(
    read: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Option<T>, String> {
    move |text| {
        if text.trim().eq_ignore_ascii_case("off") {
            return Ok(None);
        }
        read(text)
            .map(Some)
            .map_err(|problem| format!("{problem}, or off"))
    }
}

/// Reads one of a few words, in any case.
///
/// # Errors
/// When it is none of them; the message lists them.
pub fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("{text:?} is unknown; use {}", or_list(&known))
    })
}

/// `a`, `a or b`, `a, b or c`.
pub fn or_list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
