//! What is wrong with a station, and how to put it right, before it hurts.
//!
//! Each group gathers facts (what the system, the disk or the network says) and judges them. Judging
//! touches nothing, so that tests can make up the facts.

mod certificates;
mod clock;
mod disk;
mod holder;
mod limits;
mod listeners;
mod outbox;
mod plan;
mod reach;
mod settings;
mod source;
mod space;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
mod text;

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

pub(crate) use plan::{Kind, Options, PATIENCE, Subject, examine, patiently};
pub(crate) use settings::{Read, read};
pub(crate) use text::text;

/// What findings are about, in the order in which they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    /// Settings in force, and what is to be warned of in them
    Settings,
    /// Ports that are listened on
    Listeners,
    /// Names, connections, encryption, who is let in
    Reachability,
    /// This clock, and its offset from the other station's
    Clock,
    /// Certificates, keys and tokens in files
    Certificates,
    /// Free space, and the file system
    Space,
    /// How long this disk takes to keep something
    Disk,
    /// What the system allows this station
    Limits,
    /// What is owed
    Outbox,
    /// Where images come from
    Source,
}

impl Group {
    /// Its heading, which is the word on the command line.
    pub(crate) fn key(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// How bad it is, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Could be better, or could not be looked at.
    Note,
    /// Works, and will hurt some day.
    Warning,
    /// Does not work.
    Problem,
}

impl Level {
    /// The word for it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) group: Group,
    /// A word for programs.
    pub(crate) check: &'static str,
    /// How bad it is.
    pub(crate) level: Level,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it; nothing where all is well.
    pub(crate) fix: Option<String>,
    /// The figures in it, for programs; sizes in bytes, times in the unit of the name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) figures: BTreeMap<&'static str, Value>,
}

impl Finding {
    /// All is well.
    pub(crate) fn ok(group: Group, check: &'static str, found: impl Into<String>) -> Self {
        Self {
            group,
            check,
            level: Level::Ok,
            found: found.into(),
            fix: None,
            figures: BTreeMap::new(),
        }
    }

    /// Something is not as it could or should be.
    pub(crate) fn bad(
        level: Level,
        (group, check): (Group, &'static str),
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            level,
            fix: Some(fix.into()),
            ..Self::ok(group, check, found)
        }
    }

    /// With this figure.
    pub(crate) fn with(mut self, name: &'static str, figure: impl Into<Value>) -> Self {
        self.figures.insert(name, figure.into());
        self
    }
}

/// What a message of this project says, and what it says to do, which stands behind its first
/// semicolon.
pub(crate) fn advice<'a>(words: &'a str, otherwise: &'a str) -> (&'a str, &'a str) {
    words.split_once("; ").unwrap_or((words, otherwise))
}
