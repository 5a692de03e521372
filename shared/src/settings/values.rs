//! The values that the sources gave, and everything that is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::in_force::{InForce, Read};
use super::mistakes::{CliError, Mistake, Origin};
use super::output;
use super::secrets::is_masked;
use super::table::{CONFIG, Kind, Program, Setting};

/// What the sources say about a program's settings. The strongest source of each setting counts.
///
/// The readers below never fail: a value that cannot be read is noted as a mistake and the default
/// takes its place, so that one pass finds all mistakes. [`Values::finish`] tells.
#[derive(Debug)]
pub struct Values {
    program: &'static Program,
    found: BTreeMap<&'static str, Found>,
    mistakes: Vec<Mistake>,
    /// Settings that somebody tried to set and whose value is not known.
    failed: BTreeSet<&'static str>,
    /// A source could not be read as a whole, so that what is missing may be meant.
    incomplete: bool,
    warnings: Vec<String>,
    print: bool,
}

#[derive(Debug, Clone)]
struct Found {
    texts: Vec<String>,
    origin: Origin,
}

/// A setting that is not as it is by default, fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its name.
    pub key: &'static str,
    /// Its value in TOML.
    pub value: String,
    /// Where that comes from.
    pub origin: String,
}

/// The items of a comma-separated list.
pub(super) fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(|item| item.trim().to_owned()).collect()
}

/// Filling.
impl Values {
    pub(super) fn new(program: &'static Program) -> Self {
        Self {
            program,
            found: BTreeMap::new(),
            mistakes: Vec::new(),
            failed: BTreeSet::new(),
            incomplete: false,
            warnings: Vec::new(),
            print: false,
        }
    }

