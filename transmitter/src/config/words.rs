//! Policies as they are written in settings.

use std::path::PathBuf;
use std::str::FromStr;

use shared::settings::units::word;

use super::{AfterDelivery, GrpcCall, PatternFormat, Schedule, When};

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
