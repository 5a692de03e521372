//! Dimensions of images: `1920x1080`.

use std::fmt;
use std::str::FromStr;

/// Width and height in pixels. Reads `1920x1080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl fmt::Display for Dimensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}x{}", self.width, self.height))
    }
}

impl FromStr for Dimensions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || format!("{text:?} is not WIDTHxHEIGHT such as 1920x1080");
        let (width, height) = text.trim().split_once(['x', 'X']).ok_or_else(invalid)?;
        let pixels = |text: &str| match text.parse() {
            Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
            _ => Err(invalid()),
        };
        Ok(Self {
            width: pixels(width)?,
            height: pixels(height)?,
        })
    }
}
