//! Bandwidths: `2Mbit/s`, `500KB/s`.

use std::fmt;
use std::str::FromStr;

use super::ByteSize;

/// How many bytes go through in a second. Reads bits (`500kbit/s`, `2Mbit/s`) and bytes
/// (`250KB/s`, `1MiB/s`); bits are always decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bandwidth {
    /// Bytes per second, at least 125 (1 kbit/s).
    pub bytes_per_second: u64,
}

const LOWEST: u64 = 125;

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bytes_per_second.saturating_mul(8);
        for (unit, size) in [
            ("Gbit/s", 1_000_000_000),
            ("Mbit/s", 1_000_000),
            ("kbit/s", 1_000),
        ] {
            if bits.is_multiple_of(size) {
                return f.pad(&format!("{}{unit}", bits / size));
            }
        }
        f.pad(&format!("{}B/s", self.bytes_per_second))
    }
}

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || format!("{text:?} is not a bandwidth such as 2Mbit/s, 500kbit/s or 1MB/s");
        let amount = text.trim().strip_suffix("/s").ok_or_else(invalid)?.trim();
        let bytes = match amount.to_ascii_lowercase().strip_suffix("bit") {
            Some(bits) => {
                let split = bits
                    .find(|c: char| !c.is_ascii_digit() && c != '.')
                    .unwrap_or(bits.len());
                let (number, unit) = bits.split_at(split);
                let factor = match unit.trim() {
                    "" => 1.0,
                    "k" => 1e3,
                    "m" => 1e6,
                    "g" => 1e9,
                    _ => return Err(invalid()),
                };
                let number: f64 = number.parse().map_err(|_| invalid())?;
                number * factor / 8.0
            }
            None if amount.to_ascii_lowercase().ends_with('b') => {
                amount.parse::<ByteSize>().map_err(|_| invalid())?.0 as f64
            }
            None => return Err(invalid()),
        };
        if !(LOWEST as f64..=1e12).contains(&bytes) {
            return Err(format!(
                "{text:?} is out of range; use 1kbit/s to 8000Gbit/s"
            ));
        }
        Ok(Self {
            bytes_per_second: bytes.round() as u64,
        })
    }
}