    pub(super) fn program(&self) -> &'static Program {
        self.program
    }

    pub(super) fn ask_to_print(&mut self) {
        self.print = true;
    }

    pub(super) fn note(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    /// Notes a mistake that hides what a source says about one setting.
    pub(super) fn fail(&mut self, key: &'static str, mistake: Mistake) {
        self.failed.insert(key);
        self.note(mistake);
    }

    /// Notes a mistake that hides what a source says.
    pub(super) fn cannot_read(&mut self, mistake: Mistake) {
        self.incomplete = true;
        self.note(mistake);
    }

    /// Notes a name that is no setting; what it is like may have been meant.
    pub(super) fn unknown(&mut self, mistake: Mistake, name: &str) {
        match self.program.nearest(name) {
            Some(setting) => self.fail(setting.key, mistake),
            None => self.note(mistake),
        }
    }

    pub(super) fn add_command_line(&mut self, given: Vec<(&'static Setting, Vec<OsString>)>) {
        for (setting, texts) in given {
            let place = format!("--{} (command line)", setting.key);
            if setting.kind != Kind::List && texts.len() > 1 {
                let problem = format!("given {} times; give it once", texts.len());
                self.fail(setting.key, Mistake::at(place, problem));
                continue;
            }
            let texts: Result<Vec<String>, _> =
                texts.into_iter().map(OsString::into_string).collect();
            match texts {
                Ok(texts) if setting.kind == Kind::List => {
                    let items = texts.iter().flat_map(|text| split_list(text)).collect();
                    self.add(setting, items, Origin::CommandLine);
                }
                Ok(texts) => self.add(setting, texts, Origin::CommandLine),
                Err(_) => self.fail(setting.key, Mistake::at(place, "is not valid UTF-8")),
            }
        }
    }

    pub(super) fn add_environment(&mut self, variables: Vec<(String, Result<String, ()>)>) {
        for (name, value) in variables {
            self.add_variable(&name, value, Origin::Environment);
        }
    }

    /// Adds a variable if it is one of this program's.
    pub(super) fn add_variable(&mut self, name: &str, value: Result<String, ()>, origin: Origin) {
        let own = name.strip_prefix(self.program.prefix);
        let own = own.and_then(|rest| rest.strip_prefix('_'));
        let key = own.unwrap_or(name).to_ascii_lowercase().replace('_', "-");
        let setting = self.program.setting(&key);
        let setting = setting.filter(|setting| setting.variable(self.program) == name);
        if setting.is_none() && own.is_none() {
            // Another program's.
            return;
        }
        let Some(setting) = setting else {
            let advice = match self.program.nearest(&key) {
                Some(near) => format!("; did you mean {}?", near.variable(self.program)),
                None => String::new(),
            };
            let name = name.escape_debug();
            self.warnings
                .push(format!("{name} ({origin}) is no setting{advice}"));
            return;
        };
        match value {
            // Compose passes variables that are not set as empty ones.
            Ok(value) if value.trim().is_empty() => {}
            Ok(value) if setting.kind == Kind::List => {
                self.add(setting, split_list(&value), origin);
            }
            Ok(value) => self.add(setting, vec![value], origin),
            Err(()) => {
                let place = format!("{name} ({origin})");
                self.fail(setting.key, Mistake::at(place, "is not valid UTF-8"));
            }
        }
    }

    /// Adds a value; one from a stronger source stays.
    pub(super) fn add(&mut self, setting: &'static Setting, texts: Vec<String>, origin: Origin) {
        let new = Found { texts, origin };
        match self.found.get(setting.key) {
            Some(old) if old.origin.rank() < new.origin.rank() => return,
            Some(Found {
                origin: Origin::File { line, .. },
                ..
            }) => {
                let problem = format!("is already set in line {line}; remove one of them");
                return self.wrong(setting, &new, &problem);
            }
            _ => {}
        }
        // A flag that failed further up wins over what is found further down.
        if self.failed.contains(setting.key) {
            return;
        }
        if new.texts.iter().any(String::is_empty) {
            return self.wrong(setting, &new, "empty; give a value or leave it out");
        }
        if new.texts.iter().any(|text| is_masked(text)) {
            let problem = "the password was hidden by --print-config; put in the real one";
            return self.wrong(setting, &new, problem);
        }
        self.found.insert(setting.key, new);
    }

    pub(super) fn config_file(&self) -> Option<(String, Origin)> {
        let found = self.found.get(CONFIG)?;
        Some((found.texts.first()?.clone(), found.origin.clone()))
    }

    pub(super) fn file_mistake(&mut self, path: &str, named_by: &Origin, problem: &str) {
        self.incomplete = true;
        if let Some(setting) = self.program.setting(CONFIG) {
            let found = Found {
                texts: vec![path.to_owned()],
                origin: named_by.clone(),
            };
            self.wrong(setting, &found, problem);
        }
    }

    fn wrong(&mut self, setting: &'static Setting, found: &Found, problem: &str) {
        let Found { texts, origin } = found;
        let mistake = Mistake::of_value(self.program, setting, texts, origin, problem);
        self.fail(setting.key, mistake);
    }
}

/// Reading.
impl Values {
    /// The value of a setting that has a default.
    ///
    /// # Panics
    /// When the table of the program has no such setting, or an unreadable default for it.
    pub fn required<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        if let Some(value) = self.optional(key, &parse) {
            return value;
        }
        let default = self
            .table_entry(key)
            .default
            .expect("required settings have a default");
        parse(default).expect("defaults in the table can be read")
    }

    /// The value of a setting, if it is set or has a default.
    ///
    /// # Panics
    /// When the table of the program has no such setting.
    pub fn optional<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let setting = self.table_entry(key);
        let text = match self.found.get(setting.key) {
            Some(found) => found.texts.join(","),
            None => setting.default?.to_owned(),
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.mistake(key, &problem);
                None
            }
        }
    }

    /// The values of a list.
    ///
    /// # Panics
    /// When the table of the program has no such setting.
    pub fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let setting = self.table_entry(key);
        let texts = match (self.found.get(setting.key), setting.default) {
            (Some(found), _) => found.texts.clone(),
            (None, Some(default)) => split_list(default),
            (None, None) => Vec::new(),
        };
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            match parse(&text) {
                Ok(value) => values.push(value),
                Err(problem) => self.mistake(key, &problem),
            }
        }
        values
    }

    /// Whether a flag is on.
    ///
    /// # Panics
    /// When the table of the program has no such setting.
    pub fn flag(&mut self, key: &str) -> bool {
        self.required(key, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(format!("{text:?} is not a switch; use true or false")),
        })
    }

    /// Whether any source gives this setting a value.
    pub fn is_given(&self, key: &str) -> bool {
        self.found
            .get(key)
            .is_some_and(|found| !matches!(found.origin, Origin::Default(_)))
    }

    /// Whether the command line gives this setting a value.
    pub fn is_on_command_line(&self, key: &str) -> bool {
        self.found
            .get(key)
            .is_some_and(|found| found.origin == Origin::CommandLine)
    }

    /// Whether a value for this setting is known: not when somebody tried to set it and failed.
    /// Checks across settings leave out those whose value is not known.
    pub fn is_known(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.failed.contains(key))
    }

    /// Whether all sources could be read, so that what is missing is not just unreadable.
    pub fn is_complete(&self) -> bool {
        !self.incomplete
    }

    /// For settings that exclude one another: keeps those of the strongest source, forgets the
    /// others, and tells which are left. Thus `--folder` replaces a `FILE` of the environment.
    pub fn keep_strongest(&mut self, keys: &[&'static str]) -> Vec<&'static str> {
        let rank = |values: &Self, key| values.found.get(key).map(|found| found.origin.rank());
        let strongest = keys.iter().filter_map(|key| rank(self, key)).min();
        let (kept, weaker): (Vec<&'static str>, Vec<_>) = keys
            .iter()
            .filter(|key| self.is_given(key))
            .partition(|key| rank(self, key) == strongest);
        for key in weaker {
            self.found.remove(key);
        }
        kept
    }

    /// Sets what the program found by itself, where no source says anything. `how` is for
    /// `--print-config`.
    ///
    /// # Panics
    /// When the table of the program has no such setting.
    pub fn derive(&mut self, key: &str, texts: Vec<String>, how: &'static str) {
        let setting = self.table_entry(key);
        let derived = Found {
            texts,
            origin: Origin::Default(how),
        };
        self.found.entry(setting.key).or_insert(derived);
    }

    /// Notes that the value of a setting is wrong, and what to do about it.
    ///
    /// # Panics
    /// When the table of the program has no such setting.
    pub fn mistake(&mut self, key: &str, problem: &str) {
        let setting = self.table_entry(key);
        let default = || setting.default.map(str::to_owned).into_iter().collect();
        let found = self.found.get(setting.key).cloned();
        let found = found.unwrap_or_else(|| Found {
            texts: default(),
            origin: Origin::Default(""),
        });
        self.wrong(setting, &found, problem);
    }

    /// Notes a mistake that belongs to no single setting.
    pub fn general_mistake(&mut self, problem: &str) {
        self.note(Mistake::general(problem));
    }

    /// What looks odd, but is no mistake.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What this reading came to, once the configuration was made of it.
    pub fn told(&self) -> Read {
        Read {
            warnings: self.warnings.clone(),
            in_force: InForce::of(self),
        }
    }

    /// The settings in force as TOML with their origins, when `--print-config` asks for them.
    pub fn printed(&self) -> Option<String> {
        self.print.then(|| output::config(self))
    }

    /// What the sources set to something else than the default, secrets hidden: for those who explain
    /// settings.
    pub fn changed(&self) -> Vec<Changed> {
        let settings = self.program.settings();
        settings
            .filter_map(|setting| output::changed(self, setting))
            .collect()
    }

    /// Tells whether everything is right.
    ///
    /// # Errors
    /// All mistakes, when there are any.
    pub fn finish(&self) -> Result<(), CliError> {
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(self.error())
        }
    }

    pub(super) fn error(&self) -> CliError {
        CliError {
            program: self.program.name,
            mistakes: self.mistakes.clone(),
        }
    }

    /// The texts of a setting and their origin, `None` when it is not set.
    pub(super) fn in_force(&self, setting: &'static Setting) -> Option<(Vec<String>, Origin)> {
        if let Some(found) = self.found.get(setting.key) {
            return Some((found.texts.clone(), found.origin.clone()));
        }
        let default = setting.default?;
        let texts = match setting.kind {
            Kind::List => split_list(default),
            Kind::Value | Kind::Flag => vec![default.to_owned()],
        };
        Some((texts, Origin::Default("")))
    }

    fn table_entry(&self, key: &str) -> &'static Setting {
        self.program
            .setting(key)
            .expect("settings are read by the keys of their table")
    }
}
