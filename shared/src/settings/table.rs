//! What can be set.

/// How a setting is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value.
    Value,
    /// On or off.
    Flag,
    /// Any number of values: comma separated, or the flag several times.
    List,
}

/// One setting of a program.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name: the flag without `--`, the key in a file, the variable after the prefix.
    pub key: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// What its value is called in the help.
    pub value_name: &'static str,
    /// Its value when nothing sets it.
    pub default: Option<&'static str>,
    /// One line of help.
    pub help: &'static str,
    /// More help, or nothing.
    pub long_help: &'static str,
    /// Whether its value is never shown, nor taken from the command line.
    pub secret: bool,
    /// Whether its variable is one that many programs have, and begins with no prefix.
    pub standard: bool,
    /// Whether a daemon that runs takes a new value at SIGHUP.
    pub reloadable: bool,
}

impl Setting {
    /// A setting with one value.
    pub const fn value(key: &'static str, value_name: &'static str, help: &'static str) -> Self {
        let (default, long_help) = (None, "");
        Self {
            key,
            kind: Kind::Value,
            value_name,
            default,
            help,
            long_help,
            secret: false,
            standard: false,
            reloadable: false,
        }
    }

    /// A setting that is on or off; off when nothing sets it.
    pub const fn flag(key: &'static str, help: &'static str) -> Self {
        let flag = Self::value(key, "true|false", help);
        Self {
            kind: Kind::Flag,
            default: Some("false"),
            ..flag
        }
    }

    /// A setting with any number of values.
    pub const fn list(key: &'static str, value_name: &'static str, help: &'static str) -> Self {
        Self {
            kind: Kind::List,
            ..Self::value(key, value_name, help)
        }
    }

    /// With this default.
    pub const fn default(self, default: &'static str) -> Self {
        Self {
            default: Some(default),
            ..self
        }
    }

    /// With more help.
    pub const fn long(self, long_help: &'static str) -> Self {
        Self { long_help, ..self }
    }

    /// With a value that is never shown, and never taken from the command line, where everybody on the
    /// machine could read it.
    pub const fn secret(self) -> Self {
        Self {
            secret: true,
            ..self
        }
    }

    /// With a variable that other programs have, too: the key in capitals, without a prefix.
    pub const fn standard(self) -> Self {
        Self {
            standard: true,
            ..self
        }
    }

    /// A daemon that runs takes a new value at SIGHUP. Each program has a test that it really does.
    pub const fn reloadable(self) -> Self {
        Self {
            reloadable: true,
            ..self
        }
    }

    /// Name of its environment variable.
    pub fn variable(&self, program: &Program) -> String {
        let own = self.key.to_ascii_uppercase().replace('-', "_");
        match self.standard {
            true => own,
            false => format!("{}_{own}", program.prefix),
        }
    }
}

/// Settings that stand together in the help.
#[derive(Debug)]
pub struct Group {
    /// Their heading.
    pub heading: &'static str,
    /// The settings.
    pub settings: &'static [Setting],
}

/// A program with settings.
#[derive(Debug)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What its environment variables begin with, without the underscore.
    pub prefix: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Its settings.
    pub groups: &'static [Group],
    /// Examples for the end of the help.
    pub examples: &'static str,
    /// Its exit codes and what they mean.
    pub exit_codes: &'static [(u8, &'static str)],
}

/// The file with settings; every program has it.
pub(super) const CONFIG: &str = "config";

static FILE: [Setting; 1] = [
    Setting::value(CONFIG, "FILE", "Read settings from this TOML file")
        .long(
            "Keys are the names of the flags, written with - or _. Write one with --print-config.",
        )
        .reloadable(),
];

/// Heading of the settings that every program has.
pub(super) const OWN_HEADING: &str = "Settings";

impl Program {
    /// All groups, with the one that every program has at the end.
    pub fn all_groups(&self) -> impl Iterator<Item = (&'static str, &'static [Setting])> {
        let groups = self
            .groups
            .iter()
            .map(|group| (group.heading, group.settings));
        groups.chain([(OWN_HEADING, &FILE[..])])
    }

    /// All settings.
    pub fn settings(&self) -> impl Iterator<Item = &'static Setting> {
        self.all_groups().flat_map(|(_, settings)| settings)
    }

    /// The setting with this key.
    pub fn setting(&self, key: &str) -> Option<&'static Setting> {
        self.settings().find(|setting| setting.key == key)
    }

    /// The setting whose key is most like `text`, if any is like it.
    pub(super) fn nearest(&self, text: &str) -> Option<&'static Setting> {
        let text = text.to_ascii_lowercase().replace('_', "-");
        let scored = self
            .settings()
            .map(|s| (strsim::jaro_winkler(s.key, &text), s));
        let (score, setting) = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        // Below this, suggestions begin to look like jokes.
        (score > 0.8).then_some(setting)
    }
}
