//! Policies as they are written in settings.

use std::path::PathBuf;
use std::str::FromStr;

use shared::settings::units::word;

use super::{
    AfterDelivery, BandwidthWindow, GrpcCall, Order, OutboxDurability, OutboxFiles, PatternFormat,
    Schedule, When, WhenFull,
};

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        word(
            text,
            &[
                ("auto", Self::Auto),
                ("always", Self::Always),
                ("never", Self::Never),
            ],
        )
    }
}

impl FromStr for PatternFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("jpg") {
            return Ok(Self::Jpeg);
        }
        word(
            text,
            &[
                ("jpeg", Self::Jpeg),
                ("png", Self::Png),
                ("webp", Self::WebP),
            ],
        )
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        word(text, &[("fixed", Self::Fixed), ("poisson", Self::Poisson)])
    }
}

impl FromStr for GrpcCall {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        word(text, &[("exchange", Self::Exchange), ("put", Self::Put)])
    }
}

/// `keep`, `delete` or `archive:DIR`.
impl FromStr for AfterDelivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("archive", "")) => Err("no folder; write archive:DIR".to_owned()),
            Some(("archive", folder)) => Ok(Self::Archive(PathBuf::from(folder))),
            _ if text == "keep" => Ok(Self::Keep),
            _ if text == "delete" => Ok(Self::Delete),
            _ => Err(format!(
                "{text:?} is unknown; use keep, delete or archive:DIR"
            )),
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = [
            ("oldest-first", Self::OldestFirst),
            ("newest-first", Self::NewestFirst),
        ];
        word(text, &words)
    }
}

impl FromStr for OutboxDurability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        word(
            text,
            &[("written", Self::Written), ("synced", Self::Synced)],
        )
    }
}

impl FromStr for OutboxFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = [
            ("link", Self::Link),
            ("copy", Self::Copy),
            ("reference", Self::Reference),
        ];
        word(text, &words)
    }
}

/// `block`, `drop-oldest`, `drop-newest` or `thin:N`.
impl FromStr for WhenFull {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("thin", number)) => match number.parse() {
                Ok(number) if (2..=1_000).contains(&number) => Ok(Self::Thin(number)),
                _ => Err(format!("{text:?}: write thin:N with N from 2 to 1000")),
            },
            None if text == "block" => Ok(Self::Block),
            None if text == "drop-oldest" => Ok(Self::DropOldest),
            None if text == "drop-newest" => Ok(Self::DropNewest),
            _ => Err(format!(
                "{text:?} is unknown; use block, drop-oldest, drop-newest or thin:N"
            )),
        }
    }
}

/// `08:00-18:00=500kbit/s`, `22:00-06:00=off`.
impl FromStr for BandwidthWindow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || format!("{text:?} is not of the form 08:00-18:00=500kbit/s");
        let (times, cap) = text.trim().split_once('=').ok_or_else(invalid)?;
        let (from, to) = times.split_once('-').ok_or_else(invalid)?;
        let minute = |time: &str| {
            let (hours, minutes) = time.trim().split_once(':')?;
            let hours: u16 = hours.parse().ok().filter(|hours| *hours <= 24)?;
            let minutes: u16 = minutes.parse().ok().filter(|minutes| *minutes < 60)?;
            Some(hours * 60 + minutes).filter(|minute| *minute <= 1_440)
        };
        let (Some(from), Some(to)) = (minute(from), minute(to)) else {
            return Err(invalid());
        };
        if from == to {
            return Err(format!("{text:?} covers no time"));
        }
        let cap = match cap.trim() {
            "off" => None,
            cap => Some(cap.parse()?),
        };
        Ok(Self {
            from: from % 1_440,
            to,
            cap,
        })
    }
}
