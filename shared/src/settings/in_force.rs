//! What is in force, to be compared with what the sources say later.

use std::collections::BTreeMap;
use std::fmt;

use super::output;
use super::table::Setting;
use super::values::Values;

/// What a reading of the settings came to, beside the configuration.
#[derive(Debug, Clone)]
pub struct Read {
    /// What looks odd, but is no mistake.
    pub warnings: Vec<String>,
    /// What every setting was found to be.
    pub in_force: InForce,
}

/// What every setting of a program is set to. Of the values only their digests are kept, so that no
/// secret stays in memory for this, and the form in which they may be shown.
#[derive(Debug, Clone)]
pub struct InForce(BTreeMap<&'static str, (&'static Setting, Text)>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Text {
    digest: [u8; 32],
    /// `None` when it is not set.
    shown: Option<String>,
}

/// A setting that is another than before.
#[derive(Debug, Clone)]
pub struct Change {
    /// The setting.
    pub setting: &'static Setting,
    now: Text,
}

impl InForce {
    pub(super) fn of(values: &Values) -> Self {
        let settings = values.program().settings();
        let texts = settings.map(|setting| (setting.key, (setting, Text::of(values, setting))));
        Self(texts.collect())
    }

    /// What is another in `now`, in the order of the keys.
    pub fn changes(&self, now: &Self) -> Vec<Change> {
        let changed = now.0.iter().filter(|(key, (_, text))| {
            let before = self.0.get(*key);
            before.is_none_or(|(_, before)| before.digest != text.digest)
        });
        changed
            .map(|(_, (setting, text))| Change {
                setting,
                now: text.clone(),
            })
            .collect()
    }

    /// This change is in force now.
    pub fn put(&mut self, change: &Change) {
        let Change { setting, now } = change;
        self.0.insert(setting.key, (setting, now.clone()));
    }
}

impl Text {
    fn of(values: &Values, setting: &'static Setting) -> Self {
        let Some((texts, _)) = values.in_force(setting) else {
            return Self {
                digest: [0; 32],
                shown: None,
            };
        };
        let mut hasher = blake3::Hasher::new();
        for text in &texts {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        Self {
            digest: hasher.finalize().into(),
            shown: Some(output::toml_value(setting, &texts).0),
        }
    }
}

/// `log = "debug"`, without anything secret.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.setting.key;
        match &self.now.shown {
            None => write!(f, "{key} is not set any more"),
            // The query of a camera's address often has its password.
            Some(shown)
                if self.setting.secret || (shown.contains("://") && shown.contains('?')) =>
            {
                write!(f, "{key} changed")
            }
            Some(shown) => write!(f, "{key} = {shown}"),
        }
    }
}
