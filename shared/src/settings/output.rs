//! Settings as text: for `--print-config`, for `.env.example`, for the end of the help.

use std::fmt::Write;

use super::secrets::{HIDDEN, mask_passwords};
use super::table::{CONFIG, Kind, Program, Setting};
use super::values::{Changed, Values};

/// Examples, where settings come from, and the exit codes.
pub(super) fn after_help(program: &Program) -> String {
    let prefix = program.prefix;
    let others = match program.settings().any(|setting| setting.standard) {
        true => ",\n    and those of OpenTelemetry as they are",
        false => "",
    };
    let mut text = format!(
        "Examples:\n{examples}\n\n\
         Where settings come from, the strongest first:\n\
         \x20 flags\n\
         \x20 environment variables: {prefix}_ and the flag in capitals, so --log is {prefix}_LOG{others}\n\
         \x20 the file .env of the working directory, with the same variables\n\
         \x20 the TOML file that --config names, with the flags as keys\n\
         \x20 the defaults\n\
         A list comes from one of them as a whole. An empty variable counts as not set.\n\
         Sizes are 64KiB, 1MB or 4096; durations 500ms, 1s, 1m30s or 2h.\n\
         At SIGHUP all are read again. What --help marks is taken over, the rest is named in the log.\n\n\
         Exit codes:\n",
        examples = program.examples.trim_matches('\n'),
    );
    for (code, meaning) in program.exit_codes {
        let _ = writeln!(text, "  {code:>3}  {meaning}");
    }
    let mut secrets = program
        .settings()
        .filter(|setting| setting.secret)
        .peekable();
    if secrets.peek().is_some() {
        text.push_str("\nSecrets, which have a variable and no flag:\n");
    }
    for setting in secrets {
        let _ = writeln!(text, "  {}  {}", setting.variable(program), setting.help);
    }
    text.truncate(text.trim_end().len());
    text
}

/// All variables of a program with their defaults, for `.env.example`.
pub fn env_example(program: &Program) -> String {
    let mut text = format!(
        "# {name}: {about}\n\
         #\n\
         # Copy to .env and change what you need; flags and the real environment are stronger.\n\
         # Put a value with spaces, quotes or $ into 'single quotes'. Empty means not set.\n\
         # More on each setting: {name} --help\n",
        name = program.name,
        about = program.about,
    );
    for (heading, settings) in program.all_groups() {
        let _ = writeln!(text, "\n## {heading}");
        for setting in settings {
            let variable = setting.variable(program);
            let form = match setting.kind {
                Kind::List => format!("{}, ...", setting.value_name),
                Kind::Value | Kind::Flag => setting.value_name.to_owned(),
            };
            let _ = writeln!(text, "# {} ({form})", setting.help);
            let default = setting.default.map(quoted_for_env);
            let _ = match default {
                // It stands here for each program that has it, and what is said last counts.
                Some(default) if setting.standard => writeln!(text, "# {variable}={default}"),
                Some(default) => writeln!(text, "{variable}={default}"),
                None => writeln!(text, "# {variable}="),
            };
        }
    }
    text
}

fn quoted_for_env(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/%+@".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{text}'")
    }
}

/// The settings in force as TOML, each with its origin.
pub(super) fn config(values: &Values) -> String {
    let program = values.program();
    let mut text = format!("# Settings of {} {}\n", program.name, program.version);
    for warning in values.warnings() {
        let _ = writeln!(text, "# Warning: {warning}");
    }
    for (heading, settings) in program.all_groups() {
        if settings.iter().all(|setting| setting.key == CONFIG) {
            continue;
        }
        let _ = writeln!(text, "\n# {heading}");
        for setting in settings {
            let _ = match values.in_force(setting) {
                Some((texts, origin)) => {
                    let (value, hidden) = toml_value(setting, texts.as_slice());
                    let hidden = if hidden { "; password hidden" } else { "" };
                    writeln!(text, "{} = {value} # {origin}{hidden}", setting.key)
                }
                None => writeln!(text, "# {} is not set", setting.key),
            };
        }
    }
    text
}

/// The setting as it may be shown, if it is not as it is by default.
pub(super) fn changed(values: &Values, setting: &'static Setting) -> Option<Changed> {
    let (texts, origin) = values.in_force(setting)?;
    let default = setting.default.map(|default| match setting.kind {
        Kind::List => super::values::split_list(default),
        Kind::Value | Kind::Flag => vec![default.to_owned()],
    });
    let same = origin.is_default() || default.is_some_and(|default| default == texts);
    (!same).then(|| Changed {
        key: setting.key,
        value: toml_value(setting, &texts).0,
        origin: origin.to_string(),
    })
}

/// The value in TOML, and whether a part of it is hidden.
pub(super) fn toml_value(setting: &Setting, texts: &[String]) -> (String, bool) {
    let shown: Vec<String> = texts
        .iter()
        .map(|text| {
            if setting.secret {
                HIDDEN.to_owned()
            } else {
                mask_passwords(text)
            }
        })
        .collect();
    let hidden = shown != texts;
    let value = match (setting.kind, shown.as_slice()) {
        (Kind::List, items) => {
            let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
            format!("[{}]", items.join(", "))
        }
        (Kind::Flag, [text]) if text == "true" || text == "false" => text.clone(),
        (Kind::Value, [text]) if text.parse::<i64>().is_ok_and(|n| n.to_string() == *text) => {
            text.clone()
        }
        (_, items) => quoted(&items.join(",")),
    };
    (value, hidden)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
