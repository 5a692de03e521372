//! Rates: `5/s`, `30/m`.

use std::fmt;
use std::str::FromStr;

/// How often something happens. Reads `5/s`, `30/m`, `0.5/s`, `100/h`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Rate {
    /// Times per second, greater than zero.
    pub per_second: f64,
}

/// More often than this is no timetable any more.
const HIGHEST: f64 = 1e6;
/// Once in about ten years; the interval of anything slower is out of every clock's reach.
const LOWEST: f64 = 3e-9;

/// In times per second: `5/s`, `0.5/s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", self.per_second))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || format!("{text:?} is not a rate such as 5/s, 30/m or 0.5/s");
        let (number, unit) = text.trim().split_once('/').ok_or_else(invalid)?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        let number: f64 = number.trim().parse().map_err(|_| invalid())?;
        let per_second = number / seconds;
        // Written so that NaN fails too.
        if !(LOWEST..=HIGHEST).contains(&per_second) {
            return Err(format!(
                "{text:?} is out of range; use more than 0/s, at most 1000000/s"
            ));
        }
        Ok(Self { per_second })
    }
}
