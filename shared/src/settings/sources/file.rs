//! The settings file, in TOML.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::read_text;
use crate::settings::mistakes::{Mistake, Origin};
use crate::settings::table::{CONFIG, Kind, Setting};
use crate::settings::values::Values;

/// Adds what the file sets. `named_by` says who asked for the file.
pub(in crate::settings) fn add(path: &str, named_by: &Origin, values: &mut Values) {
    let text = match read_text(Path::new(path)) {
        Ok(text) => text,
        Err(error) => {
            let problem = format!("cannot be read: {error}; name a readable TOML file");
            return values.file_mistake(path, named_by, &problem);
        }
    };
    let line_at = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in &errors {
        let line = error.span().map_or(1, |span| line_at(span.start));
        let place = format!("{} line {line}", path.escape_debug());
        let problem = error.message().lines().collect::<Vec<_>>().join("; ");
        values.cannot_read(Mistake::at(place, format!("not proper TOML: {problem}")));
    }
    if !errors.is_empty() {
        // What could be recovered is a guess, and mistakes in a guess would only mislead.
        return;
    }
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    // In the order of the file, so that messages are too.
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let origin = Origin::File {
            path: path.to_owned(),
            line: line_at(key.span().start),
        };
        add_entry(key.get_ref(), value.get_ref(), origin, values);
    }
}

fn add_entry(key: &str, value: &DeValue<'_>, origin: Origin, values: &mut Values) {
    let place = format!("{} ({origin})", key.escape_debug());
    let program = values.program();
    let Some(setting) = program.setting(&key.replace('_', "-")) else {
        let advice = match program.nearest(key) {
            Some(setting) => format!("did you mean {}?", setting.key),
            None => format!("{} --print-config shows all of them", program.name),
        };
        return values.unknown(
            Mistake::at(place, format!("no such setting; {advice}")),
            key,
        );
    };
    if setting.key == CONFIG {
        let problem = "a settings file cannot name another one; remove this line";
        return values.cannot_read(Mistake::at(place, problem));
    }
    match texts(setting, value) {
        Ok(texts) => values.add(setting, texts, origin),
        Err(problem) => values.fail(setting.key, Mistake::at(place, problem)),
    }
}

/// The value as the texts that a flag would have.
fn texts(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let expected = || format!("takes {}, not {}", form(setting.kind), value.type_str());
    match (setting.kind, value) {
        (Kind::List, DeValue::Array(items)) => {
            let items = items.iter().map(|item| scalar(item.get_ref()));
            items
                .collect::<Option<_>>()
                .ok_or_else(|| "takes a list of texts".to_owned())
        }
        (Kind::List, DeValue::String(text)) => Ok(super::super::values::split_list(text)),
        (Kind::Flag, DeValue::Boolean(on)) => Ok(vec![on.to_string()]),
        (Kind::Flag, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Kind::Value, value) => scalar(value).map(|text| vec![text]).ok_or_else(expected),
        _ => Err(expected()),
    }
}

fn form(kind: Kind) -> &'static str {
    match kind {
        Kind::Value => "a text or a number",
        Kind::Flag => "true or false",
        Kind::List => "a list of texts",
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            let number = i128::from_str_radix(&digits, number.radix()).ok();
            // One beyond any range is still a number, and the range check says so.
            Some(number.map_or(digits, |number| number.to_string()))
        }
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}
