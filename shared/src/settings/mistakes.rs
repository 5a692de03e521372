//! What is wrong with the settings, where it stands, and how to put it right.

use std::fmt;

use super::secrets::{HIDDEN, mask_passwords, mask_url};
use super::table::{Kind, Program, Setting};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    CommandLine,
    Environment,
    DotEnv {
        path: String,
        line: usize,
    },
    File {
        path: String,
        line: usize,
    },
    /// Found by the program itself, and how.
    Default(&'static str),
}

impl Origin {
    /// 0 for the strongest.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::CommandLine => 0,
            Self::Environment => 1,
            Self::DotEnv { .. } => 2,
            Self::File { .. } => 3,
            Self::Default(_) => 4,
        }
    }

    /// Whether no source says anything.
    pub(super) fn is_default(&self) -> bool {
        matches!(self, Self::Default(_))
    }

    /// How a setting is written at this place.
    pub(super) fn spelling(&self, setting: &Setting, program: &Program) -> String {
        match self {
            Self::CommandLine => format!("--{}", setting.key),
            Self::Environment | Self::DotEnv { .. } => setting.variable(program),
            Self::File { .. } | Self::Default(_) => setting.key.to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Environment => f.write_str("environment"),
            Self::DotEnv { path, line } | Self::File { path, line } => {
                write!(f, "{} line {line}", path.escape_debug())
            }
            Self::Default("") => f.write_str("default"),
            Self::Default(how) => write!(f, "default: {how}"),
        }
    }
}

/// One mistake: where it stands, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    place: String,
    problem: String,
}

impl Mistake {
    pub(super) fn general(problem: impl Into<String>) -> Self {
        Self {
            place: String::new(),
            problem: problem.into(),
        }
    }

    pub(super) fn at(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
        }
    }

    /// About the value `texts` of a setting.
    pub(super) fn of_value(
        program: &Program,
        setting: &Setting,
        texts: &[String],
        origin: &Origin,
        problem: &str,
    ) -> Self {
        let name = origin.spelling(setting, program);
        let value = shown(setting, &texts.join(","));
        let sign = match origin {
            Origin::CommandLine if setting.kind == Kind::Flag => "=",
            Origin::CommandLine => " ",
            Origin::Environment | Origin::DotEnv { .. } => "=",
            Origin::File { .. } | Origin::Default(_) => " = ",
        };
        let mut problem = mask_passwords(problem);
        if setting.secret {
            for text in texts.iter().filter(|text| !text.is_empty()) {
                problem = problem.replace(text.as_str(), HIDDEN);
            }
        }
        Self::at(format!("{name}{sign}{value} ({origin})"), problem)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.problem)
    }
}

/// A value as it may be shown on a terminal: no secrets, no control characters, not endless.
fn shown(setting: &Setting, text: &str) -> String {
    if setting.secret {
        return HIDDEN.to_owned();
    }
    let is_url = setting.value_name.contains("URL");
    let masked = if is_url {
        mask_url(text)
    } else {
        mask_passwords(text)
    };
    let mut short: String = masked.chars().take(120).collect();
    if short.len() < masked.len() {
        short.push_str("...");
    }
    let plain = !short.is_empty() && !short.contains(|c: char| c.is_whitespace() || c.is_control());
    if plain { short } else { format!("{short:?}") }
}

/// Everything that is wrong with the settings of a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct CliError {
    pub(super) program: &'static str,
    pub(super) mistakes: Vec<Mistake>,
}

impl CliError {
    /// Exit code for wrong usage.
    pub const EXIT_CODE: u8 = 2;

    /// The mistakes, one line each.
    pub fn mistakes(&self) -> impl Iterator<Item = String> {
        self.mistakes.iter().map(ToString::to_string)
    }

    fn text(&self) -> String {
        let program = self.program;
        let mut text = match self.mistakes.len() {
            1 => format!("{program}: a mistake in the settings\n"),
            count => format!("{program}: {count} mistakes in the settings\n"),
        };
        for mistake in &self.mistakes {
            text.push_str(&format!("  {mistake}\n"));
        }
        text.push_str(&format!("all settings and examples: {program} --help"));
        text
    }
}
